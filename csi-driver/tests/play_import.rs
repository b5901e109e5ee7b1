//! Imports that are stopped, deleted and watched.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod play_common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use play_common::{World, bucket, read, signal, snapshot};

/// A file of so many bytes that takes minutes to import, and no room.
const ENDLESS: u64 = 2 << 40;
/// What "at once" is at most on a machine that is busy with other tests; the import would take minutes.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A few thousand files and one that never ends.
fn endless(world: &World) -> PathBuf {
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    for n in 0..3000 {
        fs::write(source.join(format!("file-{n}")), format!("content {n}\n")).unwrap();
    }
    fs::File::create(source.join("endless"))
        .unwrap()
        .set_len(ENDLESS)
        .unwrap();
    source
}

fn objects(data: &Path) -> usize {
    fs::read_dir(data.join("objects"))
        .into_iter()
        .flatten()
        .flatten()
        .flat_map(|entry| fs::read_dir(entry.path()).into_iter().flatten())
        .count()
}

fn message(world: &World) -> String {
    let answer = world.run(&["get", "buckets", "base", "-o", "json"]);
    String::from_utf8_lossy(&answer.stdout).into_owned()
}

#[test]
fn an_import_that_is_stopped_ends_at_once_and_is_done_again() {
    let world = World::new();
    let source = endless(&world);
    world.manifest(
        "a.yaml",
        &(bucket("base", &source) + &snapshot("v1", "base")),
    );
    for how in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mut play = world.play_with(&["--no-mount"]);
        // The total is counted while it runs, and the status has both.
        world.wait_for("the status tells how far it is", || {
            message(&world).contains("of 3001 files") && message(&world).contains("of 2Ti")
        });
        // Others are not kept waiting by a source that is being read.
        let begun = Instant::now();
        world.run(&["put", "-", "nothing:/x"]);
        world.ok(&["tree"]);
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        let refused = world.fails(1, &["ls", "bucket/base"]);
        assert!(refused.contains("is being imported"), "{refused}");

        let begun = Instant::now();
        signal(play.pid(), how);
        let status = play.wait();
        assert!(status.success(), "{}", play.text());
        assert!(
            begun.elapsed() < AT_ONCE,
            "{:?}:\n{}",
            begun.elapsed(),
            play.text()
        );
        assert_eq!(objects(&world.data()), 0, "the file that was begun is gone");
    }
    let once = world.play_with(&["--once"]);
    std::thread::sleep(Duration::from_millis(300));
    signal(once.pid(), rustix::process::Signal::INT);
    let mut once = once;
    assert_eq!(
        once.wait().code(),
        Some(1),
        "not everything was done: {}",
        once.text()
    );

    fs::write(source.join("endless"), "short now\n").unwrap();
    world.ok(&[
        "play",
        "--once",
        "-f",
        &world.path("manifests").display().to_string(),
    ]);
    assert_eq!(
        world.json(&["ls", "base"])["entries"]
            .as_array()
            .unwrap()
            .len(),
        3001
    );
    assert_eq!(world.ok(&["cat", "base:/endless"]), "short now\n");
    world.ok(&["check"]);
}

#[test]
fn a_bucket_that_is_deleted_while_it_is_imported_goes_at_once() {
    let world = World::new();
    let source = endless(&world);
    world.manifest("a.yaml", &bucket("base", &source));
    let play = world.play_with(&["--no-mount"]);
    world.wait_for("the import runs", || message(&world).contains("files, "));
    world.manifest("a.yaml", "");
    let begun = Instant::now();
    world.wait_for("base is gone", || {
        !world.run(&["get", "buckets", "base"]).status.success()
    });
    world.wait_for("its file is gone", || objects(&world.data()) == 0);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    // Under the same name, another one.
    fs::remove_file(source.join("endless")).unwrap();
    world.manifest("a.yaml", &bucket("base", &source));
    world.wait_for_state("buckets", "base", "Ready");
    assert_eq!(world.ok(&["cat", "base:/file-2999"]), "content 2999\n");
    assert_eq!(read(source.join("file-1")), "content 1\n");
    play.stop();
    world.ok(&["check"]);
}
