//! One operation at a time on each volume: a second one is refused, not queued, so that no thread waits for a hung one.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{Code, CsiError, Result};

/// Keys that are being worked on.
#[derive(Debug, Default, Clone)]
pub(super) struct Locks(Arc<Mutex<HashSet<String>>>);

/// The keys are free again when this is dropped.
#[derive(Debug)]
pub(super) struct Held {
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
        if let Some(key) = keys.iter().find(|key| taken.contains(*key)) {
            return Err(CsiError::new(
                Code::Aborted,
                format!("another operation on {key} is under way; try again when it has ended"),
            ));
        }
        taken.extend(keys.iter().cloned());
        drop(taken);
        Ok(Held {
            locks: self.clone(),
            keys,
        })
    }
}

impl Drop for Held {
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
}
