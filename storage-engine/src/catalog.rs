//! What timelines and snapshots there are. All of it is kept in memory (a few hundred bytes each) and
//! in the index as JSON rows: `t` + timeline id, `s` + snapshot id, `g` + file id of a segment.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::gc::Swept;
use crate::ids::{Epoch, FileId, SnapshotId, TimelineId};
use crate::index::lineage::Hop;
use crate::log::frame::Row;

const TIMELINE: u8 = b't';
const SNAPSHOT: u8 = b's';
const SEGMENT: u8 = b'g';
/// Longest name of a timeline or snapshot in bytes.
pub const MAX_CATALOG_NAME: usize = 1024;

/// Hard limits of a timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Quota {
    /// Bytes that this timeline may write beyond what it shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Inodes that it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<u64>,
}

/// What can be changed about a timeline.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// No volume of it can be written.
    #[serde(default)]
    pub read_only: bool,
    /// It cannot be deleted while this is set.
    #[serde(default)]
    pub protected: bool,
    /// Hard limits.
    #[serde(default)]
    pub quota: Quota,
    /// How far back every instant stays readable without a snapshot.
    #[serde(default)]
    pub retain: Duration,
    /// The owner's notes; the engine gives them no meaning.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Where the state of a timeline comes from, since an epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// Own versions are visible from the epoch after this one.
    pub since: Epoch,
    /// The timeline that is read behind them.
    pub parent: TimelineId,
    /// Up to this epoch of it.
    pub cutoff: Epoch,
    /// The snapshot that named the cutoff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TimelineRecord {
    /// Version of this record's layout.
    pub v: u8,
    pub id: TimelineId,
    pub name: String,
    pub created: Epoch,
    /// Oldest first. Empty for a root; a restore adds one.
    pub origins: Vec<Origin>,
    pub settings: Settings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Epoch>,
    /// States before this epoch may have been collected, unless something pins them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizon: Option<Epoch>,
    /// What the last finished collection of it went by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swept: Option<Swept>,
    /// It was deleted and nobody needs anything of it: all its records are gone but this one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dropped: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl TimelineRecord {
    /// What it was forked from; `None` for a root. A restore adds an origin too, from the epoch that it
    /// was made in; a fork's is from before.
    pub fn forked_from(&self) -> Option<&Origin> {
        self.origins.first().filter(|o| o.since < self.created)
    }

    /// Whether it has had one state after another, without a restore between them.
    pub fn never_restored(&self) -> bool {
        self.origins.len() == usize::from(self.forked_from().is_some())
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SnapshotRecord {
    /// Version of this record's layout.
    pub v: u8,
    pub id: SnapshotId,
    pub name: String,
    pub timeline: TimelineId,
    pub epoch: Epoch,
    /// Chain value of the log when it was taken, in hexadecimal.
    pub digest: String,
    /// Log position that the digest covers.
    pub position: u64,
    pub created: Epoch,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Epoch>,
}

/// What the collector knows of a full segment of the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SegmentRecord {
    /// Version of this record's layout.
    pub v: u8,
    pub id: FileId,
    /// Bytes that were needed of it when it was last looked at; `None` before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<u64>,
    /// Bytes of these that were given up since.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub given_up: u64,
    /// What proves it since it was compacted, in hexadecimal; while that is being done also what it was before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<String>,
}

impl SegmentRecord {
    /// Nothing is known.
    pub fn new(id: FileId) -> Self {
        Self {
            v: CATALOG_VERSION,
            id,
            needed: None,
            given_up: 0,
            digests: Vec::new(),
        }
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Newest layout of catalog records.
pub(crate) const CATALOG_VERSION: u8 = 1;

/// The catalog in memory.
#[derive(Default, Clone)]
pub(crate) struct Catalog {
    pub timelines: HashMap<TimelineId, TimelineRecord>,
    pub snapshots: HashMap<SnapshotId, SnapshotRecord>,
    pub segments: HashMap<FileId, SegmentRecord>,
    timeline_names: BTreeMap<String, TimelineId>,
    snapshot_names: BTreeMap<String, SnapshotId>,
}

impl Catalog {
    /// Takes in one row of the index.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let bad =
            |e: serde_json::Error| Error::corrupt(format!("a catalog record is damaged: {e}"));
        #[derive(Deserialize)]
        struct Layout {
            v: u8,
        }
        let Layout { v } = serde_json::from_slice(value).map_err(bad)?;
        if v > CATALOG_VERSION {
            return Err(Error::new(
                ErrorKind::UnsupportedFormat,
                format!(
                    "a catalog record has layout {v}; this version knows layouts up to {CATALOG_VERSION}"
                ),
            ));
        }
        match key.first() {
            Some(&TIMELINE) => self.put_timeline(serde_json::from_slice(value).map_err(bad)?),
            Some(&SNAPSHOT) => self.put_snapshot(serde_json::from_slice(value).map_err(bad)?),
            Some(&SEGMENT) => {
                let record: SegmentRecord = serde_json::from_slice(value).map_err(bad)?;
                self.segments.insert(record.id, record);
            }
            _ => return Err(Error::corrupt("a catalog record has an unknown key")),
        }
        Ok(())
    }

    pub fn put_timeline(&mut self, record: TimelineRecord) {
        if let Some(old) = self.timelines.get(&record.id)
            && self.timeline_names.get(&old.name) == Some(&record.id)
        {
            self.timeline_names.remove(&old.name);
        }
        if record.deleted.is_none() {
            self.timeline_names.insert(record.name.clone(), record.id);
        }
        self.timelines.insert(record.id, record);
    }

    pub fn put_snapshot(&mut self, record: SnapshotRecord) {
        if let Some(old) = self.snapshots.get(&record.id)
            && self.snapshot_names.get(&old.name) == Some(&record.id)
        {
            self.snapshot_names.remove(&old.name);
        }
        if record.deleted.is_none() {
            self.snapshot_names.insert(record.name.clone(), record.id);
        }
        self.snapshots.insert(record.id, record);
    }

    /// A timeline that was not deleted.
    pub fn live_timeline(&self, id: TimelineId) -> Result<&TimelineRecord> {
        self.timelines
            .get(&id)
            .filter(|t| t.deleted.is_none())
            .ok_or_else(|| Error::not_found(format!("timeline {id}")))
    }

    /// A snapshot that was not deleted.
    pub fn live_snapshot(&self, id: SnapshotId) -> Result<&SnapshotRecord> {
        self.snapshots
            .get(&id)
            .filter(|s| s.deleted.is_none())
            .ok_or_else(|| Error::not_found(format!("snapshot {id}")))
    }

    pub fn timeline_named(&self, name: &str) -> Option<&TimelineRecord> {
        self.timeline_names
            .get(name)
            .and_then(|id| self.timelines.get(id))
    }

    pub fn snapshot_named(&self, name: &str) -> Option<&SnapshotRecord> {
        self.snapshot_names
            .get(name)
            .and_then(|id| self.snapshots.get(id))
    }

    /// Live timelines in name order.
    pub fn timelines_by_name(&self) -> impl Iterator<Item = &TimelineRecord> {
        self.timeline_names
            .values()
            .filter_map(|id| self.timelines.get(id))
    }

    /// Live snapshots in name order.
    pub fn snapshots_by_name(&self) -> impl Iterator<Item = &SnapshotRecord> {
        self.snapshot_names
            .values()
            .filter_map(|id| self.snapshots.get(id))
    }

    /// The windows that a read of `timeline` at `epoch` visits. Cost: the depth of the lineage.
    pub fn lineage(&self, timeline: TimelineId, epoch: Epoch) -> Result<Vec<Hop>> {
        let mut hops = Vec::new();
        let (mut timeline, mut hi) = (timeline, epoch);
        loop {
            let record = self.timelines.get(&timeline).ok_or_else(|| {
                Error::corrupt(format!("the catalog lacks the ancestor {timeline}"))
            })?;
            let origin = record.origins.iter().rev().find(|o| o.since < hi);
            hops.push(Hop {
                timeline,
                lo: origin.map_or(Epoch::ZERO, |o| o.since),
                hi,
            });
            match origin {
                Some(o) => (timeline, hi) = (o.parent, o.cutoff),
                None => return Ok(hops),
            }
            // Every hop goes back in time, so this cannot go round; damaged records must not either.
            if hops
                .last()
                .is_some_and(|h| hi > h.lo && h.lo != Epoch::ZERO)
            {
                return Err(Error::corrupt(format!(
                    "the ancestry of timeline {timeline} goes forward in time"
                )));
            }
        }
    }
}

/// The row that stores a record.
pub(crate) fn timeline_row(record: &TimelineRecord) -> Result<Row> {
    row(TIMELINE, record.id.0, record)
}

/// The row that stores a record.
pub(crate) fn snapshot_row(record: &SnapshotRecord) -> Result<Row> {
    row(SNAPSHOT, record.id.0, record)
}

/// The row that stores a record.
pub(crate) fn segment_row(record: &SegmentRecord) -> Result<Row> {
    row(SEGMENT, record.id.0, record)
}

fn row(tag: u8, id: [u8; 16], record: &impl Serialize) -> Result<Row> {
    let mut key = vec![tag];
    key.extend_from_slice(&id);
    let value = serde_json::to_vec(record).map_err(|e| {
        Error::new(
            ErrorKind::Io,
            format!("cannot encode a catalog record: {e}"),
        )
    })?;
    Ok(Row::Catalog { key, value })
}

/// Refuses names that cannot be shown or are too long.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid("a name must not be empty"));
    }
    if name.len() > MAX_CATALOG_NAME {
        return Err(Error::new(
            ErrorKind::NameTooLong,
            format!(
                "a name may have {MAX_CATALOG_NAME} bytes, this one has {}",
                name.len()
            ),
        ));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "the name {name:?} has control characters"
        )));
    }
    Ok(())
}
