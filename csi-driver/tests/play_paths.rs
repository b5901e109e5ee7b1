//! `put` and `log` of a path: whole or not at all, and every version that is kept.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod play_common;

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use play_common::{World, bucket, can_mount, read, say, snapshot};
use serde_json::Value;

/// Starts a put from the standard input, and gives it more than fits into pipes and buffers.
fn put_half(world: &World, to: &str) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_anabranch"))
        .args(["put", "-", to, "--data"])
        .arg(world.data())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.as_mut().unwrap();
    for _ in 0..24 {
        stdin.write_all(&[b'x'; 1 << 20]).unwrap();
    }
    child
}

fn names(world: &World, of: &str) -> Vec<String> {
    let answer = world.json(&["ls", "-R", of]);
    answer["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["path"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_put_that_is_killed_on_either_side_leaves_nothing() {
    let world = World::new();
    world.ok(&[
        "play",
        "--once",
        "--no-mount",
        "-f",
        &manifests(&world, "one"),
    ]);
    world.run_with(&["put", "-", "base:/dir/file"], b"old");
    let before = names(&world, "base");

    // Nobody owns the store: the command that dies is the one that has it open.
    for to in ["base:/dir/file", "base:/new/deep/file"] {
        let mut child = put_half(&world, to);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(names(&world, "base"), before, "{to}");
    }
    if can_mount("a_put_that_is_killed_on_either_side_leaves_nothing") {
        // The asker dies, then the owner.
        let mut play = world.play();
        play.says("mounted");
        let mount = world.mount("work");
        let mut child = put_half(&world, "fork/work:/dir/file");
        child.kill().unwrap();
        child.wait().unwrap();
        let mut child = put_half(&world, "fork/work:/new/file");
        play.kill();
        drop(child.stdin.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", say(&output));
        let mut play = world.play();
        play.says("took over 1 mount");
        assert_eq!(names(&world, "fork/work"), before);
        assert_eq!(read(mount.join("dir/file")), "old");
        assert!(!mount.join("new").exists());
        play.stop();
    }
    assert_eq!(read_file(&world, "base:/dir/file"), "old");
    world.ok(&["check"]);
}

fn manifests(world: &World, text: &str) -> String {
    let source = world.tree("source", &[("kept", text)]);
    let manifest = [
        bucket("base", &source),
        "apiVersion: anabranch.dev/v1alpha1\nkind: BucketFork\nmetadata: {name: work}\nspec: {source: {bucket: base}, lifetime: {noExpiry: true}}\n".to_owned(),
    ]
    .concat();
    // The fork comes later, so that it has what is put into the bucket first.
    world.manifest("a.yaml", &manifest);
    let first = world.path("first.yaml");
    std::fs::write(&first, bucket("base", &source)).unwrap();
    first.display().to_string()
}

fn read_file(world: &World, name: &str) -> String {
    world.ok(&["cat", name])
}

#[test]
fn a_put_follows_links_and_keeps_mode_and_owner() {
    let world = World::new();
    let source = world.tree("source", &[("real/file", "old")]);
    std::os::unix::fs::symlink("real", source.join("link")).unwrap();
    std::os::unix::fs::symlink("real/file", source.join("name")).unwrap();
    std::os::unix::fs::symlink("nowhere", source.join("broken")).unwrap();
    world.manifest("a.yaml", &bucket("base", &source));
    world.ok(&[
        "play",
        "--once",
        "--no-mount",
        "-f",
        &world.path("manifests").display().to_string(),
    ]);
    let put = |to: &str, text: &[u8]| world.run_with(&["put", "-", to], text);
    assert!(put("base:/link/other", b"beside").status.success());
    assert_eq!(read_file(&world, "base:/real/other"), "beside");
    assert!(put("base:/name", b"through a link").status.success());
    assert_eq!(read_file(&world, "base:/real/file"), "through a link");
    for (to, why) in [
        ("base:/broken", "symbolic link"),
        ("base:/real/file/below", "not a directory"),
        ("base:/real", "is a directory"),
        ("base:/none/../x", "does not exist"),
        ("base:/dir/", "ends with a slash"),
    ] {
        let output = put(to, b"never");
        assert!(!output.status.success(), "{to}");
        assert!(say(&output).contains(why), "{to}: {}", say(&output));
    }
    // More than goes into the log: a file of its own.
    let large = vec![b'l'; 3 << 20];
    assert!(put("base:/real/large", &large).status.success());
    assert_eq!(
        world.ok(&["cat", "base:/real/large", "--range", "3145720-"]),
        "llllllll"
    );
    assert_eq!(
        names(&world, "base"),
        [
            "/broken",
            "/link",
            "/name",
            "/real",
            "/real/file",
            "/real/large",
            "/real/other"
        ]
    );
}

fn log(world: &World, name: &str) -> Vec<(String, Option<u64>, String)> {
    let answer = world.json(&["log", name]);
    answer["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
            (text("event"), entry["size"].as_u64(), text("path"))
        })
        .collect()
}

#[test]
fn the_log_of_a_path_has_every_version_and_the_ancestors() {
    let world = World::new();
    let source = world.tree(
        "source",
        &[("dir/file", "1"), ("dir/other", "other"), ("dirt", "no")],
    );
    let text = [bucket("base", &source), snapshot("v1", "base")].concat();
    world.manifest("a.yaml", &text);
    world.ok(&[
        "play",
        "--once",
        "--no-mount",
        "-f",
        &world.path("manifests").display().to_string(),
    ]);
    world.ok(&["fork", "bucket/base", "work"]);
    world.run_with(&["put", "-", "base:/dir/file"], b"22");
    world.run_with(&["put", "-", "base:/dir/file"], b"333");
    world.run_with(&["put", "-", "work:/dir/file"], b"4444");
    world.ok(&["rm", "work:/dir/file"]);
    world.run_with(&["put", "-", "work:/dir/file"], b"55555");

    let plain = |event: &str, size: Option<u64>| (event.to_owned(), size, String::new());
    assert_eq!(
        log(&world, "base:/dir/file"),
        [
            plain("written", Some(3)),
            plain("written", Some(2)),
            plain("written", Some(1))
        ]
    );
    // The fork goes on from where it began, and does not see what the bucket got later.
    assert_eq!(
        log(&world, "work:/dir/file"),
        [
            plain("written", Some(5)),
            plain("removed", None),
            plain("written", Some(4)),
            plain("written", Some(1))
        ]
    );
    // A directory: what is in it, and nothing whose name only begins like it.
    let inside: Vec<_> = log(&world, "work:/dir")
        .into_iter()
        .map(|row| row.2)
        .collect();
    assert_eq!(inside.iter().filter(|path| *path == "/dir/file").count(), 4);
    assert_eq!(
        inside.iter().filter(|path| *path == "/dir/other").count(),
        1
    );
    assert_eq!(inside.len(), 5, "{inside:?}");
    assert_eq!(log(&world, "work:/dirt").len(), 1);
    assert_eq!(
        log(&world, "snapshot/v1:/dir/file"),
        [plain("written", Some(1))]
    );
    assert_eq!(
        world.json(&["log", "base:/dir/file", "-c", "1"])["entries"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    // What the log prints can be read.
    let answer = world.json(&["log", "base:/dir/file"]);
    let texts: Vec<String> = answer["entries"]
        .as_array()
        .unwrap()
        .iter()
        .take(2)
        .map(|entry| {
            read_file(
                &world,
                &format!("base@{}:/dir/file", entry["epoch"].as_str().unwrap()),
            )
        })
        .collect();
    assert_eq!(texts, ["333", "22"]);

    assert!(
        world
            .fails(1, &["log", "base:/never"])
            .contains("does not exist")
    );
    let removed: Value = world.json(&["log", "work:/dir/file", "-c", "1"]);
    assert_eq!(removed["path"], "/dir/file");
}

#[test]
fn without_retention_the_log_tells_what_snapshots_hold() {
    let world = World::new();
    world.manifest(
        "a.yaml",
        "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {name: base}\nspec: {}\n",
    );
    world.ok(&[
        "play",
        "--once",
        "--no-mount",
        "-f",
        &world.path("manifests").display().to_string(),
    ]);
    world.run_with(&["put", "-", "base:/file"], b"1");
    world.ok(&["snapshot", "base", "one"]);
    world.run_with(&["put", "-", "base:/file"], b"22");
    world.ok(&["snapshot", "base", "two"]);
    world.ok(&["rm", "base:/file"]);
    world.ok(&["snapshot", "base", "three"]);
    // Instants must have passed: without retention only the present and what is held can be told.
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(
        log(&world, "base:/file")
            .iter()
            .map(|row| (row.0.as_str(), row.1))
            .collect::<Vec<_>>(),
        [
            ("removed", None),
            ("written", Some(2)),
            ("written", Some(1))
        ]
    );
    let answer = world.json(&["log", "base:/file"]);
    assert_eq!(answer["entries"][1]["other"]["name"], "two");
    assert!(
        world
            .ok(&["log", "base:/file"])
            .contains("(in snapshot/two)")
    );
}
