//! Stored runs of bytes: every different piece that a state refers to is read once.

use std::collections::{HashMap, HashSet};

use crate::blobs::is_object;
use crate::ids::FileId;
use crate::index::records::{Extent, SUM_BYTES};

use super::Check;
use super::report::{FindingKind, Place};

/// So many runs are gathered before they are read, in the order of their places on disk.
const BATCH: usize = 8 << 10;
/// Read at once, in bytes; a multiple of a block.
const STEP: u32 = 1 << 20;

/// A run of stored bytes, shortly: the number of its file, its offset and length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Run {
    file: u32,
    length: u32,
    offset: u64,
}

/// Which runs have been seen.
#[derive(Default)]
pub(super) struct Runs {
    numbers: HashMap<FileId, u32>,
    files: Vec<FileId>,
    /// Their blocks: the first, and the one behind the last. (Of a run that was superseded in part, blocks
    /// that nobody needs may have been given back.)
    seen: HashSet<(Run, u32, u32)>,
    waiting: Vec<(Run, u32, u32, Vec<u32>)>,
    /// Damaged ones, and where in the list of findings they stand.
    pub damaged: HashMap<Run, Option<usize>>,
}

impl Runs {
    /// The run that an extent is a piece of.
    pub fn run(&mut self, extent: &Extent) -> Run {
        let next = self.files.len() as u32;
        let file = *self.numbers.entry(extent.file).or_insert(next);
        if file == next {
            self.files.push(extent.file);
        }
        Run {
            file,
            length: extent.length,
            offset: extent.offset,
        }
    }

    /// Whether a state refers to this file.
    pub fn refers_to(&self, id: FileId) -> bool {
        self.numbers.contains_key(&id)
    }

    /// A file that a state refers to without an extent.
    pub fn refer_to(&mut self, id: FileId) {
        let next = self.files.len() as u32;
        if *self.numbers.entry(id).or_insert(next) == next {
            self.files.push(id);
        }
    }
}

impl Check<'_> {
    /// Sees to it that this extent's bytes are verified, once.
    pub(super) fn visit(&mut self, extent: &Extent) {
        let run = self.runs.run(extent);
        let first = extent.skip / SUM_BYTES;
        let last = (extent.skip + extent.take).div_ceil(SUM_BYTES);
        if self.runs.seen.insert((run, first, last)) {
            self.counts.extents += 1;
            let bytes = (last * SUM_BYTES).min(run.length) - first * SUM_BYTES;
            self.counts.extent_bytes += u64::from(bytes);
            let sums = extent.sums.clone();
            self.runs.waiting.push((run, first, last, sums));
            if self.runs.waiting.len() >= BATCH {
                self.verify_waiting();
            }
        }
    }

    /// Reads what is waiting.
    pub(super) fn verify_waiting(&mut self) {
        let mut waiting = std::mem::take(&mut self.runs.waiting);
        waiting.sort_unstable_by_key(|(run, first, ..)| (run.file, run.offset, *first));
        let mut buffer = vec![0; STEP as usize];
        for (run, first, last, sums) in waiting {
            let Some(&file) = self.runs.files.get(run.file as usize) else {
                continue;
            };
            let whole = Extent {
                at: 0,
                take: run.length,
                skip: 0,
                born: 0,
                inherited: false,
                file,
                offset: run.offset,
                length: run.length,
                sums,
            };
            let blocks = (
                first * SUM_BYTES,
                last.saturating_mul(SUM_BYTES).min(run.length),
            );
            if let Some((offset, why)) = self.first_damage(&whole, blocks, &mut buffer) {
                let place = self.file_place(&self.blobs.path(file), Some(offset));
                let at = self.findings.error(FindingKind::Extent, place, why);
                self.runs.damaged.insert(run, at);
            }
        }
    }

    /// Offset in the file of the first damaged block in a part of a run, and what is wrong there.
    fn first_damage(
        &self,
        whole: &Extent,
        (mut from, to): (u32, u32),
        buffer: &mut [u8],
    ) -> Option<(u64, String)> {
        while from < to {
            let n = (to - from).min(STEP);
            let step = self.blobs.read(whole, from, &mut buffer[..n as usize]);
            if let Err(error) = step {
                // Again block by block, to name the first bad one.
                for block in (from..from + n).step_by(SUM_BYTES as usize) {
                    let n = (whole.length - block).min(SUM_BYTES);
                    if let Err(e) = self.blobs.read(whole, block, &mut buffer[..n as usize]) {
                        return Some((whole.offset + u64::from(block), e.to_string()));
                    }
                }
                return Some((whole.offset + u64::from(from), error.to_string()));
            }
            from += n;
        }
        None
    }

    /// Object files: those that nothing refers to are told.
    pub(super) fn check_objects(&mut self) {
        let root = self.inner.layout.objects();
        let mut dirs = vec![root.clone()];
        while let Some(dir) = dirs.pop() {
            let entries = match self.inner.layout.fs.list(&dir) {
                Ok(entries) => entries,
                Err(e) => {
                    let place = self.file_place(&dir, None);
                    self.findings.error(
                        FindingKind::Object,
                        place,
                        format!("it cannot be listed: {e}"),
                    );
                    continue;
                }
            };
            for path in entries.iter().map(|name| dir.join(name)) {
                let is_dir = || {
                    self.inner
                        .layout
                        .fs
                        .metadata(&path)
                        .is_ok_and(|m| m.directory)
                };
                if dir == root && is_dir() {
                    dirs.push(path);
                    continue;
                }
                self.check_object(&path);
            }
        }
    }

    fn check_object(&mut self, path: &std::path::Path) {
        let place = self.file_place(path, None);
        let id = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.parse::<FileId>().ok())
            .filter(|id| is_object(*id) && self.blobs.path(*id) == path);
        let Some(id) = id else {
            self.findings
                .note(FindingKind::LeftOver, place, "it is no object file");
            return;
        };
        self.counts.objects += 1;
        if !self.runs.refers_to(id) {
            let what = if self.stored.contains(&id) {
                "no state refers to this object file any more: it waits for the collector"
            } else {
                "nothing refers to this object file: it is being written, or a stop left it behind"
            };
            self.findings.note(FindingKind::LeftOver, place, what);
            return;
        }
        match self.inner.layout.fs.metadata(path) {
            Ok(meta) if meta.writable => {
                self.findings.error(
                    FindingKind::Object,
                    place,
                    "stored data refers to this object file, and it can still be written",
                );
            }
            Ok(_) => {}
            Err(e) => {
                self.findings.error(
                    FindingKind::Object,
                    place,
                    format!("it cannot be looked at: {e}"),
                );
            }
        }
    }

    /// The length of an object file that is to hold exactly one file's bytes.
    pub(super) fn object_problem(&mut self, id: FileId, size: u64) -> Option<(Place, String)> {
        self.runs.refer_to(id);
        let path = self.blobs.path(id);
        match self.inner.layout.fs.metadata(&path) {
            Ok(meta) if meta.len == size => None,
            Ok(meta) => Some((
                self.file_place(&path, None),
                format!("it has {} bytes instead of {size}", meta.len),
            )),
            Err(e) => Some((
                self.file_place(&path, None),
                format!("it is needed and cannot be found: {e}"),
            )),
        }
    }
}
