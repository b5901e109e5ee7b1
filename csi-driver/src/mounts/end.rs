//! Ending mounts: one, all of them, and what is left to do when the kernel says that one has ended.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::error::MountsError;
use super::live::Live;
use super::{Inner, Mounts, SYNC_TIMEOUT};
use crate::fuse::mount::MountError;
use crate::fuse::place::Place;

/// Longest wait for the threads of a mount that has ended.
const JOIN_WAIT: Duration = Duration::from_secs(5);

impl Mounts {
    /// Unmounts: dirty pages are written first. With `lazy` a mount in use is taken out of sight and goes with its
    /// last user.
    ///
    /// # Errors
    /// [`MountsError::Busy`] when it is in use and `lazy` is not given; [`MountsError::Moved`] when its directory is not where
    /// it was. When the keeper does not do it in time, it goes on with it, and the mount is shown as being unmounted.
    pub fn unmount(&self, id: &str, lazy: bool) -> Result<(), MountsError> {
        self.unmount_within(SYNC_TIMEOUT, id, lazy)
    }

    /// As [`Mounts::unmount`], which gives the keeper so long for each step.
    ///
    /// # Errors
    /// As [`Mounts::unmount`].
    pub fn unmount_within(
        &self,
        patience: Duration,
        id: &str,
        lazy: bool,
    ) -> Result<(), MountsError> {
        let inner = &self.inner;
        let live = inner.served(id)?;
        // The keeper waits for as long as a write-back may take, so it is asked only when the path answers.
        if let Err(error @ MountError::Deadline { .. }) =
            Place::at(&live.mount_point).and_then(|place| place.reach())
        {
            return Err(error.into());
        }
        match inner.keeper.unmount(id, false, false, patience) {
            Ok(()) => {}
            Err(error) if error.errno() == Some(libc::EBUSY) && !lazy => {
                return Err(MountsError::Busy {
                    id: id.to_owned(),
                    mount_point: live.mount_point.clone(),
                });
            }
            Err(error) if error.errno() == Some(libc::EBUSY) => {
                inner.keeper.sync(id, patience)?;
                live.detached.store(true, Ordering::SeqCst);
                let outcome = inner.keeper.unmount(id, true, false, patience);
                if outcome.is_err() {
                    live.detached.store(false, Ordering::SeqCst);
                }
                return Ok(outcome?);
            }
            // Somebody else has unmounted it, or its directory was renamed.
            Err(error) if error.errno() == Some(libc::EINVAL) => {
                if let Some(now) = live.attached_at() {
                    return Err(MountsError::Moved {
                        id: id.to_owned(),
                        mount_point: live.mount_point.clone(),
                        now,
                    });
                }
            }
            Err(error) => {
                if error.errno() == Some(libc::ETIMEDOUT) {
                    // The helper goes on with it: nobody may count on this mount any more.
                    live.unmounting.store(true, Ordering::SeqCst);
                }
                return Err(error.into());
            }
        }
        // A lazy unmount of the same file system elsewhere (a bind mount) may keep the connection.
        if !live.wait_finished(Duration::from_secs(5)) {
            live.detached.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Unmounts everything and ends the keeper. Programs that still use a mount after `patience` get errors.
    ///
    /// # Errors
    /// The first that a mount or the keeper reported; the rest is unmounted all the same.
    pub fn shut_down(&self, patience: Duration) -> Result<(), MountsError> {
        self.inner.ending.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + patience;
        let mut first = None;
        for live in self.inner.lives() {
            if let Err(error) = self.end_one(&live, deadline) {
                first.get_or_insert(error);
            }
        }
        if let Err(error) = self.inner.keeper.shutdown() {
            first.get_or_insert(error.into());
        }
        first.map_or(Ok(()), Err)
    }

    fn end_one(&self, live: &Live, deadline: Instant) -> Result<(), MountsError> {
        let mut result = Ok(());
        while !live.detached.load(Ordering::SeqCst) {
            match self.unmount(&live.id, false) {
                Ok(()) => break,
                Err(MountsError::Busy { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50))
                }
                Err(MountsError::Busy { .. }) => {
                    tracing::warn!(mount = %live.id, "a mount is still in use; its users get errors from now on");
                    result = self
                        .inner
                        .keeper
                        .sync(&live.id, SYNC_TIMEOUT)
                        .map_err(MountsError::from);
                    self.inner
                        .keeper
                        .unmount(&live.id, true, true, SYNC_TIMEOUT)?;
                    break;
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if !live.wait_finished(
            deadline
                .saturating_duration_since(Instant::now())
                .max(Duration::from_secs(1)),
        ) {
            // Detached and still in use, perhaps from another namespace: closing the last descriptors aborts it.
            live.leaving.store(true, Ordering::SeqCst);
            live.stop();
            self.inner.keeper.forget(&live.id)?;
            self.inner.live.lock().remove(&live.id);
            if live.state.made_directory {
                remove_directory(&live.mount_point);
            }
        }
        live.join_threads(JOIN_WAIT);
        result
    }
}

impl Inner {
    /// The kernel has ended the connection: by our unmount, or somebody else's.
    pub(super) fn clean_up(&self, live: &Live) {
        live.stop();
        let volume = live.adapter.volume();
        if !volume.read_only()
            && let Err(error) = volume.reap_all()
        {
            tracing::debug!(mount = %live.id, %error, "unlinked inodes are left for the next mount");
        }
        if let Err(error) = self.keeper.forget(&live.id) {
            tracing::debug!(mount = %live.id, %error, "the keeper does not forget a mount");
        }
        if live.state.made_directory {
            remove_directory(&live.mount_point);
        }
        self.live.lock().remove(&live.id);
        live.finish();
    }
}

pub(super) fn remove_directory(point: &Path) {
    // One that is not empty any more is somebody else's by now.
    let _ = Place::at(point).and_then(|place| place.remove());
}
