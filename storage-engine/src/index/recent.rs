//! The records that a timeline changed last, so that reading them again costs no look into the index.
//!
//! A program that makes a file has its inode, its name and its directory's inode read by nearly every request that
//! follows. All changes of a timeline's records go through its lock, which also guards this.

use std::collections::{BTreeMap, HashMap};

use crate::ids::Epoch;

use super::keys::RecordKey;
use super::lineage::Seen;
use super::records::Record;

/// How many are kept, at some hundred bytes each: what a few programs work on at the same time. A store may have ten
/// thousand timelines that are written.
const MOST: usize = 256;

/// The newest versions of records, as far as they were changed lately.
#[derive(Default)]
pub(crate) struct Recent {
    records: HashMap<RecordKey, (Epoch, Option<Record>)>,
}

impl Recent {
    /// The newest version, if it is known; a tombstone is `Some(None)`. It stands in the first hop.
    pub fn get(&self, key: &RecordKey) -> Option<Option<Seen>> {
        let (epoch, record) = self.records.get(key)?;
        Some(record.as_ref().map(|record| Seen {
            record: record.clone(),
            epoch: *epoch,
            hop: 0,
        }))
    }

    /// Takes over what a commit has changed.
    pub fn note(&mut self, epoch: Epoch, changed: BTreeMap<RecordKey, Option<Record>>) {
        for (key, record) in changed {
            // Content may be large, and is read back by the kernel seldom.
            if !matches!(
                key,
                RecordKey::Inode(_) | RecordKey::Dirent(..) | RecordKey::Orphan(_)
            ) {
                self.records.remove(&key);
                continue;
            }
            if self.records.len() >= MOST && !self.records.contains_key(&key) {
                self.records.clear();
            }
            self.records.insert(key, (epoch, record));
        }
    }

    /// Forgets everything: the timeline shows another state.
    pub fn clear(&mut self) {
        self.records.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Ino;

    #[test]
    fn it_knows_the_newest_version_and_never_too_many() {
        let mut recent = Recent::default();
        let name = |n: u64| RecordKey::Dirent(Ino(1), n.to_be_bytes().to_vec());
        for n in 0..10 * MOST as u64 {
            recent.note(Epoch(n), BTreeMap::from([(name(n), Some(Record::Mark))]));
            assert!(recent.records.len() <= MOST);
            assert_eq!(recent.get(&name(n)).unwrap().unwrap().epoch, Epoch(n));
        }
        let last = name(10 * MOST as u64 - 1);
        recent.note(Epoch(u64::MAX), BTreeMap::from([(last.clone(), None)]));
        assert!(recent.get(&last).unwrap().is_none(), "a tombstone is known");
        assert!(
            recent.get(&name(0)).is_none(),
            "what is not known is asked for"
        );
        recent.clear();
        assert!(recent.get(&last).is_none());
    }
}
