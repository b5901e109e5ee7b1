//! Deletion of timelines and snapshots, in any order.

use crate::catalog::{snapshot_row, timeline_row};
use crate::engine::{Durability, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{SnapshotId, TimelineId};

use super::NO_TIMELINE;

impl Engine {
    /// Deletes a timeline: its name is free and its volumes fail with `Stale` from now on. Forks and
    /// snapshots of it stay as they are; what nobody else refers to is the collector's. Deleting what
    /// was deleted is no error.
    ///
    /// # Errors
    /// `NotFound` for an id that never was, `Protected`. Cost: one commit, one sync.
    pub fn delete_timeline(&self, id: TimelineId) -> Result<()> {
        let inner = &self.inner;
        let _structure = inner.structure.lock();
        let mut epoch = inner.exclusive_epoch();
        let mut record = match inner.catalog.read().timelines.get(&id) {
            Some(record) => record.clone(),
            None => return Err(Error::not_found(format!("timeline {id}"))),
        };
        if record.deleted.is_some() {
            return Ok(());
        }
        if record.settings.protected {
            return Err(Error::new(
                ErrorKind::Protected,
                format!(
                    "{} is protected: lift the protection before deleting it",
                    record.name
                ),
            ));
        }
        record.deleted = Some(inner.close_epoch(&mut epoch));
        let position = inner.commit_freeing(*epoch, NO_TIMELINE, &[timeline_row(&record)?])?;
        inner.catalog.write().put_timeline(record);
        if let Some(state) = inner.forget_state(id) {
            state.inner.write().deleted = true;
        }
        drop(epoch);
        inner.wait(position, Durability::Local)
    }

    /// Deletes a snapshot. Forks of it stay as they are. Deleting what was deleted is no error.
    ///
    /// # Errors
    /// `NotFound` for an id that never was. Cost: one commit, one sync.
    pub fn delete_snapshot(&self, id: SnapshotId) -> Result<()> {
        let inner = &self.inner;
        let _structure = inner.structure.lock();
        let mut record = match inner.catalog.read().snapshots.get(&id) {
            Some(record) => record.clone(),
            None => return Err(Error::not_found(format!("snapshot {id}"))),
        };
        if record.deleted.is_some() {
            return Ok(());
        }
        let epoch = inner.shared_epoch();
        record.deleted = Some(*epoch);
        let position = inner.commit_freeing(*epoch, NO_TIMELINE, &[snapshot_row(&record)?])?;
        inner.catalog.write().put_snapshot(record);
        drop(epoch);
        inner.wait(position, Durability::Local)
    }
}
