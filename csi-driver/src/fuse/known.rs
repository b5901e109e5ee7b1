//! The inodes that the kernel knows, with how often it has looked each one up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

const SHARDS: usize = 16;

/// Counts of lookups per inode; about 40 bytes each, where the kernel's own inode takes 800.
///
/// After a takeover the counts begin at zero although the kernel knows inodes from before: taking back more than was
/// counted is the end of an inode, never an error.
#[derive(Debug)]
pub struct Known {
    shards: [Mutex<HashMap<u64, u64>>; SHARDS],
    /// Whether an inode may be without a name; until then nothing needs to be reaped.
    orphans: AtomicBool,
}

impl Known {
    /// Nothing known. `orphans` is whether there may be inodes without a name already (after a takeover).
    pub fn new(orphans: bool) -> Known {
        Known {
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
            orphans: AtomicBool::new(orphans),
        }
    }

    fn shard(&self, ino: u64) -> &Mutex<HashMap<u64, u64>> {
        &self.shards[ino as usize % SHARDS]
    }

    /// The kernel is told of the inode once more.
    pub fn add(&self, ino: u64) {
        *self.shard(ino).lock().entry(ino).or_insert(0) += 1;
    }

    /// The kernel takes back `count` lookups; true when it does not know the inode any more.
    pub fn forget(&self, ino: u64, count: u64) -> bool {
        let mut shard = self.shard(ino).lock();
        match shard.get_mut(&ino) {
            Some(left) if *left > count => {
                *left -= count;
                false
            }
            _ => {
                shard.remove(&ino);
                true
            }
        }
    }

    /// An inode may have lost its last name.
    pub fn may_orphan(&self) {
        self.orphans.store(true, Ordering::Relaxed);
    }

    /// Whether any inode may have lost its last name since the beginning.
    pub fn has_orphans(&self) -> bool {
        self.orphans.load(Ordering::Relaxed)
    }

    /// All inodes known, in no order.
    pub fn all(&self) -> Vec<u64> {
        self.shards
            .iter()
            .flat_map(|shard| shard.lock().keys().copied().collect::<Vec<_>>())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_known_until_every_lookup_is_taken_back() {
        let known = Known::new(false);
        known.add(5);
        known.add(5);
        assert!(!known.forget(5, 1));
        assert!(known.forget(5, 1));
        assert!(
            known.forget(21, 3),
            "one from before a takeover is gone at its first forget"
        );
        assert!(known.all().is_empty());
    }
}
