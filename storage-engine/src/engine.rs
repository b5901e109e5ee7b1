//! The engine: opening, closing, commits and durability.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::blobs::Blobs;
use crate::catalog::{Catalog, Quota};
use crate::clock::{Clock, IdSource, RandomIds, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::flush::{Flusher, Unflushed};
use crate::fs::{FileSystem, RealFileSystem};
use crate::gc::{Collector, GcSchedule, Worker};
use crate::ids::{Epoch, Ino, Position, SnapshotId, TimelineId};
use crate::index::keys::RecordKey;
use crate::index::lineage::{self, Hop, Lineage};
use crate::index::recent::Recent;
use crate::index::records::{Record, UsageRecord};
use crate::leases::Leases;
use crate::log::durable::Durable;
use crate::log::frame::{Parts, Row};
use crate::log::reader::Applied;
use crate::log::writer::{Claim, LogWriter};
use crate::observe::{Change, Observation, Observers};
use crate::open::Recovery;
use crate::planted::{Bug, planted};
use crate::rocks::{Applying, Index};
use crate::store::{Layout, Lock};

/// Size of a segment: large enough that its making (two syncs) is rare, small enough that a mostly
/// dead one can be rewritten soon.
const SEGMENT_BYTES: u64 = 64 << 20;

/// How to open a store.
#[derive(Clone)]
pub struct Options {
    /// Make a new store if there is none.
    pub create: bool,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where new ids come from.
    pub ids: Arc<dyn IdSource>,
    /// Where the files are. Another than the machine's is for tests.
    pub fs: Arc<dyn FileSystem>,
    /// Bytes after which a segment of the log is full.
    pub segment_bytes: u64,
    /// Bytes of the log after which the index is written out, which bounds what the next opening replays.
    pub flush_bytes: u64,
    /// Collect in the background; otherwise only [`Engine::gc`] does.
    pub gc: Option<GcSchedule>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            create: true,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            fs: Arc::new(RealFileSystem),
            segment_bytes: SEGMENT_BYTES,
            flush_bytes: crate::flush::LOG_BYTES,
            gc: None,
        }
    }
}

/// A state of a timeline to start from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// The newest state.
    Now(TimelineId),
    /// The state at a past epoch, or any instant in Unix nanoseconds.
    At(TimelineId, Epoch),
    /// A snapshot.
    Snapshot(SnapshotId),
}

/// How sure a commit must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// Survives the death of the process.
    Memory,
    /// Survives the loss of power.
    #[default]
    Local,
}

/// One store, owned by this process. Cheap to clone; safe to share between threads.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub layout: Layout,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    pub index: Arc<Index>,
    pub files: Blobs,
    pub catalog: RwLock<Catalog>,
    /// Held while the set of timelines and snapshots changes. Taken before `epoch`.
    pub structure: Mutex<()>,
    /// The open epoch. Commits hold it shared; closing it takes it alone. Taken before a timeline's state.
    pub(crate) epoch: RwLock<Epoch>,
    /// The newest closed epoch that a commit in the log carries: after a restart, whatever the clock says
    /// then, no commit is at or below it.
    pub(crate) closed_epoch: Mutex<Epoch>,
    /// Whether anything was committed in the open epoch.
    pub(crate) dirty: AtomicBool,
    pub commit: Arc<Mutex<CommitState>>,
    pub(crate) durable: Arc<Durable>,
    pub(crate) flusher: Flusher,
    pub(crate) leases: Arc<Leases>,
    /// What the collector keeps between two runs; held while it runs, and while nothing may be collected.
    pub(crate) collector: Mutex<Collector>,
    pub(crate) worker: Mutex<Option<Worker>>,
    pub(crate) recovery: Recovery,
    pub(crate) live: Mutex<HashMap<TimelineId, Arc<TimelineState>>>,
    pub observers: Arc<Observers>,
    pub(crate) closed: AtomicBool,
    /// Last, so that it is given up last.
    pub(crate) _lock: Lock,
}

/// The end of the log; whoever holds it commits.
pub(crate) struct CommitState {
    pub log: LogWriter,
    /// What of the index is only in memory.
    pub unflushed: Unflushed,
}

/// What is kept in memory of a timeline that is in use.
pub(crate) struct TimelineState {
    pub id: TimelineId,
    pub inner: RwLock<TimelineInner>,
}

pub(crate) struct TimelineInner {
    /// Up to the open end.
    pub lineage: Lineage,
    /// What was changed last.
    pub recent: Recent,
    pub usage: UsageRecord,
    pub quota: Quota,
    pub read_only: bool,
    pub deleted: bool,
    pub next_ino: u64,
    pub ino_limit: u64,
}

impl Engine {
    /// Makes everything durable, writes the index out and gives the store free; every later call on a
    /// clone of this handle fails. Cost: what of the index is only in memory.
    pub fn close(self) -> Result<()> {
        let inner = &self.inner;
        if let Some(worker) = inner.worker.lock().take() {
            worker.stop();
        }
        let _structure = inner.structure.lock();
        let mut commit = inner.commit.lock();
        if inner.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        inner.flusher.stop();
        if planted(Bug::IndexBeforeLog) {
            inner.index.flush(true)?;
        }
        commit.log.close()?;
        // Otherwise the next opening takes it from the log.
        if commit.unflushed.fits(&inner.layout.root) {
            inner.index.flush(true)?;
        }
        inner.files.close()
    }

    /// What opening this store had to do.
    pub fn recovery(&self) -> Recovery {
        self.inner.recovery
    }

    /// Whether the store takes work. Cost: none; the disk is not asked.
    ///
    /// # Errors
    /// `Unavailable` once it was closed, `Poisoned` after a failed sync: only opening it again helps then.
    pub fn check_open(&self) -> Result<()> {
        self.inner.check_open()
    }

    /// Everything committed so far is on disk when this returns. Cost: one sync, or none.
    pub fn sync(&self) -> Result<()> {
        self.inner.check_open()?;
        self.inner.durable.sync()
    }

    /// Position behind the last commit.
    pub fn position(&self) -> Position {
        self.inner.durable_position()
    }

    /// Returns when what was committed up to `position` is as durable as asked for.
    pub fn wait(&self, position: Position, durability: Durability) -> Result<()> {
        self.inner.wait(position, durability)
    }

    /// Closes the open epoch if anything was committed in it, so that this instant stays readable
    /// within retention. Returns the newest closed epoch in which anything was committed. Cost: constant,
    /// no I/O.
    pub fn tick(&self) -> Result<Epoch> {
        self.inner.check_open()?;
        let mut epoch = self.inner.exclusive_epoch();
        Ok(self.inner.close_if_dirty(&mut epoch))
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.inner.layout.root.clone()
    }

    /// The engine's time in Unix nanoseconds.
    pub fn now(&self) -> u64 {
        self.inner.clock.now()
    }

    /// Calls `observer` for every change of `timeline` that another origin makes, until the returned
    /// value is dropped.
    pub fn observe(
        &self,
        timeline: TimelineId,
        origin: u64,
        observer: Arc<dyn Fn(&Change<'_>) + Send + Sync>,
    ) -> Observation {
        self.inner.observers.add(timeline, origin, observer)
    }
}

impl Inner {
    /// Fails on a closed or poisoned engine.
    pub fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Unavailable, "the store was closed"));
        }
        self.durable.check()
    }

    pub fn durable_position(&self) -> Position {
        self.durable.appended()
    }

    pub fn wait(&self, position: Position, durability: Durability) -> Result<()> {
        match durability {
            _ if planted(Bug::AcknowledgedBeforeSync) => self.durable.check(),
            Durability::Memory => self.durable.check(),
            Durability::Local => self.durable.wait(position),
        }
    }

    /// Held by a commit from the first read to the end.
    pub fn shared_epoch(&self) -> RwLockReadGuard<'_, Epoch> {
        self.epoch.read()
    }

    /// No commit is under way while this is held.
    pub fn exclusive_epoch(&self) -> RwLockWriteGuard<'_, Epoch> {
        self.epoch.write()
    }

    /// Closes the epoch; returns it. The clock may stand still or go back: epochs do not.
    pub fn close_epoch(&self, epoch: &mut RwLockWriteGuard<'_, Epoch>) -> Epoch {
        let closed = **epoch;
        **epoch = Epoch(self.clock.now().max(closed.0 + 1));
        // Without a commit in it, nothing would keep a later run from opening it again.
        if self.dirty.swap(false, Ordering::AcqRel) {
            *self.closed_epoch.lock() = closed;
        }
        closed
    }

    /// Closes the epoch if anything was committed in it; returns the newest closed one that has a commit.
    pub fn close_if_dirty(&self, epoch: &mut RwLockWriteGuard<'_, Epoch>) -> Epoch {
        if self.dirty.load(Ordering::Acquire) {
            self.close_epoch(epoch);
        }
        *self.closed_epoch.lock()
    }

    /// Totals of the timelines that are in memory.
    pub fn totals_in_memory(&self) -> HashMap<TimelineId, UsageRecord> {
        let states: Vec<_> = self.live.lock().values().cloned().collect();
        states
            .iter()
            .map(|state| (state.id, state.inner.read().usage))
            .collect()
    }

    /// Appends a frame and applies it. On an error of the log nothing has changed; if the index fails
    /// after it, the engine is poisoned: opening again applies the frame.
    pub fn append(
        &self,
        commit: &mut MutexGuard<'_, CommitState>,
        frame: Position,
        parts: &Parts<'_>,
        data: &[u8],
        rows: &[Row],
    ) -> Result<Position> {
        let (end, chain) = commit.log.append(parts, data)?;
        self.dirty.store(true, Ordering::Release);
        let applying = Applying {
            timeline: parts.timeline,
            epoch: parts.epoch,
            frame,
            rows,
            applied: Applied {
                position: end,
                chain,
            },
        };
        let size = match self.index.apply(&applying) {
            Ok(size) => size,
            Err(e) => {
                self.durable.poison();
                return Err(e);
            }
        };
        if commit.unflushed.add(size, end) {
            self.flusher.ask();
        }
        Ok(end)
    }

    /// Commits rows of the catalog, with or without records of one timeline, as one frame.
    pub fn commit_rows(
        &self,
        epoch: Epoch,
        timeline: TimelineId,
        rows: &[Row],
    ) -> Result<Position> {
        self.commit_rows_for(Claim::Ordinary, epoch, timeline, rows)
    }

    /// The same for what leads to space being given back: it is possible on a full disk, too.
    pub fn commit_freeing(
        &self,
        epoch: Epoch,
        timeline: TimelineId,
        rows: &[Row],
    ) -> Result<Position> {
        self.commit_rows_for(Claim::Freeing, epoch, timeline, rows)
    }

    fn commit_rows_for(
        &self,
        claim: Claim,
        epoch: Epoch,
        timeline: TimelineId,
        rows: &[Row],
    ) -> Result<Position> {
        self.check_open()?;
        let encoded = crate::log::frame::encode_rows(rows);
        let mut commit = self.commit.lock();
        let place = commit.log.place(claim)?;
        let parts = Parts {
            epoch,
            timeline,
            data_len: 0,
            data_hash: [0; 32],
            rows: &encoded,
        };
        self.append(&mut commit, place.position, &parts, &[], rows)
    }

    /// The state of a live timeline, loaded if it is not in memory. Cost the first time: a few reads.
    pub fn state(&self, id: TimelineId) -> Result<Arc<TimelineState>> {
        // Held while loading: a restore that comes in between finds the state and corrects it.
        let mut live = self.live.lock();
        if let Some(state) = live.get(&id) {
            return Ok(Arc::clone(state));
        }
        let inner = {
            let catalog = self.catalog.read();
            let record = catalog.live_timeline(id)?;
            self.load_state(
                &catalog,
                record.id,
                record.settings.quota,
                record.settings.read_only,
            )?
        };
        let state = Arc::new(TimelineState {
            id,
            inner: RwLock::new(inner),
        });
        live.insert(id, Arc::clone(&state));
        Ok(state)
    }

    fn load_state(
        &self,
        catalog: &Catalog,
        id: TimelineId,
        quota: Quota,
        read_only: bool,
    ) -> Result<TimelineInner> {
        let hops = self.lineage(catalog, id, Epoch::MAX)?;
        let usage = self.usage_seen_by(&hops, id)?;
        let next = match lineage::get(&self.index, &hops, &RecordKey::NextIno)?.map(|s| s.record) {
            Some(Record::NextIno(next)) => next,
            _ => Ino::ROOT.0 + 1,
        };
        let next = if planted(Bug::ReusedInode) {
            Ino::ROOT.0 + 1
        } else {
            next
        };
        Ok(TimelineInner {
            lineage: hops,
            recent: Recent::default(),
            usage,
            quota,
            read_only,
            deleted: false,
            // What was handed out of the last block is not known: the next one is begun.
            next_ino: next,
            ino_limit: next,
        })
    }

    /// The totals that a timeline starts from: its own, or what it inherits with nothing of its own.
    pub fn usage_seen_by(&self, hops: &[Hop], id: TimelineId) -> Result<UsageRecord> {
        let Some(seen) = lineage::get(&self.index, hops, &RecordKey::Usage)? else {
            return Ok(UsageRecord::default());
        };
        let Record::Usage(usage) = seen.record else {
            return Err(Error::corrupt("a usage record holds something else"));
        };
        if seen.hop == 0 {
            return Ok(usage);
        }
        // A restored timeline has written bytes that its new state does not refer to.
        let before =
            match self
                .index
                .newest(id, &RecordKey::Usage.encode(), Epoch::ZERO, hops[0].lo)?
            {
                Some((_, row)) => match crate::index::records::decode(&RecordKey::Usage, &row)? {
                    Some(Record::Usage(u)) => u.own + u.dead,
                    _ => 0,
                },
                None => 0,
            };
        let own = if lineage::is_own(hops, seen.hop, id) {
            usage.own
        } else {
            0
        };
        Ok(UsageRecord {
            own,
            dead: before.saturating_sub(own),
            ..usage
        })
    }

    /// The hops of a read, without those in which nothing was ever written. An empty one of another timeline stays where
    /// windows of this one lie behind it: they are that other's inheritance ([`lineage::is_own`]). Cost: one read per
    /// ancestor.
    pub fn lineage(&self, catalog: &Catalog, id: TimelineId, at: Epoch) -> Result<Lineage> {
        let all = catalog.lineage(id, at)?;
        let usage = RecordKey::Usage.encode();
        let mut hops = Vec::with_capacity(all.len());
        let last_own = all.iter().rposition(|hop| hop.timeline == id);
        for (n, hop) in all.into_iter().enumerate() {
            let divides = hop.timeline != id && last_own.is_some_and(|own| n < own);
            // Every commit writes the usage record, so a window without one is empty.
            if n == 0
                || divides
                || self
                    .index
                    .newest(hop.timeline, &usage, hop.lo, hop.hi)?
                    .is_some()
            {
                hops.push(hop);
            }
        }
        Ok(hops.into())
    }

    /// Drops what is in memory of a timeline; volumes that are open keep their state object.
    pub fn forget_state(&self, id: TimelineId) -> Option<Arc<TimelineState>> {
        self.live.lock().remove(&id)
    }

    /// The state if it is in memory.
    pub fn loaded_state(&self, id: TimelineId) -> Option<Arc<TimelineState>> {
        self.live.lock().get(&id).cloned()
    }
}

impl Drop for Inner {
    /// RocksDB writes out what it has in memory when it is closed, asked or not: the log must be on disk
    /// before, as it is before every other flush.
    fn drop(&mut self) {
        self.flusher.stop();
        if !self.closed.load(Ordering::Acquire)
            && let Err(error) = self.durable.sync()
        {
            tracing::error!(%error, "syncing the log while dropping the engine");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_on_disk_before_an_engine_that_was_not_closed_gives_its_index_up() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path(), Options::default()).unwrap();
        engine
            .create_root(crate::CreateRoot {
                name: "a".into(),
                durability: Durability::Memory,
                ..Default::default()
            })
            .unwrap();
        let durable = Arc::clone(&engine.inner.durable);
        assert!(durable.synced() < durable.appended());
        drop(engine);
        let index = dir.path().join("index");
        let flushed = std::fs::read_dir(index)
            .unwrap()
            .any(|e| e.unwrap().path().extension().is_some_and(|e| e == "sst"));
        assert!(
            flushed,
            "RocksDB does not flush any more: then this is not needed"
        );
        assert_eq!(durable.synced(), durable.appended());
    }
}
