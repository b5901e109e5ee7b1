//! Odd places for mounts, and mounts that are in use when the player ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod play_common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;

use play_common::{World, bucket, can_mount, fork, read, snapshot};

fn manifests(world: &World) {
    let source = world.tree("source", &[("readme", "the original\n")]);
    world.manifest(
        "a.yaml",
        &(bucket("base", &source) + &snapshot("v1", "base") + &fork("f", "v1", "")),
    );
}

#[test]
fn a_folder_of_mounts_may_be_a_link_and_have_spaces() {
    if !can_mount("a_folder_of_mounts_may_be_a_link_and_have_spaces") {
        return;
    }
    let world = World::new();
    manifests(&world);
    // What `play_with` names `mnt` leads elsewhere, by a name that mountinfo has to write in octal.
    let real = world.path("a folder\twith \\odd 'letters' ü");
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, world.path("mnt")).unwrap();
    let mut play = world.play();
    play.says("mounted");
    let mount = world.mount("f");
    assert_eq!(read(mount.join("readme")), "the original\n");
    fs::write(mount.join("mine"), "mine\n").unwrap();
    let shown = world.json(&["get", "forks", "f"]);
    let at = shown["status"]["mounts"][0]["path"].as_str().unwrap();
    assert_eq!(
        fs::canonicalize(at).unwrap(),
        fs::canonicalize(&mount).unwrap()
    );
    assert!(world.ok(&["diff", "fork/f"]).contains("/mine"));
    // A successor takes it over by the same name.
    play.kill();
    let mut play = world.play();
    play.says("took over 1 mount");
    assert_eq!(read(mount.join("mine")), "mine\n");
    play.stop();
    assert_eq!(world.mounted(), Vec::<String>::new());
    assert!(!mount.exists());
    assert!(world.path("mnt").is_symlink(), "the link is the user's");
    world.ok(&["check"]);
}

#[test]
fn a_mount_in_use_at_the_end_is_named_and_given_time() {
    if !can_mount("a_mount_in_use_at_the_end_is_named_and_given_time") {
        return;
    }
    let world = World::new();
    manifests(&world);
    let mut play = world.play();
    play.says("mounted");
    let mount = world.mount("f");
    let open = fs::File::create(mount.join("open")).unwrap();
    open.write_all_at(b"written", 0).unwrap();
    // One that leaves in time is no error; the one that stays gets errors, and its data is in the store.
    let mut leaving = Command::new("sleep")
        .arg("2")
        .current_dir(&mount)
        .spawn()
        .unwrap();
    let text = play.stop();
    leaving.wait().unwrap();
    assert!(text.contains("is in use"), "{text}");
    assert!(open.write_all_at(b"more", 100).is_err() || open.sync_all().is_err());
    drop(open);
    assert_eq!(world.mounted(), Vec::<String>::new());
    assert!(!mount.exists(), "the folder that was made for it is gone");
    assert_eq!(world.ok(&["cat", "f:/open"]), "written");
    world.ok(&["check"]);
}
