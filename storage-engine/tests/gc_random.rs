//! Random histories of large files, with deletions in any order, collections, crashes and reopening: what is
//! left is right all the time, and at the end takes about as much room as if it had just been written.
//!
//! `ANABRANCH_SEED` repeats a run, `ANABRANCH_CASES` makes more of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use storage_engine::objects::PutOptions;
use storage_engine::*;

/// What a run is made of.
#[derive(Clone, Copy)]
struct Kind {
    /// Length of the files, in bytes: from ... to.
    lengths: (u64, u64),
    files: u64,
    segment_bytes: u64,
    /// What the end compares with: so many files of such a length.
    last: (u64, usize),
}

const LARGE: Kind = Kind {
    lengths: (300 << 10, 1 << 20),
    files: 12,
    segment_bytes: 4 << 20,
    last: (24, 1 << 20),
};

/// Inline ones, and runs smaller and a little larger than what a file system gives back.
const SMALL: Kind = Kind {
    lengths: (50, 12 << 10),
    files: 60,
    segment_bytes: 512 << 10,
    last: (1_500, 3_000),
};

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        (!of.is_empty()).then(|| &of[self.below(of.len() as u64) as usize])
    }
}

/// Names of files, with what their bytes are made from, and their lengths.
type Files = BTreeMap<String, (u64, usize)>;

fn content((seed, len): (u64, usize)) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

fn open(dir: &Path, kind: Kind) -> Engine {
    let options = Options {
        segment_bytes: kind.segment_bytes,
        ..Options::default()
    };
    Engine::open(dir, options).unwrap()
}

fn volume(engine: &Engine, point: Point) -> Volume {
    engine.volume(point, VolumeOptions::default()).unwrap()
}

/// Into the log, or as a file of its own.
fn put(v: &Volume, name: &str, what: (u64, usize)) {
    let me = Caller::default();
    if what.0.is_multiple_of(2) {
        let options = PutOptions {
            durability: Durability::Memory,
            ..PutOptions::default()
        };
        v.objects().put(name, &content(what), &options).unwrap();
        return;
    }
    if let Ok(old) = v.lookup(Ino::ROOT, name.as_bytes()) {
        v.unlink(&me, Ino::ROOT, name.as_bytes()).unwrap();
        v.reap(old.ino).unwrap();
    }
    let node = NewNode {
        kind: NodeKind::File,
        mode: 0o644,
        rdev: 0,
        target: &[],
    };
    let ino = v
        .create(&me, Ino::ROOT, name.as_bytes(), &node)
        .unwrap()
        .ino;
    v.write(&me, ino, 0, &content(what), WriteOptions::default())
        .unwrap();
}

fn compare(engine: &Engine, point: Point, right: &Files) {
    let v = volume(engine, point);
    let names: Vec<String> = v
        .read_dir(Ino::ROOT, 0, usize::MAX)
        .unwrap()
        .into_iter()
        .map(|e| String::from_utf8(e.name).unwrap())
        .collect();
    assert_eq!(
        names,
        right.keys().cloned().collect::<Vec<_>>(),
        "{point:?}"
    );
    for (name, what) in right {
        let ino = v.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
        let got = v.read(ino, 0, what.1 + 1).unwrap();
        assert!(got == content(*what), "{name} of {point:?} differs");
    }
}

/// Bytes on disk.
fn size(path: &Path) -> u64 {
    let meta = std::fs::metadata(path).unwrap();
    if !meta.is_dir() {
        return meta.blocks() * 512;
    }
    let entries = std::fs::read_dir(path).unwrap();
    entries.map(|e| size(&e.unwrap().path())).sum()
}

fn sound(engine: &Engine) -> CheckReport {
    let report = engine.check(|_| {}).unwrap();
    assert_eq!(report.errors, 0, "{:#?}", report.findings);
    report
}

fn run(seed: u64, kind: Kind) {
    let mut random = Random(seed | 1);
    let dir = tempfile::tempdir().unwrap();
    let mut engine = open(dir.path(), kind);
    let mut timelines: BTreeMap<TimelineId, Files> = BTreeMap::new();
    let mut snapshots: BTreeMap<SnapshotId, Files> = BTreeMap::new();
    let mut made = 0;
    let root = |engine: &Engine, name: String| {
        let new = CreateRoot {
            name,
            durability: Durability::Memory,
            ..Default::default()
        };
        engine.create_root(new).unwrap().id
    };
    // The one that stays at the end is no fork: a fork's cutoff keeps what its parent showed then, also
    // what the fork has replaced since.
    let keep = root(&engine, "root".into());
    timelines.insert(keep, Files::new());
    let steps = if kind.lengths.1 < 1 << 20 {
        1_500
    } else {
        260u64
    };
    for step in 0..steps {
        let ids: Vec<TimelineId> = timelines.keys().copied().collect();
        let pins: Vec<SnapshotId> = snapshots.keys().copied().collect();
        let timeline = random.pick(&ids).copied();
        let snapshot = random.pick(&pins).copied();
        made += 1;
        let source = match (random.below(3), snapshot) {
            (0, Some(s)) => Some((Point::Snapshot(s), snapshots[&s].clone())),
            _ => timeline.map(|t| (Point::Now(t), timelines[&t].clone())),
        };
        match (random.below(100), timeline) {
            (0..58, Some(t)) => {
                let name = format!("f{}", random.below(kind.files));
                let len = kind.lengths.0 + random.below(kind.lengths.1 - kind.lengths.0);
                let what = (seed.wrapping_add(step), len as usize);
                put(&volume(&engine, Point::Now(t)), &name, what);
                timelines.get_mut(&t).unwrap().insert(name, what);
            }
            (58..64, Some(t)) => {
                let files = timelines.get_mut(&t).unwrap();
                let names: Vec<String> = files.keys().cloned().collect();
                if let Some(name) = random.pick(&names) {
                    let v = volume(&engine, Point::Now(t));
                    let ino = v.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
                    v.unlink(&Caller::default(), Ino::ROOT, name.as_bytes())
                        .unwrap();
                    v.reap(ino).unwrap();
                    files.remove(name);
                }
            }
            (64..72, _) if timelines.len() < 8 => {
                let Some((source, files)) = source else {
                    timelines.insert(root(&engine, format!("root{made}")), Files::new());
                    continue;
                };
                let request = ForkRequest {
                    id: None,
                    name: format!("fork{made}"),
                    source,
                    settings: Settings::default(),
                    durability: Durability::Memory,
                };
                timelines.insert(engine.fork(request).unwrap().id, files);
            }
            (72..79, Some(t)) if snapshots.len() < 6 => {
                let request = SnapshotRequest {
                    id: None,
                    name: format!("snapshot{made}"),
                    source: Point::Now(t),
                    labels: BTreeMap::new(),
                    durability: Durability::Memory,
                };
                let id = engine.snapshot(request).unwrap().id;
                snapshots.insert(id, timelines[&t].clone());
            }
            (79..82, Some(t)) if t != keep => {
                if let Some((source, files)) = source {
                    engine.restore(t, source).unwrap();
                    timelines.insert(t, files);
                }
            }
            (82..86, Some(t)) if t != keep => {
                engine.delete_timeline(t).unwrap();
                timelines.remove(&t);
            }
            (86..90, _) => {
                if let Some(s) = snapshot {
                    engine.delete_snapshot(s).unwrap();
                    snapshots.remove(&s);
                }
            }
            (90..96, _) => {
                engine.gc(GcOptions::default()).unwrap();
            }
            (96.., _) => {
                // Dropped as by a crash, or closed; now and then without its index.
                let how = random.below(4);
                if how == 0 {
                    drop(engine);
                } else {
                    engine.close().unwrap();
                }
                if how == 1 {
                    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
                }
                engine = open(dir.path(), kind);
                for (t, files) in &timelines {
                    compare(&engine, Point::Now(*t), files);
                }
                for (s, files) in &snapshots {
                    compare(&engine, Point::Snapshot(*s), files);
                }
            }
            _ => {}
        }
    }
    sound(&engine);
    // All but one go, in any order.
    let mut go: Vec<Result<TimelineId, SnapshotId>> = timelines
        .keys()
        .filter(|t| **t != keep)
        .map(|t| Ok(*t))
        .chain(snapshots.keys().map(|s| Err(*s)))
        .collect();
    while !go.is_empty() {
        match go.swap_remove(random.below(go.len() as u64) as usize) {
            Ok(t) => engine.delete_timeline(t).unwrap(),
            Err(s) => engine.delete_snapshot(s).unwrap(),
        }
        if random.below(3) == 0 {
            engine.gc(GcOptions::default()).unwrap();
            compare(&engine, Point::Now(keep), &timelines[&keep]);
        }
    }
    // What is left gets files of a known size, on both ways, so that there is something to compare with.
    {
        let v = volume(&engine, Point::Now(keep));
        for n in 0..kind.last.0 {
            let name = format!("last{n:03}");
            let what = (seed.wrapping_add(10_000 + n), kind.last.1);
            put(&v, &name, what);
            timelines.get_mut(&keep).unwrap().insert(name, what);
        }
    }
    engine.gc(GcOptions::default()).unwrap();
    engine.close().unwrap();
    engine = open(dir.path(), kind);
    let all = GcOptions {
        full: true,
        ..GcOptions::default()
    };
    let compacted = engine.gc(all).unwrap().compacted;
    let files = &timelines[&keep];
    compare(&engine, Point::Now(keep), files);
    let report = sound(&engine);
    assert_eq!(report.notes, 0, "{:#?}", report.findings);
    let usage = engine.usage(keep).unwrap();
    engine.close().unwrap();
    let fresh = tempfile::tempdir().unwrap();
    let engine = open(fresh.path(), kind);
    {
        let id = root(&engine, "fresh".into());
        let v = volume(&engine, Point::Now(id));
        for (name, what) in files {
            put(&v, name, *what);
        }
    }
    engine.close().unwrap();
    let stored = |dir: &Path| size(&dir.join("log")) + size(&dir.join("objects"));
    let (left, right) = (stored(dir.path()), stored(fresh.path()));
    println!(
        "seed {seed}: {left} bytes are left, freshly written {right}: {:.3}, {compacted} segments compacted at the end; {usage:?}",
        left as f64 / right as f64
    );
    assert!(
        left as f64 <= right as f64 * 1.1,
        "seed {seed}: {left} bytes are left, freshly written they are {right}"
    );
}

#[test]
fn large_files_leave_no_more_than_they_take() {
    seeds(LARGE, 3);
}

#[test]
fn small_files_leave_no_more_than_they_take() {
    seeds(SMALL, 3);
}

fn seeds(kind: Kind, cases: u64) {
    let number = |name| std::env::var(name).ok().map(|s: String| s.parse().unwrap());
    let first: u64 = number("ANABRANCH_SEED").unwrap_or_else(|| {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64
            % 1_000_000_000
    });
    for seed in first..first + number("ANABRANCH_CASES").unwrap_or(cases) {
        println!("ANABRANCH_SEED={seed}");
        run(seed, kind);
    }
}
