//! Manifests that change, are wrong, or ask for what is not there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod play_common;

use std::fs;
use std::time::Duration;

use play_common::{World, bucket, can_mount, fork, read, say, snapshot};

const FILES: &[(&str, &str)] = &[("readme", "the original\n"), ("src/a.rs", "fn a() {}\n")];

#[test]
fn applying_editing_and_deleting_documents_is_followed() {
    if !can_mount("applying_editing_and_deleting_documents_is_followed") {
        return;
    }
    let world = World::new();
    let source = world.tree("source", FILES);
    let base = bucket("base", &source) + &snapshot("v1", "base");
    world.manifest("a.yaml", &base);
    world.manifest("b.yaml", &fork("agent", "v1", "count: 1"));
    let play = world.play();
    let mounted = |name: &str| world.mount(name).join("readme").exists();
    world.wait_for("agent-0 is mounted", || mounted("agent-0"));
    fs::write(world.mount("agent-0").join("mine"), "mine\n").unwrap();

    // More of them, then fewer; what stays keeps its data.
    world.manifest("b.yaml", &fork("agent", "v1", "count: 3"));
    world.wait_for("agent-2 is mounted", || mounted("agent-2"));
    assert!(!world.mount("agent-2").join("mine").exists());
    world.manifest("b.yaml", &fork("agent", "v1", "count: 1"));
    world.wait_for("agent-2 is unmounted", || !world.mount("agent-2").exists());
    assert_eq!(read(world.mount("agent-0").join("mine")), "mine\n");

    // A new file in the folder; a setting.
    world.manifest("c.yaml", &fork("late", "v1", "quota: {inodes: 20}"));
    world.wait_for("late is mounted", || mounted("late"));
    world.manifest("c.yaml", &fork("late", "v1", "readOnly: true"));
    world.wait_for("late is read-only", || {
        mounted("late")
            && fs::write(world.mount("late").join("x"), "x")
                .is_err_and(|e| e.raw_os_error() == Some(30))
    });

    // A file taken away.
    fs::remove_file(world.path("manifests/c.yaml")).unwrap();
    world.wait_for("late is gone", || !world.mount("late").exists());
    world.fails(1, &["get", "forks", "late"]);
    // An editor that takes a file away for a moment deletes nothing.
    let path = world.path("manifests/b.yaml");
    let text = read(&path);
    fs::remove_file(&path).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    fs::write(&path, text).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(read(world.mount("agent-0").join("mine")), "mine\n");

    // The bucket and the snapshot go; the fork stays whole.
    world.manifest("a.yaml", "");
    world.wait_for("base is gone", || {
        !world.run(&["get", "buckets", "base"]).status.success()
    });
    assert_eq!(read(world.mount("agent-0").join("src/a.rs")), "fn a() {}\n");
    assert!(
        world.ok(&["tree"]).contains("bucket/base (deleted)"),
        "{}",
        world.ok(&["tree"])
    );
    play.stop();
    world.ok(&["check"]);
}

#[test]
fn invalid_documents_are_named_and_stop_nothing_else() {
    if !can_mount("invalid_documents_are_named_and_stop_nothing_else") {
        return;
    }
    let world = World::new();
    let source = world.tree("source", FILES);
    let good = bucket("base", &source) + &snapshot("v1", "base") + &fork("good", "v1", "");
    let wrong = fork("wrong", "v1", "").replace("snapshot: v1", "snapshoot: v1");
    world.manifest("a.yaml", &(good.clone() + &wrong));
    world.manifest("b.yaml", "kind: {{{ not yaml\n");
    let mut play = world.play();
    play.says("a.yaml: document 4, line");
    play.says("snapshoot");
    play.says("b.yaml: document 1");
    world.wait_for("good is mounted", || {
        world.mount("good").join("readme").exists()
    });
    assert!(!world.mount("wrong").exists());
    // The corrected files are picked up, and what was good stays although its file was wrong meanwhile.
    fs::write(world.mount("good").join("kept"), "kept\n").unwrap();
    fs::remove_file(world.path("manifests/b.yaml")).unwrap();
    world.manifest("a.yaml", &(good + &fork("wrong", "v1", "")));
    world.wait_for("wrong is mounted", || {
        world.mount("wrong").join("readme").exists()
    });
    assert_eq!(read(world.mount("good").join("kept")), "kept\n");
    play.says("valid again");
    play.stop();
}

#[test]
fn a_missing_source_is_waited_for_and_said() {
    if !can_mount("a_missing_source_is_waited_for_and_said") {
        return;
    }
    let world = World::new();
    let source = world.path("later");
    world.manifest(
        "a.yaml",
        &(bucket("base", &source) + &snapshot("v1", "base") + &fork("f", "v1", "")),
    );
    let mut play = world.play();
    play.says("cannot be read");
    assert_eq!(world.state("buckets", "base"), "Retrying");
    assert_eq!(world.state("forks", "f"), "WaitingForSource");
    world.tree("later", FILES);
    world.wait_for("f is mounted", || world.mount("f").join("readme").exists());
    play.stop();
}

#[test]
fn once_makes_one_pass_and_leaves_no_mounts() {
    let world = World::new();
    let source = world.tree("source", FILES);
    let good = bucket("base", &source) + &snapshot("v1", "base") + &fork("f", "v1", "count: 2");
    world.manifest("a.yaml", &good);
    let mut play = world.play_with(&["--once"]);
    let status = play.wait();
    assert!(status.success(), "{}", play.text());
    assert_eq!(world.mounted(), Vec::<String>::new());
    assert_eq!(world.ok(&["cat", "f-1:/readme"]), "the original\n");
    assert_eq!(world.state("forks", "f"), "Ready");
    let names = world.ok(&["get", "all", "-o", "name"]);
    assert_eq!(names, "bucket/base\nsnapshot/v1\nfork/f\n");
    // A second pass changes nothing: the same timelines, the same epochs.
    let before = world.json(&["get", "forks", "f"]);
    assert!(world.play_with(&["--once"]).wait().success());
    let after = world.json(&["get", "forks", "f"]);
    for field in [
        "/status/items/0/timeline",
        "/status/epoch",
        "/metadata/uid",
        "/metadata/generation",
    ] {
        assert_eq!(before.pointer(field), after.pointer(field), "{field}");
        assert!(before.pointer(field).is_some(), "{field}: {before:#}");
    }
    // What is wrong is said by the status, and everything else is done.
    world.manifest("b.yaml", &fork("g", "no-such", ""));
    world.manifest("c.yaml", &fork("h", "v1", ""));
    let mut play = world.play_with(&["--once"]);
    assert_eq!(play.wait().code(), Some(1), "{}", play.text());
    assert!(
        play.text().contains("no-such, which does not exist"),
        "{}",
        play.text()
    );
    assert_eq!(world.state("forks", "h"), "Ready");
    world.ok(&["check"]);
}

#[test]
fn what_expired_is_not_made_again() {
    if !can_mount("what_expired_is_not_made_again") {
        return;
    }
    let world = World::new();
    let source = world.tree("source", FILES);
    let text = bucket("base", &source)
        + &snapshot("v1", "base")
        + &fork("short", "v1", "lifetime: {ttl: 3s}")
        + &fork("kept", "v1", "lifetime: {ttl: 3s}\n  protected: true");
    world.manifest("a.yaml", &text);
    let play = world.play();
    world.wait_for("short is mounted", || {
        world.mount("short").join("readme").exists()
    });
    world.ok(&["fork", "v1", "brief", "--ttl", "2s"]);
    world.wait_for("brief is mounted", || {
        world.mount("brief").join("readme").exists()
    });
    world.wait_for_state("forks", "short", "Expired");
    world.wait_for("short and brief are unmounted", || {
        !world.mount("short").exists() && !world.mount("brief").exists()
    });
    assert!(
        world.mount("kept").join("readme").exists(),
        "a protected fork outlives its lifetime"
    );
    play.stop();
    assert_eq!(
        world.state("forks", "short"),
        "Expired",
        "also without an owner"
    );
    let play = world.play();
    world.wait_for("kept is mounted again", || {
        world.mount("kept").join("readme").exists()
    });
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(world.state("forks", "short"), "Expired");
    assert!(!world.mount("short").exists());
    // Its document goes, and comes back: that is a new one.
    let without = text.replace(&fork("short", "v1", "lifetime: {ttl: 3s}"), "");
    world.manifest("a.yaml", &without);
    world.wait_for("short is forgotten", || {
        world.state("forks", "short").is_empty()
    });
    world.manifest("a.yaml", &text);
    world.wait_for("short is mounted", || {
        world.mount("short").join("readme").exists()
    });
    play.stop();
}

#[test]
fn a_manifest_that_does_not_exist_is_an_error_at_once() {
    let world = World::new();
    let output = world.run(&["play", "-f", "/no/such/file.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{}", say(&output));
    assert!(
        say(&output).contains("/no/such/file.yaml does not exist"),
        "{}",
        say(&output)
    );
    // A file where a folder is needed is named with the option that wants it.
    world.manifest("a.yaml", "");
    let file = world.path("manifests/a.yaml").display().to_string();
    let refused = world.fails(2, &["play", "-f", &file, "--mount", &file]);
    assert!(refused.contains("--mount takes a folder"), "{refused}");
    let output = world.run(&["ls", "base"]);
    assert_eq!(output.status.code(), Some(1), "{}", say(&output));
    assert!(
        say(&output).contains("there is no store in"),
        "{}",
        say(&output)
    );
}

#[test]
fn a_protected_fork_outlives_its_document() {
    if !can_mount("a_protected_fork_outlives_its_document") {
        return;
    }
    let world = World::new();
    let source = world.tree("source", FILES);
    let base = bucket("base", &source) + &snapshot("v1", "base");
    let kept = |more: &str| world.manifest("a.yaml", &(base.clone() + &fork("f", "v1", more)));
    kept("protected: true");
    let mut play = world.play();
    let mount = world.mount("f");
    world.wait_for("f is mounted", || mount.join("readme").exists());
    fs::write(mount.join("mine"), "mine\n").unwrap();
    let refused = world.fails(1, &["delete", "fork/f"]);
    assert!(refused.contains("kept by a manifest"), "{refused}");

    // Its document goes: it stays, mounted, and says why and what to do.
    world.manifest("a.yaml", &base);
    world.wait_for_state("forks", "f", "Protected");
    play.says("put the document back");
    fs::write(mount.join("still"), "writable\n").unwrap();
    assert_eq!(read(mount.join("mine")), "mine\n");
    // So it does for the next player.
    play.stop();
    let play = world.play();
    world.wait_for("f is mounted again", || mount.join("still").exists());
    assert_eq!(world.state("forks", "f"), "Protected");

    // The document brings it back as it is; without the protection it goes with its document.
    kept("protected: true");
    world.wait_for_state("forks", "f", "Ready");
    kept("protected: false");
    world.wait_for("f is no longer protected", || {
        world.json(&["get", "forks", "f"])["spec"]["protected"] != true
    });
    assert_eq!(read(mount.join("mine")), "mine\n");
    world.manifest("a.yaml", &base);
    world.wait_for("f is gone", || !mount.exists());
    world.fails(1, &["get", "forks", "f"]);
    play.stop();
    world.ok(&["check"]);
}
