//! Crashes in the middle of a collection.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;
use crate::files::types::*;
use crate::{
    CreateRoot, ForkRequest, Ino, Options, Point, Settings, SnapshotId, SnapshotRequest, Volume,
    VolumeOptions,
};

fn options() -> Options {
    Options {
        segment_bytes: 256 << 10,
        ..Options::default()
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            copy_file(&entry.path(), &target);
        }
    }
}

/// With its holes, as a crash would leave it.
fn copy_file(from: &Path, to: &Path) {
    use rustix::fs::{SeekFrom, seek};
    use std::os::unix::fs::FileExt;
    let (source, target) = (fs::File::open(from).unwrap(), fs::File::create(to).unwrap());
    let meta = source.metadata().unwrap();
    target.set_len(meta.len()).unwrap();
    let mut at = 0;
    while let Ok(data) = seek(&source, SeekFrom::Data(at)) {
        let hole = seek(&source, SeekFrom::Hole(data)).unwrap();
        let mut bytes = vec![0; (hole - data) as usize];
        source.read_exact_at(&mut bytes, data).unwrap();
        target.write_all_at(&bytes, data).unwrap();
        at = hole;
    }
    fs::set_permissions(to, meta.permissions()).unwrap();
}

pub(super) fn put(v: &Volume, name: &str, seed: u8, len: usize) {
    let me = Caller::default();
    let node = NewNode {
        kind: NodeKind::File,
        mode: 0o644,
        rdev: 0,
        target: &[],
    };
    let ino = match v.lookup(Ino::ROOT, name.as_bytes()) {
        Ok(a) => a.ino,
        Err(_) => {
            v.create(&me, Ino::ROOT, name.as_bytes(), &node)
                .unwrap()
                .ino
        }
    };
    let data: Vec<u8> = (0..len).map(|i| seed ^ (i / 7 % 251) as u8).collect();
    v.write(&me, ino, 0, &data, WriteOptions::default())
        .unwrap();
}

/// A store in which there is something of everything to collect.
fn build(engine: &Engine) {
    let now = |id| {
        engine
            .volume(Point::Now(id), VolumeOptions::default())
            .unwrap()
    };
    let root = |name: &str| {
        let new = CreateRoot {
            name: name.into(),
            ..Default::default()
        };
        now(engine.create_root(new).unwrap().id)
    };
    let fork = |name: &str, source| {
        let request = ForkRequest {
            id: None,
            name: name.into(),
            source,
            settings: Settings::default(),
            durability: Durability::Memory,
        };
        now(engine.fork(request).unwrap().id)
    };
    let snapshot = |name: &str, v: &Volume| -> SnapshotId {
        let request = SnapshotRequest {
            id: None,
            name: name.into(),
            source: Point::Now(v.timeline()),
            labels: BTreeMap::new(),
            durability: Durability::Memory,
        };
        engine.snapshot(request).unwrap().id
    };
    let base = root("base");
    for n in 0..6 {
        put(&base, &format!("f{n}"), n, 40_000 + usize::from(n) * 30_000);
    }
    base.objects()
        .put("object", &vec![7; 400_000], &Default::default())
        .unwrap();
    let goes = snapshot("goes", &base);
    snapshot("stays", &base);
    for n in 0..4 {
        put(&base, &format!("f{n}"), 100 + n, 50_000);
    }
    base.objects().delete("object").unwrap();
    let middle = fork("middle", Point::Snapshot(goes));
    put(&middle, "f5", 50, 100_000);
    let leaf = fork("leaf", Point::Now(middle.timeline()));
    put(&middle, "f4", 51, 100_000);
    put(&leaf, "f0", 52, 100_000);
    let other = root("other");
    put(&other, "x", 60, 90_000);
    let back = snapshot("back", &other);
    put(&other, "x", 61, 90_000);
    put(&other, "y", 62, 90_000);
    engine
        .restore(other.timeline(), Point::Snapshot(back))
        .unwrap();
    let lonely = root("lonely");
    put(&lonely, "z", 70, 120_000);
    lonely
        .objects()
        .put("large", &vec![9; 300_000], &Default::default())
        .unwrap();
    engine.delete_snapshot(goes).unwrap();
    engine.delete_timeline(middle.timeline()).unwrap();
    engine.delete_timeline(lonely.timeline()).unwrap();
}

/// All bytes of all states that can be named.
pub(super) fn look(engine: &Engine) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut add = |name: &str, point| {
        let v = engine.volume(point, VolumeOptions::default()).unwrap();
        for e in v.read_dir(Ino::ROOT, 0, usize::MAX).unwrap() {
            let size = v.attr(e.ino).unwrap().size as usize;
            let path = format!("{name}/{}", String::from_utf8_lossy(&e.name));
            all.insert(path, v.read(e.ino, 0, size).unwrap());
        }
    };
    for t in engine.timelines() {
        add(&t.name, Point::Now(t.id));
    }
    for s in engine.snapshots().unwrap() {
        add(&s.name, Point::Snapshot(s.id));
    }
    all
}

pub(super) fn sound(engine: &Engine, at: u64) {
    let report = engine.check(|_| {}).unwrap();
    assert_eq!(report.errors, 0, "step {at}: {:#?}", report.findings);
}

#[test]
fn a_crash_at_any_step_loses_nothing_and_leaves_nothing() {
    let base = tempfile::tempdir().unwrap();
    let made = base.path().join("made");
    let engine = Engine::open(&made, options()).unwrap();
    build(&engine);
    let right = look(&engine);
    engine.close().unwrap();
    let mut whole = GcReport::default();
    for at in 0.. {
        let (running, crashed) = (base.path().join("running"), base.path().join("crashed"));
        copy(&made, &running);
        let engine = Engine::open(&running, options()).unwrap();
        engine.inner.collector.lock().fail_at = Some(at);
        let done = engine.gc(GcOptions::default());
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
            engine.gc(GcOptions::default()).unwrap();
            assert_eq!(look(&engine), right, "step {at}");
            sound(&engine, at);
            let again = engine.gc(GcOptions::default()).unwrap();
            assert_eq!(
                (again.bytes, again.objects),
                (0, 0),
                "step {at}: {again:#?}"
            );
            // The object of "lonely", and the one that only a deleted snapshot showed ("stays" has it, too).
            let objects = crashed.join("objects");
            let count: usize = fs::read_dir(&objects)
                .unwrap()
                .map(|d| fs::read_dir(d.unwrap().path()).unwrap().count())
                .sum();
            assert_eq!(count, 1, "step {at}");
            engine.close().unwrap();
        }
        fs::remove_dir_all(&running).unwrap();
        fs::remove_dir_all(&crashed).unwrap();
        if let Ok(report) = done {
            whole = report;
            assert!(at > 10, "only {at} steps");
            break;
        }
    }
    assert!(
        whole.bytes > 0 && whole.dropped_timelines == 1,
        "{whole:#?}"
    );
}
