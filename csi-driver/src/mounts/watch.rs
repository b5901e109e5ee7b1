//! Replacing a keeper that went away.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Inner;
use crate::keeper::client::Client;

impl Inner {
    /// A keeper that went away is replaced, and the new one gets every mount.
    pub(super) fn watch_keeper(&self, patience: Duration) {
        if !self.keeper.wait_gone(patience) || self.ending.load(Ordering::SeqCst) {
            if self.ending.load(Ordering::SeqCst) {
                std::thread::sleep(patience);
            }
            return;
        }
        tracing::warn!("the keeper is gone; looks for another one");
        let fresh = match Client::connect_or_start(&self.options) {
            Ok(fresh) => fresh,
            Err(error) => {
                tracing::error!(%error, "mounts do not outlive this process until there is a keeper again");
                std::thread::sleep(Duration::from_secs(1));
                return;
            }
        };
        self.keeper.replace(fresh);
        for live in self.lives() {
            let kept = live.record().and_then(|record| {
                Ok(self
                    .keeper
                    .put(record, live.device.as_fd(), live.backing.as_fd())?)
            });
            if let Err(error) = kept {
                tracing::error!(mount = %live.id, %error, "the new keeper does not take a mount");
            }
        }
    }
}
