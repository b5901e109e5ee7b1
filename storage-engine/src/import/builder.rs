//! Adds nodes to a timeline in large commits.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::commit::Txn;
use crate::error::{Error, IoContext, Result};
use crate::files::Volume;
use crate::files::types::{Caller, NodeKind, Time};
use crate::ids::{FileId, Ino};
use crate::index::keys::RecordKey;
use crate::index::records::{
    self, CHUNK_BYTES, Chunk, Extent, INLINE_BYTES, Inode, MAX_FILE_BYTES, NO_OBJECT, Record,
};
use crate::store::sync_dir;

use super::ImportProgress;

/// A file of at least so many bytes becomes an object file: from about here on passthrough is faster
/// than reading through the daemon.
pub(crate) const OBJECT_BYTES: u64 = 256 << 10;
/// A commit is made when it carries so much data in the log, ...
const BATCH_DATA: usize = 8 << 20;
/// ... so many entries, ...
const BATCH_ENTRIES: u64 = 2000;
/// ... or so much in object files.
const BATCH_OBJECTS: u64 = 256 << 20;

/// Attributes of a node to add.
#[derive(Clone, Debug, Default)]
pub(super) struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub atime: Time,
    pub mtime: Time,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What the bytes of a file are read from.
pub(super) struct Content<'r> {
    pub reader: &'r mut dyn Read,
    /// Expected length: decides where the bytes go; the bytes that come decide the length.
    pub size: u64,
    /// Look for holes.
    pub sparse: bool,
    /// Named in errors.
    pub path: &'r Path,
}

pub(super) struct Builder<'v> {
    volume: &'v Volume,
    txn: Option<Txn<'v>>,
    /// Inodes of all directories, so that adding an entry does not read them back.
    dirs: HashMap<Ino, Inode>,
    dirty: HashSet<Ino>,
    objects: Vec<(File, PathBuf)>,
    object_bytes: u64,
    batch_entries: u64,
    done: ImportProgress,
    progress: &'v mut dyn FnMut(&ImportProgress),
    buffer: Vec<u8>,
}

impl<'v> Builder<'v> {
    pub fn new(volume: &'v Volume, progress: &'v mut dyn FnMut(&ImportProgress)) -> Result<Self> {
        let root = volume.view()?.inode(Ino::ROOT)?;
        Ok(Self {
            volume,
            txn: None,
            dirs: HashMap::from([(Ino::ROOT, root)]),
            dirty: HashSet::new(),
            objects: Vec::new(),
            object_bytes: 0,
            batch_entries: 0,
            done: ImportProgress::default(),
            progress,
            buffer: Vec::new(),
        })
    }

    /// Sets the attributes of a directory that is there.
    pub fn set_directory(&mut self, ino: Ino, meta: &Meta) -> Result<()> {
        self.open_batch()?;
        let dir = self.dir(ino)?;
        dir.mode = meta.mode & 0o7777;
        (dir.uid, dir.gid, dir.atime, dir.mtime) = (meta.uid, meta.gid, meta.atime, meta.mtime);
        dir.has_xattrs |= !meta.xattrs.is_empty();
        self.dirty.insert(ino);
        self.put_xattrs(ino, meta)
    }

    pub fn directory(&mut self, parent: Ino, name: &[u8], meta: &Meta) -> Result<Ino> {
        let (ino, inode) = self.node(parent, name, NodeKind::Directory, meta, &[])?;
        self.dirs.insert(ino, inode);
        self.dirty.insert(ino);
        self.added(0)?;
        Ok(ino)
    }

    pub fn symlink(&mut self, parent: Ino, name: &[u8], target: &[u8], meta: &Meta) -> Result<Ino> {
        if target.is_empty() || target.len() > usize::from(u16::MAX) {
            return Err(Error::invalid(format!(
                "{:?} has no usable target",
                String::from_utf8_lossy(name)
            )));
        }
        self.plain(parent, name, NodeKind::Symlink, meta, target)
    }

    /// A device, pipe or socket.
    pub fn special(
        &mut self,
        parent: Ino,
        name: &[u8],
        kind: NodeKind,
        meta: &Meta,
    ) -> Result<Ino> {
        self.plain(parent, name, kind, meta, &[])
    }

    fn plain(
        &mut self,
        parent: Ino,
        name: &[u8],
        kind: NodeKind,
        meta: &Meta,
        target: &[u8],
    ) -> Result<Ino> {
        let (ino, inode) = self.node(parent, name, kind, meta, target)?;
        self.txn()?.put_inode(ino, inode);
        self.added(0)?;
        Ok(ino)
    }

    /// A regular file with its bytes.
    pub fn file(
        &mut self,
        parent: Ino,
        name: &[u8],
        meta: &Meta,
        content: Content<'_>,
    ) -> Result<Ino> {
        let (ino, mut inode) = self.node(parent, name, NodeKind::File, meta, &[])?;
        let size = if content.size >= OBJECT_BYTES {
            self.object(ino, &mut inode, content)?
        } else {
            self.small(ino, &mut inode, content)?
        };
        inode.size = size;
        let txn = self.txn()?;
        txn.usage.logical += size;
        txn.put_inode(ino, inode);
        self.added(size)?;
        Ok(ino)
    }

    /// Another name of a file that was added.
    pub fn link(&mut self, parent: Ino, name: &[u8], ino: Ino) -> Result<()> {
        self.open_batch()?;
        let mut inode = self.txn()?.inode(ino)?;
        if inode.kind == NodeKind::Directory {
            return Err(Error::invalid("a directory cannot have a second name"));
        }
        inode.nlink += 1;
        let kind = inode.kind;
        self.entry(parent, name, ino, kind)?;
        let txn = self.txn()?;
        txn.put(
            RecordKey::Backlink {
                ino,
                parent,
                name: name.to_vec(),
            },
            Record::Mark,
        );
        txn.put_inode(ino, inode);
        self.added(0)
    }

    /// Removes a file that was added, for one that comes later under its name.
    pub fn remove(&mut self, parent: Ino, name: &[u8]) -> Result<()> {
        self.commit()?;
        let ino = self.volume.lookup(parent, name)?.ino;
        self.volume.unlink(&Caller::default(), parent, name)?;
        self.volume.reap(ino)?;
        let mtime = self.dir(parent)?.mtime;
        let mut dir = self.volume.view()?.inode(parent)?;
        dir.mtime = mtime;
        self.dirs.insert(parent, dir);
        self.dirty.insert(parent);
        Ok(())
    }

    /// Commits what is left and makes everything durable.
    pub fn finish(mut self) -> Result<ImportProgress> {
        self.commit()?;
        self.volume.sync()?;
        Ok(self.done)
    }

    fn node(
        &mut self,
        parent: Ino,
        name: &[u8],
        kind: NodeKind,
        meta: &Meta,
        target: &[u8],
    ) -> Result<(Ino, Inode)> {
        self.open_batch()?;
        let txn = self.txn()?;
        let ino = txn.take_ino()?;
        txn.usage.inodes += 1;
        let now = txn.now();
        let inode = Inode {
            kind,
            mode: meta.mode & 0o7777,
            nlink: if kind == NodeKind::Directory { 2 } else { 1 },
            uid: meta.uid,
            gid: meta.gid,
            rdev: meta.rdev,
            size: 0,
            allocated: 0,
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: now,
            btime: now,
            has_xattrs: !meta.xattrs.is_empty(),
            entries: 0,
            parent,
            name: name.to_vec(),
            target: target.to_vec(),
            object: NO_OBJECT,
        };
        self.entry(parent, name, ino, kind)?;
        self.put_xattrs(ino, meta)?;
        Ok((ino, inode))
    }

    fn entry(&mut self, parent: Ino, name: &[u8], ino: Ino, kind: NodeKind) -> Result<()> {
        crate::files::check_name(name)?;
        let dir = self.dir(parent)?;
        dir.entries += 1;
        if kind == NodeKind::Directory {
            dir.nlink += 1;
        }
        self.dirty.insert(parent);
        self.txn()?.put(
            RecordKey::Dirent(parent, name.to_vec()),
            Record::Dirent { ino, kind },
        );
        Ok(())
    }

    fn put_xattrs(&mut self, ino: Ino, meta: &Meta) -> Result<()> {
        let txn = self.txn()?;
        for (name, value) in &meta.xattrs {
            txn.put(
                RecordKey::Xattr(ino, name.clone()),
                Record::Xattr(value.clone()),
            );
        }
        Ok(())
    }

    /// Bytes that go into the log.
    fn small(&mut self, ino: Ino, inode: &mut Inode, content: Content<'_>) -> Result<u64> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(CHUNK_BYTES as usize, 0);
        let mut size = 0;
        for n in 0.. {
            let len = fill(content.reader, &mut buffer).context("read", content.path)?;
            let bytes = &buffer[..len];
            size += len as u64;
            let hole = content.sparse && bytes.iter().all(|b| *b == 0);
            if len > 0 && !hole {
                let txn = self.txn()?;
                let chunk = if n == 0 && len as u64 <= INLINE_BYTES {
                    Chunk::Inline {
                        born: txn.epoch().0,
                        inherited: false,
                        bytes: bytes.to_vec(),
                    }
                } else {
                    Chunk::Extents(vec![txn.add_data(0, bytes)])
                };
                txn.put(RecordKey::Chunk(ino, n), Record::Chunk(chunk));
                txn.count_own(len as u64);
                inode.allocated += len as u64;
            }
            if len < CHUNK_BYTES as usize {
                break;
            }
            check_size(size, content.path)?;
        }
        self.buffer = buffer;
        Ok(size)
    }

    /// Bytes that become an object file.
    fn object(&mut self, ino: Ino, inode: &mut Inode, content: Content<'_>) -> Result<u64> {
        let engine = self.volume.engine().inner.clone();
        let (id, mut file, path) = engine.files.create_object(&*engine.ids)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(CHUNK_BYTES as usize, 0);
        let mut size = 0;
        let mut holes = false;
        for n in 0.. {
            let len = fill(content.reader, &mut buffer).context("read", content.path)?;
            let bytes = &buffer[..len];
            if len > 0 {
                if content.sparse && bytes.iter().all(|b| *b == 0) {
                    holes = true;
                    std::io::Seek::seek(&mut file, std::io::SeekFrom::Current(len as i64))
                        .context("seek in", &path)?;
                } else {
                    file.write_all(bytes).context("write", &path)?;
                    let txn = self.txn()?;
                    let extent = object_extent(txn.epoch().0, id, size, bytes);
                    txn.put(
                        RecordKey::Chunk(ino, n),
                        Record::Chunk(Chunk::Extents(vec![extent])),
                    );
                    txn.count_own(len as u64);
                    inode.allocated += len as u64;
                }
                size += len as u64;
            }
            if len < CHUNK_BYTES as usize {
                break;
            }
            check_size(size, content.path)?;
        }
        if holes {
            file.set_len(size).context("extend", &path)?;
        }
        inode.object = if size > 0 { id } else { NO_OBJECT };
        self.buffer = buffer;
        self.object_bytes += size;
        self.objects.push((file, path));
        Ok(size)
    }

    fn added(&mut self, bytes: u64) -> Result<()> {
        self.done.entries += 1;
        self.done.bytes += bytes;
        self.batch_entries += 1;
        let full = self.batch_entries >= BATCH_ENTRIES
            || self.object_bytes >= BATCH_OBJECTS
            || self
                .txn
                .as_ref()
                .is_some_and(|t| t.data_len() >= BATCH_DATA);
        if full { self.commit() } else { Ok(()) }
    }

    fn open_batch(&mut self) -> Result<()> {
        if self.txn.is_none() {
            self.txn = Some(self.volume.begin(&Caller::default())?);
        }
        Ok(())
    }

    fn txn(&mut self) -> Result<&mut Txn<'v>> {
        self.open_batch()?;
        self.txn
            .as_mut()
            .ok_or_else(|| Error::invalid("no commit is open"))
    }

    fn dir(&mut self, ino: Ino) -> Result<&mut Inode> {
        self.dirs
            .get_mut(&ino)
            .ok_or_else(|| Error::not_found(format!("directory {ino}")))
    }

    fn commit(&mut self) -> Result<()> {
        // What the commit refers to is durable before it: a log that is ahead of its object files
        // would be a store with missing bytes. The first sync takes most of the others with it.
        let mut dirs = HashSet::new();
        let engine = self.volume.engine().inner.clone();
        for (file, path) in self.objects.drain(..) {
            engine.files.seal_object(&file, &path)?;
            dirs.extend(path.parent().map(Path::to_owned));
        }
        for dir in dirs {
            sync_dir(&dir)?;
        }
        self.object_bytes = 0;
        self.batch_entries = 0;
        let Some(mut txn) = self.txn.take() else {
            return Ok(());
        };
        for ino in self.dirty.drain() {
            if let Some(dir) = self.dirs.get(&ino) {
                txn.put_inode(ino, dir.clone());
            }
        }
        txn.check_quota()?;
        txn.commit()?;
        (self.progress)(&self.done);
        Ok(())
    }
}

/// The piece of an object file that is one chunk.
pub(crate) fn object_extent(born: u64, id: FileId, offset: u64, bytes: &[u8]) -> Extent {
    Extent {
        at: 0,
        take: bytes.len() as u32,
        skip: 0,
        born,
        inherited: false,
        file: id,
        offset,
        length: bytes.len() as u32,
        sums: records::sums_of(bytes),
    }
}

fn check_size(size: u64, path: &Path) -> Result<()> {
    if size < MAX_FILE_BYTES {
        return Ok(());
    }
    Err(Error::new(
        crate::ErrorKind::FileTooLarge,
        format!("{} has more than {MAX_FILE_BYTES} bytes", path.display()),
    ))
}

/// Reads until the buffer is full or the source ends.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match reader.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(len)
}
