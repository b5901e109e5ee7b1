//! The barrier of a mount: what write(2) returned before is in the engine after it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use csi_driver::mounts::Mode;
use storage_engine::Volume;
use support::{OneMount, can_mount, watchdog};

mod support;

fn read_all(volume: &Volume, path: &str) -> Vec<u8> {
    let attr = volume.resolve(path.as_bytes()).unwrap();
    volume.read(attr.ino, 0, attr.size as usize).unwrap()
}

/// Writers bump a counter in their file with write(2) and publish it; after each barrier the engine must hold at
/// least what was published before.
#[test]
fn thousands_of_barriers_with_concurrent_writers_lose_no_write() {
    let name = "thousands_of_barriers_with_concurrent_writers_lose_no_write";
    if !can_mount(name) {
        return;
    }
    let _alive = watchdog(Duration::from_secs(300));
    let rounds: u64 = std::env::var("ANABRANCH_BARRIERS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2000);
    let one = OneMount::new("barrier", Mode::Workspace);
    let volume = one.volume();
    const WRITERS: usize = 3;
    let stop = Arc::new(AtomicBool::new(false));
    let published: Arc<[AtomicU64; WRITERS]> = Arc::default();
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let (stop, published, mnt) = (stop.clone(), published.clone(), one.mnt.clone());
            std::thread::spawn(move || {
                let file = File::create(mnt.join(format!("w{number}"))).unwrap();
                let mut count = 0u64;
                while !stop.load(Ordering::SeqCst) {
                    count += 1;
                    // Spread over many pages, so that there is something to write back; page 0 has the count.
                    let page = [count.to_le_bytes().as_slice(), &[7; 4088]].concat();
                    file.write_all_at(&page, (1 + count % 200) * 4096).unwrap();
                    file.write_all_at(&count.to_le_bytes(), 0).unwrap();
                    published[number].store(count, Ordering::SeqCst);
                    if count.is_multiple_of(64) {
                        std::thread::sleep(Duration::from_micros(300));
                    }
                }
            })
        })
        .collect();
    while published
        .iter()
        .any(|count| count.load(Ordering::SeqCst) == 0)
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut times = Vec::new();
    for _ in 0..rounds {
        let before: Vec<u64> = published
            .iter()
            .map(|count| count.load(Ordering::SeqCst))
            .collect();
        let begun = Instant::now();
        one.mounts.sync("m").unwrap();
        times.push(begun.elapsed());
        for (number, before) in before.iter().enumerate() {
            let content = read_all(&volume, &format!("/w{number}"));
            let count = u64::from_le_bytes(content[..8].try_into().unwrap());
            assert!(
                count >= *before,
                "writer {number} had published {before}, the engine has {count}"
            );
            // The page of that count was written before it.
            let place = ((1 + before % 200) * 4096) as usize;
            let page = u64::from_le_bytes(content[place..place + 8].try_into().unwrap());
            assert!(
                page >= *before,
                "writer {number}: the page of {before} has {page}"
            );
        }
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.join().unwrap();
    }
    times.sort();
    eprintln!(
        "{rounds} barriers: median {:?}, slowest {:?}",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    one.end();
}

/// More small dirty files than one background queue would be asked to hold at once is slow to make; a few thousand
/// show that everything of many inodes is there.
#[test]
fn many_small_dirty_files_are_all_in_the_engine_after_one_barrier() {
    if !can_mount("many_small_dirty_files_are_all_in_the_engine_after_one_barrier") {
        return;
    }
    let _alive = watchdog(Duration::from_secs(120));
    let one = OneMount::new("dirty", Mode::Workspace);
    let volume = one.volume();
    for round in 0..5u32 {
        // Left open: closing would write back.
        let files: Vec<File> = (0..1000u32)
            .map(|number| {
                let file = File::options()
                    .create(true)
                    .truncate(false)
                    .write(true)
                    .open(one.mnt.join(format!("f{number}")))
                    .unwrap();
                file.write_all_at(format!("round {round} file {number}").as_bytes(), 0)
                    .unwrap();
                file
            })
            .collect();
        one.mounts.sync("m").unwrap();
        for number in 0..1000u32 {
            assert_eq!(
                read_all(&volume, &format!("/f{number}")),
                format!("round {round} file {number}").as_bytes()
            );
        }
        drop(files);
    }
    one.end();
}

/// Writing and truncating the same file at once: the kernel holds writes back during a truncation.
#[test]
fn a_write_beside_truncations_of_the_same_file_is_in_the_engine_after_the_barrier() {
    if !can_mount("a_write_beside_truncations_of_the_same_file_is_in_the_engine_after_the_barrier")
    {
        return;
    }
    let _alive = watchdog(Duration::from_secs(120));
    let one = OneMount::new("cut", Mode::Workspace);
    let volume = one.volume();
    let file = Arc::new(File::create(one.mnt.join("f")).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let (cut, stopped) = (file.clone(), stop.clone());
    let cutter = std::thread::spawn(move || {
        let mut length = 1 << 20;
        while !stopped.load(Ordering::SeqCst) {
            // Never below the first 64 KiB, which the writer uses.
            cut.set_len(length).unwrap();
            length = if length == 1 << 20 { 1 << 16 } else { 1 << 20 };
            std::thread::sleep(Duration::from_micros(500));
        }
    });
    for count in 1..500u64 {
        file.write_all_at(&count.to_le_bytes(), (count % 16) * 4096)
            .unwrap();
        one.mounts.sync("m").unwrap();
        let content = read_all(&volume, "/f");
        let place = ((count % 16) * 4096) as usize;
        assert_eq!(
            u64::from_le_bytes(content[place..place + 8].try_into().unwrap()),
            count
        );
    }
    stop.store(true, Ordering::SeqCst);
    cutter.join().unwrap();
    drop(file);
    one.end();
}
