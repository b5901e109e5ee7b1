//! What can be asked about timelines and snapshots.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::catalog::{Catalog, Origin, Settings, SnapshotRecord, TimelineRecord};
use crate::engine::{Engine, Inner};
use crate::error::{Error, Result};
use crate::ids::{Epoch, SnapshotId, TimelineId};
use crate::index::records::UsageRecord;

/// A timeline as others see it.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TimelineInfo {
    /// Its id.
    pub id: TimelineId,
    /// Its name.
    pub name: String,
    /// What it was forked from; `None` for a root, whatever it was restored to.
    pub origin: Option<Origin>,
    /// What it was forked from and, later, restored to; oldest first.
    pub origins: Vec<Origin>,
    /// Epoch at which it was made.
    pub created: Epoch,
    /// Its settings.
    pub settings: Settings,
    /// Number of ancestors that a read may visit.
    pub depth: usize,
}

/// A snapshot as others see it.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// Its name.
    pub name: String,
    /// The timeline that it pins.
    pub timeline: TimelineId,
    /// The epoch that it pins.
    pub epoch: Epoch,
    /// Hash of the whole history up to it, in hexadecimal (BLAKE3 over the log's frames).
    pub digest: String,
    /// Epoch at which it was made.
    pub created: Epoch,
    /// Sum of the sizes of its files, in bytes.
    pub logical_bytes: u64,
    /// Number of its inodes.
    pub inodes: u64,
    /// The owner's notes.
    pub labels: BTreeMap<String, String>,
}

/// What a timeline holds and costs, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Sum of the sizes of all files.
    pub logical_bytes: u64,
    /// Bytes stored for the newest state, holes left out.
    pub allocated_bytes: u64,
    /// Bytes that this timeline wrote itself, those that it has superseded since included.
    pub divergent_bytes: u64,
    /// Of `allocated_bytes`, those that ancestors wrote.
    pub shared_bytes: u64,
    /// Number of files, directories and others.
    pub inodes: u64,
}

impl From<UsageRecord> for Usage {
    fn from(u: UsageRecord) -> Self {
        Self {
            logical_bytes: u.logical,
            allocated_bytes: u.allocated,
            divergent_bytes: u.own + u.dead,
            shared_bytes: u.allocated.saturating_sub(u.own),
            inodes: u.inodes,
        }
    }
}

impl Engine {
    /// All timelines, in the order of their names. Cost: their number.
    pub fn timelines(&self) -> Vec<TimelineInfo> {
        let catalog = self.inner.catalog.read();
        catalog
            .timelines_by_name()
            .map(|t| timeline_info(&catalog, t))
            .collect()
    }

    /// Whether some timeline retains its history, so that epochs have to be closed by a timer ([`Engine::tick`]).
    /// Cost: the number of timelines.
    pub fn retains_history(&self) -> bool {
        let catalog = self.inner.catalog.read();
        catalog
            .timelines_by_name()
            .any(|timeline| !timeline.settings.retain.is_zero())
    }

    /// Timelines that were deleted and that the collector has not forgotten: descendants may read them.
    pub fn deleted_timelines(&self) -> Vec<TimelineInfo> {
        let catalog = self.inner.catalog.read();
        let mut out: Vec<_> = catalog
            .timelines
            .values()
            .filter(|t| t.deleted.is_some() && !t.dropped)
            .map(|t| timeline_info(&catalog, t))
            .collect();
        out.sort_by_key(|t| t.created);
        out
    }

    /// One timeline.
    pub fn timeline(&self, id: TimelineId) -> Result<TimelineInfo> {
        let catalog = self.inner.catalog.read();
        catalog
            .live_timeline(id)
            .map(|t| timeline_info(&catalog, t))
    }

    /// The timeline of this name.
    pub fn timeline_named(&self, name: &str) -> Result<TimelineInfo> {
        let catalog = self.inner.catalog.read();
        let record = catalog
            .timeline_named(name)
            .ok_or_else(|| Error::not_found(format!("timeline {name}")))?;
        Ok(timeline_info(&catalog, record))
    }

    /// All snapshots, in the order of their names. Cost: a few reads for each.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        let catalog = self.inner.catalog.read();
        catalog
            .snapshots_by_name()
            .map(|s| self.inner.snapshot_of(&catalog, s))
            .collect()
    }

    /// One snapshot. Cost: one read for each hop of its lineage.
    pub fn snapshot_info(&self, id: SnapshotId) -> Result<SnapshotInfo> {
        let catalog = self.inner.catalog.read();
        self.inner.snapshot_of(&catalog, catalog.live_snapshot(id)?)
    }

    /// The snapshot of this name.
    pub fn snapshot_named(&self, name: &str) -> Result<SnapshotInfo> {
        let catalog = self.inner.catalog.read();
        let record = catalog
            .snapshot_named(name)
            .ok_or_else(|| Error::not_found(format!("snapshot {name}")))?;
        self.inner.snapshot_of(&catalog, record)
    }

    /// What a timeline holds and costs now. Cost: none (kept exact by every commit); of a timeline that was
    /// restored, what it wrote itself.
    pub fn usage(&self, id: TimelineId) -> Result<Usage> {
        let state = self.inner.state(id)?;
        let restored = !self
            .inner
            .catalog
            .read()
            .live_timeline(id)?
            .never_restored();
        let mut usage = state.inner.read().usage;
        if restored {
            // What the restores left behind, and what was superseded again after they brought it back, has
            // no running total. Nothing is committed meanwhile, so that all is of one instant.
            let own = state.inner.read();
            usage = own.usage;
            usage.dead = self.inner.written_by(id)?.saturating_sub(usage.own);
        }
        Ok(usage.into())
    }
}

fn timeline_info(catalog: &Catalog, t: &TimelineRecord) -> TimelineInfo {
    TimelineInfo {
        id: t.id,
        name: t.name.clone(),
        origin: t.forked_from().cloned(),
        origins: t.origins.clone(),
        created: t.created,
        settings: t.settings.clone(),
        depth: catalog
            .lineage(t.id, Epoch::MAX)
            .map_or(0, |hops| hops.len() - 1),
    }
}

impl Inner {
    fn snapshot_of(&self, catalog: &Catalog, s: &SnapshotRecord) -> Result<SnapshotInfo> {
        let hops = self.lineage(catalog, s.timeline, s.epoch)?;
        let usage = self.usage_seen_by(&hops, s.timeline)?;
        Ok(SnapshotInfo {
            id: s.id,
            name: s.name.clone(),
            timeline: s.timeline,
            epoch: s.epoch,
            digest: s.digest.clone(),
            created: s.created,
            logical_bytes: usage.logical,
            inodes: usage.inodes,
            labels: s.labels.clone(),
        })
    }
}
