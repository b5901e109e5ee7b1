//! Mounts outlive the process that serves them: it is killed with SIGKILL again and again under programs at work,
//! and none of them notices more than a pause.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use csi_driver::mounts::{Mounts, Options};
use storage_engine::Point;
use support::{Place, can_mount, open_engine, request, root_timeline, watchdog};

mod support;

const SERVE: &str = "ANABRANCH_TEST_SERVE";

fn kills() -> u32 {
    std::env::var("ANABRANCH_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(20)
}

/// The serving process: this very program, started by the tests below.
#[test]
fn serving_process() {
    let Some(root) = std::env::var_os(SERVE) else {
        return;
    };
    let root = PathBuf::from(root);
    let engine = open_engine(&root);
    let mounts = Mounts::start(Options::new(root.join("keeper")), engine.clone()).unwrap();
    let taken = mounts.take_over().unwrap();
    for one in &taken {
        one.outcome.as_ref().unwrap();
    }
    if taken.is_empty() {
        let timeline = root_timeline(&engine, "bucket/default/t");
        mounts
            .mount(request("m", Point::Now(timeline), root.join("mnt")))
            .unwrap();
    }
    println!("SERVING");
    // Until it is killed, or its standard input ends.
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).unwrap() > 0 {
        if line.trim() == "end" {
            mounts.shut_down(Duration::from_secs(10)).unwrap();
            engine.close().unwrap();
            return;
        }
    }
}

struct Server {
    child: Child,
}

impl Server {
    fn start(root: &Path) -> Server {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["serving_process", "--exact", "--nocapture"])
            .env(SERVE, root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let serving = lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.contains("SERVING"));
        assert!(serving, "the serving process did not come up");
        std::thread::spawn(move || lines.for_each(drop));
        Server { child }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn end(mut self) {
        self.child
            .stdin
            .take()
            .unwrap()
            .write_all(b"end\n")
            .unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

/// Kills the serving process while `work` runs on the mount, until both the kills are done and the work has had a
/// second more; prints the stall of each.
fn killed_under(name: &str, work: impl FnOnce(&Path, Arc<AtomicBool>) -> Vec<JoinHandle<()>>) {
    if !can_mount(name) {
        return;
    }
    let _alive = watchdog(Duration::from_secs(400));
    let place = Place::new("takeover");
    let mnt = place.path("mnt");
    let mut server = Server::start(&place.root);
    let stop = Arc::new(AtomicBool::new(false));
    let workers = work(&mnt, Arc::clone(&stop));
    // Measures the stall: a request that no cache answers, over and over.
    let (probe_stop, probe_mnt) = (Arc::clone(&stop), mnt.clone());
    let longest = Arc::new(AtomicU64::new(0));
    let probe_longest = Arc::clone(&longest);
    let probe = std::thread::spawn(move || {
        while !probe_stop.load(Ordering::SeqCst) {
            let begun = Instant::now();
            rustix::fs::statfs(&probe_mnt).unwrap();
            probe_longest.fetch_max(begun.elapsed().as_micros() as u64, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let mut stalls = Vec::new();
    for kill in 0..kills() {
        std::thread::sleep(Duration::from_millis(150 + u64::from(kill) * 37 % 400));
        longest.store(0, Ordering::SeqCst);
        server.kill();
        server = Server::start(&place.root);
        std::thread::sleep(Duration::from_millis(100));
        stalls.push(longest.load(Ordering::SeqCst) / 1000);
    }
    std::thread::sleep(Duration::from_secs(1));
    stop.store(true, Ordering::SeqCst);
    eprintln!("{name}: stalls in ms (process start included): {stalls:?}");
    probe.join().unwrap();
    for worker in workers {
        worker.join().unwrap();
    }
    server.end();
    // The store is free again, and nothing without a name is left in it.
    let engine = open_engine(&place.root);
    let timeline = engine.timeline_named("bucket/default/t").unwrap();
    assert_eq!(
        support::volume(&engine, Point::Now(timeline.id))
            .reap_all()
            .unwrap(),
        0
    );
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// mkdir, rename, link, unlink and appends: each is counted, and done once.
#[test]
#[ignore = "open fault: programs on a mount do not go on reliably after kills of the serving process; run it with --ignored to work on it"]
fn no_request_is_done_twice_and_open_files_go_on() {
    killed_under(
        "no_request_is_done_twice_and_open_files_go_on",
        |mnt, stop| {
            let mut workers = Vec::new();
            let (base, ended) = (mnt.join("names"), Arc::clone(&stop));
            workers.push(std::thread::spawn(move || {
                fs::create_dir(&base).unwrap();
                let mut count = 0u32;
                // Each of these fails when it is applied twice (EEXIST, ENOENT).
                while !ended.load(Ordering::SeqCst) {
                    let (made, moved) = (
                        base.join(format!("d{count}")),
                        base.join(format!("e{count}")),
                    );
                    fs::create_dir(&made).unwrap();
                    fs::rename(&made, &moved).unwrap();
                    let file = base.join(format!("f{count}"));
                    OpenOptions::new()
                        .create_new(true)
                        .write(true)
                        .open(&file)
                        .unwrap();
                    fs::hard_link(&file, base.join(format!("l{count}"))).unwrap();
                    std::os::unix::fs::symlink("x", base.join(format!("s{count}"))).unwrap();
                    fs::remove_file(&file).unwrap();
                    if count.is_multiple_of(3) {
                        fs::remove_dir(&moved).unwrap();
                    }
                    count += 1;
                }
                let names = fs::read_dir(&base).unwrap().count() as u32;
                assert_eq!(names, 3 * count - count.div_ceil(3), "{count} rounds");
                eprintln!("{count} rounds of names");
            }));
            let (path, ended) = (mnt.join("appended"), Arc::clone(&stop));
            workers.push(std::thread::spawn(move || {
                // Opened once: the descriptor lives through every kill.
                let mut file = OpenOptions::new()
                    .create_new(true)
                    .append(true)
                    .read(true)
                    .open(&path)
                    .unwrap();
                let mut count = 0u64;
                while !ended.load(Ordering::SeqCst) {
                    file.write_all(&count.to_le_bytes()).unwrap();
                    if count.is_multiple_of(16) {
                        file.sync_data().unwrap();
                    }
                    count += 1;
                }
                let content = fs::read(&path).unwrap();
                assert_eq!(content.len() as u64, count * 8);
                assert!(
                    content
                        .chunks_exact(8)
                        .enumerate()
                        .all(|(at, bytes)| bytes == (at as u64).to_le_bytes())
                );
                eprintln!("{count} appends");
            }));
            let (path, ended) = (mnt.join("unlinked"), stop);
            workers.push(std::thread::spawn(move || {
                let file = OpenOptions::new()
                    .create_new(true)
                    .read(true)
                    .write(true)
                    .open(&path)
                    .unwrap();
                fs::remove_file(&path).unwrap();
                let mut count = 0u64;
                while !ended.load(Ordering::SeqCst) {
                    file.write_all_at(&[count as u8; 4096], (count % 64) * 4096)
                        .unwrap();
                    file.sync_data().unwrap();
                    // From the server and not from the cache.
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                    let mut page = [0; 4096];
                    file.read_exact_at(&mut page, (count % 64) * 4096).unwrap();
                    assert_eq!(page, [count as u8; 4096]);
                    count += 1;
                }
            }));
            workers
        },
    );
}

#[test]
#[ignore = "open fault: programs on a mount do not go on reliably after kills of the serving process; run it with --ignored to work on it"]
fn sqlite_in_wal_mode_goes_on() {
    killed_under("sqlite_in_wal_mode_goes_on", |mnt, stop| {
        let database = mnt.join("db");
        let sqlite = |database: &Path, sql: &str| {
            let output = Command::new("sqlite3")
                .arg("-bail")
                .arg(database)
                .arg(sql)
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{sql}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        sqlite(
            &database,
            "pragma journal_mode=wal; create table t(n integer primary key, x blob);",
        );
        vec![std::thread::spawn(move || {
            // One process over all kills, its files open throughout.
            let mut shell = Command::new("sqlite3")
                .arg("-bail")
                .arg(&database)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut input = shell.stdin.take().unwrap();
            writeln!(input, "pragma synchronous=full;").unwrap();
            let mut count = 0u64;
            while !stop.load(Ordering::SeqCst) {
                writeln!(input, "insert into t values({count}, randomblob(500));").unwrap();
                count += 1;
                if count.is_multiple_of(100) {
                    writeln!(
                        input,
                        "update t set x = randomblob(600) where n % 7 = {};",
                        count % 7
                    )
                    .unwrap();
                }
            }
            drop(input);
            let output = shell.wait_with_output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert_eq!(
                sqlite(&database, "select count(*), max(n) from t;"),
                format!("{count}|{}", count - 1)
            );
            assert_eq!(sqlite(&database, "pragma integrity_check;"), "ok");
            eprintln!("{count} rows");
        })]
    });
}

#[test]
#[ignore = "open fault: under make -j2 a create was once answered EEXIST after a kill; run it with --ignored to work on it"]
fn a_build_goes_on() {
    killed_under("a_build_goes_on", |mnt, stop| {
        let folder = mnt.join("project");
        vec![std::thread::spawn(move || {
            fs::create_dir(&folder).unwrap();
            const FILES: usize = 40;
            for number in 0..FILES {
                let code = format!(
                    "#include <stdio.h>\n#include <stdlib.h>\nint f{number}(int x) {{ return x + {number}; }}\n"
                );
                fs::write(folder.join(format!("f{number}.c")), code).unwrap();
            }
            let declare: String = (0..FILES).map(|n| format!("int f{n}(int);")).collect();
            let call: String = (0..FILES).map(|n| format!("x = f{n}(x);")).collect();
            fs::write(folder.join("main.c"), format!("#include <stdio.h>\n{declare}\nint main() {{ int x = 0; {call} printf(\"%d\", x); }}\n")).unwrap();
            fs::write(
                folder.join("Makefile"),
                "objects := $(patsubst %.c,%.o,$(wildcard *.c))\nprogram: $(objects)\n\tcc -o $@ $^\n%.o: %.c\n\tcc -c -o $@ $<\nclean:\n\trm -f *.o program\n",
            )
            .unwrap();
            let mut builds = 0;
            while !stop.load(Ordering::SeqCst) {
                run(Command::new("make")
                    .arg("-j2")
                    .arg("-s")
                    .current_dir(&folder));
                let output = Command::new(folder.join("program")).output().unwrap();
                assert_eq!(
                    String::from_utf8_lossy(&output.stdout),
                    (0..FILES).sum::<usize>().to_string()
                );
                run(Command::new("make")
                    .arg("-s")
                    .arg("clean")
                    .current_dir(&folder));
                builds += 1;
            }
            eprintln!("{builds} builds");
        })]
    });
}

#[test]
#[ignore = "open fault: programs on a mount do not go on reliably after kills of the serving process; run it with --ignored to work on it"]
fn fsx_goes_on() {
    let name = "fsx_goes_on";
    let found = std::env::var_os("FSX").map(PathBuf::from).or_else(|| {
        std::env::split_paths(&std::env::var_os("PATH")?)
            .map(|folder| folder.join("fsx"))
            .find(|path| path.is_file())
    });
    let Some(fsx) = found else {
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "{name}: CI must have fsx in PATH"
        );
        eprintln!("NOT RUN: {name}: needs fsx (cargo install fsx --version 0.3.2 --locked)");
        return;
    };
    killed_under(name, |mnt, stop| {
        let mnt = mnt.to_owned();
        vec![std::thread::spawn(move || {
            let mut seed = 1;
            while !stop.load(Ordering::SeqCst) {
                eprintln!("fsx seed {seed}");
                let file = mnt.join(format!("fsx{seed}"));
                run(Command::new(&fsx)
                    .args(["-S", &seed.to_string(), "-N", "3000"])
                    .arg(&file)
                    .current_dir("/tmp"));
                seed += 1;
            }
        })]
    });
}

/// A descriptor of a directory lives on, too.
#[test]
#[ignore = "open fault: programs on a mount do not go on reliably after kills of the serving process; run it with --ignored to work on it"]
fn a_listing_goes_on_from_where_it_was() {
    let name = "a_listing_goes_on_from_where_it_was";
    if !can_mount(name) {
        return;
    }
    let _alive = watchdog(Duration::from_secs(60));
    let place = Place::new("listing");
    let mut server = Server::start(&place.root);
    let mnt = place.path("mnt");
    for number in 0..3000 {
        File::create(mnt.join(format!("a name of some length, number {number}"))).unwrap();
    }
    let mut listing = fs::read_dir(&mnt).unwrap();
    let mut seen: Vec<_> = listing
        .by_ref()
        .take(100)
        .map(|entry| entry.unwrap().file_name())
        .collect();
    server.kill();
    server = Server::start(&place.root);
    seen.extend(listing.map(|entry| entry.unwrap().file_name()));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 3000);
    server.end();
}
