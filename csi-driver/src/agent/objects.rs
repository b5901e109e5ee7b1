//! The objects of a store without a cluster: what the API server is there, `<data>/play/` is here.
//!
//! Every object is one JSON file, `<data>/play/<Kind>/<namespace>/<name>.json`, replaced as a whole. An object
//! is written, and synced, before anything is done for it in the engine: its uid is the nonce from which the
//! ids in the engine are derived, so a step that was cut off is done again as the same step. Status that
//! lasts (ids, epochs, expiry) is synced too; what is measured anew at every look (usage, mounts) is not kept.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crds::{Kind, Object, ObjectKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::Value;
use storage_engine::{IdSource, RandomIds};

use crate::owner::failure::{Failure, Outcome, host};
use crate::owner::name::{self, display_name};

/// The directory of the objects in a data directory.
pub const DIRECTORY: &str = "play";
/// Annotation of an object: the file that its manifest was read from.
pub const MANIFEST: &str = "anabranch.dev/manifest";

/// What the objects of all kinds have in common here.
pub trait ObjectExt {
    /// Its unique id, by which its data in the engine is known as its own.
    fn uid(&self) -> &str;
    /// Its conditions.
    fn conditions(&self) -> &[Condition];
    /// The manifest that it comes from.
    fn manifest(&self) -> Option<PathBuf>;
    /// Whether its document is gone and its data is being freed.
    fn is_being_deleted(&self) -> bool;
    /// Whether both ask for the same.
    fn same_spec(&self, other: &Object) -> bool;
    /// Takes over what the other asks for, and counts the generation.
    fn take_spec(&mut self, other: &Object);
    /// As JSON, in the form of the API.
    fn to_json(&self) -> Outcome<Value>;
}

impl ObjectExt for Object {
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }

    fn conditions(&self) -> &[Condition] {
        match self {
            Object::Bucket(o) => o.status.as_ref().map(|s| s.conditions.as_slice()),
            Object::Snapshot(o) => o.status.as_ref().map(|s| s.conditions.as_slice()),
            Object::Fork(o) => o.status.as_ref().map(|s| s.conditions.as_slice()),
        }
        .unwrap_or_default()
    }

    fn manifest(&self) -> Option<PathBuf> {
        self.metadata()
            .annotations
            .as_ref()?
            .get(MANIFEST)
            .map(PathBuf::from)
    }

    fn is_being_deleted(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }

    fn same_spec(&self, other: &Object) -> bool {
        match (self, other) {
            (Object::Bucket(a), Object::Bucket(b)) => a.spec == b.spec,
            (Object::Snapshot(a), Object::Snapshot(b)) => a.spec == b.spec,
            (Object::Fork(a), Object::Fork(b)) => a.spec == b.spec,
            _ => false,
        }
    }

    fn take_spec(&mut self, other: &Object) {
        match (&mut *self, other) {
            (Object::Bucket(a), Object::Bucket(b)) => a.spec = b.spec.clone(),
            (Object::Snapshot(a), Object::Snapshot(b)) => a.spec = b.spec.clone(),
            (Object::Fork(a), Object::Fork(b)) => a.spec = b.spec.clone(),
            _ => return,
        }
        let meta = self.metadata_mut();
        meta.generation = Some(meta.generation.unwrap_or(0) + 1);
    }

    fn to_json(&self) -> Outcome<Value> {
        serde_json::to_value(self).map_err(|e| {
            Failure::new(
                "Internal",
                format!("cannot write {} as JSON: {e}", self.key()),
            )
        })
    }
}

fn from_json(kind: Kind, bytes: &[u8]) -> serde_json::Result<Object> {
    Ok(match kind {
        Kind::Bucket => Object::Bucket(serde_json::from_slice(bytes)?),
        Kind::Snapshot => Object::Snapshot(serde_json::from_slice(bytes)?),
        Kind::Fork => Object::Fork(serde_json::from_slice(bytes)?),
    })
}

/// The name of an object on the command line: `fork/agent`, with the namespace where it is not the usual one.
pub fn short_name(key: &ObjectKey) -> String {
    display_name(&engine_name(key), crds::names::DEFAULT_NAMESPACE)
}

/// The name of an object's timeline or snapshot in the engine.
pub fn engine_name(key: &ObjectKey) -> String {
    word(key.kind).engine_name(&key.namespace, &key.name)
}

/// The kind as the command line has it.
pub fn word(kind: Kind) -> name::Kind {
    match kind {
        Kind::Bucket => name::Kind::Bucket,
        Kind::Snapshot => name::Kind::Snapshot,
        Kind::Fork => name::Kind::Fork,
    }
}

/// The kind as objects have it.
pub fn kind_of(word: name::Kind) -> Kind {
    match word {
        name::Kind::Bucket => Kind::Bucket,
        name::Kind::Snapshot => Kind::Snapshot,
        name::Kind::Fork => Kind::Fork,
    }
}

/// The present time, as objects have it: to the second.
pub fn time_now() -> Time {
    Time(
        jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH),
    )
}

/// A new uid.
pub fn new_uid() -> Outcome<String> {
    let mut id = RandomIds.next().map_err(|e| host("make a random id", &e))?;
    // Marked as a random UUID (version 4, variant 1), as an API server makes them.
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    let text = hex::encode(id);
    Ok(format!(
        "{}-{}-{}-{}-{}",
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..]
    ))
}

/// All the objects of a store.
#[derive(Debug)]
pub struct Objects {
    directory: PathBuf,
    all: BTreeMap<ObjectKey, Object>,
}

impl Objects {
    /// Reads them. Costs one file for each.
    pub fn load(data: &Path) -> Outcome<Objects> {
        let directory = data.join(DIRECTORY);
        let mut all = BTreeMap::new();
        for kind in Kind::ALL {
            for namespace in entries(&directory.join(kind.as_str()))? {
                for path in entries(&namespace)? {
                    if path.extension().is_none_or(|e| e != "json") {
                        continue;
                    }
                    let bytes = match fs::read(&path) {
                        Ok(bytes) => bytes,
                        // Deleted by the owner since the directory was read.
                        Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                        Err(e) => return Err(host(format_args!("read {}", path.display()), &e)),
                    };
                    let object = from_json(kind, &bytes).map_err(|e| {
                        Failure::new("Corrupt", format!("{} is not an object of this version: {e}", path.display()))
                            .then("Move the file away: the object is then taken up again from its manifest and the engine.")
                    })?;
                    all.insert(object.key(), object);
                }
            }
        }
        Ok(Objects { directory, all })
    }

    /// All of them, by kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Object)> {
        self.all.iter()
    }

    /// One of them.
    pub fn get(&self, key: &ObjectKey) -> Option<&Object> {
        self.all.get(key)
    }

    /// Keeps an object. It is durable when this returns, unless nothing changed.
    pub fn put(&mut self, object: Object) -> Outcome {
        let key = object.key();
        if self.all.get(&key) == Some(&object) {
            return Ok(());
        }
        let path = self.path(&key);
        let bytes = serde_json::to_vec_pretty(&object.to_json()?)
            .map_err(|e| Failure::new("Internal", e.to_string()))?;
        replace(&path, &bytes).map_err(|e| host(format_args!("write {}", path.display()), &e))?;
        self.all.insert(key, object);
        Ok(())
    }

    /// Forgets an object.
    pub fn remove(&mut self, key: &ObjectKey) -> Outcome {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(host(format_args!("remove {}", path.display()), &e));
            }
            _ => {}
        }
        if let Some(parent) = path.parent() {
            let _ = File::open(parent).and_then(|directory| directory.sync_all());
            // Only succeeds when it is empty.
            let _ = fs::remove_dir(parent);
        }
        self.all.remove(key);
        Ok(())
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        // Names and namespaces are DNS names: they have no slash and are not ".." (the manifest loader checks).
        self.directory
            .join(key.kind.as_str())
            .join(&key.namespace)
            .join(format!("{}.json", key.name))
    }
}

fn entries(directory: &Path) -> Outcome<Vec<PathBuf>> {
    let reading = |e: std::io::Error| host(format_args!("read {}", directory.display()), &e);
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|e| e.path()).map_err(reading))
            .collect(),
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(Vec::new())
        }
        Err(e) => Err(reading(e)),
    }
}

/// Replaces a file as a whole, durably: a reader, and a restart after a crash, sees the old or the new one.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let passing = path.with_extension("new");
    let mut file = File::create(&passing)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&passing, path)?;
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fork(name: &str) -> Object {
        let mut fork = crds::BucketFork::new(
            name,
            crds::ForkSpec {
                lifetime: crds::Lifetime::no_expiry(),
                ..Default::default()
            },
        );
        fork.metadata.namespace = Some("team".into());
        fork.metadata.uid = Some(new_uid().unwrap());
        Object::Fork(Box::new(fork))
    }

    #[test]
    fn objects_are_found_again_by_the_next_process() {
        let data = tempfile::tempdir().unwrap();
        let mut objects = Objects::load(data.path()).unwrap();
        let (a, b) = (fork("a"), fork("b"));
        objects.put(a.clone()).unwrap();
        objects.put(b.clone()).unwrap();
        objects.remove(&b.key()).unwrap();
        objects.remove(&b.key()).unwrap();
        // What a kill in the middle of a replacement leaves behind is not an object.
        fs::write(data.path().join("play/BucketFork/team/c.new"), b"{").unwrap();
        let again = Objects::load(data.path()).unwrap();
        assert_eq!(
            again
                .iter()
                .map(|(_, object)| object.clone())
                .collect::<Vec<_>>(),
            [a]
        );
    }

    #[test]
    fn a_damaged_object_is_named() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir_all(data.path().join("play/Bucket/default")).unwrap();
        fs::write(data.path().join("play/Bucket/default/x.json"), b"{}").unwrap();
        let failure = Objects::load(data.path()).unwrap_err();
        assert!(failure.message.contains("x.json"), "{failure}");
    }

    #[test]
    fn uids_look_like_those_of_an_api_server_and_differ() {
        let (a, b) = (new_uid().unwrap(), new_uid().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.len(), 36);
        assert_eq!(&a[14..15], "4");
    }

    #[test]
    fn a_changed_spec_counts_its_generation() {
        let (mut old, mut new) = (fork("a"), fork("a"));
        old.metadata_mut().generation = Some(1);
        if let Object::Fork(fork) = &mut new {
            fork.spec.count = Some(2);
        }
        assert!(!old.same_spec(&new));
        old.take_spec(&new);
        assert!(old.same_spec(&new));
        assert_eq!(old.metadata().generation, Some(2));
    }
}
