//! The kinds and their objects, for code that handles all of them.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::validate::{FieldError, Validate};
use crate::{Bucket, BucketFork, BucketSnapshot, names};

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `Bucket`.
    Bucket,
    /// `BucketSnapshot`.
    #[serde(rename = "BucketSnapshot")]
    Snapshot,
    /// `BucketFork`.
    #[serde(rename = "BucketFork")]
    Fork,
}

impl Kind {
    /// The kinds in the order in which they usually depend on each other.
    pub const ALL: [Kind; 3] = [Kind::Bucket, Kind::Snapshot, Kind::Fork];

    /// As it stands in `kind:`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Bucket => names::KIND_BUCKET,
            Kind::Snapshot => names::KIND_SNAPSHOT,
            Kind::Fork => names::KIND_FORK,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a kind; allowed: Bucket, BucketSnapshot, BucketFork")]
pub struct KindError(pub String);

impl FromStr for Kind {
    type Err = KindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| KindError(text.to_owned()))
    }
}

/// What tells one object from all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// The key of an object of this kind, namespace and name.
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        ObjectKey {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Object {
    /// A Bucket.
    Bucket(Box<Bucket>),
    /// A BucketSnapshot.
    Snapshot(Box<BucketSnapshot>),
    /// A BucketFork.
    Fork(Box<BucketFork>),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Bucket(_) => Kind::Bucket,
            Object::Snapshot(_) => Kind::Snapshot,
            Object::Fork(_) => Kind::Fork,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Object::Bucket(object) => &object.metadata,
            Object::Snapshot(object) => &object.metadata,
            Object::Fork(object) => &object.metadata,
        }
    }

    /// Its metadata, to be changed.
    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Object::Bucket(object) => &mut object.metadata,
            Object::Snapshot(object) => &mut object.metadata,
            Object::Fork(object) => &mut object.metadata,
        }
    }

    /// What tells it from all others; a missing namespace is `default`.
    pub fn key(&self) -> ObjectKey {
        let metadata = self.metadata();
        let namespace = metadata
            .namespace
            .clone()
            .filter(|namespace| !namespace.is_empty());
        ObjectKey {
            kind: self.kind(),
            namespace: namespace.unwrap_or_else(|| names::DEFAULT_NAMESPACE.to_owned()),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl Validate for Object {
    fn validate(&self) -> Vec<FieldError> {
        match self {
            Object::Bucket(object) => object.validate(),
            Object::Snapshot(object) => object.validate(),
            Object::Fork(object) => object.validate(),
        }
    }

    /// Objects of different kinds are not versions of each other, and any change between them is allowed.
    fn validate_update(old: &Self, new: &Self) -> Vec<FieldError> {
        match (old, new) {
            (Object::Bucket(old), Object::Bucket(new)) => {
                Validate::validate_update(old.as_ref(), new.as_ref())
            }
            (Object::Snapshot(old), Object::Snapshot(new)) => {
                Validate::validate_update(old.as_ref(), new.as_ref())
            }
            (Object::Fork(old), Object::Fork(new)) => {
                Validate::validate_update(old.as_ref(), new.as_ref())
            }
            _ => new.validate(),
        }
    }
}
