//! Damage on purpose, in every kind of file: it is refused at opening, named when it is read, or found by
//! the check; what is read is right or an error, and nothing panics.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use storage_engine::import::import_directory;
use storage_engine::*;

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

fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        ..Options::default()
    }
}

fn caller() -> Caller {
    Caller::default()
}

/// The name of a file that is written after the last sync: of it, any earlier state may come back.
const TAIL: &str = "/tail";
const TAIL_LINE: &[u8] = b"a line that nobody waited for\n";

type Tree = BTreeMap<String, Vec<u8>>;

/// A store as it is on disk, and what must be read from it.
struct Fixture {
    /// After a clean close.
    closed: PathBuf,
    /// As the death of its process leaves it, with some commits after the last sync.
    killed: PathBuf,
    states: Vec<(Point, Tree)>,
    usage: BTreeMap<TimelineId, Usage>,
    _dir: tempfile::TempDir,
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut r = Random(seed);
    let mut out: Vec<u8> = (0..len.div_ceil(8))
        .flat_map(|_| r.next().to_be_bytes())
        .collect();
    out.truncate(len);
    out
}

fn write(v: &Volume, path: &str, offset: u64, data: &[u8]) {
    let ino = match v.resolve(path.as_bytes()) {
        Ok(a) => a.ino,
        Err(_) => {
            let (dir, name) = path.rsplit_once('/').unwrap();
            let dir = v.resolve(dir.as_bytes()).unwrap().ino;
            let new = NewNode {
                kind: NodeKind::File,
                mode: 0o644,
                rdev: 0,
                target: &[],
            };
            v.create(&caller(), dir, name.as_bytes(), &new).unwrap().ino
        }
    };
    v.write(&caller(), ino, offset, data, WriteOptions::default())
        .unwrap();
}

/// All files of a state; fails on the first thing that cannot be read.
fn read_all(engine: &Engine, point: Point) -> Result<Tree> {
    let v = engine.volume(point, VolumeOptions::default())?;
    let mut out = Tree::new();
    let mut dirs = vec![(String::new(), Ino::ROOT)];
    while let Some((path, ino)) = dirs.pop() {
        let mut after = 0;
        loop {
            let entries = v.read_dir(ino, after, 7)?;
            let Some(last) = entries.last() else { break };
            after = last.cookie;
            for e in entries {
                let path = format!("{path}/{}", String::from_utf8_lossy(&e.name));
                let attr = v.attr(e.ino)?;
                match e.kind {
                    NodeKind::Directory => dirs.push((path, e.ino)),
                    _ => {
                        out.insert(path, v.read(e.ino, 0, attr.size as usize + 1)?);
                    }
                }
            }
        }
    }
    Ok(out)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let closed = dir.path().join("closed");
    let killed = dir.path().join("killed");
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("object"), pattern(1, 300_000)).unwrap();
    fs::write(source.join("sub/chunk"), pattern(2, 50_000)).unwrap();
    fs::write(source.join("sub/inline"), pattern(3, 500)).unwrap();
    fs::write(source.join("sub/empty"), b"").unwrap();
    let engine = Engine::open(&closed, options()).unwrap();
    let base = engine
        .create_root(CreateRoot {
            name: "base".into(),
            ..Default::default()
        })
        .unwrap()
        .id;
    let v = engine
        .volume(Point::Now(base), VolumeOptions::default())
        .unwrap();
    import_directory(&v, &source, &mut |_| {}).unwrap();
    let snapshot = engine
        .snapshot(SnapshotRequest {
            id: None,
            name: "s".into(),
            source: Point::Now(base),
            labels: Default::default(),
            durability: Durability::Local,
        })
        .unwrap()
        .id;
    let fork = engine
        .fork(ForkRequest {
            id: None,
            name: "f".into(),
            source: Point::Snapshot(snapshot),
            settings: Settings::default(),
            durability: Durability::Local,
        })
        .unwrap()
        .id;
    let f = engine
        .volume(Point::Now(fork), VolumeOptions::default())
        .unwrap();
    for n in 0..12 {
        write(&f, "/sub/chunk", n * 3_000, &pattern(10 + n, 2_000));
        write(
            &f,
            &format!("/new{n}"),
            0,
            &pattern(30 + n, 200 * n as usize),
        );
        write(&v, &format!("/sub/more{n}"), 0, &pattern(60 + n, 3_000));
    }
    f.unlink(&caller(), Ino::ROOT, b"new3").unwrap();
    write(&v, "/sub/inline", 100, b"changed in the base");
    engine.sync().unwrap();
    let states: Vec<_> = [
        Point::Now(base),
        Point::Now(fork),
        Point::Snapshot(snapshot),
    ]
    .into_iter()
    .map(|p| (p, read_all(&engine, p).unwrap()))
    .collect();
    assert_eq!(states[2].1.len(), 4);
    let usage = [base, fork]
        .map(|id| (id, engine.usage(id).unwrap()))
        .into();
    let tail = v
        .create(
            &caller(),
            Ino::ROOT,
            b"tail",
            &NewNode {
                kind: NodeKind::File,
                mode: 0o644,
                rdev: 0,
                target: &[],
            },
        )
        .unwrap()
        .ino;
    for n in 0..4 {
        let at = n * TAIL_LINE.len() as u64;
        v.write(&caller(), tail, at, TAIL_LINE, WriteOptions::default())
            .unwrap();
    }
    copy(&closed, &killed);
    v.unlink(&caller(), Ino::ROOT, b"tail").unwrap();
    v.reap(tail).unwrap();
    drop((v, f));
    engine.close().unwrap();
    Fixture {
        closed,
        killed,
        states,
        usage,
        _dir: dir,
    }
}

/// How damage was noticed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Noticed {
    Opening,
    Reading,
    Check,
    /// Not at all: nothing that is stored was hit, or it was a part of what was not synced.
    No,
}

impl Fixture {
    /// Opens a damaged store, reads everything, and checks it. Whatever can be read must be right.
    fn examine(&self, store: &Path, what: &str) -> (Noticed, String) {
        let engine = match Engine::open(
            store,
            Options {
                create: false,
                ..options()
            },
        ) {
            Ok(engine) => engine,
            Err(e) => {
                assert_named(&e, what);
                return (Noticed::Opening, e.to_string());
            }
        };
        let mut noticed = Noticed::No;
        let mut text = String::new();
        for (point, expected) in &self.states {
            match read_all(&engine, *point) {
                Ok(mut tree) => {
                    if let Some(tail) = tree.remove(TAIL) {
                        assert!(
                            TAIL_LINE.repeat(4).starts_with(&tail),
                            "{what}: the tail is wrong"
                        );
                    }
                    let names: Vec<_> = tree.keys().collect();
                    assert_eq!(names, expected.keys().collect::<Vec<_>>(), "{what}");
                    for (path, bytes) in &tree {
                        assert!(*bytes == expected[path], "{what}: {path} is wrong");
                    }
                }
                Err(e) => {
                    assert_named(&e, what);
                    (noticed, text) = (Noticed::Reading, e.to_string());
                }
            }
            // One file that cannot be read must not hide the others.
            if noticed == Noticed::Reading
                && let Ok(v) = engine.volume(*point, VolumeOptions::default())
            {
                for (path, expected) in expected {
                    let read = v
                        .resolve(path.as_bytes())
                        .and_then(|a| v.read(a.ino, 0, a.size as usize + 1));
                    match read {
                        Ok(bytes) => assert!(bytes == *expected, "{what}: {path} is wrong"),
                        Err(e) => assert_named(&e, what),
                    }
                }
            }
        }
        for (id, expected) in &self.usage {
            match engine.usage(*id) {
                // The file behind the last sync counts too, as far as it came back.
                Ok(usage) => assert!(
                    usage.shared_bytes == expected.shared_bytes
                        && usage.inodes - expected.inodes <= 1,
                    "{what}: the totals are wrong"
                ),
                Err(e) => assert_named(&e, what),
            }
        }
        let report = engine.check(|_| {}).unwrap();
        if noticed == Noticed::Reading {
            assert!(
                !report.is_sound(),
                "{what}: reading fails ({text}) and the check finds nothing"
            );
        } else if !report.is_sound() {
            (noticed, text) = (Noticed::Check, report.to_string());
        }
        (noticed, text)
    }

    /// A copy of a store to damage.
    fn scratch(&self, closed: bool) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        copy(if closed { &self.closed } else { &self.killed }, dir.path());
        dir
    }
}

/// An error says what it is about, and is of a kind that damage has.
#[track_caller]
fn assert_named(error: &Error, what: &str) {
    let kinds = [
        ErrorKind::Corrupt,
        ErrorKind::UnsupportedFormat,
        ErrorKind::Io,
        ErrorKind::NotSupported,
    ];
    assert!(
        kinds.contains(&error.kind()),
        "{what}: {:?}: {error}",
        error.kind()
    );
    let text = error.to_string();
    let names = [".seg", "objects", "index", "store.json", "log", "record"];
    assert!(
        names.iter().any(|n| text.contains(n)),
        "{what}: the error does not say where: {text}"
    );
}

/// All files below a directory, in order.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                out.push(path);
            }
        }
    }
    out.sort();
    out
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    files(&dir.join("log"))
}

/// Changes a file, whatever its mode.
fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    if path.to_string_lossy().contains("/objects/") {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
    }
}

#[test]
fn both_stores_of_these_tests_are_sound() {
    let fixture = fixture();
    for closed in [true, false] {
        let dir = fixture.scratch(closed);
        assert!(segments(dir.path()).len() > 2);
        assert_eq!(files(&dir.path().join("objects")).len(), 1);
        let (noticed, text) = fixture.examine(dir.path(), "undamaged");
        assert_eq!(noticed, Noticed::No, "{text}");
    }
}

#[test]
fn each_kind_of_damage_is_noticed_and_named() {
    type Change = fn(&Path);
    // What is done, to which store, who notices at the latest, and what is said.
    let cases: &[(&str, bool, Change, Noticed, &str)] = &[
        (
            "a segment's magic",
            true,
            |d| damage(&segments(d)[0], |b| b[0] ^= 1),
            Noticed::Opening,
            "damaged at offset 0",
        ),
        (
            "a segment of a newer format",
            true,
            |d| damage(&segments(d)[1], |b| b[7] = 9),
            Noticed::Opening,
            "segment format 9 is newer",
        ),
        (
            "the position in a segment's header",
            false,
            |d| damage(&segments(d)[1], |b| b[30] ^= 4),
            Noticed::Opening,
            "cannot be placed",
        ),
        (
            "reserved bytes of a segment's header",
            true,
            |d| damage(&segments(d)[1], |b| b[100] ^= 4),
            Noticed::Check,
            "offset 68",
        ),
        (
            "a frame's header",
            true,
            |d| damage(&segments(d)[1], |b| b[128 + 40] ^= 4),
            Noticed::Check,
            "does not match its checksum",
        ),
        (
            "a frame's header, to be replayed",
            false,
            |d| damage(&segments(d)[1], |b| b[128 + 40] ^= 4),
            Noticed::Opening,
            "is damaged at offset 128",
        ),
        (
            "a frame's length",
            true,
            |d| damage(&segments(d)[1], |b| b[128 + 8] ^= 0x80),
            Noticed::Check,
            "there is no frame header",
        ),
        (
            "data in the middle of the log",
            false,
            |d| damage(&segments(d)[1], |b| b[128 + 128 + 5] ^= 4),
            Noticed::Opening,
            "is damaged at offset 128",
        ),
        (
            "zeros in the middle of the log",
            true,
            |d| damage(&segments(d)[1], |b| b[4096..8192].fill(0)),
            Noticed::Check,
            "cannot be read",
        ),
        (
            "zeros in the middle, to be replayed",
            false,
            |d| damage(&segments(d)[1], |b| b[4096..8192].fill(0)),
            Noticed::Opening,
            "is damaged at offset",
        ),
        (
            "a segment cut short",
            true,
            |d| damage(&segments(d)[1], |b| b.truncate(5000)),
            Noticed::Check,
            "cut short",
        ),
        (
            "the last segment cut short",
            true,
            |d| damage(segments(d).last().unwrap(), |b| b.truncate(1000)),
            Noticed::Check,
            "is known to have been written",
        ),
        (
            "the last segment empty",
            true,
            |d| damage(segments(d).last().unwrap(), Vec::clear),
            Noticed::Check,
            "segments are missing",
        ),
        (
            "a segment missing",
            true,
            |d| fs::remove_file(&segments(d)[1]).unwrap(),
            Noticed::Check,
            "the log before it is missing",
        ),
        (
            "a segment missing, to be replayed",
            false,
            |d| fs::remove_file(&segments(d)[1]).unwrap(),
            Noticed::Opening,
            "the log lacks the segment behind",
        ),
        (
            "the first segment missing",
            false,
            |d| fs::remove_file(&segments(d)[0]).unwrap(),
            Noticed::Opening,
            "the log lacks the segment before",
        ),
        (
            "the last segment missing",
            true,
            |d| fs::remove_file(segments(d).last().unwrap()).unwrap(),
            Noticed::Check,
            "is missing",
        ),
        (
            "all segments missing",
            true,
            |d| segments(d).iter().for_each(|s| fs::remove_file(s).unwrap()),
            Noticed::Opening,
            "segments are missing",
        ),
        (
            "the log missing",
            true,
            |d| fs::remove_dir_all(d.join("log")).unwrap(),
            Noticed::Opening,
            "segments are missing",
        ),
        (
            "two segments swapped",
            true,
            |d| {
                let s = segments(d);
                fs::rename(&s[0], d.join("x")).unwrap();
                fs::rename(&s[1], &s[0]).unwrap();
                fs::rename(d.join("x"), &s[1]).unwrap();
            },
            Noticed::Opening,
            "was renamed",
        ),
        (
            "an object file's byte",
            true,
            |d| damage(&files(&d.join("objects"))[0], |b| b[200_000] ^= 1),
            Noticed::Reading,
            "/object cannot be read",
        ),
        (
            "an object file cut short",
            true,
            |d| damage(&files(&d.join("objects"))[0], |b| b.truncate(100_000)),
            Noticed::Reading,
            "too short",
        ),
        (
            "an object file grown",
            true,
            |d| damage(&files(&d.join("objects"))[0], |b| b.push(0)),
            Noticed::Check,
            "it has 300001 bytes instead of 300000",
        ),
        (
            "an object file missing",
            true,
            |d| fs::remove_file(&files(&d.join("objects"))[0]).unwrap(),
            Noticed::Reading,
            "is missing, although stored data refers to it",
        ),
        (
            "all object files missing",
            true,
            |d| fs::remove_dir_all(d.join("objects")).unwrap(),
            Noticed::Reading,
            "is missing",
        ),
        (
            "an object file that can be written",
            true,
            |d| {
                use std::os::unix::fs::PermissionsExt;
                let path = &files(&d.join("objects"))[0];
                fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            },
            Noticed::Check,
            "can still be written",
        ),
        (
            "the data of an index file",
            true,
            |d| damage(&tables(d)[0], |b| b[1000] ^= 1),
            Noticed::Reading,
            "index",
        ),
        (
            "an index file cut short",
            true,
            |d| damage(&tables(d)[0], |b| b.truncate(1000)),
            Noticed::Opening,
            "index",
        ),
        (
            "an index file missing",
            true,
            |d| fs::remove_file(&tables(d)[0]).unwrap(),
            Noticed::Opening,
            "index",
        ),
        (
            "the index's list of files cut short",
            true,
            |d| damage(&named(d, "MANIFEST"), |b| b.truncate(10)),
            Noticed::Opening,
            "index",
        ),
        (
            "the index's list of files missing",
            true,
            |d| fs::remove_file(named(d, "MANIFEST")).unwrap(),
            Noticed::Opening,
            "index",
        ),
        (
            "the index's pointer to it",
            true,
            |d| damage(&named(d, "CURRENT"), |b| b[3] ^= 1),
            Noticed::Opening,
            "index",
        ),
        (
            "the index's pointer to it missing",
            true,
            |d| fs::remove_file(named(d, "CURRENT")).unwrap(),
            Noticed::No,
            "",
        ),
        (
            "the whole index missing",
            true,
            |d| fs::remove_dir_all(d.join("index")).unwrap(),
            Noticed::No,
            "",
        ),
        (
            "store.json missing",
            true,
            |d| fs::remove_file(d.join("store.json")).unwrap(),
            Noticed::Opening,
            "restore it from a backup",
        ),
        (
            "store.json empty",
            true,
            |d| damage(&d.join("store.json"), Vec::clear),
            Noticed::Opening,
            "store.json is damaged",
        ),
        (
            "store.json of a newer format",
            true,
            |d| replace(&d.join("store.json"), "\"format\": 1", "\"format\": 2"),
            Noticed::Opening,
            "has format 2",
        ),
        (
            "store.json of another store",
            true,
            |d| {
                let id = fs::read_to_string(d.join("store.json")).unwrap();
                let at = id.find("storeId\": \"").unwrap() + 11;
                let other = if &id[at..=at] == "0" { "1" } else { "0" };
                replace(
                    &d.join("store.json"),
                    &id[at - 1..=at],
                    &format!("\"{other}"),
                );
            },
            Noticed::Check,
            "belongs to another store",
        ),
    ];
    let fixture = fixture();
    let mut failed = Vec::new();
    for (what, closed, change, wanted, says) in cases {
        let case = std::panic::AssertUnwindSafe(|| {
            let dir = fixture.scratch(*closed);
            change(dir.path());
            let (noticed, text) = fixture.examine(dir.path(), what);
            assert!(
                noticed <= *wanted,
                "{what}: noticed by {noticed:?} instead of {wanted:?}: {text}"
            );
            if noticed == *wanted {
                assert!(text.contains(says), "{what}: {says:?} is not in: {text}");
            }
        });
        if std::panic::catch_unwind(case).is_err() {
            failed.push(what);
        }
    }
    assert!(failed.is_empty(), "these failed, see above: {failed:?}");
}

fn tables(dir: &Path) -> Vec<PathBuf> {
    let mut all = files(&dir.join("index"));
    all.retain(|p| p.extension().is_some_and(|e| e == "sst"));
    all
}

fn named(dir: &Path, prefix: &str) -> PathBuf {
    files(&dir.join("index"))
        .into_iter()
        .rfind(|p| p.file_name().unwrap().to_string_lossy().starts_with(prefix))
        .unwrap()
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn random_damage_gives_the_right_bytes_or_an_error() {
    let number = |name: &str, default| {
        std::env::var(name)
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or(default)
    };
    let first: u64 = number("SEED", 1);
    let rounds: u64 = number("ROUNDS", 520);
    eprintln!(
        "seeds {first} to {} (repeat one with SEED=<it> ROUNDS=1)",
        first + rounds - 1
    );
    let fixture = fixture();
    let mut seen: BTreeMap<(String, Noticed), u32> = BTreeMap::new();
    for seed in first..first + rounds {
        let mut r = Random(seed);
        let closed = r.below(3) > 0;
        let dir = fixture.scratch(closed);
        let part = match r.below(20) {
            0..=8 => "log",
            9..=11 => "objects",
            12..=18 => "index",
            _ => "store.json",
        };
        let target = dir.path().join(part);
        let candidates: Vec<_> = if target.is_file() {
            vec![target]
        } else {
            files(&target)
                .into_iter()
                .filter(|p| fs::metadata(p).unwrap().len() > 0)
                .collect()
        };
        let path = &candidates[r.below(candidates.len() as u64) as usize];
        let len = fs::metadata(path).unwrap().len();
        let at = r.below(len) as usize;
        // What is behind the last sync may be lost as a whole, so a killed store only gets single flips.
        let kind = if closed { r.below(10) } else { 0 };
        let mut hit = true;
        let what = match kind {
            0..=6 => format!("bit {} of byte {at}", r.below(8)),
            7 => format!("64 bytes from {at} on, zeroed"),
            8 => format!("cut to {at}"),
            _ => format!("byte {at}"),
        };
        let what = format!(
            "seed {seed}: {}: {what}",
            path.strip_prefix(dir.path()).unwrap().display()
        );
        let bit = r.below(8);
        damage(path, |bytes| {
            let before = bytes.clone();
            match kind {
                0..=6 => bytes[at] ^= 1 << bit,
                7 => {
                    let end = (at + 64).min(bytes.len());
                    bytes[at..end].fill(0);
                }
                8 => bytes.truncate(at),
                _ => bytes[at] = r.next() as u8,
            }
            hit = *bytes != before;
        });
        let (noticed, text) = fixture.examine(dir.path(), &what);
        *seen.entry((part.to_owned(), noticed)).or_default() += 1;
        if hit && closed && (part == "log" || part == "objects") {
            assert!(noticed != Noticed::No, "{what}: nobody noticed");
        }
        if noticed == Noticed::Check && part == "log" {
            assert!(
                text.contains("error: log/") || text.contains("error: log:"),
                "{what}: {text}"
            );
        }
    }
    for ((part, noticed), count) in seen {
        eprintln!("{part}: {noticed:?} {count}");
    }
}

#[test]
fn an_older_store_json_put_back_does_no_harm() {
    let fixture = fixture();
    let dir = fixture.scratch(true);
    replace(&dir.path().join("store.json"), "\"term\": 1", "\"term\": 0");
    for n in 0..2 {
        let engine = Engine::open(dir.path(), options()).unwrap();
        let v = engine
            .volume(fixture.states[0].0, VolumeOptions::default())
            .unwrap();
        write(&v, &format!("/after{n}"), 0, b"written");
        assert!(engine.check(|_| {}).unwrap().is_sound());
        drop(v);
        engine.close().unwrap();
    }
}
