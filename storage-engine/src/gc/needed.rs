//! What of a segment is needed: which rows, and which blocks of runs.

use std::collections::{HashMap, HashSet};

use crate::engine::Inner;
use crate::error::Result;
use crate::files::types::RequestId;
use crate::ids::{Epoch, FileId, Position, TimelineId};
use crate::index::keys::RecordKey;
use crate::index::records::{self, Chunk, Extent, Record, SUM_BYTES};
use crate::log::frame::Row;
use crate::planted::{Bug, planted};

use super::segments::Segments;

/// Whose bytes a run holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Owner {
    pub timeline: TimelineId,
    pub ino: u64,
    pub chunk: u32,
}

/// A run of which something is needed.
pub(super) struct Needed {
    pub owner: Owner,
    pub length: u32,
    pub sums: Vec<u32>,
    /// Blocks, by number.
    pub blocks: HashSet<u32>,
}

impl Needed {
    /// Bytes `(from, take)` of the run, block by block, joined where they touch.
    pub fn stretches(&self) -> Vec<(u32, u32)> {
        let mut blocks: Vec<u32> = self.blocks.iter().copied().collect();
        blocks.sort_unstable();
        let mut out: Vec<(u32, u32)> = Vec::new();
        for block in blocks {
            let from = block * SUM_BYTES;
            let take = SUM_BYTES.min(self.length - from);
            match out.last_mut() {
                Some((start, len)) if *start + *len == from => *len += take,
                _ => out.push((from, take)),
            }
        }
        out
    }
}

/// Numbers of the blocks of its run that an extent has bytes in.
pub(super) fn blocks_of(e: &Extent) -> std::ops::Range<u32> {
    e.skip / SUM_BYTES..(e.skip + e.take).div_ceil(SUM_BYTES)
}

/// Notes the owner of the runs that a version has in this file and did not inherit.
pub(super) fn note_owner(
    timeline: TimelineId,
    (key, value): (&[u8], &[u8]),
    id: FileId,
    owners: &mut HashMap<u64, Owner>,
) -> Result<()> {
    if key.first() != Some(&crate::index::keys::tag::CHUNK) {
        return Ok(());
    }
    let key = RecordKey::decode(key)?;
    let RecordKey::Chunk(ino, chunk) = key else {
        return Ok(());
    };
    if let Some(Record::Chunk(Chunk::Extents(extents))) = records::decode(&key, value)? {
        let owner = Owner {
            timeline,
            ino: ino.0,
            chunk,
        };
        for e in extents.iter().filter(|e| e.file == id && !e.inherited) {
            owners.insert(e.offset, owner);
        }
    }
    Ok(())
}

impl Inner {
    /// Whether a row of a frame has the last word on something in the index. Cost: a look-up.
    pub(super) fn is_needed(
        &self,
        segments: &Segments,
        base: Position,
        (timeline, epoch, position, number): (TimelineId, Epoch, Position, u32),
        row: &Row,
    ) -> Result<bool> {
        let index = &self.index;
        let may_hold = |from: Epoch, to: Epoch| {
            !planted(Bug::RemovalForgotten) && segments.may_hold((from, to), base, position)
        };
        Ok(match row {
            Row::Record { key, value } => {
                index.version(timeline, key, epoch)?.as_ref() == Some(value)
            }
            Row::Dead { value } => {
                let there = index.dead_record(timeline, epoch, position, number)?;
                there.as_ref() == Some(value)
            }
            Row::Catalog { key, value } => index.catalog_record(key)?.as_ref() == Some(value),
            Row::Reply {
                connection, unique, ..
            } => {
                let request = RequestId {
                    connection: *connection,
                    unique: *unique,
                };
                index.reply(request)?.is_some()
            }
            Row::Drop { key, epoch } => {
                may_hold(*epoch, *epoch) && index.version(timeline, key, *epoch)?.is_none()
            }
            Row::Free { death, .. } => may_hold(*death, *death),
            Row::Empty => {
                let created = self
                    .catalog
                    .read()
                    .timelines
                    .get(&timeline)
                    .map(|t| t.created);
                may_hold(created.unwrap_or(Epoch::ZERO), epoch)
            }
            Row::Residue {
                file,
                offset,
                value,
            } => match index.residue(*file, *offset)? {
                Some(there) => there == *value,
                None => value.is_empty() && may_hold(Epoch::ZERO, epoch),
            },
            Row::Skipped { .. } => false,
        })
    }
}
