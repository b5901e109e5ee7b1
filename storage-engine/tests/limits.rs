//! Quotas, and a disk that is full.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;

use storage_engine::objects::PutOptions;
use storage_engine::*;

const CHUNK: usize = 128 << 10;
const MIB: u64 = 1 << 20;

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn open(dir: &Path) -> Engine {
    let options = Options {
        segment_bytes: MIB,
        ..Options::default()
    };
    Engine::open(dir, options).unwrap()
}

fn volume(engine: &Engine, id: TimelineId) -> Volume {
    engine
        .volume(Point::Now(id), VolumeOptions::default())
        .unwrap()
}

fn root(engine: &Engine, name: &str) -> TimelineId {
    let new = CreateRoot {
        name: name.into(),
        durability: Durability::Memory,
        ..Default::default()
    };
    engine.create_root(new).unwrap().id
}

fn fork(engine: &Engine, name: &str, of: TimelineId, quota: Quota) -> Result<TimelineId> {
    let request = ForkRequest {
        id: None,
        name: name.into(),
        source: Point::Now(of),
        settings: Settings {
            quota,
            ..Settings::default()
        },
        durability: Durability::Memory,
    };
    engine.fork(request).map(|t| t.id)
}

fn create(v: &Volume, name: &str) -> Result<Ino> {
    let node = NewNode {
        kind: NodeKind::File,
        mode: 0o644,
        rdev: 0,
        target: &[],
    };
    let made = v.create(&Caller::default(), Ino::ROOT, name.as_bytes(), &node);
    made.map(|a| a.ino)
}

fn write(v: &Volume, ino: Ino, at: u64, data: &[u8]) -> Result<usize> {
    v.write(&Caller::default(), ino, at, data, WriteOptions::default())
}

fn remove(v: &Volume, name: &str) {
    let ino = v.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
    v.unlink(&Caller::default(), Ino::ROOT, name.as_bytes())
        .unwrap();
    v.reap(ino).unwrap();
}

fn own(engine: &Engine, id: TimelineId) -> u64 {
    let usage = engine.usage(id).unwrap();
    usage.allocated_bytes - usage.shared_bytes
}

fn sound(engine: &Engine) {
    let report = engine.check(|_| {}).unwrap();
    assert_eq!(report.errors, 0, "{:#?}", report.findings);
}

fn set_quota(engine: &Engine, id: TimelineId, quota: Quota) {
    let settings = Settings {
        quota,
        ..Settings::default()
    };
    engine.update_settings(id, settings).unwrap();
}

fn of_bytes(bytes: u64) -> Quota {
    Quota {
        bytes: Some(bytes),
        inodes: None,
    }
}

#[test]
fn writers_together_exceed_a_quota_by_no_more_than_a_chunk_each() {
    const WRITERS: u64 = 6;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let base = root(&engine, "base");
    {
        let v = volume(&engine, base);
        let ino = create(&v, "shared").unwrap();
        write(&v, ino, 0, &bytes(1, 2 << 20)).unwrap();
    }
    // Not a multiple of what is written at once.
    let limit = 3 * MIB + 4_321;
    let limited = fork(&engine, "limited", base, of_bytes(limit)).unwrap();
    let free = fork(&engine, "free", base, Quota::default()).unwrap();
    let barrier = Barrier::new(WRITERS as usize + 1);
    std::thread::scope(|scope| {
        for n in 0..WRITERS {
            let (engine, barrier) = (&engine, &barrier);
            scope.spawn(move || {
                let v = volume(engine, limited);
                let ino = create(&v, &format!("w{n}")).unwrap();
                barrier.wait();
                let data = bytes(n, CHUNK);
                for k in 0.. {
                    match write(&v, ino, k * CHUNK as u64, &data) {
                        Ok(_) => assert!(k * WRITERS < 10_000, "nobody is ever refused"),
                        Err(e) => {
                            assert_eq!(e.kind(), ErrorKind::QuotaExceeded, "{e}");
                            break;
                        }
                    }
                }
            });
        }
        barrier.wait();
        // Another timeline is not hindered meanwhile.
        let v = volume(&engine, free);
        let ino = create(&v, "unhindered").unwrap();
        for k in 0..60 {
            write(&v, ino, k * CHUNK as u64, &bytes(99, CHUNK)).unwrap();
        }
    });
    let used = own(&engine, limited);
    assert!(used <= limit + WRITERS * CHUNK as u64, "{used} of {limit}");
    assert!(used + CHUNK as u64 > limit, "{used} of {limit}: too early");
    let v = volume(&engine, limited);
    let fs = v.stat_fs().unwrap();
    assert_eq!(fs.bytes_free, limit.saturating_sub(used));
    // A shared file is changed at the cost of what is changed; one byte more than there is room is refused.
    let shared = v.lookup(Ino::ROOT, b"shared").unwrap().ino;
    let left = limit - used;
    let refused = write(&v, shared, 0, &bytes(7, left as usize + 1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::QuotaExceeded);
    write(&v, shared, 0, &bytes(7, left as usize)).unwrap();
    assert_eq!(own(&engine, limited), limit);
    // What is there already may be written again, and read.
    let mut written = (0..WRITERS).map(|n| {
        let name = format!("w{n}");
        v.lookup(Ino::ROOT, name.as_bytes()).unwrap()
    });
    let mine = written.find(|a| a.size > 0).unwrap();
    write(&v, mine.ino, 0, &bytes(8, 1_000)).unwrap();
    assert_eq!(v.read(mine.ino, 0, 1_000).unwrap(), bytes(8, 1_000));
    // Lowered below what is used: nothing more, but deleting; raised: at once.
    set_quota(&engine, limited, of_bytes(MIB));
    assert_eq!(v.stat_fs().unwrap().bytes_free, 0);
    let grows = write(&v, shared, MIB, b"x").unwrap_err();
    assert_eq!(grows.kind(), ErrorKind::QuotaExceeded);
    assert_eq!(v.read(shared, 0, 100).unwrap(), bytes(7, 100));
    for n in 0..WRITERS {
        remove(&v, &format!("w{n}"));
    }
    assert!(own(&engine, limited) < MIB);
    write(&v, shared, MIB, b"x").unwrap();
    set_quota(&engine, limited, of_bytes(50 * MIB));
    write(&v, shared, 0, &bytes(9, 2 << 20)).unwrap();
    sound(&engine);
}

#[test]
fn a_quota_of_inodes_counts_what_is_not_reaped_and_follows_changes() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let base = root(&engine, "base");
    let quota = |n| Quota {
        bytes: None,
        inodes: Some(n),
    };
    create(&volume(&engine, base), "shared").unwrap();
    let limited = fork(&engine, "limited", base, quota(5)).unwrap();
    let v = volume(&engine, limited);
    // The root and the shared file count.
    for n in 0..3 {
        create(&v, &format!("f{n}")).unwrap();
    }
    let fs = v.stat_fs().unwrap();
    assert_eq!((fs.inodes_total, fs.inodes_free), (5, 0));
    let refused = create(&v, "more").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::QuotaExceeded);
    let put = v.objects().put("more", b"bytes", &PutOptions::default());
    assert_eq!(put.unwrap_err().kind(), ErrorKind::QuotaExceeded);
    create(&volume(&engine, base), "elsewhere").unwrap();
    // A link is no inode.
    let f0 = v.lookup(Ino::ROOT, b"f0").unwrap().ino;
    v.link(&Caller::default(), f0, Ino::ROOT, b"link").unwrap();
    // An unlinked one counts until it is reaped.
    v.unlink(&Caller::default(), Ino::ROOT, b"f1").ok().unwrap();
    assert!(create(&v, "more").is_err());
    v.reap_all().unwrap();
    create(&v, "more").unwrap();
    set_quota(&engine, limited, quota(2));
    assert!(create(&v, "again").is_err());
    for name in ["more", "f2", "shared"] {
        remove(&v, name);
    }
    assert!(create(&v, "again").is_err(), "two are in use");
    set_quota(&engine, limited, quota(3));
    create(&v, "again").unwrap();
    sound(&engine);
}

/// A file system of limited size.
struct Small(PathBuf, #[allow(dead_code)] tempfile::TempDir);

impl Small {
    /// `None`, said by name, where it cannot be mounted.
    fn mount(test: &str, mib: u64) -> Option<Small> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("small");
        std::fs::create_dir(&path).unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&path)
            .status();
        if mounted.is_ok_and(|s| s.success()) {
            return Some(Small(path, dir));
        }
        assert!(std::env::var("CI").is_err(), "{test} cannot mount a tmpfs");
        println!("NOT RUN: {test}: a tmpfs cannot be mounted here");
        None
    }

    fn room(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.0).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    /// Takes all the room that there is.
    fn fill(&self) {
        use std::io::Write;
        let path = self.0.join("filler");
        let mut file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        assert_eq!(self.room(), 0);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn on_a_full_disk_writers_are_refused_and_deleting_gives_room() {
    let test = "on_a_full_disk_writers_are_refused_and_deleting_gives_room";
    let Some(disk) = Small::mount(test, 40) else {
        return;
    };
    let data = disk.0.join("data");
    let engine = open(&data);
    let (keeps, goes) = (root(&engine, "keeps"), root(&engine, "goes"));
    let mut right: BTreeMap<String, (u64, usize)> = BTreeMap::new();
    let full = |e: &Error| assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}");
    // Until it is full, then ever smaller ones, until not even a name can be added.
    let mut n = 0;
    for len in [300_000, 60_000, 5_000, 100, 0] {
        loop {
            n += 1;
            let on = if n % 2 == 0 { keeps } else { goes };
            let v = volume(&engine, on);
            let name = format!("f{n:05}");
            let done = match n % 3 {
                0 => {
                    let put = v
                        .objects()
                        .put(&name, &bytes(n, len), &PutOptions::default());
                    put.map(|_| ())
                }
                _ => create(&v, &name).and_then(|ino| {
                    let written = write(&v, ino, 0, &bytes(n, len));
                    if written.is_err() {
                        // The file is there, and empty.
                        assert_eq!(v.attr(ino).unwrap().size, 0);
                        remove(&v, &name);
                    }
                    written.map(|_| ())
                }),
            };
            match done {
                Ok(()) if on == keeps => {
                    right.insert(name, (n, len));
                }
                Ok(()) => {}
                Err(e) => {
                    full(&e);
                    if len == 300_000 {
                        disk.fill();
                    }
                    break;
                }
            }
        }
    }
    assert!(n > 50, "only {n}");
    full(&fork(&engine, "fork", keeps, Quota::default()).unwrap_err());
    let compare = |engine: &Engine| {
        let v = volume(engine, keeps);
        for (name, (seed, len)) in &right {
            let ino = v.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
            assert!(
                v.read(ino, 0, len + 1).unwrap() == bytes(*seed, *len),
                "{name}"
            );
        }
    };
    compare(&engine);
    sound(&engine);
    // As full as can be, it opens: after a stop, and after a crash.
    engine.close().unwrap();
    disk.fill();
    let engine = open(&data);
    compare(&engine);
    drop(engine);
    disk.fill();
    let engine = open(&data);
    compare(&engine);
    sound(&engine);
    disk.fill();
    full(&fork(&engine, "fork", keeps, Quota::default()).unwrap_err());
    // Files, and a timeline, can be deleted, and that gives room.
    let victims: Vec<String> = right.keys().step_by(2).cloned().collect();
    for name in victims {
        remove(&volume(&engine, keeps), &name);
        right.remove(&name);
    }
    engine.delete_timeline(goes).unwrap();
    let report = engine.gc(GcOptions::default()).unwrap();
    let room = disk.room();
    assert!(room > 4 * MIB, "{room} bytes: {report:#?}");
    let v = volume(&engine, keeps);
    let ino = create(&v, "again").unwrap();
    write(&v, ino, 0, &bytes(5, 1 << 20)).unwrap();
    fork(&engine, "fork", keeps, Quota::default()).unwrap();
    let compare = |engine: &Engine| {
        let v = volume(engine, keeps);
        for (name, (seed, len)) in &right {
            let ino = v.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
            assert!(
                v.read(ino, 0, len + 1).unwrap() == bytes(*seed, *len),
                "{name}"
            );
        }
        assert!(v.read(ino, 0, 2 << 20).unwrap() == bytes(5, 1 << 20));
    };
    compare(&engine);
    sound(&engine);
    drop(v);
    engine.close().unwrap();
    std::fs::remove_dir_all(data.join("index")).unwrap();
    let engine = open(&data);
    compare(&engine);
    sound(&engine);
}
