//! From a manifest to mounted forks, and what people do with them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod play_common;

use std::fs;
use std::process::Command;

use play_common::{World, bucket, can_mount, fork, read, snapshot};

const FILES: &[(&str, &str)] = &[
    ("readme", "the original\n"),
    ("src/a.rs", "fn a() {}\n"),
    ("src/b.rs", "fn b() {}\n"),
    ("src/deep/c", "c\n"),
];

fn quickstart(world: &World) -> String {
    let source = world.tree("source", FILES);
    bucket("base", &source) + &snapshot("base-v1", "base") + &fork("agent", "base-v1", "count: 3")
}

#[test]
fn forks_are_mounted_isolated_and_compared() {
    if !can_mount("forks_are_mounted_isolated_and_compared") {
        return;
    }
    let world = World::new();
    world.manifest("a.yaml", &quickstart(&world));
    let play = world.play();
    world.wait_for_state("forks", "agent", "Ready");
    let mounts: Vec<_> = (0..3).map(|i| world.mount(&format!("agent-{i}"))).collect();
    for mount in &mounts {
        world.wait_for("mounted", || mount.join("readme").exists());
        for (file, text) in FILES {
            assert_eq!(read(mount.join(file)), *text);
        }
    }
    fs::write(mounts[0].join("readme"), "changed by zero\n").unwrap();
    fs::remove_file(mounts[1].join("src/a.rs")).unwrap();
    fs::rename(mounts[1].join("src/b.rs"), mounts[1].join("src/moved.rs")).unwrap();
    fs::write(mounts[1].join("new"), "new\n").unwrap();

    assert_eq!(read(mounts[1].join("readme")), "the original\n");
    assert_eq!(read(mounts[2].join("readme")), "the original\n");
    assert_eq!(world.ok(&["cat", "base:/readme"]), "the original\n");
    assert_eq!(
        world.ok(&["cat", "snapshot/base-v1:/src/a.rs"]),
        "fn a() {}\n"
    );

    let diff = world.json(&["diff", "fork/agent-1"]);
    let differences: Vec<(String, String)> = diff["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["kind"] != "directory")
        .map(|e| {
            (
                e["difference"].as_str().unwrap().to_owned(),
                e["path"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let mut differences = differences;
    differences.sort();
    let expected = [
        ("added", "/new"),
        ("removed", "/src/a.rs"),
        ("renamed", "/src/moved.rs"),
    ];
    assert_eq!(
        differences,
        expected.map(|(a, b)| (a.to_owned(), b.to_owned())),
        "{diff:#}"
    );
    let nothing = world.json(&["diff", "fork/agent-2"]);
    assert_eq!(
        (&nothing["added"], &nothing["changed"], &nothing["removed"]),
        (&0.into(), &0.into(), &0.into())
    );
    assert!(
        world
            .ok(&["diff", "fork/agent-2"])
            .contains("no differences")
    );
    world.fails(3, &["diff", "fork/agent-0", "--exit-code"]);

    let du = world.json(&["du"]);
    let own = |name: &str| {
        du["entries"]
            .as_array()
            .unwrap()
            .iter()
            .find(|e| e["name"] == name)
            .unwrap()["divergentBytes"]
            .as_u64()
            .unwrap()
    };
    assert!(own("agent-0") > 0);
    assert_eq!(own("agent-2"), 0, "{du:#}");

    let tree = world.ok(&["tree"]);
    assert!(
        tree.contains("● snapshot/base-v1") && tree.contains("fork/agent-2"),
        "{tree}"
    );
    assert!(tree.contains(&mounts[0].display().to_string()), "{tree}");

    let text = play.stop();
    assert_eq!(world.mounted(), Vec::<String>::new(), "{text}");
    // The same store, now without an owner.
    assert_eq!(
        world.ok(&["cat", "fork/agent-0:/readme"]),
        "changed by zero\n"
    );
    world.ok(&["check"]);
}

#[test]
fn a_mounted_fork_is_restored_under_its_users() {
    if !can_mount("a_mounted_fork_is_restored_under_its_users") {
        return;
    }
    let world = World::new();
    world.manifest("a.yaml", &quickstart(&world));
    let play = world.play();
    world.wait_for_state("forks", "agent", "Ready");
    let mount = world.mount("agent-0");
    world.wait_for("mounted", || mount.join("readme").exists());
    fs::write(mount.join("readme"), "spoilt\n").unwrap();
    fs::write(mount.join("junk"), "junk\n").unwrap();
    let answer = world.json(&["restore", "fork/agent-0", "snapshot/base-v1"]);
    assert_eq!(read(mount.join("readme")), "the original\n");
    assert!(!mount.join("junk").exists());
    // What was there is history, by the epoch that restore named.
    let before = answer["before"].as_str().unwrap();
    assert_eq!(
        world.ok(&["cat", &format!("fork/agent-0@{before}:/readme")]),
        "spoilt\n"
    );
    assert_eq!(
        world.ok(&["cat", &format!("fork/agent-0@{before}:/junk")]),
        "junk\n"
    );
    assert!(
        world
            .ok(&["log", "fork/agent-0"])
            .contains("restored to snapshot/base-v1")
    );
    assert!(
        world
            .ok(&["tree"])
            .contains("↺ restored to snapshot/base-v1")
    );
    // It can be written on, and put and rm are seen through the mount.
    fs::write(mount.join("after"), "after\n").unwrap();
    world.run_with(&["put", "-", "fork/agent-0:/put/here"], b"by command\n");
    assert_eq!(read(mount.join("put/here")), "by command\n");
    world.run_with(&["put", "-", "fork/agent-0:/after"], b"replaced\n");
    assert_eq!(read(mount.join("after")), "replaced\n");
    world.ok(&["rm", "-r", "fork/agent-0:/put"]);
    assert!(!mount.join("put").exists());
    play.stop();
    world.ok(&["check"]);
}

#[test]
fn a_snapshot_holds_everything_that_returned_before() {
    if !can_mount("a_snapshot_holds_everything_that_returned_before") {
        return;
    }
    let world = World::new();
    world.manifest("a.yaml", &quickstart(&world));
    let play = world.play();
    world.wait_for_state("forks", "agent", "Ready");
    let mount = world.mount("agent-0");
    world.wait_for("mounted", || mount.join("readme").exists());
    // A writer goes on and on; each round is whole once it returned.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let done = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let writer = {
        let (stop, done, mount) = (stop.clone(), done.clone(), mount.clone());
        std::thread::spawn(move || {
            let mut round = 0u64;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                round += 1;
                fs::write(mount.join(format!("round-{round}")), vec![b'x'; 5000]).unwrap();
                done.store(round, std::sync::atomic::Ordering::SeqCst);
            }
        })
    };
    for shot in 0..5 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let before = done.load(std::sync::atomic::Ordering::SeqCst);
        let name = format!("shot-{shot}");
        world.ok(&["snapshot", "fork/agent-0", &name]);
        let listed = world.json(&["ls", &format!("snapshot/{name}")]);
        let whole = listed["entries"].as_array().unwrap().iter().filter(|e| {
            let round = e["path"]
                .as_str()
                .unwrap()
                .strip_prefix("/round-")
                .and_then(|n| n.parse::<u64>().ok());
            round.is_some_and(|round| round <= before) && e["size"] == 5000
        });
        assert_eq!(
            whole.count() as u64,
            before,
            "every round that returned is in {name}, with its bytes"
        );
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    writer.join().unwrap();
    play.stop();
    world.ok(&["check"]);
}

#[test]
fn ordinary_programs_work_in_a_fork() {
    if !can_mount("ordinary_programs_work_in_a_fork") {
        return;
    }
    let world = World::new();
    world.manifest("a.yaml", &quickstart(&world));
    let play = world.play();
    world.wait_for_state("forks", "agent", "Ready");
    let mount = world.mount("agent-0");
    world.wait_for("mounted", || mount.join("readme").exists());
    let script = "set -e; sed -i s/original/edited/ readme; mkdir -p x/y; echo 1 > x/y/z; mv x w; ln -s w/y/z link; \
                  ln readme hard; tar cf all.tar src; rm -r src; tar xf all.tar; cat link; stat -c %h hard";
    let output = Command::new("sh")
        .arg("-c")
        .arg(script)
        .current_dir(&mount)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", play_common::say(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n2\n");
    assert_eq!(world.ok(&["cat", "fork/agent-0:/link"]), "1\n");
    assert_eq!(world.ok(&["cat", "fork/agent-0:/hard"]), "the edited\n");
    assert_eq!(
        world.ok(&["cat", "--range", "4-5", "fork/agent-0:/hard"]),
        "ed"
    );
    assert!(
        world
            .ok(&["ls", "-l", "fork/agent-0"])
            .contains("link -> w/y/z")
    );
    play.stop();
}
