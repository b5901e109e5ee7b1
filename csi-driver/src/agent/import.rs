//! Imports: each in a thread of its own. The plan marks a timeline as complete when its import has ended; one
//! that was cut off is emptied and filled again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crds::ImportSource;
use jiff::Timestamp;
use operator::observed::{Import, ImportState};
use operator::{FailureKind, Id};
use parking_lot::Mutex;
use storage_engine::import::{ImportProgress, import_directory, import_tar};
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
}

struct Job {
    what: String,
    started: Timestamp,
    done: Mutex<ImportProgress>,
    end: Mutex<Option<(Timestamp, Outcome)>>,
}

impl Imports {
    pub fn new(engine: Engine, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self {
            engine,
            wake,
            jobs: Mutex::default(),
        }
    }

    /// Starts an import, unless it runs. The failure of an earlier try is said once it is time for another.
    pub fn start(&self, timeline: Id, source: &ImportSource) -> Outcome {
        let mut jobs = self.jobs.lock();
        if jobs
            .get(&timeline)
            .is_some_and(|job| job.end.lock().is_none())
        {
            return Ok(());
        }
        let path = match (&source.directory, &source.tar) {
            (Some(place), _) | (None, Some(place)) => PathBuf::from(&place.path),
            (None, None) => return Err(Failure::usage("the source is empty")),
        };
        std::fs::metadata(&path).map_err(|e| {
            Failure::new(
                "Source",
                format!("the source {} cannot be read: {e}", path.display()),
            )
        })?;
        let id = TimelineId(timeline.0);
        let name = Reference::timeline(&self.engine.timeline(id)?).short();
        let job = Arc::new(Job {
            what: format!("importing {name}"),
            started: Timestamp::now(),
            done: Mutex::default(),
            end: Mutex::new(None),
        });
        let (engine, own, wake) = (
            self.engine.clone(),
            Arc::clone(&job),
            Arc::clone(&self.wake),
        );
        let tar = source.directory.is_none();
        std::thread::Builder::new()
            .name("import".to_owned())
            .spawn(move || {
                let result = fill(&engine, id, &path, tar, &own.done);
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
            let done = *job.done.lock();
            let ended = job.end.lock().as_ref().map(|(at, _)| *at);
            let import = Import {
                state: if ended.is_some() {
                    ImportState::Done
                } else {
                    ImportState::Running
                },
                files: done.entries,
                bytes: done.bytes,
                total_files: None,
                total_bytes: None,
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
                let done = *job.done.lock();
                Progress {
                    what: job.what.clone(),
                    items: done.entries,
                    total_items: None,
                    bytes: done.bytes,
                }
            })
            .collect()
    }

    /// Forgets an import. Its thread ends at its next commit, when its timeline is deleted.
    pub fn cancel(&self, timeline: Id) {
        self.jobs.lock().remove(&timeline);
    }
}

/// What helps against the failure of an import: what time may help is tried again soon, so that a source that
/// appears later is found.
pub(super) fn kind_of(failure: &Failure) -> FailureKind {
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

fn fill(
    engine: &Engine,
    id: TimelineId,
    path: &Path,
    tar: bool,
    done: &Mutex<ImportProgress>,
) -> Outcome {
    let volume = engine.volume(Point::Now(id), VolumeOptions::default())?;
    // What a process that was killed had imported so far.
    crate::owner::run::empty(&volume)?;
    let mut progress = |now: &ImportProgress| *done.lock() = *now;
    let all = if tar {
        import_tar(&volume, path, &mut progress)?
    } else {
        import_directory(&volume, path, &mut progress)?
    };
    *done.lock() = all;
    Ok(())
}
