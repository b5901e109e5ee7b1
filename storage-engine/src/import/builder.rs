//! Adds nodes to a timeline in large commits.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use crate::blobs::{Started, Writing, Written};
use crate::commit::Txn;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::files::Volume;
use crate::files::types::{Caller, NodeKind, Time};
use crate::fs::File;
use crate::ids::{FileId, Ino};
use crate::index::keys::RecordKey;
use crate::index::records::{
    self, CHUNK_BYTES, Chunk, Extent, INLINE_BYTES, Inode, MAX_FILE_BYTES, NO_OBJECT, Record,
};

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
/// Chunks in one frame at most (8 GiB of data, about 7 MB of rows).
const COMMIT_CHUNKS: usize = if cfg!(test) { 8 } else { 64 << 10 };
/// The progress is told after so many entries, and so many bytes of one file: often enough to stop at once.
const TELL_ENTRIES: u64 = 64;
const TELL_BYTES: u64 = 16 << 20;
const _: () = assert!(TELL_BYTES.is_multiple_of(CHUNK_BYTES));

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
    /// Inodes of all directories, so that adding an entry does not read them back.
    dirs: HashMap<Ino, Inode>,
    dirty: HashSet<Ino>,
    batch: Batch,
    /// Inode numbers taken from the timeline and not used yet.
    inos: Range<u64>,
    done: ImportProgress,
    /// Where the source is read, if that is not told by the bytes of files.
    source: Option<Rc<Cell<u64>>>,
    progress: &'v mut dyn FnMut(&ImportProgress) -> ControlFlow<()>,
    buffer: Vec<u8>,
}

/// What the next commit adds. No lock is held while it is collected: a source may be slow, and a transaction keeps
/// the whole store from closing its epoch.
#[derive(Default)]
struct Batch {
    /// All rows but those of directories that are `dirty`, and of chunks.
    rows: Vec<(RecordKey, Record)>,
    /// Inodes of files, which a hard link may change.
    files: HashMap<Ino, Inode>,
    chunks: Vec<(RecordKey, Piece)>,
    /// Bytes of the chunks that go into the log.
    data: Vec<u8>,
    objects: Vec<(Arc<dyn File>, PathBuf, Written)>,
    /// They are not left behind: a commit is to refer to them.
    writing: Vec<Writing>,
    object_bytes: u64,
    entries: u64,
    inodes: u64,
    logical: u64,
}

/// The content of a chunk.
enum Piece {
    Inline(Vec<u8>),
    /// A range of the batch's data.
    Logged(Range<usize>),
    /// In an object file.
    Sealed(Extent),
}

impl Batch {
    fn is_full(&self) -> bool {
        self.entries >= BATCH_ENTRIES
            || self.object_bytes >= BATCH_OBJECTS
            || self.data.len() >= BATCH_DATA
    }
}

impl Drop for Batch {
    /// Object files that no commit refers to go.
    fn drop(&mut self) {
        for (_, path, _) in self.objects.drain(..) {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error,
                    "cannot remove the file of an import that did not go on; nothing refers to it");
            }
        }
    }
}

impl<'v> Builder<'v> {
    pub fn new(
        volume: &'v Volume,
        source: Option<Rc<Cell<u64>>>,
        progress: &'v mut dyn FnMut(&ImportProgress) -> ControlFlow<()>,
    ) -> Result<Self> {
        let root = volume.view()?.inode(Ino::ROOT)?;
        Ok(Self {
            volume,
            dirs: HashMap::from([(Ino::ROOT, root)]),
            dirty: HashSet::new(),
            batch: Batch::default(),
            inos: 0..0,
            done: ImportProgress::default(),
            source,
            progress,
            buffer: Vec::new(),
        })
    }

    /// Sets the attributes of a directory that is there.
    pub fn set_directory(&mut self, ino: Ino, meta: &Meta) -> Result<()> {
        let dir = self.dir(ino)?;
        dir.mode = meta.mode & 0o7777;
        (dir.uid, dir.gid, dir.atime, dir.mtime) = (meta.uid, meta.gid, meta.atime, meta.mtime);
        dir.has_xattrs |= !meta.xattrs.is_empty();
        self.dirty.insert(ino);
        self.put_xattrs(ino, meta);
        Ok(())
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
        self.batch.files.insert(ino, inode);
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
        self.batch.logical += size;
        self.batch.files.insert(ino, inode);
        self.added(size)?;
        Ok(ino)
    }

    /// Another name of a file that was added.
    pub fn link(&mut self, parent: Ino, name: &[u8], ino: Ino) -> Result<()> {
        let mut inode = match self.batch.files.get(&ino) {
            Some(inode) => inode.clone(),
            None => self.volume.view()?.inode(ino)?,
        };
        if inode.kind == NodeKind::Directory {
            return Err(Error::invalid("a directory cannot have a second name"));
        }
        inode.nlink += 1;
        let kind = inode.kind;
        self.entry(parent, name, ino, kind)?;
        self.batch.rows.push((
            RecordKey::Backlink {
                ino,
                parent,
                name: name.to_vec(),
            },
            Record::Mark,
        ));
        self.batch.files.insert(ino, inode);
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
        let ino = self.take_ino()?;
        self.batch.inodes += 1;
        let now = Time::from_nanos(self.volume.engine().now());
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
        self.put_xattrs(ino, meta);
        Ok((ino, inode))
    }

    fn take_ino(&mut self) -> Result<Ino> {
        if self.inos.is_empty() {
            let mut txn = self.volume.begin(&Caller::default())?;
            let first = txn.take_ino()?;
            for _ in 1..BATCH_ENTRIES {
                txn.take_ino()?;
            }
            self.inos = first.0..first.0 + BATCH_ENTRIES;
            txn.commit()?;
        }
        let ino = Ino(self.inos.start);
        self.inos.start += 1;
        Ok(ino)
    }

    fn entry(&mut self, parent: Ino, name: &[u8], ino: Ino, kind: NodeKind) -> Result<()> {
        crate::files::check_name(name)?;
        let dir = self.dir(parent)?;
        dir.entries += 1;
        if kind == NodeKind::Directory {
            dir.nlink += 1;
        }
        self.dirty.insert(parent);
        self.batch.rows.push((
            RecordKey::Dirent(parent, name.to_vec()),
            Record::Dirent { ino, kind },
        ));
        Ok(())
    }

    fn put_xattrs(&mut self, ino: Ino, meta: &Meta) {
        for (name, value) in &meta.xattrs {
            self.batch.rows.push((
                RecordKey::Xattr(ino, name.clone()),
                Record::Xattr(value.clone()),
            ));
        }
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
                let piece = if n == 0 && len as u64 <= INLINE_BYTES {
                    Piece::Inline(bytes.to_vec())
                } else {
                    let from = self.batch.data.len();
                    self.batch.data.extend_from_slice(bytes);
                    Piece::Logged(from..from + len)
                };
                self.batch.chunks.push((RecordKey::Chunk(ino, n), piece));
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
        engine.check_open()?;
        let Started {
            id,
            file,
            path,
            writing,
        } = engine.files.create_object(&*engine.ids)?;
        self.batch.writing.push(writing);
        self.batch
            .objects
            .push((Arc::clone(&file), path.clone(), Written::default()));
        let mut written = Written::default();
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(CHUNK_BYTES as usize, 0);
        let mut size = 0;
        let mut holes = false;
        for n in 0.. {
            let len = fill(content.reader, &mut buffer).context("read", content.path)?;
            let bytes = &buffer[..len];
            if len > 0 {
                written.add(bytes);
                if content.sparse && bytes.iter().all(|b| *b == 0) {
                    holes = true;
                } else {
                    file.write_all_at(bytes, size).context("write", &path)?;
                    let extent = object_extent(0, id, size, bytes);
                    self.batch
                        .chunks
                        .push((RecordKey::Chunk(ino, n), Piece::Sealed(extent)));
                    inode.allocated += len as u64;
                }
                size += len as u64;
            }
            if len < CHUNK_BYTES as usize {
                break;
            }
            check_size(size, content.path)?;
            if size.is_multiple_of(TELL_BYTES) {
                self.tell(size)?;
            }
        }
        if holes {
            file.set_len(size).context("extend", &path)?;
        }
        if let Some((.., content)) = self.batch.objects.last_mut() {
            *content = written;
        }
        inode.object = if size > 0 { id } else { NO_OBJECT };
        self.buffer = buffer;
        self.batch.object_bytes += size;
        Ok(size)
    }

    fn added(&mut self, bytes: u64) -> Result<()> {
        self.done.entries += 1;
        self.done.bytes += bytes;
        self.batch.entries += 1;
        if self.batch.is_full() {
            self.commit()?;
            return self.tell(0);
        }
        if self.batch.entries.is_multiple_of(TELL_ENTRIES) {
            self.tell(0)?;
        }
        Ok(())
    }

    /// Says how far it is, and hears whether it is to go on.
    fn tell(&mut self, of_this_file: u64) -> Result<()> {
        let bytes = self.done.bytes + of_this_file;
        let source = self.source.as_ref().map_or(bytes, |at| at.get());
        let now = ImportProgress {
            bytes,
            source,
            ..self.done
        };
        match (self.progress)(&now) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::new(
                ErrorKind::Unavailable,
                "the import was stopped before it was complete",
            )),
        }
    }

    fn dir(&mut self, ino: Ino) -> Result<&mut Inode> {
        self.dirs
            .get_mut(&ino)
            .ok_or_else(|| Error::not_found(format!("directory {ino}")))
    }

    fn commit(&mut self) -> Result<()> {
        self.done.source = self.source.as_ref().map_or(self.done.bytes, |at| at.get());
        let mut batch = std::mem::take(&mut self.batch);
        if batch.rows.is_empty() && batch.files.is_empty() && self.dirty.is_empty() {
            return Ok(());
        }
        // What the commit refers to is durable before it: a log that is ahead of its object files
        // would be a store with missing bytes. The first sync takes most of the others with it.
        let engine = self.volume.engine().inner.clone();
        for (file, path, written) in &batch.objects {
            engine.files.seal_object(&**file, path, *written)?;
        }
        let sealed: Vec<PathBuf> = batch.objects.iter().map(|o| o.1.clone()).collect();
        let data = std::mem::take(&mut batch.data);
        let mut chunks = std::mem::take(&mut batch.chunks).into_iter();
        let mut txn = self.volume.begin(&Caller::default())?;
        txn.usage.inodes += batch.inodes;
        txn.usage.logical += batch.logical;
        for (key, record) in batch.rows.drain(..) {
            txn.put(key, record);
        }
        for (ino, inode) in batch.files.drain() {
            txn.put_inode(ino, inode);
        }
        for ino in self.dirty.drain() {
            if let Some(dir) = self.dirs.get(&ino) {
                txn.put_inode(ino, dir.clone());
            }
        }
        // The chunks of a very long file do not fit into one frame; until the last one, it has holes.
        loop {
            for (key, piece) in chunks.by_ref().take(COMMIT_CHUNKS) {
                add_chunk(&mut txn, key, piece, &data);
            }
            txn.check_quota()?;
            let committed = txn.commit();
            // If the engine failed in the middle, the log may hold the commit, and with it the files.
            if committed.is_ok() || engine.check_open().is_err() {
                batch.objects.clear();
            }
            committed?;
            if chunks.len() == 0 {
                sealed.iter().for_each(|path| engine.files.protect(path));
                return Ok(());
            }
            txn = self.volume.begin(&Caller::default())?;
        }
    }
}

fn add_chunk(txn: &mut Txn<'_>, key: RecordKey, piece: Piece, data: &[u8]) {
    let chunk = match piece {
        Piece::Inline(bytes) => {
            txn.count_own(bytes.len() as u64);
            Chunk::Inline {
                born: txn.epoch().0,
                inherited: false,
                bytes,
            }
        }
        Piece::Logged(range) => {
            let bytes = data.get(range).unwrap_or_default();
            txn.count_own(bytes.len() as u64);
            Chunk::Extents(vec![txn.add_data(0, bytes)])
        }
        Piece::Sealed(extent) => {
            txn.count_own(u64::from(extent.take));
            Chunk::Extents(vec![Extent {
                born: txn.epoch().0,
                ..extent
            }])
        }
    };
    txn.put(key, Record::Chunk(chunk));
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
        ErrorKind::FileTooLarge,
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
