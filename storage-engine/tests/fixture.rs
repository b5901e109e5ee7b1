//! Stores of released formats, as they were written then: they open, hold what they held, and can be made
//! anew from their logs.
//!
//! Each is a folder below `tests/fixtures` with `store.tar.gz` and `expected.json`. They are never written
//! again: a store of a later format comes beside them. This writes the next one, under a name of its own:
//!
//! ```text
//! ANABRANCH_FIXTURE=format-3 cargo test -p storage-engine --test fixture -- --ignored write_the_next
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};
use storage_engine::objects::PutOptions;
use storage_engine::*;

/// Where the fixture's time begins, and the clock at which it is looked at.
const BEGIN: u64 = 1_700_000_000_000_000_000;
const SECOND: u64 = 1_000_000_000;
const LOOKED_AT: u64 = BEGIN + 3_600 * SECOND;

struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Counted(AtomicU64);

impl IdSource for Counted {
    fn next(&self) -> std::io::Result<[u8; 16]> {
        let mut id = [0x5a; 16];
        id[8..].copy_from_slice(&self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        Ok(id)
    }
}

fn open(dir: &Path, now: u64) -> Result<(Engine, Arc<Hand>)> {
    let clock = Arc::new(Hand(AtomicU64::new(now)));
    let options = Options {
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        ids: Arc::new(Counted(AtomicU64::new(1))),
        segment_bytes: 16 << 10,
        ..Options::default()
    };
    Ok((Engine::open(dir, options)?, clock))
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn me() -> Caller {
    Caller {
        uid: 1000,
        gid: 100,
        ..Caller::default()
    }
}

fn node(kind: NodeKind, mode: u32) -> NewNode<'static> {
    let (rdev, target): (u32, &[u8]) = match kind {
        NodeKind::CharDevice => (0x0105, &[]),
        NodeKind::Symlink => (0, b"../somewhere/else"),
        _ => (0, &[]),
    };
    NewNode {
        kind,
        mode,
        rdev,
        target,
    }
}

fn make(v: &Volume, dir: Ino, name: &[u8], kind: NodeKind) -> Ino {
    v.create(&me(), dir, name, &node(kind, 0o640)).unwrap().ino
}

fn write(v: &Volume, ino: Ino, offset: u64, data: &[u8]) {
    v.write(&me(), ino, offset, data, WriteOptions::default())
        .unwrap();
}

/// One of everything that a store can hold.
fn fill(engine: &Engine, clock: &Hand) {
    let later = || clock.0.fetch_add(SECOND, Ordering::Relaxed);
    let settings = Settings {
        retain: Duration::from_secs(7 * 86_400),
        labels: BTreeMap::from([("owner".to_owned(), "fixture".to_owned())]),
        ..Settings::default()
    };
    let root = |name: &str| {
        let new = CreateRoot {
            name: name.into(),
            settings: settings.clone(),
            ..Default::default()
        };
        engine.create_root(new).unwrap().id
    };
    let now = |id| {
        engine
            .volume(Point::Now(id), VolumeOptions::default())
            .unwrap()
    };
    let fork = |name: &str, source, settings: &Settings| {
        let request = ForkRequest {
            id: None,
            name: name.into(),
            source,
            settings: settings.clone(),
            durability: Durability::Memory,
        };
        engine.fork(request).unwrap().id
    };
    let snapshot = |name: &str, source| {
        let request = SnapshotRequest {
            id: None,
            name: name.into(),
            source,
            labels: BTreeMap::from([("of".to_owned(), name.to_owned())]),
            durability: Durability::Memory,
        };
        engine.snapshot(request).unwrap().id
    };
    let base = root("bucket/default/base");
    let v = now(base);
    let dir = make(&v, Ino::ROOT, b"dir", NodeKind::Directory);
    let small = make(&v, dir, b"small", NodeKind::File);
    write(&v, small, 0, b"a few bytes, inline");
    let large = make(&v, dir, b"two chunks", NodeKind::File);
    write(&v, large, 0, &bytes(1, 20_000));
    write(&v, large, 140_000, &bytes(2, 5_000));
    let sparse = make(&v, dir, b"sparse \xff", NodeKind::File);
    write(&v, sparse, 1 << 33, b"far out");
    for (name, kind) in [
        (&b"link"[..], NodeKind::Symlink),
        (b"pipe", NodeKind::Fifo),
        (b"socket", NodeKind::Socket),
        (b"null", NodeKind::CharDevice),
    ] {
        make(&v, Ino::ROOT, name, kind);
    }
    v.link(&me(), small, Ino::ROOT, b"second name").unwrap();
    v.set_xattr(&me(), small, b"user.colour", b"green", XattrMode::Set)
        .unwrap();
    v.set_xattr(
        &me(),
        dir,
        b"security.label",
        &bytes(3, 600),
        XattrMode::Set,
    )
    .unwrap();
    // A file of its own; its bytes repeat, so that the fixture stays small.
    let object: Vec<u8> = bytes(4, 4096).repeat(75);
    let put = PutOptions {
        durability: Durability::Memory,
        content_type: Some("text/plain".into()),
        metadata: BTreeMap::from([("author".to_owned(), "nobody".to_owned())]),
        ..PutOptions::default()
    };
    v.objects().put("objects/large", &object, &put).unwrap();
    v.objects().put("objects/small", b"small", &put).unwrap();
    later();
    let first = snapshot("snapshot/default/first", Point::Now(base));
    let goes = snapshot("snapshot/default/goes", Point::Now(base));
    later();
    // Renames, replacements, tombstones.
    v.rename(
        &me(),
        dir,
        b"small",
        Ino::ROOT,
        b"moved",
        RenameMode::Replace,
    )
    .unwrap();
    v.unlink(&me(), Ino::ROOT, b"pipe").unwrap();
    v.rename(
        &me(),
        Ino::ROOT,
        b"link",
        Ino::ROOT,
        b"socket",
        RenameMode::Exchange,
    )
    .unwrap();
    v.remove_xattr(&me(), small, b"user.colour").unwrap();
    write(&v, large, 10_000, b"changed in the middle");
    v.allocate(&me(), large, AllocateMode::Punch, 2_000, 3_000)
        .unwrap();
    engine.tick().unwrap();
    later();
    let fork_a = fork("fork/default/a", Point::Snapshot(first), &settings);
    let quota = Settings {
        quota: Quota {
            bytes: Some(1 << 20),
            inodes: Some(100),
        },
        protected: true,
        ..settings.clone()
    };
    let fork_b = fork("fork/default/b", Point::Now(fork_a), &quota);
    let a = now(fork_a);
    write(&a, large, 0, b"of the fork");
    a.unlink(&me(), dir, b"sparse \xff").unwrap();
    later();
    let b = now(fork_b);
    make(&b, dir, b"only here", NodeKind::Directory);
    write(&b, small, 19, &bytes(5, 3_000));
    let of_b = snapshot("snapshot/default/of b", Point::Now(fork_b));
    later();
    // A restore, a deleted timeline that others read, a deleted snapshot, an unlinked file that is held.
    let other = root("bucket/default/other");
    let o = now(other);
    make(&o, Ino::ROOT, b"before the restore", NodeKind::File);
    engine.tick().unwrap();
    later();
    engine.restore(other, Point::Snapshot(of_b)).unwrap();
    make(&o, Ino::ROOT, b"after the restore", NodeKind::File);
    engine.tick().unwrap();
    later();
    let held = make(&v, Ino::ROOT, b"held", NodeKind::File);
    write(&v, held, 0, b"nobody has a name for this");
    v.unlink(&me(), Ino::ROOT, b"held").unwrap();
    engine.delete_snapshot(goes).unwrap();
    engine.delete_timeline(fork_a).unwrap();
    engine
        .rename_timeline(base, "bucket/default/renamed")
        .unwrap();
    later();
    v.set_attr(
        &me(),
        large,
        &SetAttr {
            size: Some(150_001),
            mtime: Some(SetTime::At(Time { secs: -1, nanos: 5 })),
            ..SetAttr::default()
        },
    )
    .unwrap();
    engine.tick().unwrap();
}

/// Since format 2: collections, of what was overwritten and of timelines that are gone.
fn collect(engine: &Engine) {
    let root = |name: &str| {
        let new = CreateRoot {
            name: name.into(),
            ..Default::default()
        };
        let id = engine.create_root(new).unwrap().id;
        engine
            .volume(Point::Now(id), VolumeOptions::default())
            .unwrap()
    };
    let (kept, goes) = (
        root("bucket/default/collected"),
        root("bucket/default/goes"),
    );
    for v in [&kept, &goes] {
        let file = make(v, Ino::ROOT, b"overwritten", NodeKind::File);
        let small = make(v, Ino::ROOT, b"small", NodeKind::File);
        for n in 0..5 {
            write(v, file, n * 1_000, &bytes(40 + n, 50_000));
            write(v, small, 0, &bytes(50 + n, 700));
            v.objects()
                .put("object", &bytes(60 + n, 300_000), &PutOptions::default())
                .unwrap();
        }
        for n in 0..20 {
            let name = format!("little{n:02}");
            let little = make(v, Ino::ROOT, name.as_bytes(), NodeKind::File);
            write(v, little, 0, &bytes(70 + n, 2_000));
        }
        for n in (0..20).filter(|n| n % 4 > 0) {
            let name = format!("little{n:02}");
            let little = v.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
            v.unlink(&me(), Ino::ROOT, name.as_bytes()).unwrap();
            v.reap(little).unwrap();
        }
    }
    let request = ForkRequest {
        id: None,
        name: "fork/default/of goes".into(),
        source: Point::Now(goes.timeline()),
        settings: Settings::default(),
        durability: Durability::Memory,
    };
    let fork = engine.fork(request).unwrap().id;
    engine.delete_timeline(goes.timeline()).unwrap();
    engine.gc(GcOptions::default()).unwrap();
    engine.delete_timeline(fork).unwrap();
    engine.gc(GcOptions::default()).unwrap();
    let small = kept.lookup(Ino::ROOT, b"small").unwrap().ino;
    write(&kept, small, 100, &bytes(99, 1_500));
}

/// Since format 3: segments that were compacted, once and more than once, with a snapshot whose digest lies within one.
fn compact(engine: &Engine) {
    let new = CreateRoot {
        name: "bucket/default/compacted".into(),
        ..Default::default()
    };
    let id = engine.create_root(new).unwrap().id;
    let v = engine
        .volume(Point::Now(id), VolumeOptions::default())
        .unwrap();
    let all = GcOptions {
        full: true,
        ..GcOptions::default()
    };
    let files: Vec<Ino> = (0..6)
        .map(|n| make(&v, Ino::ROOT, format!("file{n}").as_bytes(), NodeKind::File))
        .collect();
    for round in 0..24u64 {
        for (n, ino) in (0..).zip(&files) {
            let len = [300, 900, 2_000, 6_000, 18_000, 40_000][n];
            write(&v, *ino, 0, &bytes(100 + round * 10 + n as u64, len));
        }
        if round == 9 {
            let request = SnapshotRequest {
                id: None,
                name: "snapshot/default/within".into(),
                source: Point::Now(id),
                labels: BTreeMap::new(),
                durability: Durability::Local,
            };
            engine.snapshot(request).unwrap();
        }
        if round % 8 == 7 {
            assert!(engine.gc(all).unwrap().compacted > 0);
        }
    }
    engine.gc(all).unwrap();
}

/// Everything that can be seen of a store.
fn look(engine: &Engine) -> Value {
    let mut points = Map::new();
    let mut show = |name: String, point: Point| {
        let volume = match engine.volume(point, VolumeOptions::default()) {
            Err(e) if e.kind() == ErrorKind::OutOfRetention => return,
            volume => volume.unwrap(),
        };
        let mut tree = Map::new();
        walk(&volume, Ino::ROOT, "", &mut tree);
        points.insert(name, Value::Object(tree));
    };
    let timelines = engine.timelines();
    let snapshots = engine.snapshots().unwrap();
    for t in &timelines {
        show(format!("now {}", t.name), Point::Now(t.id));
        // The ends of epochs lie a second apart.
        for second in 1..12 {
            let at = Epoch(BEGIN + second * SECOND);
            if at >= t.created {
                show(format!("{} at {second} s", t.name), Point::At(t.id, at));
            }
        }
    }
    for s in &snapshots {
        show(format!("snapshot {}", s.name), Point::Snapshot(s.id));
    }
    let usage: Map<String, Value> = timelines
        .iter()
        .map(|t| (t.name.clone(), json!(engine.usage(t.id).unwrap())))
        .collect();
    json!({
        "timelines": timelines,
        "deleted": engine.deleted_timelines(),
        "snapshots": snapshots,
        "usage": usage,
        "points": points,
    })
}

fn walk(v: &Volume, ino: Ino, path: &str, out: &mut Map<String, Value>) {
    let a = v.attr(ino).unwrap();
    let time = |t: Time| json!([t.secs, t.nanos]);
    let content = match a.kind {
        NodeKind::File => {
            // Of a sparse file only the two ends.
            let len = (a.size as usize).min(1 << 20);
            let mut hash = blake3::Hasher::new();
            hash.update(&v.read(ino, 0, len).unwrap());
            hash.update(&v.read(ino, a.size - len as u64, len).unwrap());
            hash.finalize().to_hex().to_string()
        }
        NodeKind::Symlink => String::from_utf8(v.read_link(ino).unwrap()).unwrap(),
        _ => String::new(),
    };
    let xattrs: Map<String, Value> = v
        .xattrs(ino)
        .unwrap()
        .into_iter()
        .map(|name| {
            let value = hex::encode(v.xattr(ino, &name).unwrap());
            (String::from_utf8(name).unwrap(), json!(value))
        })
        .collect();
    out.insert(
        if path.is_empty() { "/" } else { path }.to_owned(),
        json!({
            "ino": a.ino.0, "kind": format!("{:?}", a.kind), "mode": a.mode, "nlink": a.nlink,
            "uid": a.uid, "gid": a.gid, "rdev": a.rdev, "size": a.size, "allocated": a.allocated,
            "times": [time(a.atime), time(a.mtime), time(a.ctime), time(a.btime)],
            "content": content, "xattrs": xattrs,
        }),
    );
    if a.kind == NodeKind::Directory {
        for e in v.read_dir(ino, 0, usize::MAX).unwrap() {
            walk(v, e.ino, &format!("{path}/{}", e.name.escape_ascii()), out);
        }
    }
}

/// What is expected is there; what later versions tell beyond it is theirs.
fn compare(at: &str, expected: &Value, found: &Value, faults: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                match b.get(key) {
                    Some(other) => compare(&format!("{at}.{key}"), value, other, faults),
                    None => faults.push(format!("{at}.{key} is missing")),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (x, y)) in a.iter().zip(b).enumerate() {
                compare(&format!("{at}[{n}]"), x, y, faults);
            }
        }
        (a, b) if a == b => {}
        (a, b) => faults.push(format!("{at} is {b}, right: {a}")),
    }
}

fn unpack(fixture: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = fs::File::open(fixture.join("store.tar.gz")).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    archive.unpack(dir.path()).unwrap();
    dir
}

fn every_fixture(mut each: impl FnMut(&str, &Path)) {
    let mut seen = 0;
    for entry in fs::read_dir(fixtures()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        println!("fixture {name}");
        each(&name, &entry.path());
        seen += 1;
    }
    assert!(seen > 0, "there are no fixtures");
}

fn assert_as_expected(name: &str, fixture: &Path, engine: &Engine) {
    let expected = fs::read(fixture.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let mut faults = Vec::new();
    compare("", &expected, &look(engine), &mut faults);
    assert!(faults.is_empty(), "{name}: {faults:#?}");
    let report = engine.check(|_| {}).unwrap();
    assert!(report.findings.is_empty(), "{name}: {:#?}", report.findings);
}

#[test]
fn stores_of_every_format_hold_what_they_held() {
    every_fixture(|name, fixture| {
        let dir = unpack(fixture);
        let (engine, _) = open(dir.path(), LOOKED_AT).unwrap();
        assert_as_expected(name, fixture, &engine);
        // It can be worked with, too.
        let timeline = engine.timelines().remove(0);
        let v = engine
            .volume(Point::Now(timeline.id), VolumeOptions::default())
            .unwrap();
        write(&v, make(&v, Ino::ROOT, b"new", NodeKind::File), 0, b"new");
        drop(v);
        engine.close().unwrap();
        let (engine, _) = open(dir.path(), LOOKED_AT).unwrap();
        let report = engine.check(|_| {}).unwrap();
        assert!(report.findings.is_empty(), "{:#?}", report.findings);
    });
}

#[test]
fn their_logs_alone_give_the_same() {
    every_fixture(|name, fixture| {
        let dir = unpack(fixture);
        fs::remove_dir_all(dir.path().join("index")).unwrap();
        let (engine, _) = open(dir.path(), LOOKED_AT).unwrap();
        assert!(engine.recovery().replayed_frames > 0);
        assert_as_expected(name, fixture, &engine);
    });
}

#[test]
fn a_store_of_a_newer_format_is_refused_by_name_and_left_alone() {
    every_fixture(|_, fixture| {
        let dir = unpack(fixture);
        let path = dir.path().join("store.json");
        let mut store: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        store["format"] = json!(FORMAT + 1);
        store.as_object_mut().unwrap().remove("sum");
        let newer = serde_json::to_vec(&store).unwrap();
        fs::write(&path, &newer).unwrap();
        let error = open(dir.path(), LOOKED_AT).err().expect("it was opened");
        assert_eq!(error.kind(), ErrorKind::UnsupportedFormat);
        let message = error.to_string();
        assert!(
            message.contains(&format!("format {}", FORMAT + 1)) && message.contains("store.json"),
            "{message}"
        );
        assert_eq!(fs::read(&path).unwrap(), newer);
    });
}

#[test]
#[ignore = "writes a fixture; see the top of this file"]
fn write_the_next_fixture() {
    let name = std::env::var("ANABRANCH_FIXTURE").expect("ANABRANCH_FIXTURE names it");
    let fixture = fixtures().join(name);
    fs::create_dir_all(fixtures()).unwrap();
    fs::create_dir(&fixture).expect("a fixture is never written again");
    let dir = tempfile::tempdir().unwrap();
    let (engine, clock) = open(dir.path(), BEGIN).unwrap();
    fill(&engine, &clock);
    collect(&engine);
    compact(&engine);
    clock.0.store(LOOKED_AT, Ordering::Relaxed);
    let expected = look(&engine);
    engine.close().unwrap();
    fs::write(
        fixture.join("expected.json"),
        serde_json::to_string(&expected).unwrap() + "\n",
    )
    .unwrap();
    let file = fs::File::create(fixture.join("store.tar.gz")).unwrap();
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(
        file,
        flate2::Compression::best(),
    ));
    for name in ["store.json", "log", "objects", "index"] {
        let path = dir.path().join(name);
        if name == "store.json" {
            tar.append_path_with_name(&path, name).unwrap();
            continue;
        }
        tar.append_dir(name, &path).unwrap();
        pack(&mut tar, &path, name);
    }
    tar.into_inner().unwrap().finish().unwrap();
}

fn pack(tar: &mut tar::Builder<impl std::io::Write>, dir: &Path, at: &str) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        // RocksDB's own diary and lock are no part of a store.
        if name.starts_with("LOG") || name == "LOCK" {
            continue;
        }
        let to = format!("{at}/{name}");
        if entry.file_type().unwrap().is_dir() {
            tar.append_dir(&to, entry.path()).unwrap();
            pack(tar, &entry.path(), &to);
        } else {
            tar.append_path_with_name(entry.path(), &to).unwrap();
        }
    }
}
