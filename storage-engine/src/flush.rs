//! Writing the index out: bounds what recovery has to replay.
//!
//! RocksDB never decides that by itself. A thread does it when a commit, or the opening, has found that
//! enough is only in memory. The index must never be ahead of a durable log, so that the log is synced
//! first: almost all of it while commits go on, and only what came in during that sync with the commit
//! lock held, at the moment at which RocksDB sets its memory aside. Writing it to a file happens behind
//! the back of commits.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::engine::CommitState;
use crate::error::Error;
use crate::error::{ErrorKind, Result};
use crate::ids::Position;
use crate::log::durable::Durable;
use crate::planted::{Bug, planted};
use crate::rocks::Index;

/// The index is written out when so many bytes of it are only in memory: to apply them again takes
/// about a third of a second...
const INDEX_BYTES: usize = 32 << 20;
/// ... or when the log has grown by so much since, if [`Options`](crate::Options) do not say otherwise:
/// recovery reads and hashes it all. (Unit tests write less.)
pub(crate) const LOG_BYTES: u64 = if cfg!(test) { 8 << 20 } else { 128 << 20 };
/// What an opening replays is written out at once from this part of the limits on; less is not worth a
/// file of its own.
const CONSIDERABLE: u64 = 32;
/// After a failure (a full disk, mostly) it is left alone for so long.
const PAUSE: Duration = Duration::from_secs(1);
/// What RocksDB writes beside: its list of files, mostly.
const MARGIN_BYTES: u64 = 1 << 20;
/// How often the end of RocksDB's writing is looked for.
const POLL: Duration = Duration::from_millis(5);

/// What of the index is only in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unflushed {
    /// Bytes of the batches.
    index: usize,
    /// The log up to here is in the index's files, or on the way there.
    since: Position,
    end: Position,
    /// The log may grow by so much.
    limit: u64,
}

impl Unflushed {
    /// Nothing, as of this position.
    pub fn at(position: Position, limit: u64) -> Self {
        Self {
            index: 0,
            since: position,
            end: position,
            limit,
        }
    }

    /// Everything up to this position is in the index's files, or on the way there.
    pub fn written_out(&mut self, position: Position) {
        *self = Self::at(position, self.limit);
    }

    /// The log up to here is in the index's files, or on the way there.
    pub fn since(&self) -> Position {
        self.since
    }

    /// Counts one commit; says whether it is enough.
    pub fn add(&mut self, index: usize, end: Position) -> bool {
        self.index += index;
        self.end = end;
        self.index >= INDEX_BYTES || self.log() >= self.limit
    }

    /// Whether it is worth to be written out after an opening.
    pub fn considerable(&self) -> bool {
        self.index as u64 >= INDEX_BYTES as u64 / CONSIDERABLE
            || self.log() >= self.limit / CONSIDERABLE
    }

    /// Whether the disk has room for it. RocksDB must not find that out: it would refuse what is written next,
    /// which the log has already. On a full disk little can be added to the log, so that it may wait.
    pub fn fits(&self, dir: &Path) -> bool {
        let needed = 2 * self.index as u64 + MARGIN_BYTES;
        crate::store::room(dir).is_none_or(|room| room >= needed)
    }

    fn log(&self) -> u64 {
        self.end.0.saturating_sub(self.since.0)
    }
}

/// The thread that writes the index out.
pub(crate) struct Flusher {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    wishes: Mutex<Wishes>,
    changed: Condvar,
}

#[derive(Default)]
struct Wishes {
    flush: bool,
    stop: bool,
    busy: bool,
}

impl Flusher {
    pub fn start(
        dir: PathBuf,
        commit: Arc<Mutex<CommitState>>,
        durable: Arc<Durable>,
        index: Arc<Index>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("index-flush".into())
            .spawn(move || {
                while of_thread.wait() {
                    if let Err(error) = flush(&dir, &commit, &durable, &index, &of_thread) {
                        // Nothing is lost: the log has it all. What fails for good fails commits too.
                        tracing::error!(%error, "writing the index out");
                        of_thread.pause();
                        // It is asked for again by whoever commits next.
                    }
                    of_thread.wishes.lock().busy = false;
                    of_thread.changed.notify_all();
                }
            })
            .map_err(|e| Error::new(ErrorKind::Io, format!("cannot start a thread: {e}")))?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Has the index written out soon. Cost: none.
    pub fn ask(&self) {
        self.shared.wishes.lock().flush = true;
        self.shared.changed.notify_all();
    }

    /// Ends the thread. What it has begun is finished by RocksDB.
    pub fn stop(&self) {
        self.shared.wishes.lock().stop = true;
        self.shared.changed.notify_all();
    }

    /// Returns when nothing is asked for.
    pub fn idle(&self) {
        let mut wishes = self.shared.wishes.lock();
        while (wishes.flush || wishes.busy) && !wishes.stop {
            self.shared.changed.wait(&mut wishes);
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the index out has panicked");
        }
    }
}

impl Shared {
    /// Waits for a wish; `false` when there will be none.
    fn wait(&self) -> bool {
        let mut wishes = self.wishes.lock();
        while !wishes.flush && !wishes.stop {
            self.changed.wait(&mut wishes);
        }
        wishes.busy = std::mem::take(&mut wishes.flush) && !wishes.stop;
        wishes.busy
    }

    /// Waits a while, but not when everything ends.
    fn pause(&self) {
        let mut wishes = self.wishes.lock();
        if !wishes.stop {
            self.changed.wait_while_for(&mut wishes, |w| !w.stop, PAUSE);
        }
    }
}

fn flush(
    dir: &Path,
    commit: &Mutex<CommitState>,
    durable: &Durable,
    index: &Index,
    shared: &Shared,
) -> Result<()> {
    if planted(Bug::IndexBeforeLog) {
        return index.flush(true);
    }
    durable.at_rest(commit, |commit| {
        if shared.wishes.lock().stop {
            return Ok(());
        }
        if !commit.unflushed.fits(dir) {
            return Err(Error::new(
                ErrorKind::NoSpace,
                "the disk has no room for the index: it stays in memory until there is some",
            ));
        }
        // Returns as soon as new commits go elsewhere in memory.
        index.flush(false)?;
        let end = commit.log.end();
        commit.unflushed.written_out(end);
        Ok(())
    })?;
    while index.flushing()? && !shared.wishes.lock().stop {
        std::thread::sleep(POLL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::files::types::*;
    use crate::{CreateRoot, Durability, Engine, Options, Point, VolumeOptions};

    /// What a crash leaves: the directory as it is while the engine runs on.
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }

    fn write(engine: &Engine, name: &str, mib: usize) {
        let timeline = match engine.timeline_named("a") {
            Ok(timeline) => timeline,
            Err(_) => {
                let new = CreateRoot {
                    name: "a".into(),
                    durability: Durability::Memory,
                    ..Default::default()
                };
                engine.create_root(new).unwrap()
            }
        };
        let volume = engine
            .volume(Point::Now(timeline.id), VolumeOptions::default())
            .unwrap();
        let node = NewNode {
            kind: NodeKind::File,
            mode: 0o644,
            rdev: 0,
            target: &[],
        };
        let me = Caller::default();
        let ino = volume
            .create(&me, crate::Ino::ROOT, name.as_bytes(), &node)
            .unwrap()
            .ino;
        for n in 0..mib {
            volume
                .write(
                    &me,
                    ino,
                    (n << 20) as u64,
                    &vec![7; 1 << 20],
                    WriteOptions::default(),
                )
                .unwrap();
        }
    }

    #[test]
    fn crash_after_crash_replays_only_what_the_last_run_wrote() {
        let base = tempfile::tempdir().unwrap();
        let mut running = Vec::new();
        for round in 0..8 {
            let dir = base.path().join(format!("{round}"));
            let engine = Engine::open(&dir, Options::default()).unwrap();
            let replayed = engine.recovery().replayed_bytes;
            assert!(
                replayed < 4 << 20,
                "opening number {round} replayed {replayed} bytes, more than the 3 MiB of one run"
            );
            assert_eq!(round > 0, replayed > 3 << 20);
            engine.inner.flusher.idle();
            write(&engine, &format!("f{round}"), 3);
            copy(&dir, &base.path().join(format!("{}", round + 1)));
            running.push(engine);
        }
    }

    #[test]
    fn a_long_run_leaves_a_bounded_part_of_the_log_to_replay() {
        let base = tempfile::tempdir().unwrap();
        let (dir, crashed) = (base.path().join("running"), base.path().join("crashed"));
        let engine = Engine::open(&dir, Options::default()).unwrap();
        for n in 0..5 {
            write(&engine, &format!("f{n}"), 9);
            engine.inner.flusher.idle();
        }
        write(&engine, "last", 1);
        copy(&dir, &crashed);
        let again = Engine::open(&crashed, Options::default()).unwrap();
        let recovery = again.recovery();
        assert!(recovery.replayed_bytes < LOG_BYTES, "{recovery:?}");
        assert!(recovery.replayed_frames > 0, "{recovery:?}");
        assert!(again.check(|_| {}).unwrap().findings.is_empty());
    }

    #[test]
    fn what_is_written_out_was_durable_in_the_log_before() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path(), Options::default()).unwrap();
        write(&engine, "f", 9);
        engine.inner.flusher.idle();
        let position = engine.inner.commit.lock().unflushed.since;
        assert!(position > Position(0), "nothing was written out");
        assert!(engine.inner.durable.synced() >= position);
    }
}
