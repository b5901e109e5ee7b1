//! Promises of mounts: dataset mode, and keepers that die or give up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use csi_driver::keeper::client::Client;
use csi_driver::mounts::{Mode, MountRequest, Mounts, Options};
use storage_engine::objects::PutOptions;
use storage_engine::{Engine, ForkRequest, Point, Settings, SnapshotRequest};
use support::{Place, can_mount, request, root_timeline, volume, watchdog};

const READ: u32 = 15;
const LIMIT: Duration = Duration::from_secs(60);

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ seed).collect()
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The object files of a store.
fn objects(place: &Place) -> Vec<PathBuf> {
    fs::read_dir(place.path("data/objects"))
        .unwrap()
        .flatten()
        .flat_map(|entry| fs::read_dir(entry.path()).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .collect()
}

/// How many pages of a file the page cache holds.
fn resident(path: &Path) -> usize {
    let file = fs::File::open(path).unwrap();
    let length = file.metadata().unwrap().len() as usize;
    // SAFETY: a fresh mapping of an open file, of its length, unmapped below; `pages` has a byte for each page.
    unsafe {
        let map = libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        assert_ne!(map, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        let mut pages = vec![0u8; length.div_ceil(4096)];
        assert_eq!(libc::mincore(map, length, pages.as_mut_ptr()), 0);
        libc::munmap(map, length);
        pages.iter().filter(|page| **page & 1 == 1).count()
    }
}

fn drop_pages(path: &Path) {
    let file = fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    // SAFETY: plain numbers and an open descriptor.
    let done = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(done, 0);
}

fn fork(engine: &Engine, name: &str, source: Point, read_only: bool) -> storage_engine::TimelineId {
    let request = ForkRequest {
        id: None,
        name: name.into(),
        source,
        settings: Settings {
            read_only,
            ..Settings::default()
        },
        durability: Default::default(),
    };
    engine.fork(request).unwrap().id
}

#[test]
fn a_dataset_is_read_from_its_object_files_by_all_mounts_alike() {
    if !can_mount("a_dataset_is_read_from_its_object_files_by_all_mounts_alike") {
        return;
    }
    let _alive = watchdog(Duration::from_secs(120));
    let place = Place::new("dataset");
    let engine = place.engine();
    let base = root_timeline(&engine, "bucket/default/t");
    let large = pattern(1, 4 << 20);
    let at_base = volume(&engine, Point::Now(base));
    let put = |volume: &storage_engine::Volume, bytes: &[u8]| {
        volume
            .objects()
            .put("dir/large", bytes, &PutOptions::default())
            .unwrap();
    };
    put(&at_base, &large);
    at_base
        .objects()
        .put("small", b"small", &PutOptions::default())
        .unwrap();
    let snapshot = engine
        .snapshot(SnapshotRequest {
            id: None,
            name: "snapshot/default/s".into(),
            source: Point::Now(base),
            labels: Default::default(),
            durability: Default::default(),
        })
        .unwrap();
    let from = Point::Snapshot(snapshot.id);
    let forked = fork(&engine, "fork/default/f", from, false);
    let fixed = fork(&engine, "fork/default/r", from, true);
    let mounts = place.mounts(&engine);
    for (id, point) in [
        ("base", Point::Now(base)),
        ("fork", Point::Now(forked)),
        ("fixed", Point::Now(fixed)),
        ("snapshot", from),
    ] {
        let info = mounts
            .mount(MountRequest {
                mode: ["base", "fork"].contains(&id).then_some(Mode::Dataset),
                ..request(id, point, place.path(id))
            })
            .unwrap();
        assert_eq!(
            info.mode,
            Mode::Dataset,
            "{id}: what cannot be written is a dataset"
        );
    }
    let at = |id: &str| place.path(id).join("dir/large");
    let reads = |id: &str| {
        mounts
            .requests(id)
            .unwrap()
            .get(&READ)
            .copied()
            .unwrap_or(0)
    };

    // One page cache for all mounts that cannot be written: what was read through one is there for the others.
    let [object] = objects(&place).try_into().unwrap();
    drop_pages(&object);
    assert_eq!(resident(&object), 0);
    assert_eq!(fs::read(at("fixed")).unwrap(), large);
    assert_eq!(resident(&object), large.len().div_ceil(4096));
    let open: Vec<fs::File> = ["base", "fork", "fixed", "snapshot"]
        .iter()
        .map(|id| fs::File::open(at(id)).unwrap())
        .collect();
    assert_eq!(
        resident(&at("snapshot")),
        large.len().div_ceil(4096),
        "nothing was read through it yet"
    );
    for id in ["base", "fork", "fixed", "snapshot"] {
        assert!(fs::read(at(id)).unwrap() == large, "{id}");
        assert_eq!(fs::read(place.path(id).join("small")).unwrap(), b"small");
    }
    for id in ["fixed", "snapshot"] {
        // A small file is no object file: its reads are requests. Of the large one there are none.
        assert!(reads(id) <= 1, "{id}: {} reads", reads(id));
    }

    // A write through the fork's mount goes to the fork alone, and who reads there sees it.
    let writer = fs::File::options().read(true).write(true).open(at("fork"));
    let writer = match writer {
        Ok(file) => file,
        Err(error) => {
            panic!("a file that others read by passthrough cannot be opened for writing: {error}")
        }
    };
    writer.write_all_at(b"changed", 1_000_000).unwrap();
    let mut expected = large.clone();
    expected[1_000_000..1_000_007].copy_from_slice(b"changed");
    let mut seen = vec![0; expected.len()];
    writer.read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == expected, "the writer sees its own write");
    drop(writer);
    assert!(
        fs::read(at("fork")).unwrap() == expected,
        "a later reader sees the write"
    );
    assert!(
        fs::read(at("base")).unwrap() == large,
        "the base is untouched"
    );
    assert!(
        fs::read(at("snapshot")).unwrap() == large,
        "the snapshot is untouched"
    );
    assert!(
        fs::read(&object).unwrap() == large,
        "an object file never changes"
    );
    // Those who had it open before go on reading.
    for file in &open {
        let mut bytes = vec![0; 4096];
        file.read_exact_at(&mut bytes, 2_000_000).unwrap();
        assert_eq!(bytes, large[2_000_000..2_004_096]);
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, large[..4096]);
    }
    drop(open);

    // Another door replaces it: a new open sees that at once, in this timeline only.
    let other = pattern(2, 3 << 20);
    put(&volume(&engine, Point::Now(base)), &other);
    mounts.pass_invalidations("base").unwrap();
    assert!(fs::read(at("base")).unwrap() == other);
    assert_eq!(fs::metadata(at("base")).unwrap().len(), other.len() as u64);
    assert!(fs::read(at("snapshot")).unwrap() == large);
    mounts.shut_down(Duration::from_secs(5)).unwrap();
    assert!(engine.check(|_| {}).unwrap().is_sound());
}

#[test]
fn a_volume_of_verified_reads_gives_no_damaged_byte_where_another_trusts_the_disk() {
    if !can_mount("a_volume_of_verified_reads_gives_no_damaged_byte_where_another_trusts_the_disk")
    {
        return;
    }
    let _alive = watchdog(Duration::from_secs(120));
    let place = Place::new("verified");
    let engine = place.engine();
    let large = pattern(1, 1 << 20);
    let base = root_timeline(&engine, "bucket/default/base");
    volume(&engine, Point::Now(base))
        .objects()
        .put("large", &large, &PutOptions::default())
        .unwrap();
    let labelled = |verified: &str| Settings {
        read_only: true,
        labels: [(
            "anabranch.dev/verified-reads".to_owned(),
            verified.to_owned(),
        )]
        .into(),
        ..Settings::default()
    };
    for (name, verified) in [("plain", "false"), ("verified", "true")] {
        let id = fork(
            &engine,
            &format!("fork/default/{name}"),
            Point::Now(base),
            true,
        );
        engine.update_settings(id, labelled(verified)).unwrap();
    }
    let [object] = objects(&place).try_into().unwrap();
    let mut bytes = large.clone();
    bytes[700_000] ^= 1;
    fs::remove_file(&object).unwrap();
    fs::write(&object, &bytes).unwrap();
    let mut mounts = place.mounts(&engine);
    for name in ["plain", "verified"] {
        let id = engine
            .timeline_named(&format!("fork/default/{name}"))
            .unwrap()
            .id;
        mounts
            .mount(request(name, Point::Now(id), place.path(name)))
            .unwrap();
    }
    let read = |name: &str| fs::read(place.path(name).join("large"));
    assert!(
        read("plain").unwrap() == bytes,
        "nothing was passed through"
    );
    let refused = |error: std::io::Error| assert_eq!(error.raw_os_error(), Some(libc::EIO));
    refused(read("verified").unwrap_err());
    // It stays so when another process serves the mount.
    mounts.leave();
    mounts = place.mounts(&engine);
    mounts.take_over().unwrap();
    refused(read("verified").unwrap_err());
    // The scrub names it, whoever reads.
    let report = engine
        .scrub(storage_engine::ScrubOptions::default(), &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    let [damage] = &report.damage[..] else {
        panic!("{report:?}");
    };
    assert_eq!(damage.timeline.as_deref(), Some("bucket/default/base"));
    assert_eq!(damage.paths, ["/large"]);
    assert!(damage.file.starts_with("objects/"), "{damage:?}");
    let offset = damage.offset.unwrap();
    assert!(
        offset <= 700_000 && offset + (16 << 10) > 700_000,
        "{damage:?}"
    );
    mounts.shut_down(Duration::from_secs(5)).unwrap();
}

fn keeper_pid(place: &Place) -> u32 {
    // The lock file of a keeper is held by its process.
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let lock = place.path("keeper/keeper.lock");
        let holds = fs::read_dir(entry.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == lock));
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if holds && comm.starts_with("anabranch-keepe") {
            return pid;
        }
    }
    panic!("no keeper");
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_keeper_that_dies_is_replaced_and_the_new_one_holds_the_mounts() {
    if !can_mount("a_keeper_that_dies_is_replaced_and_the_new_one_holds_the_mounts") {
        return;
    }
    let _alive = watchdog(Duration::from_secs(120));
    let place = Place::new("keeper");
    let engine = place.engine();
    let timeline = root_timeline(&engine, "fork/default/t");
    let mounts = place.mounts(&engine);
    let mnt = place.path("mnt");
    mounts
        .mount(request("m", Point::Now(timeline), mnt.clone()))
        .unwrap();
    fs::write(mnt.join("before"), "before").unwrap();
    for round in 0..2 {
        let old = keeper_pid(&place);
        kill(old);
        // The mount goes on at once, keeper or not.
        fs::write(mnt.join(format!("during-{round}")), "during").unwrap();
        assert_eq!(fs::read(mnt.join("before")).unwrap(), b"before");
        wait("another keeper holds the mount", || {
            Client::connect(&place.path("keeper"))
                .and_then(|keeper| keeper.list())
                .is_ok_and(|all| all.len() == 1 && all[0].id == "m")
        });
        assert_ne!(keeper_pid(&place), old);
        mounts.sync("m").unwrap();
    }
    // A successor takes it from the new keeper.
    mounts.leave();
    drop(mounts);
    let waiting = {
        let path = mnt.join("meanwhile");
        std::thread::spawn(move || fs::write(path, "meanwhile"))
    };
    let successor = place.mounts(&engine);
    let taken = successor.take_over().unwrap();
    assert!(taken.len() == 1 && taken[0].outcome.is_ok(), "{taken:?}");
    waiting.join().unwrap().unwrap();
    assert_eq!(fs::read(mnt.join("during-1")).unwrap(), b"during");
    successor.sync("m").unwrap();
    let inside = volume(&engine, Point::Now(timeline));
    assert_eq!(inside.resolve(b"/meanwhile").unwrap().size, 9);
    successor.shut_down(Duration::from_secs(5)).unwrap();
    assert!(
        !mnt.exists(),
        "a folder that was made for the mount goes with it"
    );
}

#[test]
fn a_keeper_abandons_mounts_that_nobody_serves_only_when_it_is_told_to() {
    if !can_mount("a_keeper_abandons_mounts_that_nobody_serves_only_when_it_is_told_to") {
        return;
    }
    let _alive = watchdog(Duration::from_secs(120));
    let place = Place::new("abandon");
    let engine = place.engine();
    let timeline = root_timeline(&engine, "fork/default/t");
    let start = |after: Duration| {
        let options = Options {
            abandon_after: after,
            ..Options::new(place.path("keeper"))
        };
        Mounts::start(options, engine.clone()).unwrap()
    };
    let mnt = place.path("mnt");
    let mounts = start(Duration::from_secs(1));
    mounts
        .mount(request("m", Point::Now(timeline), mnt.clone()))
        .unwrap();
    fs::write(mnt.join("file"), "file").unwrap();
    let open = fs::File::open(mnt.join("file")).unwrap();
    // As long as somebody serves, nothing is abandoned.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(fs::read(mnt.join("file")).unwrap(), b"file");
    mounts.sync("m").unwrap();
    mounts.leave();
    drop(mounts);
    // Whoever works there gets an error instead of waiting for ever.
    wait("it is abandoned", || {
        !csi_driver::fuse::mount::mounted()
            .unwrap()
            .iter()
            .any(|line| line.point == mnt)
    });
    let mut byte = [0];
    assert!(open.read_exact_at(&mut byte, 2_000_000).is_err());
    assert!(fs::read(mnt.join("file")).is_err());
    drop(open);
    // What was synced is in the store; another keeper, which does not abandon, can be started.
    let inside = volume(&engine, Point::Now(timeline));
    assert_eq!(inside.resolve(b"/file").unwrap().size, 4);
    let mounts = start(Duration::ZERO);
    assert!(mounts.take_over().unwrap().is_empty());
    mounts
        .mount(request("m", Point::Now(timeline), mnt.clone()))
        .unwrap();
    mounts.leave();
    drop(mounts);
    std::thread::sleep(Duration::from_secs(3));
    let mounts = start(Duration::ZERO);
    assert_eq!(mounts.take_over().unwrap().len(), 1);
    assert_eq!(fs::read(mnt.join("file")).unwrap(), b"file");
    mounts.shut_down(Duration::from_secs(5)).unwrap();
}
