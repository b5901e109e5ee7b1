//! Work that is timed: programs, and loops of system calls.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::{Failure, Result, program};

/// No single step takes longer on any file system seen so far.
const PATIENCE: Duration = Duration::from_secs(600);

/// A path as an argument.
pub fn text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Failure::new(format!("{} is not UTF-8", path.display())))
}

/// Runs a program in a folder. `grep` that finds nothing ends with 1, which is what it should do here.
pub fn program_ok(command: &[&str], place: &Path) -> Result<()> {
    let Some((name, arguments)) = command.split_first() else {
        return Err(Failure::new("no program to run"));
    };
    let mut child = Command::new(name)
        .args(arguments)
        .current_dir(place)
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| Failure::new(format!("cannot run {name}: {error}")))?;
    match program::wait_for(PATIENCE, &mut child)? {
        Some(status) if status.success() || *name == "grep" => Ok(()),
        Some(status) => Err(Failure::new(format!(
            "{} ended with {status} in {}",
            command.join(" "),
            place.display()
        ))),
        None => {
            let _ = child.kill();
            Err(Failure::new(format!(
                "{} took longer than {PATIENCE:?} in {}",
                command.join(" "),
                place.display()
            )))
        }
    }
}

/// Seconds that a program takes in a folder.
pub fn timed(command: &[&str], place: &Path) -> Result<f64> {
    let start = Instant::now();
    program_ok(command, place)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds that it takes when it was done before: the middle one of three.
pub fn warm(command: &[&str], place: &Path) -> Result<f64> {
    // The first reads and, with git, writes its index; the second may still ask for what that changed.
    for _ in 0..2 {
        program_ok(command, place)?;
    }
    let mut seconds = [0.0; 3];
    for slot in &mut seconds {
        *slot = timed(command, place)?;
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[1])
}

/// Drops the kernel's caches. What the serving process keeps in its own memory stays.
pub fn drop_caches() -> Result<()> {
    program_ok(&["sync"], Path::new("/"))?;
    Ok(fs::write("/proc/sys/vm/drop_caches", "3")?)
}

/// How often a second something is done that is done `times` times.
fn rate(times: usize, mut work: impl FnMut(usize) -> std::io::Result<()>) -> Result<f64> {
    let start = Instant::now();
    for n in 0..times {
        work(n)?;
    }
    Ok(times as f64 / start.elapsed().as_secs_f64())
}

/// Files of 4 KiB, a hundred to a folder.
pub struct Small {
    paths: Vec<PathBuf>,
}

impl Small {
    /// How many they are.
    const FILES: usize = 10_000;

    pub fn new(place: &Path) -> Result<Self> {
        let top = place.join("small");
        let mut paths = Vec::with_capacity(Self::FILES);
        for folder in 0..Self::FILES / 100 {
            let folder = top.join(folder.to_string());
            fs::create_dir_all(&folder)?;
            paths.extend((0..100).map(|n| folder.join(format!("file-{n}"))));
        }
        Ok(Self { paths })
    }

    pub fn create(&self) -> Result<f64> {
        let bytes = [7; 4096];
        rate(self.paths.len(), |n| {
            File::create_new(&self.paths[n])?.write_all(&bytes)
        })
    }

    pub fn stat(&self) -> Result<f64> {
        rate(self.paths.len(), |n| {
            fs::symlink_metadata(&self.paths[n]).map(|_| ())
        })
    }

    pub fn read(&self) -> Result<f64> {
        let mut bytes = [0; 8192];
        rate(self.paths.len(), |n| {
            let mut file = File::open(&self.paths[n])?;
            while file.read(&mut bytes)? > 0 {}
            Ok(())
        })
    }

    pub fn remove(&self) -> Result<f64> {
        rate(self.paths.len(), |n| fs::remove_file(&self.paths[n]))
    }
}

/// Bytes of a large file.
pub const LARGE: usize = 512 << 20;

/// MiB a second with which a large file is written, an fsync at its end.
pub fn write_large(path: &Path) -> Result<f64> {
    let bytes: Vec<u8> = (0..1usize << 20).map(|n| (n / 3) as u8).collect();
    let start = Instant::now();
    let mut file = File::create(path)?;
    for _ in 0..LARGE >> 20 {
        file.write_all(&bytes)?;
    }
    file.sync_all()?;
    Ok((LARGE >> 20) as f64 / start.elapsed().as_secs_f64())
}

/// MiB a second with which a file is read.
pub fn read_large(path: &Path) -> Result<f64> {
    let mut buffer = vec![0; 1 << 20];
    let mut file = File::open(path)?;
    let start = Instant::now();
    let mut all = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => all += n,
        }
    }
    Ok(all as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64())
}

/// How often a second 4 KiB are appended to a file and synced.
pub fn append_and_sync(path: &Path) -> Result<f64> {
    let mut file = File::create(path)?;
    let bytes = [5; 4096];
    rate(2000, |_| {
        file.write_all(&bytes)?;
        file.sync_all()
    })
}

/// Transactions a second of SQLite, one insertion each.
pub fn sqlite(place: &Path, journal: &str, synchronous: &str, times: usize) -> Result<f64> {
    let database = place.join(format!("bench-{journal}-{synchronous}.db"));
    let script = place.join("bench.sql");
    let mut text = format!(
        "PRAGMA journal_mode={journal};\nPRAGMA synchronous={synchronous};\nCREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);\n"
    );
    for n in 0..times {
        text.push_str(&format!(
            "INSERT INTO t VALUES({n}, 'some text of some length {n}');\n"
        ));
    }
    fs::write(&script, text)?;
    let start = Instant::now();
    let input = File::open(&script)?;
    let status = Command::new("sqlite3")
        .arg(&database)
        .stdin(input)
        .stdout(Stdio::null())
        .status()
        .map_err(|error| Failure::new(format!("cannot run sqlite3: {error}")))?;
    if !status.success() {
        return Err(Failure::new(format!("sqlite3 ended with {status}")));
    }
    Ok(times as f64 / start.elapsed().as_secs_f64())
}
