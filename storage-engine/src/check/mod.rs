//! The check of a whole store: everything that is stored is there, intact, and agrees with everything
//! else. It reads only.
//!
//! It looks at one instant: under the engine's locks, held for no longer than a snapshot takes, the
//! open epoch is closed, and with it the end of the log, the catalog and the totals in memory are noted
//! down. Versions up to a closed epoch never change, so that the rest runs beside whoever uses the
//! store, and what is written meanwhile is left for the next check. A
//! collection waits until the check has ended.
//!
//! Memory: about 200 bytes for each inode of the largest state, 40 for each extent of the store and 24
//! more for each extent that the largest timeline wrote itself, and the catalog. Time: the log read once, the index walked once with one
//! look-up for each row of the log, each stored run of bytes read once, and each different state (the
//! newest of each timeline, snapshots, fork cutoffs) walked once; timelines that have not written
//! since their cutoff share its state and cost a few reads.

mod catalog;
mod compacted;
pub(crate) mod log;
mod report;
mod rows;
mod runs;
mod states;
#[cfg(test)]
mod tests;
mod tree;
mod usage;
mod verify;

use std::collections::{HashMap, HashSet};
use std::path::Path;

pub use report::{
    CheckCounts, CheckPhase, CheckProgress, CheckReport, Finding, FindingKind, Place, Severity,
};

pub use verify::Verified;

use crate::blobs::Blobs;
use crate::catalog::Catalog;
use crate::engine::{Engine, Inner};
use crate::error::Result;
use crate::ids::{Epoch, FileId, Position, TimelineId};
use crate::index::records::UsageRecord;
use crate::log::frame::Chain;
use crate::timeline::NO_TIMELINE;
use report::Findings;

/// The instant that a check looks at.
struct Cut {
    /// Newest closed epoch.
    epoch: Epoch,
    end: Position,
    chain: Chain,
    catalog: Catalog,
    /// Totals of the timelines that are in use, as they are in memory.
    totals: HashMap<TimelineId, UsageRecord>,
}

/// A check under way.
struct Check<'a> {
    inner: &'a Inner,
    store_id: [u8; 16],
    /// Own handles: a file that was removed must not be read through one that is still open.
    blobs: Blobs,
    findings: Findings,
    counts: CheckCounts,
    /// Files that any stored version or deadlist record refers to.
    stored: HashSet<FileId>,
    runs: runs::Runs,
}

impl Engine {
    /// Verifies the whole store and tells everything that is wrong with it, and changes nothing.
    /// `progress` is called now and then. It may run while the store is in use: it sees what was
    /// committed when it began. See the module's page for its cost.
    ///
    /// # Errors
    /// `Unavailable` or `Poisoned` if the engine cannot be used, `Io` if its log cannot be synced.
    /// Damage is no error: it is in the report.
    pub fn check(&self, mut progress: impl FnMut(CheckProgress)) -> Result<CheckReport> {
        let inner = &*self.inner;
        inner.check_open()?;
        // What this instant refers to must not be collected meanwhile.
        let _collector = inner.collector.lock();
        self.sync()?;
        let mut check = Check {
            inner,
            store_id: [0; 16],
            blobs: Blobs::new(inner.layout.clone()),
            findings: Findings::default(),
            counts: CheckCounts::default(),
            stored: HashSet::new(),
            runs: runs::Runs::default(),
        };
        let cut = check.cut();
        let errors = std::cell::Cell::new(check.findings.errors);
        let mut tell = |phase, done, total| {
            progress(CheckProgress {
                phase,
                done,
                total,
                errors: errors.get(),
            });
        };
        check.check_store_file();
        check.check_log(&cut, &mut tell);
        errors.set(check.findings.errors);
        check.check_rows(&cut, &mut tell);
        errors.set(check.findings.errors);
        check.check_states(&cut, &mut tell);
        check.check_objects();
        Ok(CheckReport {
            epoch: cut.epoch,
            position: cut.end,
            errors: check.findings.errors,
            notes: check.findings.notes,
            omitted: check.findings.omitted,
            findings: check.findings.list,
            counts: check.counts,
        })
    }
}

impl Check<'_> {
    /// Takes the instant to look at. Cost: the catalog, copied.
    fn cut(&mut self) -> Cut {
        let inner = self.inner;
        // Whoever changes the set of timelines holds this from the commit to the change in memory.
        let _structure = inner.structure.lock();
        let mut epoch = inner.exclusive_epoch();
        let closed = inner.close_if_dirty(&mut epoch);
        let commit = inner.commit.lock();
        let cut = Cut {
            epoch: closed,
            end: commit.log.end(),
            chain: commit.log.chain(),
            catalog: inner.catalog.read().clone(),
            totals: inner.totals_in_memory(),
        };
        match inner.index.applied() {
            Ok(applied) => {
                let (position, chain) =
                    applied.map_or((Position(0), [0; 32]), |(a, _)| (a.position, a.chain));
                if chain != cut.chain || position > cut.end {
                    self.findings.error(
                        FindingKind::IndexDiffers,
                        Place::WholeIndex,
                        format!(
                            "it says that it holds the log up to position {position}, the log ends at {}",
                            cut.end
                        ),
                    );
                }
            }
            Err(e) => {
                self.findings.error(
                    FindingKind::IndexUnreadable,
                    Place::WholeIndex,
                    e.to_string(),
                );
            }
        }
        cut
    }

    /// `store.json` is there and in this version's format.
    fn check_store_file(&mut self) {
        let path = self.inner.layout.store_json();
        let read = self
            .inner
            .layout
            .fs
            .read(&path)
            .map_err(|e| crate::Error::io("read", &path, &e))
            .and_then(|bytes| crate::store::parse(&path, &bytes))
            .and_then(|store| crate::store::store_id(&store));
        match read {
            Ok(id) => self.store_id = id,
            Err(e) => {
                let place = self.file_place(&path, None);
                self.findings
                    .error(FindingKind::StoreFile, place, e.to_string());
            }
        }
    }

    /// A file of the data directory, shown.
    fn file_place(&self, path: &Path, offset: Option<u64>) -> Place {
        let path = path.strip_prefix(&self.inner.layout.root).unwrap_or(path);
        Place::File {
            path: path.to_string_lossy().into_owned(),
            offset,
        }
    }
}

/// What to call a timeline.
fn timeline_name(catalog: &Catalog, id: TimelineId) -> String {
    if id == NO_TIMELINE {
        return "the catalog".into();
    }
    match catalog.timelines.get(&id) {
        Some(t) if t.deleted.is_some() => format!("{} (deleted)", t.name),
        Some(t) => t.name.clone(),
        None => id.to_string(),
    }
}
