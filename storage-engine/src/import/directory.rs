//! Import of a directory.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};
use crate::files::Volume;
use crate::files::types::{NodeKind, Time};
use crate::ids::Ino;

use super::ImportProgress;
use super::builder::{Builder, Content, Meta};

pub(super) fn import(
    volume: &Volume,
    source: &Path,
    progress: &mut dyn FnMut(&ImportProgress) -> ControlFlow<()>,
) -> Result<ImportProgress> {
    let root = fs::canonicalize(source).context("find", source)?;
    let meta = fs::metadata(&root).context("stat", &root)?;
    if !meta.is_dir() {
        return Err(Error::invalid(format!(
            "{} is not a directory",
            source.display()
        )));
    }
    let data = volume.engine().data_dir();
    let data = fs::canonicalize(&data).context("find", &data)?;
    if data.starts_with(&root) {
        return Err(Error::invalid(format!(
            "{} holds the store itself ({}): import a directory beside it",
            source.display(),
            data.display()
        )));
    }
    let mut builder = Builder::new(volume, None, progress)?;
    builder.set_directory(Ino::ROOT, &meta_of(&root, &meta)?)?;
    // Names of one inode that were seen, for hard links: only of files that have more than one.
    let mut linked: HashMap<(u64, u64), Ino> = HashMap::new();
    let mut todo: Vec<(PathBuf, Ino)> = vec![(root, Ino::ROOT)];
    while let Some((dir, parent)) = todo.pop() {
        for entry in fs::read_dir(&dir).context("list", &dir)? {
            let entry = entry.context("list", &dir)?;
            let path = entry.path();
            let name = entry.file_name();
            let name = name.as_bytes();
            let meta = match fs::symlink_metadata(&path) {
                Ok(meta) => meta,
                // It went away while the directory was listed: it is no longer a part of the tree.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io("stat", &path, &e)),
            };
            let identity = (meta.dev(), meta.ino());
            if !meta.is_dir()
                && meta.nlink() > 1
                && let Some(ino) = linked.get(&identity)
            {
                builder.link(parent, name, *ino)?;
                continue;
            }
            let attributes = meta_of(&path, &meta)?;
            let ino = match kind_of(&meta) {
                NodeKind::Directory => {
                    let ino = builder.directory(parent, name, &attributes)?;
                    todo.push((path, ino));
                    continue;
                }
                NodeKind::Symlink => {
                    let target = fs::read_link(&path).context("read the link", &path)?;
                    builder.symlink(parent, name, target.as_os_str().as_bytes(), &attributes)?
                }
                NodeKind::File => {
                    let mut file = File::open(&path).context("open", &path)?;
                    let content = Content {
                        reader: &mut file,
                        size: meta.len(),
                        sparse: meta.blocks() * 512 < meta.len(),
                        path: &path,
                    };
                    builder.file(parent, name, &attributes, content)?
                }
                kind => builder.special(parent, name, kind, &attributes)?,
            };
            if meta.nlink() > 1 {
                linked.insert(identity, ino);
            }
        }
    }
    builder.finish()
}

fn kind_of(meta: &Metadata) -> NodeKind {
    let t = meta.file_type();
    if t.is_dir() {
        NodeKind::Directory
    } else if t.is_symlink() {
        NodeKind::Symlink
    } else if t.is_fifo() {
        NodeKind::Fifo
    } else if t.is_socket() {
        NodeKind::Socket
    } else if t.is_block_device() {
        NodeKind::BlockDevice
    } else if t.is_char_device() {
        NodeKind::CharDevice
    } else {
        NodeKind::File
    }
}

fn meta_of(path: &Path, meta: &Metadata) -> Result<Meta> {
    Ok(Meta {
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        rdev: meta.rdev() as u32,
        atime: Time {
            secs: meta.atime(),
            nanos: meta.atime_nsec() as u32,
        },
        mtime: Time {
            secs: meta.mtime(),
            nanos: meta.mtime_nsec() as u32,
        },
        xattrs: xattrs_of(path)?,
    })
}

/// Extended attributes, without those that belong to the source's file system or host.
fn xattrs_of(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0u8; 4096];
    let len = loop {
        match rustix::fs::llistxattr(path, &mut names) {
            Ok(len) => break len,
            Err(rustix::io::Errno::RANGE) => names.resize(names.len() * 4, 0),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOENT) => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("list the attributes of", path, &e.into())),
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
            Err(e) => return Err(Error::io("read the attributes of", path, &e.into())),
        }
    }
    Ok(out)
}
