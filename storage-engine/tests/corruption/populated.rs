//! A store in which everything has happened, and every question that a reader can put to it with its right answer.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use storage_engine::import::{Source, import_directory};
use storage_engine::objects::{ByteRange, ListRequest, PutOptions, VersionsRequest};
use storage_engine::*;

use crate::store::{TAIL_LINE, assert_named, caller, files, options, pattern, write};

/// The timeline whose end is written after the last sync: of it, any earlier state may come back.
const TAIL: &str = "tail";

/// All files of a store, to lay them out again and again.
pub struct Image {
    pub files: Vec<Stored>,
    /// Directories, those without a file too.
    dirs: Vec<PathBuf>,
}

pub struct Stored {
    /// Below the data directory.
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    mode: u32,
}

impl Image {
    fn of(store: &Path) -> Self {
        let relative = |path: &Path| path.strip_prefix(store).unwrap().to_owned();
        let mut dirs = BTreeSet::new();
        let files: Vec<Stored> = files(store)
            .into_iter()
            .map(|path| {
                dirs.extend(path.parent().map(relative));
                Stored {
                    bytes: fs::read(&path).unwrap(),
                    mode: fs::metadata(&path).unwrap().permissions().mode(),
                    path: relative(&path),
                }
            })
            .collect();
        Self {
            files,
            dirs: dirs.into_iter().collect(),
        }
    }

    /// Makes the directory hold exactly this store, with one file changed.
    pub fn lay(&self, dir: &Path, damaged: usize, bytes: &[u8]) {
        let _ = fs::remove_dir_all(dir);
        for below in &self.dirs {
            fs::create_dir_all(dir.join(below)).unwrap();
        }
        for (n, file) in self.files.iter().enumerate() {
            let path = dir.join(&file.path);
            let bytes = if n == damaged { bytes } else { &file.bytes };
            fs::write(&path, bytes).unwrap();
            if file.mode & 0o222 == 0 {
                fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)).unwrap();
            }
        }
    }
}

/// A question to a store. Volumes are named by their number in [`Populated::points`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    Lookup(usize, Ino, Vec<u8>),
    Resolve(usize, String),
    Attr(usize, Ino),
    PathOf(usize, Ino),
    ReadDir(usize, Ino),
    Link(usize, Ino),
    Xattrs(usize, Ino),
    Seek(usize, Ino),
    Read(usize, Ino),
    Head(usize, String),
    Get(usize, String),
    List(usize),
    Versions(usize),
    Diff(usize, usize),
    Touched(usize, usize),
    Usage(TimelineId),
    SnapshotUsage(SnapshotId),
    Freed(Holder),
    Timelines,
    Deleted,
    Snapshots,
    Answered(RequestId),
    Verify(SnapshotId),
}

impl Ask {
    /// The way by which it reads, for the figures.
    pub fn way(&self) -> &'static str {
        match self {
            Self::Lookup(..) | Self::Resolve(..) | Self::PathOf(..) => "lookup",
            Self::Attr(..) => "attr",
            Self::ReadDir(..) => "readdir",
            Self::Link(..) => "readlink",
            Self::Xattrs(..) => "xattr",
            Self::Seek(..) => "seek",
            Self::Read(..) => "read",
            Self::Head(..) | Self::Get(..) => "object",
            Self::List(..) => "list",
            Self::Versions(..) => "log",
            Self::Diff(..) | Self::Touched(..) => "diff",
            Self::Usage(..) | Self::SnapshotUsage(..) | Self::Freed(..) => "du",
            Self::Timelines | Self::Deleted | Self::Snapshots => "ls",
            Self::Answered(..) => "answers",
            Self::Verify(..) => "verify",
        }
    }

    /// The point whose state it asks for; `None` for one about the whole store.
    fn point(&self) -> Option<usize> {
        match self {
            Self::Lookup(n, ..)
            | Self::Resolve(n, ..)
            | Self::Attr(n, ..)
            | Self::PathOf(n, ..)
            | Self::ReadDir(n, ..)
            | Self::Link(n, ..)
            | Self::Xattrs(n, ..)
            | Self::Seek(n, ..)
            | Self::Read(n, ..)
            | Self::Head(n, ..)
            | Self::Get(n, ..)
            | Self::List(n)
            | Self::Versions(n)
            | Self::Diff(n, _)
            | Self::Touched(n, _) => Some(*n),
            Self::Usage(_)
            | Self::SnapshotUsage(_)
            | Self::Freed(_)
            | Self::Timelines
            | Self::Deleted
            | Self::Snapshots
            | Self::Answered(_)
            | Self::Verify(_) => None,
        }
    }

    /// Whether it reads file data, so that a damaged file may make it fail while the index is whole.
    pub fn reads_data(&self) -> bool {
        matches!(
            self,
            Self::Read(..) | Self::Get(..) | Self::Diff(..) | Self::Verify(..)
        )
    }
}

/// How damage was noticed first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Noticed {
    Opening,
    Reading,
    Check,
    /// The index was made anew from the log, or `store.json` from its copy: nothing is wrong any more.
    Mended,
    /// Not at all: nothing that matters was hit.
    No,
}

/// What became of a damaged store.
pub struct Outcome {
    pub noticed: Noticed,
    /// What was said first.
    pub text: String,
    /// The numbers of the questions that were not answered.
    pub failed: Vec<usize>,
    /// How many were put.
    pub asked: u64,
}

pub struct Populated {
    /// After a clean close.
    pub closed: Image,
    /// As the death of its process leaves it, with commits that are in no index and some behind the last sync.
    pub killed: Image,
    pub points: Vec<Point>,
    tail: TimelineId,
    pub asks: Vec<(Ask, Result<String, ErrorKind>)>,
}

/// What a timeline holds before it is restored to an earlier state, and the collection after that gives up.
pub fn left_behind() -> Vec<u8> {
    pattern(110, 9_000)
}

fn node(kind: NodeKind, target: &[u8]) -> NewNode<'_> {
    NewNode {
        kind,
        mode: 0o755,
        rdev: 0,
        target,
    }
}

fn snapshot(engine: &Engine, name: &str, source: Point) -> SnapshotId {
    let request = SnapshotRequest {
        id: None,
        name: name.into(),
        source,
        labels: [("why".to_owned(), "a test".to_owned())].into(),
        durability: Durability::Local,
    };
    engine.snapshot(request).unwrap().id
}

fn fork(engine: &Engine, name: &str, source: Point) -> TimelineId {
    let request = ForkRequest {
        id: None,
        name: name.into(),
        source,
        settings: Settings::default(),
        durability: Durability::Local,
    };
    engine.fork(request).unwrap().id
}

fn open(engine: &Engine, point: Point) -> Volume {
    engine.volume(point, VolumeOptions::default()).unwrap()
}

impl Populated {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let engine = Engine::open(&store, options()).unwrap();
        let root = |name: &str, retain| {
            let request = CreateRoot {
                name: name.into(),
                settings: Settings {
                    retain,
                    ..Settings::default()
                },
                ..Default::default()
            };
            engine.create_root(request).unwrap().id
        };
        let base = root("base", Duration::from_secs(1 << 30));
        let tail = root(TAIL, Duration::ZERO);
        import(&engine, base, dir.path());
        let first = snapshot(&engine, "first", Point::Now(base));
        let f = fork(&engine, "fork", Point::Snapshot(first));
        let (v, w) = (
            open(&engine, Point::Now(base)),
            open(&engine, Point::Now(f)),
        );
        for n in 0..6 {
            write(&w, "/sub/chunk", n * 3_000, &pattern(10 + n, 2_000));
            write(
                &w,
                &format!("/new{n}"),
                0,
                &pattern(30 + n, 700 * n as usize),
            );
            write(&v, &format!("/sub/more{n}"), 0, &pattern(60 + n, 3_000));
        }
        w.unlink(&caller(), Ino::ROOT, b"new3").unwrap();
        w.reap_all().unwrap();
        write(&v, "/sub/inline", 100, b"changed in the base");
        let past = engine.tick().unwrap();
        for n in 0..3 {
            write(&v, "/sub/more1", n * 500, &pattern(70 + n, 900));
            let put = PutOptions {
                content_type: Some("text/plain".into()),
                ..Default::default()
            };
            let body = pattern(80 + n, 2_000);
            v.objects().put("keys/a.txt", &body, &put).unwrap();
            engine.tick().unwrap();
        }
        // What is deleted, restored, and collected.
        let gone = fork(&engine, "gone", Point::Now(base));
        let below = fork(&engine, "below", Point::Now(gone));
        let x = open(&engine, Point::Now(gone));
        write(&x, "/only-there", 0, &pattern(90, 40_000));
        let second = snapshot(&engine, "second", Point::Now(f));
        for n in 0..4 {
            write(&w, "/big", 0, &pattern(100 + n, 24_000));
        }
        let restored = fork(&engine, "restored", Point::Now(f));
        let y = open(&engine, Point::Now(restored));
        write(&y, "/left-behind", 0, &left_behind());
        engine.restore(restored, Point::Snapshot(second)).unwrap();
        write(&y, "/after", 0, &pattern(111, 9_000));
        drop(x);
        engine.delete_timeline(gone).unwrap();
        let report = engine.gc(GcOptions::default()).unwrap();
        assert!(report.returned_bytes > 0, "{report:?}");
        drop((v, w, y));
        engine.close().unwrap();

        // A second run, of which the index has nothing when it is killed.
        let engine = Engine::open(&store, options()).unwrap();
        let (v, w) = (
            open(&engine, Point::Now(base)),
            open(&engine, Point::Now(f)),
        );
        let request = RequestId {
            connection: 77,
            unique: 42,
        };
        let again = Caller {
            request: Some(request),
            ..caller()
        };
        w.create(&again, Ino::ROOT, b"asked-for", &node(NodeKind::File, b""))
            .unwrap();
        for n in 0..5 {
            write(&v, &format!("/late{n}"), 0, &pattern(120 + n, 4_000));
            write(&w, "/sub/chunk", 20_000, &pattern(130 + n, 5_000));
        }
        v.rename(
            &caller(),
            Ino::ROOT,
            b"late0",
            Ino::ROOT,
            b"renamed",
            RenameMode::Replace,
        )
        .unwrap();
        let t = open(&engine, Point::Now(tail));
        write(&t, "/tail", 0, TAIL_LINE);
        engine.sync().unwrap();

        let points = vec![
            Point::Now(base),
            Point::Now(f),
            Point::Now(below),
            Point::Now(restored),
            Point::Snapshot(first),
            Point::Snapshot(second),
            Point::At(base, past),
        ];
        let asks = asks(&engine, &points, &[first, second], request);
        for n in 1..4 {
            write(&t, "/tail", n * TAIL_LINE.len() as u64, TAIL_LINE);
        }
        let killed = Image::of(&store);
        drop((v, w, t));
        engine.close().unwrap();
        let mut populated = Self {
            closed: Image::of(&store),
            killed,
            points,
            tail,
            asks: asks.into_iter().map(|a| (a, Err(ErrorKind::Io))).collect(),
        };
        // The right answers are those of the store as it stands; both images must give them.
        let engine = Engine::open(&store, options()).unwrap();
        let session = Session::new(&engine, &populated.points);
        for (ask, answer) in &mut populated.asks {
            *answer = session.put(ask).map_err(|e| e.kind());
        }
        drop(session);
        engine.close().unwrap();
        populated
    }

    /// Opens a damaged store and puts every question about the store and about these states to it, then checks all of
    /// it. Each answer is the right one, or an error that names what is damaged.
    pub fn examine(&self, store: &Path, states: &[usize], what: &str) -> Outcome {
        let mut outcome = Outcome {
            noticed: Noticed::No,
            text: String::new(),
            failed: Vec::new(),
            asked: 0,
        };
        let how = Options {
            create: false,
            ..options()
        };
        let engine = match Engine::open(store, how) {
            Ok(engine) => engine,
            Err(e) => {
                assert_named(&e, what);
                outcome.noticed = Noticed::Opening;
                outcome.text = e.to_string();
                return outcome;
            }
        };
        let recovery = engine.recovery();
        if recovery.index_rebuilt || recovery.store_file_restored {
            outcome.noticed = Noticed::Mended;
        }
        let session = Session::new(&engine, &self.points);
        for (n, (ask, right)) in self.asks.iter().enumerate() {
            if ask.point().is_some_and(|n| !states.contains(&n)) {
                continue;
            }
            outcome.asked += 1;
            match (session.put(ask), right) {
                (Ok(answer), Ok(right)) if answer == *right => {}
                (Err(e), Err(right)) if e.kind() == *right => {}
                (Ok(answer), right) => panic!("{what}: {ask:?} gives {answer}, not {right:?}"),
                (Err(e), _) => {
                    assert_named(&e, &format!("{what}: {ask:?}"));
                    outcome.failed.push(n);
                    if outcome.noticed > Noticed::Reading {
                        outcome.noticed = Noticed::Reading;
                        outcome.text = e.to_string();
                    }
                }
            }
        }
        self.read_tail(&engine, what);
        drop(session);
        let report = engine.check(|_| {}).unwrap();
        let scrubbed = engine
            .scrub(ScrubOptions::default(), &mut |_| {
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        // What the check finds in the stored bytes, the scrub does; what it compares besides, only the check.
        let unread = report.findings.iter().any(|f| {
            let kinds = [FindingKind::Extent, FindingKind::IndexUnreadable];
            kinds.contains(&f.kind)
        });
        assert!(
            !unread || !scrubbed.is_sound(),
            "{what}: the scrub finds nothing: {report}"
        );
        assert!(
            scrubbed.is_sound() || !report.is_sound(),
            "{what}: only the scrub finds: {scrubbed:?}"
        );
        if outcome.noticed == Noticed::Reading {
            let text = &outcome.text;
            assert!(
                !report.is_sound(),
                "{what}: reading fails ({text}) and the check finds nothing"
            );
        } else if !report.is_sound() {
            outcome.noticed = Noticed::Check;
            outcome.text = report.to_string();
        }
        outcome
    }

    /// What nobody waited for may be there or not, but only whole writes, in their order.
    fn read_tail(&self, engine: &Engine, what: &str) {
        let read = || {
            let v = engine.volume(Point::Now(self.tail), VolumeOptions::default())?;
            let attr = v.resolve(b"/tail")?;
            v.read(attr.ino, 0, attr.size as usize + 1)
        };
        match read() {
            Ok(bytes) => assert!(
                TAIL_LINE.repeat(4).starts_with(&bytes) && bytes.len() % TAIL_LINE.len() == 0,
                "{what}: the tail is wrong"
            ),
            Err(e) => assert_named(&e, what),
        }
    }
}

/// Files of all kinds, from a directory and made by hand.
fn import(engine: &Engine, base: TimelineId, dir: &Path) {
    let source = dir.join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("object"), pattern(1, 265_000)).unwrap();
    fs::write(source.join("sub/chunk"), pattern(2, 50_000)).unwrap();
    fs::write(source.join("sub/inline"), pattern(3, 500)).unwrap();
    fs::write(source.join("sub/empty"), b"").unwrap();
    let v = open(engine, Point::Now(base));
    import_directory(&v, &Source::open(&source).unwrap(), &mut |_| {
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    let me = caller();
    let sub = v.resolve(b"/sub").unwrap().ino;
    v.create(&me, sub, b"link", &node(NodeKind::Symlink, b"../object"))
        .unwrap();
    let inline = v.resolve(b"/sub/inline").unwrap().ino;
    v.link(&me, inline, Ino::ROOT, b"second-name").unwrap();
    v.set_xattr(&me, inline, b"user.note", &pattern(5, 300), XattrMode::Set)
        .unwrap();
    write(&v, "/sparse", 200_000, &pattern(6, 1_500));
    write(&v, "/sparse", 0, &pattern(7, 1_500));
}

/// Every question about what the points show.
fn asks(
    engine: &Engine,
    points: &[Point],
    snapshots: &[SnapshotId],
    request: RequestId,
) -> Vec<Ask> {
    let mut asks = vec![
        Ask::Timelines,
        Ask::Deleted,
        Ask::Snapshots,
        Ask::Answered(request),
    ];
    for (n, point) in points.iter().enumerate() {
        let v = open(engine, *point);
        let mut dirs = vec![(String::new(), Ino::ROOT)];
        let mut seen = BTreeSet::from([Ino::ROOT]);
        while let Some((above, dir)) = dirs.pop() {
            asks.push(Ask::ReadDir(n, dir));
            asks.push(Ask::Lookup(n, dir, b"nothing".to_vec()));
            for e in v.read_dir(dir, 0, 1000).unwrap() {
                let path = format!("{above}/{}", String::from_utf8_lossy(&e.name));
                asks.push(Ask::Lookup(n, dir, e.name.clone()));
                // Each way in every other state: much is the same in all of them, and time is dear.
                let even = n % 2 == 0;
                if even {
                    asks.push(Ask::Resolve(n, path.clone()));
                }
                if e.kind == NodeKind::Directory {
                    dirs.push((path, e.ino));
                } else if e.kind == NodeKind::File {
                    let key = path.trim_start_matches('/').to_owned();
                    asks.push(if even {
                        Ask::Head(n, key)
                    } else {
                        Ask::Get(n, key)
                    });
                }
                if !seen.insert(e.ino) {
                    continue;
                }
                asks.push(Ask::Attr(n, e.ino));
                asks.push(if even {
                    Ask::Xattrs(n, e.ino)
                } else {
                    Ask::PathOf(n, e.ino)
                });
                match e.kind {
                    NodeKind::File if even => {
                        asks.extend([Ask::Read(n, e.ino), Ask::Seek(n, e.ino)])
                    }
                    NodeKind::File => asks.push(Ask::Read(n, e.ino)),
                    NodeKind::Symlink => asks.push(Ask::Link(n, e.ino)),
                    _ => {}
                }
            }
        }
        asks.push(Ask::List(n));
        if matches!(point, Point::Now(_)) {
            asks.push(Ask::Versions(n));
        }
        let other = (n + 1) % points.len();
        asks.extend([Ask::Diff(n, other), Ask::Touched(n, other)]);
    }
    for t in engine.timelines().iter().filter(|t| t.name != TAIL) {
        asks.extend([Ask::Usage(t.id), Ask::Freed(Holder::Timeline(t.id))]);
    }
    for s in snapshots {
        asks.extend([
            Ask::SnapshotUsage(*s),
            Ask::Freed(Holder::Snapshot(*s)),
            Ask::Verify(*s),
        ]);
    }
    asks
}

/// An open store, for questions.
struct Session<'a> {
    engine: &'a Engine,
    points: &'a [Point],
    volumes: Vec<Result<Volume>>,
}

fn show<T: Debug>(answer: T) -> Result<String> {
    Ok(format!("{answer:?}"))
}

/// Bytes, short.
fn sum(bytes: &[u8]) -> Result<String> {
    Ok(format!(
        "{} bytes, {:08x}",
        bytes.len(),
        crc32c::crc32c(bytes)
    ))
}

impl<'a> Session<'a> {
    fn new(engine: &'a Engine, points: &'a [Point]) -> Self {
        let volumes = points
            .iter()
            .map(|p| engine.volume(*p, VolumeOptions::default()))
            .collect();
        Self {
            engine,
            points,
            volumes,
        }
    }

    fn volume(&self, n: usize) -> Result<&Volume> {
        self.volumes[n].as_ref().map_err(Clone::clone)
    }

    fn put(&self, ask: &Ask) -> Result<String> {
        let (engine, points) = (self.engine, self.points);
        match ask {
            Ask::Lookup(n, dir, name) => show(self.volume(*n)?.lookup(*dir, name)?),
            Ask::Resolve(n, path) => show(self.volume(*n)?.resolve(path.as_bytes())?),
            Ask::Attr(n, ino) => show(self.volume(*n)?.attr(*ino)?),
            Ask::PathOf(n, ino) => show(self.volume(*n)?.path_of(*ino)?),
            Ask::ReadDir(n, ino) => {
                let (v, mut all, mut after) = (self.volume(*n)?, Vec::new(), 0);
                loop {
                    let entries = v.read_dir(*ino, after, 7)?;
                    let Some(last) = entries.last() else { break };
                    after = last.cookie;
                    all.extend(entries.into_iter().map(|e| (e.name, e.ino, e.kind)));
                }
                show(all)
            }
            Ask::Link(n, ino) => show(self.volume(*n)?.read_link(*ino)?),
            Ask::Xattrs(n, ino) => {
                let v = self.volume(*n)?;
                let mut all = Vec::new();
                for name in v.xattrs(*ino)? {
                    let value = v.xattr(*ino, &name)?;
                    all.push((name, value));
                }
                show(all)
            }
            Ask::Seek(n, ino) => {
                let v = self.volume(*n)?;
                let data = match v.seek(*ino, 0, Seek::Data) {
                    Err(e) if e.kind() == ErrorKind::NoData => None,
                    at => Some(at?),
                };
                let hole = match v.seek(*ino, 0, Seek::Hole) {
                    Err(e) if e.kind() == ErrorKind::NoData => None,
                    at => Some(at?),
                };
                show((data, hole))
            }
            Ask::Read(n, ino) => sum(&self.volume(*n)?.read(*ino, 0, 1 << 20)?),
            Ask::Head(n, key) => show(self.volume(*n)?.objects().head(key)?),
            Ask::Get(n, key) => {
                let range = Some(ByteRange::Last(1_000)).filter(|_| key.len() % 2 == 0);
                let volume = self.volume(*n)?;
                sum(&volume.objects().get(key, range)?.into_bytes()?)
            }
            Ask::List(n) => show(self.volume(*n)?.objects().list(&ListRequest::default())?),
            Ask::Versions(n) => {
                let request = VersionsRequest::default();
                show(self.volume(*n)?.objects().list_versions(&request)?)
            }
            Ask::Diff(a, b) => show(engine.diff(points[*a], points[*b])?),
            Ask::Touched(a, b) => show(engine.touched(points[*a], points[*b], 10_000)?),
            Ask::Usage(id) => show(engine.usage(*id)?),
            Ask::SnapshotUsage(id) => show(engine.snapshot_usage(*id)?),
            Ask::Freed(holder) => show(engine.freed_by_deleting(&[*holder])?),
            Ask::Timelines => show(engine.timelines()),
            Ask::Deleted => show(engine.deleted_timelines()),
            Ask::Snapshots => show(engine.snapshots()?),
            Ask::Answered(request) => show(self.volume(0)?.answered(*request)?),
            Ask::Verify(id) => show(engine.verify(*id, None)?.digest),
        }
    }
}
