//! The three kinds seen alike.

use crds::{Bucket, BucketFork, BucketSnapshot, Kind, Object};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};

/// A type of ours.
pub trait Ours:
    kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + serde::de::DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Its kind.
    const KIND: Kind;

    /// The same as an object of any kind.
    fn into_object(self) -> Object;
}

impl Ours for Bucket {
    const KIND: Kind = Kind::Bucket;

    fn into_object(self) -> Object {
        Object::Bucket(Box::new(self))
    }
}

impl Ours for BucketSnapshot {
    const KIND: Kind = Kind::Snapshot;

    fn into_object(self) -> Object {
        Object::Snapshot(Box::new(self))
    }
}

impl Ours for BucketFork {
    const KIND: Kind = Kind::Fork;

    fn into_object(self) -> Object {
        Object::Fork(Box::new(self))
    }
}

/// The resource of a kind.
pub fn resource(kind: Kind) -> ApiResource {
    let gvk = GroupVersionKind::gvk(crds::names::GROUP, crds::names::VERSION, kind.as_str());
    let plural = match kind {
        Kind::Bucket => "buckets",
        Kind::Snapshot => "bucketsnapshots",
        Kind::Fork => "bucketforks",
    };
    ApiResource::from_gvk_with_plural(&gvk, plural)
}

/// An object that the API server answered with.
///
/// # Errors
/// When it is not of the kind.
pub fn parse(kind: Kind, object: DynamicObject) -> Result<Object, serde_json::Error> {
    let value = serde_json::to_value(object)?;
    Ok(match kind {
        Kind::Bucket => Object::Bucket(Box::new(serde_json::from_value(value)?)),
        Kind::Snapshot => Object::Snapshot(Box::new(serde_json::from_value(value)?)),
        Kind::Fork => Object::Fork(Box::new(serde_json::from_value(value)?)),
    })
}

/// The status of an object as the API server has it, without the field of the operator; an empty map without a status.
pub fn status_value(object: &Object) -> serde_json::Value {
    let value = match object {
        Object::Bucket(object) => serde_json::to_value(&object.status),
        Object::Snapshot(object) => serde_json::to_value(&object.status),
        Object::Fork(object) => serde_json::to_value(&object.status),
    };
    match value {
        Ok(serde_json::Value::Object(mut status)) => {
            status.remove("node");
            serde_json::Value::Object(status)
        }
        _ => serde_json::json!({}),
    }
}
