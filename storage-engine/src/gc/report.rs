//! What a collection is asked for, and what it tells.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cutoffs::KeptBy;

/// How to collect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GcOptions {
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Records looked at each second, at most; as fast as it goes otherwise. Between its steps a
    /// collection holds no lock.
    pub rate: Option<u32>,
    /// Tell of everything that is kept why, and not only of what was looked at. Cost: all that was
    /// superseded and is still stored.
    pub explain: bool,
    /// Compact every segment of the log of which a twentieth comes back; otherwise half of it has to. Cost: the rows of
    /// all segments.
    pub full: bool,
    /// Look for object files that nothing refers to, too. Cost: all records. The first collection after a
    /// stop without closing does it anyway.
    pub objects: bool,
}

/// What is kept for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Why.
    pub by: KeptBy,
    /// Superseded bytes that are stored for it.
    pub bytes: u64,
    /// Pieces that they are in.
    pub pieces: u64,
}

/// What a collection did (or, as a dry run, would do).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GcReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Timelines that there was something to do for.
    pub timelines: u64,
    /// Of these, deleted ones that nobody needs any more: everything of them is gone.
    pub dropped_timelines: u64,
    /// Versions of records that no state shows any more.
    pub versions: u64,
    /// Stored bytes that were given up, and the pieces they were in.
    pub bytes: u64,
    /// See `bytes`.
    pub pieces: u64,
    /// Bytes that the file system got back at once. Less than `bytes`, where only parts of blocks were
    /// given up or the segment is still being written; they go back later.
    pub returned_bytes: u64,
    /// Object files removed.
    pub objects: u64,
    /// Segments of the log that were compacted, because most of what they held was needed no more.
    pub compacted: u64,
    /// What was looked at and kept, the most bytes first.
    pub kept: Vec<Kept>,
}

/// Adds up what is kept.
#[derive(Default)]
pub(super) struct KeptList(BTreeMap<KeptBy, (u64, u64)>);

impl KeptList {
    pub fn add(&mut self, by: KeptBy, bytes: u64) {
        let sum = self.0.entry(by).or_default();
        sum.0 += bytes;
        sum.1 += 1;
    }

    pub fn into_list(self) -> Vec<Kept> {
        let mut list: Vec<Kept> = self
            .0
            .into_iter()
            .map(|(by, (bytes, pieces))| Kept { by, bytes, pieces })
            .collect();
        list.sort_by_key(|k| std::cmp::Reverse(k.bytes));
        list
    }
}
