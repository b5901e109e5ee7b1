//! Promises of docs/semantics.md that no other test holds the engine to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use storage_engine::*;

struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn me() -> Caller {
    Caller::default()
}

fn open(dir: &std::path::Path, now: u64) -> (Engine, Arc<Hand>) {
    let clock = Arc::new(Hand(AtomicU64::new(now)));
    let options = Options {
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        ..Options::default()
    };
    (Engine::open(dir, options).unwrap(), clock)
}

fn root(engine: &Engine, name: &str) -> Volume {
    let new = CreateRoot {
        name: name.into(),
        ..Default::default()
    };
    let timeline = engine.create_root(new).unwrap();
    engine
        .volume(Point::Now(timeline.id), VolumeOptions::default())
        .unwrap()
}

fn file(v: &Volume, name: &str, mode: u32) -> Ino {
    let node = NewNode {
        kind: NodeKind::File,
        mode,
        rdev: 0,
        target: &[],
    };
    v.create(&me(), Ino::ROOT, name.as_bytes(), &node)
        .unwrap()
        .ino
}

#[test]
fn a_write_of_nothing_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, clock) = open(dir.path(), 1_000);
    let v = root(&engine, "a");
    let ino = file(&v, "f", 0o4755);
    let before = v.attr(ino).unwrap();
    clock.0.store(2_000, Ordering::Relaxed);
    let options = WriteOptions {
        kill_priv: true,
        ..WriteOptions::default()
    };
    let position = engine.position();
    assert_eq!(v.write(&me(), ino, 10, b"", options).unwrap(), 0);
    assert_eq!(v.attr(ino).unwrap(), before);
    assert_eq!(engine.position(), position);
    // Its answer is remembered all the same.
    let request = RequestId {
        connection: 1,
        unique: 2,
    };
    let caller = Caller {
        request: Some(request),
        ..me()
    };
    assert_eq!(v.write(&caller, ino, 10, b"", options).unwrap(), 0);
    assert!(v.answered(request).unwrap().is_some());
    assert_eq!(v.attr(ino).unwrap(), before);
}

#[test]
fn what_tick_has_answered_stays_as_it_was_whatever_the_clock_says_later() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, clock) = open(dir.path(), 1_000_000);
    let v = root(&engine, "a");
    file(&v, "first", 0o644);
    let timeline = v.timeline();
    let closed = engine.tick().unwrap();
    clock.0.store(2_000_000, Ordering::Relaxed);
    // Closes epochs in which nothing was committed.
    engine
        .diff(Point::Now(timeline), Point::Now(timeline))
        .unwrap();
    engine
        .diff(Point::Now(timeline), Point::Now(timeline))
        .unwrap();
    let answered = engine.tick().unwrap();
    assert!(answered >= closed);
    drop((v, engine));
    let (engine, _) = open(dir.path(), 1);
    let v = engine
        .volume(Point::Now(timeline), VolumeOptions::default())
        .unwrap();
    file(&v, "second", 0o644);
    engine.tick().unwrap();
    let fork = engine.fork(ForkRequest {
        id: None,
        name: "past".into(),
        source: Point::At(timeline, answered),
        settings: Settings {
            read_only: true,
            ..Settings::default()
        },
        durability: Durability::Memory,
    });
    // Without retention the instant may be refused; if it is there, it is what it was.
    let past = match fork {
        Ok(fork) => engine
            .volume(Point::Now(fork.id), VolumeOptions::default())
            .unwrap(),
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::OutOfRetention);
            panic!("the test's clock stands before the timeline: {e}");
        }
    };
    assert!(past.lookup(Ino::ROOT, b"first").is_ok());
    assert!(past.lookup(Ino::ROOT, b"second").is_err());
}

#[test]
fn a_root_stays_a_root_whatever_it_is_restored_to() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = open(dir.path(), 1_000);
    let a = root(&engine, "a");
    let b = root(&engine, "b");
    let restored = engine
        .restore(a.timeline(), Point::Now(b.timeline()))
        .unwrap();
    assert_eq!(restored.origin, None);
    assert_eq!(restored.origins.len(), 1);
    let fork = engine
        .fork(ForkRequest {
            id: None,
            name: "f".into(),
            source: Point::Now(a.timeline()),
            settings: Settings::default(),
            durability: Durability::Memory,
        })
        .unwrap();
    let fork = engine.restore(fork.id, Point::Now(b.timeline())).unwrap();
    assert_eq!(fork.origin.unwrap().parent, a.timeline());
    assert_eq!(fork.origins.len(), 2);
}
