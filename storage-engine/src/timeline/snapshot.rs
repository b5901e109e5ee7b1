//! Snapshots: a named, durable pin on (timeline, epoch).

use std::collections::BTreeMap;

use crate::catalog::{CATALOG_VERSION, Catalog, SnapshotRecord, snapshot_row};
use crate::engine::{Durability, Engine, Inner, Point};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ids::SnapshotId;
use crate::log::frame::Row;

use super::group::{Cut, GroupRequest};
use super::{Cutoff, SnapshotInfo};

/// What to pin.
#[derive(Clone, Debug)]
pub struct SnapshotRequest {
    /// Id of the snapshot, so that the same request can be made again; a new one otherwise.
    pub id: Option<SnapshotId>,
    /// Name of the snapshot, unique among snapshots.
    pub name: String,
    /// What it pins.
    pub source: Point,
    /// The owner's notes.
    pub labels: BTreeMap<String, String>,
    /// How sure it must be when the call returns.
    pub durability: Durability,
}

impl Engine {
    /// Pins everything that returned before this call (or a past instant). With an id that exists and
    /// the same name and timeline, returns what is there.
    ///
    /// # Errors
    /// `NotFound` (source), `AlreadyExists` (name), `Conflict` (id), `OutOfRetention`.
    /// Cost: one small commit and one sync, whatever the amount of data.
    pub fn snapshot(&self, request: SnapshotRequest) -> Result<SnapshotInfo> {
        let mut made = self.snapshot_group(vec![request])?;
        made.pop()
            .ok_or_else(|| Error::invalid("nothing was asked for"))
    }

    /// Pins several timelines at one cutoff, all or none of them.
    /// Cost: one commit of a row for each, one sync.
    pub fn snapshot_group(&self, requests: Vec<SnapshotRequest>) -> Result<Vec<SnapshotInfo>> {
        self.inner
            .make_group(&requests)?
            .into_iter()
            .map(|id| self.snapshot_info(id))
            .collect()
    }
}

impl GroupRequest for SnapshotRequest {
    type Id = SnapshotId;
    type Record = SnapshotRecord;

    fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> Option<SnapshotId> {
        self.id
    }

    fn source(&self) -> Point {
        self.source
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn there(&self, inner: &Inner) -> Result<Option<SnapshotId>> {
        inner.same_snapshot(self)
    }

    fn record(&self, inner: &Inner, cut: &Cut, cutoff: Cutoff) -> Result<SnapshotRecord> {
        let id = match self.id {
            Some(id) => id,
            None => SnapshotId(
                inner
                    .ids
                    .next()
                    .context("make an id for a snapshot in", &inner.layout.root)?,
            ),
        };
        Ok(SnapshotRecord {
            v: CATALOG_VERSION,
            id,
            name: self.name.clone(),
            timeline: cutoff.timeline,
            epoch: cutoff.epoch,
            digest: hex::encode(cut.chain),
            position: cut.covered.0,
            created: cut.open,
            labels: self.labels.clone(),
            deleted: None,
        })
    }

    fn id_of(record: &SnapshotRecord) -> SnapshotId {
        record.id
    }

    fn row(record: &SnapshotRecord) -> Result<Row> {
        snapshot_row(record)
    }

    fn put(catalog: &mut Catalog, record: SnapshotRecord) {
        catalog.put_snapshot(record);
    }
}

impl Inner {
    fn same_snapshot(&self, request: &SnapshotRequest) -> Result<Option<SnapshotId>> {
        let catalog = self.catalog.read();
        if let Some(id) = request.id
            && let Some(there) = catalog.snapshots.get(&id)
        {
            if there.deleted.is_some() {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("snapshot {id} was deleted: ids are not used again"),
                ));
            }
            let same_source = match request.source {
                Point::Now(t) => there.timeline == t,
                Point::At(t, epoch) => there.timeline == t && there.epoch == epoch,
                Point::Snapshot(s) => catalog
                    .snapshots
                    .get(&s)
                    .is_some_and(|s| s.timeline == there.timeline && s.epoch == there.epoch),
            };
            if there.name == request.name && same_source {
                return Ok(Some(id));
            }
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "snapshot {id} is {} already, made by a different request",
                    there.name
                ),
            ));
        }
        if catalog.snapshot_named(&request.name).is_some() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("a snapshot named {} exists already", request.name),
            ));
        }
        Ok(None)
    }
}
