//! Ordered scan of the newest versions in a window of epochs.

use rocksdb::{DB, DBRawIterator};

use crate::error::Result;
use crate::ids::{Epoch, TimelineId};
use crate::index::keys::{EPOCH_LEN, TIMELINE_LEN, split_version_key, version_key};

use super::{RECORD, open, tagged, translate};

/// So many steps are tried before a seek, which costs as much as about twenty of them.
const STEPS_BEFORE_SEEK: u32 = 12;

/// One record's newest version: relative key, epoch, row.
pub(crate) type Version = (Vec<u8>, Epoch, Vec<u8>);

/// See [`super::Index::scan`].
pub(crate) struct VersionScan<'a> {
    iter: DBRawIterator<'a>,
    timeline: TimelineId,
    prefix: Vec<u8>,
    lo: Epoch,
    hi: Epoch,
    started: bool,
}

impl<'a> VersionScan<'a> {
    pub(super) fn new(
        db: &'a DB,
        timeline: TimelineId,
        prefix: &[u8],
        lo: Epoch,
        hi: Epoch,
    ) -> Self {
        let mut full = tagged(RECORD, &timeline.0);
        full.extend_from_slice(prefix);
        Self {
            iter: db.raw_iterator_opt(open::scans(&full)),
            timeline,
            prefix: full,
            lo,
            hi,
            started: false,
        }
    }

    /// Starts at the first record at or after this relative key.
    pub fn seek(&mut self, relative: &[u8]) {
        let mut key = tagged(RECORD, &self.timeline.0);
        key.extend_from_slice(relative);
        self.iter.seek(key.max(self.prefix.clone()));
        self.started = true;
    }

    /// The next record that has a version in the window.
    pub fn next(&mut self) -> Result<Option<Version>> {
        if !self.started {
            self.iter.seek(&self.prefix);
            self.started = true;
        }
        loop {
            let (Some(key), Some(value)) = (self.iter.key(), self.iter.value()) else {
                self.iter
                    .status()
                    .map_err(|e| translate("read the index", &e))?;
                return Ok(None);
            };
            if !key.starts_with(&self.prefix) {
                return Ok(None);
            }
            let (_, relative, epoch) = split_version_key(&key[1..])?;
            if epoch > self.hi {
                let wanted = tagged(RECORD, &version_key(self.timeline, relative, self.hi));
                self.forward_to(&wanted);
                continue;
            }
            let found = (epoch > self.lo).then(|| (relative.to_vec(), epoch, value.to_vec()));
            let mut behind = key.to_vec();
            let at = behind.len() - EPOCH_LEN;
            behind[at..].fill(u8::MAX);
            behind.push(0);
            self.forward_to(&behind);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Moves to the first key at or after `wanted`, which is ahead.
    fn forward_to(&mut self, wanted: &[u8]) {
        debug_assert!(wanted.len() > TIMELINE_LEN);
        for _ in 0..STEPS_BEFORE_SEEK {
            match self.iter.key() {
                Some(key) if key < wanted => self.iter.next(),
                _ => return,
            }
        }
        self.iter.seek(wanted);
    }
}
