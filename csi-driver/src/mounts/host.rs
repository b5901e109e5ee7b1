//! What a process that serves mounts adds to its store: [`Host`], for the commands that come through the owner's socket
//! and for the agent.

use std::path::PathBuf;

use storage_engine::TimelineId;

use super::{MountInfo, Mounts, MountsError};
use crate::owner::{Failure, Host, Outcome};

/// The host around a store whose timelines are mounted by this process.
pub struct MountsHost {
    /// `None` where nothing is mounted.
    mounts: Option<Mounts>,
    changed: Box<dyn Fn() + Send + Sync>,
    stop: Box<dyn Fn() -> Outcome + Send + Sync>,
}

impl MountsHost {
    /// A host. `changed` is called after a command has changed timelines or snapshots; `stop` ends this process as a signal
    /// would.
    pub fn new(
        mounts: Option<Mounts>,
        changed: impl Fn() + Send + Sync + 'static,
        stop: impl Fn() -> Outcome + Send + Sync + 'static,
    ) -> Self {
        MountsHost {
            mounts,
            changed: Box::new(changed),
            stop: Box::new(stop),
        }
    }

    fn of(&self, timeline: TimelineId) -> Vec<MountInfo> {
        let Some(mounts) = &self.mounts else {
            return Vec::new();
        };
        mounts
            .list()
            .into_iter()
            .filter(|mount| mount.timeline == timeline)
            .collect()
    }
}

impl Host for MountsHost {
    fn sync(&self, timeline: TimelineId) -> Outcome {
        match &self.mounts {
            Some(mounts) => mounts
                .sync_timeline(timeline)
                .map_err(|error| Failure::from(error).during("cannot sync the mount")),
            None => Ok(()),
        }
    }

    fn mounts(&self, timeline: TimelineId) -> Vec<PathBuf> {
        self.of(timeline)
            .into_iter()
            .filter(|mount| !mount.detached)
            .map(|mount| mount.mount_point)
            .collect()
    }

    fn settle(&self, timeline: TimelineId) {
        let Some(mounts) = &self.mounts else { return };
        for mount in self.of(timeline) {
            // A mount that ends meanwhile shows nothing old either.
            let _ = mounts.pass_invalidations(&mount.id);
        }
    }

    fn changed(&self) {
        (self.changed)();
    }

    fn release(&self, timeline: TimelineId) -> Outcome {
        let Some(mounts) = &self.mounts else {
            return Ok(());
        };
        for mount in self.of(timeline).iter().filter(|mount| !mount.detached) {
            // Its data is going away, so a program that still uses it cannot keep it.
            mounts
                .unmount(&mount.id, true)
                .map_err(|error| Failure::from(error).during("cannot unmount"))?;
        }
        Ok(())
    }

    fn stop(&self) -> Outcome {
        (self.stop)()
    }
}

impl From<MountsError> for Failure {
    fn from(error: MountsError) -> Self {
        match error {
            MountsError::Engine(error) => error.into(),
            other => Failure::new("Mount", other.to_string()),
        }
    }
}
