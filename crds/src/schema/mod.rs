//! The CustomResourceDefinitions, generated from the types and made what an API server likes, and their use without one.

mod check;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::{Bucket, BucketFork, BucketSnapshot};

pub use check::check_object;

/// Form of the name of an object: a DNS-1123 subdomain.
pub const NAME_PATTERN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// The same for people.
pub const NAME_ALLOWED: &str = "lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit, at most 63 characters";

/// Schema of a field that names another object.
pub(crate) fn object_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": NAME_PATTERN, "minLength": 1, "maxLength": 63 })
}

/// The definitions of all the kinds, in the order of [`crate::names::KINDS`].
///
/// # Errors
/// Only when the generated schema is not what JSON can hold, which the tests exclude.
pub fn definitions() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    [Bucket::crd(), BucketSnapshot::crd(), BucketFork::crd()]
        .into_iter()
        .map(tidy)
        .collect()
}

/// What kube and schemars generate, without what an API server would warn of or read otherwise than meant:
/// - `nullable`, because with it a `null` counts as present in CEL's `has()`; without it the API server drops the `null`;
/// - integer formats that Kubernetes does not know, which become those it knows with the bounds that they meant;
/// - line breaks of our sources in descriptions;
/// - rules in the status, which repeats parts of the spec and is not written by people;
///
/// and with a default for `status.observedGeneration` that no generation has: an object that nobody has looked at yet has no
/// conditions, which kstatus would read as finished.
fn tidy(crd: CustomResourceDefinition) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut value = serde_json::to_value(crd)?;
    tidy_value(&mut value);
    for version in value["spec"]["versions"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        let status = &mut version["schema"]["openAPIV3Schema"]["properties"]["status"];
        drop_rules(status);
        status["default"] = serde_json::json!({});
        status["properties"]["observedGeneration"]["default"] = (-1).into();
    }
    serde_json::from_value(value)
}

fn tidy_value(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("nullable") == Some(&Value::Bool(true)) {
                map.remove("nullable");
            }
            let format = match map.get("format").and_then(Value::as_str) {
                Some("uint32") => Some("int64"),
                Some("uint64") => Some("int64"),
                _ => None,
            };
            if let Some(format) = format {
                // What the type cannot hold is not let in: whoever reads the object could not. Of 64 bits the format says it.
                if map.get("format") == Some(&"uint32".into()) {
                    map.entry("maximum").or_insert_with(|| u32::MAX.into());
                }
                map.insert("format".to_owned(), format.into());
            }
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.replace('\n', " ");
            }
            map.values_mut().for_each(tidy_value);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy_value),
        _ => {}
    }
}

fn drop_rules(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("x-kubernetes-validations");
            map.values_mut().for_each(drop_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_rules),
        _ => {}
    }
}

/// The schemas of the kinds as JSON, by kind, generated once.
static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let schema = |crd: &CustomResourceDefinition| {
        let version = crd.spec.versions.first()?;
        serde_json::to_value(version.schema.as_ref()?.open_api_v3_schema.as_ref()?).ok()
    };
    let definitions = definitions().unwrap_or_default();
    definitions
        .iter()
        .filter_map(|crd| Some((crd.spec.names.kind.clone(), schema(crd)?)))
        .collect()
});

/// The OpenAPI schema of a kind, as it stands in its definition.
pub fn of_kind(kind: &str) -> Option<&'static Value> {
    SCHEMAS.get(kind)
}
