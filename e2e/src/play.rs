//! One running `anabranch play`: manifests in, mounted forks out.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Failure, Result, binaries, program};

/// How long a mount may take to appear, and `play` to stop. Generous: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `anabranch play` on a folder of its own, which goes with it. Dropped without [`Play::stop`], it is
/// killed and its mounts are taken away, so that a failing test leaves nothing behind.
pub struct Play {
    folder: PathBuf,
    child: Option<Child>,
    keep: bool,
}

impl Play {
    /// Starts `play` on these manifests (YAML, several documents) in a new folder below `TMPDIR` or `/tmp`.
    pub fn start(manifests: &str) -> Result<Self> {
        Self::start_named("play", manifests)
    }

    /// The same, with a word that shows in the folder's name.
    pub fn start_named(name: &str, manifests: &str) -> Result<Self> {
        let folder = new_folder(name)?;
        let mut play = Self {
            folder,
            child: None,
            keep: false,
        };
        std::fs::write(play.manifests(), manifests)?;
        std::fs::create_dir(play.mount())?;
        play.resume()?;
        Ok(play)
    }

    /// Starts the process again on the same data, after [`Play::stop`] or a kill.
    pub fn resume(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let child = Command::new(binaries::binary("anabranch")?)
            .arg("play")
            .arg("-f")
            .arg(self.manifests())
            .arg("--data")
            .arg(self.data())
            .arg("--mount")
            .arg(self.mount())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// The manifest file that is played; a test may write it anew.
    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests.yaml")
    }

    /// The store.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The folder of the mounts.
    pub fn mount(&self) -> PathBuf {
        self.folder.join("mount")
    }

    /// A folder of the test's own beside the store, on the same plain file system.
    pub fn scratch(&self) -> Result<PathBuf> {
        let path = self.folder.join("scratch");
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("play.log")
    }

    /// What `play` has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The mount of a fork of the default namespace, once it is there.
    pub fn fork(&mut self, name: &str) -> Result<PathBuf> {
        let path = self.mount().join("default").join(name);
        let deadline = Instant::now() + PATIENCE;
        while !is_mounted(&path)? {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                return Err(self.failure(&format!(
                    "`anabranch play` ended with {status} before {name} was mounted"
                )));
            }
            if Instant::now() > deadline {
                return Err(self.failure(&format!(
                    "{} was not mounted within {PATIENCE:?}",
                    path.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(path)
    }

    /// Runs `anabranch ARGUMENTS --data DATA` and returns what it printed; fails when it does.
    pub fn anabranch(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(binaries::binary("anabranch")?);
        command.args(arguments).arg("--data").arg(self.data());
        Ok(program::succeed_for(PATIENCE, &mut command)?.output)
    }

    /// Asks `play` to stop, and checks that it ended well and left no mount.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
            kill_process(pid, Signal::TERM).map_err(std::io::Error::from)?;
        }
        let status = program::wait_for(PATIENCE, &mut child)?;
        if !status.is_some_and(|status| status.success()) {
            let _ = child.kill();
            let how = status.map_or("did not stop".to_owned(), |status| {
                format!("ended with {status}")
            });
            return Err(self.failure(&format!("`anabranch play` was asked to stop and {how}")));
        }
        match mounts_below(&self.mount())?.first() {
            None => Ok(()),
            Some(left) => Err(self.failure(&format!(
                "`anabranch play` stopped and left {} mounted",
                left.display()
            ))),
        }
    }

    /// Keeps the folder when this goes, for a look at what failed.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    fn failure(&mut self, what: &str) -> Failure {
        Failure::new(format!(
            "{what}; it printed:\n{}",
            program::tail(&self.log())
        ))
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Asked first, so that a keeper process is ended by its owner.
            if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
                let _ = kill_process(pid, Signal::TERM);
            }
            if !matches!(
                program::wait_for(Duration::from_secs(10), &mut child),
                Ok(Some(_))
            ) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        let left = mounts_below(&self.mount()).unwrap_or_default();
        for mount in &left {
            let _ = Command::new("umount").arg("-l").arg(mount).status();
        }
        if std::thread::panicking() || std::env::var_os("E2E_KEEP").is_some() {
            eprintln!(
                "--- what `anabranch play` printed:\n{}",
                program::tail(&self.log())
            );
        }
        if !self.keep && std::env::var_os("E2E_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// A new folder that everybody may enter: some suites change to other users.
pub fn new_folder(name: &str) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    static COUNTER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder =
        std::env::temp_dir().join(format!("anabranch-{name}-{}-{number}", std::process::id()));
    std::fs::create_dir(&folder)
        .map_err(|error| Failure::new(format!("cannot make {}: {error}", folder.display())))?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// The mounts below a folder, deepest first, from the kernel's table: no look at the mounts themselves, which could hang.
pub fn mounts_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .filter(|path| path.starts_with(folder))
        .collect();
    mounts.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    Ok(mounts)
}

fn is_mounted(path: &Path) -> Result<bool> {
    Ok(mounts_below(path)?.iter().any(|mount| mount == path))
}
