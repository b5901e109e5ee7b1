//! Totals: what is kept against what a recount gives.

use std::collections::HashMap;

use crate::error::Result;
use crate::ids::{Epoch, FileId, TimelineId};
use crate::index::dead::Dead;
use crate::index::keys::{RecordKey, tag};
use crate::index::lineage::{Hop, Scan, is_own};
use crate::index::records::{self, Chunk, INLINE, Record, UsageRecord};

use super::log::key_place;
use super::report::FindingKind;
use super::states::State;
use super::tree::Counted;
use super::{Check, Cut};

/// What a timeline wrote itself of a state.
#[derive(Default)]
struct Own {
    bytes: u64,
    /// Ranges `[from, to)` of files, in no order, if they were asked for.
    ranges: HashMap<FileId, Vec<(u64, u64)>>,
}

impl Check<'_> {
    /// Compares the totals of a state. Cost: the chunks that the timeline wrote itself and its
    /// deadlist, once more for each restore.
    pub(super) fn check_usage(
        &mut self,
        cut: &Cut,
        state: &State,
        counted: &Counted,
    ) -> Result<()> {
        let own = self.own(&state.hops, state.timeline, state.live)?;
        let kept = self.inner.usage_seen_by(&state.hops, state.timeline)?;
        let recount = UsageRecord {
            logical: counted.logical,
            allocated: counted.allocated,
            inodes: counted.inodes,
            own: own.bytes,
            // What was superseded in the past may have been collected since; of what a restore left
            // behind nobody keeps a list.
            dead: match cut.catalog.timelines.get(&state.timeline) {
                Some(t) if state.live && t.never_restored() => {
                    self.dead_in(state.timeline, Epoch::ZERO, state.epoch)?
                }
                _ => kept.dead,
            },
        };
        self.compare(state, "kept", &kept, &recount);
        if state.live
            && let Some(memory) = cut.totals.get(&state.timeline)
            && *memory != kept
        {
            self.compare(state, "in memory", memory, &kept);
        }
        if state.live {
            self.check_deadlist(cut, state, own)?;
        }
        Ok(())
    }

    fn compare(&mut self, state: &State, which: &str, kept: &UsageRecord, recount: &UsageRecord) {
        let fields = [
            ("logical bytes", kept.logical, recount.logical),
            ("allocated bytes", kept.allocated, recount.allocated),
            ("inodes", kept.inodes, recount.inodes),
            ("own bytes", kept.own, recount.own),
            ("superseded bytes", kept.dead, recount.dead),
        ];
        for (what, kept, recount) in fields {
            if kept != recount {
                let at = self.findings.error(
                    FindingKind::Usage,
                    state.place(None, None),
                    format!("the {what} {which} are {kept}, a recount gives {recount}"),
                );
                self.findings.affects(at, state.label.clone());
            }
        }
    }

    /// What `timeline` wrote itself of what these hops see.
    fn own(&self, hops: &[Hop], timeline: TimelineId, ranges: bool) -> Result<Own> {
        let mine = (0..hops.len())
            .take_while(|n| is_own(hops, *n, timeline))
            .count();
        let mut own = Own::default();
        let prefix = [tag::CHUNK];
        let mut scan = Scan::new(&self.inner.index, &hops[..mine], &prefix, &prefix);
        while let Some((key, _, row, _)) = scan.next_row()? {
            // What cannot be decoded has been reported.
            let Ok(key) = RecordKey::decode(&key) else {
                continue;
            };
            match records::decode(&key, &row) {
                Ok(Some(Record::Chunk(Chunk::Inline {
                    inherited: false,
                    bytes,
                    ..
                }))) => own.bytes += bytes.len() as u64,
                Ok(Some(Record::Chunk(Chunk::Extents(extents)))) => {
                    for e in extents.iter().filter(|e| !e.inherited) {
                        own.bytes += u64::from(e.take);
                        if ranges {
                            let from = e.offset + u64::from(e.skip);
                            own.ranges
                                .entry(e.file)
                                .or_default()
                                .push((from, from + u64::from(e.take)));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(own)
    }

    /// Sum of the deadlist records of a timeline with a death in `(lo, hi]`.
    fn dead_in(&self, timeline: TimelineId, lo: Epoch, hi: Epoch) -> Result<u64> {
        let mut sum = 0;
        self.inner
            .index
            .dead_between(timeline, lo, hi, |_, value| {
                if let Ok(dead) = Dead::decode(value) {
                    sum += u64::from(dead.take);
                }
            })?;
        Ok(sum)
    }

    /// What the deadlist calls superseded since the last restore, the newest state must not refer to.
    fn check_deadlist(&mut self, cut: &Cut, state: &State, own: Own) -> Result<()> {
        let mut ranges = own.ranges;
        for list in ranges.values_mut() {
            list.sort_unstable();
            for pair in list.windows(2) {
                if pair[0].1 > pair[1].0 {
                    self.findings.error(
                        FindingKind::Tree,
                        state.place(None, None),
                        format!(
                            "bytes {} to {} of one file of the store are referred to twice",
                            pair[1].0, pair[0].1
                        ),
                    );
                }
            }
        }
        let since = cut
            .catalog
            .timelines
            .get(&state.timeline)
            .and_then(|t| t.origins.last())
            .map_or(Epoch::ZERO, |o| o.since);
        let (inner, findings) = (self.inner, &mut self.findings);
        inner
            .index
            .dead_between(state.timeline, since, state.epoch, |key, value| {
                let Ok(dead) = Dead::decode(value) else {
                    return;
                };
                if dead.file == INLINE {
                    return;
                }
                let from = dead.offset + u64::from(dead.skip);
                let to = from + u64::from(dead.take);
                let Some(list) = ranges.get(&dead.file) else {
                    return;
                };
                // The ranges do not overlap, so that the last one that begins before the end decides.
                let n = list.partition_point(|(start, _)| *start < to);
                if n > 0 && list[n - 1].1 > from {
                    findings.error(
                        FindingKind::Deadlist,
                        key_place(
                            "deadlist",
                            &crate::index::dead::dead_key(
                                key.timeline,
                                key.death,
                                key.frame,
                                key.number,
                            ),
                        ),
                        format!(
                            "it says that bytes {from} to {to} of {} are superseded; the newest state of {} refers to them",
                            dead.file, state.name
                        ),
                    );
                }
            })
    }
}
