//! `anabranch gc`, while forks are mounted and when nobody owns the store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod play_common;

use std::fs;

use play_common::{World, bucket, can_mount, fork, read, snapshot};

#[test]
fn what_a_mounted_fork_overwrote_goes_and_what_its_snapshot_shows_stays() {
    if !can_mount("what_a_mounted_fork_overwrote_goes_and_what_its_snapshot_shows_stays") {
        return;
    }
    let world = World::new();
    let source = world.tree("source", &[("file", "of the bucket\n")]);
    world.manifest(
        "a.yaml",
        &(bucket("base", &source) + &snapshot("v1", "base") + &fork("f", "v1", "")),
    );
    let play = world.play();
    let mount = world.mount("f");
    world.wait_for("f is mounted", || mount.join("file").exists());
    let content = |n: u8| vec![n; 600_000];
    fs::write(mount.join("large"), content(1)).unwrap();
    world.ok(&["snapshot", "fork/f", "kept"]);
    for n in 2..6 {
        fs::write(mount.join("large"), content(n)).unwrap();
        // Each of them is in the store before the next one comes.
        world.ok(&["du"]);
    }
    let planned = world.json(&["gc", "--dry-run"]);
    assert_eq!(planned["dryRun"], true);
    let done = world.json(&["gc"]);
    assert_eq!(done["dryRun"], false);
    // The background may have been first; what the snapshot shows is kept all the same.
    let kept = done["entries"]
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["by"]["name"] == "snapshot/default/kept")
        .unwrap_or_else(|| panic!("{done:#}"));
    assert_eq!(kept["by"]["reason"], "snapshot");
    assert!(kept["bytes"].as_u64().unwrap() >= 600_000, "{done:#}");
    assert!(world.ok(&["gc"]).contains("shown by snapshot/default/kept"));
    assert!(fs::read(mount.join("large")).unwrap() == content(5));
    assert_eq!(read(mount.join("file")), "of the bucket\n");
    let old = world.run(&["cat", "snapshot/kept:/large"]);
    assert!(old.stdout == content(1));
    world.ok(&["check"]);
    play.stop();
    world.ok(&["delete", "snapshot/kept"]);
    let done = world.json(&["gc"]);
    assert!(done["bytes"].as_u64().unwrap() >= 600_000, "{done:#}");
    assert!(
        done["entries"].as_array().is_none_or(Vec::is_empty),
        "{done:#}"
    );
    assert!(world.run(&["cat", "fork/f:/large"]).stdout == content(5));
    world.ok(&["check"]);
}

#[test]
fn a_history_is_proven_and_an_index_made_anew_from_a_log_with_damage() {
    let world = World::new();
    let source = world.tree("source", &[("file", "of the bucket\n")]);
    world.manifest(
        "a.yaml",
        &(bucket("base", &source) + &snapshot("v1", "base") + &fork("f", "v1", "")),
    );
    world.play_with(&["--once"]).wait();
    let mut file = fs::File::create(world.path("content")).unwrap();
    std::io::Write::write_all(&mut file, &[7; 20_000]).unwrap();
    let content = world.path("content").display().to_string();
    world.ok(&["put", &content, "fork/f:/one"]);
    let taken = world.json(&["snapshot", "fork/f", "kept"]);
    let digest = taken["digest"].as_str().unwrap();
    world.ok(&["put", &content, "fork/f:/two"]);
    let proven = world.json(&["verify", "kept"]);
    assert_eq!(proven["digest"], digest);
    assert!(
        world
            .ok(&["verify", "kept", "--digest", digest])
            .contains("are what was written")
    );
    world.fails(4, &["verify", "kept", "--digest", &"ab".repeat(32)]);
    world.fails(2, &["verify", "fork/f"]);
    world.fails(1, &["verify", "snapshot/none"]);

    // An index that is gone is made anew whole.
    fs::remove_dir_all(world.data().join("index")).unwrap();
    let anew = world.run(&["check", "--repair"]);
    assert!(anew.status.success(), "{anew:?}");
    assert!(!String::from_utf8_lossy(&anew.stderr).contains("lost"));
    world.ok(&["verify", "kept"]);

    // A byte of a file's content in the log: found, named, and the rest is read all the same.
    let log = world.data().join("log");
    let place = |bytes: &[u8]| bytes.windows(64).position(|window| window == [7; 64]);
    // The first of the two, which the snapshot has: segments sort by their age.
    let mut segments: Vec<_> = fs::read_dir(&log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    segments.sort();
    let (segment, mut bytes, at) = segments
        .into_iter()
        .find_map(|path| {
            let bytes = fs::read(&path).unwrap();
            let at = place(&bytes)? + 1000;
            Some((path, bytes, at))
        })
        .unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let damaged = world.fails(4, &["verify", "kept"]);
    assert!(damaged.contains("is not what was written"), "{damaged}");
    let repaired = world.run(&["check", "--repair"]);
    let told = String::from_utf8_lossy(&repaired.stderr).into_owned();
    assert_eq!(repaired.status.code(), Some(4), "{told}");
    assert!(told.contains("made the index anew"), "{told}");
    assert_eq!(read_of(&world, "snapshot/v1:/file"), b"of the bucket\n");
    assert!(!world.run(&["cat", "fork/f:/one"]).status.success());
}

fn read_of(world: &World, name: &str) -> Vec<u8> {
    world.run(&["cat", name]).stdout
}
