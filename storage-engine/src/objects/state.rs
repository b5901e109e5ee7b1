//! An object as one state of a timeline has it.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::files::place::{IMPLIED, MARKER};
use crate::files::types::{NodeKind, Time};
use crate::ids::{Epoch, FileId, Ino};
use crate::index::keys::{RecordKey, chunks_of, xattrs_of};
use crate::index::lineage::{self, Hop, Scan, Seen};
use crate::index::records::{self, CHUNK_BYTES, Chunk, INLINE_BYTES, Inode, NO_OBJECT, Record};
use crate::rocks::Index;

use super::key::Key;

/// Attribute that holds the content type: the one that desktops and `file` managers use for files.
pub(super) const CONTENT_TYPE: &[u8] = b"user.mime_type";
/// Attributes that hold the user's metadata start with this.
pub(super) const METADATA: &[u8] = b"user.anabranch.meta.";

/// A state to read: the hops of a lineage.
#[derive(Clone, Copy)]
pub(super) struct State<'a> {
    pub index: &'a Index,
    pub hops: &'a [Hop],
}

/// An object found in a state.
pub(super) struct Found {
    pub ino: Ino,
    pub inode: Inode,
    /// Epoch of the newest change of the path to it.
    pub named: Epoch,
    /// Epoch of the newest change of its inode.
    pub changed: Epoch,
}

/// What is told of an object besides its bytes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Notes {
    pub content_type: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub marker: bool,
}

/// An object's identity: two states that agree on it have the same version of the object.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Identity {
    pub ino: Ino,
    pub etag: String,
    pub notes: Notes,
    pub size: u64,
    pub modified: Time,
}

impl Identity {
    /// Whether the two are one version. The time does not count: it can be set at will.
    pub fn same(&self, other: &Self) -> bool {
        self.ino == other.ino && self.etag == other.etag && self.notes == other.notes
    }
}

impl<'a> State<'a> {
    pub fn get(&self, key: &RecordKey) -> Result<Option<Seen>> {
        lineage::get(self.index, self.hops, key)
    }

    pub fn scan(&self, prefix: &[u8], from: &[u8]) -> Scan<'a> {
        Scan::new(self.index, self.hops, prefix, from)
    }

    /// The first epoch in which the timeline's own versions count here. What an ancestor wrote is there
    /// since then, as far as this timeline's history goes.
    pub fn start(&self) -> Epoch {
        self.hops
            .first()
            .map_or(Epoch::ZERO, |h| Epoch(h.lo.0.saturating_add(1)))
    }

    /// Since when a record stands as it does.
    pub fn since(&self, seen: &Seen) -> Epoch {
        if seen.hop == 0 {
            seen.epoch
        } else {
            self.start()
        }
    }

    /// The same lineage at an epoch within its first hop.
    pub fn hops_at(&self, epoch: Epoch) -> Vec<Hop> {
        let mut hops = self.hops.to_vec();
        if let Some(first) = hops.first_mut() {
            first.hi = epoch;
        }
        hops
    }

    /// The inode and since when it is so.
    pub fn inode(&self, ino: Ino) -> Result<Option<(Inode, Epoch)>> {
        match self.get(&RecordKey::Inode(ino))? {
            None => Ok(None),
            Some(seen) => {
                let since = self.since(&seen);
                match seen.record {
                    Record::Inode(inode) => Ok(Some((inode, since))),
                    _ => Err(Error::corrupt("an inode record holds something else")),
                }
            }
        }
    }

    /// What a name in a directory stands for, and since when.
    pub fn entry(&self, dir: Ino, name: &[u8]) -> Result<Option<(Ino, NodeKind, Epoch)>> {
        match self.get(&RecordKey::Dirent(dir, name.to_vec()))? {
            None => Ok(None),
            Some(seen) => {
                let since = self.since(&seen);
                match seen.record {
                    Record::Dirent { ino, kind } => Ok(Some((ino, kind, since))),
                    _ => Err(Error::corrupt("a dirent record holds something else")),
                }
            }
        }
    }

    /// The object of a key. Cost: a read for each component, and one.
    pub fn find(&self, key: &Key<'_>) -> Result<Option<Found>> {
        let mut at = (Ino::ROOT, NodeKind::Directory);
        let mut named = Epoch::ZERO;
        for name in &key.path {
            if at.1 != NodeKind::Directory {
                return Ok(None);
            }
            let Some((ino, kind, since)) = self.entry(at.0, name)? else {
                return Ok(None);
            };
            at = (ino, kind);
            named = named.max(since);
        }
        let wanted = if key.marker {
            NodeKind::Directory
        } else {
            NodeKind::File
        };
        if at.1 != wanted {
            return Ok(None);
        }
        let Some((inode, changed)) = self.inode(at.0)? else {
            return Ok(None);
        };
        if key.marker && !self.is_marker(at.0, &inode)? {
            return Ok(None);
        }
        Ok(Some(Found {
            ino: at.0,
            inode,
            named,
            changed,
        }))
    }

    /// Whether a directory is a key itself.
    pub fn is_marker(&self, ino: Ino, inode: &Inode) -> Result<bool> {
        Ok(inode.has_xattrs && self.get(&RecordKey::Xattr(ino, MARKER.to_vec()))?.is_some())
    }

    /// The entity tag of a file's bytes: a hash of where they stand in the append-only store, which no
    /// other bytes ever do; of bytes that stand in the index, a hash of themselves. Timelines that share
    /// the bytes have the same tag. It does not look like an MD5 sum, because it is none.
    /// Cost: none for a sealed file, one row for each 128 KiB otherwise.
    pub fn etag(&self, ino: Ino, inode: &Inode) -> Result<String> {
        if inode.kind != NodeKind::File {
            return Ok(etag_of_marker());
        }
        if inode.object != NO_OBJECT {
            return Ok(etag_of_sealed(inode.size, inode.object));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&inode.size.to_be_bytes());
        let prefix = chunks_of(ino);
        let mut scan = self.scan(&prefix, &prefix);
        while let Some((key, seen)) = scan.next()? {
            let (RecordKey::Chunk(_, n), Record::Chunk(chunk)) = (key, seen.record) else {
                return Err(Error::corrupt("a chunk record holds something else"));
            };
            match chunk {
                Chunk::Inline { bytes, .. } => {
                    add_inline(&mut hasher, n, &bytes);
                }
                Chunk::Extents(extents) => {
                    for e in extents {
                        let from = e.offset + u64::from(e.skip);
                        add_piece(&mut hasher, n, (e.at, e.take), e.file, from);
                    }
                }
            }
        }
        Ok(tag_of(&hasher))
    }

    /// Content type and metadata. Cost: none without attributes, otherwise their number.
    pub fn notes(&self, ino: Ino, inode: &Inode) -> Result<Notes> {
        let mut notes = Notes::default();
        if !inode.has_xattrs {
            return Ok(notes);
        }
        let prefix = xattrs_of(ino);
        let mut scan = self.scan(&prefix, &prefix);
        while let Some((key, seen)) = scan.next()? {
            let (RecordKey::Xattr(_, name), Record::Xattr(value)) = (key, seen.record) else {
                return Err(Error::corrupt("an xattr record holds something else"));
            };
            if name == MARKER {
                notes.marker = true;
                continue;
            }
            // What somebody else wrote there and is no text cannot be shown as text.
            let Ok(value) = String::from_utf8(value) else {
                continue;
            };
            if name == CONTENT_TYPE {
                notes.content_type = Some(value);
            } else if let Some(name) = name.strip_prefix(METADATA)
                && let Ok(name) = std::str::from_utf8(name)
            {
                notes.metadata.insert(name.to_owned(), value);
            }
        }
        Ok(notes)
    }

    /// What makes the object the version that it is.
    pub fn identity(&self, ino: Ino, inode: &Inode) -> Result<Identity> {
        Ok(Identity {
            ino,
            etag: self.etag(ino, inode)?,
            notes: self.notes(ino, inode)?,
            size: size_of(inode),
            modified: inode.mtime,
        })
    }

    /// Epoch at which this version of the object began: the newest change of its path or of what it is.
    /// A change of its inode that left both alone (of a mode, of a time) does not count.
    /// Cost: usually one read.
    pub fn version(&self, found: &Found, identity: &Identity) -> Result<Epoch> {
        let mut since = found.changed;
        while since > found.named {
            match self.before(found.ino, since)? {
                Some((older, epoch)) if older.same(identity) => since = epoch,
                _ => break,
            }
        }
        Ok(since.max(found.named))
    }

    /// The identity of the inode before a change in the first hop, and since when it was so.
    fn before(&self, ino: Ino, epoch: Epoch) -> Result<Option<(Identity, Epoch)>> {
        if epoch <= self.start() {
            return Ok(None);
        }
        let hops = self.hops_at(Epoch(epoch.0 - 1));
        let older = State {
            index: self.index,
            hops: &hops,
        };
        let Some((inode, since)) = older.inode(ino)? else {
            return Ok(None);
        };
        Ok(Some((older.identity(ino, &inode)?, since)))
    }

    /// All versions of a record in the first hop with an epoch in `[from, to)`, oldest first, tombstones
    /// included. Cost: all versions of the record in the timeline.
    pub fn changes(
        &self,
        key: &RecordKey,
        from: Epoch,
        to: Epoch,
    ) -> Result<Vec<(Epoch, Option<Record>)>> {
        let Some(own) = self.hops.first() else {
            return Ok(Vec::new());
        };
        let relative = key.encode();
        let mut out = Vec::new();
        self.index.versions(own.timeline, &relative, |rest, row| {
            let Some(inverted) = rest.strip_prefix(relative.as_slice()) else {
                return Ok(());
            };
            let Ok(inverted) = <[u8; 8]>::try_from(inverted) else {
                return Ok(());
            };
            let epoch = Epoch(!u64::from_be_bytes(inverted));
            if epoch > own.lo && epoch <= own.hi && epoch >= from && epoch < to {
                out.push((epoch, records::decode(key, row)?));
            }
            Ok(())
        })?;
        out.reverse();
        Ok(out)
    }
}

/// Length of the object: a directory that is a key has no bytes.
pub(super) fn size_of(inode: &Inode) -> u64 {
    if inode.kind == NodeKind::File {
        inode.size
    } else {
        0
    }
}

/// Attributes of a directory that putting it as a key again leaves alone.
pub(super) fn is_foreign(name: &[u8]) -> bool {
    name != CONTENT_TYPE && name != IMPLIED && !name.starts_with(METADATA)
}

fn tag_of(hasher: &blake3::Hasher) -> String {
    format!("{}-0", hex::encode(&hasher.finalize().as_bytes()[..16]))
}

/// The tag of a sealed file.
pub(super) fn etag_of_sealed(size: u64, object: FileId) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&size.to_be_bytes())
        .update(&[2])
        .update(&object.0);
    tag_of(&hasher)
}

/// The tag of bytes that were put into the log as they are, from `start` of a segment on.
pub(super) fn etag_of_bytes(bytes: &[u8], segment: FileId, start: u64) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(bytes.len() as u64).to_be_bytes());
    if bytes.len() as u64 <= INLINE_BYTES {
        if !bytes.is_empty() {
            add_inline(&mut hasher, 0, bytes);
        }
        return tag_of(&hasher);
    }
    let mut from = start;
    for (n, part) in (0..).zip(bytes.chunks(CHUNK_BYTES as usize)) {
        add_piece(&mut hasher, n, (0, part.len() as u32), segment, from);
        from += part.len() as u64;
    }
    tag_of(&hasher)
}

/// The tag of a directory that is a key.
pub(super) fn etag_of_marker() -> String {
    tag_of(&blake3::Hasher::new())
}

fn add_inline(hasher: &mut blake3::Hasher, n: u32, bytes: &[u8]) {
    hasher
        .update(&[0])
        .update(&n.to_be_bytes())
        .update(&(bytes.len() as u32).to_be_bytes())
        .update(bytes);
}

fn add_piece(hasher: &mut blake3::Hasher, n: u32, (at, take): (u32, u32), file: FileId, from: u64) {
    hasher
        .update(&[1])
        .update(&n.to_be_bytes())
        .update(&at.to_be_bytes())
        .update(&take.to_be_bytes())
        .update(&file.0)
        .update(&from.to_be_bytes());
}
