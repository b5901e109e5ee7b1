//! What the collector reads: pages of a timeline's rows, so that it holds nothing while it works.

use crate::error::Result;
use crate::ids::{Epoch, FileId, TimelineId};
use crate::index::keys::{EPOCH_LEN, TIMELINE_LEN, change_key, split_version_key};

use super::audit::{DeadKey, split_dead_key};
use super::{CHANGE, DEAD, Index, RECORD, RESIDUE, open, residue_key, tagged, translate};

/// A page of rows: key without its tag, and value.
pub(crate) type Page = Vec<(Vec<u8>, Vec<u8>)>;

impl Index {
    /// All versions of one record, newest first.
    pub fn versions_of(
        &self,
        timeline: TimelineId,
        relative: &[u8],
    ) -> Result<Vec<(Epoch, Vec<u8>)>> {
        let mut prefix = tagged(RECORD, &timeline.0);
        prefix.extend_from_slice(relative);
        let mut iter = self.db.raw_iterator_opt(open::scans(&prefix));
        iter.seek(&prefix);
        let mut out = Vec::new();
        while let (Some(key), Some(value)) = (iter.key(), iter.value()) {
            if !key.starts_with(&prefix) {
                break;
            }
            // A longer key that begins alike is another record's.
            if key.len() == prefix.len() + EPOCH_LEN {
                let (_, _, epoch) = split_version_key(&key[1..])?;
                out.push((epoch, value.to_vec()));
            }
            iter.next();
        }
        iter.status().map_err(|e| translate("read the index", &e))?;
        Ok(out)
    }

    /// At most `limit` entries of the change list with an epoch in `(lo, hi]`, behind the entry `after`.
    pub fn changes_page(
        &self,
        timeline: TimelineId,
        lo: Epoch,
        hi: Epoch,
        after: Option<&(Epoch, Vec<u8>)>,
        limit: usize,
    ) -> Result<Vec<(Epoch, Vec<u8>)>> {
        let start = match after {
            Some((epoch, relative)) => {
                let mut key = change_key(timeline, *epoch, relative);
                key.push(0);
                key
            }
            None => change_key(timeline, Epoch(lo.0.saturating_add(1)), &[]),
        };
        let rows = self.page(&tagged(CHANGE, &timeline.0), &tagged(CHANGE, &start), limit)?;
        let mut out = Vec::with_capacity(rows.len());
        for (key, _) in rows {
            let mut epoch = [0; 8];
            epoch.copy_from_slice(&key[TIMELINE_LEN..TIMELINE_LEN + 8]);
            let epoch = Epoch(u64::from_be_bytes(epoch));
            if epoch > hi {
                break;
            }
            out.push((epoch, key[TIMELINE_LEN + 8..].to_vec()));
        }
        Ok(out)
    }

    /// At most `limit` deadlist records with a death in `(lo, hi]`, behind the record `after`.
    pub fn dead_page(
        &self,
        timeline: TimelineId,
        lo: Epoch,
        hi: Epoch,
        after: Option<&DeadKey>,
        limit: usize,
    ) -> Result<Vec<(DeadKey, Vec<u8>)>> {
        let start = match after {
            Some(k) => {
                let mut key = crate::index::dead::dead_key(timeline, k.death, k.frame, k.number);
                key.push(0);
                key
            }
            None => {
                let mut key = timeline.0.to_vec();
                key.extend_from_slice(&lo.0.saturating_add(1).to_be_bytes());
                key
            }
        };
        let rows = self.page(&tagged(DEAD, &timeline.0), &tagged(DEAD, &start), limit)?;
        let mut out = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            let key = split_dead_key(&key)?;
            if key.death > hi {
                break;
            }
            out.push((key, value));
        }
        Ok(out)
    }

    /// At most `limit` versions of a timeline, from the key behind `after` on (a key of an earlier page):
    /// the whole key without its tag, and the row.
    pub fn versions_page(
        &self,
        timeline: TimelineId,
        relative_prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page> {
        let mut prefix = tagged(RECORD, &timeline.0);
        prefix.extend_from_slice(relative_prefix);
        let start = match after {
            Some(key) => {
                let mut key = tagged(RECORD, key);
                key.push(0);
                key
            }
            None => prefix.clone(),
        };
        self.page(&prefix, &start, limit)
    }

    /// What of a run was given up and not given back.
    pub fn residue(&self, file: FileId, offset: u64) -> Result<Option<Vec<u8>>> {
        self.db
            .get(residue_key(file, offset))
            .map_err(|e| translate("read the index", &e))
    }

    /// At most `limit` residues, of one file or of all: key (file, offset) and value.
    pub fn residues_page(
        &self,
        file: Option<FileId>,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page> {
        let prefix = match file {
            Some(file) => tagged(RESIDUE, &file.0),
            None => vec![RESIDUE],
        };
        let start = match after {
            Some(key) => {
                let mut key = tagged(RESIDUE, key);
                key.push(0);
                key
            }
            None => prefix.clone(),
        };
        self.page(&prefix, &start, limit)
    }

    fn page(&self, prefix: &[u8], start: &[u8], limit: usize) -> Result<Page> {
        let mut options = open::scans(prefix);
        // What the collector reads others will hardly need again.
        options.fill_cache(false);
        let mut iter = self.db.raw_iterator_opt(options);
        iter.seek(start);
        let mut out = Vec::new();
        while let (Some(key), Some(value)) = (iter.key(), iter.value()) {
            if out.len() >= limit || !key.starts_with(prefix) {
                break;
            }
            out.push((key[1..].to_vec(), value.to_vec()));
            iter.next();
        }
        iter.status().map_err(|e| translate("read the index", &e))?;
        Ok(out)
    }
}
