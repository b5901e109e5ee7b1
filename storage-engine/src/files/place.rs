//! Putting and removing whole files by their path in one commit, with the directories that this needs
//! or leaves empty: what the object interface changes a tree with.
//!
//! Directories that a put makes on the way to its file carry the attribute [`IMPLIED`]: they are there
//! for the keys below them only, and go when a removal through this door leaves them empty. A directory
//! that somebody put as a key of its own carries [`MARKER`]. A directory made as a file is neither.

use std::collections::BTreeMap;

use crate::commit::Txn;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, FileId, Ino, Position};
use crate::index::keys::{RecordKey, chunks_of, xattrs_of};
use crate::index::records::{CHUNK_BYTES, Chunk, Extent, Inode, Record, SUM_BYTES};

use super::chunk;
use super::node::{add_entry, directory, drop_link, make, remove_entry};
use super::orphan::erase;
use super::types::{Caller, NewNode, NodeKind};
use super::volume::Volume;

/// Marks a directory that a put made for a key below it.
pub(crate) const IMPLIED: &[u8] = b"user.anabranch.implied";
/// Marks a directory that is a key itself.
pub(crate) const MARKER: &[u8] = b"user.anabranch.marker";

/// What a commit holds at most of a sealed file's chunk records (8 GiB of data, about 7 MB of rows);
/// the records of a longer file are prepared in steps. Unit tests take few, to have steps at all.
const STEP_CHUNKS: u64 = if cfg!(test) { 4 } else { 64 << 10 };
/// A replaced file of at most so many chunks (128 MiB) is removed in the commit that replaces it.
const ERASE_CHUNKS: usize = if cfg!(test) { 4 } else { 1 << 10 };
const SET_IDS: u32 = 0o6000;

/// Bytes of a file to place.
#[derive(Clone, Copy)]
pub(crate) enum Content<'a> {
    /// They go into the log.
    Bytes(&'a [u8]),
    /// They are a sealed object file; `sums` has one checksum for each [`SUM_BYTES`].
    Sealed {
        id: FileId,
        size: u64,
        sums: &'a [u32],
    },
}

/// A file, or a directory that is a key, to put at a path.
pub(crate) struct Placing<'a> {
    /// Names from the root on; never empty.
    pub path: &'a [&'a [u8]],
    /// `None`: as the file that is replaced, otherwise 0644 (a directory: 0755).
    pub mode: Option<u32>,
    /// `None`: as the file that is replaced, otherwise as the directory.
    pub uid: Option<u32>,
    /// The same.
    pub gid: Option<u32>,
    pub xattrs: &'a BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What was done.
pub(crate) struct Placed {
    pub epoch: Epoch,
    pub position: Position,
    /// Where in the log its bytes begin, if they are there.
    pub data: (FileId, u64),
}

/// Decides, on the state that is about to be changed, whether it may be.
pub(crate) type Allow<'a> = dyn Fn(&Txn<'_>, Option<(Ino, &Inode)>) -> Result<()> + 'a;

/// Where a path leads.
struct Spot {
    /// The deepest directory on the way that exists.
    dir: Ino,
    /// How many of the path's names lead to it.
    depth: usize,
    /// What the last name stands for, if all before it exist.
    there: Option<(Ino, NodeKind)>,
}

impl Volume {
    /// Puts a regular file at a path, in place of the one that is there. Readers of the path see the old
    /// file or the new one. Cost: one commit, and one read for each component.
    ///
    /// # Errors
    /// `NotADirectory` (a component is none), `IsADirectory`, `AlreadyExists` (something that is no
    /// regular file stands there), and what `allow` says.
    pub(crate) fn place_file(
        &self,
        new: &Placing<'_>,
        content: Content<'_>,
        allow: &Allow<'_>,
    ) -> Result<Placed> {
        let staged = match content {
            Content::Sealed { size, .. } if size.div_ceil(CHUNK_BYTES) > STEP_CHUNKS => {
                Some(self.stage(content)?)
            }
            _ => None,
        };
        let placed = self.place_file_once(new, content, staged, allow);
        if let (Err(_), Some(ino)) = (&placed, staged) {
            self.reap_later(ino);
        }
        placed
    }

    fn place_file_once(
        &self,
        new: &Placing<'_>,
        content: Content<'_>,
        staged: Option<Ino>,
        allow: &Allow<'_>,
    ) -> Result<Placed> {
        let Some((leaf, parents)) = new.path.split_last() else {
            return Err(Error::invalid("a file needs a name"));
        };
        // Hashing is done before the locks are taken, as for a write.
        let hash = match content {
            Content::Bytes(bytes) => Some(*blake3::hash(bytes).as_bytes()),
            Content::Sealed { .. } => None,
        };
        let (mut txn, spot) = self.begin_at(new.path)?;
        let old = match spot.there {
            None => None,
            Some((ino, NodeKind::File)) => Some((ino, txn.inode(ino)?)),
            Some((_, NodeKind::Directory)) => {
                return Err(Error::new(
                    ErrorKind::IsADirectory,
                    format!(
                        "{} is a directory: no object can have its name",
                        show(new.path)
                    ),
                ));
            }
            Some(_) => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!(
                        "{} is a symbolic link or a special file, which no object can replace: remove it first",
                        show(new.path)
                    ),
                ));
            }
        };
        allow(&txn, old.as_ref().map(|(ino, inode)| (*ino, inode)))?;
        let (parent, mut dir) = make_parents(&mut txn, &spot, parents)?;
        let caller = Caller {
            uid: old.as_ref().map_or(dir.uid, |o| o.1.uid),
            gid: old.as_ref().map_or(dir.gid, |o| o.1.gid),
            ..Caller::default()
        };
        let (ino, mut inode) = match staged {
            None => make(&mut txn, &caller, &dir, &file(0))?,
            Some(ino) => {
                let inode = txn.inode(ino).map_err(|_| {
                    Error::new(
                        ErrorKind::Unavailable,
                        "the timeline was mounted while this object was put: put it again",
                    )
                })?;
                txn.delete(RecordKey::Orphan(ino));
                (ino, inode)
            }
        };
        let old_mode = old.as_ref().map_or(0o644, |o| o.1.mode & !SET_IDS);
        inode.mode = new.mode.map_or(old_mode, |m| m & 0o7777);
        inode.uid = new.uid.unwrap_or(caller.uid);
        inode.gid = new
            .gid
            .unwrap_or(if old.is_some() { caller.gid } else { inode.gid });
        (inode.nlink, inode.parent, inode.name) = (1, parent, leaf.to_vec());
        let now = txn.now();
        (inode.atime, inode.mtime, inode.ctime, inode.btime) = (now, now, now, now);
        inode.has_xattrs = !new.xattrs.is_empty();
        for (name, value) in new.xattrs {
            txn.put(
                RecordKey::Xattr(ino, name.clone()),
                Record::Xattr(value.clone()),
            );
        }
        if staged.is_none() {
            fill(&mut txn, ino, &mut inode, content, u64::MAX)?;
        }
        if let Some(hash) = hash
            && let Content::Bytes(bytes) = content
            && txn.data_is(bytes)
        {
            txn.set_data_hash(hash);
        }
        if old.is_some() {
            remove_entry(&mut txn, parent, &mut dir, leaf, NodeKind::File);
        }
        add_entry(&mut txn, parent, &mut dir, leaf, ino, NodeKind::File);
        txn.put_inode(ino, inode);
        txn.put_inode(parent, dir);
        let mut left = Vec::new();
        if let Some((old, _)) = old {
            drop_link(&mut txn, old, parent, leaf)?;
            left = self.bury(&mut txn, &[old])?;
        }
        txn.check_quota()?;
        let epoch = txn.epoch();
        let (position, segment, start) = txn.commit_at()?;
        left.into_iter().for_each(|ino| self.reap_later(ino));
        Ok(Placed {
            epoch,
            position,
            data: (segment, start),
        })
    }

    /// Makes the directory at a path, if it is not there, and marks it as a key. Its attributes that
    /// `keep` does not name are replaced. Cost: one commit.
    pub(crate) fn place_directory(
        &self,
        new: &Placing<'_>,
        keep: &dyn Fn(&[u8]) -> bool,
        allow: &Allow<'_>,
    ) -> Result<Placed> {
        let Some((leaf, parents)) = new.path.split_last() else {
            return Err(Error::invalid("a directory needs a name"));
        };
        let (mut txn, spot) = self.begin_at(new.path)?;
        let (ino, mut inode) = match spot.there {
            Some((ino, NodeKind::Directory)) => {
                let inode = txn.inode(ino)?;
                let marked = inode.has_xattrs && has_xattr(&txn, ino, MARKER)?;
                allow(&txn, marked.then_some((ino, &inode)))?;
                if inode.has_xattrs {
                    for key in txn.keys(&xattrs_of(ino), usize::MAX)? {
                        if let RecordKey::Xattr(_, name) = &key
                            && !keep(name)
                        {
                            txn.delete(key);
                        }
                    }
                }
                (ino, inode)
            }
            Some(_) => return Err(not_a_directory(new.path)),
            None => {
                allow(&txn, None)?;
                let (parent, mut dir) = make_parents(&mut txn, &spot, parents)?;
                let (ino, inode) = make_directory(&mut txn, parent, &dir, leaf)?;
                add_entry(&mut txn, parent, &mut dir, leaf, ino, NodeKind::Directory);
                txn.put_inode(parent, dir);
                (ino, inode)
            }
        };
        inode.mode = new.mode.map_or(inode.mode, |m| m & 0o7777);
        inode.uid = new.uid.unwrap_or(inode.uid);
        inode.gid = new.gid.unwrap_or(inode.gid);
        inode.has_xattrs = true;
        inode.mtime = txn.now();
        inode.ctime = txn.now();
        txn.put(
            RecordKey::Xattr(ino, MARKER.to_vec()),
            Record::Xattr(b"1".to_vec()),
        );
        for (name, value) in new.xattrs {
            txn.put(
                RecordKey::Xattr(ino, name.clone()),
                Record::Xattr(value.clone()),
            );
        }
        txn.put_inode(ino, inode);
        txn.check_quota()?;
        let epoch = txn.epoch();
        let (position, segment, start) = txn.commit_at()?;
        Ok(Placed {
            epoch,
            position,
            data: (segment, start),
        })
    }

    /// Removes the regular file at a path, and the implied directories that this leaves empty. `None` if
    /// there is none. Cost: one commit, and one read for each component.
    pub(crate) fn remove_file(
        &self,
        path: &[&[u8]],
        allow: &Allow<'_>,
    ) -> Result<Option<Position>> {
        self.remove(path, allow, |_, spot| match spot.there {
            Some((ino, NodeKind::File)) => Ok(Some(ino)),
            _ => Ok(None),
        })
    }

    /// Takes the mark of a key from the directory at a path, and removes it if it is empty; otherwise it
    /// stays for what is below it. `None` if it is no key. Cost: as for a file.
    pub(crate) fn remove_directory(
        &self,
        path: &[&[u8]],
        allow: &Allow<'_>,
    ) -> Result<Option<Position>> {
        self.remove(path, allow, |txn, spot| match spot.there {
            Some((ino, NodeKind::Directory)) => Ok(has_xattr(txn, ino, MARKER)?.then_some(ino)),
            _ => Ok(None),
        })
    }

    fn remove(
        &self,
        path: &[&[u8]],
        allow: &Allow<'_>,
        find: impl Fn(&Txn<'_>, &Spot) -> Result<Option<Ino>>,
    ) -> Result<Option<Position>> {
        let (mut txn, spot) = match self.begin_at(path) {
            Ok(begun) => begun,
            Err(e) if e.kind() == ErrorKind::NotADirectory => return Ok(None),
            Err(e) => return Err(e),
        };
        let found = find(&txn, &spot)?;
        let inode = found.map(|ino| txn.inode(ino)).transpose()?;
        allow(&txn, found.zip(inode.as_ref()))?;
        let (Some(ino), Some(mut inode)) = (found, inode) else {
            return Ok(None);
        };
        let mut gone = Vec::new();
        let mut names = path;
        let mut at = ino;
        if inode.kind == NodeKind::Directory {
            txn.delete(RecordKey::Xattr(ino, MARKER.to_vec()));
            txn.put(
                RecordKey::Xattr(ino, IMPLIED.to_vec()),
                Record::Xattr(b"1".to_vec()),
            );
            inode.ctime = txn.now();
            txn.put_inode(ino, inode);
        } else {
            at = detach(&mut txn, spot.dir, path, NodeKind::File, ino)?;
            gone.push(ino);
            names = &path[..path.len() - 1];
        }
        // Up the path, as long as nothing but this kept the directories there.
        while !names.is_empty()
            && txn.inode(at)?.entries == 0
            && has_xattr(&txn, at, IMPLIED)?
            && !has_xattr(&txn, at, MARKER)?
        {
            let parent = txn.inode(at)?.parent;
            let removed = at;
            at = detach(&mut txn, parent, names, NodeKind::Directory, removed)?;
            gone.push(removed);
            names = &names[..names.len() - 1];
        }
        let left = self.bury(&mut txn, &gone)?;
        let position = txn.commit()?;
        left.into_iter().for_each(|ino| self.reap_later(ino));
        Ok(Some(position))
    }

    /// Begins a change of what stands at a path. What this door has put or removed is kept for as long
    /// as history is: if it happened in the open epoch, that is closed first.
    fn begin_at(&self, path: &[&[u8]]) -> Result<(Txn<'_>, Spot)> {
        let keeps_history = {
            let catalog = self.inner().catalog.read();
            let record = catalog.live_timeline(self.timeline())?;
            !record.settings.retain.is_zero()
        };
        loop {
            let txn = self.begin(&Caller::default())?;
            let spot = find(&txn, path)?;
            if keeps_history
                && let Some(leaf) = path.last()
                && spot.depth + 1 == path.len()
            {
                let mut fresh =
                    txn.changed_in_open_epoch(&RecordKey::Dirent(spot.dir, leaf.to_vec()))?;
                if let Some((ino, _)) = spot.there {
                    fresh = fresh || txn.changed_in_open_epoch(&RecordKey::Inode(ino))?;
                }
                if fresh {
                    drop(txn);
                    self.engine().tick()?;
                    continue;
                }
            }
            return Ok((txn, spot));
        }
    }

    /// Removes unlinked inodes at once if nobody can have them open; returns those that are too large
    /// for this commit. With a mount, its kernel tells when it has forgotten them.
    fn bury(&self, txn: &mut Txn<'_>, inos: &[Ino]) -> Result<Vec<Ino>> {
        let mut left = Vec::new();
        // Whoever mounts the timeline listens before anything can be opened, and cannot look anything up
        // while this transaction lasts.
        if self.inner().observers.any(self.timeline()) {
            return Ok(left);
        }
        for &ino in inos {
            let inode = txn.inode(ino)?;
            if inode.nlink > 0 {
                continue;
            }
            if txn.keys(&chunks_of(ino), ERASE_CHUNKS + 1)?.len() > ERASE_CHUNKS {
                left.push(ino);
            } else {
                erase(txn, ino, &inode)?;
            }
        }
        Ok(left)
    }

    /// Reaps what is only a leftover: what was asked for is done, whether this succeeds or not.
    fn reap_later(&self, ino: Ino) {
        if let Err(error) = self.reap(ino) {
            tracing::warn!(timeline = %self.timeline(), %ino, %error,
                "cannot remove an unlinked file; the next mount or unmount of the timeline does");
        }
    }

    /// Prepares the inode of a file whose chunk records do not fit into one commit, without a name. If
    /// the process dies here, it is an orphan like others: the next mount or unmount removes it.
    fn stage(&self, content: Content<'_>) -> Result<Ino> {
        let mut staged = None;
        let filled = (|| {
            loop {
                let mut txn = self.begin(&Caller::default())?;
                let (ino, mut inode) = match staged {
                    Some(ino) => (ino, txn.inode(ino)?),
                    None => {
                        let dir = directory(&txn, Ino::ROOT)?;
                        make(&mut txn, &Caller::default(), &dir, &file(0))?
                    }
                };
                inode.nlink = 0;
                let full = fill(&mut txn, ino, &mut inode, content, STEP_CHUNKS)?;
                txn.put_inode(ino, inode);
                txn.put(RecordKey::Orphan(ino), Record::Mark);
                txn.check_quota()?;
                txn.commit()?;
                staged = Some(ino);
                if full {
                    return Ok(ino);
                }
            }
        })();
        if let (Err(_), Some(ino)) = (&filled, staged) {
            self.reap_later(ino);
        }
        filled
    }
}

/// Adds the next chunks of the content to an inode that holds the ones before; says whether it has all.
fn fill(
    txn: &mut Txn<'_>,
    ino: Ino,
    inode: &mut Inode,
    content: Content<'_>,
    max_chunks: u64,
) -> Result<bool> {
    let before = (txn.usage.allocated, inode.size);
    match content {
        Content::Bytes(bytes) => {
            inode.size = bytes.len() as u64;
            for (n, part) in (0..).zip(bytes.chunks(CHUNK_BYTES as usize)) {
                chunk::write(txn, ino, n, 0, part, inode.size)?;
            }
        }
        Content::Sealed { id, size, sums } => {
            let per_chunk = (CHUNK_BYTES / u64::from(SUM_BYTES)) as usize;
            let first = inode.size / CHUNK_BYTES;
            let last = size
                .div_ceil(CHUNK_BYTES)
                .min(first.saturating_add(max_chunks));
            for n in first..last {
                let offset = n * CHUNK_BYTES;
                let take = (size - offset).min(CHUNK_BYTES) as u32;
                let from = n as usize * per_chunk;
                let to = from + (take.div_ceil(SUM_BYTES)) as usize;
                let sums = sums
                    .get(from..to)
                    .ok_or_else(|| Error::invalid("a sealed file lacks checksums"))?;
                let extent = Extent {
                    at: 0,
                    take,
                    skip: 0,
                    born: txn.epoch().0,
                    inherited: false,
                    file: id,
                    offset,
                    length: take,
                    sums: sums.to_vec(),
                };
                txn.count_own(u64::from(take));
                txn.put(
                    RecordKey::Chunk(ino, n as u32),
                    Record::Chunk(Chunk::Extents(vec![extent])),
                );
            }
            inode.size = size.min(last * CHUNK_BYTES);
            if inode.size == size {
                inode.object = id;
            }
        }
    }
    inode.allocated += txn.usage.allocated - before.0;
    txn.usage.logical += inode.size - before.1;
    Ok(match content {
        Content::Bytes(_) => true,
        Content::Sealed { size, .. } => inode.size == size,
    })
}

/// Follows a path as far as it exists.
fn find(txn: &Txn<'_>, path: &[&[u8]]) -> Result<Spot> {
    let mut dir = Ino::ROOT;
    for (depth, name) in path.iter().enumerate() {
        let there = match txn.get(&RecordKey::Dirent(dir, name.to_vec()))? {
            Some((Record::Dirent { ino, kind }, _)) => Some((ino, kind)),
            Some(_) => return Err(Error::corrupt("a dirent record holds something else")),
            None => None,
        };
        if depth + 1 == path.len() || there.is_none() {
            return Ok(Spot { dir, depth, there });
        }
        match there {
            Some((ino, NodeKind::Directory)) => dir = ino,
            _ => return Err(not_a_directory(&path[..=depth])),
        }
    }
    Err(Error::invalid("an empty path has no place"))
}

/// Makes the directories that the path still lacks; gives the last one, whose inode the caller writes.
fn make_parents(txn: &mut Txn<'_>, spot: &Spot, parents: &[&[u8]]) -> Result<(Ino, Inode)> {
    let mut at = spot.dir;
    let mut dir = directory(txn, at)?;
    for name in parents.iter().skip(spot.depth) {
        let (ino, mut inode) = make_directory(txn, at, &dir, name)?;
        inode.has_xattrs = true;
        txn.put(
            RecordKey::Xattr(ino, IMPLIED.to_vec()),
            Record::Xattr(b"1".to_vec()),
        );
        add_entry(txn, at, &mut dir, name, ino, NodeKind::Directory);
        txn.put_inode(at, dir);
        (at, dir) = (ino, inode);
    }
    Ok((at, dir))
}

fn make_directory(
    txn: &mut Txn<'_>,
    parent: Ino,
    dir: &Inode,
    name: &[u8],
) -> Result<(Ino, Inode)> {
    let caller = Caller {
        uid: dir.uid,
        gid: dir.gid,
        ..Caller::default()
    };
    let new = NewNode {
        kind: NodeKind::Directory,
        mode: 0o755,
        rdev: 0,
        target: &[],
    };
    let (ino, mut inode) = make(txn, &caller, dir, &new)?;
    (inode.parent, inode.name) = (parent, name.to_vec());
    Ok((ino, inode))
}

/// Takes the last name of a path out of its directory; gives the directory.
fn detach(txn: &mut Txn<'_>, parent: Ino, path: &[&[u8]], kind: NodeKind, ino: Ino) -> Result<Ino> {
    let Some(name) = path.last() else {
        return Err(Error::invalid("the root cannot be removed"));
    };
    let mut dir = directory(txn, parent)?;
    remove_entry(txn, parent, &mut dir, name, kind);
    txn.put_inode(parent, dir);
    drop_link(txn, ino, parent, name)?;
    Ok(parent)
}

fn has_xattr(txn: &Txn<'_>, ino: Ino, name: &[u8]) -> Result<bool> {
    Ok(txn.get(&RecordKey::Xattr(ino, name.to_vec()))?.is_some())
}

fn file(mode: u32) -> NewNode<'static> {
    NewNode {
        kind: NodeKind::File,
        mode,
        rdev: 0,
        target: &[],
    }
}

fn not_a_directory(path: &[&[u8]]) -> Error {
    Error::new(
        ErrorKind::NotADirectory,
        format!("{} is not a directory: nothing can be below it", show(path)),
    )
}

/// A path as a person reads it.
fn show(path: &[&[u8]]) -> String {
    let joined = path.join(&b'/');
    format!("{:?}", String::from_utf8_lossy(&joined))
}
