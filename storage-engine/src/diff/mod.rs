//! What differs between two points, at a cost of what changed and not of what there is.
//!
//! Each point is a lineage: windows of timelines' versions. What both lineages see through the same
//! windows is the same; only records that changed in a window that one of them sees and the other does
//! not can differ. The index lists those by epoch.

mod compare;
mod touched;
mod windows;

pub use touched::Touched;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::engine::{Engine, Point};
use crate::error::Result;
use crate::files::View;
use crate::files::types::NodeKind;
use crate::ids::Ino;
use crate::index::keys::RecordKey;
use crate::index::lineage;
use crate::index::records::Record;

/// How a path differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DiffKind {
    /// Only the second point has it.
    Added,
    /// Only the first point has it.
    Removed,
    /// Both have it; content, mode, owner, attributes or link target differ (times alone do not count).
    Changed,
    /// The same file has another path; the content may have changed as well.
    Renamed {
        /// Its path at the first point.
        #[serde(serialize_with = "as_text")]
        from: Vec<u8>,
    },
}

/// One path that differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiffEntry {
    /// The path, from the root, with a leading slash.
    #[serde(serialize_with = "as_text")]
    pub path: Vec<u8>,
    /// How it differs.
    pub kind: DiffKind,
    /// What it is.
    pub node: NodeKind,
    /// Size in bytes at the first point (0 if it was not there).
    pub size_before: u64,
    /// Size in bytes at the second point (0 if it is not there).
    pub size_after: u64,
    /// Bytes at the same offset that differ, and bytes that one has and the other has not.
    pub changed_bytes: u64,
}

/// All paths that differ, in byte order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diff {
    /// One for each path.
    pub entries: Vec<DiffEntry>,
    /// Sum of their changed bytes.
    pub changed_bytes: u64,
}

fn as_text<S: serde::Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&String::from_utf8_lossy(bytes))
}

/// A name in a directory.
type Name = (Ino, Vec<u8>);
/// What a name stands for.
type Node = (Ino, NodeKind);
/// A path, and what it stands for.
type Place = (Vec<u8>, Node);
/// What stood at the first point, and what stands at the second in its place.
type Sides = (Option<Place>, Option<Place>);

impl Engine {
    /// What differs between two points of any timelines: added, removed, changed and renamed paths with
    /// byte counts. Everything that returned before the call is in a `Point::Now`. Of a renamed
    /// directory only the directory itself is listed.
    ///
    /// # Errors
    /// `NotFound`, `OutOfRetention`. Cost: the records changed since the point at which the two part (in
    /// either of them), a few reads for each, and the bytes of the changed chunks; memory likewise.
    pub fn diff(&self, from: Point, to: Point) -> Result<Diff> {
        let inner = &self.inner;
        let (a, b) = {
            let mut epoch = inner.exclusive_epoch();
            let closed = inner.close_for(&mut epoch, [from, to]);
            let catalog = inner.catalog.read();
            (
                inner.cutoff(&catalog, from, closed)?,
                inner.cutoff(&catalog, to, closed)?,
            )
        };
        let (hops_a, hops_b) = {
            let catalog = inner.catalog.read();
            (
                catalog.lineage(a.timeline, a.epoch)?,
                catalog.lineage(b.timeline, b.epoch)?,
            )
        };
        let mut changed = BTreeSet::new();
        for window in windows::only_in_one(&hops_a, &hops_b) {
            inner
                .index
                .changes(window.timeline, window.lo, window.hi, |_, key| {
                    if !changed.contains(key) {
                        changed.insert(key.to_vec());
                    }
                    Ok(())
                })?;
        }
        let common = windows::in_both(&hops_a, &hops_b);
        // Numbers from here on were given out on each side on its own: equal ones mean nothing.
        let shared_inos =
            match lineage::get(&inner.index, &common, &RecordKey::NextIno)?.map(|s| s.record) {
                Some(Record::NextIno(next)) => next,
                _ => Ino::ROOT.0 + 1,
            };
        let before = self.volume_at(a.timeline, a.epoch)?;
        let after = self.volume_at(b.timeline, b.epoch)?;
        Comparison {
            before: before.view()?,
            after: after.view()?,
            shared_inos,
        }
        .run(&changed)
    }
}

struct Comparison<'a> {
    before: View<'a>,
    after: View<'a>,
    shared_inos: u64,
}

impl Comparison<'_> {
    /// Whether an inode number means the same file on both sides.
    fn same_file(&self, ino: Ino) -> bool {
        ino.0 < self.shared_inos
    }

    fn run(&self, changed: &BTreeSet<Vec<u8>>) -> Result<Diff> {
        let mut removed: BTreeMap<Name, Node> = BTreeMap::new();
        let mut added: BTreeMap<Name, Node> = BTreeMap::new();
        let mut touched: BTreeMap<Ino, BTreeSet<u32>> = BTreeMap::new();
        for key in changed {
            match RecordKey::decode(key)? {
                RecordKey::Dirent(parent, name) => {
                    let old = entry(&self.before, parent, &name)?;
                    let new = entry(&self.after, parent, &name)?;
                    // Equal numbers of directories that only one side knows are different directories.
                    if old == new
                        && old.is_none_or(|(ino, _)| self.same_file(ino))
                        && self.same_file(parent)
                    {
                        continue;
                    }
                    if let Some(old) = old {
                        removed.insert((parent, name.clone()), old);
                    }
                    if let Some(new) = new {
                        added.insert((parent, name), new);
                    }
                }
                RecordKey::Inode(ino) | RecordKey::Xattr(ino, _) => {
                    touched.entry(ino).or_default();
                }
                RecordKey::Chunk(ino, n) => {
                    touched.entry(ino).or_default().insert(n);
                }
                _ => {}
            }
        }
        let mut diff = Diff::default();
        let mut renamed = BTreeSet::new();
        self.pair_renames(&mut removed, &mut added, &touched, &mut renamed, &mut diff)?;
        for sides in self.pair_paths(removed, added)? {
            self.names(sides, &mut diff)?;
        }
        for (ino, chunks) in &touched {
            if self.same_file(*ino) && !renamed.contains(ino) {
                self.content(*ino, chunks, &mut diff)?;
            }
        }
        // Of one path, what went stands before what came.
        let went = |e: &DiffEntry| e.kind != DiffKind::Removed;
        diff.entries
            .sort_by(|x, y| (&x.path, went(x)).cmp(&(&y.path, went(y))));
        diff.changed_bytes = diff.entries.iter().map(|e| e.changed_bytes).sum();
        Ok(diff)
    }

    /// Takes names of one file that went and came as renames.
    fn pair_renames(
        &self,
        removed: &mut BTreeMap<Name, Node>,
        added: &mut BTreeMap<Name, Node>,
        touched: &BTreeMap<Ino, BTreeSet<u32>>,
        renamed: &mut BTreeSet<Ino>,
        diff: &mut Diff,
    ) -> Result<()> {
        let mut gone: BTreeMap<Ino, Vec<Name>> = BTreeMap::new();
        for (name, (ino, _)) in removed.iter() {
            if self.same_file(*ino) && added.get(name).is_none_or(|(other, _)| other != ino) {
                gone.entry(*ino).or_default().push(name.clone());
            }
        }
        let came: Vec<(Name, Node)> = added.iter().map(|(n, v)| (n.clone(), *v)).collect();
        for (new, (ino, node)) in came {
            let Some(old) = gone.get_mut(&ino).and_then(Vec::pop) else {
                continue;
            };
            removed.remove(&old);
            added.remove(&new);
            renamed.insert(ino);
            let none = BTreeSet::new();
            let chunks = touched.get(&ino).unwrap_or(&none);
            let (_, changed_bytes) = self.compare_same(ino, chunks)?;
            diff.entries.push(DiffEntry {
                path: join(&self.after, new.0, &new.1)?,
                kind: DiffKind::Renamed {
                    from: join(&self.before, old.0, &old.1)?,
                },
                node,
                size_before: self.before.inode(ino)?.size,
                size_after: self.after.inode(ino)?.size,
                changed_bytes,
            });
        }
        Ok(())
    }

    /// Finds for each name that went the one that came in its place.
    fn pair_paths(
        &self,
        removed: BTreeMap<Name, Node>,
        added: BTreeMap<Name, Node>,
    ) -> Result<Vec<Sides>> {
        let mut came: BTreeMap<Vec<u8>, Node> = BTreeMap::new();
        for ((parent, name), node) in added {
            came.insert(join(&self.after, parent, &name)?, node);
        }
        let mut sides = Vec::new();
        let mut replaced = Vec::new();
        for ((parent, name), node) in removed {
            let was = join(&self.before, parent, &name)?;
            let successor = self
                .successor(parent, &came)?
                .map(|dir| under(dir, &name))
                .and_then(|path| came.get(&path).map(|new| (path, *new)));
            replaced.extend(successor.as_ref().map(|(path, _)| path.clone()));
            sides.push((Some((was, node)), successor));
        }
        for path in replaced {
            came.remove(&path);
        }
        sides.extend(came.into_iter().map(|new| (None, Some(new))));
        Ok(sides)
    }

    /// Where a directory of the first tree is in the second one: where it was moved to, or what has
    /// replaced it. `None` if it is gone: something else that has its path by now (another directory that
    /// was moved there, or one made where it was before a rename took it away) is not its successor, so
    /// that what was in it is removed, and not changed.
    fn successor(&self, dir: Ino, came: &BTreeMap<Vec<u8>, Node>) -> Result<Option<Vec<u8>>> {
        let mut names = Vec::new();
        let mut at = dir;
        let mut path = loop {
            if self.same_file(at)
                && let Some(inode) = self.after.find(at)?
                && inode.nlink > 0
            {
                break self.after.path_of(at)?;
            }
            let inode = self.before.inode(at)?;
            names.push(inode.name);
            at = inode.parent;
        };
        for name in names.iter().rev() {
            path = under(path, name);
            if !matches!(came.get(&path), Some((_, NodeKind::Directory))) {
                return Ok(None);
            }
        }
        Ok(Some(path))
    }

    /// A name that stands for something else, or for nothing, on one side.
    fn names(&self, sides: Sides, diff: &mut Diff) -> Result<()> {
        match sides {
            (Some((_, (old, old_kind))), Some((path, (new, new_kind)))) if old_kind == new_kind => {
                let (differs, changed_bytes) = self.compare_files(old, new)?;
                if differs {
                    diff.entries.push(DiffEntry {
                        path,
                        kind: DiffKind::Changed,
                        node: new_kind,
                        size_before: self.before.inode(old)?.size,
                        size_after: self.after.inode(new)?.size,
                        changed_bytes,
                    });
                }
            }
            (old, new) => {
                if let Some((path, (ino, node))) = old {
                    let size = self.before.inode(ino)?.size;
                    diff.entries.push(DiffEntry {
                        path,
                        kind: DiffKind::Removed,
                        node,
                        size_before: size,
                        size_after: 0,
                        changed_bytes: size,
                    });
                }
                if let Some((path, (ino, node))) = new {
                    let size = self.after.inode(ino)?.size;
                    diff.entries.push(DiffEntry {
                        path,
                        kind: DiffKind::Added,
                        node,
                        size_before: 0,
                        size_after: size,
                        changed_bytes: size,
                    });
                }
            }
        }
        Ok(())
    }

    /// A file that both sides have, and that something was done to.
    fn content(&self, ino: Ino, chunks: &BTreeSet<u32>, diff: &mut Diff) -> Result<()> {
        let (Some(old), Some(new)) = (self.before.find(ino)?, self.after.find(ino)?) else {
            return Ok(());
        };
        if old.nlink == 0 || new.nlink == 0 {
            return Ok(());
        }
        let (differs, changed_bytes) = self.compare_same(ino, chunks)?;
        if !differs {
            return Ok(());
        }
        diff.entries.push(DiffEntry {
            path: self.after.path_of(ino)?,
            kind: DiffKind::Changed,
            node: new.kind,
            size_before: old.size,
            size_after: new.size,
            changed_bytes,
        });
        Ok(())
    }
}

fn entry(view: &View<'_>, parent: Ino, name: &[u8]) -> Result<Option<Node>> {
    Ok(
        match view
            .get(&RecordKey::Dirent(parent, name.to_vec()))?
            .map(|s| s.record)
        {
            Some(Record::Dirent { ino, kind }) => Some((ino, kind)),
            _ => None,
        },
    )
}

fn join(view: &View<'_>, parent: Ino, name: &[u8]) -> Result<Vec<u8>> {
    Ok(under(view.path_of(parent)?, name))
}

fn under(mut dir: Vec<u8>, name: &[u8]) -> Vec<u8> {
    if dir != b"/" {
        dir.push(b'/');
    }
    dir.extend_from_slice(name);
    dir
}
