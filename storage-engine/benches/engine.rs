//! Benchmarks of the engine: `cargo bench -p storage-engine` (or `make bench`). Each prints what it
//! compares and the ratio, measured in this one run; nothing here passes or fails by time.
//!
//! `ANABRANCH_BENCH_ONLY=gc` runs the one on collections alone, `=recovery` the one on openings (of `ANABRANCH_BENCH_LOG_MIB` of
//! log, default 1024). `ANABRANCH_BENCH_FILES` (default 1000000) limits the largest timeline, `ANABRANCH_BENCH_TREE` (default:
//! the sources of cargo's registry) is the tree that is imported, `ANABRANCH_BENCH_DIR` (default: the
//! target folder) is where the stores are made: it should be on the disk that matters.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use storage_engine::import::{Source, import_directory};
use storage_engine::*;

const ME: Caller = Caller {
    uid: 0,
    gid: 0,
    umask: 0,
    request: None,
};
const FILE: NewNode<'static> = NewNode {
    kind: NodeKind::File,
    mode: 0o644,
    rdev: 0,
    target: &[],
};
const DIR: NewNode<'static> = NewNode {
    kind: NodeKind::Directory,
    mode: 0o755,
    rdev: 0,
    target: &[],
};

fn main() -> Result<()> {
    let only = std::env::var("ANABRANCH_BENCH_ONLY").ok();
    let dir = std::env::var_os("ANABRANCH_BENCH_DIR").map_or_else(default_dir, PathBuf::from);
    let dir = dir.join(format!("anabranch-bench-{}", std::process::id()));
    println!("stores in {}", dir.display());
    if only.as_deref() == Some("gc") {
        collecting(&dir.join("gc"))?;
        let _ = std::fs::remove_dir_all(&dir);
        return Ok(());
    }
    if only.as_deref() == Some("recovery") {
        recovering(&dir.join("recovery"))?;
        let _ = std::fs::remove_dir_all(&dir);
        return Ok(());
    }
    forks_by_size(&dir.join("size"))?;
    many_forks(&dir.join("many"))?;
    depth(&dir.join("depth"))?;
    import(&dir)?;
    collecting(&dir.join("gc"))?;
    recovering(&dir.join("recovery"))?;
    let _ = std::fs::remove_dir_all(&dir);
    Ok(())
}

/// Opening a store of whose log nothing is in the index's files: 1 GiB of it, or `ANABRANCH_BENCH_LOG_MIB`.
/// (In use the index is written out after 128 MiB.)
fn recovering(dir: &Path) -> Result<()> {
    let mib: u64 = std::env::var("ANABRANCH_BENCH_LOG_MIB")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1_024);
    println!("\nrecovery of {mib} MiB of log since the index was last written out");
    println!(
        "{:>16} {:>10} {:>10} {:>10} {:>10}",
        "writes of", "MiB", "commits", "ms", "MiB/s"
    );
    for (name, bytes) in [("1 MiB", 1usize << 20), ("16 KiB", 16 << 10)] {
        let store = dir.join(bytes.to_string());
        let engine = open(&store)?;
        let v = root(&engine, "base")?;
        let data: Vec<u8> = (0..bytes).map(|i| (i * 7 % 251) as u8).collect();
        let ino = v.create(&ME, Ino::ROOT, b"file", &FILE)?.ino;
        for n in 0..(mib << 20) / bytes as u64 {
            let at = n * bytes as u64;
            v.write(&ME, ino, at, &data, WriteOptions::default())?;
        }
        drop(v);
        engine.close()?;
        let index = store.join("index");
        std::fs::remove_dir_all(&index)
            .map_err(|e| Error::new(ErrorKind::Io, format!("{}: {e}", index.display())))?;
        let engine = open(&store)?;
        let recovery = engine.recovery();
        let replayed = recovery.replayed_bytes as f64 / f64::from(1 << 20);
        println!(
            "{:>16} {:>10.0} {:>10} {:>10.0} {:>10.0}",
            name,
            replayed,
            recovery.replayed_frames,
            recovery.elapsed.as_secs_f64() * 1e3,
            replayed / recovery.elapsed.as_secs_f64()
        );
        engine.close()?;
        let _ = std::fs::remove_dir_all(&store);
    }
    Ok(())
}

fn default_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

fn open(dir: &Path) -> Result<Engine> {
    Engine::open(dir, Options::default())
}

fn root(engine: &Engine, name: &str) -> Result<Volume> {
    let t = engine.create_root(CreateRoot {
        name: name.into(),
        ..Default::default()
    })?;
    engine.volume(Point::Now(t.id), VolumeOptions::default())
}

fn fork(
    engine: &Engine,
    name: String,
    source: Point,
    durability: Durability,
) -> Result<TimelineInfo> {
    engine.fork(ForkRequest {
        id: None,
        name,
        source,
        settings: Settings::default(),
        durability,
    })
}

/// Median time of `n` calls.
fn median(n: usize, mut call: impl FnMut(usize) -> Result<()>) -> Result<Duration> {
    let mut times = Vec::with_capacity(n);
    for i in 0..n {
        let start = Instant::now();
        call(i)?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[n / 2])
}

fn micros(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}

/// Fork and snapshot latency against the number of files: flat.
fn forks_by_size(dir: &Path) -> Result<()> {
    let largest: u64 = std::env::var("ANABRANCH_BENCH_FILES")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1_000_000);
    println!("\nfork and snapshot latency by number of files (median of 300 each, µs)");
    println!(
        "{:>9} {:>10} {:>12} {:>12} {:>14} {:>14}",
        "files", "fork", "fork+sync", "snapshot", "snapshot+sync", "fork ratio"
    );
    let mut first = None;
    for files in [1_000u64, 100_000, 1_000_000]
        .into_iter()
        .filter(|n| *n <= largest)
    {
        let store = dir.join(files.to_string());
        let engine = open(&store)?;
        let v = root(&engine, "base")?;
        let mut parent = Ino::ROOT;
        for i in 0..files {
            if i % 1000 == 0 {
                parent = v
                    .create(&ME, Ino::ROOT, format!("d{i}").as_bytes(), &DIR)?
                    .ino;
            }
            v.create(&ME, parent, format!("f{i}").as_bytes(), &FILE)?;
        }
        let base = v.timeline();
        let snapshot = |name: String, durability| {
            engine
                .snapshot(SnapshotRequest {
                    id: None,
                    name,
                    source: Point::Now(base),
                    labels: Default::default(),
                    durability,
                })
                .map(drop)
        };
        let (memory, local) = (Durability::Memory, Durability::Local);
        engine.sync()?;
        let plain = median(300, |i| {
            fork(&engine, format!("m{i}"), Point::Now(base), memory).map(drop)
        })?;
        let synced = median(300, |i| {
            fork(&engine, format!("l{i}"), Point::Now(base), local).map(drop)
        })?;
        let snap = median(300, |i| snapshot(format!("m{i}"), memory))?;
        let snap_synced = median(300, |i| snapshot(format!("l{i}"), local))?;
        let ratio = micros(plain) / micros(*first.get_or_insert(plain));
        println!(
            "{files:>9} {:>10.1} {:>12.1} {:>12.1} {:>14.1} {ratio:>13.2}x",
            micros(plain),
            micros(synced),
            micros(snap),
            micros(snap_synced)
        );
        engine.close()?;
    }
    Ok(())
}

/// Time and bytes of each of 10,000 forks of one snapshot.
fn many_forks(dir: &Path) -> Result<()> {
    const FORKS: usize = 10_000;
    let engine = open(dir)?;
    let v = root(&engine, "base")?;
    for i in 0..1000 {
        let ino = v
            .create(&ME, Ino::ROOT, format!("f{i}").as_bytes(), &FILE)?
            .ino;
        v.write(&ME, ino, 0, &[7; 4096], WriteOptions::default())?;
    }
    let snapshot = engine.snapshot(SnapshotRequest {
        id: None,
        name: "s".into(),
        source: Point::Now(v.timeline()),
        labels: Default::default(),
        durability: Durability::Local,
    })?;
    drop(v);
    engine.close()?;
    let before = disk_bytes(dir);
    let engine = open(dir)?;
    let start = Instant::now();
    for i in 0..FORKS {
        fork(
            &engine,
            format!("f{i}"),
            Point::Snapshot(snapshot.id),
            Durability::Memory,
        )?;
    }
    engine.sync()?;
    let each = start.elapsed() / FORKS as u32;
    engine.close()?;
    let bytes = disk_bytes(dir).saturating_sub(before) / FORKS as u64;
    println!(
        "\n{FORKS} forks of one snapshot: {:.1} µs and {bytes} bytes on disk each",
        micros(each)
    );
    let start = Instant::now();
    open(dir)?.close()?;
    println!(
        "opening and closing a store with them: {:.0} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}

/// Reading a small file of the oldest ancestor through lineages of several depths.
fn depth(dir: &Path) -> Result<()> {
    println!(
        "\nlook-up and read of a 4 KiB file of the oldest ancestor, by depth (median of 20,000, µs)"
    );
    let engine = open(dir)?;
    let v = root(&engine, "base")?;
    for i in 0..1000 {
        let ino = v
            .create(&ME, Ino::ROOT, format!("f{i}").as_bytes(), &FILE)?
            .ino;
        v.write(&ME, ino, 0, &[7; 4096], WriteOptions::default())?;
    }
    let mut at = v.timeline();
    let mut first = None;
    for depth in 1..=64 {
        let t = fork(
            &engine,
            format!("d{depth}"),
            Point::Now(at),
            Durability::Memory,
        )?;
        let v = engine.volume(Point::Now(t.id), VolumeOptions::default())?;
        // Each level writes something of its own: an empty one would be left out of the lineage.
        v.create(&ME, Ino::ROOT, format!("own{depth}").as_bytes(), &FILE)?;
        at = t.id;
        if matches!(depth, 1 | 4 | 16 | 64) {
            let took = median(20_000, |i| {
                let a = v.lookup(Ino::ROOT, format!("f{}", i * 7919 % 1000).as_bytes())?;
                v.read(a.ino, 0, 4096).map(drop)
            })?;
            let ratio = micros(took) / micros(*first.get_or_insert(took));
            println!("{depth:>4}: {:>8.1} {ratio:>8.2}x", micros(took));
        }
    }
    engine.close()
}

/// Import of a real tree against `cp -a` of the same one to the same disk, both with a sync at the end.
fn import(dir: &Path) -> Result<()> {
    let tree = std::env::var_os("ANABRANCH_BENCH_TREE")
        .map(PathBuf::from)
        .or_else(registry);
    let Some(tree) = tree.filter(|t| t.is_dir()) else {
        println!("\nimport: not measured, there is no tree (set ANABRANCH_BENCH_TREE)");
        return Ok(());
    };
    // Read once, so that both have it in the page cache.
    let _ = Command::new("cp")
        .arg("-a")
        .arg(&tree)
        .arg(dir.join("warm"))
        .status();
    let copy = dir.join("copy");
    let start = Instant::now();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(&tree)
        .arg(&copy)
        .status()
        .is_ok_and(|s| s.success());
    let synced = Command::new("sync")
        .arg("-f")
        .arg(&copy)
        .status()
        .is_ok_and(|s| s.success());
    let cp = start.elapsed();
    let engine = open(&dir.join("import"))?;
    let v = root(&engine, "base")?;
    let start = Instant::now();
    let done = import_directory(
        &v,
        &Source::open(&tree)?,
        &mut |_| ControlFlow::Continue(()),
    )?;
    let took = start.elapsed();
    println!(
        "\nimport of {} ({} entries, {} MiB): {:.2} s; cp -a and sync {:.2} s{}; ratio {:.2}x",
        tree.display(),
        done.entries,
        done.bytes >> 20,
        took.as_secs_f64(),
        cp.as_secs_f64(),
        if copied && synced { "" } else { " (failed)" },
        took.as_secs_f64() / cp.as_secs_f64()
    );
    drop(v);
    engine.close()
}

fn registry() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    Some(home.join("registry/src"))
}

/// Bytes that a folder takes on disk.
fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => disk_bytes(&e.path()),
            Ok(m) => m.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// How long 4 KiB writes to a fork take while nothing else happens, and while a collection has much to do.
fn collecting(dir: &Path) -> Result<()> {
    println!("\n4 KiB writes to a fork beside a collection (µs)");
    println!(
        "{:>28} {:>8} {:>8} {:>8} {:>8}",
        "", "p50", "p99", "p99.9", "writes"
    );
    let engine = open(dir)?;
    let base = root(&engine, "base")?;
    let source = fork(
        &engine,
        "writing".into(),
        Point::Now(base.timeline()),
        Durability::Memory,
    )?;
    let writing = engine.volume(Point::Now(source.id), VolumeOptions::default())?;
    let ino = writing.create(&ME, Ino::ROOT, b"f", &FILE)?.ino;
    let mut alone = None;
    // Alone again and again: what else the machine does changes while this runs.
    for (n, (name, rate)) in [
        ("alone", None),
        ("beside one of 50,000/s", Some(50_000)),
        ("alone", None),
        ("beside one without a limit", Some(0)),
        ("alone", None),
    ]
    .into_iter()
    .enumerate()
    {
        // 60,000 records and pieces that are garbage.
        let files: Vec<Ino> = (0..3000)
            .map(|file| {
                let name = format!("{n}-{file}");
                Ok(base.create(&ME, Ino::ROOT, name.as_bytes(), &FILE)?.ino)
            })
            .collect::<Result<_>>()?;
        for round in 0..10u8 {
            for ino in &files {
                base.write(&ME, *ino, 0, &[round; 8192], WriteOptions::default())?;
            }
            engine.tick()?;
        }
        let collector = rate.map(|rate| {
            let engine = engine.clone();
            std::thread::spawn(move || {
                let start = Instant::now();
                let options = GcOptions {
                    rate: Some(rate),
                    ..GcOptions::default()
                };
                engine.gc(options).map(|report| (report, start.elapsed()))
            })
        });
        let data = [7; 4096];
        let mut times = Vec::new();
        let start = Instant::now();
        let busy = |collector: &Option<std::thread::JoinHandle<_>>| match collector {
            Some(thread) => !thread.is_finished(),
            None => start.elapsed() < Duration::from_secs(2),
        };
        while busy(&collector) {
            let at = (times.len() as u64 % 4096) * 4096;
            let start = Instant::now();
            writing.write(&ME, ino, at, &data, WriteOptions::default())?;
            times.push(start.elapsed());
        }
        times.sort();
        let at = |q: f64| micros(times[((times.len() - 1) as f64 * q) as usize]);
        println!(
            "{name:>28} {:>8.1} {:>8.1} {:>8.1} {:>8}",
            at(0.5),
            at(0.99),
            at(0.999),
            times.len()
        );
        let last = match collector {
            None => *alone.insert(at(0.99)),
            Some(_) => alone.unwrap_or(f64::NAN),
        };
        if let Some(thread) = collector {
            let Ok(done) = thread.join() else {
                return Err(Error::new(ErrorKind::Io, "the collection has panicked"));
            };
            let (report, elapsed) = done?;
            println!(
                "{:>28} p99 {:.2}x of alone before; {} versions and {} pieces in {:.2} s",
                "",
                at(0.99) / last,
                report.versions,
                report.pieces,
                elapsed.as_secs_f64()
            );
        }
    }
    Ok(())
}
