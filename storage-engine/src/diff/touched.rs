//! Which names and inodes may differ between two points: what a cache of one has to drop to show the other.

use std::collections::BTreeSet;

use crate::engine::{Engine, Point};
use crate::error::Result;
use crate::ids::Ino;
use crate::index::keys::RecordKey;

use super::windows;

/// What may differ; everything else is the same at both points.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Touched {
    /// Names, each with the directory that it stands in.
    pub names: BTreeSet<(Ino, Vec<u8>)>,
    /// Inodes whose attributes, content or extended attributes may differ, or that only one side has.
    pub inodes: BTreeSet<Ino>,
}

impl Engine {
    /// Names and inodes that may differ between two past points; `None` when they are more than `most`. Nothing
    /// that differs is missing, times included; what was changed and changed back is among them.
    ///
    /// # Errors
    /// `NotFound`. A point that history does not keep any more is no error: what was recorded of the changes since
    /// is enough. Cost: the changes since the point at which the two part, `most` of them at most.
    pub fn touched(&self, from: Point, to: Point, most: usize) -> Result<Option<Touched>> {
        let inner = &self.inner;
        let (hops_a, hops_b) = {
            let mut epoch = inner.exclusive_epoch();
            let closed = inner.close_for(&mut epoch, [from, to]);
            let catalog = inner.catalog.read();
            let hops = |point| match point {
                Point::At(timeline, epoch) => catalog.lineage(timeline, epoch),
                point => {
                    let cutoff = inner.cutoff(&catalog, point, closed)?;
                    catalog.lineage(cutoff.timeline, cutoff.epoch)
                }
            };
            (hops(from)?, hops(to)?)
        };
        let mut touched = Touched::default();
        let mut seen = 0usize;
        for window in windows::only_in_one(&hops_a, &hops_b) {
            inner
                .index
                .changes(window.timeline, window.lo, window.hi, |_, key| {
                    // Counted with repeats, so that the cost is bounded and not only the answer.
                    seen += 1;
                    if seen <= most {
                        touched.add(key)?;
                    }
                    Ok(())
                })?;
            if seen > most {
                return Ok(None);
            }
        }
        Ok(Some(touched))
    }
}

impl Touched {
    fn add(&mut self, key: &[u8]) -> Result<()> {
        match RecordKey::decode(key)? {
            RecordKey::Dirent(parent, name) => {
                self.names.insert((parent, name));
            }
            RecordKey::Inode(ino)
            | RecordKey::Xattr(ino, _)
            | RecordKey::Chunk(ino, _)
            | RecordKey::Orphan(ino) => {
                self.inodes.insert(ino);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        Attr, Caller, CreateRoot, NewNode, NodeKind, Options, RenameMode, SetAttr, SetTime,
        Settings, Time, Volume, VolumeOptions, WriteOptions,
    };

    type Names = BTreeMap<(Ino, Vec<u8>), Ino>;
    type Inodes = BTreeMap<Ino, (Attr, Vec<u8>)>;

    /// Everything that a cache of a state may hold.
    fn all(volume: &Volume, folder: Ino, names: &mut Names, inodes: &mut Inodes) {
        inodes.insert(folder, (volume.attr(folder).unwrap(), Vec::new()));
        for entry in volume.read_dir(folder, 0, usize::MAX).unwrap() {
            names.insert((folder, entry.name), entry.ino);
            if entry.kind == NodeKind::Directory {
                all(volume, entry.ino, names, inodes);
            } else {
                let attr = volume.attr(entry.ino).unwrap();
                let bytes = volume.read(entry.ino, 0, attr.size as usize).unwrap();
                inodes.insert(entry.ino, (attr, bytes));
            }
        }
    }

    #[test]
    fn what_differs_is_touched_and_what_nobody_changed_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path().join("store"), Options::default()).unwrap();
        let root = CreateRoot {
            name: "t".into(),
            settings: Settings {
                retain: std::time::Duration::from_secs(3600),
                ..Settings::default()
            },
            ..CreateRoot::default()
        };
        let id = engine.create_root(root).unwrap().id;
        let volume = engine
            .volume(Point::Now(id), VolumeOptions::default())
            .unwrap();
        let me = Caller::default();
        let make = |parent, name: &str, kind| {
            let new = NewNode {
                kind,
                mode: 0o644,
                rdev: 0,
                target: b"",
            };
            volume
                .create(&me, parent, name.as_bytes(), &new)
                .unwrap()
                .ino
        };
        let write = |ino, bytes: &[u8]| {
            volume
                .write(&me, ino, 0, bytes, WriteOptions::default())
                .unwrap();
        };
        let folder = make(Ino::ROOT, "folder", NodeKind::Directory);
        let quiet = make(Ino::ROOT, "quiet", NodeKind::Directory);
        let quiet_file = make(quiet, "file", NodeKind::File);
        let files: Vec<Ino> = ["written", "timed", "moved", "removed", "linked"]
            .iter()
            .map(|name| make(folder, name, NodeKind::File))
            .collect();
        files.iter().for_each(|ino| write(*ino, b"before"));
        let from = Point::At(id, engine.tick().unwrap());
        write(files[0], &vec![1; 500_000]);
        let timed = SetAttr {
            mtime: Some(SetTime::At(Time { secs: 1, nanos: 2 })),
            ..SetAttr::default()
        };
        volume.set_attr(&me, files[1], &timed).unwrap();
        volume
            .rename(
                &me,
                folder,
                b"moved",
                Ino::ROOT,
                b"moved",
                RenameMode::Replace,
            )
            .unwrap();
        volume.unlink(&me, folder, b"removed").unwrap();
        volume.link(&me, files[4], folder, b"again").unwrap();
        write(make(folder, "new", NodeKind::File), b"new");
        let to = Point::At(id, engine.tick().unwrap());

        let touched = engine.touched(from, to, 1000).unwrap().unwrap();
        let (mut names, mut inodes) =
            ([Names::new(), Names::new()], [Inodes::new(), Inodes::new()]);
        for (n, point) in [from, to].into_iter().enumerate() {
            let volume = engine.volume(point, VolumeOptions::default()).unwrap();
            all(&volume, Ino::ROOT, &mut names[n], &mut inodes[n]);
        }
        for name in names[0].keys().chain(names[1].keys()) {
            if names[0].get(name) != names[1].get(name) {
                assert!(touched.names.contains(name), "{name:?}");
            }
        }
        for ino in inodes[0].keys().chain(inodes[1].keys()) {
            if inodes[0].get(ino) != inodes[1].get(ino) {
                assert!(touched.inodes.contains(ino), "{ino}");
            }
        }
        assert!(!touched.inodes.contains(&quiet) && !touched.inodes.contains(&quiet_file));
        assert_eq!(engine.touched(to, from, 1000).unwrap().unwrap(), touched);
        assert_eq!(engine.touched(from, to, 5).unwrap(), None);
        assert_eq!(engine.touched(to, to, 0).unwrap(), Some(Touched::default()));
    }
}
