//! What a command changes is seen through the mount at once, whatever the kernel has cached.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod play_common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use play_common::{Play, World, bucket, can_mount, fork, read, say, snapshot};

const FILES: &[(&str, &str)] = &[
    ("same", "before, 12\n"),
    ("longer", "short\n"),
    ("shorter", "this is the longer content\n"),
    ("removed", "removed\n"),
    ("moved", "moved\n"),
    ("mode", "mode\n"),
    ("time", "time\n"),
    ("sub/inside", "inside\n"),
    ("sub/deep/leaf", "leaf\n"),
    ("untouched/file", "untouched\n"),
];

fn started(world: &World) -> Play {
    let source = world.tree("source", FILES);
    symlink("same", source.join("link")).unwrap();
    world.manifest(
        "a.yaml",
        &(bucket("base", &source) + &snapshot("v1", "base") + &fork("f", "v1", "")),
    );
    let play = world.play();
    world.wait_for("f is mounted", || world.mount("f").join("same").exists());
    play
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Makes the kernel cache all there is.
fn look_at_everything(folder: &Path) {
    for name in names(folder) {
        let path = folder.join(name);
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            look_at_everything(&path);
        } else {
            let _ = fs::read(&path).unwrap();
        }
    }
    assert!(!folder.join("absent").exists());
}

#[test]
fn put_and_rm_are_seen_at_once() {
    if !can_mount("put_and_rm_are_seen_at_once") {
        return;
    }
    let world = World::new();
    let play = started(&world);
    let mount = world.mount("f");
    for round in 0..5 {
        look_at_everything(&mount);
        let open = fs::File::open(mount.join("longer")).unwrap();
        let before = read(mount.join("longer"));
        let text = "x".repeat(10_000 * (round + 1));
        for to in ["longer", "absent", "sub/absent", "new/dir/file"] {
            let output = world.run_with(&["put", "-", &format!("f:/{to}")], text.as_bytes());
            assert!(output.status.success(), "{}", say(&output));
            assert_eq!(
                fs::metadata(mount.join(to)).unwrap().len(),
                text.len() as u64
            );
            assert_eq!(read(mount.join(to)), text);
        }
        assert!(names(&mount).contains(&"absent".to_owned()));
        // Who has the old file open goes on reading it.
        let mut old = vec![0; before.len()];
        open.read_exact_at(&mut old, 0).unwrap();
        assert_eq!(String::from_utf8(old).unwrap(), before);
        // What is only in the kernel's cache is in the answer of a command.
        fs::write(mount.join("written"), format!("round {round}\n")).unwrap();
        assert_eq!(world.ok(&["cat", "f:/written"]), format!("round {round}\n"));

        world.ok(&["rm", "-r", "f:/absent", "f:/sub/absent", "f:/new"]);
        assert!(!mount.join("absent").exists());
        assert!(!mount.join("new").exists());
        assert_eq!(names(&mount.join("sub")), ["deep", "inside"]);
        assert!(!names(&mount).contains(&"absent".to_owned()));
    }
    play.stop();
    world.ok(&["check"]);
}

/// A shell that stays in a folder and runs what it is told.
struct Shell {
    child: std::process::Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Shell {
    fn new(folder: &Path) -> Self {
        let mut child = Command::new("sh")
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn run(&mut self, line: &str) -> String {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{line} 2>&1; echo END").unwrap();
        let mut text = String::new();
        loop {
            let mut line = String::new();
            assert!(
                self.out.read_line(&mut line).unwrap() > 0,
                "the shell ended"
            );
            if line == "END\n" {
                return text;
            }
            text.push_str(&line);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tree(top: &Path, at: &str, out: &mut Vec<(String, u32, i64, String)>) {
    for name in names(&top.join(at)) {
        let path = format!("{at}/{name}").trim_start_matches('/').to_owned();
        let meta = fs::symlink_metadata(top.join(&path)).unwrap();
        let content = if meta.is_symlink() {
            fs::read_link(top.join(&path))
                .unwrap()
                .display()
                .to_string()
        } else if meta.is_file() {
            read(top.join(&path))
        } else {
            String::new()
        };
        // Of a file that is open the kernel keeps its own time.
        let time = if name == "same" { 0 } else { meta.mtime_nsec() };
        out.push((path.clone(), meta.mode(), time, content));
        if meta.is_dir() {
            tree(top, &path, out);
        }
    }
}

#[test]
fn a_restore_is_seen_by_open_files_folders_names_and_pages() {
    if !can_mount("a_restore_is_seen_by_open_files_folders_names_and_pages") {
        return;
    }
    let world = World::new();
    let play = started(&world);
    let mount = world.mount("f");
    let mut before = Vec::new();
    tree(&mount, "", &mut before);
    let mut inside = Shell::new(&mount.join("sub/deep"));
    let same = fs::File::open(mount.join("same")).unwrap();
    let untouched = fs::File::open(mount.join("untouched/file")).unwrap();

    for round in 0..3 {
        look_at_everything(&mount);
        fs::write(mount.join("same"), "after , 12\n").unwrap();
        fs::write(
            mount.join("longer"),
            "not short at all any more\n".repeat(1000),
        )
        .unwrap();
        fs::write(mount.join("shorter"), "shorter\n").unwrap();
        fs::remove_file(mount.join("removed")).unwrap();
        fs::rename(mount.join("moved"), mount.join("elsewhere")).unwrap();
        fs::hard_link(mount.join("time"), mount.join("time-2")).unwrap();
        fs::set_permissions(mount.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::File::options()
            .write(true)
            .open(mount.join("time"))
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(77))
            .unwrap();
        fs::remove_file(mount.join("link")).unwrap();
        symlink("longer", mount.join("link")).unwrap();
        fs::rename(mount.join("sub/inside"), mount.join("sub/deep/inside")).unwrap();
        fs::create_dir(mount.join("new")).unwrap();
        fs::write(mount.join("new/file"), "new\n").unwrap();
        let mut lost = Shell::new(&mount.join("new"));
        assert_eq!(lost.run("cat file"), "new\n");
        let nameless = fs::File::create_new(mount.join("nameless")).unwrap();
        nameless.write_all_at(b"nameless", 0).unwrap();
        fs::remove_file(mount.join("nameless")).unwrap();
        look_at_everything(&mount);
        assert_eq!(inside.run("ls"), "inside\nleaf\n");

        world.ok(&["restore", "fork/f", "snapshot/v1"]);
        let mut after = Vec::new();
        tree(&mount, "", &mut after);
        assert_eq!(after, before, "round {round}");
        // Open files: the restored bytes.
        let mut bytes = [0; 11];
        same.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"before, 12\n");
        let mut bytes = [0; 10];
        untouched.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"untouched\n");
        // Folders that programs are in: the one that is there shows the restored state, the other one is empty.
        assert_eq!(
            inside.run("ls; cat leaf; cat ../inside"),
            "leaf\nleaf\ninside\n"
        );
        assert!(!lost.run("cat file").contains("new\n"));
        // A file that has no name in either state: an error, never somebody else's bytes.
        let mut bytes = [0; 8];
        if nameless.read_exact_at(&mut bytes, 0).is_ok() {
            assert_eq!(&bytes, b"nameless");
        }
        // It can be worked in.
        fs::write(mount.join("sub/deep/fresh"), "fresh\n").unwrap();
        assert_eq!(inside.run("cat fresh; rm fresh; ls"), "fresh\nleaf\n");
        fs::write(mount.join("same"), "before, 12\n").unwrap();
        world.ok(&["restore", "fork/f", "snapshot/v1"]);
    }
    // A program that still uses a mount would keep the player from ending for a while.
    drop((inside, same, untouched));
    play.stop();
    world.ok(&["check"]);
}
