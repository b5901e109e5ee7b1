//! Objects as they come, also those that are not what they should be.
//!
//! A list is read as a whole: without this, one object that somebody filled with what the type does not hold would keep
//! every other of its kind from being read, and a watch would begin anew for ever.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An object, or what can be said of it.
#[derive(Clone, Debug)]
pub enum Lenient<K> {
    /// It is what it should be.
    Read(K),
    /// It is not.
    Unreadable(Box<Unreadable>),
}

/// An object that cannot be read.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// Which it is.
    pub metadata: ObjectMeta,
    /// What is wrong with it.
    pub why: String,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(match K::deserialize(&value) {
            Ok(object) => Lenient::Read(object),
            Err(failure) => Lenient::Unreadable(Box::new(Unreadable {
                metadata: metadata(&value),
                why: failure.to_string(),
            })),
        })
    }
}

/// The metadata of an object; of those that are wrong, too, what says which it is.
fn metadata(object: &Value) -> ObjectMeta {
    let metadata = &object["metadata"];
    ObjectMeta::deserialize(metadata).unwrap_or_else(|_| {
        let text = |field: &str| metadata[field].as_str().map(str::to_owned);
        ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        }
    })
}

impl<K: Resource<DynamicType = ()>> Resource for Lenient<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(_: &()) -> Cow<'_, str> {
        K::kind(&())
    }
    fn group(_: &()) -> Cow<'_, str> {
        K::group(&())
    }
    fn version(_: &()) -> Cow<'_, str> {
        K::version(&())
    }
    fn plural(_: &()) -> Cow<'_, str> {
        K::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        match self {
            Lenient::Read(object) => object.meta(),
            Lenient::Unreadable(object) => &object.metadata,
        }
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Lenient::Read(object) => object.meta_mut(),
            Lenient::Unreadable(object) => &mut object.metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::BucketFork;
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::json;

    #[test]
    fn one_object_that_cannot_be_read_holds_up_no_other() {
        let fork = |name: &str, count: Value| {
            json!({"apiVersion": "anabranch.dev/v1alpha1", "kind": "BucketFork",
                "metadata": {"name": name, "namespace": "team", "uid": name, "resourceVersion": "7"},
                "spec": {"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}}, "status": {"count": count}})
        };
        let list = json!({"apiVersion": "anabranch.dev/v1alpha1", "kind": "BucketForkList", "metadata": {"resourceVersion": "9"},
            "items": [fork("a", json!(1)), fork("b", json!(5_000_000_000_u64)), fork("c", json!(2))]});
        let list: ObjectList<Lenient<BucketFork>> =
            serde_json::from_str(&list.to_string()).unwrap();
        let read: Vec<_> = list
            .items
            .iter()
            .map(|item| match item {
                Lenient::Read(fork) => format!("{:?}", fork.metadata.name),
                Lenient::Unreadable(object) => {
                    assert_eq!(object.metadata.name.as_deref(), Some("b"));
                    object.why.clone()
                }
            })
            .collect();
        assert!(read[1].contains("5000000000"), "{read:?}");
        assert_eq!((read[0].contains('a'), read[2].contains('c')), (true, true));
        let event = json!({"type": "MODIFIED", "object": fork("b", json!(-1))});
        let event: WatchEvent<Lenient<BucketFork>> =
            serde_json::from_str(&event.to_string()).unwrap();
        assert!(matches!(
            event,
            WatchEvent::Modified(Lenient::Unreadable(object)) if object.metadata.resource_version.as_deref() == Some("7")
        ));
        // Even when nothing is what it should be, it has a name.
        let wrong = json!({"metadata": {"name": "d", "generation": "seven"}, "spec": 3});
        let wrong: Lenient<BucketFork> = serde_json::from_value(wrong).unwrap();
        assert_eq!(wrong.meta().name.as_deref(), Some("d"));
    }
}
