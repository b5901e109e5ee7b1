//! How far the log is on disk: one sync for everybody who waits at the same time.

use std::io;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::File;
use crate::ids::Position;
use crate::planted::{Bug, planted};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};

/// How far the log is on disk. Whoever appends holds the commit lock; whoever waits does not.
pub(crate) struct Durable {
    appended: AtomicU64,
    synced: AtomicU64,
    poisoned: AtomicBool,
    file: Mutex<Option<Arc<dyn File>>>,
    syncing: Mutex<()>,
}

impl Durable {
    /// Of a log that is on disk up to `end`.
    pub fn new(end: Position) -> Self {
        Self {
            appended: AtomicU64::new(end.0),
            synced: AtomicU64::new(end.0),
            poisoned: AtomicBool::new(false),
            file: Mutex::new(None),
            syncing: Mutex::new(()),
        }
    }

    /// Fails after a write or sync of the log has failed.
    pub fn check(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::Poisoned,
                "a write or sync of the log failed before: what is on disk is unknown until the store is opened again",
            ));
        }
        Ok(())
    }

    /// Position behind the last frame.
    pub fn appended(&self) -> Position {
        Position(self.appended.load(Ordering::Acquire))
    }

    /// Up to where the log is known to be on disk.
    pub fn synced(&self) -> Position {
        Position(self.synced.load(Ordering::Acquire))
    }

    /// Refuses everything from now on.
    pub fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    /// A frame was written, up to `end`.
    pub fn note(&self, end: Position) {
        self.appended.store(end.0, Ordering::Release);
    }

    /// A segment was begun: everything before it, and its header up to `end`, is on disk.
    pub fn begin(&self, file: Arc<dyn File>, end: Position) {
        *self.file.lock() = Some(file);
        self.appended.store(end.0, Ordering::Release);
        self.synced.store(end.0, Ordering::Release);
    }

    /// The segment that is being written ends at `end`; `finish` makes it durable as a whole. After an error
    /// nothing is accepted any more.
    pub fn finish(&self, end: Position, finish: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _syncing = self.syncing.lock();
        // The sync of somebody else may have failed since the caller has looked. One more would succeed and prove
        // nothing, and a segment behind what was lost makes it damage instead of a torn end.
        if self.poisoned.load(Ordering::Acquire) {
            return Err(io::Error::other("a sync of the log failed before"));
        }
        if let Err(e) = finish() {
            self.poison();
            return Err(e);
        }
        self.synced.fetch_max(end.0, Ordering::AcqRel);
        *self.file.lock() = None;
        Ok(())
    }

    /// Returns when everything up to `position` is on disk. Cost: nothing if it is already; otherwise
    /// one sync, shared by everybody who waits at the same time.
    pub fn wait(&self, position: Position) -> Result<()> {
        self.check()?;
        if self.synced() >= position {
            return Ok(());
        }
        let _syncing = self.syncing.lock();
        self.check()?;
        if self.synced() >= position {
            return Ok(());
        }
        // The position is read before the file: a segment that is replaced in between was synced whole.
        let target = self.appended.load(Ordering::Acquire);
        let file = self.file.lock().clone();
        if let Some(file) = file
            && !planted(Bug::SkippedSegmentSync)
            && let Err(e) = file.sync_data()
        {
            // After a failed fsync the kernel may have dropped the pages: a second one proves nothing.
            if !planted(Bug::SyncRetried) {
                self.poison();
            }
            return Err(Error::new(
                ErrorKind::Poisoned,
                format!("cannot sync the log: {e}"),
            ));
        }
        let target = match planted(Bug::AppendedDuringSync) {
            true => self.appended().0,
            false => target,
        };
        self.synced.fetch_max(target, Ordering::AcqRel);
        Ok(())
    }

    /// Makes everything appended so far durable.
    pub fn sync(&self) -> Result<()> {
        self.wait(self.appended())
    }

    /// Does `work` at a moment at which everything that was committed is durable and nothing is being
    /// committed. Almost all is synced while commits go on, and only what came in during that with `commit` held.
    pub fn at_rest<C>(
        &self,
        commit: &Mutex<C>,
        work: impl FnOnce(&mut C) -> Result<()>,
    ) -> Result<()> {
        self.sync()?;
        let mut commit = commit.lock();
        self.sync()?;
        work(&mut commit)
    }
}
