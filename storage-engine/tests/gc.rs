//! Collection: what goes, what stays and why, and what a crash in the middle leaves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use storage_engine::*;

const MIB: usize = 1 << 20;
const FILE: NewNode<'static> = NewNode {
    kind: NodeKind::File,
    mode: 0o644,
    rdev: 0,
    target: &[],
};

/// A clock that goes on by a microsecond with each look.
struct Steps(AtomicU64);

impl Clock for Steps {
    fn now(&self) -> u64 {
        self.0.fetch_add(1_000, Ordering::Relaxed)
    }
}

struct Store {
    dir: tempfile::TempDir,
    engine: Option<Engine>,
    clock: Arc<Steps>,
}

impl Store {
    fn new() -> Store {
        let mut store = Store {
            dir: tempfile::tempdir().unwrap(),
            engine: None,
            clock: Arc::new(Steps(AtomicU64::new(1_700_000_000_000_000_000))),
        };
        store.open();
        store
    }

    fn open(&mut self) {
        let options = Options {
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            segment_bytes: MIB as u64,
            ..Options::default()
        };
        self.engine = Some(Engine::open(self.dir.path(), options).unwrap());
    }

    fn reopen(&mut self) {
        self.engine.take().unwrap().close().unwrap();
        self.open();
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn root(&self, name: &str, retain: Duration) -> Volume {
        let new = CreateRoot {
            name: name.into(),
            settings: Settings {
                retain,
                ..Settings::default()
            },
            durability: Durability::Memory,
            ..Default::default()
        };
        let id = self.engine().create_root(new).unwrap().id;
        self.volume(Point::Now(id))
    }

    fn volume(&self, point: Point) -> Volume {
        self.engine()
            .volume(point, VolumeOptions::default())
            .unwrap()
    }

    fn fork(&self, name: &str, source: Point) -> Volume {
        let request = ForkRequest {
            id: None,
            name: name.into(),
            source,
            settings: Settings::default(),
            durability: Durability::Memory,
        };
        let id = self.engine().fork(request).unwrap().id;
        self.volume(Point::Now(id))
    }

    fn snapshot(&self, name: &str, of: &Volume) -> SnapshotId {
        let request = SnapshotRequest {
            id: None,
            name: name.into(),
            source: Point::Now(of.timeline()),
            labels: Default::default(),
            durability: Durability::Memory,
        };
        self.engine().snapshot(request).unwrap().id
    }

    fn gc(&self) -> GcReport {
        self.engine().gc(GcOptions::default()).unwrap()
    }

    fn sound(&self) {
        let report = self.engine().check(|_| {}).unwrap();
        assert_eq!(report.errors, 0, "{:#?}", report.findings);
    }

    /// Bytes on disk of log and object files.
    fn stored(&self) -> u64 {
        size(&self.dir.path().join("log")) + size(&self.dir.path().join("objects"))
    }

    fn object_files(&self) -> usize {
        count(&self.dir.path().join("objects"))
    }
}

fn size(path: &Path) -> u64 {
    let meta = std::fs::metadata(path).unwrap();
    if !meta.is_dir() {
        return meta.blocks() * 512;
    }
    let entries = std::fs::read_dir(path).unwrap();
    entries.map(|e| size(&e.unwrap().path())).sum()
}

fn count(path: &Path) -> usize {
    let entries = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path());
    entries
        .map(|p| if p.is_dir() { count(&p) } else { 1 })
        .sum()
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
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

fn put(v: &Volume, name: &str, data: &[u8]) {
    let me = Caller::default();
    let ino = match v.lookup(Ino::ROOT, name.as_bytes()) {
        Ok(a) => a.ino,
        Err(_) => {
            v.create(&me, Ino::ROOT, name.as_bytes(), &FILE)
                .unwrap()
                .ino
        }
    };
    for (n, part) in data.chunks(MIB).enumerate() {
        v.write(&me, ino, (n * MIB) as u64, part, WriteOptions::default())
            .unwrap();
    }
}

fn remove(v: &Volume, name: &str) {
    let ino = v.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
    v.unlink(&Caller::default(), Ino::ROOT, name.as_bytes())
        .unwrap();
    v.reap(ino).unwrap();
}

fn get(v: &Volume, name: &str) -> Vec<u8> {
    let a = v.lookup(Ino::ROOT, name.as_bytes()).unwrap();
    v.read(a.ino, 0, a.size as usize).unwrap()
}

#[test]
fn what_was_overwritten_goes_and_what_a_snapshot_shows_stays_until_it_is_deleted() {
    let mut store = Store::new();
    let v = store.root("base", Duration::ZERO);
    let old = bytes(1, 4 * MIB);
    put(&v, "f", &old);
    let snapshot = store.snapshot("s", &v);
    for n in 2..6 {
        put(&v, "f", &bytes(n, 4 * MIB));
    }
    let new = bytes(9, 4 * MIB);
    put(&v, "f", &new);
    let before = store.stored();
    let planned = store
        .engine()
        .gc(GcOptions {
            dry_run: true,
            explain: true,
            ..GcOptions::default()
        })
        .unwrap();
    assert_eq!(store.stored(), before, "a dry run has changed something");
    let report = store.engine().gc(GcOptions {
        explain: true,
        ..GcOptions::default()
    });
    let report = report.unwrap();
    assert_eq!(report.bytes, 16 * MIB as u64, "{report:#?}");
    assert_eq!(
        (planned.bytes, planned.versions, &planned.kept),
        (report.bytes, report.versions, &report.kept)
    );
    assert_eq!(report.kept.len(), 1, "{report:#?}");
    assert_eq!(report.kept[0].bytes, 4 * MIB as u64);
    assert!(
        matches!(&report.kept[0].by, KeptBy::Snapshot { name, .. } if name == "s"),
        "{report:#?}"
    );
    assert!(
        before - store.stored() > 14 * MIB as u64,
        "{before} bytes before, {} after: {report:#?}",
        store.stored()
    );
    let pinned = store.volume(Point::Snapshot(snapshot));
    assert!(get(&pinned, "f") == old && get(&v, "f") == new);
    store.sound();
    // A reader that has it open keeps it, although the snapshot is deleted.
    store.engine().delete_snapshot(snapshot).unwrap();
    assert_eq!(store.gc().bytes, 0);
    assert!(get(&pinned, "f") == old);
    drop(pinned);
    assert_eq!(store.gc().bytes, 4 * MIB as u64);
    assert!(get(&v, "f") == new);
    assert_eq!(
        store.engine().usage(v.timeline()).unwrap().divergent_bytes,
        4 * MIB as u64
    );
    store.sound();
    assert_eq!(store.gc().bytes, 0, "it was given up twice");
    // The same from the log alone.
    drop(v);
    store.engine.take().unwrap().close().unwrap();
    std::fs::remove_dir_all(store.dir.path().join("index")).unwrap();
    store.open();
    let base = store.engine().timeline_named("base").unwrap().id;
    assert!(get(&store.volume(Point::Now(base)), "f") == new);
    store.sound();
    assert_eq!(store.gc().bytes, 0);
}

#[test]
fn object_files_go_when_the_last_state_that_shows_them_does() {
    let store = Store::new();
    let v = store.root("base", Duration::ZERO);
    let options = objects::PutOptions {
        durability: Durability::Memory,
        ..Default::default()
    };
    for key in ["kept", "replaced", "removed", "patched"] {
        let put = v
            .objects()
            .put(key, &bytes(key.len() as u64, MIB), &options);
        put.unwrap();
    }
    let fork = store.fork("fork", Point::Now(v.timeline()));
    v.objects()
        .put("replaced", &bytes(77, MIB), &options)
        .unwrap();
    v.objects().delete("removed").unwrap();
    // A few bytes in the middle of a block: the rest of the block stays needed.
    let ino = v.lookup(Ino::ROOT, b"patched").unwrap().ino;
    v.write(
        &Caller::default(),
        ino,
        500_000,
        b"patch",
        WriteOptions::default(),
    )
    .unwrap();
    store.gc();
    assert_eq!(store.object_files(), 5);
    store.engine().delete_timeline(fork.timeline()).unwrap();
    store.gc();
    assert_eq!(store.object_files(), 3);
    assert_eq!(&get(&v, "patched")[500_000..500_005], b"patch");
    store.sound();
    remove(&v, "patched");
    store.gc();
    assert_eq!(store.object_files(), 2);
    // Whoever has a file open reads on, as a kernel does that was handed one.
    let ino = v.lookup(Ino::ROOT, b"kept").unwrap().ino;
    let open = v.sealed_file(ino).unwrap().unwrap();
    remove(&v, "kept");
    store.gc();
    assert_eq!(store.object_files(), 1);
    let mut all = Vec::new();
    std::io::Read::read_to_end(&mut &open, &mut all).unwrap();
    assert!(all == bytes(4, MIB));
    store.engine().delete_timeline(v.timeline()).unwrap();
    let report = store.gc();
    assert_eq!((report.dropped_timelines, store.object_files()), (1, 0));
    store.sound();
    assert!(store.engine().timelines().is_empty());
}

#[test]
fn parents_go_before_children_and_nothing_that_is_left_changes() {
    let mut store = Store::new();
    let base = store.root("base", Duration::ZERO);
    put(&base, "base", &bytes(1, MIB));
    put(&base, "gone", &bytes(2, 2 * MIB));
    let a = store.fork("a", Point::Now(base.timeline()));
    put(&a, "a", &bytes(3, MIB));
    let b = store.fork("b", Point::Now(a.timeline()));
    put(&a, "late", &bytes(4, 2 * MIB));
    remove(&b, "gone");
    put(&base, "late", &bytes(5, 2 * MIB));
    store.engine().delete_timeline(base.timeline()).unwrap();
    store.engine().delete_timeline(a.timeline()).unwrap();
    let report = store.gc();
    // What came after the forks' cutoffs; "gone" is needed by nobody's newest state, but b's cutoff shows it.
    assert_eq!(report.bytes, 4 * MIB as u64, "{report:#?}");
    let same = |v: &Volume| get(v, "base") == bytes(1, MIB) && get(v, "a") == bytes(3, MIB);
    assert!(same(&b));
    store.sound();
    let id = b.timeline();
    drop((base, a, b));
    store.reopen();
    assert!(same(&store.volume(Point::Now(id))));
    store.engine().delete_timeline(id).unwrap();
    let report = store.gc();
    assert_eq!(report.dropped_timelines, 3);
    assert!(store.engine().deleted_timelines().is_empty());
    store.sound();
    store.reopen();
    store.gc();
    assert!(
        store.stored() < MIB as u64,
        "{} bytes are left",
        store.stored()
    );
}

#[test]
fn what_a_restore_left_behind_goes_unless_history_is_kept() {
    let store = Store::new();
    let v = store.root("base", Duration::ZERO);
    let first = bytes(1, MIB);
    put(&v, "f", &first);
    let snapshot = store.snapshot("s", &v);
    put(&v, "f", &bytes(2, MIB));
    put(&v, "only after", &bytes(3, MIB));
    store
        .engine()
        .restore(v.timeline(), Point::Snapshot(snapshot))
        .unwrap();
    let report = store.gc();
    assert_eq!(report.bytes, 2 * MIB as u64, "{report:#?}");
    assert!(get(&v, "f") == first);
    assert!(v.lookup(Ino::ROOT, b"only after").is_err());
    store.sound();
    // The cutoff that it was restored to is its own past.
    store.engine().delete_snapshot(snapshot).unwrap();
    assert_eq!(store.gc().bytes, 0);
    assert!(get(&v, "f") == first);
    put(&v, "f", &bytes(4, MIB));
    assert_eq!(
        store.gc().bytes,
        0,
        "the newest state's origin still shows it"
    );
    store.sound();
}

#[test]
fn retention_keeps_every_instant_and_what_is_older_is_refused_by_name() {
    let store = Store::new();
    let v = store.root("base", Duration::from_secs(10));
    let mut epochs = Vec::new();
    for n in 0..6u64 {
        put(&v, "f", &bytes(n, MIB));
        epochs.push(store.engine().tick().unwrap());
        store.clock.0.fetch_add(4_000_000_000, Ordering::Relaxed);
    }
    let report = store.gc();
    assert!(report.bytes >= 2 * MIB as u64, "{report:#?}");
    let at = |n: usize| {
        let point = Point::At(v.timeline(), epochs[n]);
        store.engine().volume(point, VolumeOptions::default())
    };
    assert!(get(&at(5).unwrap(), "f") == bytes(5, MIB));
    let error = at(0).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::OutOfRetention);
    let earliest: u64 = error
        .to_string()
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    // Longer retention does not bring back what is gone.
    let longer = Settings {
        retain: Duration::from_secs(3_600),
        ..Settings::default()
    };
    store
        .engine()
        .update_settings(v.timeline(), longer)
        .unwrap();
    assert_eq!(at(0).err().unwrap().kind(), ErrorKind::OutOfRetention);
    let point = Point::At(v.timeline(), Epoch(earliest));
    let fork = store.fork("at the earliest", point);
    // An epoch has the time of its beginning: the fifth began before that instant, and the sixth after it.
    assert!(get(&fork, "f") == bytes(4, MIB));
    store.gc();
    assert!(get(&fork, "f") == bytes(4, MIB));
    assert!(get(&at(5).unwrap(), "f") == bytes(5, MIB));
    store.sound();
}

#[test]
fn files_of_puts_that_were_killed_are_found_after_the_next_opening() {
    let mut store = Store::new();
    let v = store.root("base", Duration::ZERO);
    let options = objects::PutOptions {
        durability: Durability::Memory,
        ..Default::default()
    };
    v.objects().put("kept", &bytes(1, MIB), &options).unwrap();
    let mut writer = v.objects().put_stream("half", options).unwrap();
    std::io::Write::write_all(&mut writer, &bytes(2, 2 * MIB)).unwrap();
    // While it is being written, it is not left behind.
    let all = GcOptions {
        objects: true,
        ..GcOptions::default()
    };
    store.engine().gc(all).unwrap();
    assert_eq!(store.object_files(), 2);
    std::mem::forget(writer);
    let id = v.timeline();
    drop(v);
    drop(store.engine.take());
    // The forgotten writer holds nothing of the store but its file.
    store.open();
    assert_eq!(store.gc().objects, 1);
    assert_eq!(store.object_files(), 1);
    assert!(get(&store.volume(Point::Now(id)), "kept") == bytes(1, MIB));
    store.sound();
}

#[test]
fn an_object_reader_gets_its_bytes_whatever_is_collected_meanwhile() {
    let store = Store::new();
    let v = store.root("base", Duration::ZERO);
    let options = objects::PutOptions {
        durability: Durability::Memory,
        ..Default::default()
    };
    let data = bytes(1, 3 * MIB);
    v.objects().put("k", &data, &options).unwrap();
    let reader = v.objects().get("k", None).unwrap();
    v.objects().put("k", &bytes(2, MIB), &options).unwrap();
    assert_eq!(store.gc().bytes, 0);
    assert!(reader.into_bytes().unwrap() == data);
    assert_eq!(store.gc().bytes, 3 * MIB as u64);
    store.sound();
}

#[test]
fn a_collection_in_the_background_needs_nobody_to_ask() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: MIB as u64,
        gc: Some(GcSchedule {
            every: Duration::from_millis(20),
            rate: Some(1_000_000),
        }),
        ..Options::default()
    };
    let engine = Engine::open(dir.path(), options).unwrap();
    let id = engine
        .create_root(CreateRoot {
            name: "base".into(),
            ..Default::default()
        })
        .unwrap()
        .id;
    let v = engine
        .volume(Point::Now(id), VolumeOptions::default())
        .unwrap();
    for n in 0..20 {
        put(&v, "f", &bytes(n, MIB));
    }
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while engine.usage(id).unwrap().divergent_bytes > MIB as u64 {
        assert!(
            std::time::Instant::now() < until,
            "nothing was collected within a minute"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(get(&v, "f") == bytes(19, MIB));
    assert_eq!(engine.check(|_| {}).unwrap().errors, 0);
    drop(v);
    engine.close().unwrap();
}
