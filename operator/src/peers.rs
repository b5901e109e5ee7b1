//! What a plan needs to know of the other objects: whether something that is not in the store may still come.

use std::collections::BTreeMap;

use crds::{Kind, Object, ObjectKey, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::earlier::names_data;
use crate::failure::stalled;

/// Another object, as far as plans look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether its lifetime has ended.
    pub expired: bool,
    /// Why it is stalled, when it is: a reason of [`crds::conditions::Reason`].
    pub stalled: Option<String>,
    /// How many forks a set has; none for what is no set.
    pub count: Option<u32>,
    /// Name of the fork that a fork is made from, when it is made from one.
    pub fork: Option<String>,
    /// Its uid, where it has one and its status names no data yet: what is in the store under its name may be that of an
    /// earlier object.
    pub unsettled: Option<String>,
}

/// All objects, by kind, namespace and name.
#[derive(Clone, Debug, Default)]
pub struct Peers(BTreeMap<ObjectKey, Peer>);

impl Peers {
    /// What plans need to know of these objects. Costs one pass over them.
    pub fn of<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Self {
        Peers(
            objects
                .into_iter()
                .map(|object| (object.key(), Peer::of(object)))
                .collect(),
        )
    }

    /// Takes in what an object is now.
    pub fn set(&mut self, key: ObjectKey, peer: Peer) {
        self.0.insert(key, peer);
    }

    /// Forgets an object.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.0.remove(key);
    }

    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<&Peer> {
        self.0.get(key)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The BucketFork that makes the fork of this name: the object itself, or the set of which it is one.
    pub fn maker_of_fork(
        &self,
        namespace: &str,
        name: &str,
    ) -> Option<(ObjectKey, Option<u32>, &Peer)> {
        let key = ObjectKey::new(Kind::Fork, namespace, name);
        if let Some(peer) = self.get(&key)
            && peer.count.is_none()
        {
            return Some((key, None, peer));
        }
        let (set, index) = name.rsplit_once('-')?;
        let index = canonical(index)?;
        let key = ObjectKey::new(Kind::Fork, namespace, set);
        let peer = self.get(&key).filter(|peer| peer.count.is_some())?;
        Some((key, Some(index), peer))
    }
}

/// The index that a text is: without leading zeros and signs, as the names of a set have it.
fn canonical(text: &str) -> Option<u32> {
    let index: u32 = text.parse().ok()?;
    (index.to_string() == text && index < names::COUNT_MAX).then_some(index)
}

impl Peer {
    /// What plans need to know of an object.
    pub fn of(object: &Object) -> Self {
        let (conditions, expired): (&[Condition], bool) = match object {
            Object::Bucket(object) => (
                object
                    .status
                    .as_ref()
                    .map_or(&[], |status| &status.conditions),
                false,
            ),
            Object::Snapshot(object) => object.status.as_ref().map_or((&[], false), |status| {
                (&status.conditions, status.expired_time.is_some())
            }),
            Object::Fork(object) => object.status.as_ref().map_or((&[], false), |status| {
                (&status.conditions, status.expired_time.is_some())
            }),
        };
        let fork = match object {
            Object::Fork(fork) => Some(&fork.spec),
            _ => None,
        };
        Peer {
            deleting: object.metadata().deletion_timestamp.is_some(),
            expired,
            stalled: stalled(conditions).map(str::to_owned),
            count: fork.and_then(|spec| spec.count),
            fork: fork.and_then(|spec| spec.source.fork.clone()),
            unsettled: object
                .metadata()
                .uid
                .clone()
                .filter(|_| !names_data(object)),
        }
    }
}
