//! Import of a tar archive.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;

use ::tar::{Archive, EntryType, Header};
use flate2::read::MultiGzDecoder;

use crate::error::{Error, IoContext, Result};
use crate::files::Volume;
use crate::files::types::{NodeKind, Time};
use crate::ids::Ino;

use super::ImportProgress;
use super::builder::{Builder, Content, Meta};
use super::source::Source;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Compressions that are known by name only.
const OTHER_MAGICS: [(&[u8], &str); 3] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (b"BZh", "bzip2"),
    (&[0xfd, b'7', b'z', b'X'], "xz"),
];

pub(super) fn import(
    volume: &Volume,
    source: &Source,
    progress: &mut dyn FnMut(&ImportProgress) -> ControlFlow<()>,
) -> Result<ImportProgress> {
    let archive = source.path();
    let mut file = source.file().try_clone().context("open", archive)?;
    file.seek(SeekFrom::Start(0)).context("rewind", archive)?;
    let mut magic = [0; 4];
    let compressed = match file.read_exact(&mut magic) {
        Ok(()) => magic.starts_with(&GZIP_MAGIC),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(Error::invalid(format!(
                "{} is no tar archive: it is too short",
                archive.display()
            )));
        }
        Err(e) => return Err(Error::io("read", archive, &e)),
    };
    for (other, name) in OTHER_MAGICS {
        if magic.starts_with(other) {
            return Err(Error::invalid(format!(
                "{} is compressed with {name}: only plain archives and gzip are read",
                archive.display()
            )));
        }
    }
    file.seek(SeekFrom::Start(0)).context("rewind", archive)?;
    let at = Rc::new(Cell::new(0));
    let file = Counted {
        file,
        at: Rc::clone(&at),
    };
    let reader: Box<dyn Read> = if compressed {
        Box::new(MultiGzDecoder::new(BufReader::with_capacity(
            64 << 10,
            file,
        )))
    } else {
        Box::new(BufReader::with_capacity(1 << 20, file))
    };
    let mut tree = Tree {
        builder: Builder::new(volume, Some(at), progress)?,
        known: HashMap::new(),
        archive,
    };
    let mut archive_reader = Archive::new(reader);
    let unreadable = |e: std::io::Error| {
        Error::invalid(format!(
            "{} is no readable tar archive: {e}",
            archive.display()
        ))
    };
    for entry in archive_reader.entries().map_err(unreadable)? {
        tree.add(&mut entry.map_err(unreadable)?)?;
    }
    tree.builder.finish()
}

/// Tells how far the archive's file is read.
struct Counted {
    file: File,
    at: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(out)?;
        self.at.set(self.at.get() + n as u64);
        Ok(n)
    }
}

/// A path that was added.
#[derive(Clone, Copy)]
struct Known {
    ino: Ino,
    is_dir: bool,
}

struct Tree<'v> {
    builder: Builder<'v>,
    known: HashMap<Vec<u8>, Known>,
    archive: &'v Path,
}

impl Tree<'_> {
    fn add(&mut self, entry: &mut ::tar::Entry<'_, Box<dyn Read>>) -> Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let path = normal(&entry.path_bytes(), self.archive)?;
        let meta = self.meta(entry)?;
        if path.is_empty() {
            return self.builder.set_directory(Ino::ROOT, &meta);
        }
        let (parent, name) = self.parent_of(&path)?;
        if let Some(there) = self.known.get(&path).copied() {
            match (there.is_dir, kind.is_dir()) {
                (true, true) => return self.builder.set_directory(there.ino, &meta),
                (false, false) => {
                    self.builder.remove(parent, &name)?;
                    self.known.remove(&path);
                }
                _ => {
                    return Err(self.bad(
                        &path,
                        "stands there twice, as a directory and as something else",
                    ));
                }
            }
        }
        let ino = match kind {
            EntryType::Directory => self.builder.directory(parent, &name, &meta)?,
            EntryType::Symlink => {
                let target = entry
                    .link_name_bytes()
                    .ok_or_else(|| self.bad(&path, "has no target"))?;
                self.builder.symlink(parent, &name, &target, &meta)?
            }
            EntryType::Link => {
                let target = entry
                    .link_name_bytes()
                    .ok_or_else(|| self.bad(&path, "has no target"))?;
                let target = normal(&target, self.archive)?;
                let known = self.known.get(&target).copied().filter(|k| !k.is_dir);
                let known = known
                    .ok_or_else(|| self.bad(&path, "links to a file that is not before it"))?;
                self.builder.link(parent, &name, known.ino)?;
                known.ino
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let sparse = kind == EntryType::GNUSparse;
                let size = entry.size();
                let archive = self.archive;
                self.builder.file(
                    parent,
                    &name,
                    &meta,
                    Content {
                        reader: entry,
                        size,
                        sparse,
                        path: archive,
                    },
                )?
            }
            EntryType::Char => self
                .builder
                .special(parent, &name, NodeKind::CharDevice, &meta)?,
            EntryType::Block => {
                self.builder
                    .special(parent, &name, NodeKind::BlockDevice, &meta)?
            }
            EntryType::Fifo => self.builder.special(parent, &name, NodeKind::Fifo, &meta)?,
            other => {
                return Err(self.bad(
                    &path,
                    &format!("has the unknown type {:?}", char::from(other.as_byte())),
                ));
            }
        };
        self.known.insert(
            path,
            Known {
                ino,
                is_dir: kind.is_dir(),
            },
        );
        Ok(())
    }

    /// The directory of a path, made with the parents it lacks.
    fn parent_of(&mut self, path: &[u8]) -> Result<(Ino, Vec<u8>)> {
        let mut parent = Ino::ROOT;
        let mut at = 0;
        while let Some(n) = path[at..].iter().position(|b| *b == b'/') {
            let end = at + n;
            let prefix = &path[..end];
            parent = match self.known.get(prefix) {
                Some(known) if known.is_dir => known.ino,
                Some(_) => {
                    return Err(self.bad(path, "goes through something that is no directory"));
                }
                None => {
                    let meta = Meta {
                        mode: 0o755,
                        ..Meta::default()
                    };
                    let ino = self.builder.directory(parent, &path[at..end], &meta)?;
                    self.known
                        .insert(prefix.to_vec(), Known { ino, is_dir: true });
                    ino
                }
            };
            at = end + 1;
        }
        Ok((parent, path[at..].to_vec()))
    }

    fn meta(&self, entry: &mut ::tar::Entry<'_, Box<dyn Read>>) -> Result<Meta> {
        let header: &Header = entry.header();
        let bad = |e: std::io::Error| {
            Error::invalid(format!(
                "{} has a damaged header: {e}",
                self.archive.display()
            ))
        };
        let device = |n: std::io::Result<Option<u32>>| n.ok().flatten().unwrap_or(0);
        let rdev =
            rustix::fs::makedev(device(header.device_major()), device(header.device_minor()));
        let mut mtime = Time {
            secs: header.mtime().map_err(bad)? as i64,
            nanos: 0,
        };
        let mut meta = Meta {
            mode: header.mode().map_err(bad)? & 0o7777,
            uid: header.uid().map_err(bad)? as u32,
            gid: header.gid().map_err(bad)? as u32,
            rdev: rdev as u32,
            ..Meta::default()
        };
        if let Some(extensions) = entry.pax_extensions().map_err(bad)? {
            for extension in extensions.flatten() {
                let key = extension.key_bytes();
                if key == b"mtime" {
                    mtime = extension.value().ok().and_then(pax_time).unwrap_or(mtime);
                } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    meta.xattrs
                        .push((name.to_vec(), extension.value_bytes().to_vec()));
                }
            }
        }
        (meta.mtime, meta.atime) = (mtime, mtime);
        Ok(meta)
    }

    fn bad(&self, path: &[u8], why: &str) -> Error {
        Error::invalid(format!(
            "{}: {:?} {why}",
            self.archive.display(),
            String::from_utf8_lossy(path)
        ))
    }
}

/// `12345.678` as pax has it.
fn pax_time(text: &str) -> Option<Time> {
    let (secs, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction
        .chars()
        .chain(std::iter::repeat('0'))
        .take(9)
        .collect();
    Some(Time {
        secs: secs.parse().ok()?,
        nanos: digits.parse().ok()?,
    })
}

/// A path without `.`, doubled and leading slashes; `..` is refused.
fn normal(path: &[u8], archive: &Path) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for part in path
        .split(|b| *b == b'/')
        .filter(|p| !p.is_empty() && *p != b".")
    {
        if part == b".." || part.contains(&0) {
            return Err(Error::invalid(format!(
                "{} holds the unsafe path {:?}",
                archive.display(),
                String::from_utf8_lossy(path)
            )));
        }
        if !out.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(part);
    }
    Ok(out)
}
