//! From files to the objects that are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crds::manifest::{Loaded, load};
use crds::{Object, ObjectKey, Validate};
use csi_driver::agent::objects::{MANIFEST, ObjectExt, Objects, new_uid, time_now};
use csi_driver::owner::Outcome;

use super::watch::{files, parent};

/// A document must be gone for so long before its object is deleted: editors take files away for a moment.
pub const SETTLE: Duration = Duration::from_secs(1);

/// What the manifests say, as far as they could be read.
pub struct Manifests {
    named: Vec<PathBuf>,
    loaded: Loaded,
    /// Files that could not be read: what they declare is unknown.
    unreadable: bool,
    /// Complaints, in the order of files and documents.
    pub complaints: Vec<String>,
    missing_since: BTreeMap<ObjectKey, Instant>,
}

/// What taking in the manifests changed.
#[derive(Default)]
pub struct Taken {
    /// Changes that were refused, for each object: one sentence per field.
    pub refused: BTreeMap<ObjectKey, Vec<String>>,
    /// When to look again at objects whose documents are gone.
    pub again: Option<Instant>,
    /// Objects that no named file declares, and that are left as they are.
    pub left: BTreeSet<ObjectKey>,
}

impl Manifests {
    /// Of these files and folders; nothing is read yet.
    pub fn new(named: &[PathBuf]) -> Self {
        // Made absolute, so that an object's file can be compared whatever the working directory was then.
        let named = named
            .iter()
            .map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.clone()))
            .collect();
        Self {
            named,
            loaded: Loaded::default(),
            unreadable: false,
            complaints: Vec::new(),
            missing_since: BTreeMap::new(),
        }
    }

    /// What was named.
    pub fn named(&self) -> &[PathBuf] {
        &self.named
    }

    /// Reads everything anew.
    pub fn read(&mut self) {
        self.complaints.clear();
        self.unreadable = false;
        let mut texts: Vec<(String, String)> = Vec::new();
        for path in files(&self.named) {
            match fs::read(&path) {
                Ok(bytes) => match String::from_utf8(bytes) {
                    Ok(text) => texts.push((path.display().to_string(), text)),
                    Err(_) => self.cannot_read(&path, "it is not UTF-8 text"),
                },
                Err(error) => self.cannot_read(&path, &error.to_string()),
            }
        }
        for folder in self.named.clone().iter().filter(|path| path.is_dir()) {
            if let Err(error) = fs::read_dir(folder) {
                self.cannot_read(folder, &error.to_string());
            }
        }
        self.loaded = load(
            texts
                .iter()
                .map(|(file, text)| (file.as_str(), text.as_str())),
        );
        self.complaints
            .extend(self.loaded.errors.iter().map(ToString::to_string));
    }

    fn cannot_read(&mut self, path: &Path, why: &str) {
        self.unreadable = true;
        self.complaints.push(format!(
            "{}: cannot be read: {why}; what it declared stays as it is",
            path.display()
        ));
    }

    /// Brings the kept objects to what the manifests say: new ones get a uid, changed ones a generation, and
    /// those whose documents are surely gone a time of deletion.
    pub fn take_in(&mut self, objects: &mut Objects, at_once: bool) -> Outcome<Taken> {
        let mut taken = Taken::default();
        let mut declared: BTreeSet<ObjectKey> = BTreeSet::new();
        for placed in &self.loaded.objects {
            let wanted = prepared(&placed.object, Path::new(&placed.place.file));
            let key = wanted.key();
            declared.insert(key.clone());
            let mut old = objects.get(&key).cloned();
            if let Some(old) = &mut old
                && is_protected(old)
            {
                // It is whole although its document was gone: the document brings it back.
                old.metadata_mut().deletion_timestamp = None;
            }
            match old {
                // One that is being deleted goes first; its name is taken up again at the next pass.
                Some(old) if old.is_being_deleted() => {}
                Some(old) => {
                    let errors = Object::validate_update(&old, &wanted);
                    if errors.is_empty() {
                        objects.put(updated(old, &wanted))?;
                    } else {
                        taken
                            .refused
                            .insert(key, errors.iter().map(ToString::to_string).collect());
                    }
                }
                None => {
                    let mut new = wanted;
                    let meta = new.metadata_mut();
                    meta.uid = Some(new_uid()?);
                    meta.generation = Some(1);
                    meta.creation_timestamp = Some(time_now());
                    objects.put(new)?;
                }
            }
        }
        self.take_away(objects, &declared, at_once, &mut taken)?;
        Ok(taken)
    }

    fn take_away(
        &mut self,
        objects: &mut Objects,
        declared: &BTreeSet<ObjectKey>,
        at_once: bool,
        taken: &mut Taken,
    ) -> Outcome {
        let mut gone: Vec<Object> = Vec::new();
        for (key, object) in objects.iter() {
            if declared.contains(key) || object.is_being_deleted() {
                continue;
            }
            if !self.ours(object) {
                taken.left.insert(key.clone());
            } else if !self.unreadable && self.loaded.is_gone(key) {
                gone.push(object.clone());
            }
        }
        let now = Instant::now();
        let keys: BTreeSet<ObjectKey> = gone.iter().map(Object::key).collect();
        self.missing_since.retain(|key, _| keys.contains(key));
        for mut object in gone {
            let since = *self.missing_since.entry(object.key()).or_insert(now);
            if at_once || now.duration_since(since) >= SETTLE {
                self.missing_since.remove(&object.key());
                object.metadata_mut().deletion_timestamp = Some(time_now());
                objects.put(object)?;
            } else {
                let again = since + SETTLE;
                taken.again = Some(taken.again.map_or(again, |other| other.min(again)));
            }
        }
        Ok(())
    }

    /// Whether an object comes from what was named: from a named file that is there, or from a named folder.
    fn ours(&self, object: &Object) -> bool {
        let Some(file) = object.manifest() else {
            return false;
        };
        self.named.iter().any(|named| {
            (named.is_dir() && parent(&file) == named) || (*named == file && file.is_file())
        })
    }
}

fn is_protected(object: &Object) -> bool {
    matches!(object, Object::Fork(fork) if fork.spec.protected == Some(true))
}

/// The object as it is kept: it knows its file, and relative paths are those of the file's folder.
fn prepared(object: &Object, file: &Path) -> Object {
    let mut object = object.clone();
    if let Object::Bucket(bucket) = &mut object
        && let Some(source) = &mut bucket.spec.source
    {
        for place in [&mut source.directory, &mut source.tar]
            .into_iter()
            .flatten()
        {
            let path = Path::new(&place.path);
            if path.is_relative() {
                place.path = parent(file).join(path).display().to_string();
            }
        }
    }
    let meta = object.metadata_mut();
    meta.annotations
        .get_or_insert_default()
        .insert(MANIFEST.to_owned(), file.display().to_string());
    object
}

/// The kept object with what the manifest says now.
fn updated(mut old: Object, wanted: &Object) -> Object {
    if !old.same_spec(wanted) {
        old.take_spec(wanted);
    }
    let meta = old.metadata_mut();
    meta.labels = wanted.metadata().labels.clone();
    meta.annotations = wanted.metadata().annotations.clone();
    old
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        folder: tempfile::TempDir,
        data: tempfile::TempDir,
    }

    const FORK: &str = "apiVersion: anabranch.dev/v1alpha1\nkind: BucketFork\nmetadata: {name: NAME}\nspec: {source: {bucket: base}, lifetime: {noExpiry: true}}\n---\n";

    impl World {
        fn new() -> Self {
            Self {
                folder: tempfile::tempdir().unwrap(),
                data: tempfile::tempdir().unwrap(),
            }
        }

        fn write(&self, file: &str, names: &[&str]) {
            let text: String = names
                .iter()
                .map(|name| FORK.replace("NAME", name))
                .collect();
            fs::write(self.folder.path().join(file), text).unwrap();
        }

        fn take(&self, manifests: &mut Manifests, at_once: bool) -> (Objects, Taken) {
            manifests.read();
            let mut objects = Objects::load(self.data.path()).unwrap();
            let taken = manifests.take_in(&mut objects, at_once).unwrap();
            (objects, taken)
        }

        fn alive(objects: &Objects) -> Vec<String> {
            objects
                .iter()
                .filter(|(_, object)| !object.is_being_deleted())
                .map(|(key, _)| key.name.clone())
                .collect()
        }
    }

    #[test]
    fn documents_that_are_gone_are_deleted_after_a_second_look() {
        let world = World::new();
        world.write("a.yaml", &["one", "two"]);
        let mut manifests = Manifests::new(&[world.folder.path().to_owned()]);
        let (objects, _) = world.take(&mut manifests, false);
        assert_eq!(World::alive(&objects), ["one", "two"]);
        world.write("a.yaml", &["one"]);
        let (objects, taken) = world.take(&mut manifests, false);
        assert_eq!(
            World::alive(&objects),
            ["one", "two"],
            "not at the first look"
        );
        assert!(taken.again.is_some());
        std::thread::sleep(SETTLE);
        let (objects, taken) = world.take(&mut manifests, false);
        assert_eq!(World::alive(&objects), ["one"]);
        assert!(taken.again.is_none());
        fs::remove_file(world.folder.path().join("a.yaml")).unwrap();
        let (objects, _) = world.take(&mut manifests, true);
        assert_eq!(
            World::alive(&objects),
            [""; 0],
            "a file taken out of a folder that was named"
        );
    }

    #[test]
    fn a_slip_deletes_nothing() {
        let world = World::new();
        world.write("a.yaml", &["one", "two"]);
        let file = world.folder.path().join("a.yaml");
        let mut manifests = Manifests::new(std::slice::from_ref(&file));
        world.take(&mut manifests, true);
        // Not YAML; an invalid document; not UTF-8; the file is not there.
        for text in [
            Some("{ broken".as_bytes()),
            Some(
                &FORK
                    .replace("bucket", "bukket")
                    .replace("NAME", "one")
                    .into_bytes(),
            ),
            Some(b"\xff\xfe"),
            None,
        ] {
            match text {
                Some(text) => fs::write(&file, text).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            let (objects, _) = world.take(&mut manifests, true);
            let alive = World::alive(&objects);
            assert!(alive.contains(&"one".to_owned()), "{text:?}: {alive:?}");
        }
        // Other manifests on the same data leave alone what they do not know.
        world.write("b.yaml", &["three"]);
        let mut others = Manifests::new(&[world.folder.path().join("b.yaml")]);
        let (objects, taken) = world.take(&mut others, true);
        assert!(World::alive(&objects).contains(&"one".to_owned()));
        assert!(taken.left.iter().any(|key| key.name == "one"));
    }

    #[test]
    fn uids_stay_and_generations_count() {
        let world = World::new();
        world.write("a.yaml", &["one"]);
        let mut manifests = Manifests::new(&[world.folder.path().to_owned()]);
        let (objects, _) = world.take(&mut manifests, false);
        let first = objects.iter().next().unwrap().1.clone();
        let (objects, _) = world.take(&mut manifests, false);
        assert_eq!(objects.iter().next().unwrap().1, &first, "nothing changed");
        let text = FORK
            .replace("NAME", "one")
            .replace("lifetime", "readOnly: true, lifetime");
        fs::write(world.folder.path().join("a.yaml"), text).unwrap();
        let (objects, _) = world.take(&mut manifests, false);
        let second = objects.iter().next().unwrap().1;
        assert_eq!(second.uid(), first.uid());
        assert_eq!(second.metadata().generation, Some(2));
        // The source cannot be changed.
        let text = FORK
            .replace("NAME", "one")
            .replace("bucket: base", "bucket: other");
        fs::write(world.folder.path().join("a.yaml"), text).unwrap();
        let (objects, taken) = world.take(&mut manifests, false);
        assert_eq!(objects.iter().next().unwrap().1, second);
        assert_eq!(taken.refused.len(), 1);
    }

    #[test]
    fn relative_sources_are_those_of_the_manifests_folder() {
        let world = World::new();
        let text = "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {name: base}\nspec: {source: {directory: {path: data}}}\n";
        fs::write(world.folder.path().join("a.yaml"), text).unwrap();
        let mut manifests = Manifests::new(&[world.folder.path().to_owned()]);
        let (objects, _) = world.take(&mut manifests, false);
        let Object::Bucket(bucket) = objects.iter().next().unwrap().1 else {
            panic!()
        };
        let path = &bucket
            .spec
            .source
            .as_ref()
            .unwrap()
            .directory
            .as_ref()
            .unwrap()
            .path;
        assert_eq!(
            Path::new(path),
            fs::canonicalize(world.folder.path()).unwrap().join("data")
        );
    }
}
