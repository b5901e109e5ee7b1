//! The folder that a suite is run in: a fork mounted by the real `anabranch play`.

use std::path::{Path, PathBuf};

use crate::play::{Play, mounts_below, new_folder};
use crate::{Failure, Result, in_ci, program};

/// A fork of an empty bucket. With `E2E_ON=/some/folder` it is a plain folder there instead: so the suites themselves
/// are tried on another file system, to know what they say of ext4.
pub struct Arena {
    play: Option<Play>,
    plain: Option<PathBuf>,
    elsewhere: PathBuf,
    path: PathBuf,
}

const MANIFESTS: &str = "\
apiVersion: anabranch.dev/v1alpha1
kind: Bucket
metadata: {name: empty}
spec: {}
---
apiVersion: anabranch.dev/v1alpha1
kind: BucketFork
metadata: {name: arena}
spec: {source: {bucket: empty}, lifetime: {noExpiry: true}}
";

impl Arena {
    /// An empty folder on a fork of its own; the word shows in the names of temporary files.
    pub fn new(name: &str) -> Result<Self> {
        if let Some(on) = std::env::var_os("E2E_ON") {
            let path = PathBuf::from(on).join(format!("anabranch-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path)?;
            let elsewhere = new_folder("elsewhere")?;
            return Ok(Self {
                play: None,
                plain: Some(path.clone()),
                elsewhere,
                path,
            });
        }
        let mut play = Play::start_named(name, MANIFESTS)?;
        let path = play.fork("arena")?;
        Ok(Self {
            play: Some(play),
            plain: None,
            elsewhere: PathBuf::new(),
            path,
        })
    }

    /// Where to test.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder on another file system, for what must not cross one, and for data to compare with.
    pub fn elsewhere(&self) -> Result<PathBuf> {
        match &self.play {
            Some(play) => play.scratch(),
            None => Ok(self.elsewhere.clone()),
        }
    }

    /// Stops `play`, and has the whole store checked.
    pub fn finish(mut self) -> Result<()> {
        if let Some(play) = &mut self.play {
            play.stop()?;
            play.anabranch(&["check"])?;
        }
        Ok(())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(plain) = &self.plain
            && mounts_below(plain).is_ok_and(|mounts| mounts.is_empty())
        {
            let _ = std::fs::remove_dir_all(plain);
            let _ = std::fs::remove_dir_all(&self.elsewhere);
        }
    }
}

/// True when the test can run: every program is there, and the user is root where that is needed. Otherwise it says by
/// name what is not run, and in continuous integration it fails.
pub fn can_run(test: &str, programs: &[&str], as_root: bool) -> Result<bool> {
    let mut missing: Vec<String> = programs
        .iter()
        .filter(|name| !program::exists(name))
        .map(|name| format!("the program {name}"))
        .collect();
    if as_root && !rustix::process::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    if std::env::var_os("E2E_ON").is_none() && !Path::new("/dev/fuse").exists() {
        missing.push("/dev/fuse".to_owned());
    }
    if missing.is_empty() {
        return Ok(true);
    }
    let what = format!(
        "{test}: not run, this machine lacks {} (`e2e/setup test` installs programs)",
        missing.join(", ")
    );
    if in_ci() {
        return Err(Failure::new(what));
    }
    println!("{what}");
    Ok(false)
}
