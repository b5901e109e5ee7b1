//! Whether, and in how many bytes, two files differ.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::files::View;
use crate::files::types::NodeKind;
use crate::ids::Ino;
use crate::index::keys::{RecordKey, xattrs_of};
use crate::index::records::{CHUNK_BYTES, Chunk, Inode, Record};

use super::Comparison;

impl Comparison<'_> {
    /// Compares one file on both sides where only `chunks` were written.
    pub(super) fn compare_same(&self, ino: Ino, chunks: &BTreeSet<u32>) -> Result<(bool, u64)> {
        let (old, new) = (self.before.inode(ino)?, self.after.inode(ino)?);
        let mut bytes = 0;
        if old.kind == NodeKind::File {
            // A shorter or longer end differs even where it is a hole.
            bytes += tail_only(old.size, new.size, chunks);
            for n in chunks {
                bytes += self.chunk((ino, old.size), (ino, new.size), *n)?;
            }
        }
        let differs = bytes > 0
            || old.size != new.size
            || self.attributes_differ((ino, &old), (ino, &new))?;
        Ok((differs, bytes))
    }

    /// Compares two different files of one kind under one name.
    pub(super) fn compare_files(&self, a: Ino, b: Ino) -> Result<(bool, u64)> {
        let (old, new) = (self.before.inode(a)?, self.after.inode(b)?);
        let mut bytes = 0;
        if old.kind == NodeKind::File {
            let chunks = old.size.max(new.size).div_ceil(CHUNK_BYTES);
            for n in 0..chunks {
                bytes += self.chunk((a, old.size), (b, new.size), n as u32)?;
            }
        }
        let differs =
            bytes > 0 || old.size != new.size || self.attributes_differ((a, &old), (b, &new))?;
        Ok((differs, bytes))
    }

    fn attributes_differ(&self, (a, old): (Ino, &Inode), (b, new): (Ino, &Inode)) -> Result<bool> {
        let plain = |i: &Inode| (i.mode, i.uid, i.gid, i.rdev, i.target.clone());
        if plain(old) != plain(new) {
            return Ok(true);
        }
        if !old.has_xattrs && !new.has_xattrs {
            return Ok(false);
        }
        Ok(xattrs(&self.before, a)? != xattrs(&self.after, b)?)
    }

    /// Bytes of one chunk that differ. The stored pieces are compared first: equal ones need no reading.
    fn chunk(&self, (a, a_size): (Ino, u64), (b, b_size): (Ino, u64), n: u32) -> Result<u64> {
        let key = |ino| RecordKey::Chunk(ino, n);
        let (old, new) = (
            record(&self.before, &key(a))?,
            record(&self.after, &key(b))?,
        );
        let start = u64::from(n) * CHUNK_BYTES;
        let len = |size: u64| size.saturating_sub(start).min(CHUNK_BYTES) as usize;
        let (old_len, new_len) = (len(a_size), len(b_size));
        if old_len == new_len && same_pieces(&old, &new) {
            return Ok(0);
        }
        let (mut x, mut y) = (vec![0; old_len], vec![0; new_len]);
        self.before.read_into(a, start, &mut x)?;
        self.after.read_into(b, start, &mut y)?;
        let differing = x.iter().zip(&y).filter(|(p, q)| p != q).count();
        Ok((differing + old_len.abs_diff(new_len)) as u64)
    }
}

fn record(view: &View<'_>, key: &RecordKey) -> Result<Option<Chunk>> {
    Ok(match view.get(key)?.map(|s| s.record) {
        Some(Record::Chunk(chunk)) => Some(chunk),
        _ => None,
    })
}

/// Whether two chunk records refer to the same stored bytes.
fn same_pieces(a: &Option<Chunk>, b: &Option<Chunk>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(Chunk::Inline { bytes: x, .. }), Some(Chunk::Inline { bytes: y, .. })) => x == y,
        (Some(Chunk::Extents(x)), Some(Chunk::Extents(y))) => {
            x.len() == y.len()
                && x.iter().zip(y).all(|(p, q)| {
                    (p.at, p.take, p.skip, p.file, p.offset)
                        == (q.at, q.take, q.skip, q.file, q.offset)
                })
        }
        _ => false,
    }
}

/// Bytes by which the sizes differ, in chunks that nothing was written to.
fn tail_only(old: u64, new: u64, chunks: &BTreeSet<u32>) -> u64 {
    let (from, to) = (old.min(new), old.max(new));
    let mut bytes = to - from;
    for n in chunks {
        let start = u64::from(*n) * CHUNK_BYTES;
        bytes -= (start + CHUNK_BYTES)
            .min(to)
            .saturating_sub(start.max(from));
    }
    bytes
}

fn xattrs(view: &View<'_>, ino: Ino) -> Result<Vec<(RecordKey, Record)>> {
    let prefix = xattrs_of(ino);
    let mut scan = view.scan(&prefix, &prefix);
    let mut out = Vec::new();
    while let Some((key, seen)) = scan.next()? {
        if let RecordKey::Xattr(_, name) = key {
            // Compared without the number of the inode, which may differ.
            out.push((RecordKey::Xattr(Ino::ROOT, name), seen.record));
        }
    }
    Ok(out)
}
