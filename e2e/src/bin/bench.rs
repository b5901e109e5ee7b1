//! Benchmarks of mounted forks: `make bench`. Ordinary programs do the same work on a fork, on the plain file system
//! and on overlayfs, in one run; the ratios are what counts. Nothing here passes or fails by time.
//!
//! `ANABRANCH_BENCH_TREE` is the tree to work on (default: the sources of cargo's registry, up to 20,000 files).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::play::{Play, new_folder};
use e2e::{Failure, Result, program};

/// Files of the tree that is worked on: as many as a large source tree has.
const FILES: usize = 20_000;
/// No single step takes longer on any file system seen so far.
const PATIENCE: Duration = Duration::from_secs(600);

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

fn measure(folder: &Path) -> Result<()> {
    let tree = folder.join("tree");
    let archive = folder.join("tree.tar");
    prepare(&tree, &archive)?;

    let manifests = format!(
        "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {{name: base}}\n\
         spec: {{source: {{directory: {{path: {}}}}}}}\n---\n\
         apiVersion: anabranch.dev/v1alpha1\nkind: BucketFork\nmetadata: {{name: work}}\n\
         spec: {{source: {{bucket: base}}, lifetime: {{noExpiry: true}}}}\n",
        tree.display()
    );
    let mut play = Play::start_named("bench-play", &manifests)?;
    let fork = play.fork("work")?;
    let overlay = mount_overlay(folder, &tree)?;
    // What lies under an overlay must not change, so the plain file system gets a tree of its own.
    let plain = folder.join("plain");
    program_ok(&["cp", "-a", &text(&tree)?, &text(&plain)?], folder)?;
    let places = [
        ("ext4", plain.as_path()),
        ("overlayfs", overlay.as_path()),
        ("fork", fork.as_path()),
    ];

    println!(
        "{:<28} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "seconds", "ext4", "overlayfs", "fork", "fork/ext4", "fork/ovl"
    );
    row("untar", &places, |place| {
        let target = place.join("untarred");
        std::fs::create_dir(&target)?;
        timed(
            &["tar", "-xf", &text(&archive)?, "-C", &text(&target)?],
            place,
        )
    })?;
    row("git status, warm", &places, |place| {
        timed(
            &["git", "status", "--porcelain", "--untracked-files=no"],
            place,
        )?;
        timed(
            &["git", "status", "--porcelain", "--untracked-files=no"],
            place,
        )
    })?;
    row("find, warm", &places, |place| {
        timed(&["find", "source", "-newer", "source", "-type", "l"], place)?;
        timed(&["find", "source", "-newer", "source", "-type", "l"], place)
    })?;
    let grep = [
        "grep",
        "-r",
        "-c",
        "--include=*.rs",
        "no such words anywhere",
        "source",
    ];
    row("grep -r, warm", &places, |place| {
        timed(&grep, place)?;
        timed(&grep, place)
    })?;
    row("grep -r, cold", &places, |place| {
        program_ok(&["sync"], place)?;
        std::fs::write("/proc/sys/vm/drop_caches", "3")?;
        timed(&grep, place)
    })?;
    row("rm -rf of what was untarred", &places, |place| {
        timed(&["rm", "-rf", "untarred"], place)
    })?;
    play.stop()
}

/// One line of the table.
fn row(
    what: &str,
    places: &[(&str, &Path); 3],
    mut work: impl FnMut(&Path) -> Result<Duration>,
) -> Result<()> {
    let mut seconds = [0.0; 3];
    for (slot, (_, place)) in seconds.iter_mut().zip(places) {
        *slot = work(place)?.as_secs_f64();
    }
    let [ext4, overlay, fork] = seconds;
    println!(
        "{what:<28} {ext4:>10.3} {overlay:>10.3} {fork:>10.3} {:>9.2}x {:>9.2}x",
        fork / ext4,
        fork / overlay
    );
    Ok(())
}

fn timed(command: &[&str], place: &Path) -> Result<Duration> {
    let start = Instant::now();
    program_ok(command, place)?;
    Ok(start.elapsed())
}

/// Runs a program in a folder. `grep` that finds nothing ends with 1, which is what it should do here.
fn program_ok(command: &[&str], place: &Path) -> Result<()> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .current_dir(place)
        .stdout(std::process::Stdio::null())
        .spawn()
        .map_err(|error| Failure::new(format!("cannot run {}: {error}", command[0])))?;
    match program::wait_for(PATIENCE, &mut child)? {
        Some(status) if status.success() || command[0] == "grep" => Ok(()),
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

/// A git repository with up to [`FILES`] files below `source`, and an archive of them.
fn prepare(tree: &Path, archive: &Path) -> Result<()> {
    let source = tree.join("source");
    std::fs::create_dir_all(&source)?;
    let mut files = 0;
    for package in packages()? {
        if files >= FILES {
            break;
        }
        program_ok(&["cp", "-a", &text(&package)?, &text(&source)?], tree)?;
        files += count(&package)?;
    }
    println!("a tree of {files} files");
    program_ok(&["tar", "-cf", &text(archive)?, "source"], tree)?;
    for command in [
        &["git", "init", "--quiet"][..],
        &[
            "git",
            "-c",
            "core.autocrlf=false",
            "add",
            "--force",
            "source",
        ],
        &[
            "git",
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@localhost",
            "commit",
            "--quiet",
            "-m",
            "base",
        ],
    ] {
        program_ok(command, tree)?;
    }
    Ok(())
}

/// The folders that the tree is made of.
fn packages() -> Result<Vec<PathBuf>> {
    let root = match std::env::var_os("ANABRANCH_BENCH_TREE") {
        Some(tree) => PathBuf::from(tree),
        None => {
            let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
            let home =
                home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
            let registry = home
                .ok_or_else(|| Failure::new("HOME is not set"))?
                .join("registry/src");
            let first = std::fs::read_dir(&registry)?.flatten().next();
            first
                .ok_or_else(|| {
                    Failure::new(format!(
                        "{} is empty: run `cargo fetch`",
                        registry.display()
                    ))
                })?
                .path()
        }
    };
    let mut packages: Vec<PathBuf> = std::fs::read_dir(&root)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    packages.sort();
    Ok(packages)
}

fn count(folder: &Path) -> Result<usize> {
    if !folder.is_dir() {
        return Ok(1);
    }
    let mut files = 0;
    for entry in std::fs::read_dir(folder)?.flatten() {
        files += if entry.file_type()?.is_dir() {
            count(&entry.path())?
        } else {
            1
        };
    }
    Ok(files)
}

fn mount_overlay(folder: &Path, lower: &Path) -> Result<PathBuf> {
    let (upper, work, merged) = (
        folder.join("upper"),
        folder.join("overlay-work"),
        folder.join("overlay"),
    );
    for path in [&upper, &work, &merged] {
        std::fs::create_dir_all(path)?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        text(lower)?,
        text(&upper)?,
        text(&work)?
    );
    program_ok(
        &[
            "mount",
            "-t",
            "overlay",
            "overlay",
            "-o",
            &options,
            &text(&merged)?,
        ],
        folder,
    )?;
    Ok(merged)
}

fn text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Failure::new(format!("{} is not UTF-8", path.display())))
}
