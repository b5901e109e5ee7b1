//! Holds values to structural schemas, as an API server does.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::{NAME_ALLOWED, NAME_PATTERN, SCHEMAS, of_kind};
use crate::validate::FieldError;
use crate::{duration, names, quantity, time};

/// The patterns of the schemas, compiled once.
static PATTERNS: LazyLock<BTreeMap<String, Regex>> = LazyLock::new(|| {
    fn collect(schema: &Value, patterns: &mut BTreeMap<String, Regex>) {
        match schema {
            Value::Object(map) => {
                if let Some(pattern) = map.get("pattern").and_then(Value::as_str)
                    && let Ok(regex) = Regex::new(pattern)
                {
                    patterns.insert(pattern.to_owned(), regex);
                }
                map.values().for_each(|schema| collect(schema, patterns));
            }
            Value::Array(items) => items.iter().for_each(|schema| collect(schema, patterns)),
            _ => {}
        }
    }
    let mut patterns = BTreeMap::new();
    SCHEMAS
        .values()
        .for_each(|schema| collect(schema, &mut patterns));
    if let Ok(regex) = Regex::new(NAME_PATTERN) {
        patterns.insert(NAME_PATTERN.to_owned(), regex);
    }
    patterns
});

/// Fields of `metadata` that an API server knows.
const METADATA: [&str; 14] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "uid",
];

/// Holds an object to the schema of its kind, as an API server does with strict field validation: unknown fields, missing
/// fields, types, ranges, patterns. The status is not looked at, as an API server does when an object is created.
/// A `null` counts as absent.
pub fn check_object(kind: &str, object: &Value, errors: &mut Vec<FieldError>) {
    let Some(schema) = of_kind(kind) else {
        errors.push(FieldError::new(
            "kind",
            format!("kind {kind} is unknown"),
            names::KINDS.join(", "),
        ));
        return;
    };
    let Some(object) = object.as_object() else {
        errors.push(FieldError::new(
            "",
            "the document is not a mapping",
            "apiVersion, kind, metadata and spec",
        ));
        return;
    };
    for field in object.keys() {
        if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&field.as_str()) {
            errors.push(unknown(
                field,
                field,
                &["apiVersion", "kind", "metadata", "spec"],
            ));
        }
    }
    check_metadata(object.get("metadata"), errors);
    match object.get("spec") {
        None | Some(Value::Null) => errors.push(FieldError::new(
            "spec",
            "spec is missing",
            spec_fields(schema),
        )),
        Some(spec) => check(&schema["properties"]["spec"], spec, "spec", errors),
    }
}

fn spec_fields(schema: &Value) -> String {
    fields(&schema["properties"]["spec"]).join(", ")
}

fn check_metadata(metadata: Option<&Value>, errors: &mut Vec<FieldError>) {
    let allowed = "name, namespace, labels, annotations";
    let metadata = match metadata {
        Some(Value::Object(metadata)) => metadata,
        Some(Value::Null) | None => {
            errors.push(FieldError::new("metadata", "metadata is missing", allowed));
            return;
        }
        Some(other) => {
            errors.push(FieldError::new(
                "metadata",
                format!("a mapping is expected, not {}", describe(other)),
                allowed,
            ));
            return;
        }
    };
    for (field, value) in metadata {
        let path = format!("metadata.{field}");
        match field.as_str() {
            _ if value.is_null() => {}
            "name" | "namespace" => {
                let limit = if field == "namespace" { 63 } else { 253 };
                match value.as_str() {
                    Some(name) => {
                        // The limit of our kinds is a rule, and said there.
                        let form = PATTERNS
                            .get(NAME_PATTERN)
                            .is_some_and(|pattern| pattern.is_match(name));
                        if !form
                            || name.len() > limit
                            || (field == "namespace" && name.contains('.'))
                        {
                            errors.push(FieldError::new(
                                &path,
                                format!("{name:?} is not a {field}"),
                                NAME_ALLOWED,
                            ));
                        }
                    }
                    None => errors.push(wrong_type(&path, "string", value)),
                }
            }
            "generateName" => {
                errors.push(FieldError::new(
                    &path,
                    "names are not generated here",
                    "metadata.name",
                ));
            }
            "labels" | "annotations" => match value.as_object() {
                Some(map) => {
                    for (key, value) in map {
                        if !value.is_string() {
                            errors.push(wrong_type(&format!("{path}[{key}]"), "string", value));
                        }
                    }
                }
                None => errors.push(wrong_type(&path, "object", value)),
            },
            known if METADATA.contains(&known) => {}
            _ => errors.push(unknown(
                &path,
                field,
                &["name", "namespace", "labels", "annotations"],
            )),
        }
    }
    if metadata.get("name").is_none_or(Value::is_null) && !metadata.contains_key("generateName") {
        errors.push(FieldError::new(
            "metadata.name",
            "the name is missing",
            NAME_ALLOWED,
        ));
    }
}

/// Holds a value to a structural schema.
fn check(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if schema["x-kubernetes-int-or-string"] == true {
        if !(value.is_string() || value.is_i64() || value.is_u64()) {
            errors.push(wrong_type(path, "integer or string", value));
            return;
        }
    } else if let Some(type_) = schema["type"].as_str() {
        let holds = match type_ {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            _ => true,
        };
        if !holds {
            errors.push(match expected(schema) {
                Some(allowed) => FieldError {
                    allowed,
                    ..wrong_type(path, type_, value)
                },
                None => wrong_type(path, type_, value),
            });
            return;
        }
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<_> = allowed.iter().map(describe_value).collect();
        errors.push(FieldError::new(
            path,
            format!("{} is not one of them", describe_value(value)),
            allowed.join(", "),
        ));
        return;
    }
    match value {
        Value::Object(map) => check_fields(schema, map, path, errors),
        Value::Array(items) => {
            if let Some(max) = schema["maxItems"].as_u64()
                && items.len() as u64 > max
            {
                errors.push(FieldError::new(
                    path,
                    format!("{} items are too many", items.len()),
                    format!("at most {max}"),
                ));
            }
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), errors);
            }
        }
        Value::String(text) => check_text(schema, text, path, errors),
        Value::Number(number) => check_number(schema, number, path, errors),
        Value::Null | Value::Bool(_) => {}
    }
}

fn check_fields(
    schema: &Value,
    map: &serde_json::Map<String, Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let known = fields(schema);
    let others = &schema["additionalProperties"];
    for (field, value) in map {
        let path = format!("{path}.{field}");
        match schema["properties"].get(field) {
            Some(_) if value.is_null() => {}
            Some(schema) => check(schema, value, &path, errors),
            None if others.is_object() => check(others, value, &path, errors),
            None => errors.push(unknown(&path, field, &known)),
        }
    }
    for field in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if map.get(field).is_none_or(Value::is_null) {
            let schema = &schema["properties"][field];
            let allowed = expected(schema).unwrap_or_else(|| match fields(schema).as_slice() {
                [] => schema["type"].as_str().unwrap_or("a value").to_owned(),
                fields => format!("a mapping with {}", fields.join(", ")),
            });
            errors.push(FieldError::new(
                &format!("{path}.{field}"),
                format!("{field} is missing"),
                allowed,
            ));
        }
    }
}

fn check_text(schema: &Value, text: &str, path: &str, errors: &mut Vec<FieldError>) {
    let length = text.chars().count() as u64;
    if let Some(min) = schema["minLength"].as_u64()
        && length < min
    {
        let allowed = expected(schema).unwrap_or_else(|| format!("at least {min} characters"));
        errors.push(FieldError::new(path, "the text is empty", allowed));
        return;
    }
    if let Some(max) = schema["maxLength"].as_u64()
        && length > max
    {
        errors.push(FieldError::new(
            path,
            format!("{length} characters are too many"),
            format!("at most {max}"),
        ));
        return;
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let matches = PATTERNS
            .get(pattern)
            .is_some_and(|pattern| pattern.is_match(text));
        // The type's own reading knows best what is wrong; a date that no calendar has passes the pattern.
        let why = match pattern {
            quantity::PATTERN => text
                .parse::<quantity::Bytes>()
                .err()
                .map(|error| error.why.to_owned()),
            duration::PATTERN => text
                .parse::<duration::Duration>()
                .err()
                .map(|error| error.why.to_owned()),
            time::AT_PATTERN => text.parse::<time::At>().err().map(|error| error.why),
            _ => None,
        };
        if !matches || why.is_some() {
            let message = match why {
                Some(why) => format!("{text:?} cannot be read: {why}"),
                None => format!("{text:?} has another form"),
            };
            errors.push(FieldError::new(
                path,
                message,
                expected(schema).unwrap_or_else(|| pattern.to_owned()),
            ));
        }
    }
    if schema["format"] == "date-time" {
        let why = match text.parse::<jiff::Timestamp>() {
            Ok(_) if time::is_rfc3339(text) => None,
            Ok(_) => Some("the form is another".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(why) = why {
            let allowed = "an RFC 3339 time such as 2026-01-31T12:00:00Z";
            errors.push(FieldError::new(
                path,
                format!("{text:?} is not a time: {why}"),
                allowed,
            ));
        }
    }
}

fn check_number(
    schema: &Value,
    number: &serde_json::Number,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let integer = schema["type"] == "integer" || schema["x-kubernetes-int-or-string"] == true;
    let value = number.as_f64().unwrap_or(f64::NAN);
    let (min, max) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
    let beyond = integer && number.as_i64().is_none();
    if beyond || min.is_some_and(|min| value < min) || max.is_some_and(|max| value > max) {
        let allowed = match (min, max) {
            (Some(min), Some(max)) => format!("{min} to {max}"),
            (Some(min), None) => format!("at least {min}"),
            (None, Some(max)) => format!("at most {max}"),
            (None, None) => "a number of 64 bits".to_owned(),
        };
        errors.push(FieldError::new(
            path,
            format!("{number} is out of range"),
            allowed,
        ));
    }
}

/// The fields that a schema of a mapping knows.
fn fields(schema: &Value) -> Vec<&str> {
    schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect()
}

/// What people may write where a schema stands, when there is more to say than its type.
fn expected(schema: &Value) -> Option<String> {
    let text = match schema["pattern"].as_str() {
        Some(quantity::PATTERN) => quantity::ALLOWED,
        Some(duration::PATTERN) => duration::ALLOWED,
        Some(time::AT_PATTERN) => time::AT_ALLOWED,
        Some(NAME_PATTERN) => NAME_ALLOWED,
        _ if schema["format"] == "date-time" => "an RFC 3339 time such as 2026-01-31T12:00:00Z",
        _ => return None,
    };
    Some(text.to_owned())
}

fn unknown(path: &str, field: &str, known: &[&str]) -> FieldError {
    let near = known
        .iter()
        .map(|known| (distance(field, known), known))
        .min();
    let message = match near {
        Some((distance, known)) if distance <= 2 || known.eq_ignore_ascii_case(field) => {
            format!("the field {field} is unknown; is {known} meant?")
        }
        _ => format!("the field {field} is unknown"),
    };
    FieldError::new(path, message, known.join(", "))
}

/// Edits from one word to the other; words longer than 40 bytes count as far.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 40 || b.len() > 40 {
        return usize::MAX;
    }
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(!x.eq_ignore_ascii_case(y));
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn wrong_type(path: &str, type_: &str, value: &Value) -> FieldError {
    let (expected, allowed) = match type_ {
        "object" => ("a mapping", "field: value lines, indented below"),
        "array" => ("a list", "lines that begin with '- '"),
        "string" => (
            "a text",
            "a text; put it in quotes if it looks like a number, true, false or null",
        ),
        "boolean" => ("true or false", "true, false"),
        "integer" => ("a whole number", "a whole number without quotes"),
        "integer or string" => ("a whole number or a text", quantity::ALLOWED),
        _ => ("a number", "a number without quotes"),
    };
    FieldError::new(
        path,
        format!("{expected} is expected, not {}", describe(value)),
        allowed,
    )
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) => format!("{value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {}", describe_value(&Value::String(text.clone()))),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// A value in a message: texts in quotes and not longer than a line holds.
fn describe_value(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().count() > 60 => {
            format!("{:?}...", text.chars().take(60).collect::<String>())
        }
        other => other.to_string(),
    }
}
