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
