//! Replacing a keeper that went away.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Inner;
use crate::keeper::client::Client;

/// Between two looks whether there is still something to watch for.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two tries to find another keeper.
const PAUSE: Duration = Duration::from_secs(1);

/// What the watching thread has. Nothing of the engine: when the last user of the mounts is gone, the engine is closed
/// then and there, and not by this thread while the process ends.
pub(super) struct Watch {
    keeper: Arc<Client>,
    ending: Arc<AtomicBool>,
    mounts: Weak<Inner>,
}

impl Watch {
    pub fn of(inner: &Arc<Inner>) -> Watch {
        Watch {
            keeper: Arc::clone(&inner.keeper),
            ending: Arc::clone(&inner.ending),
            mounts: Arc::downgrade(inner),
        }
    }

    /// Until the mounts end.
    pub fn run(self) {
        loop {
            let gone = self.keeper.wait_gone(PATIENCE);
            if self.ending.load(Ordering::SeqCst) {
                return;
            }
            if !gone {
                if self.mounts.strong_count() == 0 {
                    return;
                }
                continue;
            }
            let Some(mounts) = self.mounts.upgrade() else {
                return;
            };
            if !mounts.replace_keeper() {
                drop(mounts);
                std::thread::sleep(PAUSE);
            }
        }
    }
}

impl Inner {
    /// A keeper that went away is replaced, and the new one gets every mount. False when there is none yet.
    fn replace_keeper(&self) -> bool {
        tracing::warn!("the keeper is gone; looks for another one");
        let fresh = match Client::connect_or_start(&self.options) {
            Ok(fresh) => fresh,
            Err(error) => {
                tracing::error!(%error, "mounts do not outlive this process until there is a keeper again");
                return false;
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
        true
    }
}
