//! Reads through a lineage: a timeline's own versions first, then each ancestor's up to its cutoff.
//! This stands above the store of versions, so that a lineage may one day mix stores.

use std::sync::Arc;

use crate::error::Result;
use crate::ids::{Epoch, TimelineId};
use crate::rocks::{Index, VersionScan};

use super::keys::RecordKey;
use super::records::{self, Record};

/// A window of one timeline's versions: epochs in `(lo, hi]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hop {
    pub timeline: TimelineId,
    pub lo: Epoch,
    pub hi: Epoch,
}

/// The hops that a read visits, nearest first. Never empty.
pub(crate) type Lineage = Arc<[Hop]>;

/// Whether what stands in this hop counts as written by `timeline` itself: its own windows do, as far as
/// no ancestor's lies before them. (A timeline that was restored to a fork of itself reads its older
/// records as that fork's inheritance.)
pub(crate) fn is_own(hops: &[Hop], hop: usize, timeline: TimelineId) -> bool {
    hops.iter().take(hop + 1).all(|h| h.timeline == timeline)
}

/// A record or tombstone of a scan: relative key, epoch, row, and the hop that it was found in.
pub(crate) type Row = (Vec<u8>, Epoch, Vec<u8>, usize);

/// A record as a lineage sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub record: Record,
    pub epoch: Epoch,
    /// Which hop it was found in; 0 is the timeline itself.
    pub hop: usize,
}

/// The newest version that the lineage sees; `None` if there is none or it is a tombstone.
/// Cost: one seek for each hop up to the one that has it.
pub(crate) fn get(index: &Index, lineage: &[Hop], key: &RecordKey) -> Result<Option<Seen>> {
    let relative = key.encode();
    for (hop, h) in lineage.iter().enumerate() {
        if let Some((epoch, row)) = index.newest(h.timeline, &relative, h.lo, h.hi)? {
            return Ok(records::decode(key, &row)?.map(|record| Seen { record, epoch, hop }));
        }
    }
    Ok(None)
}

/// Ordered scan of the records with a prefix, as a lineage sees them.
pub(crate) struct Scan<'a> {
    hops: Vec<Source<'a>>,
}

struct Source<'a> {
    scan: VersionScan<'a>,
    head: Option<(Vec<u8>, Epoch, Vec<u8>)>,
    primed: bool,
}

impl<'a> Scan<'a> {
    /// Scans all records with `prefix`, from the first one at or after `from`.
    pub fn new(index: &'a Index, lineage: &[Hop], prefix: &[u8], from: &[u8]) -> Self {
        let hops = lineage
            .iter()
            .map(|h| {
                let mut scan = index.scan(h.timeline, prefix, h.lo, h.hi);
                scan.seek(from);
                Source {
                    scan,
                    head: None,
                    primed: false,
                }
            })
            .collect();
        Self { hops }
    }

    /// The next record. Cost: the versions passed, in each hop.
    pub fn next(&mut self) -> Result<Option<(RecordKey, Seen)>> {
        loop {
            let Some((key, epoch, row, hop)) = self.next_row()? else {
                return Ok(None);
            };
            let key = RecordKey::decode(&key)?;
            if let Some(record) = records::decode(&key, &row)? {
                return Ok(Some((key, Seen { record, epoch, hop })));
            }
        }
    }

    /// The next record or tombstone: key, epoch, row, hop.
    pub fn next_row(&mut self) -> Result<Option<Row>> {
        let mut least: Option<usize> = None;
        for i in 0..self.hops.len() {
            let source = &mut self.hops[i];
            if !source.primed {
                source.head = source.scan.next()?;
                source.primed = true;
            }
            let Some((key, ..)) = &self.hops[i].head else {
                continue;
            };
            let smaller = match least.and_then(|l| self.hops[l].head.as_ref()) {
                Some((other, ..)) => key < other,
                None => true,
            };
            if smaller {
                least = Some(i);
            }
        }
        let Some(hop) = least else { return Ok(None) };
        let Some((key, epoch, row)) = self.hops[hop].head.take() else {
            return Ok(None);
        };
        self.hops[hop].primed = false;
        // What the ancestors say of the same key is hidden.
        for source in &mut self.hops[hop + 1..] {
            if source.head.as_ref().is_some_and(|(k, ..)| *k == key) {
                source.head = None;
                source.primed = false;
            }
        }
        Ok(Some((key, epoch, row, hop)))
    }
}
