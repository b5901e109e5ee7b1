//! Applies actions: one engine call, or one mount, for each.

use operator::{Action, FailureKind, Point, Settings};
use storage_engine as engine;
use storage_engine::{
    CreateRoot, Durability, ErrorKind, ForkRequest, Quota, SnapshotId, SnapshotRequest, TimelineId,
};

use super::reconcile::Agent;
use crate::owner::{Failure, Outcome};

impl Agent {
    /// Applies one action. Made again after it was done, it does nothing.
    pub(super) fn act(&self, action: &Action) -> Outcome {
        let engine = &self.engine;
        match action {
            Action::CreateRoot { id, name, settings } => {
                engine.create_root(CreateRoot {
                    id: Some(TimelineId(id.0)),
                    name: name.clone(),
                    settings: settings_of(settings),
                    durability: Durability::Local,
                })?;
            }
            Action::Import { timeline, source } => self.imports.start(*timeline, source)?,
            Action::CancelImport { timeline } => self.imports.cancel(*timeline),
            Action::Fork { source, forks } => {
                let source = self.point(*source)?;
                let requests = forks.iter().map(|fork| ForkRequest {
                    id: Some(TimelineId(fork.id.0)),
                    name: fork.name.clone(),
                    source,
                    settings: settings_of(&fork.settings),
                    durability: Durability::Local,
                });
                engine.fork_group(requests.collect())?;
            }
            Action::Snapshot {
                id,
                name,
                source,
                labels,
            } => {
                engine.snapshot(SnapshotRequest {
                    id: Some(SnapshotId(id.0)),
                    name: name.clone(),
                    source: self.point(*source)?,
                    labels: labels.clone(),
                    durability: Durability::Local,
                })?;
            }
            Action::UpdateSettings { timeline, settings } => {
                engine.update_settings(TimelineId(timeline.0), settings_of(settings))?;
            }
            Action::DeleteTimeline { timeline } => {
                self.host.release(TimelineId(timeline.0))?;
                engine.delete_timeline(TimelineId(timeline.0))?;
            }
            Action::DeleteSnapshot { snapshot } => {
                engine.delete_snapshot(SnapshotId(snapshot.0))?
            }
            Action::Unmount { target, .. } => self.host.release(TimelineId(target.0))?,
            // Whoever runs the agent mounts every fork, those made by command too, after each pass.
            Action::Mount { .. } => {}
        }
        Ok(())
    }

    /// The engine's point; what returned on mounts of it before is in the engine then.
    fn point(&self, point: Point) -> Outcome<engine::Point> {
        Ok(match point {
            Point::Now(id) => {
                self.host.sync(TimelineId(id.0))?;
                engine::Point::Now(TimelineId(id.0))
            }
            Point::At(id, epoch) => engine::Point::At(TimelineId(id.0), engine::Epoch(epoch.0)),
            Point::Snapshot(id) => engine::Point::Snapshot(SnapshotId(id.0)),
        })
    }
}

fn settings_of(settings: &Settings) -> engine::Settings {
    engine::Settings {
        read_only: settings.read_only,
        protected: settings.protected,
        quota: Quota {
            bytes: settings.quota_bytes,
            inodes: settings.quota_inodes,
        },
        retain: settings.retain,
        labels: settings.labels.clone(),
    }
}

/// What helps against a failure.
pub(super) fn kind_of(failure: &Failure, action: &Action) -> FailureKind {
    use ErrorKind as E;
    // A reason of our own (usage, a damaged report ...) says nothing about what helps.
    let Some(kind) = E::named(&failure.reason) else {
        return FailureKind::Retry;
    };
    match kind {
        E::OutOfRetention => FailureKind::OutOfRetention,
        E::AlreadyExists | E::Conflict => FailureKind::NameTaken,
        E::Protected => FailureKind::Protected,
        E::NotFound if matches!(action, Action::Fork { .. } | Action::Snapshot { .. }) => {
            FailureKind::SourceGone
        }
        E::InvalidArgument | E::Corrupt => FailureKind::NeedsHelp,
        E::NotFound
        | E::NotADirectory
        | E::IsADirectory
        | E::NotEmpty
        | E::NameTooLong
        | E::TooManyLinks
        | E::NoAttribute
        | E::NoData
        | E::NotSupported
        | E::PermissionDenied
        | E::ReadOnly
        | E::QuotaExceeded
        | E::NoSpace
        | E::FileTooLarge
        | E::Range
        | E::Stale
        | E::Locked
        | E::UnsupportedFormat
        | E::Poisoned
        | E::Fenced
        | E::Unavailable
        | E::OutcomeUnknown
        | E::Busy
        | E::Io => FailureKind::Retry,
    }
}
