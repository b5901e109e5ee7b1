//! Import of a directory.

use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

use crate::error::{Error, IoContext, Result};
use crate::files::Volume;
use crate::files::types::{NodeKind, Time};
use crate::ids::Ino;

use super::ImportProgress;
use super::builder::{Builder, Content, Meta};
use super::source::{Folder, Source, failed};

pub(super) fn import(
    volume: &Volume,
    source: &Source,
    progress: &mut dyn FnMut(&ImportProgress) -> ControlFlow<()>,
) -> Result<ImportProgress> {
    let path = source.path();
    let stat = rustix::fs::fstat(source.file()).map_err(|errno| failed("stat", path, errno))?;
    if kind_of(&stat) != NodeKind::Directory {
        return Err(Error::invalid(format!(
            "{} is not a directory",
            path.display()
        )));
    }
    let data = volume.engine().data_dir();
    let data = fs::canonicalize(&data).context("find", &data)?;
    if data.starts_with(source.place()?) {
        return Err(Error::invalid(format!(
            "{} holds the store itself ({}): import a directory beside it",
            path.display(),
            data.display()
        )));
    }
    let mut builder = Builder::new(volume, None, progress)?;
    let top = Folder::open(source, Path::new(""))?;
    builder.set_directory(Ino::ROOT, &meta_of(&top.exactly(b"."), path, &stat)?)?;
    drop(top);
    // Names of one inode that were seen, for hard links: only of files that have more than one.
    let mut linked: HashMap<(u64, u64), Ino> = HashMap::new();
    let mut todo: Vec<(PathBuf, Ino)> = vec![(PathBuf::new(), Ino::ROOT)];
    while let Some((below, parent)) = todo.pop() {
        let folder = Folder::open(source, &below)?;
        for name in folder.names()? {
            let name = name?;
            let name = name.as_slice();
            let path = folder.path_of(name);
            // What went away while the directory was listed is no longer a part of the tree.
            let Some(stat) = folder.stat(name)? else {
                continue;
            };
            let identity = (stat.st_dev, stat.st_ino);
            let kind = kind_of(&stat);
            let names = stat.st_nlink;
            if kind != NodeKind::Directory
                && names > 1
                && let Some(ino) = linked.get(&identity)
            {
                builder.link(parent, name, *ino)?;
                continue;
            }
            let attributes = meta_of(&folder.exactly(name), &path, &stat)?;
            let ino = match kind {
                NodeKind::Directory => {
                    let ino = builder.directory(parent, name, &attributes)?;
                    todo.push((folder.below_of(name), ino));
                    continue;
                }
                NodeKind::Symlink => {
                    let target = folder.link(name)?;
                    builder.symlink(parent, name, &target, &attributes)?
                }
                NodeKind::File => {
                    let mut file = folder.file(name)?;
                    let opened =
                        rustix::fs::fstat(&file).map_err(|errno| failed("stat", &path, errno))?;
                    if (opened.st_dev, opened.st_ino) != identity {
                        return Err(Error::invalid(format!(
                            "{} was replaced while it was imported",
                            path.display()
                        )));
                    }
                    let size = u64::try_from(opened.st_size).unwrap_or_default();
                    let stored = u64::try_from(opened.st_blocks).unwrap_or_default() * 512;
                    let content = Content {
                        reader: &mut file,
                        size,
                        sparse: stored < size,
                        path: &path,
                    };
                    builder.file(parent, name, &attributes, content)?
                }
                kind => builder.special(parent, name, kind, &attributes)?,
            };
            if names > 1 {
                linked.insert(identity, ino);
            }
        }
    }
    builder.finish()
}

fn kind_of(stat: &Stat) -> NodeKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => NodeKind::Directory,
        FileType::Symlink => NodeKind::Symlink,
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        FileType::BlockDevice => NodeKind::BlockDevice,
        FileType::CharacterDevice => NodeKind::CharDevice,
        FileType::RegularFile | FileType::Unknown => NodeKind::File,
    }
}

/// `exactly` is where it is for the system, `shown` what messages call it.
fn meta_of(exactly: &Path, shown: &Path, stat: &Stat) -> Result<Meta> {
    Ok(Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u32,
        atime: Time {
            secs: stat.st_atime,
            nanos: stat.st_atime_nsec as u32,
        },
        mtime: Time {
            secs: stat.st_mtime,
            nanos: stat.st_mtime_nsec as u32,
        },
        xattrs: xattrs_of(exactly, shown)?,
    })
}

/// Extended attributes, without those that belong to the source's file system or host.
fn xattrs_of(path: &Path, shown: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0u8; 4096];
    let len = loop {
        match rustix::fs::llistxattr(path, &mut names) {
            Ok(len) => break len,
            Err(rustix::io::Errno::RANGE) => names.resize(names.len() * 4, 0),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOENT) => return Ok(Vec::new()),
            Err(e) => return Err(failed("list the attributes of", shown, e)),
        }
    };
    let mut out = Vec::new();
    for name in names[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        if name.starts_with(b"system.") || name == b"security.selinux" {
            continue;
        }
        let mut value = vec![0u8; 64 << 10];
        match rustix::fs::lgetxattr(path, name, &mut value) {
            Ok(n) => {
                value.truncate(n);
                out.push((name.to_vec(), value));
            }
            Err(rustix::io::Errno::NODATA) => {}
            Err(e) => return Err(failed("read the attributes of", shown, e)),
        }
    }
    Ok(out)
}
