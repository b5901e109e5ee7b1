//! Reads manifests: YAML (or JSON) texts of one or many documents, as people write them for kubectl.
//!
//! [`parse`] reads one text, [`load`] a set of files. Nothing stops at an error: each says document, line, field, what is
//! wrong and what is allowed, and every valid document goes on. Reading is as strict as `kubectl apply`: unknown fields,
//! wrong types and fields written twice are errors, and so is everything that [`crate::validate`] refuses.

mod yaml;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::object::{Kind, Object, ObjectKey};
use crate::validate::{FieldError, Validate};
use crate::{names, schema};

/// One document of a text: the object that it holds, or everything that is wrong with it.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its place among the documents of the text, from 1. Documents without content do not count.
    pub index: usize,
    /// The line on which it begins, from 1.
    pub line: usize,
    /// Which object it describes, as far as that can be read, also when the rest is wrong. `None` for a document that is
    /// not YAML or has no name: it may be any object.
    pub key: Option<ObjectKey>,
    /// The object, or what is wrong (at least one error).
    pub result: Result<Object, Vec<ManifestError>>,
}

/// What sort of thing is wrong with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorSort {
    /// It is not YAML, or not a mapping.
    Syntax,
    /// It is an object of another product (another API group or kind), which is not for us.
    Foreign,
    /// It is an object of ours with a wrong version, field or value.
    Field,
    /// Another document describes the same object, or a fork of the same name.
    Duplicate,
}

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// Its place among the documents of the text, from 1.
    pub document: usize,
    /// The line of the field, or the nearest to it, from 1.
    pub line: usize,
    /// The field: `spec.source.bucket`; empty for the document as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What is allowed.
    pub allowed: String,
    /// What sort of thing is wrong.
    pub sort: ErrorSort,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}, line {}: ", self.document, self.line)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if !self.allowed.is_empty() {
            write!(f, "; allowed: {}", self.allowed)?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestError {}

/// Reads all documents of a text. Never panics, whatever the text is; costs time and memory in proportion to it.
pub fn parse(text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    for chunk in yaml::split(text) {
        let index = documents.len() + 1;
        match yaml::read(&chunk) {
            Ok(None) => {}
            Ok(Some(node)) if matches!(node.kind, yaml::NodeKind::Scalar(Value::Null)) => {}
            Ok(Some(node)) => documents.push(read_document(index, &node)),
            Err(error) => documents.push(Document {
                index,
                line: chunk.line,
                key: None,
                result: Err(vec![ManifestError {
                    document: index,
                    line: error.line,
                    path: error.path,
                    message: error.message,
                    allowed: error.allowed.to_owned(),
                    sort: ErrorSort::Syntax,
                }]),
            }),
        }
    }
    documents
}

fn read_document(index: usize, node: &yaml::Node) -> Document {
    let value = node.value();
    let key = key_of(&value);
    let errors = |sort, errors: Vec<FieldError>| {
        errors
            .into_iter()
            .map(|error| ManifestError {
                document: index,
                line: node.line_of(&error.path),
                path: error.path,
                message: error.message,
                allowed: error.allowed,
                sort,
            })
            .collect()
    };
    let result = match kind_of(&value) {
        Ok(kind) => read_object(kind, value).map_err(|found| errors(ErrorSort::Field, found)),
        Err((sort, error)) => Err(errors(sort, vec![error])),
    };
    Document {
        index,
        line: node.line,
        key,
        result,
    }
}

fn key_of(value: &Value) -> Option<ObjectKey> {
    let kind = value["kind"].as_str()?.parse().ok()?;
    let name = value["metadata"]["name"]
        .as_str()
        .filter(|name| !name.is_empty())?;
    let namespace = value["metadata"]["namespace"]
        .as_str()
        .filter(|namespace| !namespace.is_empty());
    Some(ObjectKey::new(
        kind,
        namespace.unwrap_or(names::DEFAULT_NAMESPACE),
        name,
    ))
}

/// The kind of a document of ours.
fn kind_of(value: &Value) -> Result<Kind, (ErrorSort, FieldError)> {
    if !value.is_object() {
        let error = FieldError::new(
            "",
            "the document is not a mapping",
            "apiVersion, kind, metadata and spec",
        );
        return Err((ErrorSort::Syntax, error));
    }
    let text = |field: &str, allowed: &str| match &value[field] {
        Value::String(text) if !text.is_empty() => Ok(text.as_str()),
        Value::Null => Err((
            ErrorSort::Field,
            FieldError::new(field, format!("{field} is missing"), allowed),
        )),
        _ => Err((
            ErrorSort::Field,
            FieldError::new(field, format!("{field} is not a text"), allowed),
        )),
    };
    let kinds = names::KINDS.join(", ");
    let version = text("apiVersion", names::API_VERSION)?;
    let kind = text("kind", &kinds)?;
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let ours = kind.parse::<Kind>();
    if version == names::API_VERSION {
        return ours.map_err(|_| {
            let message = format!("the kind {kind} is unknown in {version}");
            (ErrorSort::Field, FieldError::new("kind", message, kinds))
        });
    }
    if group == names::GROUP || (ours.is_ok() && !group.contains('.')) {
        let message = format!("the version {version} is unknown");
        return Err((
            ErrorSort::Field,
            FieldError::new("apiVersion", message, names::API_VERSION),
        ));
    }
    let message = format!("{kind} of {version} is an object of another product");
    Err((
        ErrorSort::Foreign,
        FieldError::new(
            "kind",
            message,
            format!("{kinds} of {}", names::API_VERSION),
        ),
    ))
}

fn read_object(kind: Kind, mut value: Value) -> Result<Object, Vec<FieldError>> {
    let mut errors = Vec::new();
    schema::check_object(kind.as_str(), &value, &mut errors);
    if let Some(fields) = value.as_object_mut() {
        // The status is the controller's to write; in a manifest it is ignored, as by the API server.
        fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut)
            && metadata
                .get("namespace")
                .is_none_or(|namespace| namespace.is_null() || namespace == "")
        {
            metadata.insert("namespace".to_owned(), names::DEFAULT_NAMESPACE.into());
        }
    }
    let object = match kind {
        Kind::Bucket => serde_json::from_value(value).map(Object::Bucket),
        Kind::Snapshot => serde_json::from_value(value).map(Object::Snapshot),
        Kind::Fork => serde_json::from_value(value).map(Object::Fork),
    };
    match object {
        Ok(object) => {
            // What the schema says of it is known already, more precisely: the type has lost what it does not know.
            errors.extend(
                object
                    .validate()
                    .into_iter()
                    .filter(|error| error.rule.is_some()),
            );
            if errors.is_empty() {
                Ok(object)
            } else {
                Err(errors)
            }
        }
        Err(error) => {
            if errors.is_empty() {
                errors.push(FieldError::new("", error.to_string(), ""));
            }
            Err(errors)
        }
    }
}

/// Where a document stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file, as it was named to [`load`].
    pub file: String,
    /// Its place among the documents of the file, from 1.
    pub document: usize,
    /// The line on which it begins, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, document {} (line {})",
            self.file, self.document, self.line
        )
    }
}

/// A valid object, and where it stands.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The object; its namespace is set.
    pub object: Object,
    /// Where it stands.
    pub place: Place,
}

/// An error in a file. Shown as `FILE: document 2, line 14: spec.source: ...; allowed: ...`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {error}")]
pub struct FileError {
    /// The file, as it was named to [`load`].
    pub file: String,
    /// What is wrong.
    pub error: ManifestError,
}

/// What a set of files holds.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The valid objects, in the order of files and documents.
    pub objects: Vec<Placed>,
    /// Everything that is wrong.
    pub errors: Vec<FileError>,
    /// Objects that a document describes and that are not valid.
    invalid: Vec<ObjectKey>,
    /// Whether some document cannot be read so far that one knows which object it describes.
    unreadable: bool,
}

impl Loaded {
    /// Whether the files surely no longer describe an object: nothing describes it, and there is no document that cannot
    /// be read and may be the one that does. Only then may its data be deleted: a slip in an editor must not cost data.
    pub fn is_gone(&self, key: &ObjectKey) -> bool {
        !self.unreadable
            && !self.invalid.contains(key)
            && !self
                .objects
                .iter()
                .any(|placed| placed.object.key() == *key)
    }
}

/// Reads a set of files (name and text). Documents that describe the same object, or forks of the same name (`agent-0`,
/// and the set `agent`), are errors that name both places; the first of them goes on.
pub fn load<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Loaded {
    let mut loaded = Loaded::default();
    let mut owners: BTreeMap<ObjectKey, (Place, ObjectKey)> = BTreeMap::new();
    for (file, text) in files {
        for document in parse(text) {
            let place = Place {
                file: file.to_owned(),
                document: document.index,
                line: document.line,
            };
            let failed = match document.result {
                Ok(object) => match claim(&mut owners, &object, &place) {
                    Ok(()) => {
                        loaded.objects.push(Placed { object, place });
                        continue;
                    }
                    Err(error) => vec![error],
                },
                Err(errors) => errors,
            };
            // Objects of others are no objects of ours that cannot be read.
            let foreign = failed.iter().all(|error| error.sort == ErrorSort::Foreign);
            loaded.unreadable |= document.key.is_none() && !foreign;
            loaded.invalid.extend(document.key);
            loaded
                .errors
                .extend(failed.into_iter().map(|error| FileError {
                    file: file.to_owned(),
                    error,
                }));
        }
    }
    loaded
}

/// Takes all names of an object, or none.
fn claim(
    owners: &mut BTreeMap<ObjectKey, (Place, ObjectKey)>,
    object: &Object,
    place: &Place,
) -> Result<(), ManifestError> {
    let key = object.key();
    let mut keys = vec![key.clone()];
    if let Object::Fork(fork) = object
        && let Some(count) = fork.spec.count
    {
        let item = |index| ObjectKey {
            name: format!("{}-{index}", key.name),
            ..key.clone()
        };
        keys.extend((0..count.min(names::COUNT_MAX)).map(item));
    }
    for wanted in &keys {
        if let Some((first, owner)) = owners.get(wanted) {
            let message = if *owner == key {
                format!("{key} is described twice, first in {first}")
            } else {
                format!(
                    "{key} would have a fork {}/{} of the same name as {owner} in {first}",
                    wanted.namespace, wanted.name
                )
            };
            return Err(ManifestError {
                document: place.document,
                line: place.line,
                path: "metadata.name".to_owned(),
                message,
                allowed: "a name of its own for each object and each fork of a set".to_owned(),
                sort: ErrorSort::Duplicate,
            });
        }
    }
    owners.extend(
        keys.into_iter()
            .map(|wanted| (wanted, (place.clone(), key.clone()))),
    );
    Ok(())
}
