//! Images without a registry: archives as `docker save` makes them, of one layer each, from programs, the libraries that
//! they name, and busybox.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::run;
use crate::cluster::Failure;

/// What an image has.
pub struct Image<'a> {
    /// Its names, with tags.
    pub names: &'a [&'a str],
    /// Programs that go to `/usr/local/bin`, with the libraries that they need.
    pub programs: &'a [PathBuf],
    /// Where busybox is, for a shell and the usual programs; none where the image has its programs only.
    pub busybox: Option<&'a Path>,
    /// What runs when a pod names nothing.
    pub entrypoint: &'a [&'a str],
}

impl Image<'_> {
    /// Writes the archive `<name>.tar` into the folder, where it is made too.
    ///
    /// # Errors
    /// When a program is missing or fails.
    pub fn write(&self, folder: &Path, name: &str) -> Result<PathBuf, Failure> {
        let work = folder.join(name);
        let root = work.join("root");
        for place in ["usr/local/bin", "bin", "etc", "tmp", "dev", "proc", "sys"] {
            fs::create_dir_all(root.join(place))?;
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
        fs::write(root.join("etc/group"), "root:x:0:\n")?;
        if let Some(busybox) = self.busybox {
            install_busybox(busybox, &root)?;
        }
        let mut libraries = BTreeSet::new();
        for program in self.programs {
            let file = program.file_name().ok_or("a program without a name")?;
            // Without what a debugger needs, which is most of it.
            run(Command::new("strip")
                .args(["--strip-debug", "-o"])
                .arg(root.join("usr/local/bin").join(file))
                .arg(program))?;
            libraries.extend(libraries_of(program)?);
        }
        for library in libraries {
            let to = root.join(library.strip_prefix("/")?);
            fs::create_dir_all(to.parent().ok_or("a library without a folder")?)?;
            fs::copy(&library, &to)?;
        }
        let layer = work.join("layer.tar");
        run(Command::new("tar")
            .args(["--numeric-owner", "--owner=0", "--group=0", "-cf"])
            .arg(&layer)
            .arg("-C")
            .arg(&root)
            .arg("."))?;
        fs::remove_dir_all(&root)?;
        let sum = run(Command::new("sha256sum").arg(&layer))?;
        let sum = sum.split(' ').next().unwrap_or_default();
        let entrypoint = json(self.entrypoint);
        fs::write(
            work.join("config.json"),
            format!(
                "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{{\"Env\":[\"PATH=/usr/local/bin:/usr/bin:/bin\"],\
                 \"Entrypoint\":{entrypoint}}},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"sha256:{sum}\"]}},\
                 \"history\":[{{\"created_by\":\"{name}\"}}]}}"
            ),
        )?;
        fs::write(
            work.join("manifest.json"),
            format!(
                "[{{\"Config\":\"config.json\",\"RepoTags\":{},\"Layers\":[\"layer.tar\"]}}]",
                json(self.names)
            ),
        )?;
        let archive = folder.join(format!("{name}.tar"));
        run(Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&work)
            .args(["manifest.json", "config.json", "layer.tar"]))?;
        fs::remove_dir_all(&work)?;
        Ok(archive)
    }
}

fn install_busybox(busybox: &Path, root: &Path) -> Result<(), Failure> {
    fs::copy(busybox, root.join("bin/busybox"))?;
    for applet in run(Command::new(busybox).arg("--list"))?.lines() {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet))?;
        }
    }
    Ok(())
}

/// The shared libraries that a program needs, and its loader; none for a static one.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>, Failure> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("not found") {
        return Err(format!("{} needs what is not here: {text}", program.display()).into());
    }
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|word| PathBuf::from(word.trim_end_matches(':')))
        .filter(|path| path != program)
        .collect())
}

fn json(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(","))
}
