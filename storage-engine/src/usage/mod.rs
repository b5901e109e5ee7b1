//! What timelines and snapshots hold, and what deleting one of them would give back.
//!
//! What a timeline holds is kept exact by every commit. What its deletion frees is not kept at all: one
//! snapshot more anywhere may change it for every other. It is found on demand, at a cost that follows
//! what changed between neighbouring cutoffs.

mod freed;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use crate::engine::{Engine, Inner};
use crate::error::Result;
use crate::ids::{Epoch, FileId, Ino, SnapshotId, TimelineId};
use crate::index::dead::Dead;
use crate::index::keys::{RecordKey, tag};
use crate::index::records::{self, Chunk, Extent, INLINE, Record};
use crate::timeline::Usage;

/// Something that keeps stored bytes from being collected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// A live timeline.
    Timeline(TimelineId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

impl Engine {
    /// What a snapshot holds, in bytes. `divergent_bytes` are those of its state that its own timeline
    /// wrote; what deleting it frees, [`freed_by_deleting`](Self::freed_by_deleting) tells.
    ///
    /// # Errors
    /// `NotFound`. Cost: one read for each hop of its lineage.
    pub fn snapshot_usage(&self, id: SnapshotId) -> Result<Usage> {
        let inner = &*self.inner;
        let catalog = inner.catalog.read();
        let snapshot = catalog.live_snapshot(id)?;
        let hops = inner.lineage(&catalog, snapshot.timeline, snapshot.epoch)?;
        let mut usage = inner.usage_seen_by(&hops, snapshot.timeline)?;
        usage.dead = 0;
        Ok(usage.into())
    }

    /// Stored bytes that a collection would give up if the holder alone were deleted: what the store keeps
    /// with it, less what it would keep without it. In the order asked for; each by itself, so that the sum
    /// says nothing about deleting them all. Bytes that nobody needs already are not counted, readers that
    /// are at work not considered.
    ///
    /// # Errors
    /// `NotFound`. Cost: once the catalog; for each holder the changes made between the cutoffs before and
    /// behind those that would go, and for a timeline all that it wrote since its last pinned state.
    pub fn freed_by_deleting(&self, holders: &[Holder]) -> Result<Vec<u64>> {
        self.inner.check_open()?;
        let kept = freed::Kept::new(&self.inner)?;
        holders.iter().map(|h| kept.freed(*h)).collect()
    }
}

/// Bytes of stored files, each counted once however often it is named.
#[derive(Default)]
pub(crate) struct Bytes {
    ranges: HashMap<FileId, Vec<(u64, u64)>>,
    /// Inline bytes of one chunk have no address: there is one of them for each epoch.
    inline: HashMap<(u64, u64), u64>,
    /// Inline bytes that were overwritten in the epoch that they were written in.
    brief: u64,
}

impl Bytes {
    fn add_range(&mut self, file: FileId, from: u64, take: u64) {
        self.ranges
            .entry(file)
            .or_default()
            .push((from, from + take));
    }

    pub fn add_extent(&mut self, e: &Extent) {
        self.add_range(e.file, e.offset + u64::from(e.skip), u64::from(e.take));
    }

    pub fn add_inline(&mut self, ino: Ino, born: Epoch, len: u64) {
        self.inline.insert((ino.0, born.0), len);
    }

    /// What a version of a chunk holds, as far as its timeline wrote it itself.
    fn add_version(&mut self, ino: Ino, chunk: &Chunk) {
        match chunk {
            Chunk::Inline {
                born,
                inherited: false,
                bytes,
            } => self.add_inline(ino, Epoch(*born), bytes.len() as u64),
            Chunk::Inline { .. } => {}
            Chunk::Extents(extents) => {
                for e in extents.iter().filter(|e| !e.inherited) {
                    self.add_extent(e);
                }
            }
        }
    }

    pub fn add_dead(&mut self, death: Epoch, dead: &Dead) {
        let take = u64::from(dead.take);
        if dead.file != INLINE {
            self.add_range(dead.file, dead.offset + u64::from(dead.skip), take);
        } else if dead.birth == death {
            self.brief += take;
        } else {
            self.add_inline(dead.ino, dead.birth, take);
        }
    }

    /// How many they are. Cost: sorting the ranges.
    pub fn count(mut self) -> u64 {
        let mut sum = self.brief + self.inline.values().sum::<u64>();
        for list in self.ranges.values_mut() {
            list.sort_unstable();
            let mut end = 0;
            for (from, to) in list {
                let from = end.max(*from);
                if *to > from {
                    sum += *to - from;
                    end = *to;
                }
            }
        }
        sum
    }
}

impl Inner {
    /// Bytes that a timeline wrote itself and that are still stored for it. Cost: its versions of chunks,
    /// and its deadlist.
    pub fn written_by(&self, timeline: TimelineId) -> Result<u64> {
        let mut all = Bytes::default();
        self.index.versions(timeline, &[tag::CHUNK], |rest, row| {
            let (relative, _) = split_epoch(rest);
            let key = RecordKey::decode(relative)?;
            if let (RecordKey::Chunk(ino, _), Some(Record::Chunk(chunk))) =
                (&key, records::decode(&key, row)?)
            {
                all.add_version(*ino, &chunk);
            }
            Ok(())
        })?;
        let mut bad = None;
        self.index.dead_between(
            timeline,
            Epoch::ZERO,
            Epoch::MAX,
            |key, value| match Dead::decode(value) {
                Ok(dead) => all.add_dead(key.death, &dead),
                Err(e) => bad = Some(e),
            },
        )?;
        match bad {
            Some(e) => Err(e),
            None => Ok(all.count()),
        }
    }
}

/// The relative key, and the inverted epoch behind it.
fn split_epoch(rest: &[u8]) -> (&[u8], &[u8]) {
    rest.split_at(rest.len().saturating_sub(crate::index::keys::EPOCH_LEN))
}
