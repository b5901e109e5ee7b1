//! What the tests on real mounts share.
#![allow(dead_code, missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use csi_driver::mounts::{Mode, MountInfo, MountRequest, Mounts, Options};
use storage_engine::{CreateRoot, Engine, Point, Settings, TimelineId, Volume, VolumeOptions};

/// Whether this machine can mount. Where it cannot, the test says its name; in CI that is a failure.
pub fn can_mount(test: &str) -> bool {
    let able = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !able {
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "{test}: CI must be root and have /dev/fuse"
        );
        eprintln!("NOT RUN: {test}: needs root and /dev/fuse");
    }
    able
}

/// A program that others wrote: from PATH, or where `e2e/setup` builds it (`package-VERSION/bin` in the cache).
pub fn find_tool(package: &str, program: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("ANABRANCH_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/anabranch")))?;
    let mut built: Vec<PathBuf> = std::fs::read_dir(cache.join("tools"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_prefix(package)
                .is_some_and(|version| version.starts_with('-'))
        })
        .map(|entry| entry.path().join("bin").join(program))
        .collect();
    built.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .chain(built.into_iter().rev())
        .find(|program| program.is_file())
}

/// A folder with a store, a keeper and mounts; whatever happens, nothing stays mounted.
pub struct Place {
    pub root: PathBuf,
    folder: Option<tempfile::TempDir>,
}

impl Place {
    pub fn new(name: &str) -> Place {
        let folder = tempfile::Builder::new()
            .prefix(&format!("fuse-{name}-"))
            .tempdir_in("/tmp")
            .unwrap();
        Place {
            root: folder.path().to_owned(),
            folder: Some(folder),
        }
    }

    /// A folder of somebody else, who takes care of it.
    pub fn at(root: PathBuf) -> Place {
        Place { root, folder: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn engine(&self) -> Engine {
        open_engine(&self.root)
    }

    pub fn mounts(&self, engine: &Engine) -> Mounts {
        Mounts::start(Options::new(self.path("keeper")), engine.clone()).unwrap()
    }
}

pub fn open_engine(root: &Path) -> Engine {
    std::fs::create_dir_all(root.join("data")).unwrap();
    Engine::open(
        root.join("data"),
        storage_engine::Options {
            create: true,
            ..Default::default()
        },
    )
    .unwrap()
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.folder.is_none() {
            return;
        }
        for line in csi_driver::fuse::mount::mounted().unwrap_or_default() {
            if line.point.starts_with(&self.root) {
                let _ = csi_driver::fuse::mount::unmount(&line.point, true, true);
            }
        }
        if let Ok(keeper) = csi_driver::keeper::client::Client::connect(&self.path("keeper")) {
            for record in keeper.list().unwrap_or_default() {
                let _ = keeper.forget(&record.id);
            }
            let _ = keeper.shutdown();
        }
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            let kept = folder.keep();
            let log = std::fs::read_to_string(kept.join("keeper/keeper.log")).unwrap_or_default();
            eprintln!("kept {}; the keeper's log:\n{log}", kept.display());
        }
    }
}

pub fn root_timeline(engine: &Engine, name: &str) -> TimelineId {
    engine
        .create_root(CreateRoot {
            id: None,
            name: name.into(),
            settings: Settings::default(),
            durability: Default::default(),
        })
        .unwrap()
        .id
}

pub fn volume(engine: &Engine, point: Point) -> Volume {
    engine.volume(point, VolumeOptions { origin: 99 }).unwrap()
}

pub fn request(id: &str, point: Point, mount_point: PathBuf) -> MountRequest {
    MountRequest {
        id: id.into(),
        point,
        mount_point,
        mode: None,
        read_only: false,
        group: None,
        label: String::new(),
    }
}

/// One writable workspace mount at `mnt`.
pub struct OneMount {
    pub mounts: Mounts,
    pub engine: Engine,
    pub timeline: TimelineId,
    pub info: MountInfo,
    pub mnt: PathBuf,
    pub place: Place,
}

impl OneMount {
    pub fn new(name: &str, mode: Mode) -> OneMount {
        let place = Place::new(name);
        let engine = place.engine();
        let timeline = root_timeline(&engine, "bucket/default/t");
        let mounts = place.mounts(&engine);
        let mnt = place.path("mnt");
        let info = mounts
            .mount(MountRequest {
                mode: Some(mode),
                ..request("m", Point::Now(timeline), mnt.clone())
            })
            .unwrap();
        OneMount {
            mounts,
            engine,
            timeline,
            info,
            mnt,
            place,
        }
    }

    pub fn volume(&self) -> Volume {
        volume(&self.engine, Point::Now(self.timeline))
    }

    pub fn end(self) {
        self.mounts.shut_down(Duration::from_secs(5)).unwrap();
    }
}

/// A process that serves a store: the running program again, whose test `serving_process` says SERVING, and ends in order
/// when it is told `end`.
pub struct Server(Child);

impl Server {
    /// Starts it on what is at `root`, which it finds in the variable `name`.
    pub fn start(name: &str, root: &Path) -> Server {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["serving_process", "--exact", "--nocapture"])
            .env(name, root)
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
        Server(child)
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn end(mut self) {
        self.0.stdin.take().unwrap().write_all(b"end\n").unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

/// Fails the process when a test on a mount hangs: nothing else would end it.
pub fn watchdog(limit: Duration) -> Arc<()> {
    let alive = Arc::new(());
    let watched = Arc::downgrade(&alive);
    let begun = Instant::now();
    std::thread::spawn(move || {
        while watched.upgrade().is_some() {
            if begun.elapsed() > limit {
                eprintln!("a test on a mount hangs for {} s", limit.as_secs());
                // Without this the process could not even end: it waits for itself.
                for line in csi_driver::fuse::mount::mounted().unwrap_or_default() {
                    if line.point.starts_with("/tmp") && line.kind == csi_driver::fuse::mount::TYPE
                    {
                        let _ = csi_driver::fuse::mount::unmount(&line.point, true, true);
                    }
                }
                std::process::abort();
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    alive
}
