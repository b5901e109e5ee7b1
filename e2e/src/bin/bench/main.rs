//! Benchmarks of mounted forks: `make bench`. The same work is done on the plain file system, on overlayfs and on a fork,
//! in one run; the ratios are what counts. Nothing here passes or fails by time.
//!
//! `ANABRANCH_BENCH_TREE` is the tree to work on (default: the sources of cargo's registry, up to 20,000 files).

mod tree;
mod work;

use std::path::Path;
use std::process::Command;

use e2e::play::{Play, new_folder};
use e2e::{Failure, Result};

use work::{Small, drop_caches, text, timed, warm};

fn main() {
    if let Err(error) = run() {
        eprintln!("bench: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        return Err(Failure::new(
            "the benchmarks of mounts need root (to mount) and /dev/fuse",
        ));
    }
    let folder = new_folder("bench")?;
    let done = measure(&folder);
    let _ = Command::new("umount")
        .arg("-l")
        .arg(folder.join("overlay"))
        .status();
    let _ = std::fs::remove_dir_all(&folder);
    done
}

/// What a number means.
#[derive(Clone, Copy)]
enum Unit {
    /// Less is better.
    Seconds,
    /// More is better.
    PerSecond,
}

/// Where work is done, and the rows about it.
struct Table<'a> {
    places: [(&'a str, &'a Path); 3],
}

impl Table<'_> {
    fn head(&self, what: &str) {
        let [plain, overlay, fork] = self.places.map(|(name, _)| name);
        println!(
            "\n{what:<34} {plain:>10} {overlay:>10} {fork:>10} {:>10} {:>10}",
            format!("{fork}/{plain}"),
            format!("{fork}/ovl")
        );
    }

    /// One line. A ratio above 1 is slower, whatever the unit.
    fn row(
        &self,
        what: &str,
        unit: Unit,
        mut work: impl FnMut(&Path) -> Result<f64>,
    ) -> Result<()> {
        let mut found = [0.0; 3];
        for (slot, (_, place)) in found.iter_mut().zip(self.places) {
            *slot = work(place)?;
        }
        let [plain, overlay, fork] = found;
        let (by_plain, by_overlay, digits) = match unit {
            Unit::Seconds => (fork / plain, fork / overlay, 3),
            Unit::PerSecond => (plain / fork, overlay / fork, 0),
        };
        println!(
            "{what:<34} {plain:>10.digits$} {overlay:>10.digits$} {fork:>10.digits$} {by_plain:>9.2}x {by_overlay:>9.2}x"
        );
        Ok(())
    }
}

fn measure(folder: &Path) -> Result<()> {
    let tree = folder.join("tree");
    let archive = folder.join("tree.tar");
    tree::prepare(&tree, &archive)?;
    work::write_large(&tree.join("large"))?;

    let manifests = format!(
        "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {{name: base}}\n\
         spec: {{source: {{directory: {{path: {}}}}}}}\n---\n\
         apiVersion: anabranch.dev/v1alpha1\nkind: BucketFork\nmetadata: {{name: work}}\n\
         spec: {{source: {{bucket: base}}, lifetime: {{noExpiry: true}}}}\n---\n\
         apiVersion: anabranch.dev/v1alpha1\nkind: BucketFork\nmetadata: {{name: fixed}}\n\
         spec: {{source: {{bucket: base}}, readOnly: true, lifetime: {{noExpiry: true}}}}\n",
        tree.display()
    );
    let mut play = Play::start_named("bench-play", &manifests)?;
    let fork = play.fork("work")?;
    let fixed = play.fork("fixed")?;
    let overlay = tree::mount_overlay(folder, &tree)?;
    // What lies under an overlay must not change, so the plain file system gets a tree of its own.
    let plain = folder.join("plain");
    work::program_ok(&["cp", "-a", &text(&tree)?, &text(&plain)?], folder)?;
    let mut table = Table {
        places: [
            ("ext4", plain.as_path()),
            ("overlayfs", overlay.as_path()),
            ("fork", fork.as_path()),
        ],
    };
    println!("A ratio above 1 means that the fork is slower.");
    source_tree(&table, &archive)?;
    small_files(&table)?;
    large_files(&table)?;
    databases(&table)?;
    table.places[2] = ("read-only", fixed.as_path());
    read_only(&table)?;
    play.stop()
}

fn source_tree(table: &Table<'_>, archive: &Path) -> Result<()> {
    table.head("source tree, seconds");
    table.row("untar", Unit::Seconds, |place| {
        let target = place.join("untarred");
        std::fs::create_dir(&target)?;
        timed(
            &["tar", "-xf", &text(archive)?, "-C", &text(&target)?],
            place,
        )
    })?;
    table.row("git status, warm", Unit::Seconds, |place| {
        warm(
            &["git", "status", "--porcelain", "--untracked-files=no"],
            place,
        )
    })?;
    let find = ["find", "source", "-newer", "source", "-type", "l"];
    table.row("find, warm", Unit::Seconds, |place| warm(&find, place))?;
    table.row("find, cold", Unit::Seconds, |place| {
        drop_caches()?;
        timed(&find, place)
    })?;
    let grep = ["grep", "-r", "-c", "no such words anywhere", "source"];
    table.row("grep -r, warm", Unit::Seconds, |place| warm(&grep, place))?;
    table.row("grep -r, cold", Unit::Seconds, |place| {
        drop_caches()?;
        timed(&grep, place)
    })?;
    table.row("rm -rf of what was untarred", Unit::Seconds, |place| {
        timed(&["rm", "-rf", "untarred"], place)
    })
}

fn small_files(table: &Table<'_>) -> Result<()> {
    table.head("files of 4 KiB, one thread, per s");
    table.row("create", Unit::PerSecond, |place| {
        Small::new(place)?.create()
    })?;
    let all = |place: &Path| Small::new(place);
    table.row("stat, cold", Unit::PerSecond, |place| {
        drop_caches()?;
        all(place)?.stat()
    })?;
    table.row("stat, warm", Unit::PerSecond, |place| all(place)?.stat())?;
    table.row("read, cold", Unit::PerSecond, |place| {
        drop_caches()?;
        all(place)?.read()
    })?;
    table.row("read, warm", Unit::PerSecond, |place| {
        all(place)?.read()?;
        all(place)?.read()
    })?;
    table.row("remove", Unit::PerSecond, |place| all(place)?.remove())
}

fn large_files(table: &Table<'_>) -> Result<()> {
    table.head("a file of 512 MiB, MiB/s");
    table.row(
        "write, with an fsync at the end",
        Unit::PerSecond,
        |place| work::write_large(&place.join("written")),
    )?;
    table.row("read what was written, cold", Unit::PerSecond, |place| {
        drop_caches()?;
        work::read_large(&place.join("written"))
    })?;
    table.row("read what was written, warm", Unit::PerSecond, |place| {
        work::read_large(&place.join("written"))
    })?;
    table.row("read what was imported, cold", Unit::PerSecond, |place| {
        drop_caches()?;
        work::read_large(&place.join("large"))
    })?;
    table.row("append 4 KiB and fsync, per s", Unit::PerSecond, |place| {
        work::append_and_sync(&place.join("appended"))
    })
}

fn databases(table: &Table<'_>) -> Result<()> {
    table.head("SQLite, transactions per s");
    for (what, journal, synchronous, times) in [
        ("rollback journal, FULL", "DELETE", "FULL", 1000),
        ("write-ahead log, FULL", "WAL", "FULL", 5000),
        ("write-ahead log, NORMAL", "WAL", "NORMAL", 50_000),
    ] {
        table.row(what, Unit::PerSecond, |place| {
            work::sqlite(place, journal, synchronous, times)
        })?;
    }
    Ok(())
}

/// A read-only fork is mounted as a dataset: the kernel reads its object files itself.
fn read_only(table: &Table<'_>) -> Result<()> {
    table.head("a read-only fork, MiB/s and seconds");
    table.row("read what was imported, cold", Unit::PerSecond, |place| {
        drop_caches()?;
        work::read_large(&place.join("large"))
    })?;
    table.row("read what was imported, warm", Unit::PerSecond, |place| {
        work::read_large(&place.join("large"))
    })?;
    let grep = ["grep", "-r", "-c", "no such words anywhere", "source"];
    table.row("grep -r, warm", Unit::Seconds, |place| warm(&grep, place))
}
