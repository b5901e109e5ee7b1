//! The CustomResourceDefinitions, generated from the types and made what an API server likes.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::{Bucket, BucketFork, BucketSnapshot};

/// Form of the name of an object: a DNS-1123 subdomain.
pub const NAME_PATTERN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// The same for people.
pub const NAME_ALLOWED: &str =
    "lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit, at most 63 characters";

/// Schema of a field that names another object.
pub(crate) fn object_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": NAME_PATTERN, "minLength": 1, "maxLength": 63 })
}

/// The definitions of all the kinds, in the order of [`crate::names::KINDS`].
///
/// # Errors
/// Only when the generated schema is not what JSON can hold, which the tests exclude.
pub fn definitions() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    [Bucket::crd(), BucketSnapshot::crd(), BucketFork::crd()].into_iter().map(tidy).collect()
}

/// What kube and schemars generate, without what an API server would warn of or read otherwise than meant:
/// - `nullable`, because with it a `null` counts as present in CEL's `has()`; without it the API server drops the `null`;
/// - integer formats that Kubernetes does not know.
fn tidy(crd: CustomResourceDefinition) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut value = serde_json::to_value(crd)?;
    tidy_value(&mut value);
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
                map.insert("format".to_owned(), format.into());
            }
            map.values_mut().for_each(tidy_value);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy_value),
        _ => {}
    }
}
