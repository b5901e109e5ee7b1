//! A handle on one timeline, or on one past state.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLockReadGuard};

use crate::blobs::Blobs;
use crate::catalog::Catalog;
use crate::commit::Txn;
use crate::engine::{Engine, Inner, Point, TimelineInner, TimelineState};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Ino, TimelineId};
use crate::index::keys::RecordKey;
use crate::index::lineage::{self, Lineage, Scan, Seen};
use crate::index::records::{Inode, Record, UsageRecord};
use crate::leases::{Lease, Need};
use crate::rocks::Index;

use super::types::{Answer, Caller, RequestId, StatFs};

/// How a volume is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VolumeOptions {
    /// Door through which changes are made: observers of the same origin are not told of them.
    pub origin: u64,
}

/// A timeline, or a past state, as a file tree. All operations are atomic, and visible in every
/// volume of the timeline when they return. Permission checks are the caller's.
pub struct Volume {
    engine: Engine,
    timeline: TimelineId,
    source: Source,
    origin: u64,
    /// Where listings that were cut off go on: directory and cookie to name.
    pub(super) resume: Mutex<HashMap<(Ino, u64), Vec<u8>>>,
}

enum Source {
    /// The newest state of a timeline.
    Live(Arc<TimelineState>),
    /// What a lineage saw at a cutoff.
    Past {
        hops: Lineage,
        usage: UsageRecord,
        /// Keeps the state, whatever is deleted meanwhile.
        _lease: Lease,
    },
}

/// What reads go through; while it lives, the timeline does not change.
pub(crate) struct View<'a> {
    pub index: &'a Index,
    pub files: &'a Blobs,
    pub hops: Lineage,
    guard: Option<RwLockReadGuard<'a, TimelineInner>>,
}

impl Engine {
    /// Opens a volume. `Point::Now` can be written unless the timeline is read-only; the other points
    /// are read-only. Cost: one read for each ancestor.
    ///
    /// # Errors
    /// `NotFound`, `OutOfRetention`.
    pub fn volume(&self, point: Point, options: VolumeOptions) -> Result<Volume> {
        let inner = &self.inner;
        inner.check_open()?;
        let (timeline, source) = match point {
            Point::Now(id) => (id, Source::Live(inner.state(id)?)),
            Point::At(..) | Point::Snapshot(_) => {
                let closed = {
                    let mut epoch = inner.exclusive_epoch();
                    inner.close_for(&mut epoch, [point])
                };
                let catalog = inner.catalog.read();
                let cutoff = inner.cutoff(&catalog, point, closed)?;
                let past = inner.past(&catalog, cutoff.timeline, cutoff.epoch)?;
                (cutoff.timeline, past)
            }
        };
        Ok(Volume {
            engine: self.clone(),
            timeline,
            source,
            origin: options.origin,
            resume: Mutex::default(),
        })
    }

    /// Opens a past state without asking retention: for readers inside the engine.
    pub(crate) fn volume_at(&self, timeline: TimelineId, epoch: Epoch) -> Result<Volume> {
        let inner = &self.inner;
        let catalog = inner.catalog.read();
        let source = inner.past(&catalog, timeline, epoch)?;
        Ok(Volume {
            engine: self.clone(),
            timeline,
            source,
            origin: 0,
            resume: Mutex::default(),
        })
    }
}

impl Inner {
    fn past(&self, catalog: &Catalog, timeline: TimelineId, epoch: Epoch) -> Result<Source> {
        let lease = self.leases.take(Need::State(timeline, epoch));
        let hops = self.lineage(catalog, timeline, epoch)?;
        let usage = self.usage_seen_by(&hops, timeline)?;
        Ok(Source::Past {
            hops,
            usage,
            _lease: lease,
        })
    }
}

impl Volume {
    /// The timeline that is read (of a snapshot: the one it pins).
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Whether every change is refused.
    pub fn read_only(&self) -> bool {
        match &self.source {
            Source::Live(state) => state.inner.read().read_only,
            Source::Past { .. } => true,
        }
    }

    /// The engine that it belongs to.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What this very request was answered, if it was carried out already (before a takeover).
    /// Cost: one read.
    pub fn answered(&self, request: RequestId) -> Result<Option<Answer>> {
        self.engine.inner.index.reply(request)
    }

    /// Figures for `statfs`: the quota if there is one, the disk otherwise. Cost: one `statvfs`.
    pub fn stat_fs(&self) -> Result<StatFs> {
        let (usage, quota) = match &self.source {
            Source::Live(state) => {
                let state = state.inner.read();
                (state.usage, state.quota)
            }
            Source::Past { usage, .. } => (*usage, crate::Quota::default()),
        };
        let root = &self.engine.inner.layout.root;
        let disk = rustix::fs::statvfs(root).map_err(|e| Error::io("statvfs", root, &e.into()))?;
        let unit = disk.f_frsize.max(1);
        let (total, free, available) = match quota.bytes {
            Some(limit) => {
                let left = limit.saturating_sub(usage.own);
                let available = left.min(disk.f_bavail.saturating_mul(unit));
                (
                    usage
                        .allocated
                        .saturating_sub(usage.own)
                        .saturating_add(limit),
                    left,
                    available,
                )
            }
            None => (
                disk.f_blocks.saturating_mul(unit),
                disk.f_bfree.saturating_mul(unit),
                disk.f_bavail.saturating_mul(unit),
            ),
        };
        /// What tools show where nothing limits the number of inodes.
        const MANY_INODES: u64 = 1 << 32;
        let inodes_total = quota.inodes.unwrap_or(MANY_INODES).max(usage.inodes);
        Ok(StatFs {
            bytes_total: total,
            bytes_free: free,
            bytes_available: available,
            inodes_total,
            inodes_free: inodes_total - usage.inodes,
            block_size: 4096,
            name_max: super::names::NAME_MAX as u32,
        })
    }

    /// Everything committed so far is on disk when this returns. One log serves all files, so the
    /// file matters only as to whether it exists. Cost: one sync, shared with whoever else waits.
    pub fn fsync(&self, _ino: Ino) -> Result<()> {
        self.engine.sync()
    }

    /// Everything committed so far is on disk when this returns.
    pub fn sync(&self) -> Result<()> {
        self.engine.sync()
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.engine.inner
    }

    /// Starts to read.
    pub(crate) fn view(&self) -> Result<View<'_>> {
        let inner = self.inner();
        let (hops, guard) = match &self.source {
            Source::Live(state) => {
                let guard = state.inner.read();
                if guard.deleted {
                    return Err(self.deleted());
                }
                (Arc::clone(&guard.lineage), Some(guard))
            }
            Source::Past { hops, .. } => (Arc::clone(hops), None),
        };
        Ok(View {
            index: &inner.index,
            files: &inner.files,
            hops,
            guard,
        })
    }

    /// Starts a change.
    pub(crate) fn begin(&self, _caller: &Caller) -> Result<Txn<'_>> {
        let Source::Live(state) = &self.source else {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "a past state cannot be changed: fork it",
            ));
        };
        let inner = self.inner();
        inner.check_open()?;
        let epoch = inner.shared_epoch();
        let guard = state.inner.write();
        if guard.deleted {
            return Err(self.deleted());
        }
        if guard.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the timeline is read-only"));
        }
        debug_assert_eq!(state.id, self.timeline);
        Ok(Txn::new(inner, self.timeline, epoch, guard, self.origin))
    }

    fn deleted(&self) -> Error {
        Error::new(
            ErrorKind::Stale,
            format!("timeline {} was deleted", self.timeline),
        )
    }
}

impl<'a> View<'a> {
    /// A view of what these hops see; they must not reach into the open epoch.
    pub fn of(index: &'a Index, files: &'a Blobs, hops: Lineage) -> Self {
        Self {
            index,
            files,
            hops,
            guard: None,
        }
    }
}

impl View<'_> {
    /// A record as this view sees it.
    pub fn get(&self, key: &RecordKey) -> Result<Option<Seen>> {
        if let Some(seen) = self.guard.as_ref().and_then(|live| live.recent.get(key)) {
            return Ok(seen);
        }
        lineage::get(self.index, &self.hops, key)
    }

    /// The inode, or `Stale` if it is gone.
    pub fn inode(&self, ino: Ino) -> Result<Inode> {
        self.find(ino)?
            .ok_or_else(|| Error::new(ErrorKind::Stale, format!("inode {ino} is gone")))
    }

    /// The inode, if it is there.
    pub fn find(&self, ino: Ino) -> Result<Option<Inode>> {
        Ok(match self.get(&RecordKey::Inode(ino))?.map(|s| s.record) {
            Some(Record::Inode(inode)) => Some(inode),
            _ => None,
        })
    }

    /// Scans records with `prefix`, from the first one at or after `from`.
    pub fn scan(&self, prefix: &[u8], from: &[u8]) -> Scan<'_> {
        Scan::new(self.index, &self.hops, prefix, from)
    }
}
