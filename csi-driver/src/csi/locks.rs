//! One operation at a time on each volume: a second one is refused, not queued, so that no thread waits for a hung one.
//!
//! A call on a path that hangs is given up by its operation and goes on without it. It keeps the volume ([`Held::kept`])
//! until it ends, so that it meets no later operation on the same volume.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{Code, CsiError, Result};
use crate::fuse::deadline::Kept;

/// Keys that are being worked on.
#[derive(Debug, Default, Clone)]
pub(super) struct Locks(Arc<Mutex<HashMap<String, Holder>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// An operation is under way.
    Operation,
    /// The operation was answered; a call of it still waits for a path.
    HungCall,
}

/// The keys are free again when this, and all that it was kept by, are dropped.
#[derive(Debug)]
pub(super) struct Held(Arc<Keys>);

#[derive(Debug)]
struct Keys {
    locks: Locks,
    keys: Vec<String>,
}

impl Locks {
    /// Takes one key.
    ///
    /// # Errors
    /// `Aborted` when somebody has it.
    pub fn take(&self, key: impl Into<String>) -> Result<Held> {
        self.take_all([key.into()])
    }

    /// Takes all of these, or none.
    ///
    /// # Errors
    /// `Aborted` when somebody has one of them.
    pub fn take_all(&self, keys: impl IntoIterator<Item = String>) -> Result<Held> {
        let keys: Vec<String> = keys.into_iter().collect();
        let mut taken = self.0.lock();
        let found = keys.iter().find_map(|key| Some((key, *taken.get(key)?)));
        if let Some((key, holder)) = found {
            let message = match holder {
                Holder::Operation => {
                    format!("another operation on {key} is under way; try again when it has ended")
                }
                Holder::HungCall => format!(
                    "an earlier call on {key} still waits for a path that does not answer; end the mount that hangs \
                     there (`umount -f -l`), then try again"
                ),
            };
            return Err(CsiError::new(Code::Aborted, message));
        }
        taken.extend(keys.iter().map(|key| (key.clone(), Holder::Operation)));
        drop(taken);
        Ok(Held(Arc::new(Keys {
            locks: self.clone(),
            keys,
        })))
    }
}

impl Held {
    /// For a call that may outlive the operation: the keys are not free before this is dropped, too.
    pub fn kept(&self) -> Kept {
        Arc::clone(&self.0) as Kept
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if Arc::strong_count(&self.0) > 1 {
            let mut taken = self.0.locks.0.lock();
            for key in &self.0.keys {
                taken.insert(key.clone(), Holder::HungCall);
            }
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let mut taken = self.locks.0.lock();
        for key in &self.keys {
            taken.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_free_again_when_its_holder_is_gone() {
        let locks = Locks::default();
        let held = locks.take_all(["a".into(), "b".into()]).unwrap();
        assert_eq!(locks.take("b").unwrap_err().code, Code::Aborted);
        assert!(locks.take("c").is_ok());
        drop(held);
        assert!(locks.take("b").is_ok());
    }

    #[test]
    fn a_key_is_taken_as_long_as_a_call_that_was_given_up_keeps_it() {
        let locks = Locks::default();
        let held = locks.take("a").unwrap();
        let kept = held.kept();
        let busy = locks.take("a").unwrap_err().message;
        assert!(busy.contains("another operation"), "{busy}");
        drop(held);
        let hangs = locks.take("a").unwrap_err();
        assert_eq!(hangs.code, Code::Aborted);
        assert!(hangs.message.contains("an earlier call"), "{hangs}");
        drop(kept);
        assert!(locks.take("a").is_ok());
    }
}
