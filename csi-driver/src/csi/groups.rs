//! Snapshots of several volumes with one cutoff.

use std::collections::{BTreeMap, BTreeSet};

use storage_engine::{Durability, Point, SnapshotInfo, SnapshotRequest};

use super::driver::Driver;
use super::error::{Code, CsiError, Result};
use super::ids::{GroupId, VolumeId};
use super::names::member_name;
use super::snapshots::{Snapshot, describe, group_of};

/// A group snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSnapshot {
    /// Id.
    pub id: String,
    /// Its members, by volume.
    pub members: Vec<Snapshot>,
    /// When, in nanoseconds since 1970.
    pub created: u64,
}

fn group(id: &GroupId, members: &[SnapshotInfo]) -> GroupSnapshot {
    let mut shown: Vec<Snapshot> = members.iter().map(describe).collect();
    shown.sort_by(|a, b| a.volume.cmp(&b.volume));
    GroupSnapshot {
        id: id.as_str().to_owned(),
        created: shown.iter().map(|member| member.created).max().unwrap_or(0),
        members: shown,
    }
}

impl Driver {
    fn members(&self, id: &GroupId) -> Result<Vec<SnapshotInfo>> {
        let mut all = self.engine.snapshots()?;
        all.retain(|info| group_of(&info.name).as_ref() == Some(id));
        Ok(all)
    }

    /// Takes snapshots of several volumes at one cutoff, all or none, or finds the group of the same name.
    /// Cost: writing back what is dirty on their mounts, and one commit with its sync.
    ///
    /// # Errors
    /// `AlreadyExists` when the group of that name has other volumes, `NotFound`, `InvalidArgument`.
    pub fn create_group(&self, name: &str, volumes: &[String]) -> Result<GroupSnapshot> {
        if name.is_empty() || name.len() > 256 {
            return Err(CsiError::invalid("a group's name has 1 to 256 bytes"));
        }
        if volumes.is_empty() {
            return Err(CsiError::invalid("the source volume ids are missing"));
        }
        let asked: BTreeSet<&str> = volumes.iter().map(String::as_str).collect();
        if asked.len() != volumes.len() {
            return Err(CsiError::invalid("a source volume is named twice"));
        }
        let id = GroupId::of_name(name);
        let _held = self.locks.take(id.as_str())?;
        let there = self.members(&id)?;
        if !there.is_empty() {
            let has: BTreeSet<String> = there
                .iter()
                .map(|info| VolumeId(info.timeline).to_string())
                .collect();
            if has.iter().map(String::as_str).eq(asked.iter().copied()) {
                return Ok(group(&id, &there));
            }
            return Err(CsiError::new(
                Code::AlreadyExists,
                format!("the group {name} exists, with other volumes"),
            ));
        }
        let mut requests = Vec::with_capacity(asked.len());
        for volume in asked {
            let timeline = self.existing(volume)?;
            requests.push(SnapshotRequest {
                id: None,
                name: member_name(&id, timeline.id),
                source: Point::Now(timeline.id),
                labels: BTreeMap::new(),
                durability: Durability::Local,
            });
            self.mounts.sync_timeline(timeline.id)?;
        }
        Ok(group(&id, &self.engine.snapshot_group(requests)?))
    }

    /// Deletes a group with its members, which `snapshots` must name. A group that is not there is deleted.
    ///
    /// # Errors
    /// `InvalidArgument` when the members are others.
    pub fn delete_group(&self, id: &str, snapshots: &[String]) -> Result<()> {
        if id.is_empty() {
            return Err(CsiError::invalid("the group snapshot id is missing"));
        }
        let Some(id) = GroupId::parse(id) else {
            return Ok(());
        };
        let _held = self.locks.take(id.as_str())?;
        let members = self.members(&id)?;
        check_members(&members, snapshots)?;
        for member in members {
            self.engine.delete_snapshot(member.id)?;
        }
        Ok(())
    }

    /// One group, whose members `snapshots` must name if it names any.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` when the members are others.
    pub fn get_group(&self, id: &str, snapshots: &[String]) -> Result<GroupSnapshot> {
        if id.is_empty() {
            return Err(CsiError::invalid("the group snapshot id is missing"));
        }
        let missing =
            || CsiError::not_found(format!("there is no group snapshot {id:?} on this node"));
        let parsed = GroupId::parse(id).ok_or_else(missing)?;
        let members = self.members(&parsed)?;
        if members.is_empty() {
            return Err(missing());
        }
        check_members(&members, snapshots)?;
        Ok(group(&parsed, &members))
    }
}

/// After a kill in the middle of a deletion fewer members are there than are named: those named must cover them.
fn check_members(members: &[SnapshotInfo], named: &[String]) -> Result<()> {
    let named: BTreeSet<&str> = named.iter().map(String::as_str).collect();
    let foreign = members
        .iter()
        .map(describe)
        .find(|member| !named.is_empty() && !named.contains(member.id.as_str()));
    match foreign {
        Some(member) => Err(CsiError::invalid(format!(
            "the group has the member {}, which the request does not name",
            member.id
        ))),
        None => Ok(()),
    }
}
