//! Imports: each in a thread of its own. The plan marks a timeline as complete when its import has ended; one
//! that was cut off is emptied and filled again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crds::ImportSource;
use jiff::Timestamp;
use operator::observed::{Import, ImportState};
use operator::{FailureKind, Id};
use parking_lot::Mutex;
use storage_engine::import::{ImportProgress, Source, import_directory, import_tar};
use storage_engine::{Engine, ErrorKind, Point, TimelineId, VolumeOptions};

use crate::owner::failure::host;
use crate::owner::report::Reference;
use crate::owner::{Failure, Outcome, Progress};

/// How often a source that cannot be imported is tried again.
const AGAIN_SECONDS: i64 = 3;

/// The imports of this process.
pub(super) struct Imports {
    engine: Engine,
    wake: Arc<dyn Fn() + Send + Sync>,
    jobs: Mutex<BTreeMap<Id, Arc<Job>>>,
    /// The directories below which sources may lie, in a cluster; without a cluster, whoever runs us may read what they may.
    pub roots: Option<Vec<PathBuf>>,
}

struct Job {
    what: String,
    started: Timestamp,
    done: Mutex<ImportProgress>,
    total: Mutex<Total>,
    stop: AtomicBool,
    end: Mutex<Option<(Timestamp, Outcome)>>,
}

/// How much there is to import.
#[derive(Clone, Copy, Debug, Default)]
enum Total {
    /// Nobody knows yet.
    #[default]
    Unknown,
    /// Counted: a directory.
    Counted { files: u64, bytes: u64 },
    /// The length of the archive's file; of what is in it, as much is still to come in proportion.
    Archive { length: u64 },
}

impl Total {
    fn files(self) -> Option<u64> {
        match self {
            Total::Counted { files, .. } => Some(files),
            _ => None,
        }
    }

    fn bytes(self, done: &ImportProgress) -> Option<u64> {
        match self {
            Total::Unknown => None,
            Total::Counted { bytes, .. } => Some(bytes.max(done.bytes)),
            Total::Archive { .. } if done.source == 0 => None,
            Total::Archive { length } => {
                let whole = u128::from(done.bytes) * u128::from(length) / u128::from(done.source);
                Some(u64::try_from(whole).unwrap_or(u64::MAX).max(done.bytes))
            }
        }
    }
}

impl Imports {
    pub fn new(engine: Engine, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self {
            engine,
            wake,
            jobs: Mutex::default(),
            roots: None,
        }
    }

    /// Starts an import, unless it runs. The failure of an earlier try is said once it is time for another.
    pub fn start(&self, timeline: Id, asked: &ImportSource) -> Outcome {
        let runs = |jobs: &BTreeMap<Id, Arc<Job>>| {
            jobs.get(&timeline)
                .is_some_and(|job| job.end.lock().is_none())
        };
        if runs(&self.jobs.lock()) {
            return Ok(());
        }
        // Opened without the lock: a file system that does not answer holds up this import alone, and no look at others.
        let path = match (&asked.directory, &asked.tar) {
            (Some(place), _) | (None, Some(place)) => PathBuf::from(&place.path),
            (None, None) => return Err(Failure::usage("the source is empty")),
        };
        let unreadable = |why: &dyn std::fmt::Display| {
            let what = format!("the source {} cannot be read: {why}", path.display());
            Failure::new("Source", what)
        };
        let source = match &self.roots {
            Some(roots) => super::roots::open(roots, &path)?,
            None => {
                // Asked first: opening a pipe would wait for its other end.
                let meta = std::fs::metadata(&path).map_err(|e| unreadable(&e))?;
                if !meta.is_dir() && !meta.is_file() {
                    return Err(unreadable(&"it is neither a directory nor a file"));
                }
                Source::open(&path)?
            }
        };
        let meta = source.file().metadata().map_err(|e| unreadable(&e))?;
        if !meta.is_dir() && !meta.is_file() {
            return Err(unreadable(&"it is neither a directory nor a file"));
        }
        let id = TimelineId(timeline.0);
        let name = Reference::timeline(&self.engine.timeline(id)?).short();
        let tar = asked.directory.is_none();
        let total = if tar {
            Total::Archive { length: meta.len() }
        } else {
            Total::Unknown
        };
        let job = Arc::new(Job {
            what: format!("importing {name}"),
            started: Timestamp::now(),
            done: Mutex::default(),
            total: Mutex::new(total),
            stop: AtomicBool::new(false),
            end: Mutex::new(None),
        });
        let mut jobs = self.jobs.lock();
        if runs(&jobs) {
            return Ok(());
        }
        if !tar && meta.is_dir() {
            let (own, path) = (Arc::clone(&job), path.clone());
            // Beside the import, which is never waiting for it: the names are read once only by the disk.
            let counting = std::thread::Builder::new()
                .name("import-count".to_owned())
                .spawn(move || count(&path, &own));
            if let Err(error) = counting {
                tracing::debug!(%error, "how much there is to import is not counted");
            }
        }
        let (engine, own, wake) = (
            self.engine.clone(),
            Arc::clone(&job),
            Arc::clone(&self.wake),
        );
        std::thread::Builder::new()
            .name("import".to_owned())
            .spawn(move || {
                let result = fill(&engine, id, &source, tar, &own);
                *own.end.lock() = Some((Timestamp::now(), result));
                wake();
            })
            .map_err(|e| host("start a thread", &e))?;
        jobs.insert(timeline, job);
        Ok(())
    }

    /// What plans see of the imports; failures are taken out, each with its timeline.
    pub fn observe(&self) -> (BTreeMap<Id, Import>, BTreeMap<Id, Failure>) {
        let mut jobs = self.jobs.lock();
        let mut failures = BTreeMap::new();
        jobs.retain(|id, job| match &*job.end.lock() {
            Some((_, Err(failure))) => {
                failures.insert(*id, failure.clone());
                false
            }
            _ => true,
        });
        let seen = jobs.iter().map(|(id, job)| {
            let (done, total) = (*job.done.lock(), *job.total.lock());
            let ended = job.end.lock().as_ref().map(|(at, _)| *at);
            let import = Import {
                state: if ended.is_some() {
                    ImportState::Done
                } else {
                    ImportState::Running
                },
                files: done.entries,
                bytes: done.bytes,
                total_files: total.files(),
                total_bytes: total.bytes(&done),
                started: job.started,
                ended,
            };
            (*id, import)
        });
        (seen.collect(), failures)
    }

    /// How far those that run are.
    pub fn progress(&self) -> Vec<Progress> {
        let jobs = self.jobs.lock();
        let running = jobs.values().filter(|job| job.end.lock().is_none());
        running
            .map(|job| {
                let (done, total) = (*job.done.lock(), *job.total.lock());
                Progress {
                    what: job.what.clone(),
                    items: done.entries,
                    total_items: total.files(),
                    bytes: done.bytes,
                    total_bytes: total.bytes(&done),
                }
            })
            .collect()
    }

    /// Stops an import and forgets it; its thread ends within a few files.
    pub fn cancel(&self, timeline: Id) {
        if let Some(job) = self.jobs.lock().remove(&timeline) {
            job.stop.store(true, Ordering::SeqCst);
        }
    }

    /// Stops all imports and waits until they have ended; what they did is done again by the next process. False
    /// when one did not end in time, as when its source does not answer.
    pub fn stop(&self, patience: Duration) -> bool {
        let jobs = std::mem::take(&mut *self.jobs.lock());
        for job in jobs.values() {
            job.stop.store(true, Ordering::SeqCst);
        }
        let deadline = Instant::now() + patience;
        loop {
            if jobs.values().all(|job| job.end.lock().is_some()) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What helps against the failure of an import: what time may help is tried again soon, so that a source that
/// appears later is found.
pub(super) fn kind_of(failure: &Failure) -> FailureKind {
    if failure.reason == super::roots::REFUSED {
        return FailureKind::Import;
    }
    use ErrorKind as E;
    let Some(kind) = E::named(&failure.reason) else {
        return FailureKind::Retry;
    };
    match kind {
        E::InvalidArgument | E::QuotaExceeded | E::Corrupt => FailureKind::Import,
        E::NotFound
        | E::AlreadyExists
        | E::NotADirectory
        | E::IsADirectory
        | E::NotEmpty
        | E::NameTooLong
        | E::TooManyLinks
        | E::NoAttribute
        | E::NoData
        | E::NotSupported
        | E::PermissionDenied
        | E::ReadOnly
        | E::NoSpace
        | E::FileTooLarge
        | E::Range
        | E::Stale
        | E::Conflict
        | E::Protected
        | E::OutOfRetention
        | E::Locked
        | E::UnsupportedFormat
        | E::Poisoned
        | E::Fenced
        | E::Unavailable
        | E::OutcomeUnknown
        | E::Busy
        | E::Io => FailureKind::Retry,
    }
}

/// When a failed import is looked at again.
pub(super) fn again(now: Timestamp) -> Timestamp {
    now.checked_add(jiff::SignedDuration::from_secs(AGAIN_SECONDS))
        .unwrap_or(now)
}

fn fill(engine: &Engine, id: TimelineId, source: &Source, tar: bool, job: &Job) -> Outcome {
    let go_on = || {
        if job.stop.load(Ordering::SeqCst) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let volume = engine.volume(Point::Now(id), VolumeOptions::default())?;
    // What a process that was killed had imported so far.
    crate::owner::run::empty(&volume, &go_on)?;
    let mut progress = |now: &ImportProgress| {
        *job.done.lock() = *now;
        go_on()
    };
    let all = if tar {
        import_tar(&volume, source, &mut progress)?
    } else {
        import_directory(&volume, source, &mut progress)?
    };
    *job.done.lock() = all;
    *job.total.lock() = Total::Counted {
        files: all.entries,
        bytes: all.bytes,
    };
    Ok(())
}

/// Counts a directory as its import does. What cannot be read is the import's to say.
fn count(top: &Path, job: &Job) {
    let (mut files, mut bytes) = (0u64, 0u64);
    let mut linked = BTreeSet::new();
    let mut todo = vec![top.to_owned()];
    while let Some(folder) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            return;
        };
        for entry in entries {
            if job.stop.load(Ordering::SeqCst) || job.end.lock().is_some() {
                return;
            }
            let Ok(entry) = entry else { return };
            let Ok(meta) = entry.metadata() else { continue };
            files += 1;
            if meta.is_dir() {
                todo.push(entry.path());
            } else if meta.is_file()
                && (meta.nlink() == 1 || linked.insert((meta.dev(), meta.ino())))
            {
                bytes += meta.len();
            }
        }
    }
    let mut total = job.total.lock();
    if matches!(*total, Total::Unknown) {
        *total = Total::Counted { files, bytes };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_an_archive_tells_how_much_is_to_come() {
        let done = |bytes, source| ImportProgress {
            entries: 1,
            bytes,
            source,
        };
        let archive = Total::Archive { length: 1000 };
        assert_eq!(archive.bytes(&done(0, 0)), None);
        // Compressed to a third: 300 bytes came out of 100.
        assert_eq!(archive.bytes(&done(300, 100)), Some(3000));
        assert_eq!(archive.bytes(&done(3000, 1000)), Some(3000));
        assert_eq!(archive.files(), None);
        // A directory that grew since it was counted is not more than whole.
        let counted = Total::Counted {
            files: 2,
            bytes: 10,
        };
        assert_eq!(counted.bytes(&done(12, 12)), Some(12));
    }
}
