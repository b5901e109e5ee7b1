//! Snapshots: a named, durable pin on (timeline, epoch).

use std::collections::{BTreeMap, HashSet};

use crate::catalog::{CATALOG_VERSION, SnapshotRecord, check_name, snapshot_row};
use crate::engine::{Durability, Engine, Point};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ids::SnapshotId;

use super::{NO_TIMELINE, SnapshotInfo};

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
        let inner = &self.inner;
        let mut names = HashSet::new();
        let mut ids = HashSet::new();
        for request in &requests {
            check_name(&request.name)?;
            let repeated_id = request.id.is_some_and(|id| !ids.insert(id));
            if !names.insert(request.name.as_str()) || repeated_id {
                return Err(Error::invalid(format!(
                    "the name or id of {} is asked for twice",
                    request.name
                )));
            }
        }
        let _structure = inner.structure.lock();
        let mut wanted = Vec::with_capacity(requests.len());
        let mut missing = false;
        for request in &requests {
            let there = inner.same_snapshot(request)?;
            missing |= there.is_none();
            wanted.push(there);
        }
        if missing {
            let mut epoch = inner.exclusive_epoch();
            let closed = inner.close_for(&mut epoch, requests.iter().map(|r| r.source));
            let (chain, covered) = {
                let commit = inner.commit.lock();
                (commit.log.chain(), commit.log.end())
            };
            let mut records = Vec::new();
            {
                let catalog = inner.catalog.read();
                for (request, id) in requests.iter().zip(&mut wanted) {
                    if id.is_some() {
                        continue;
                    }
                    let cutoff = inner.cutoff(&catalog, request.source, closed)?;
                    let new = match request.id {
                        Some(id) => id,
                        None => SnapshotId(
                            inner
                                .ids
                                .next()
                                .context("make an id for a snapshot in", &inner.layout.root)?,
                        ),
                    };
                    *id = Some(new);
                    records.push(SnapshotRecord {
                        v: CATALOG_VERSION,
                        id: new,
                        name: request.name.clone(),
                        timeline: cutoff.timeline,
                        epoch: cutoff.epoch,
                        digest: hex::encode(chain),
                        position: covered.0,
                        created: *epoch,
                        labels: request.labels.clone(),
                        deleted: None,
                    });
                }
            }
            let rows = records
                .iter()
                .map(snapshot_row)
                .collect::<Result<Vec<_>>>()?;
            let position = inner.commit_rows(*epoch, NO_TIMELINE, &rows)?;
            let mut catalog = inner.catalog.write();
            for record in records {
                catalog.put_snapshot(record);
            }
            drop(catalog);
            drop(epoch);
            let durability = requests
                .iter()
                .map(|r| r.durability)
                .max_by_key(|d| *d == Durability::Local);
            inner.wait(position, durability.unwrap_or_default())?;
        }
        wanted
            .into_iter()
            .map(|id| match id {
                Some(id) => self.snapshot_info(id),
                None => Err(Error::new(
                    ErrorKind::OutcomeUnknown,
                    "a snapshot was not made",
                )),
            })
            .collect()
    }
}

impl crate::engine::Inner {
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
