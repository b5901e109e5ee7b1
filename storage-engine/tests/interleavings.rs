//! The small concurrent parts of the engine, in many orders: the files themselves, compiled again with
//! primitives that shuttle schedules. A failure prints the schedule, which `shuttle::replay` takes.
//! `ANABRANCH_SCHEDULES=N` tries N orders of each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unimplemented
)]
// Of the files taken in, each test uses a part.
#![allow(dead_code, unused_imports)]

#[path = "../src/log/durable.rs"]
mod durable;
#[path = "../src/leases.rs"]
mod leases;

mod error {
    pub use storage_engine::{Error, ErrorKind, Result};
}
mod fs {
    pub use storage_engine::fs::{File, Metadata};
}
mod ids {
    pub use storage_engine::{Epoch, Position, TimelineId};
}
mod planted {
    use std::cell::Cell;

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum Bug {
        SkippedSegmentSync,
        SyncRetried,
        AppendedDuringSync,
    }

    thread_local! {
        /// Of this test, whose threads are all on one of the machine's.
        pub static ACTIVE: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    pub fn planted(bug: Bug) -> bool {
        ACTIVE.get() == Some(bug)
    }
}
mod sync {
    pub use std::sync::Arc;

    pub use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// With the interface of the one that the engine uses.
    #[derive(Default)]
    pub struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }
        pub fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}

use std::io;

use durable::Durable;
use error::{ErrorKind, Result};
use ids::{Epoch, Position, TimelineId};
use leases::{Leases, Need};
use sync::{Arc, AtomicU64, Mutex, Ordering};

fn schedules() -> usize {
    std::env::var("ANABRANCH_SCHEDULES").map_or(3_000, |n| n.parse().unwrap())
}

/// Tries `body` in orders at random, and in those that change hands at few points, where most races are.
fn in_many_orders(body: fn()) {
    shuttle::check_random(body, schedules());
    shuttle::check_pct(body, schedules(), 3);
}

/// A segment: a length that was written, and one that is on the disk.
#[derive(Debug, Default)]
struct Segment {
    base: u64,
    written: AtomicU64,
    on_disk: AtomicU64,
    /// A sync fails, once, and loses what it should have written: the kernel takes it for written from then on.
    fails: AtomicU64,
    lost: AtomicU64,
}

impl Segment {
    fn new(base: u64) -> Segment {
        Segment {
            base,
            ..Segment::default()
        }
    }

    fn sync(&self) -> io::Result<()> {
        let written = self.written.load(Ordering::SeqCst);
        shuttle::thread::yield_now();
        if self.fails.swap(0, Ordering::SeqCst) == 1 {
            self.lost.store(1, Ordering::SeqCst);
            return Err(io::Error::from_raw_os_error(5));
        }
        if self.lost.load(Ordering::SeqCst) == 0 {
            self.on_disk.fetch_max(written, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// So that the engine's code can call it.
#[derive(Debug)]
struct Handle(Arc<Segment>);

impl fs::File for Handle {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        unimplemented!()
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        unimplemented!()
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        unimplemented!()
    }
    fn reserve(&self, _: u64) -> io::Result<()> {
        unimplemented!()
    }
    fn punch(&self, _: u64, _: u64) -> io::Result<()> {
        unimplemented!()
    }
    fn is_hole(&self, _: u64, _: u64) -> bool {
        unimplemented!()
    }
    fn seal(&self) -> io::Result<()> {
        unimplemented!()
    }
    fn metadata(&self) -> io::Result<fs::Metadata> {
        unimplemented!()
    }
}

/// What the commit lock protects: a log of segments of two frames, and the index in memory.
struct Commit {
    segments: Vec<Arc<Segment>>,
    end: u64,
    /// The index has everything up to here, and has it on disk up to there.
    applied: u64,
    flushed: u64,
}

struct Log {
    durable: Durable,
    commit: Mutex<Commit>,
}

impl Log {
    fn new() -> Arc<Log> {
        let log = Log {
            durable: Durable::new(Position(0)),
            commit: Mutex::new(Commit {
                segments: Vec::new(),
                end: 0,
                applied: 0,
                flushed: 0,
            }),
        };
        log.begin(&mut log.commit.lock());
        Arc::new(log)
    }

    fn begin(&self, commit: &mut Commit) {
        let segment = Arc::new(Segment::new(commit.end));
        commit.segments.push(Arc::clone(&segment));
        self.durable
            .begin(Arc::new(Handle(segment)), Position(commit.end));
    }

    /// One frame, as `LogWriter` does it.
    fn append(&self) -> Result<Position> {
        self.durable.check()?;
        let mut commit = self.commit.lock();
        let last = Arc::clone(commit.segments.last().unwrap());
        if commit.end - last.base >= 2 {
            let finished = self.durable.finish(Position(commit.end), || last.sync());
            finished.map_err(|e| error::Error::new(ErrorKind::Io, e.to_string()))?;
            self.begin(&mut commit);
        }
        commit.end += 1;
        let end = commit.end;
        let last = commit.segments.last().unwrap();
        last.written.store(end, Ordering::SeqCst);
        self.durable.note(Position(end));
        commit.applied = end;
        Ok(Position(end))
    }

    /// Up to where the log would be read after a loss of power.
    fn on_disk(&self, segments: &[Arc<Segment>]) -> u64 {
        let mut end = 0;
        for segment in segments {
            if segment.base > end {
                break;
            }
            end = segment.base.max(segment.on_disk.load(Ordering::SeqCst));
        }
        end
    }
}

/// What a wait says is durable is on the disk, whoever did the sync, and over the borders of segments.
#[test]
fn group_commit_acknowledges_nothing_that_is_not_on_disk() {
    in_many_orders(group_commit);
}

fn group_commit() {
    let log = Log::new();
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let log = Arc::clone(&log);
            shuttle::thread::spawn(move || {
                for _ in 0..2 {
                    let position = log.append().unwrap();
                    log.durable.wait(position).unwrap();
                    let segments = log.commit.lock().segments.clone();
                    assert!(log.on_disk(&segments) >= position.0);
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|w| w.join().unwrap());
    assert_eq!(log.durable.synced(), log.durable.appended());
}

/// After one sync has failed nobody is told that something is durable that is not.
#[test]
fn a_failed_sync_is_seen_by_everybody_who_waits() {
    in_many_orders(failed_sync);
}

fn failed_sync() {
    let log = Log::new();
    log.commit.lock().segments[0]
        .fails
        .store(1, Ordering::SeqCst);
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let log = Arc::clone(&log);
            shuttle::thread::spawn(move || {
                let Ok(position) = log.append() else {
                    return;
                };
                let done = log.durable.wait(position).is_ok();
                let segments = log.commit.lock().segments.clone();
                assert!(!done || log.on_disk(&segments) >= position.0);
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    assert!(log.durable.check().is_err(), "the failure is forgotten");
    // No segment follows one of which something is missing: that would be damage to the next opening.
    let segments = log.commit.lock().segments.clone();
    for (n, segment) in segments.iter().enumerate().skip(1) {
        assert!(
            log.on_disk(&segments[..n]) >= segment.base,
            "segment {n} follows one that is not on the disk"
        );
    }
}

/// The index on disk is never ahead of the log there.
#[test]
fn the_index_is_written_out_behind_the_log() {
    in_many_orders(written_out);
}

fn written_out() {
    let log = Log::new();
    let writer = {
        let log = Arc::clone(&log);
        shuttle::thread::spawn(move || {
            for _ in 0..4 {
                log.append().unwrap();
            }
        })
    };
    let flusher = {
        let log = Arc::clone(&log);
        shuttle::thread::spawn(move || {
            for _ in 0..2 {
                let work = |commit: &mut Commit| {
                    commit.flushed = commit.applied;
                    assert!(log.on_disk(&commit.segments) >= commit.flushed);
                    Ok(())
                };
                log.durable.at_rest(&log.commit, work).unwrap();
            }
        })
    };
    writer.join().unwrap();
    flusher.join().unwrap();
}

/// A reader of a past state either is refused, or reads what no collection takes away under it. (A fork
/// holds the same lock as a collection that moves the horizon, and so needs no lease.)
#[test]
fn a_reader_of_the_past_and_a_collection_do_not_miss_each_other() {
    in_many_orders(|| {
        let leases = Arc::new(Leases::default());
        // The catalog has the horizon; states before `collected` are gone.
        let catalog = Arc::new(Mutex::new(0));
        let collected = Arc::new(AtomicU64::new(0));
        let timeline = TimelineId([1; 16]);
        let collector = {
            let (leases, catalog, collected) = (
                Arc::clone(&leases),
                Arc::clone(&catalog),
                Arc::clone(&collected),
            );
            shuttle::thread::spawn(move || {
                let horizon = {
                    let mut catalog = catalog.lock();
                    let needed = leases.all();
                    let first = needed.iter().map(|n| match n {
                        Need::State(_, e) | Need::Since(_, e) => e.0,
                    });
                    *catalog = first.min().unwrap_or(u64::MAX).min(9);
                    *catalog
                };
                collected.store(horizon, Ordering::SeqCst);
            })
        };
        let reader = {
            let (leases, catalog, collected) = (
                Arc::clone(&leases),
                Arc::clone(&catalog),
                Arc::clone(&collected),
            );
            shuttle::thread::spawn(move || {
                let lease = leases.take(Need::State(timeline, Epoch(5)));
                if *catalog.lock() > 5 {
                    return;
                }
                for _ in 0..3 {
                    assert!(
                        collected.load(Ordering::SeqCst) <= 5,
                        "read what was collected"
                    );
                }
                drop(lease);
            })
        };
        collector.join().unwrap();
        reader.join().unwrap();
    });
}

/// The tests above find the races that are planted.
#[test]
fn planted_races_are_found() {
    let planted: [(planted::Bug, fn()); 4] = [
        (planted::Bug::AppendedDuringSync, group_commit),
        (planted::Bug::AppendedDuringSync, written_out),
        (planted::Bug::SkippedSegmentSync, group_commit),
        (planted::Bug::SyncRetried, failed_sync),
    ];
    for (bug, body) in planted {
        planted::ACTIVE.set(Some(bug));
        let found = std::panic::catch_unwind(|| in_many_orders(body)).is_err();
        planted::ACTIVE.set(None);
        assert!(found, "{bug:?} is not found");
        println!("{bug:?}: caught");
    }
}
