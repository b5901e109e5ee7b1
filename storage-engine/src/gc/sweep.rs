//! The collection of one timeline.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::catalog::{Catalog, timeline_row};
use crate::engine::Inner;
use crate::error::{ErrorKind, Result};
use crate::ids::{Epoch, FileId, TimelineId};
use crate::index::dead::Dead;
use crate::index::keys::{EPOCH_LEN, RecordKey, TIMELINE_LEN, split_version_key, tag};
use crate::index::lineage::{self, Lineage};
use crate::index::records::{self, Chunk, Extent, INLINE, Record, UsageRecord};
use crate::log::frame::Row;
use crate::usage::Bytes;

use super::COMMIT;
use super::cutoffs::{Pins, Window};
use super::report::{GcOptions, GcReport, KeptList};
use super::segments::Segments;
use super::space::{Piece, Space};

/// Rows read at once.
const PAGE: usize = 1024;
/// Rows that come together before their bytes are given back, which is made durable first.
const BATCH: usize = 2048;

/// A collection under way.
pub(super) struct Run<'a> {
    pub inner: &'a Inner,
    pub catalog: &'a Catalog,
    pub pins: &'a HashMap<TimelineId, Pins>,
    /// Newest closed epoch: what is newer is not looked at.
    pub closed: Epoch,
    pub options: GcOptions,
    pub space: Space<'a>,
    pub report: GcReport,
    pub kept: KeptList,
    pub pace: Pace,
    /// What one timeline gave up, where a piece may come up twice: as superseded, and as left behind by what
    /// is gone itself. Memory: some 20 bytes for each piece.
    pub gone: Option<Bytes>,
    pub segments: Segments,
    /// Bytes that were given up of segments, about.
    pub lost: HashMap<FileId, u64>,
    /// Segments that were looked at, and how many bytes of each are needed.
    pub looked_at: HashMap<FileId, u64>,
    /// Rows looked at since the pace was kept last.
    pub looked: usize,
    #[cfg(test)]
    pub left: Option<u64>,
}

/// Keeps to a rate.
pub(super) struct Pace {
    rate: Option<u32>,
    started: Instant,
    done: u64,
}

impl Pace {
    pub fn new(rate: Option<u32>) -> Self {
        Self {
            rate: rate.filter(|r| *r > 0),
            started: Instant::now(),
            done: 0,
        }
    }

    /// Waits until so many more records may be looked at.
    fn take(&mut self, records: usize) {
        self.done += records as u64;
        if let Some(rate) = self.rate {
            let due = Duration::from_secs_f64(self.done as f64 / f64::from(rate));
            if let Some(wait) = due.checked_sub(self.started.elapsed()) {
                // A store that is closed must not wait for long.
                std::thread::sleep(wait.min(Duration::from_millis(200)));
            }
        }
    }
}

/// What one commit does.
#[derive(Default)]
struct Batch {
    rows: Vec<Gone>,
    pieces: Vec<Piece>,
}

/// A row, and how many bytes are not superseded-and-stored any more with it.
struct Gone {
    row: Row,
    dead: u64,
}

impl Batch {
    fn give(&mut self, e: &Extent) {
        self.pieces.push(Piece {
            file: e.file,
            offset: e.offset,
            length: e.length,
            skip: e.skip,
            take: e.take,
        });
        self.bury(u64::from(e.take));
    }

    /// Bytes that go with the last row.
    fn bury(&mut self, bytes: u64) {
        if let Some(gone) = self.rows.last_mut() {
            gone.dead += bytes;
        }
    }
}

impl Run<'_> {
    /// A place where a crash may come. Tests let it fail.
    #[cfg_attr(not(test), allow(clippy::unnecessary_wraps, clippy::unused_self))]
    pub fn step_point(&mut self) -> Result<()> {
        #[cfg(test)]
        if let Some(left) = &mut self.left {
            if *left == 0 {
                return Err(crate::Error::new(ErrorKind::Io, "the test stops it here"));
            }
            *left -= 1;
        }
        Ok(())
    }

    /// Collects one timeline. Says whether all of it is gone.
    pub fn timeline(&mut self, id: TimelineId) -> Result<bool> {
        let Some(pins) = self.pins.get(&id) else {
            return Ok(false);
        };
        self.report.timelines += 1;
        let left = (0..pins.windows.len()).any(|n| pins.top(n) < pins.windows[n].hi);
        self.gone = left.then(Bytes::default);
        let all = self.timeline_in(id, pins);
        if let Some(gone) = self.gone.take() {
            self.report.bytes += gone.count();
        }
        all
    }

    fn timeline_in(&mut self, id: TimelineId, pins: &Pins) -> Result<bool> {
        // Whoever reads what was superseded before the cut has come to its end behind this.
        if let Some(state) = self.inner.loaded_state(id) {
            drop(state.inner.write());
        }
        if pins.nothing() {
            self.drop_all(id, pins)?;
            return Ok(true);
        }
        let swept = self
            .catalog
            .timelines
            .get(&id)
            .and_then(|t| t.swept.as_ref());
        let ranges = pins.uncovered(swept);
        let mut batch = Batch::default();
        self.bookkeeping(id, pins, &mut batch)?;
        for &(lo, hi) in &ranges {
            self.changed(id, pins, (lo, hi.min(self.closed)), &mut batch)?;
        }
        let dead = if self.options.explain {
            vec![(Epoch::ZERO, Epoch::MAX)]
        } else {
            ranges
        };
        for &(lo, hi) in &dead {
            self.deadlist(id, pins, (lo, hi.min(self.closed)), &mut batch)?;
        }
        self.commit(id, &mut batch)?;
        Ok(false)
    }

    /// Tells what is kept of timelines for which there is nothing to do.
    pub fn explain(&mut self, ids: impl Iterator<Item = TimelineId>) -> Result<()> {
        let really = std::mem::replace(&mut self.options.dry_run, true);
        for id in ids {
            if let Some(pins) = self.pins.get(&id) {
                let mut batch = Batch::default();
                self.deadlist(id, pins, (Epoch::ZERO, self.closed), &mut batch)?;
            }
        }
        self.options.dry_run = really;
        Ok(())
    }

    /// Records that the change list does not name.
    fn bookkeeping(&mut self, id: TimelineId, pins: &Pins, batch: &mut Batch) -> Result<()> {
        for key in [RecordKey::Usage, RecordKey::NextIno] {
            self.record(id, pins, &key.encode(), batch)?;
        }
        for tag in [tag::ORPHAN, tag::BACKLINK] {
            let mut after: Option<Vec<u8>> = None;
            loop {
                let page = self
                    .inner
                    .index
                    .versions_page(id, &[tag], after.as_deref(), PAGE)?;
                let Some((last, _)) = page.last() else { break };
                let mut keys: Vec<&[u8]> = page.iter().map(|(key, _)| relative(key)).collect();
                keys.dedup();
                for key in keys {
                    self.record(id, pins, key, batch)?;
                }
                after = Some(last.clone());
                self.step(id, page.len(), batch)?;
            }
        }
        Ok(())
    }

    /// Records that were changed in `(lo, hi]`.
    fn changed(
        &mut self,
        id: TimelineId,
        pins: &Pins,
        (lo, hi): (Epoch, Epoch),
        batch: &mut Batch,
    ) -> Result<()> {
        let mut after = None;
        loop {
            let page = self
                .inner
                .index
                .changes_page(id, lo, hi, after.as_ref(), PAGE)?;
            let len = page.len();
            let keys: BTreeSet<&[u8]> = page.iter().map(|(_, key)| &key[..]).collect();
            for key in keys {
                self.record(id, pins, key, batch)?;
            }
            let Some(last) = page.into_iter().next_back() else {
                return Ok(());
            };
            after = Some(last);
            self.step(id, len, batch)?;
        }
    }

    /// All versions of one record.
    fn record(
        &mut self,
        id: TimelineId,
        pins: &Pins,
        relative: &[u8],
        batch: &mut Batch,
    ) -> Result<()> {
        let mut versions = self.inner.index.versions_of(id, relative)?;
        versions.reverse();
        let mut from = 0;
        while from < versions.len() {
            let n = pins.window_of(versions[from].0);
            let hi = pins.windows[n].hi;
            let to = from + versions[from..].partition_point(|(epoch, _)| *epoch <= hi);
            self.in_window(id, pins, n, relative, &versions[from..to], batch)?;
            from = to;
        }
        Ok(())
    }

    /// The versions of one record in one window, oldest first.
    fn in_window(
        &mut self,
        id: TimelineId,
        pins: &Pins,
        n: usize,
        relative: &[u8],
        versions: &[(Epoch, Vec<u8>)],
        batch: &mut Batch,
    ) -> Result<()> {
        let window = &pins.windows[n];
        let mut before: Option<&(Epoch, Vec<u8>)> = None;
        for (i, version) in versions.iter().enumerate() {
            let (birth, row) = version;
            if *birth > self.closed {
                break;
            }
            let death = versions.get(i + 1).map(|(epoch, _)| *epoch);
            if pins.kept_by(n, *birth, death).is_some() {
                // What hides nothing is nothing.
                if before.is_none()
                    && records::is_tombstone(row)
                    && !self.shows_through(window, relative)?
                {
                    self.drop_version(relative, *birth, row, batch);
                    continue;
                }
                before = Some(version);
                continue;
            }
            self.drop_version(relative, *birth, row, batch);
            if death.is_none() {
                self.left_behind(relative, row, pins.top(n).max(window.lo), batch)?;
            }
            // Oldest first, so that a stop in between leaves what a state could have shown.
            if batch.rows.len() >= 2 * BATCH {
                self.commit(id, batch)?;
            }
        }
        Ok(())
    }

    /// So many bytes of a segment are needed no more.
    fn lose(&mut self, segment: Option<FileId>, bytes: usize) {
        if let Some(id) = segment {
            *self.lost.entry(id).or_default() += bytes as u64;
        }
    }

    fn lose_version(&mut self, key: &[u8], epoch: Epoch, row: &[u8]) {
        let segment = self.segments.of_epoch(epoch).map(|k| k.id);
        self.lose(segment, key.len() + row.len());
    }

    fn lose_pieces(&mut self, pieces: &[Piece]) {
        for p in pieces.iter().filter(|p| !crate::blobs::is_object(p.file)) {
            self.lose(Some(p.file), p.take as usize);
        }
    }

    fn drop_version(&mut self, relative: &[u8], epoch: Epoch, row: &[u8], batch: &mut Batch) {
        self.report.versions += 1;
        self.lose_version(relative, epoch, row);
        let row = Row::Drop {
            key: relative.to_vec(),
            epoch,
        };
        batch.rows.push(Gone { row, dead: 0 });
    }

    /// Whether the origin of a window has this record.
    fn shows_through(&self, window: &Window, relative: &[u8]) -> Result<bool> {
        let Some((parent, cutoff)) = window.origin else {
            return Ok(false);
        };
        let hops: Lineage = self.catalog.lineage(parent, cutoff)?.into();
        let key = RecordKey::decode(relative)?;
        Ok(lineage::get(&self.inner.index, &hops, &key)?.is_some())
    }

    /// Bytes of a version that nothing superseded, and that no state shows: those that were written
    /// behind the last state that is needed. (For older ones that state is the reason to stay.)
    fn left_behind(
        &mut self,
        relative: &[u8],
        row: &[u8],
        top: Epoch,
        batch: &mut Batch,
    ) -> Result<()> {
        if relative.first() != Some(&tag::CHUNK) {
            return Ok(());
        }
        let key = RecordKey::decode(relative)?;
        match records::decode(&key, row)? {
            Some(Record::Chunk(Chunk::Extents(extents))) => {
                for e in extents
                    .iter()
                    .filter(|e| !e.inherited && Epoch(e.born) > top)
                {
                    self.count(u64::from(e.take), |gone| gone.add_extent(e));
                    batch.give(e);
                }
            }
            Some(Record::Chunk(Chunk::Inline {
                born,
                inherited: false,
                bytes,
            })) if Epoch(born) > top => {
                let len = bytes.len() as u64;
                if let RecordKey::Chunk(ino, _) = key {
                    self.count(len, |gone| gone.add_inline(ino, Epoch(born), len));
                }
                batch.bury(bytes.len() as u64);
            }
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64, add: impl FnOnce(&mut Bytes)) {
        self.report.pieces += 1;
        match &mut self.gone {
            Some(gone) => add(gone),
            None => self.report.bytes += bytes,
        }
    }

    /// Deadlist records with a death in `(lo, hi]`.
    fn deadlist(
        &mut self,
        id: TimelineId,
        pins: &Pins,
        (lo, hi): (Epoch, Epoch),
        batch: &mut Batch,
    ) -> Result<()> {
        let mut after = None;
        loop {
            let page = self
                .inner
                .index
                .dead_page(id, lo, hi, after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            for (key, value) in &page {
                let dead = Dead::decode(value)?;
                if let Some(by) = pins.bytes_kept_by(dead.birth, key.death) {
                    self.kept.add(by, u64::from(dead.take));
                    continue;
                }
                self.count(u64::from(dead.take), |gone| gone.add_dead(key.death, &dead));
                self.lose(self.segments.at(key.frame).map(|k| k.id), value.len());
                let row = Row::Free {
                    death: key.death,
                    frame: key.frame,
                    number: key.number,
                };
                let dead_bytes = u64::from(dead.take);
                batch.rows.push(Gone {
                    row,
                    dead: dead_bytes,
                });
                if dead.file != INLINE {
                    batch.pieces.push(piece(&dead));
                }
            }
            self.step(id, page.len(), batch)?;
        }
    }

    /// Everything of a timeline goes.
    fn drop_all(&mut self, id: TimelineId, pins: &Pins) -> Result<()> {
        self.report.dropped_timelines += 1;
        let mut batch = Batch::default();
        let mut after = None;
        loop {
            let page =
                self.inner
                    .index
                    .dead_page(id, Epoch::ZERO, Epoch::MAX, after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (key, value) in &page {
                let dead = Dead::decode(value)?;
                self.count(u64::from(dead.take), |gone| gone.add_dead(key.death, &dead));
                self.lose(self.segments.at(key.frame).map(|k| k.id), value.len());
                if dead.file != INLINE {
                    batch.pieces.push(piece(&dead));
                }
            }
            self.step_dropping(id, page.len(), &mut batch)?;
        }
        let mut after: Option<Vec<u8>> = None;
        let mut newer: Option<(Vec<u8>, usize)> = None;
        loop {
            let page = self
                .inner
                .index
                .versions_page(id, &[], after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, row) in &page {
                self.report.versions += 1;
                let (_, key, epoch) = split_version_key(key)?;
                self.lose_version(key, epoch, row);
                // The newest of each window comes first; what it does not hold of older ones is in the deadlist.
                let window = pins.window_of(epoch);
                if !newer
                    .as_ref()
                    .is_some_and(|(k, w)| k == key && *w == window)
                {
                    newer = Some((key.to_vec(), window));
                    self.left_behind(key, row, Epoch::ZERO, &mut batch)?;
                }
            }
            self.step_dropping(id, page.len(), &mut batch)?;
        }
        if self.options.dry_run {
            return Ok(());
        }
        self.space.settle()?;
        self.step_point()?;
        let inner = self.inner;
        let _structure = inner.structure.lock();
        let Some(mut record) = inner.catalog.read().timelines.get(&id).cloned() else {
            return Ok(());
        };
        record.dropped = true;
        record.swept = None;
        record.settings.labels.clear();
        let epoch = inner.shared_epoch();
        inner.commit_freeing(*epoch, id, &[Row::Empty, timeline_row(&record)?])?;
        inner.catalog.write().put_timeline(record);
        Ok(())
    }

    fn step_dropping(&mut self, id: TimelineId, records: usize, batch: &mut Batch) -> Result<()> {
        self.rest(records)?;
        if self.options.dry_run {
            batch.pieces.clear();
            return Ok(());
        }
        self.lose_pieces(&batch.pieces);
        let rows = self.space.give(&batch.pieces, &self.segments)?;
        batch.pieces.clear();
        self.step_point()?;
        for some in rows.chunks(COMMIT) {
            let epoch = self.inner.shared_epoch();
            self.inner.commit_freeing(*epoch, id, some)?;
        }
        Ok(())
    }

    /// Between two pages: commits what has come together, and keeps to the rate.
    fn step(&mut self, id: TimelineId, records: usize, batch: &mut Batch) -> Result<()> {
        if batch.rows.len() >= BATCH {
            self.commit(id, batch)?;
        }
        self.rest(records)
    }

    pub(super) fn rest(&mut self, records: usize) -> Result<()> {
        self.inner.check_open()?;
        self.pace.take(records);
        Ok(())
    }

    /// Gives the bytes back, and then forgets who they were: the other way round a crash would leave
    /// bytes that nobody knows of. That is done by and by, so that nobody who writes waits for long; a
    /// crash in between gives the bytes of the rest back again.
    fn commit(&mut self, id: TimelineId, batch: &mut Batch) -> Result<()> {
        let batch = std::mem::take(batch);
        if self.options.dry_run || batch.rows.is_empty() && batch.pieces.is_empty() {
            return Ok(());
        }
        self.step_point()?;
        self.lose_pieces(&batch.pieces);
        let residues = self.space.give(&batch.pieces, &self.segments)?;
        self.space.settle()?;
        self.step_point()?;
        // What is left of blocks must be known before it is forgotten whose they were.
        for some in residues.chunks(COMMIT) {
            self.commit_rows(id, some.to_vec(), 0)?;
        }
        let mut rows = batch.rows.into_iter().peekable();
        while rows.peek().is_some() {
            let (mut some, mut dead) = (Vec::with_capacity(COMMIT + 1), 0);
            for gone in rows.by_ref().take(COMMIT) {
                some.push(gone.row);
                dead += gone.dead;
            }
            self.commit_rows(id, some, dead)?;
            self.step_point()?;
        }
        Ok(())
    }

    /// One commit, that also corrects the totals.
    fn commit_rows(&mut self, id: TimelineId, mut rows: Vec<Row>, dead: u64) -> Result<()> {
        let inner = self.inner;
        let state = match inner.state(id) {
            Ok(state) if dead > 0 => Some(state),
            Ok(_) => None,
            // A deleted one has no totals.
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let epoch = inner.shared_epoch();
        match state {
            Some(state) => {
                let mut own = state.inner.write();
                let usage = UsageRecord {
                    dead: own.usage.dead.saturating_sub(dead),
                    ..own.usage
                };
                rows.push(crate::timeline::record_row(
                    &RecordKey::Usage,
                    &Record::Usage(usage),
                ));
                inner.commit_freeing(*epoch, id, &rows)?;
                own.usage = usage;
            }
            None => {
                inner.commit_freeing(*epoch, id, &rows)?;
            }
        }
        Ok(())
    }
}

fn piece(dead: &Dead) -> Piece {
    Piece {
        file: dead.file,
        offset: dead.offset,
        length: dead.length,
        skip: dead.skip,
        take: dead.take,
    }
}

/// The relative key in a version's key.
fn relative(key: &[u8]) -> &[u8] {
    key.get(TIMELINE_LEN..key.len().saturating_sub(EPOCH_LEN))
        .unwrap_or_default()
}
