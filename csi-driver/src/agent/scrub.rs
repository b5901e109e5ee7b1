//! Reads the whole store now and then, slowly, and says what is damaged: in the log, in metrics, and by an event of each
//! object whose bytes are hit.
//!
//! When it was done last stands in the data directory, so that restarts of the agent neither repeat nor skip it. One that was
//! cut off begins anew.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use operator::cluster::metrics::Metrics;
use operator::owner::key_of;
use serde::{Deserialize, Serialize};
use storage_engine::{Engine, ErrorKind, ScrubOptions, ScrubReport};
use tokio::sync::mpsc;

use super::node::News;
use crate::owner::{Failure, Outcome};

/// File in the data directory that says how the last one ended.
const FILE: &str = "scrub.json";
/// Between two looks at the clock.
const LOOK: Duration = Duration::from_secs(1);
/// After one that could not be made.
const PAUSE: Duration = Duration::from_secs(600);

/// When and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Between the ends of two.
    pub every: Duration,
    /// Bytes read each second, at most.
    pub rate: u64,
}

/// How the last one ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Last {
    /// When, in Unix seconds.
    finished: u64,
    /// Damaged places found.
    damaged: u64,
}

impl Last {
    fn load(path: &Path) -> Last {
        let read = std::fs::read(path).ok();
        read.and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    fn store(&self, path: &Path) -> std::io::Result<()> {
        let new = path.with_extension("new");
        std::fs::write(
            &new,
            serde_json::to_vec(self).map_err(std::io::Error::other)?,
        )?;
        std::fs::rename(new, path)
    }

    fn show(&self, metrics: &Metrics) {
        let number = |n| i64::try_from(n).unwrap_or(i64::MAX);
        metrics.scrub_damaged.set(number(self.damaged));
        metrics.scrub_finished.set(number(self.finished));
    }
}

/// Starts the thread; it ends with the engine. `told` hears of objects that are hit.
///
/// # Errors
/// The system starts no thread.
pub fn keep(
    engine: Engine,
    data: &Path,
    schedule: Schedule,
    metrics: Arc<Metrics>,
    told: mpsc::UnboundedSender<News>,
) -> Outcome {
    let path = data.join(FILE);
    let work = move || {
        run(&engine, &path, schedule, &metrics, &told);
        // The store was closed, and this process is ending: RocksDB must not be taken down beside that.
        std::mem::forget(engine);
    };
    std::thread::Builder::new()
        .name("scrub".to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|error| Failure::new("Io", format!("cannot start a thread: {error}")))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn run(
    engine: &Engine,
    path: &Path,
    schedule: Schedule,
    metrics: &Metrics,
    told: &mpsc::UnboundedSender<News>,
) {
    let mut last = Last::load(path);
    last.show(metrics);
    let options = ScrubOptions {
        rate: Some(schedule.rate),
    };
    let mut not_before = 0;
    while engine.check_open().is_ok() {
        let due = last.finished.saturating_add(schedule.every.as_secs());
        if now() < due.max(not_before) {
            std::thread::sleep(LOOK);
            continue;
        }
        let mut counted = 0;
        let scrubbed = engine.scrub(options, &mut |at| {
            metrics.scrub_bytes.inc_by(at.bytes - counted);
            counted = at.bytes;
            ControlFlow::Continue(())
        });
        match scrubbed {
            Ok(report) => {
                tracing::info!(
                    bytes = report.bytes,
                    damaged = report.damaged,
                    seconds = report.elapsed.as_secs(),
                    "has read the whole store"
                );
                last = Last {
                    finished: now(),
                    damaged: report.damaged,
                };
                last.show(metrics);
                tell(engine, &report, told);
                if let Err(error) = last.store(path) {
                    tracing::warn!(path = %path.display(), %error, "cannot note that the store was scrubbed");
                }
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => return,
            Err(error) => {
                tracing::error!(%error, "cannot scrub the store");
                not_before = now() + PAUSE.as_secs();
            }
        }
    }
}

/// Tells each object whose timeline has damaged bytes which of its files they are in.
fn tell(engine: &Engine, report: &ScrubReport, told: &mpsc::UnboundedSender<News>) {
    let mut hit: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for damage in &report.damage {
        if let Some(timeline) = &damage.timeline {
            let offset = damage.offset.unwrap_or_default();
            let paths = damage.paths.join(", ");
            hit.entry(timeline)
                .or_default()
                .push(format!("{paths} (byte {offset} of {})", damage.file));
        }
    }
    for (name, places) in hit {
        let Ok(timeline) = engine.timeline_named(name) else {
            continue;
        };
        if let Some(key) = key_of(&timeline.settings.labels) {
            let _ = told.send(News::Damaged(key, places.join("; ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_it_was_done_last_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(Last::load(&path), Last::default());
        let last = Last {
            finished: 1_700_000_000,
            damaged: 3,
        };
        last.store(&path).unwrap();
        assert_eq!(Last::load(&path), last);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Last::load(&path), Last::default());
    }
}
