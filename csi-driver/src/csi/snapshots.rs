//! Snapshots of volumes.

use std::collections::BTreeMap;

use storage_engine::{Durability, Point, SnapshotInfo, SnapshotRequest};

use super::driver::{Driver, present};
use super::error::{Code, CsiError, Result};
use super::ids::{GroupId, SnapshotRef, VolumeId};
use super::names::{MEMBER, SNAPSHOT, engine_name};
use super::pages::{Page, page};

/// A snapshot as callers are told of it. It can be used from the moment it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Id.
    pub id: String,
    /// The volume.
    pub volume: String,
    /// Sum of the sizes of its files, in bytes.
    pub bytes: u64,
    /// When, in nanoseconds since 1970.
    pub created: u64,
    /// The group snapshot that it belongs to.
    pub group: Option<String>,
}

pub(super) fn describe(info: &SnapshotInfo) -> Snapshot {
    Snapshot {
        id: SnapshotRef(info.id).to_string(),
        volume: VolumeId(info.timeline).to_string(),
        bytes: info.logical_bytes,
        created: info.epoch.0,
        group: group_of(&info.name).map(|group| group.as_str().to_owned()),
    }
}

/// The group that a snapshot of this name is a member of.
pub(super) fn group_of(name: &str) -> Option<GroupId> {
    let (group, _) = name.strip_prefix(MEMBER)?.split_once('/')?;
    GroupId::parse(group)
}

impl Driver {
    /// Takes a snapshot, or finds the one of the same name. What returned on the volume before is in it.
    /// Cost: writing back what is dirty on its mount, and one commit with its sync.
    ///
    /// # Errors
    /// `AlreadyExists` when the snapshot of that name is of another volume, `NotFound`.
    pub fn create_snapshot(&self, name: &str, volume: &str) -> Result<Snapshot> {
        let engine_name = engine_name(SNAPSHOT, name)?;
        if volume.is_empty() {
            return Err(CsiError::invalid("the source volume id is missing"));
        }
        let _held = self.locks.take(engine_name.as_str())?;
        if let Some(found) = present(self.engine.snapshot_named(&engine_name))? {
            let found = describe(&found);
            if found.volume == volume {
                return Ok(found);
            }
            return Err(CsiError::new(
                Code::AlreadyExists,
                format!("the snapshot {name} exists, of {}", found.volume),
            ));
        }
        let timeline = self.existing(volume)?;
        self.mounts.sync_timeline(timeline.id)?;
        Ok(describe(&self.engine.snapshot(SnapshotRequest {
            id: None,
            name: engine_name,
            source: Point::Now(timeline.id),
            labels: BTreeMap::new(),
            durability: Durability::Local,
        })?))
    }

    /// Deletes a snapshot. One that is not there is deleted. Forks of it stay.
    ///
    /// # Errors
    /// `FailedPrecondition`: a member of a group, or the snapshot of a BucketSnapshot object.
    pub fn delete_snapshot(&self, id: &str) -> Result<()> {
        if id.is_empty() {
            return Err(CsiError::invalid("the snapshot id is missing"));
        }
        let Some(SnapshotRef(snapshot)) = SnapshotRef::parse(id) else {
            return Ok(());
        };
        let _held = self.locks.take(id)?;
        let Some(info) = present(self.engine.snapshot_info(snapshot))? else {
            return Ok(());
        };
        if let Some(group) = group_of(&info.name) {
            return Err(CsiError::new(
                Code::FailedPrecondition,
                format!(
                    "the snapshot is a member of {}; delete the group",
                    group.as_str()
                ),
            ));
        }
        if !info.name.starts_with(SNAPSHOT) {
            return Err(CsiError::new(
                Code::FailedPrecondition,
                format!(
                    "{} belongs to an object of that kind and name; delete the object",
                    info.name
                ),
            ));
        }
        Ok(self.engine.delete_snapshot(snapshot)?)
    }

    /// One snapshot.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get_snapshot(&self, id: &str) -> Result<Snapshot> {
        if id.is_empty() {
            return Err(CsiError::invalid("the snapshot id is missing"));
        }
        self.snapshots_matching(Some(id), None)?
            .pop()
            .map(|(_, snapshot)| snapshot)
            .ok_or_else(|| CsiError::not_found(format!("there is no snapshot {id:?} on this node")))
    }

    /// The snapshots that callers took, by id: all, one, or those of a volume. What is not there is listed as nothing.
    ///
    /// # Errors
    /// `Aborted` for a token that is none, `InvalidArgument` for a negative count.
    pub fn list_snapshots(
        &self,
        id: Option<&str>,
        volume: Option<&str>,
        most: i32,
        token: &str,
    ) -> Result<Page<Snapshot>> {
        let found = self.snapshots_matching(id, volume)?;
        page(
            found,
            most,
            token,
            SnapshotRef::parse,
            SnapshotRef::to_string,
        )
    }

    fn snapshots_matching(
        &self,
        id: Option<&str>,
        volume: Option<&str>,
    ) -> Result<Vec<(SnapshotRef, Snapshot)>> {
        let all = match id {
            Some(id) => match SnapshotRef::parse(id) {
                Some(SnapshotRef(id)) => present(self.engine.snapshot_info(id))?
                    .into_iter()
                    .collect(),
                None => Vec::new(),
            },
            None => self.engine.snapshots()?,
        };
        let mut found: Vec<(SnapshotRef, Snapshot)> = all
            .iter()
            .filter(|info| info.name.starts_with(SNAPSHOT) || info.name.starts_with(MEMBER))
            .map(|info| (SnapshotRef(info.id), describe(info)))
            .filter(|(_, snapshot)| volume.is_none_or(|volume| volume == snapshot.volume))
            .collect();
        found.sort_by_key(|(id, _)| *id);
        Ok(found)
    }
}
