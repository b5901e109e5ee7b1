//! The objects as the API server last said they are, and who waits for whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::{Kind, Object, ObjectKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::RwLock;

use crate::peers::{Peer, Peers};

/// Objects by key. Reading costs a lookup; a change costs a lookup and, when what others see of the object changed, the
/// number of those who depend on it.
#[derive(Default)]
pub struct Cache {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    peers: Arc<Peers>,
    /// By source: the objects made from it.
    dependents: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// Those that are there and cannot be read; what was known of them before stands.
    unreadable: BTreeMap<ObjectKey, Arc<ObjectMeta>>,
}

/// What a change means for the queue.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The objects to be looked at: the one that changed, and those who wait for it.
    pub look_at: Vec<ObjectKey>,
    /// Whether another thing is asked of the first of them than before; otherwise only what is said of it changed.
    pub asked: bool,
}

impl Cache {
    /// An object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Object>> {
        self.inner.read().objects.get(key).cloned()
    }

    /// The keys of all objects.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.inner.read().objects.keys().cloned().collect()
    }

    /// All objects. Costs their number.
    pub fn all(&self) -> Vec<Arc<Object>> {
        self.inner.read().objects.values().cloned().collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.inner.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What plans need to know of the other objects, as of now.
    pub fn peers(&self) -> Arc<Peers> {
        self.inner.read().peers.clone()
    }

    /// The objects that are made from this one.
    pub fn dependents(&self, key: &ObjectKey) -> Vec<ObjectKey> {
        let inner = self.inner.read();
        inner.dependents_of(key)
    }

    /// Takes an object in, unless a newer version of it is there: what we wrote ourselves may come back late.
    pub fn put(&self, object: Object) -> Change {
        let key = object.key();
        let mut inner = self.inner.write();
        let before = inner.objects.get(&key).cloned();
        if let Some(before) = &before
            && before.metadata().uid == object.metadata().uid
            && version(before) > version(&object)
        {
            return Change::default();
        }
        inner.unreadable.remove(&key);
        if before.as_deref() == Some(&object) {
            return Change::default();
        }
        let asked = before
            .as_deref()
            .is_none_or(|before| asks(before) != asks(&object));
        let mut look_at = vec![key.clone()];
        let peer = Peer::of(&object);
        let node = |object: &Object| crate::decide::node_of(object).map(str::to_owned);
        let told = inner.peers.get(&key) != Some(&peer)
            || before.as_deref().and_then(node) != node(&object)
            || before.as_deref().is_some_and(usable) != usable(&object);
        if told {
            look_at.extend(inner.dependents_of(&key));
        }
        if inner.peers.get(&key) != Some(&peer) {
            Arc::make_mut(&mut inner.peers).set(key.clone(), peer);
        }
        if let Some(before) = before {
            inner.unlink(&key, &before);
        }
        for source in sources(&key, &object) {
            inner
                .dependents
                .entry(source)
                .or_default()
                .insert(key.clone());
        }
        inner.objects.insert(key, Arc::new(object));
        Change { look_at, asked }
    }

    /// What is known of an object that is there and cannot be read.
    pub fn unreadable(&self, key: &ObjectKey) -> Option<Arc<ObjectMeta>> {
        self.inner.read().unreadable.get(key).cloned()
    }

    /// Notes that an object cannot be read.
    pub fn add_unreadable(&self, key: ObjectKey, metadata: ObjectMeta) {
        let mut inner = self.inner.write();
        inner.unreadable.insert(key, Arc::new(metadata));
    }

    /// Notes all objects of a kind that cannot be read.
    pub fn set_unreadable(&self, kind: Kind, objects: BTreeMap<ObjectKey, ObjectMeta>) {
        let objects = objects
            .into_iter()
            .map(|(key, metadata)| (key, Arc::new(metadata)));
        let mut inner = self.inner.write();
        inner.unreadable.retain(|key, _| key.kind != kind);
        inner.unreadable.extend(objects);
    }

    /// Forgets an object.
    pub fn remove(&self, key: &ObjectKey) -> Change {
        let mut inner = self.inner.write();
        inner.unreadable.remove(key);
        let Some(before) = inner.objects.remove(key) else {
            return Change::default();
        };
        inner.unlink(key, &before);
        Arc::make_mut(&mut inner.peers).remove(key);
        let mut look_at = vec![key.clone()];
        look_at.extend(inner.dependents_of(key));
        Change {
            look_at,
            asked: true,
        }
    }

    /// Forgets the objects of a kind that are not among these: after a list that was made anew.
    pub fn retain(&self, kind: Kind, keys: &BTreeSet<ObjectKey>) -> Change {
        let gone: Vec<_> = self
            .keys()
            .into_iter()
            .filter(|key| key.kind == kind && !keys.contains(key))
            .collect();
        let mut change = Change {
            asked: true,
            ..Change::default()
        };
        for key in gone {
            change.look_at.extend(self.remove(&key).look_at);
        }
        change
    }
}

impl Inner {
    fn dependents_of(&self, key: &ObjectKey) -> Vec<ObjectKey> {
        self.dependents
            .get(key)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    fn unlink(&mut self, key: &ObjectKey, object: &Object) {
        for source in sources(key, object) {
            if let Some(dependents) = self.dependents.get_mut(&source) {
                dependents.remove(key);
                if dependents.is_empty() {
                    self.dependents.remove(&source);
                }
            }
        }
    }
}

/// The objects that an object may be made from: its source, and the set of which its source may be one.
fn sources(key: &ObjectKey, object: &Object) -> Vec<ObjectKey> {
    let Some(source) = crate::source::key_of(object, key) else {
        return Vec::new();
    };
    let set = source
        .name
        .rsplit_once('-')
        .filter(|_| source.kind == Kind::Fork)
        .map(|(set, _)| ObjectKey::new(Kind::Fork, &source.namespace, set));
    [Some(source), set].into_iter().flatten().collect()
}

/// What is asked of an object, as far as a change of it is worth another attempt at once.
fn asks(
    object: &Object,
) -> (
    Option<&str>,
    Option<i64>,
    Option<jiff::Timestamp>,
    Option<&str>,
) {
    let metadata = object.metadata();
    (
        metadata.uid.as_deref(),
        metadata.generation,
        metadata.deletion_timestamp.as_ref().map(|time| time.0),
        crate::decide::node_of(object),
    )
}

/// Whether others can be made from it.
fn usable(object: &Object) -> bool {
    let conditions = crate::decide::conditions(object);
    crds::conditions::is_true(conditions, crds::conditions::READY)
}

/// The version of an object in its API server, as a number: comparable since Kubernetes 1.35, and in practice before.
fn version(object: &Object) -> Option<u64> {
    object.metadata().resource_version.as_deref()?.parse().ok()
}
