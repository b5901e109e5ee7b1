//! The stores that are damaged, and what is read from them afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use storage_engine::import::{Source, import_directory};
use storage_engine::*;

/// SplitMix64: small, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

pub fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        ..Options::default()
    }
}

pub fn caller() -> Caller {
    Caller::default()
}

/// The name of a file that is written after the last sync: of it, any earlier state may come back.
pub const TAIL: &str = "/tail";
pub const TAIL_LINE: &[u8] = b"a line that nobody waited for\n";

pub type Tree = BTreeMap<String, Vec<u8>>;

/// A store as it is on disk, and what must be read from it.
pub struct Fixture {
    /// After a clean close.
    pub closed: PathBuf,
    /// As the death of its process leaves it, with some commits after the last sync.
    pub killed: PathBuf,
    pub states: Vec<(Point, Tree)>,
    pub usage: BTreeMap<TimelineId, Usage>,
    _dir: tempfile::TempDir,
}

pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut r = Random(seed);
    let mut out: Vec<u8> = (0..len.div_ceil(8))
        .flat_map(|_| r.next().to_be_bytes())
        .collect();
    out.truncate(len);
    out
}

pub fn write(v: &Volume, path: &str, offset: u64, data: &[u8]) {
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
pub fn read_all(engine: &Engine, point: Point) -> Result<Tree> {
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

pub fn copy(from: &Path, to: &Path) {
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

pub fn fixture() -> Fixture {
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
    import_directory(&v, &Source::open(&source).unwrap(), &mut |_| {
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
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
pub enum Noticed {
    Opening,
    Reading,
    Check,
    /// Not at all: nothing that is stored was hit, or it was a part of what was not synced.
    No,
}

impl Fixture {
    /// Opens a damaged store, reads everything, and checks it. Whatever can be read must be right.
    pub fn examine(&self, store: &Path, what: &str) -> (Noticed, String) {
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
    pub fn scratch(&self, closed: bool) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        copy(if closed { &self.closed } else { &self.killed }, dir.path());
        dir
    }
}

/// An error says what it is about, and is of a kind that damage has.
#[track_caller]
pub fn assert_named(error: &Error, what: &str) {
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
pub fn files(dir: &Path) -> Vec<PathBuf> {
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

pub fn segments(dir: &Path) -> Vec<PathBuf> {
    files(&dir.join("log"))
}

/// Changes a file, whatever its mode.
pub fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    if path.to_string_lossy().contains("/objects/") {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
    }
}

pub fn tables(dir: &Path) -> Vec<PathBuf> {
    let mut all = files(&dir.join("index"));
    all.retain(|p| p.extension().is_some_and(|e| e == "sst"));
    all
}

pub fn named(dir: &Path, prefix: &str) -> PathBuf {
    files(&dir.join("index"))
        .into_iter()
        .rfind(|p| p.file_name().unwrap().to_string_lossy().starts_with(prefix))
        .unwrap()
}

pub fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}
