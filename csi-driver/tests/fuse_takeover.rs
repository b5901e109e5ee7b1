//! Mounts outlive the process that serves them: it is killed with SIGKILL again and again under programs at work,
//! and none of them notices more than a pause.
//!
//! The programs are processes of their own. The process that starts the successor must have no file of the mount
//! open: its child inherits the descriptor and closes it at exec(2), which waits until dirty pages are written, and
//! so for the successor that it is about to become.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use csi_driver::mounts::{Mounts, Options};
use storage_engine::Point;
use support::{Place, Server, can_mount, open_engine, request, root_timeline, watchdog};

mod programs;
mod support;

const SERVE: &str = "ANABRANCH_TEST_SERVE";

fn kills() -> u32 {
    std::env::var("ANABRANCH_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(20)
}

/// The serving process: this very program, started by the tests below.
#[test]
fn serving_process() {
    let Some(root) = std::env::var_os(SERVE) else {
        return;
    };
    let root = PathBuf::from(root);
    let engine = open_engine(&root);
    let options = Options {
        // Whatever becomes of the test, its mount does not stay and block others.
        abandon_after: Duration::from_secs(30),
        ..Options::new(root.join("keeper"))
    };
    let mounts = Mounts::start(options, engine.clone()).unwrap();
    let taken = mounts.take_over().unwrap();
    for one in &taken {
        one.outcome.as_ref().unwrap();
    }
    if taken.is_empty() {
        let timeline = root_timeline(&engine, "bucket/default/t");
        mounts
            .mount(request("m", Point::Now(timeline), root.join("mnt")))
            .unwrap();
    }
    println!("SERVING");
    // Until it is killed, or the test is gone.
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).unwrap() > 0 {
        if line.trim() == "end" {
            mounts.shut_down(Duration::from_secs(10)).unwrap();
            engine.close().unwrap();
            return;
        }
    }
}

/// Kills the serving process while the programs run on the mount; prints the stall of each kill. Then the programs
/// are told to end, and each must end well.
fn killed_under(name: &str, programs: &[&str]) {
    if !can_mount(name) {
        return;
    }
    let _alive = watchdog(Duration::from_secs(400));
    let place = Place::new("takeover");
    let mnt = place.path("mnt");
    let mut server = Server::start(SERVE, &place.root);
    let running: Vec<_> = programs
        .iter()
        .map(|program| programs::start(program, &place.root))
        .collect();
    // Measures the stall: a request that no cache answers, over and over.
    let probed = Arc::new(AtomicBool::new(true));
    let longest = Arc::new(AtomicU64::new(0));
    let (own_probed, own_longest) = (Arc::clone(&probed), Arc::clone(&longest));
    let probe = std::thread::spawn(move || {
        while own_probed.load(Ordering::SeqCst) {
            let begun = Instant::now();
            rustix::fs::statfs(&mnt).unwrap();
            own_longest.fetch_max(begun.elapsed().as_micros() as u64, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let mut stalls = Vec::new();
    for kill in 0..kills() {
        std::thread::sleep(Duration::from_millis(150 + u64::from(kill) * 37 % 400));
        longest.store(0, Ordering::SeqCst);
        server.kill();
        server = Server::start(SERVE, &place.root);
        std::thread::sleep(Duration::from_millis(100));
        stalls.push(longest.load(Ordering::SeqCst) / 1000);
    }
    std::thread::sleep(Duration::from_secs(1));
    eprintln!("{name}: stalls in ms (process start included): {stalls:?}");
    for (program, running) in programs.iter().zip(running) {
        let output = programs::end(running, &place.root);
        assert!(output.status.success(), "{program}: {}", output.status);
    }
    probed.store(false, Ordering::SeqCst);
    probe.join().unwrap();
    server.end();
    // The store is free again, and nothing without a name is left in it.
    let engine = open_engine(&place.root);
    let timeline = engine.timeline_named("bucket/default/t").unwrap();
    let orphans = support::volume(&engine, Point::Now(timeline.id))
        .reap_all()
        .unwrap();
    assert_eq!(orphans, 0);
}

/// The program of a test: this very program again, started by [`programs::start`].
#[test]
fn working_process() {
    programs::run();
}

#[test]
fn no_request_is_done_twice_and_open_files_go_on() {
    killed_under(
        "no_request_is_done_twice_and_open_files_go_on",
        &["names", "appends", "unlinked"],
    );
}

#[test]
fn sqlite_in_wal_mode_goes_on() {
    killed_under("sqlite_in_wal_mode_goes_on", &["sqlite"]);
}

#[test]
fn a_build_goes_on() {
    killed_under("a_build_goes_on", &["build"]);
}

#[test]
fn fsx_goes_on() {
    if programs::find_fsx("fsx_goes_on").is_some() {
        killed_under("fsx_goes_on", &["fsx"]);
    }
}

/// A descriptor of a directory lives on, too.
#[test]
fn a_listing_goes_on_from_where_it_was() {
    let name = "a_listing_goes_on_from_where_it_was";
    if !can_mount(name) {
        return;
    }
    let _alive = watchdog(Duration::from_secs(300));
    let place = Place::new("listing");
    let mut server = Server::start(SERVE, &place.root);
    let mnt = place.path("mnt");
    for number in 0..3000 {
        File::create(mnt.join(format!("a name of some length, number {number}"))).unwrap();
    }
    let mut listing = fs::read_dir(&mnt).unwrap();
    let mut seen: Vec<_> = listing
        .by_ref()
        .take(100)
        .map(|entry| entry.unwrap().file_name())
        .collect();
    server.kill();
    server = Server::start(SERVE, &place.root);
    seen.extend(listing.map(|entry| entry.unwrap().file_name()));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 3000);
    server.end();
}
