//! Walks over the whole index, for the check: every row once, past the block cache.

use crate::codec::Reader;
use crate::error::Result;
use crate::ids::{Epoch, Position, TimelineId};
use crate::index::keys::{TIMELINE_LEN, change_key, split_version_key, version_key};

use super::{CHANGE, DEAD, Index, RECORD, open, tagged, translate};

/// The parts of a deadlist key.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct DeadKey {
    pub timeline: TimelineId,
    pub death: Epoch,
    pub frame: Position,
    pub number: u32,
}

impl Index {
    /// Every stored version of every timeline: whole key without its tag (in parts, if it has a
    /// version key's shape), and row.
    pub fn all_versions(
        &self,
        mut each: impl FnMut(&[u8], Option<(TimelineId, &[u8], Epoch)>, &[u8]),
    ) -> Result<()> {
        self.audit(&[RECORD], |key, row| {
            each(key, split_version_key(key).ok(), row)
        })
    }

    /// Versions of all timelines from a whole key (without its tag) on, as long as `each` wants more.
    pub fn versions_from(
        &self,
        from: &[u8],
        mut each: impl FnMut(&[u8], Option<(TimelineId, &[u8], Epoch)>, &[u8]) -> bool,
    ) -> Result<()> {
        let mut options = open::scans(&[RECORD]);
        options.fill_cache(false);
        options.set_readahead_size(256 << 10);
        let mut iter = self.db.raw_iterator_opt(options);
        iter.seek(tagged(RECORD, from));
        while let (Some(key), Some(value)) = (iter.key(), iter.value()) {
            if !each(&key[1..], split_version_key(&key[1..]).ok(), value) {
                return Ok(());
            }
            iter.next();
        }
        iter.status().map_err(|e| translate("read the index", &e))
    }

    /// Reads everything that is no version, for its checksums alone; `each` is told the sizes.
    pub fn read_the_rest(&self, mut each: impl FnMut(u64)) -> Result<()> {
        for tag in [
            super::CATALOG,
            DEAD,
            CHANGE,
            super::META,
            super::RESIDUE,
            super::REPLY,
        ] {
            self.audit(&[tag], |key, value| each((key.len() + value.len()) as u64))?;
        }
        Ok(())
    }

    /// Every entry of the change list: whole key without its tag, and its parts if it has their shape.
    pub fn all_changes(
        &self,
        mut each: impl FnMut(&[u8], Option<(TimelineId, Epoch, &[u8])>),
    ) -> Result<()> {
        self.audit(&[CHANGE], |key, _| each(key, split_change_key(key).ok()))
    }

    /// Every deadlist record: whole key without its tag, its parts if it has their shape, and value.
    pub fn all_dead(&self, mut each: impl FnMut(&[u8], Option<DeadKey>, &[u8])) -> Result<()> {
        self.audit(&[DEAD], |key, value| {
            each(key, split_dead_key(key).ok(), value)
        })
    }

    /// The deadlist records of one timeline with a death in `(lo, hi]`.
    pub fn dead_between(
        &self,
        timeline: TimelineId,
        lo: Epoch,
        hi: Epoch,
        mut each: impl FnMut(DeadKey, &[u8]),
    ) -> Result<()> {
        self.audit(&tagged(DEAD, &timeline.0), |key, value| {
            if let Ok(key) = split_dead_key(key)
                && key.death > lo
                && key.death <= hi
            {
                each(key, value);
            }
        })
    }

    /// The row of exactly this version. Cost: one look-up.
    pub fn version(
        &self,
        timeline: TimelineId,
        relative: &[u8],
        epoch: Epoch,
    ) -> Result<Option<Vec<u8>>> {
        self.exact(&tagged(RECORD, &version_key(timeline, relative, epoch)))
    }

    /// Whether the change list has this entry. Cost: one look-up.
    pub fn has_change(&self, timeline: TimelineId, epoch: Epoch, relative: &[u8]) -> Result<bool> {
        Ok(self
            .exact(&tagged(CHANGE, &change_key(timeline, epoch, relative)))?
            .is_some())
    }

    /// The value of exactly this deadlist record. Cost: one look-up.
    pub fn dead_record(
        &self,
        timeline: TimelineId,
        death: Epoch,
        frame: Position,
        number: u32,
    ) -> Result<Option<Vec<u8>>> {
        self.exact(&tagged(
            DEAD,
            &crate::index::dead::dead_key(timeline, death, frame, number),
        ))
    }

    fn exact(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db
            .get(key)
            .map_err(|e| translate("read the index", &e))
    }

    /// Calls `each` with every key (without its tag) that starts with `prefix`.
    fn audit(&self, prefix: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let mut options = open::scans(prefix);
        // A walk over everything would only drive out what others read again and again.
        options.fill_cache(false);
        options.set_readahead_size(1 << 20);
        let mut iter = self.db.raw_iterator_opt(options);
        iter.seek(prefix);
        while let (Some(key), Some(value)) = (iter.key(), iter.value()) {
            each(&key[1..], value);
            iter.next();
        }
        iter.status().map_err(|e| translate("read the index", &e))
    }
}

fn split_change_key(key: &[u8]) -> Result<(TimelineId, Epoch, &[u8])> {
    let mut r = Reader::new(key, "a change list key");
    let (timeline, epoch) = (TimelineId(r.array()?), Epoch(r.u64()?));
    Ok((timeline, epoch, r.bytes(r.remaining())?))
}

pub(super) fn split_dead_key(key: &[u8]) -> Result<DeadKey> {
    debug_assert_eq!(TIMELINE_LEN, 16);
    let mut r = Reader::new(key, "a deadlist key");
    let parts = DeadKey {
        timeline: TimelineId(r.array()?),
        death: Epoch(r.u64()?),
        frame: Position(r.u64()?),
        number: r.u32()?,
    };
    r.end()?;
    Ok(parts)
}

#[cfg(test)]
impl Index {
    /// Everything that is stored, as it is.
    pub fn dump(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut all = Vec::new();
        let mut iter = self.db.raw_iterator_opt(open::scans(&[]));
        iter.seek_to_first();
        while let (Some(key), Some(value)) = (iter.key(), iter.value()) {
            all.push((key.to_vec(), value.to_vec()));
            iter.next();
        }
        all
    }

    /// Empties a timeline's change list.
    pub fn remove_changes_of(&self, timeline: TimelineId) {
        let mut keys = Vec::new();
        self.audit(&tagged(CHANGE, &timeline.0), |key, _| {
            keys.push(tagged(CHANGE, key))
        })
        .unwrap();
        for key in keys {
            self.db.delete_opt(key, &self.write).unwrap();
        }
    }
}
