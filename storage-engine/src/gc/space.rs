//! Giving stored bytes back to the file system.
//!
//! Bytes are given up in pieces of runs, and verified in blocks of runs (16 KiB): a block goes back when
//! every byte of it was given up, because as long as one is needed the whole block is read with it. What
//! was given up of a block that still has to stay is remembered: its *residue*. A block in the segment
//! that is being written stays, too, until that is full: recovery must be able to tell what a crash cut off
//! from what was given back.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::ErrorKind as IoKind;
use std::sync::Arc;

use crate::blobs::is_object;
use crate::codec::{Reader, Writer};
use crate::engine::Inner;
use crate::error::{Error, IoContext, Result};
use crate::fs::{Access, File};
use crate::ids::FileId;
use crate::index::records::{INLINE, SUM_BYTES};
use crate::log::frame::Row;
use crate::planted::{Bug, planted};

use super::segments::Segments;

/// The file system gives back whole blocks.
const BLOCK: u64 = crate::log::reader::GIVEN_BACK_BYTES;

/// A piece of a run that nobody needs any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub file: FileId,
    pub offset: u64,
    pub length: u32,
    pub skip: u32,
    pub take: u32,
}

/// What was given back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Returned {
    pub bytes: u64,
    pub objects: u64,
}

/// Gives pieces back, for one collection.
pub(super) struct Space<'a> {
    inner: &'a Inner,
    /// The segment that is being written.
    writing: Option<FileId>,
    files: HashMap<FileId, Option<Arc<dyn File>>>,
    touched: HashSet<FileId>,
    gone: HashSet<FileId>,
    /// Object files of which something was given up. They go as a whole or not at all, and get no holes:
    /// kernels have them open, also on behalf of a process that served a mount before this one.
    pub objects: BTreeSet<FileId>,
    /// Segments with blocks that could not be given back because they were being written.
    pub waiting: HashSet<FileId>,
    pub returned: Returned,
}

/// Bytes `[from, to)` of a run that were given up; sorted, apart from one another.
pub(crate) type Given = Vec<(u32, u32)>;

impl<'a> Space<'a> {
    pub fn new(inner: &'a Inner, writing: Option<FileId>) -> Self {
        Self {
            inner,
            writing,
            files: HashMap::new(),
            touched: HashSet::new(),
            gone: HashSet::new(),
            objects: BTreeSet::new(),
            waiting: HashSet::new(),
            returned: Returned::default(),
        }
    }

    /// Gives pieces back as far as their blocks allow; the rows remember the rest. Doing it again does
    /// no harm. Cost: a look-up for each run, and a call for each stretch of blocks.
    pub fn give(&mut self, pieces: &[Piece], segments: &Segments) -> Result<Vec<Row>> {
        let mut runs: BTreeMap<(FileId, u64), (u32, Given)> = BTreeMap::new();
        for p in pieces.iter().filter(|p| p.file != INLINE && p.take > 0) {
            let run = runs
                .entry((p.file, p.offset))
                .or_insert((p.length, Vec::new()));
            run.0 = run.0.max(p.length);
            run.1.push((p.skip, p.skip + p.take));
        }
        let mut stretches: BTreeMap<FileId, Vec<(u64, u64)>> = BTreeMap::new();
        let mut rows = Vec::new();
        for ((file, offset), (length, mut given)) in runs {
            if self.gone.contains(&file) {
                continue;
            }
            let stored = self.inner.index.residue(file, offset)?;
            if let Some(stored) = &stored {
                given.extend(decode(stored)?.1);
            }
            let given = union(given);
            let rest = if is_object(file) {
                self.objects.insert(file);
                given
            } else if segments.is_compacted(file) {
                // It gets no holes: when enough of it was given up, it is compacted again.
                Given::new()
            } else if self.writing == Some(file) {
                self.waiting.insert(file);
                given
            } else {
                let (back, rest) = split(length, &given);
                let to_file =
                    |(from, to): (u32, u32)| (offset + u64::from(from), offset + u64::from(to));
                stretches
                    .entry(file)
                    .or_default()
                    .extend(back.into_iter().map(to_file));
                rest
            };
            let value = encode(length, &rest);
            if stored.as_deref().unwrap_or_default() != value {
                rows.push(Row::Residue {
                    file,
                    offset,
                    value,
                });
            }
        }
        for (file, list) in stretches {
            self.punch(file, list)?;
        }
        Ok(rows)
    }

    /// Gives back what waited for a segment to be full, and now is.
    pub fn retry(&mut self, page: &[(Vec<u8>, Vec<u8>)], segments: &Segments) -> Result<Vec<Row>> {
        let mut pieces = Vec::new();
        for (key, value) in page {
            let mut r = Reader::new(key, "a residue's key");
            let (file, offset) = (FileId(r.array()?), r.u64()?);
            let (length, given) = decode(value)?;
            pieces.extend(given.into_iter().map(|(from, to)| Piece {
                file,
                offset,
                length,
                skip: from,
                take: to - from,
            }));
        }
        self.give(&pieces, segments)
    }

    /// Removes an object file if all of it was given up. `page` are all its residues. Whoever has it open reads
    /// on.
    pub fn finish(&mut self, id: FileId, page: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<Row>> {
        let mut given = Vec::new();
        let mut gone = Vec::new();
        for (key, value) in page {
            let mut r = Reader::new(key, "a residue's key");
            let (file, offset) = (FileId(r.array()?), r.u64()?);
            let (_, pieces) = decode(value)?;
            let in_file =
                |(from, to): (u32, u32)| (offset + u64::from(from), offset + u64::from(to));
            given.extend(pieces.into_iter().map(in_file));
            gone.push(Row::Residue {
                file,
                offset,
                value: Vec::new(),
            });
        }
        let path = self.inner.files.path(id);
        let whole = match self.inner.layout.fs.open(&path, Access::Read) {
            Ok(file) => {
                let len = file.metadata().context("stat", &path)?.len;
                let mut at = 0;
                let mut whole = true;
                for (from, to) in union(given).into_iter().chain([(len, len)]) {
                    whole &= from <= at || file.is_hole(at, from);
                    at = at.max(to);
                }
                whole
            }
            // By a collection that did not come to its end.
            Err(e) if e.kind() == IoKind::NotFound => true,
            Err(e) => return Err(Error::io("open", &path, &e)),
        };
        if !whole {
            return Ok(Vec::new());
        }
        self.unlink(id)?;
        Ok(gone)
    }

    fn punch(&mut self, id: FileId, list: Vec<(u64, u64)>) -> Result<()> {
        let Some(file) = self.file(id)? else {
            return Ok(());
        };
        let path = self.inner.files.path(id);
        let len = file.metadata().context("stat", &path)?.len;
        for (from, to) in union(list) {
            // Whole blocks only: of others the file system would make zeros, which nobody could tell
            // from damage.
            let start = from.next_multiple_of(BLOCK);
            let end = if to >= len {
                len.next_multiple_of(BLOCK)
            } else {
                to / BLOCK * BLOCK
            };
            if start >= end || file.is_hole(start, end) {
                continue;
            }
            match file.punch(start, end - start) {
                Ok(()) => {
                    self.returned.bytes += end - start;
                    self.touched.insert(id);
                }
                // The bytes stay.
                Err(e) if e.kind() == IoKind::Unsupported => {}
                Err(e) => return Err(Error::io("give space back of", &path, &e)),
            }
        }
        Ok(())
    }

    /// Removes an object file that nobody needs any more.
    pub fn unlink(&mut self, id: FileId) -> Result<()> {
        let path = self.inner.files.path(id);
        self.files.remove(&id);
        self.touched.remove(&id);
        self.gone.insert(id);
        match self.inner.layout.fs.metadata(&path) {
            Ok(meta) => self.returned.bytes += meta.stored,
            Err(e) if e.kind() == IoKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("stat", &path, &e)),
        }
        self.inner
            .layout
            .fs
            .remove(&path)
            .context("remove", &path)?;
        self.inner.files.forget(id);
        self.returned.objects += 1;
        Ok(())
    }

    /// The segment to change; `None` if it is gone.
    fn file(&mut self, id: FileId) -> Result<Option<Arc<dyn File>>> {
        if let Some(file) = self.files.get(&id) {
            return Ok(file.clone());
        }
        let path = self.inner.files.path(id);
        let opened = match self.inner.layout.fs.open(&path, Access::Write) {
            Ok(file) => Some(file),
            // Given back by a collection that did not come to its end.
            Err(e) if e.kind() == IoKind::NotFound => None,
            Err(e) => return Err(Error::io("open", &path, &e)),
        };
        // So many that a collection never runs out of them.
        if self.files.len() >= 64 {
            self.settle()?;
        }
        self.files.insert(id, opened.clone());
        Ok(opened)
    }

    /// What was given back stays so after a loss of power. Called before it is forgotten.
    pub fn settle(&mut self) -> Result<()> {
        for id in self.touched.drain() {
            if let Some(Some(file)) = self.files.get(&id) {
                let path = self.inner.files.path(id);
                file.sync_data().context("sync", &path)?;
            }
        }
        self.files.clear();
        let dirs: HashSet<_> = self
            .gone
            .iter()
            .filter_map(|id| {
                self.inner
                    .files
                    .path(*id)
                    .parent()
                    .map(std::path::Path::to_owned)
            })
            .collect();
        for dir in dirs.iter().filter(|d| self.inner.layout.fs.exists(d)) {
            self.inner.layout.sync_dir(dir)?;
        }
        Ok(())
    }
}

/// Parts what was given up of a run of this length into whole blocks, and the rest.
fn split(length: u32, given: &[(u32, u32)]) -> (Given, Given) {
    let (mut back, mut rest) = (Given::new(), Given::new());
    for &(from, to) in given {
        let first = if planted(Bug::FreedTooMuch) {
            from / SUM_BYTES * SUM_BYTES
        } else {
            from.next_multiple_of(SUM_BYTES)
        };
        let last = if to >= length {
            length
        } else {
            to / SUM_BYTES * SUM_BYTES
        };
        if first >= last {
            rest.push((from, to));
            continue;
        }
        if from < first {
            rest.push((from, first));
        }
        back.push((first, last));
        if last < to {
            rest.push((last, to));
        }
    }
    (back, rest)
}

/// Sorted, and joined where they touch.
fn union<T: Ord + Copy>(mut list: Vec<(T, T)>) -> Vec<(T, T)> {
    list.sort_unstable();
    let mut out: Vec<(T, T)> = Vec::with_capacity(list.len());
    for (from, to) in list {
        match out.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => out.push((from, to)),
        }
    }
    out
}

/// Length of the run u32, then for each piece from u32, to u32. Nothing for nothing.
pub(crate) fn encode(length: u32, given: &[(u32, u32)]) -> Vec<u8> {
    if given.is_empty() {
        return Vec::new();
    }
    let mut w = Writer(Vec::with_capacity(4 + given.len() * 8));
    w.u32(length);
    for (from, to) in given {
        w.u32(*from).u32(*to);
    }
    w.0
}

pub(crate) fn decode(value: &[u8]) -> Result<(u32, Given)> {
    let mut r = Reader::new(value, "a residue");
    let length = r.u32()?;
    let mut given = Vec::new();
    while r.remaining() > 0 {
        let (from, to) = (r.u32()?, r.u32()?);
        if from >= to || to > length {
            return Err(r.bad("leaves the bounds of its run"));
        }
        given.push((from, to));
    }
    Ok((length, given))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_block_goes_back_exactly_when_all_of_it_was_given_up(
            length in 1u32..200_000,
            pieces in prop::collection::vec((0u32..200_000, 1u32..60_000), 1..20),
        ) {
            let clip = |(from, take): (u32, u32)| (from.min(length), (from + take).min(length));
            let given: Given = pieces.into_iter().map(clip).filter(|(a, b)| a < b).collect();
            let (back, rest) = split(length, &union(given.clone()));
            let covered = |list: &Given, at: u32| list.iter().any(|(a, b)| *a <= at && at < *b);
            for block in (0..length).step_by(SUM_BYTES as usize) {
                let end = (block + SUM_BYTES).min(length);
                let whole = (block..end).step_by(97).chain([end - 1]).all(|at| covered(&given, at))
                    && union(given.clone()).iter().any(|(a, b)| *a <= block && end <= *b);
                for at in [block, end - 1] {
                    prop_assert_eq!(covered(&back, at), whole);
                    prop_assert_eq!(covered(&rest, at), !whole && covered(&given, at));
                }
            }
            if !rest.is_empty() {
                prop_assert_eq!(decode(&encode(length, &rest)).unwrap(), (length, rest));
            }
        }
    }
}
