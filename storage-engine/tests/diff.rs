//! Differences between points: compared with a walk over both whole trees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use storage_engine::*;

const FILE: NewNode<'static> = NewNode {
    kind: NodeKind::File,
    mode: 0o644,
    rdev: 0,
    target: &[],
};
const DIR: NewNode<'static> = NewNode {
    kind: NodeKind::Directory,
    mode: 0o755,
    rdev: 0,
    target: &[],
};

fn me() -> Caller {
    Caller::default()
}

fn fork(engine: &Engine, name: &str, source: Point) -> Volume {
    let t = engine
        .fork(ForkRequest {
            id: None,
            name: name.into(),
            source,
            settings: Settings::default(),
            durability: Durability::Memory,
        })
        .unwrap();
    engine
        .volume(Point::Now(t.id), VolumeOptions::default())
        .unwrap()
}

fn put(v: &Volume, dir: Ino, name: &str, data: &[u8]) -> Ino {
    let ino = v.create(&me(), dir, name.as_bytes(), &FILE).unwrap().ino;
    v.write(&me(), ino, 0, data, WriteOptions::default())
        .unwrap();
    ino
}

/// Path to (kind, mode, content).
fn tree(v: &Volume, ino: Ino, at: &str, out: &mut BTreeMap<String, (NodeKind, u32, Vec<u8>)>) {
    for e in v.read_dir(ino, 0, usize::MAX).unwrap() {
        let path = format!("{at}/{}", String::from_utf8(e.name).unwrap());
        let a = v.attr(e.ino).unwrap();
        let data = if e.kind == NodeKind::File {
            v.read(e.ino, 0, a.size as usize).unwrap()
        } else {
            vec![]
        };
        out.insert(path.clone(), (e.kind, a.mode, data));
        if e.kind == NodeKind::Directory {
            tree(v, e.ino, &path, out);
        }
    }
}

/// Applies a diff's meaning to the first tree's paths and compares with the second's.
fn agrees(engine: &Engine, a: &Volume, b: &Volume) -> Diff {
    let (from, to) = (Point::Now(a.timeline()), Point::Now(b.timeline()));
    let diff = engine.diff(from, to).unwrap();
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    tree(a, Ino::ROOT, "", &mut before);
    tree(b, Ino::ROOT, "", &mut after);
    // Renames first: everything below a renamed directory moves with it.
    let mut moved = BTreeMap::new();
    for e in &diff.entries {
        if let DiffKind::Renamed { from } = &e.kind {
            moved.insert(
                String::from_utf8(from.clone()).unwrap(),
                String::from_utf8(e.path.clone()).unwrap(),
            );
        }
    }
    let mut result = BTreeMap::new();
    for (path, value) in before {
        let removed = diff
            .entries
            .iter()
            .any(|e| e.kind == DiffKind::Removed && e.path == path.as_bytes());
        if removed {
            continue;
        }
        let prefix = moved
            .keys()
            .filter(|old| path == **old || path.starts_with(&format!("{old}/")))
            .max_by_key(|o| o.len());
        let path = match prefix {
            Some(old) => format!("{}{}", moved[old], &path[old.len()..]),
            None => path,
        };
        result.insert(path, value);
    }
    for e in &diff.entries {
        let path = String::from_utf8(e.path.clone()).unwrap();
        if e.kind == DiffKind::Added {
            assert!(
                result.insert(path.clone(), after[&path].clone()).is_none(),
                "{path} was added twice"
            );
        } else if matches!(e.kind, DiffKind::Changed | DiffKind::Renamed { .. }) {
            if e.kind == DiffKind::Changed {
                assert_ne!(result[&path], after[&path], "{path} is said to differ");
            }
            result.insert(path.clone(), after[&path].clone());
        }
    }
    assert!(
        result == after,
        "the diff {diff:#?} does not lead from one tree to the other"
    );
    diff
}

#[test]
fn every_kind_of_difference_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    let base = engine
        .create_root(CreateRoot {
            name: "base".into(),
            ..Default::default()
        })
        .unwrap();
    let v = engine
        .volume(Point::Now(base.id), VolumeOptions::default())
        .unwrap();
    let d = v.create(&me(), Ino::ROOT, b"d", &DIR).unwrap().ino;
    for name in [
        "keep",
        "change",
        "gone",
        "old name",
        "rewritten",
        "same bytes",
    ] {
        put(&v, d, name, name.repeat(100).as_bytes());
    }
    let big = put(&v, d, "big", &vec![1; 1 << 20]);
    let a = fork(&engine, "a", Point::Now(base.id));
    let b = fork(&engine, "b", Point::Now(base.id));
    assert_eq!(agrees(&engine, &a, &b), Diff::default());
    b.write(&me(), big, 300_000, b"12345", WriteOptions::default())
        .unwrap();
    b.unlink(&me(), d, b"gone").unwrap();
    b.rename(
        &me(),
        d,
        b"old name",
        Ino::ROOT,
        b"new name",
        RenameMode::Replace,
    )
    .unwrap();
    put(&b, d, "new", b"new");
    // As editors save: another inode under the old name.
    put(&b, d, "tmp", b"other bytes");
    b.rename(&me(), d, b"tmp", d, b"rewritten", RenameMode::Replace)
        .unwrap();
    put(&b, d, "tmp", "same bytes".repeat(100).as_bytes());
    b.rename(&me(), d, b"tmp", d, b"same bytes", RenameMode::Replace)
        .unwrap();
    let change = b.lookup(d, b"change").unwrap().ino;
    b.set_attr(
        &me(),
        change,
        &SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        },
    )
    .unwrap();
    let diff = agrees(&engine, &a, &b);
    let line = |e: &DiffEntry| {
        (
            String::from_utf8(e.path.clone()).unwrap(),
            e.kind.clone(),
            e.changed_bytes,
        )
    };
    let lines: Vec<_> = diff.entries.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            ("/d/big".into(), DiffKind::Changed, 5),
            ("/d/change".into(), DiffKind::Changed, 0),
            ("/d/gone".into(), DiffKind::Removed, 400),
            ("/d/new".into(), DiffKind::Added, 3),
            (
                "/d/rewritten".into(),
                DiffKind::Changed,
                diff.entries[4].changed_bytes
            ),
            (
                "/new name".into(),
                DiffKind::Renamed {
                    from: b"/d/old name".to_vec()
                },
                0
            ),
        ]
    );
    // The other way round, and against the past of one timeline.
    agrees(&engine, &b, &a);
    engine
        .restore(b.timeline(), Point::Now(a.timeline()))
        .unwrap();
    assert_eq!(agrees(&engine, &a, &b), Diff::default());
}

#[test]
fn files_of_equal_numbers_made_on_both_sides_are_different_files() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    let base = engine
        .create_root(CreateRoot {
            name: "base".into(),
            ..Default::default()
        })
        .unwrap();
    let a = fork(&engine, "a", Point::Now(base.id));
    let b = fork(&engine, "b", Point::Now(base.id));
    let x = put(&a, Ino::ROOT, "x", b"of a");
    let y = put(&b, Ino::ROOT, "y", b"of b!");
    assert_eq!(x, y);
    let diff = agrees(&engine, &a, &b);
    assert_eq!(diff.entries.len(), 2);
    put(&a, Ino::ROOT, "both", b"one");
    put(&b, Ino::ROOT, "both", b"two");
    assert_eq!(agrees(&engine, &a, &b).entries.len(), 3);
}

#[test]
fn what_a_directory_lost_before_it_was_moved_is_not_what_its_old_path_got_since() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    let base = engine
        .create_root(CreateRoot {
            name: "base".into(),
            ..Default::default()
        })
        .unwrap();
    let a = fork(&engine, "a", Point::Now(base.id));
    let (d, e) = (
        a.create(&me(), Ino::ROOT, b"d", &DIR).unwrap().ino,
        a.create(&me(), Ino::ROOT, b"e", &DIR).unwrap().ino,
    );
    put(&a, d, "f", b"old");
    put(&a, e, "f", b"of e");
    let b = fork(&engine, "b", Point::Now(a.timeline()));
    b.unlink(&me(), d, b"f").unwrap();
    let rename = |from: &[u8], to: &[u8]| {
        b.rename(&me(), Ino::ROOT, from, Ino::ROOT, to, RenameMode::Replace)
            .unwrap();
    };
    rename(b"d", b"x");
    let new = b.create(&me(), Ino::ROOT, b"d", &DIR).unwrap().ino;
    put(&b, new, "f", b"new");
    let kinds = |diff: Diff| -> Vec<(String, DiffKind)> {
        let entry = |e: DiffEntry| (String::from_utf8(e.path).unwrap(), e.kind);
        diff.entries.into_iter().map(entry).collect()
    };
    let renamed = |path: &str, from: &str| {
        let from = from.as_bytes().to_vec();
        (path.to_owned(), DiffKind::Renamed { from })
    };
    assert_eq!(
        kinds(agrees(&engine, &a, &b)),
        [
            ("/d".to_owned(), DiffKind::Added),
            ("/d/f".to_owned(), DiffKind::Removed),
            ("/d/f".to_owned(), DiffKind::Added),
            renamed("/x", "/d"),
        ]
    );
    agrees(&engine, &b, &a);
    // A directory that is moved to where a removed one was has not got that one's files.
    b.unlink(&me(), new, b"f").unwrap();
    b.rmdir(&me(), Ino::ROOT, b"d").unwrap();
    b.unlink(&me(), e, b"f").unwrap();
    rename(b"e", b"d");
    b.rmdir(&me(), Ino::ROOT, b"x").unwrap();
    put(&b, e, "f", b"newer");
    assert_eq!(
        kinds(agrees(&engine, &a, &b)),
        [
            ("/d".to_owned(), DiffKind::Removed),
            renamed("/d", "/e"),
            ("/d/f".to_owned(), DiffKind::Removed),
            ("/d/f".to_owned(), DiffKind::Changed),
        ]
    );
    agrees(&engine, &b, &a);
}

#[test]
fn random_histories_agree_with_a_walk_over_both_trees() {
    let seed: u64 = std::env::var("ANABRANCH_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_nanos() as u64
        });
    eprintln!("ANABRANCH_SEED={seed}");
    let mut state = seed | 1;
    let mut random = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let cases = std::env::var("ANABRANCH_CASES").ok();
    for _ in 0..cases.map_or(20, |n| n.parse().unwrap()) {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path(), Options::default()).unwrap();
        let base = engine
            .create_root(CreateRoot {
                name: "base".into(),
                ..Default::default()
            })
            .unwrap();
        let v = engine
            .volume(Point::Now(base.id), VolumeOptions::default())
            .unwrap();
        step(&v, &mut random, 30);
        let a = fork(&engine, "a", Point::Now(base.id));
        step(&a, &mut random, 20);
        let b = fork(
            &engine,
            "b",
            Point::Now(if random(2) == 0 {
                base.id
            } else {
                a.timeline()
            }),
        );
        step(&b, &mut random, 20);
        step(&v, &mut random, 20);
        for (x, y) in [(&a, &b), (&b, &a), (&v, &a), (&b, &v)] {
            agrees(&engine, x, y);
        }
        if random(2) == 0 {
            engine
                .restore(b.timeline(), Point::Now(v.timeline()))
                .unwrap();
            step(&b, &mut random, 10);
            agrees(&engine, &a, &b);
            agrees(&engine, &b, &v);
        }
    }
}

fn step(v: &Volume, random: &mut impl FnMut(u64) -> u64, count: u64) {
    for _ in 0..count {
        let mut dirs = vec![Ino::ROOT];
        for e in v.read_dir(Ino::ROOT, 0, usize::MAX).unwrap() {
            if e.kind == NodeKind::Directory {
                dirs.push(e.ino);
            }
        }
        let dir = dirs[random(dirs.len() as u64) as usize];
        let other = dirs[random(dirs.len() as u64) as usize];
        let name = format!("n{}", random(6)).into_bytes();
        let second = format!("n{}", random(6)).into_bytes();
        // Failures are as good as successes here: both sides are compared as they are.
        match random(8) {
            0 if dir == Ino::ROOT => drop(v.create(&me(), dir, &name, &DIR)),
            0..=2 => {
                if let Ok(a) = v.create(&me(), dir, &name, &FILE) {
                    let data = vec![random(3) as u8; random(3000) as usize];
                    v.write(
                        &me(),
                        a.ino,
                        random(4) * 100_000,
                        &data,
                        WriteOptions::default(),
                    )
                    .unwrap();
                }
            }
            3 => drop(v.unlink(&me(), dir, &name)),
            4 => drop(v.rmdir(&me(), dir, &name)),
            5 => drop(v.rename(&me(), dir, &name, other, &second, RenameMode::Replace)),
            _ => {
                if let Ok(a) = v.lookup(dir, &name)
                    && a.kind == NodeKind::File
                {
                    if random(2) == 0 {
                        let size = random(200_000);
                        v.set_attr(
                            &me(),
                            a.ino,
                            &SetAttr {
                                size: Some(size),
                                ..SetAttr::default()
                            },
                        )
                        .unwrap();
                    } else {
                        v.write(
                            &me(),
                            a.ino,
                            random(200_000),
                            &[random(250) as u8; 50],
                            WriteOptions::default(),
                        )
                        .unwrap();
                    }
                }
            }
        }
    }
}
