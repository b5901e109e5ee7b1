//! Refusals that depend on what only the engine counts (bytes stored) or decides (when it collects): the model
//! takes both outcomes, and checks that each was right.

use storage_engine::{Epoch, Error, ErrorKind, Point, VolumeOptions};

use crate::op::{At, FileOp, Op, Place, StepId};
use crate::subject::Subject;
use crate::world::World;

/// What a write can store beyond its own bytes: at each end the rest of a chunk that is written again.
const ROUNDING: u64 = 2 * (128 << 10);

/// The timeline that an operation stores bytes in, and at most how many.
fn stores(op: &Op) -> Option<(StepId, u64)> {
    let Op::File {
        place: Place::Timeline(timeline),
        op,
        ..
    } = op
    else {
        return None;
    };
    let bytes = match op {
        FileOp::Write { len, .. } | FileOp::CopyRange { len, .. } => len + ROUNDING,
        FileOp::SetAttr { change, .. } if change.size.is_some() => ROUNDING,
        FileOp::Allocate { .. } => ROUNDING,
        _ => return None,
    };
    Some((*timeline, bytes))
}

/// Instants that an operation starts from.
fn instants(op: &Op) -> Vec<(StepId, StepId)> {
    let points: Vec<At> = match op {
        Op::Fork { source, .. } | Op::Snapshot { source, .. } | Op::Restore { source, .. } => {
            vec![*source]
        }
        Op::ForkGroup { forks: points } | Op::SnapshotGroup { snapshots: points } => {
            points.iter().map(|(_, at)| *at).collect()
        }
        _ => Vec::new(),
    };
    let closed = |at| match at {
        At::Closed(timeline, step) => Some((timeline, step)),
        _ => None,
    };
    points.into_iter().filter_map(closed).collect()
}

impl Subject {
    /// Whether an operation may be refused although the model, which counts no bytes, would do it.
    pub fn may_be_refused(&self, world: &World, op: &Op) -> bool {
        let limited = stores(op).is_some_and(|(timeline, _)| {
            world
                .timelines
                .get(&timeline)
                .is_some_and(|t| t.limits.bytes.is_some())
        });
        limited || !instants(op).is_empty()
    }

    /// Bytes that the newest state of the timeline wrote itself.
    pub fn own_bytes(&self, op: &Op) -> u64 {
        stores(op)
            .and_then(|(timeline, _)| self.engine().usage(self.timeline_id(timeline)).ok())
            .map_or(0, |usage| usage.allocated_bytes - usage.shared_bytes)
    }

    /// Whether an error is a limit that the model cannot foresee; a fault if it has no ground.
    pub fn rightly_refused(
        &self,
        world: &World,
        op: &Op,
        own: u64,
        error: &Error,
    ) -> Result<bool, String> {
        match error.kind() {
            ErrorKind::QuotaExceeded => {
                let Some((timeline, more)) = stores(op) else {
                    return Ok(false);
                };
                let limit = world.timelines.get(&timeline).and_then(|t| t.limits.bytes);
                match limit {
                    Some(limit) if own + more > limit => Ok(true),
                    _ => Err(format!("{own} bytes and at most {more} more: {error}")),
                }
            }
            ErrorKind::OutOfRetention => {
                let epochs = instants(op);
                let gone = epochs.iter().find(|(timeline, step)| {
                    self.epochs
                        .get(step)
                        .is_some_and(|epoch| world.may_be_gone(*timeline, epoch.0))
                });
                let Some((timeline, _)) = gone else {
                    return Err(format!("an instant that is promised is refused: {error}"));
                };
                self.earliest_is_there(*timeline, error)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The instant that a refusal names can be read, unless it has not come yet.
    fn earliest_is_there(&self, timeline: StepId, error: &Error) -> Result<(), String> {
        let text = error.to_string();
        let earliest = text
            .rsplit(' ')
            .next()
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| format!("no instant is named: {text}"))?;
        let point = Point::At(self.timeline_id(timeline), Epoch(earliest));
        match self.engine().volume(point, VolumeOptions::default()) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::InvalidArgument => Ok(()),
            Err(e) => Err(format!("{text}, but then: {e}")),
        }
    }

    /// No operation leaves a timeline over its quota that was not over it by as much before.
    pub fn quota_kept(&self, world: &World, op: &Op, before: u64) -> Result<(), String> {
        let Some((timeline, _)) = stores(op) else {
            return Ok(());
        };
        let limit = world.timelines.get(&timeline).and_then(|t| t.limits.bytes);
        let own = self.own_bytes(op);
        match limit {
            Some(limit) if own > limit && own > before => Err(format!(
                "{own} bytes are stored, {before} before, and the quota is {limit}"
            )),
            _ => Ok(()),
        }
    }
}
