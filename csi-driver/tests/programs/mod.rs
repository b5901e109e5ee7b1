//! The programs that work on a mount while the process that serves it is killed. Each is a process of its own (see
//! `fuse_takeover.rs`), works until it is told to end, and then checks what it has made.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = "ANABRANCH_TEST_PROGRAM";
const ROOT: &str = "ANABRANCH_TEST_ROOT";

/// Starts a program on the mount `root/mnt`.
pub fn start(program: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["working_process", "--exact", "--nocapture"])
        .env(PROGRAM, program)
        .env(ROOT, root)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// Tells it to end, and waits for it.
pub fn end(running: Child, root: &Path) -> Output {
    fs::write(root.join("stop"), "").unwrap();
    running.wait_with_output().unwrap()
}

/// The side of the started process: nothing unless it was started by [`start`].
pub fn run() {
    let Ok(program) = std::env::var(PROGRAM) else {
        return;
    };
    let root = PathBuf::from(std::env::var_os(ROOT).unwrap());
    let work = Work {
        mnt: root.join("mnt"),
        stop: root.join("stop"),
    };
    match program.as_str() {
        "names" => work.names(),
        "appends" => work.appends(),
        "unlinked" => work.unlinked(),
        "sqlite" => work.sqlite(),
        "build" => work.build(),
        "fsx" => work.fsx(),
        other => panic!("no program {other}"),
    }
}

/// The program fsx; where it is missing the test is named, and in CI fails.
pub fn find_fsx(test: &str) -> Option<PathBuf> {
    let found = std::env::var_os("FSX")
        .map(PathBuf::from)
        .or_else(|| crate::support::find_tool("fsx", "fsx"));
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "{test}: CI must have fsx (e2e/setup test)"
        );
        eprintln!("NOT RUN: {test}: needs fsx (e2e/setup test)");
    }
    found
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

struct Work {
    mnt: PathBuf,
    stop: PathBuf,
}

impl Work {
    fn goes_on(&self) -> bool {
        !self.stop.exists()
    }

    /// mkdir, rename, mknod, link, symlink, unlink, rmdir: each fails when it is applied twice (EEXIST, ENOENT).
    fn names(&self) {
        let base = self.mnt.join("names");
        fs::create_dir(&base).unwrap();
        let mut count = 0u32;
        while self.goes_on() {
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
    }

    /// Appends through a descriptor that is opened once and lives through every kill.
    fn appends(&self) {
        let path = self.mnt.join("appended");
        let mut file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .read(true)
            .open(&path)
            .unwrap();
        let mut count = 0u64;
        while self.goes_on() {
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
    }

    /// Writes and reads a file that has no name any more.
    fn unlinked(&self) {
        let path = self.mnt.join("unlinked");
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        fs::remove_file(&path).unwrap();
        let mut count = 0u64;
        while self.goes_on() {
            let at = (count % 64) * 4096;
            file.write_all_at(&[count as u8; 4096], at).unwrap();
            file.sync_data().unwrap();
            // From the server and not from the cache.
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            let mut page = [0; 4096];
            file.read_exact_at(&mut page, at).unwrap();
            assert_eq!(page, [count as u8; 4096]);
            count += 1;
        }
        eprintln!("{count} rounds on an unlinked file");
    }

    /// One process of SQLite in WAL mode over all kills, its files open throughout.
    fn sqlite(&self) {
        let database = self.mnt.join("db");
        let sqlite =
            |sql: &str| succeed(Command::new("sqlite3").arg("-bail").arg(&database).arg(sql));
        sqlite("pragma journal_mode=wal; create table t(n integer primary key, x blob);");
        let mut shell = Command::new("sqlite3")
            .arg("-bail")
            .arg(&database)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut input = shell.stdin.take().unwrap();
        writeln!(input, "pragma synchronous=full;").unwrap();
        let mut count = 0u64;
        while self.goes_on() {
            writeln!(input, "insert into t values({count}, randomblob(500));").unwrap();
            count += 1;
            if count.is_multiple_of(100) {
                let update = "update t set x = randomblob(600) where n % 7 =";
                writeln!(input, "{update} {};", count % 7).unwrap();
            }
        }
        drop(input);
        assert!(shell.wait().unwrap().success());
        assert_eq!(
            sqlite("select count(*), max(n) from t;"),
            format!("{count}|{}", count - 1)
        );
        assert_eq!(sqlite("pragma integrity_check;"), "ok");
        eprintln!("{count} rows");
    }

    /// Builds a C program of 40 files, runs it, cleans, and again.
    fn build(&self) {
        const FILES: usize = 40;
        let folder = self.mnt.join("project");
        fs::create_dir(&folder).unwrap();
        for number in 0..FILES {
            let code = format!(
                "#include <stdio.h>\n#include <stdlib.h>\nint f{number}(int x) {{ return x + {number}; }}\n"
            );
            fs::write(folder.join(format!("f{number}.c")), code).unwrap();
        }
        let declare: String = (0..FILES).map(|n| format!("int f{n}(int);")).collect();
        let call: String = (0..FILES).map(|n| format!("x = f{n}(x);")).collect();
        let main = format!(
            "#include <stdio.h>\n{declare}\nint main() {{ int x = 0; {call} printf(\"%d\", x); }}\n"
        );
        fs::write(folder.join("main.c"), main).unwrap();
        fs::write(
            folder.join("Makefile"),
            "objects := $(patsubst %.c,%.o,$(wildcard *.c))\nprogram: $(objects)\n\tcc -o $@ $^\n%.o: %.c\n\tcc -c -o $@ $<\nclean:\n\trm -f *.o program\n",
        )
        .unwrap();
        let make =
            |arguments: &[&str]| succeed(Command::new("make").args(arguments).current_dir(&folder));
        let mut builds = 0;
        while self.goes_on() {
            make(&["-j2", "-s"]);
            let sum = succeed(&mut Command::new(folder.join("program")));
            assert_eq!(sum, (0..FILES).sum::<usize>().to_string());
            make(&["-s", "clean"]);
            builds += 1;
        }
        eprintln!("{builds} builds");
    }

    /// Random reads, writes, truncations and maps of a file, by somebody else's program.
    fn fsx(&self) {
        let fsx = find_fsx("fsx_goes_on").unwrap();
        let mut seed = 1;
        while self.goes_on() {
            succeed(
                Command::new(&fsx)
                    .args(["-S", &seed.to_string(), "-N", "3000"])
                    .arg(self.mnt.join(format!("fsx{seed}")))
                    .current_dir("/tmp"),
            );
            seed += 1;
        }
        eprintln!("fsx with the seeds 1 to {}", seed - 1);
    }
}
