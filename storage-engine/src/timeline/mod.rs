//! Timelines and snapshots: one file for each verb.

mod create;
mod delete;
mod fork;
mod group;
mod info;
mod restore;
mod settings;
mod snapshot;

pub use create::CreateRoot;
pub use fork::ForkRequest;
pub use info::{SnapshotInfo, TimelineInfo, Usage};
pub use snapshot::SnapshotRequest;

use crate::catalog::{Catalog, TimelineRecord};
use crate::engine::{Inner, Point};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, SnapshotId, TimelineId};
use crate::index::keys::RecordKey;
use crate::index::records::{self, Record};
use crate::log::frame::Row;
use crate::planted::{Bug, planted};
use parking_lot::RwLockWriteGuard;

/// The timeline of commits that change the catalog only.
pub(crate) const NO_TIMELINE: TimelineId = TimelineId([0; 16]);

/// The row of a record that a timeline is made or restored with.
pub(crate) fn record_row(key: &RecordKey, record: &Record) -> Row {
    Row::Record {
        key: key.encode(),
        value: records::encode(Some(record)),
    }
}

/// A point with its epoch: what a fork, a snapshot or a restore starts from.
pub(crate) struct Cutoff {
    pub timeline: TimelineId,
    pub epoch: Epoch,
    pub snapshot: Option<SnapshotId>,
}

impl Inner {
    /// Finds the cutoff of a point. `closed` is the epoch that was closed for `Now`.
    pub fn cutoff(&self, catalog: &Catalog, point: Point, closed: Epoch) -> Result<Cutoff> {
        match point {
            Point::Now(timeline) => {
                catalog.live_timeline(timeline)?;
                Ok(Cutoff {
                    timeline,
                    epoch: closed,
                    snapshot: None,
                })
            }
            Point::Snapshot(id) => {
                let s = catalog.live_snapshot(id)?;
                Ok(Cutoff {
                    timeline: s.timeline,
                    epoch: s.epoch,
                    snapshot: Some(id),
                })
            }
            Point::At(timeline, epoch) => {
                self.check_retention(catalog, timeline, epoch, closed)?;
                Ok(Cutoff {
                    timeline,
                    epoch,
                    snapshot: None,
                })
            }
        }
    }

    /// Refuses an instant that is in the future, or that retention no longer promises, unless a
    /// snapshot or a fork keeps exactly this one.
    pub fn check_retention(
        &self,
        catalog: &Catalog,
        id: TimelineId,
        at: Epoch,
        newest: Epoch,
    ) -> Result<()> {
        let record = catalog.live_timeline(id)?;
        if at > newest {
            return Err(Error::invalid(format!(
                "epoch {at} of {} is in the future: the newest is {newest}",
                record.name
            )));
        }
        let pinned = catalog
            .snapshots
            .values()
            .any(|s| s.deleted.is_none() && s.timeline == id && s.epoch == at)
            || catalog.timelines_by_name().any(|t| {
                t.origins
                    .last()
                    .is_some_and(|o| o.parent == id && o.cutoff == at)
            });
        let earliest = earliest_epoch(record, self.clock.now());
        if at >= earliest || pinned {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::OutOfRetention,
            format!(
                "epoch {at} of {} is outside retention: the earliest one still there is {earliest}",
                record.name
            ),
        ))
    }

    /// Closes the epoch when a point needs it, and returns the newest closed one.
    pub fn close_for(
        &self,
        epoch: &mut RwLockWriteGuard<'_, Epoch>,
        points: impl IntoIterator<Item = Point>,
    ) -> Epoch {
        let open = **epoch;
        let needs = points.into_iter().any(|p| match p {
            Point::Now(_) => true,
            Point::At(_, at) => at >= open,
            Point::Snapshot(_) => false,
        });
        let closed = if needs {
            self.close_epoch(epoch)
        } else {
            Epoch(open.0 - 1)
        };
        // The clock may be ahead of the epoch that was opened last: an instant up to now is the past.
        Epoch(closed.0.max(epoch.0 - 1))
    }
}

/// The earliest instant that retention promises: nothing from there on was collected.
pub(crate) fn earliest_epoch(record: &TimelineRecord, now: u64) -> Epoch {
    let retain = u64::try_from(record.settings.retain.as_nanos()).unwrap_or(u64::MAX);
    let collected = match record.horizon {
        Some(horizon) if !planted(Bug::WrongHorizon) => horizon,
        _ => Epoch::ZERO,
    };
    Epoch(now.saturating_sub(retain))
        .max(record.created)
        .max(collected)
}
