//! Drives the real binary on real mounts.

#![allow(dead_code)]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before a test gives up on it.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Says by name what is not run on a machine without FUSE; fails there in CI.
pub fn can_mount(test: &str) -> bool {
    let usable = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .is_ok()
        && rustix::process::geteuid().is_root();
    if !usable {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{test}: /dev/fuse cannot be used, and CI is set"
        );
        eprintln!("{test}: NOT RUN, because /dev/fuse cannot be used here");
    }
    usable
}

/// A store, manifests and mounts of one test.
pub struct World {
    root: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("manifests")).unwrap();
        Self { root }
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The mount of a fork in the namespace `default`.
    pub fn mount(&self, fork: &str) -> PathBuf {
        self.path("mnt/default").join(fork)
    }

    /// Writes a manifest as careful editors do: a new file in the place of the old one.
    pub fn manifest(&self, name: &str, text: &str) {
        let path = self.path("manifests").join(name);
        let passing = self.path("manifests").join(format!(".{name}.new"));
        fs::write(&passing, text).unwrap();
        fs::rename(&passing, &path).unwrap();
    }

    /// Makes a tree to import, and returns where it is.
    pub fn tree(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let top = self.path(name);
        for (file, text) in files {
            let path = top.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        top
    }

    /// Runs a command on the store.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, b"")
    }

    pub fn run_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_anabranch"))
            .args(arguments)
            .arg("--data")
            .arg(self.data())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// Runs a command that has to succeed, and returns what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", say(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that has to fail with this status, and returns what it said.
    pub fn fails(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}: {}",
            say(&output)
        );
        String::from_utf8(output.stderr).unwrap()
    }

    /// The answer of a command as JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    /// Starts `anabranch play` on the folder of manifests.
    pub fn play(&self) -> Play {
        self.play_with(&[])
    }

    pub fn play_with(&self, more: &[&str]) -> Play {
        let mut child = Command::new(env!("CARGO_BIN_EXE_anabranch"))
            .arg("play")
            .arg("-f")
            .arg(self.path("manifests"))
            .arg("--data")
            .arg(self.data())
            .arg("--mount")
            .arg(self.path("mnt"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let text = Arc::new(Mutex::new(String::new()));
        let mut readers = Vec::new();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for mut stream in streams {
            let text = Arc::clone(&text);
            readers.push(std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n) = stream.read(&mut buffer) {
                    if n == 0 {
                        break;
                    }
                    text.lock()
                        .unwrap()
                        .push_str(&String::from_utf8_lossy(&buffer[..n]));
                }
            }));
        }
        Play {
            child,
            text,
            ended: false,
        }
    }

    /// Waits until a condition of an object holds.
    pub fn wait_for(&self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !done() {
            assert!(
                Instant::now() < deadline,
                "{what}: not within {LIMIT:?}\n{}",
                say(&self.run(&["get", "all", "-o", "wide"]))
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The reason of the condition that an object shows, as in the column STATUS.
    pub fn state(&self, kind: &str, name: &str) -> String {
        let output = self.run(&["get", kind, name, "-o", "json"]);
        if !output.status.success() {
            return String::new();
        }
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        object
            .pointer("/status/summary/state")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }

    pub fn wait_for_state(&self, kind: &str, name: &str, state: &str) {
        self.wait_for(&format!("{kind} {name} {state}"), || {
            self.state(kind, name) == state
        });
    }

    /// What the kernel has mounted below the test's directory.
    pub fn mounted(&self) -> Vec<String> {
        let top = fs::canonicalize(self.root.path())
            .unwrap()
            .display()
            .to_string();
        fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|point| point.starts_with(&top))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A test that failed must not leave mounts behind: they would keep the machine from cleaning up.
        for point in self.mounted() {
            let _ = Command::new("umount").arg("-l").arg(&point).status();
        }
    }
}

/// A running `anabranch play`.
pub struct Play {
    child: Child,
    text: Arc<Mutex<String>>,
    ended: bool,
}

impl Play {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Waits until it has printed something.
    pub fn says(&mut self, words: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            if self.text().contains(words) {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                std::thread::sleep(Duration::from_millis(100));
                assert!(
                    self.text().contains(words),
                    "it ended ({status}) without saying {words:?}:\n{}",
                    self.text()
                );
                return;
            }
            assert!(
                Instant::now() < deadline,
                "it does not say {words:?}:\n{}",
                self.text()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as Ctrl-C does, and waits for its end.
    pub fn stop(mut self) -> String {
        signal(self.pid(), rustix::process::Signal::INT);
        let status = self.wait();
        let text = self.text();
        assert!(status.success(), "{status}:\n{text}");
        text
    }

    /// Kills it, as nothing but the kernel can.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.wait();
    }

    pub fn wait(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.ended = true;
                std::thread::sleep(Duration::from_millis(50));
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end:\n{}",
                self.text()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        if !self.ended && self.child.try_wait().ok().flatten().is_none() {
            if std::thread::panicking() {
                eprintln!("--- play said:\n{}", self.text());
            }
            signal(self.child.id(), rustix::process::Signal::INT);
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline && self.child.try_wait().ok().flatten().is_none() {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

pub fn say(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A bucket that imports a directory.
pub fn bucket(name: &str, source: &Path) -> String {
    format!(
        "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {{name: {name}}}\nspec:\n  source: {{directory: {{path: {}}}}}\n  history: {{retain: 1h}}\n---\n",
        source.display()
    )
}

pub fn snapshot(name: &str, bucket: &str) -> String {
    format!(
        "apiVersion: anabranch.dev/v1alpha1\nkind: BucketSnapshot\nmetadata: {{name: {name}}}\nspec: {{source: {{bucket: {bucket}}}, lifetime: {{noExpiry: true}}}}\n---\n"
    )
}

/// A fork of a snapshot; `more` is added to its spec.
pub fn fork(name: &str, snapshot: &str, more: &str) -> String {
    let lifetime = if more.contains("lifetime") {
        ""
    } else {
        "  lifetime: {noExpiry: true}\n"
    };
    let more = if more.is_empty() {
        String::new()
    } else {
        format!("  {more}\n")
    };
    format!(
        "apiVersion: anabranch.dev/v1alpha1\nkind: BucketFork\nmetadata: {{name: {name}}}\nspec:\n  source: {{snapshot: {snapshot}}}\n{lifetime}{more}---\n"
    )
}
