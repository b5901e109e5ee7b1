//! The check finds nothing wrong with a store, whatever was done to it, and says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use storage_engine::*;

/// A clock that goes on by one at each look, so that runs are repeatable.
struct Steps(AtomicU64);

impl Clock for Steps {
    fn now(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Ids that are counted.
struct Counted(AtomicU64);

impl IdSource for Counted {
    fn next(&self) -> std::io::Result<[u8; 16]> {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        Ok(u128::from(n).to_be_bytes())
    }
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn options(clock: &Arc<Steps>, ids: &Arc<Counted>) -> Options {
    Options {
        clock: clock.clone(),
        ids: ids.clone(),
        segment_bytes: 256 << 10,
        ..Options::default()
    }
}

fn caller() -> Caller {
    Caller::default()
}

fn node(kind: NodeKind) -> NewNode<'static> {
    NewNode {
        kind,
        mode: 0o755,
        rdev: 0,
        target: if kind == NodeKind::Symlink {
            b"target"
        } else {
            b""
        },
    }
}

fn sound(engine: &Engine, when: &str) -> CheckReport {
    let report = engine.check(|_| {}).unwrap();
    assert!(report.is_sound(), "{when}: {report}");
    report
}

fn root(engine: &Engine, name: &str) -> TimelineId {
    engine
        .create_root(CreateRoot {
            name: name.into(),
            durability: Durability::Memory,
            ..Default::default()
        })
        .unwrap()
        .id
}

fn fork(engine: &Engine, name: &str, source: Point) -> TimelineId {
    engine
        .fork(ForkRequest {
            id: None,
            name: name.into(),
            source,
            settings: Settings {
                retain: std::time::Duration::from_secs(3600),
                ..Settings::default()
            },
            durability: Durability::Memory,
        })
        .unwrap()
        .id
}

fn snapshot(engine: &Engine, name: &str, source: Point) -> SnapshotId {
    engine
        .snapshot(SnapshotRequest {
            id: None,
            name: name.into(),
            source,
            labels: Default::default(),
            durability: Durability::Memory,
        })
        .unwrap()
        .id
}

fn volume(engine: &Engine, id: TimelineId) -> Volume {
    engine
        .volume(Point::Now(id), VolumeOptions::default())
        .unwrap()
}

fn put(v: &Volume, name: &str, offset: u64, data: &[u8]) -> Ino {
    let ino = match v.lookup(Ino::ROOT, name.as_bytes()) {
        Ok(a) => a.ino,
        Err(_) => {
            v.create(&caller(), Ino::ROOT, name.as_bytes(), &node(NodeKind::File))
                .unwrap()
                .ino
        }
    };
    v.write(&caller(), ino, offset, data, WriteOptions::default())
        .unwrap();
    ino
}

#[test]
fn an_empty_store_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    let report = sound(&engine, "a new store");
    assert_eq!(report.counts.frames, 0);
    root(&engine, "a");
    let report = sound(&engine, "one timeline");
    assert_eq!((report.counts.frames, report.counts.inodes), (1, 1));
    assert!(report.to_string().ends_with("sound"), "{report}");
    assert!(
        serde_json::to_string(&report)
            .unwrap()
            .contains("\"errors\":0")
    );
}

#[test]
fn a_timeline_restored_to_a_fork_of_itself_counts_its_older_bytes_as_inherited() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    let t = root(&engine, "t");
    let v = volume(&engine, t);
    put(&v, "big", 0, &[1; 50_000]);
    put(&v, "other", 0, &[2; 3_000]);
    let f = fork(&engine, "f", Point::Now(t));
    put(&volume(&engine, f), "of the fork", 0, &[3; 10_000]);
    put(&v, "big", 0, &[4; 100]);
    sound(&engine, "before the restore");
    engine.restore(t, Point::Now(f)).unwrap();
    sound(&engine, "after the restore");
    let written = engine.usage(t).unwrap().divergent_bytes;
    put(&v, "big", 10, &[5; 20_000]);
    sound(&engine, "after overwriting what it wrote before");
    assert_eq!(
        engine.usage(t).unwrap().divergent_bytes,
        written + 20_000,
        "bytes written are counted once"
    );
    drop(v);
    engine.close().unwrap();
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    sound(&engine, "after opening again");
}

#[test]
fn restores_to_its_own_past_and_to_others_keep_the_totals_exact() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    let t = root(&engine, "t");
    let v = volume(&engine, t);
    put(&v, "a", 0, &[1; 40_000]);
    let first = snapshot(&engine, "first", Point::Now(t));
    put(&v, "a", 1_000, &[2; 5_000]);
    put(&v, "b", 0, &[2; 500]);
    let second = snapshot(&engine, "second", Point::Now(t));
    engine.restore(t, Point::Snapshot(first)).unwrap();
    sound(&engine, "restored to the first");
    put(&v, "a", 2_000, &[3; 5_000]);
    sound(&engine, "written behind the restore");
    engine.restore(t, Point::Snapshot(second)).unwrap();
    put(&v, "b", 0, &[4; 5_000]);
    let other = root(&engine, "other");
    put(&volume(&engine, other), "x", 0, &[9; 1_000]);
    engine.restore(t, Point::Now(other)).unwrap();
    put(&v, "x", 0, &[8; 10]);
    sound(&engine, "restored to another timeline");
    engine.restore(t, Point::Snapshot(first)).unwrap();
    let third = snapshot(&engine, "third", Point::Now(t));
    let f = fork(&engine, "f", Point::Snapshot(third));
    put(&volume(&engine, f), "a", 0, &[7; 70_000]);
    engine.restore(f, Point::Snapshot(second)).unwrap();
    sound(&engine, "a fork restored too");
    engine.delete_timeline(t).unwrap();
    engine.delete_snapshot(second).unwrap();
    sound(&engine, "parents deleted");
}

#[test]
fn an_imported_tree_is_sound_and_its_object_files_are_noted_when_nothing_needs_them_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("large"), vec![5; 400_000]).unwrap();
    std::fs::write(source.join("sub/middle"), vec![6; 100_000]).unwrap();
    std::fs::write(source.join("sub/small"), b"small").unwrap();
    std::fs::hard_link(source.join("sub/small"), source.join("link")).unwrap();
    std::os::unix::fs::symlink("large", source.join("symlink")).unwrap();
    let engine = Engine::open(dir.path().join("store"), Options::default()).unwrap();
    let t = root(&engine, "t");
    let v = volume(&engine, t);
    import::import_directory(&v, &import::Source::open(&source).unwrap(), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let report = sound(&engine, "imported");
    assert_eq!((report.notes, report.counts.objects), (0, 1), "{report}");
    let f = fork(&engine, "f", Point::Now(t));
    let fork_volume = volume(&engine, f);
    put(&fork_volume, "large", 1_000, b"changed in the fork");
    let large = v.lookup(Ino::ROOT, b"large").unwrap().ino;
    v.unlink(&caller(), Ino::ROOT, b"large").unwrap();
    v.reap(large).unwrap();
    let report = sound(&engine, "removed, but for the fork");
    assert_eq!(report.notes, 0, "{report}");
    drop(fork_volume);
    engine.delete_timeline(f).unwrap();
    let report = sound(&engine, "nobody needs it");
    assert_eq!(report.notes, 1, "{report}");
    assert!(
        report.to_string().contains("waits for the collector"),
        "{report}"
    );
}

/// One random operation on one timeline. Refusals are part of the game.
fn step(r: &mut Random, v: &Volume, inos: &mut Vec<Ino>, dirs: &mut Vec<Ino>) {
    const SIZES: [u64; 8] = [1, 10, 700, 1024, 1025, 5_000, 17_000, 200_000];
    let names = ["a", "b", "c", "d", "e", "f"];
    let c = caller();
    let name = names[r.below(6) as usize].as_bytes();
    let dir = dirs[r.below(dirs.len() as u64) as usize];
    let ino = inos[r.below(inos.len() as u64) as usize];
    let offset = match r.below(4) {
        0 => 0,
        1 => r.below(1_100),
        2 => r.below(20_000),
        _ => r.below(300_000),
    };
    let size = SIZES[r.below(8) as usize];
    match r.below(25) {
        0..=2 => {
            if let Ok(a) = v.create(&c, dir, name, &node(NodeKind::File)) {
                inos.push(a.ino);
            }
        }
        3 => {
            if let Ok(a) = v.create(&c, dir, name, &node(NodeKind::Directory)) {
                dirs.push(a.ino);
            }
        }
        4 => {
            let _ = v.create(&c, dir, name, &node(NodeKind::Symlink));
        }
        5..=9 => {
            let data = vec![r.next() as u8; size as usize];
            let _ = v.write(&c, ino, offset, &data, WriteOptions::default());
        }
        10 => {
            // Many small pieces, until they are merged.
            for _ in 0..30 {
                let at = r.below(120_000);
                let _ = v.write(&c, ino, at, b"small", WriteOptions::default());
            }
        }
        11 | 12 => {
            let set = SetAttr {
                size: Some(if r.below(2) == 0 { offset } else { size }),
                ..SetAttr::default()
            };
            let _ = v.set_attr(&c, ino, &set);
        }
        13 => {
            let mode = match r.below(3) {
                0 => AllocateMode::Punch,
                1 => AllocateMode::Zero { keep_size: false },
                _ => AllocateMode::Reserve { keep_size: false },
            };
            let _ = v.allocate(&c, ino, mode, offset, size);
        }
        14 => {
            let _ = v.link(&c, ino, dir, name);
        }
        15 => {
            let _ = v.unlink(&c, dir, name);
        }
        16 => {
            let _ = v.rmdir(&c, dir, name);
        }
        17 | 18 => {
            let mode = match r.below(3) {
                0 => RenameMode::Replace,
                1 => RenameMode::NoReplace,
                _ => RenameMode::Exchange,
            };
            let to = dirs[r.below(dirs.len() as u64) as usize];
            let new = names[r.below(6) as usize].as_bytes();
            let _ = v.rename(&c, dir, name, to, new, mode);
        }
        19 => {
            let _ = v.set_xattr(&c, ino, b"user.x", b"value", XattrMode::Set);
            if r.below(2) == 0 {
                let _ = v.remove_xattr(&c, ino, b"user.x");
            }
        }
        20 => {
            let _ = v.reap(ino);
            if let Ok(a) = v.create_unlinked(&c, dir, 0o600) {
                inos.push(a.ino);
            }
        }
        21 | 22 => {
            let keys = ["a", "b", "c/a", "d/b/c", "e/"];
            let key = keys[r.below(5) as usize];
            let len = if r.below(3) == 0 { 300_000 } else { size };
            let data = vec![r.next() as u8; if key.ends_with('/') { 0 } else { len as usize }];
            let options = objects::PutOptions {
                durability: Durability::Memory,
                ..Default::default()
            };
            let _ = v.objects().put(key, &data, &options);
            if r.below(3) == 0 {
                let _ = v.objects().delete(keys[r.below(5) as usize]);
            }
        }
        _ => {
            let from = inos[r.below(inos.len() as u64) as usize];
            let _ = v.copy_range(&c, from, offset, ino, r.below(100_000), size);
            if r.below(4) == 0 {
                let _ = v.reap_all();
            }
        }
    }
}

#[test]
fn random_work_on_several_timelines_leaves_a_sound_store() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1);
    let runs: u64 = std::env::var("RUNS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(6);
    for seed in seed..seed + runs {
        eprintln!("seed {seed} (repeat with SEED={seed} RUNS=1)");
        run(seed);
    }
}

fn run(seed: u64) {
    let mut r = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Steps(AtomicU64::new(1_000)));
    let ids = Arc::new(Counted(AtomicU64::new(1)));
    let mut engine = Engine::open(dir.path(), options(&clock, &ids)).unwrap();
    let mut timelines = vec![root(&engine, "root")];
    let mut snapshots: Vec<SnapshotId> = Vec::new();
    // Inode numbers are shared through forks: guesses of another timeline's are fine.
    let (mut inos, mut dirs) = (vec![Ino(2)], vec![Ino::ROOT]);
    for n in 0..400 {
        let t = timelines[r.below(timelines.len() as u64) as usize];
        let point = match snapshots.len() as u64 {
            0 => Point::Now(t),
            k => match r.below(2) {
                0 => Point::Now(timelines[r.below(timelines.len() as u64) as usize]),
                _ => Point::Snapshot(snapshots[r.below(k) as usize]),
            },
        };
        match r.below(40) {
            0 if timelines.len() < 8 => timelines.push(fork(&engine, &format!("f{n}"), point)),
            1 => snapshots.push(snapshot(&engine, &format!("s{n}"), Point::Now(t))),
            2 => {
                engine.restore(t, point).unwrap();
            }
            3 => {
                engine.tick().unwrap();
            }
            4 if snapshots.len() > 2 => {
                let at = r.below(snapshots.len() as u64) as usize;
                engine.delete_snapshot(snapshots.swap_remove(at)).unwrap();
            }
            5 if timelines.len() > 3 => {
                let at = r.below(timelines.len() as u64) as usize;
                engine.delete_timeline(timelines.swap_remove(at)).unwrap();
            }
            6 => {
                if r.below(2) == 0 {
                    engine.close().unwrap();
                } else {
                    drop(engine);
                }
                engine = Engine::open(dir.path(), options(&clock, &ids)).unwrap();
            }
            _ => {
                let v = volume(&engine, t);
                for _ in 0..r.below(12) {
                    step(&mut r, &v, &mut inos, &mut dirs);
                }
            }
        }
        if n % 20 == 19 {
            sound(&engine, &format!("seed {seed}, step {n}"));
        }
    }
    sound(&engine, &format!("seed {seed}, at the end"));
    // The index is a view of the log: without it, everything is as it was.
    let before: Vec<_> = timelines
        .iter()
        .map(|t| engine.usage(*t).unwrap())
        .collect();
    engine.close().unwrap();
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let engine = Engine::open(dir.path(), options(&clock, &ids)).unwrap();
    sound(&engine, &format!("seed {seed}, with a new index"));
    let after: Vec<_> = timelines
        .iter()
        .map(|t| engine.usage(*t).unwrap())
        .collect();
    assert_eq!(before, after, "seed {seed}");
}

#[test]
fn a_check_runs_beside_writers() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 64 << 10,
        ..Options::default()
    };
    let engine = Engine::open(dir.path(), options).unwrap();
    let ids: Vec<_> = (0..3).map(|n| root(&engine, &format!("t{n}"))).collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (n, id) in ids.iter().enumerate() {
            let (engine, stop) = (&engine, &stop);
            scope.spawn(move || {
                let mut r = Random(n as u64);
                let v = volume(engine, *id);
                let (mut inos, mut dirs) = (vec![Ino(2)], vec![Ino::ROOT]);
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    step(&mut r, &v, &mut inos, &mut dirs);
                    round += 1;
                    if round % 50 == 0 {
                        let s = snapshot(engine, &format!("s{n}-{round}"), Point::Now(*id));
                        let f = fork(engine, &format!("f{n}-{round}"), Point::Snapshot(s));
                        put(&volume(engine, f), "mine", 0, b"bytes");
                        engine.delete_snapshot(s).unwrap();
                        engine.delete_timeline(f).unwrap();
                    }
                }
            });
        }
        for n in 0..5 {
            let report = engine.check(|_| {});
            if !report.as_ref().is_ok_and(CheckReport::is_sound) {
                stop.store(true, Ordering::Relaxed);
            }
            let report = report.unwrap();
            assert!(report.is_sound(), "check {n}: {report}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    sound(&engine, "at the end");
}
