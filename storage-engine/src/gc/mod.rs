//! Garbage collection: what no state needs any more goes, and nothing else.
//!
//! # Flow
//! 1. Under the engine's locks, for a moment: the open epoch is closed, the catalog says which states must
//!    stay ([`cutoffs`]), and each timeline that there is something to do for gets its *horizon*, before
//!    which states are no longer promised. That is committed and durable before anything goes, so that no
//!    fork or snapshot is made of what is about to go.
//! 2. Each of those timelines is swept ([`sweep`]): the records changed, and the bytes superseded, in the
//!    epochs that the last collection had to keep and this one need not.
//! 3. Bytes are given back first ([`space`]), and then a frame says so: it drops the versions, frees the
//!    deadlist records, and corrects the totals, all at once. A crash in between gives them back again.
//! 4. What was gone by is remembered in the catalog.
//! 5. Segments of which most is garbage by now are compacted ([`compact`]).
//!
//! # Guarantees
//! States that are pinned by a snapshot, a fork, retention or a reader ([`crate::leases`]) show the same
//! before, while and after. No lock is held while pages are read or bytes given back. The cost follows what
//! has died, and what was changed since a cutoff that went; not what lives.

mod compact;
#[cfg(test)]
mod compact_tests;
pub(crate) mod cutoffs;
mod needed;
mod report;
mod segments;
mod space;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;
mod worker;

use std::collections::{HashMap, HashSet};

pub use cutoffs::KeptBy;
pub(crate) use cutoffs::Swept;
pub use report::{GcOptions, GcReport, Kept};
#[cfg(test)]
pub(crate) use space::{decode as decode_residue, encode as encode_residue};
pub use worker::GcSchedule;
pub(crate) use worker::Worker;

use crate::blobs::is_object;
use crate::catalog::{Catalog, TimelineRecord, timeline_row};
use crate::engine::{Durability, Engine, Inner};
use crate::error::{IoContext, Result};
use crate::ids::{Epoch, FileId, TimelineId};
use crate::index::dead::Dead;
use crate::index::keys::RecordKey;
use crate::index::records::{self, Chunk, NO_OBJECT, Record};
use crate::log::writer::Claim;
use crate::timeline::NO_TIMELINE;
use cutoffs::Pins;
use report::KeptList;
use segments::Segments;
use space::Space;
use sweep::{Pace, Run};

/// Residues read at once.
const PAGE: usize = 1024;
/// Rows in one commit: it holds commits of others up for as long as it takes to write them.
const COMMIT: usize = 64;

/// What is kept between two collections.
pub(crate) struct Collector {
    /// Segments that could not be touched because they were being written.
    waiting: HashSet<FileId>,
    /// None was made since the store was opened.
    first: bool,
    /// The segments of the log.
    segments: Segments,
    /// Tests let a collection fail at this of its steps.
    #[cfg(test)]
    pub fail_at: Option<u64>,
}

impl Collector {
    pub fn new() -> Self {
        Self {
            waiting: HashSet::new(),
            first: true,
            segments: Segments::default(),
            #[cfg(test)]
            fail_at: None,
        }
    }
}

impl Engine {
    /// Collects what no state needs any more. It may run while the store is in use; a second one waits
    /// for the first.
    ///
    /// # Errors
    /// Those of commits. What was done until then is done; the next collection goes on.
    /// Cost: what has died; see the module's page.
    pub fn gc(&self, options: GcOptions) -> Result<GcReport> {
        let inner = &*self.inner;
        inner.check_open()?;
        let mut collector = inner.collector.lock();
        let wanted = inner.wanted()?;
        let (catalog, pins, closed) = inner.cut(&wanted, options.dry_run)?;
        let retry = !options.dry_run
            && (!collector.waiting.is_empty()
                || collector.first && !inner.index.residues_page(None, None, 1)?.is_empty());
        let writing = if options.dry_run || wanted.is_empty() && !retry {
            None
        } else {
            // Everything before the segment that is being written is known to be durable.
            Some(inner.commit.lock().log.place(Claim::Freeing)?.segment)
        };
        let mut segments = std::mem::take(&mut collector.segments);
        segments.refresh(inner)?;
        let mut run = Run {
            inner,
            segments,
            lost: HashMap::new(),
            looked_at: HashMap::new(),
            looked: 0,
            catalog: &catalog,
            pins: &pins,
            closed,
            options,
            space: Space::new(inner, writing),
            report: GcReport {
                dry_run: options.dry_run,
                ..GcReport::default()
            },
            kept: KeptList::default(),
            pace: Pace::new(options.rate),
            gone: None,
            #[cfg(test)]
            left: collector.fail_at,
        };
        if retry {
            inner.retry(&mut collector, &mut run, writing)?;
        }
        let mut order: Vec<&TimelineRecord> = wanted
            .iter()
            .filter_map(|id| catalog.timelines.get(id))
            .collect();
        order.sort_by_key(|t| (t.created, t.id));
        let mut swept = Vec::new();
        for t in order {
            if !run.timeline(t.id)? {
                swept.push(t.id);
            }
        }
        if options.explain {
            let rest = pins.keys().filter(|id| !wanted.contains(id));
            run.explain(rest.copied())?;
        }
        if !options.dry_run {
            run.step_point()?;
            inner.finish_objects(&mut run)?;
            run.step_point()?;
            inner.remember(&swept, &pins)?;
            run.step_point()?;
            if options.objects || collector.first && inner.files.left_behind() {
                inner.unreferenced(&mut run)?;
                inner.files.tidied();
            }
            run.space.settle()?;
            collector.first = false;
            collector.waiting.extend(run.space.waiting.drain());
        }
        // All that was dropped is in the index by now.
        let newest = inner.commit.lock().log.current();
        run.compact(newest)?;
        collector.segments = std::mem::take(&mut run.segments);
        let (mut report, returned) = (run.report, run.space.returned);
        report.returned_bytes = returned.bytes;
        report.objects = returned.objects;
        report.kept = run.kept.into_list();
        tracing::info!(
            timelines = report.timelines,
            versions = report.versions,
            bytes = report.bytes,
            returned = report.returned_bytes,
            objects = report.objects,
            compacted = report.compacted,
            dry_run = report.dry_run,
            "collected"
        );
        Ok(report)
    }
}

/// Which states something needs, as far as the catalog tells.
pub(crate) fn pinned(
    catalog: &Catalog,
    closed: Epoch,
    now: u64,
) -> impl Fn(TimelineId, Epoch) -> bool + use<> {
    let pins = cutoffs::plan(catalog, &[], closed, now);
    move |timeline, epoch| {
        pins.get(&timeline).is_some_and(|p| {
            let window = &p.windows[p.window_of(epoch)];
            window.pins.contains_key(&epoch)
        })
    }
}

impl Inner {
    /// Timelines for which there may be something to do. Cost: a look-up for each.
    fn wanted(&self) -> Result<HashSet<TimelineId>> {
        let catalog = self.catalog.read().clone();
        // What is in the open epoch counts: it is closed for the collection.
        let open = *self.shared_epoch();
        let pins = cutoffs::plan(&catalog, &self.leases.all(), open, self.clock.now());
        let usage = RecordKey::Usage.encode();
        let mut wanted = HashSet::new();
        for (id, pins) in &pins {
            let Some(swept) = catalog.timelines.get(id).and_then(|t| t.swept.as_ref()) else {
                wanted.insert(*id);
                continue;
            };
            let now = pins.swept();
            let changed = pins.nothing()
                || now.windows != swept.windows
                || swept.floor < Epoch::MAX && now.floor == Epoch::MAX
                || swept
                    .pins
                    .iter()
                    .any(|p| now.pins.binary_search(p).is_err());
            // Every commit writes the totals.
            if changed
                || now.floor > swept.floor
                    && self
                        .index
                        .newest(*id, &usage, swept.floor, now.floor)?
                        .is_some()
            {
                wanted.insert(*id);
            }
        }
        Ok(wanted)
    }

    /// Decides what must stay, and makes the new horizons durable. Cost: the catalog, copied, with
    /// commits held up.
    #[allow(clippy::type_complexity)]
    fn cut(
        &self,
        wanted: &HashSet<TimelineId>,
        dry_run: bool,
    ) -> Result<(Catalog, std::collections::HashMap<TimelineId, Pins>, Epoch)> {
        let _structure = self.structure.lock();
        let mut epoch = self.exclusive_epoch();
        let closed = self.close_if_dirty(&mut epoch);
        let mut catalog = self.catalog.write();
        let pins = cutoffs::plan(&catalog, &self.leases.all(), closed, self.clock.now());
        if dry_run {
            return Ok((catalog.clone(), pins, closed));
        }
        let mut records = Vec::new();
        for id in wanted {
            if let (Some(record), Some(pins)) = (catalog.timelines.get(id), pins.get(id))
                && record.deleted.is_none()
                && pins.floor > record.horizon.unwrap_or(Epoch::ZERO)
            {
                let mut record = record.clone();
                record.horizon = Some(pins.floor);
                records.push(record);
            }
        }
        if records.is_empty() {
            return Ok((catalog.clone(), pins, closed));
        }
        let rows = records
            .iter()
            .map(timeline_row)
            .collect::<Result<Vec<_>>>()?;
        let position = self.commit_freeing(*epoch, NO_TIMELINE, &rows)?;
        for record in records {
            catalog.put_timeline(record);
        }
        let copy = catalog.clone();
        drop(catalog);
        drop(epoch);
        // What was decided before (deletions) is durable with it.
        self.wait(position, Durability::Local)?;
        Ok((copy, pins, closed))
    }

    /// Remembers what the collection of these timelines went by.
    fn remember(
        &self,
        swept: &[TimelineId],
        pins: &std::collections::HashMap<TimelineId, Pins>,
    ) -> Result<()> {
        for some in swept.chunks(COMMIT) {
            let _structure = self.structure.lock();
            let mut records = Vec::new();
            {
                let catalog = self.catalog.read();
                for id in some {
                    if let (Some(record), Some(pins)) = (catalog.timelines.get(id), pins.get(id)) {
                        let mut record = record.clone();
                        record.swept = Some(pins.swept());
                        records.push(record);
                    }
                }
            }
            let rows = records
                .iter()
                .map(timeline_row)
                .collect::<Result<Vec<_>>>()?;
            let epoch = self.shared_epoch();
            self.commit_freeing(*epoch, NO_TIMELINE, &rows)?;
            let mut catalog = self.catalog.write();
            for record in records {
                catalog.put_timeline(record);
            }
        }
        Ok(())
    }

    /// Gives back what had to wait for its segment. Cost: the residues of those segments; of all the
    /// first time.
    fn retry(
        &self,
        collector: &mut Collector,
        run: &mut Run<'_>,
        writing: Option<FileId>,
    ) -> Result<()> {
        let files: Vec<Option<FileId>> = if collector.first {
            vec![None]
        } else {
            let full = collector
                .waiting
                .iter()
                .copied()
                .filter(|f| Some(*f) != writing);
            full.map(Some).collect()
        };
        for file in files {
            let mut after: Option<Vec<u8>> = None;
            loop {
                let page = self.index.residues_page(file, after.as_deref(), PAGE)?;
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
                let rows = run.space.retry(&page, &run.segments)?;
                run.space.settle()?;
                for some in rows.chunks(COMMIT) {
                    let epoch = self.shared_epoch();
                    self.commit_freeing(*epoch, NO_TIMELINE, some)?;
                }
            }
            if let Some(file) = file {
                collector.waiting.remove(&file);
            }
        }
        Ok(())
    }

    /// Gives back what of object files was given up. Cost: their residues.
    fn finish_objects(&self, run: &mut Run<'_>) -> Result<()> {
        for id in std::mem::take(&mut run.space.objects) {
            let mut all = Vec::new();
            loop {
                let after: Option<&(Vec<u8>, Vec<u8>)> = all.last();
                let after = after.map(|(key, _)| key.clone());
                let page = self.index.residues_page(Some(id), after.as_deref(), PAGE)?;
                if page.is_empty() {
                    break;
                }
                all.extend(page);
            }
            let rows = run.space.finish(id, &all)?;
            run.space.settle()?;
            for some in rows.chunks(COMMIT) {
                let epoch = self.shared_epoch();
                self.commit_freeing(*epoch, NO_TIMELINE, some)?;
            }
        }
        Ok(())
    }

    /// Removes object files that no record refers to: a put or an import that was killed left them.
    /// Cost: all records.
    fn unreferenced(&self, run: &mut Run<'_>) -> Result<()> {
        let root = self.layout.objects();
        let mut there = HashSet::new();
        let fs = &self.layout.fs;
        for dir in fs.list(&root).context("list", &root)? {
            let dir = root.join(dir);
            if !fs.metadata(&dir).is_ok_and(|m| m.directory) {
                continue;
            }
            for name in fs.list(&dir).context("list", &dir)? {
                if let Some(id) = name.to_str().and_then(|n| n.parse::<FileId>().ok())
                    && is_object(id)
                    && self.files.path(id) == dir.join(&name)
                {
                    there.insert(id);
                }
            }
        }
        // Asked after the listing: what was finished in between is found below.
        for id in self.files.being_written() {
            there.remove(&id);
        }
        if there.is_empty() {
            return Ok(());
        }
        self.index.all_versions(|_, parts, row| {
            let Some((_, relative, _)) = parts else {
                return;
            };
            let Ok(key) = RecordKey::decode(relative) else {
                return;
            };
            match key {
                RecordKey::Inode(_) | RecordKey::Chunk(..) => {}
                _ => return,
            }
            match records::decode(&key, row) {
                Ok(Some(Record::Inode(inode))) if inode.object != NO_OBJECT => {
                    there.remove(&inode.object);
                }
                Ok(Some(Record::Chunk(Chunk::Extents(extents)))) => {
                    for e in &extents {
                        there.remove(&e.file);
                    }
                }
                // What cannot be read may refer to anything: nothing is removed on its account below.
                Err(_) => there.clear(),
                _ => {}
            }
        })?;
        self.index
            .all_dead(|_, _, value| match Dead::decode(value) {
                Ok(dead) => {
                    there.remove(&dead.file);
                }
                Err(_) => there.clear(),
            })?;
        for id in there {
            run.space.unlink(id)?;
        }
        Ok(())
    }
}
