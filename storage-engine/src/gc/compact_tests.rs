//! Compaction: what is left of the log gives the same index, byte by byte, and shows the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::tests::{copy, look, put, sound};
use super::*;
use crate::{
    CreateRoot, ErrorKind, ForkRequest, Options, Point, Settings, SnapshotId, SnapshotRequest,
    Volume, VolumeOptions,
};

fn options() -> Options {
    Options {
        segment_bytes: 32 << 10,
        ..Options::default()
    }
}

fn full() -> GcOptions {
    GcOptions {
        full: true,
        ..GcOptions::default()
    }
}

fn now(engine: &Engine, id: TimelineId) -> Volume {
    engine
        .volume(Point::Now(id), VolumeOptions::default())
        .unwrap()
}

fn root(engine: &Engine, name: &str) -> Volume {
    let new = CreateRoot {
        name: name.into(),
        ..Default::default()
    };
    now(engine, engine.create_root(new).unwrap().id)
}

fn snapshot(engine: &Engine, name: &str, v: &Volume) -> SnapshotId {
    let request = SnapshotRequest {
        id: None,
        name: name.into(),
        source: Point::Now(v.timeline()),
        labels: BTreeMap::new(),
        durability: Durability::Memory,
    };
    engine.snapshot(request).unwrap().id
}

fn fork(engine: &Engine, name: &str, source: Point) -> Volume {
    let request = ForkRequest {
        id: None,
        name: name.into(),
        source,
        settings: Settings::default(),
        durability: Durability::Memory,
    };
    now(engine, engine.fork(request).unwrap().id)
}

/// Small files written over and over, inline and in runs of their own; forks, a restore, deletions in between.
fn churn(engine: &Engine, rounds: u8) {
    let base = root(engine, "base");
    let mut pinned = Vec::new();
    for round in 0..rounds {
        for n in 0..10u8 {
            let len = [200, 900, 1_500, 5_000, 20_000][usize::from(n % 5)];
            put(&base, &format!("f{n}"), round ^ n, len);
        }
        match round % 6 {
            1 => pinned.push(snapshot(engine, &format!("s{round}"), &base)),
            2 => {
                let child = fork(engine, &format!("c{round}"), Point::Now(base.timeline()));
                put(&child, "f3", 200, 3_000);
                put(&child, "new", 201, 700);
            }
            4 if pinned.len() > 2 => {
                engine.delete_snapshot(pinned.remove(0)).unwrap();
                let name = format!("c{}", round - 8);
                let child = engine.timeline_named(&name).unwrap();
                engine.delete_timeline(child.id).unwrap();
            }
            5 => {
                let back = *pinned.last().unwrap();
                engine
                    .restore(base.timeline(), Point::Snapshot(back))
                    .unwrap();
            }
            _ => {}
        }
        if round % 3 == 0 {
            engine.gc(GcOptions::default()).unwrap();
        }
    }
}

fn log_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(dir.join("log")).unwrap();
    entries
        .map(|e| e.unwrap().metadata().unwrap().blocks() * 512)
        .sum()
}

/// What the index holds but for what is an aid only.
fn rows(engine: &Engine) -> Vec<(Vec<u8>, Vec<u8>)> {
    engine.inner.index.dump()
}

#[test]
fn an_index_made_anew_from_a_compacted_log_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), options()).unwrap();
    churn(&engine, 40);
    let written = engine.inner.commit.lock().log.end().0;
    let report = engine.gc(full()).unwrap();
    assert!(report.compacted > 5, "{report:#?}");
    let right = look(&engine);
    sound(&engine, 0);
    for s in engine.snapshots().unwrap() {
        let verified = engine.verify(s.id, Some(&s.digest)).unwrap();
        assert!(verified.compacted > 0, "{verified:?}");
    }
    let stored = rows(&engine);
    engine.close().unwrap();
    let after = log_bytes(dir.path());
    println!(
        "{} segments compacted: {written} bytes written, {after} left",
        report.compacted
    );
    assert!(after * 2 < written, "{written} {after}");
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let engine = Engine::open(dir.path(), options()).unwrap();
    assert_eq!(rows(&engine), stored);
    assert_eq!(look(&engine), right);
    sound(&engine, 1);
    // What was compacted is compacted once more when more of it goes.
    for t in engine.timelines() {
        if t.name != "base" {
            engine.delete_timeline(t.id).unwrap();
        }
    }
    for s in engine.snapshots().unwrap() {
        engine.delete_snapshot(s.id).unwrap();
    }
    let report = engine.gc(GcOptions::default()).unwrap();
    assert!(report.compacted > 3, "{report:#?}");
    let (right, stored) = (look(&engine), rows(&engine));
    engine.close().unwrap();
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let engine = Engine::open(dir.path(), options()).unwrap();
    assert_eq!(rows(&engine), stored);
    assert_eq!(look(&engine), right);
    sound(&engine, 2);
}

#[test]
fn a_repair_reads_what_was_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), options()).unwrap();
    churn(&engine, 20);
    engine.gc(full()).unwrap();
    let (right, stored) = (look(&engine), rows(&engine));
    engine.close().unwrap();
    let repair = Engine::repair(dir.path(), options()).unwrap();
    assert!(repair.lost.is_empty(), "{repair:#?}");
    let engine = Engine::open(dir.path(), options()).unwrap();
    assert_eq!(rows(&engine), stored);
    assert_eq!(look(&engine), right);
    sound(&engine, 0);
}

#[test]
fn an_index_from_before_a_compaction_is_made_anew() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("store");
    let engine = Engine::open(&dir, options()).unwrap();
    churn(&engine, 12);
    engine.close().unwrap();
    copy(&dir.join("index"), &base.path().join("old"));
    let engine = Engine::open(&dir, options()).unwrap();
    let v = now(&engine, engine.timeline_named("base").unwrap().id);
    for round in 0..30 {
        put(&v, "f3", round, 5_000);
        put(&v, "f1", round, 900);
        let gone = snapshot(&engine, "gone", &v);
        engine.delete_snapshot(gone).unwrap();
    }
    drop(v);
    assert!(engine.gc(full()).unwrap().compacted > 0);
    let (right, stored) = (look(&engine), rows(&engine));
    engine.close().unwrap();
    fs::remove_dir_all(dir.join("index")).unwrap();
    copy(&base.path().join("old"), &dir.join("index"));
    let engine = Engine::open(&dir, options()).unwrap();
    assert_eq!(rows(&engine), stored);
    assert_eq!(look(&engine), right);
    sound(&engine, 0);
}

#[test]
fn a_crash_at_any_step_of_a_compaction_loses_nothing() {
    let base = tempfile::tempdir().unwrap();
    let made = base.path().join("made");
    let engine = Engine::open(&made, options()).unwrap();
    churn(&engine, 14);
    let right = look(&engine);
    engine.close().unwrap();
    let (mut steps, mut compacted) = (0, 0);
    for at in 0.. {
        let (running, crashed) = (base.path().join("running"), base.path().join("crashed"));
        copy(&made, &running);
        let engine = Engine::open(&running, options()).unwrap();
        engine.inner.collector.lock().fail_at = Some(at);
        let done = engine.gc(full());
        engine.inner.flusher.idle();
        copy(&running, &crashed);
        drop(engine);
        for without_index in [false, true] {
            if without_index {
                fs::remove_dir_all(crashed.join("index")).unwrap();
            }
            let engine = Engine::open(&crashed, options()).unwrap();
            assert_eq!(look(&engine), right, "step {at}");
            sound(&engine, at);
            engine.gc(full()).unwrap();
            assert_eq!(look(&engine), right, "step {at}");
            sound(&engine, at);
            engine.close().unwrap();
        }
        fs::remove_dir_all(&running).unwrap();
        fs::remove_dir_all(&crashed).unwrap();
        steps = at;
        if let Ok(report) = done {
            compacted = report.compacted;
            break;
        }
    }
    println!("{steps} steps, {compacted} segments compacted");
    assert!(steps > 15 && compacted > 3, "{steps} {compacted}");
}

#[test]
fn each_flipped_bit_of_a_compacted_segment_is_found_and_named() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("store");
    let engine = Engine::open(&dir, options()).unwrap();
    churn(&engine, 12);
    engine.gc(full()).unwrap();
    let right = look(&engine);
    let snapshots = engine.snapshots().unwrap();
    engine.close().unwrap();
    let compacted = |path: &Path| {
        let file = crate::fs::RealFileSystem;
        let file = crate::fs::FileSystem::open(&file, path, crate::fs::Access::Read).unwrap();
        crate::log::segment::read_header(&*file, file.metadata().unwrap().len)
            .unwrap()
            .1
    };
    let mut paths: Vec<_> = fs::read_dir(dir.join("log"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| compacted(p).is_some())
        .collect();
    paths.sort();
    let (mut tried, mut in_data) = (0, 0);
    for path in &paths {
        let whole = fs::read(path).unwrap();
        let step = (whole.len() / 23).max(1);
        let places = (0..192).step_by(11).chain((192..whole.len()).step_by(step));
        for at in places {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(path, &bytes).unwrap();
            tried += 1;
            // Zeros at the end of the header mean nothing, and are looked at nevertheless.
            let found = match Engine::open(&dir, options()) {
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
                    assert!(e.to_string().contains(".seg"), "{e}");
                    assert_eq!(fs::read(path).unwrap(), bytes, "it was changed");
                    true
                }
                Ok(engine) => {
                    let report = engine.check(|_| {}).unwrap();
                    let verified = snapshots.iter().all(|s| engine.verify(s.id, None).is_ok());
                    in_data += u64::from(verified);
                    report.errors > 0
                }
            };
            assert!(found, "byte {at} of {} ({})", path.display(), whole.len());
        }
        fs::write(path, &whole).unwrap();
    }
    let engine = Engine::open(&dir, options()).unwrap();
    assert_eq!(look(&engine), right);
    println!(
        "{tried} flips in {} compacted segments, all found; {in_data} in bytes of files",
        paths.len()
    );
    assert!(tried > 100);
}
