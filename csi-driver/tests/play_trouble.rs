//! Second players, kills, mount points in use, full disks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod play_common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use play_common::{World, bucket, can_mount, fork, read, say, snapshot};

const FILES: &[(&str, &str)] = &[("readme", "the original\n"), ("src/a.rs", "fn a() {}\n")];

fn simple(world: &World) -> String {
    let source = world.tree("source", FILES);
    bucket("base", &source) + &snapshot("v1", "base") + &fork("f", "v1", "")
}

#[test]
fn a_second_player_is_refused_and_the_first_goes_on() {
    if !can_mount("a_second_player_is_refused_and_the_first_goes_on") {
        return;
    }
    let world = World::new();
    world.manifest("a.yaml", &simple(&world));
    let play = world.play();
    world.wait_for("f is mounted", || world.mount("f").join("readme").exists());
    let mut second = world.play();
    assert_eq!(second.wait().code(), Some(1), "{}", second.text());
    assert!(
        second.text().contains(&format!("process {}", play.pid())),
        "{}",
        second.text()
    );
    assert!(
        second.text().contains("anabranch stop"),
        "{}",
        second.text()
    );
    assert_eq!(read(world.mount("f").join("readme")), "the original\n");
    // The command that the message names ends the first.
    world.ok(&["stop"]);
    assert_eq!(world.mounted(), Vec::<String>::new());
    assert!(play.text().contains("ending"), "{}", play.text());
    world.fails(1, &["stop"]);
}

#[test]
fn a_killed_player_is_succeeded_and_programs_go_on() {
    if !can_mount("a_killed_player_is_succeeded_and_programs_go_on") {
        return;
    }
    let world = World::new();
    world.manifest("a.yaml", &simple(&world));
    let mut player = world.play();
    let mount = world.mount("f");
    world.wait_for("f is mounted", || mount.join("readme").exists());
    // Processes of their own have the files open. This one starts the players: a child of it would inherit a
    // descriptor in the mount, close it at exec(2), and wait there for the player that it is about to become.
    let mut appender = Appender::start(&mount.join("log"));
    let mut lines = 0;
    for _ in 0..3 {
        for _ in 0..20 {
            appender.append(&format!("line {lines}"));
            lines += 1;
        }
        player.kill();
        // A program that works while nobody serves waits, and goes on.
        let mut waiting = Command::new("sh")
            .args(["-c", "echo 'written while nobody served' >\"$0\""])
            .arg(mount.join("meanwhile"))
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(200));
        player = world.play();
        assert!(waiting.wait().unwrap().success());
        appender.append(&format!("line {lines}"));
        lines += 1;
    }
    player.says("took over 1 mount");
    appender.end();
    let expected: String = (0..lines).map(|n| format!("line {n}\n")).collect();
    assert_eq!(read(mount.join("log")), expected);
    assert_eq!(
        read(mount.join("meanwhile")),
        "written while nobody served\n"
    );
    player.stop();
    assert_eq!(world.mounted(), Vec::<String>::new());
    assert_eq!(world.ok(&["cat", "f:/log"]), expected);
    world.ok(&["check"]);
}

/// A shell that appends the lines it is given to a file that it opens once.
struct Appender {
    shell: Child,
    lines: ChildStdin,
    done: BufReader<ChildStdout>,
}

impl Appender {
    fn start(path: &Path) -> Appender {
        let script = "exec 3>>\"$0\"; while read -r line; do echo \"$line\" >&3 && echo done || exit 1; done; exec 3>&-; sync \"$0\"";
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Appender {
            lines: shell.stdin.take().unwrap(),
            done: BufReader::new(shell.stdout.take().unwrap()),
            shell,
        }
    }

    fn append(&mut self, line: &str) {
        writeln!(self.lines, "{line}").unwrap();
        let mut answer = String::new();
        self.done.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n");
    }

    fn end(self) {
        let Appender {
            mut shell, lines, ..
        } = self;
        drop(lines);
        assert!(shell.wait().unwrap().success());
    }
}

#[test]
fn a_kill_during_the_import_loses_nothing_and_shows_no_half() {
    let world = World::new();
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    for n in 0..3000 {
        fs::write(source.join(format!("file-{n}")), format!("content {n}\n")).unwrap();
    }
    world.manifest(
        "a.yaml",
        &(bucket("base", &source) + &snapshot("v1", "base") + &fork("f", "v1", "")),
    );
    for wait in [0, 30, 100, 200] {
        let play = world.play_with(&["--no-mount"]);
        std::thread::sleep(Duration::from_millis(wait));
        play.kill();
        // Either nothing is there, or all of it.
        let output = world.run(&["ls", "bucket/base", "-o", "json"]);
        if output.status.success() {
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(answer["entries"].as_array().unwrap().len(), 3000);
        }
    }
    let mut play = world.play_with(&["--once"]);
    assert!(play.wait().success(), "{}", play.text());
    assert_eq!(
        world.json(&["ls", "fork/f"])["entries"]
            .as_array()
            .unwrap()
            .len(),
        3000
    );
    assert_eq!(world.ok(&["cat", "fork/f:/file-2999"]), "content 2999\n");
    assert!(
        !world.ok(&["tree"]).contains("importing"),
        "{}",
        world.ok(&["tree", "-A"])
    );
    world.ok(&["check"]);
}

#[test]
fn a_mount_point_in_use_is_left_alone_and_said() {
    if !can_mount("a_mount_point_in_use_is_left_alone_and_said") {
        return;
    }
    let world = World::new();
    world.manifest("a.yaml", &(simple(&world) + &fork("other", "v1", "")));
    fs::create_dir_all(world.mount("f")).unwrap();
    fs::write(world.mount("f").join("precious"), "precious\n").unwrap();
    let mut play = world.play();
    play.says("cannot mount");
    world.wait_for("other is mounted", || {
        world.mount("other").join("readme").exists()
    });
    assert_eq!(read(world.mount("f").join("precious")), "precious\n");
    // It is mounted as soon as the place is free.
    fs::remove_file(world.mount("f").join("precious")).unwrap();
    world.wait_for("f is mounted", || world.mount("f").join("readme").exists());
    play.stop();
}

#[test]
fn a_full_disk_is_said_and_nothing_is_lost() {
    if !can_mount("a_full_disk_is_said_and_nothing_is_lost") {
        return;
    }
    let world = World::new();
    fs::create_dir(world.data()).unwrap();
    let tmpfs = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=300m", "tmpfs"])
        .arg(world.data())
        .status();
    assert!(tmpfs.unwrap().success());
    world.manifest("a.yaml", &simple(&world));
    let play = world.play();
    let mount = world.mount("f");
    world.wait_for("f is mounted", || mount.join("readme").exists());
    fs::write(mount.join("before"), "before\n").unwrap();
    fs::File::open(mount.join("before"))
        .unwrap()
        .sync_all()
        .unwrap();
    let filler = world.data().join("filler");
    let full = Command::new("dd")
        .args(["if=/dev/zero", "bs=1M", "count=400"])
        .arg(format!("of={}", filler.display()))
        .output();
    assert!(!full.unwrap().status.success(), "the disk is full now");
    let big = vec![b'x'; 100 << 20];
    let output = world.run_with(&["put", "-", "f:/big"], &big);
    assert!(!output.status.success(), "{}", say(&output));
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(
        said.contains("space") || said.contains("full"),
        "{}",
        say(&output)
    );
    assert_eq!(read(mount.join("before")), "before\n");
    assert_eq!(world.ok(&["cat", "base:/readme"]), "the original\n");
    fs::remove_file(filler).unwrap();
    play.stop();
    let play = world.play();
    world.wait_for("f is mounted again", || mount.join("readme").exists());
    assert_eq!(read(mount.join("before")), "before\n");
    fs::write(mount.join("after"), "after\n").unwrap();
    play.stop();
    world.ok(&["check"]);
}
