//! What the running play adds to its store: mounts, and a loop that hears of changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use csi_driver::mounts::Mounts;
use csi_driver::owner::{Failure, Host, Outcome};
use parking_lot::Mutex;
use storage_engine::TimelineId;

use super::Wake;
use super::volumes::failure;

/// The host of `anabranch play`.
pub struct PlayHost {
    /// `None` where nothing is mounted.
    mounts: Option<Mounts>,
    wake: Mutex<Sender<Wake>>,
}

impl PlayHost {
    pub fn new(mounts: Option<Mounts>, wake: Sender<Wake>) -> Arc<Self> {
        Arc::new(Self {
            mounts,
            wake: Mutex::new(wake),
        })
    }

    fn of(&self, timeline: TimelineId) -> Vec<csi_driver::mounts::MountInfo> {
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

impl Host for PlayHost {
    fn sync(&self, timeline: TimelineId) -> Outcome {
        match &self.mounts {
            Some(mounts) => mounts
                .sync_timeline(timeline)
                .map_err(|e| failure(&e).during("cannot sync the mount")),
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
        let _ = self.wake.lock().send(Wake::Changed);
    }

    fn release(&self, timeline: TimelineId) -> Outcome {
        let Some(mounts) = &self.mounts else {
            return Ok(());
        };
        for mount in self.of(timeline).iter().filter(|mount| !mount.detached) {
            // Its data is going away, so a program that still uses it cannot keep it.
            mounts
                .unmount(&mount.id, true)
                .map_err(|e| failure(&e).during("cannot unmount"))?;
        }
        Ok(())
    }

    fn stop(&self) -> Outcome {
        self.wake
            .lock()
            .send(Wake::Stop)
            .map_err(|_| Failure::owner("it is ending already"))
    }
}
