//! Files that hold extents: segments and sealed object files. Reading verifies checksums.
//!
//! An object file holds exactly one large file's bytes, is written once, synced, and never changed.
//! Its id is random with the highest bit of byte 8 set, which a segment's id never has (the writer
//! term there is below 2^31). It stands at `objects/<first byte>/<id>`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::clock::IdSource;
use crate::error::{Error, IoContext, Result};
use crate::fs::{Access, File};
use crate::ids::FileId;
use crate::index::records::{Extent, SUM_BYTES};
use crate::log::segment::{read_header, segment_path};
use crate::planted::{Bug, planted};
use crate::store::Layout;

/// At most so many files are kept open; the process has a limit of 20,000 and others need some.
const MAX_OPEN: usize = 1024;
const OBJECT_BIT: u8 = 0x80;

/// Open files by id.
pub(crate) struct Blobs {
    layout: Layout,
    open: Mutex<HashMap<FileId, Arc<dyn File>>>,
    /// Object files that no commit refers to yet.
    writing: Arc<Mutex<HashSet<FileId>>>,
    /// Whether the mark is there that says so to the next opening.
    marked: Mutex<bool>,
    /// Directories of object files, by their first byte, whose names are known to be durable.
    directories: Mutex<HashSet<u8>>,
    /// Whether an earlier run may have left object files behind that nothing refers to.
    left_behind: AtomicBool,
    /// The file system has said that the kernel does not verify files for us.
    unprotected: AtomicBool,
}

/// An object file on its way.
pub(crate) struct Started {
    pub id: FileId,
    pub file: Arc<dyn File>,
    pub path: PathBuf,
    pub writing: Writing,
}

/// Says that an object file is not left behind, as long as no commit refers to it.
pub(crate) struct Writing {
    id: FileId,
    writing: Arc<Mutex<HashSet<FileId>>>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.writing.lock().remove(&self.id);
    }
}

impl Blobs {
    pub fn new(layout: Layout) -> Self {
        let marked = layout.fs.exists(&layout.writing());
        Self {
            layout,
            open: Mutex::new(HashMap::new()),
            writing: Arc::default(),
            marked: Mutex::new(marked),
            directories: Mutex::default(),
            left_behind: AtomicBool::new(marked),
            unprotected: AtomicBool::new(false),
        }
    }

    /// Object files that no commit refers to yet.
    pub fn being_written(&self) -> Vec<FileId> {
        self.writing.lock().iter().copied().collect()
    }

    /// Whether an earlier run may have left object files behind that nothing refers to.
    pub fn left_behind(&self) -> bool {
        self.left_behind.load(Ordering::Acquire)
    }

    /// Nothing is left behind of earlier runs any more.
    pub fn tidied(&self) {
        self.left_behind.store(false, Ordering::Release);
    }

    /// The end of a run: if nothing is left behind, the next one need not look for it.
    pub fn close(&self) -> Result<()> {
        let mut marked = self.marked.lock();
        if *marked && !self.left_behind() && self.writing.lock().is_empty() {
            let path = self.layout.writing();
            self.layout.fs.remove(&path).context("remove", &path)?;
            *marked = false;
        }
        Ok(())
    }

    /// Lets go of a file that was removed: an open one keeps its bytes.
    pub fn forget(&self, id: FileId) {
        self.open.lock().remove(&id);
    }

    /// Where a file is.
    pub fn path(&self, id: FileId) -> PathBuf {
        if is_object(id) {
            let hex = id.to_string();
            self.layout.objects().join(&hex[..2]).join(&hex)
        } else {
            segment_path(&self.layout.log(), id)
        }
    }

    /// The open file.
    pub fn file(&self, id: FileId) -> Result<Arc<dyn File>> {
        if let Some(file) = self.open.lock().get(&id) {
            return Ok(Arc::clone(file));
        }
        let path = self.path(id);
        let file = self.layout.fs.open(&path, Access::Read).map_err(|e| {
            if e.kind() == std::io::ErrorKind::NotFound {
                Error::corrupt(format!(
                    "{} is missing, although stored data refers to it",
                    path.display()
                ))
            } else {
                Error::io("open", &path, &e)
            }
        })?;
        let file = if is_object(id) {
            file
        } else {
            self.translated(file, id, &path)?
        };
        let mut open = self.open.lock();
        if open.len() >= MAX_OPEN {
            open.clear();
        }
        open.insert(id, Arc::clone(&file));
        Ok(file)
    }

    /// A segment under the offsets that extents name.
    fn translated(&self, file: Arc<dyn File>, id: FileId, path: &Path) -> Result<Arc<dyn File>> {
        let bad = |e: Error| Error::new(e.kind(), format!("{} is damaged: {e}", path.display()));
        let len = file.metadata().context("stat", path)?.len;
        match read_header(&*file, len) {
            Ok((header, Some(compacted))) if header.id == id => {
                Ok(Arc::new(compacted.translated(file).map_err(bad)?))
            }
            // What is damaged of a segment as it was written is no matter here: its runs have checksums.
            _ => Ok(file),
        }
    }

    /// Reads `out.len()` bytes from `from` bytes into the piece, and verifies every block they touch.
    ///
    /// # Errors
    /// `Corrupt`, naming file and offset, if a block does not match its checksum.
    /// Cost: the bytes, rounded to blocks of 16 KiB.
    pub fn read(&self, piece: &Extent, from: u32, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let file = self.file(piece.file)?;
        let start = piece.skip + from;
        let end = start + out.len() as u32;
        let first = start / SUM_BYTES;
        let block_start = first * SUM_BYTES;
        let block_end = (end.div_ceil(SUM_BYTES) * SUM_BYTES).min(piece.length);
        if block_start == start && block_end == end {
            return self.read_blocks(&*file, piece, first, out);
        }
        let mut whole = vec![0; (block_end - block_start) as usize];
        self.read_blocks(&*file, piece, first, &mut whole)?;
        let skip = (start - block_start) as usize;
        out.copy_from_slice(&whole[skip..skip + out.len()]);
        Ok(())
    }

    /// Reads whole blocks from block `first` on, and verifies them.
    fn read_blocks(
        &self,
        file: &dyn File,
        piece: &Extent,
        first: u32,
        out: &mut [u8],
    ) -> Result<()> {
        let start = first * SUM_BYTES;
        file.read_exact_at(out, piece.offset + u64::from(start))
            .map_err(|e| {
                if e.kind() == std::io::ErrorKind::UnexpectedEof {
                    self.damaged(piece, start, "the file is too short")
                } else if e.kind() == std::io::ErrorKind::InvalidData {
                    self.damaged(piece, start, &e.to_string())
                } else if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) {
                    // The disk gives it back no more, or not as it was (fs-verity).
                    self.damaged(piece, start, &format!("it cannot be read: {e}"))
                } else {
                    Error::io("read", &self.path(piece.file), &e)
                }
            })?;
        for (n, block) in (first..).zip(out.chunks(SUM_BYTES as usize)) {
            if piece.sums.get(n as usize) != Some(&crc32c::crc32c(block)) {
                return Err(self.damaged(piece, n * SUM_BYTES, "it does not match its checksum"));
            }
        }
        Ok(())
    }

    fn damaged(&self, piece: &Extent, block: u32, why: &str) -> Error {
        Error::corrupt(format!(
            "{} is damaged in the block at offset {}: {why}",
            self.path(piece.file).display(),
            piece.offset + u64::from(block)
        ))
    }

    /// Starts an object file. It has no meaning until a commit refers to it.
    pub fn create_object(&self, ids: &dyn IdSource) -> Result<Started> {
        let objects = self.layout.objects();
        {
            let mut marked = self.marked.lock();
            if !*marked {
                let path = self.layout.writing();
                self.layout
                    .fs
                    .open(&path, Access::Replace)
                    .context("create", &path)?;
                self.layout.sync_dir(&self.layout.root)?;
                *marked = true;
            }
        }
        let mut id = ids.next().context("make an id in", &objects)?;
        id[8] |= OBJECT_BIT;
        let id = FileId(id);
        self.writing.lock().insert(id);
        let writing = Writing {
            id,
            writing: Arc::clone(&self.writing),
        };
        let path = self.path(id);
        if let Some(dir) = path.parent() {
            // One that is there may be of a run that was killed, or of somebody who is just making it: that
            // its name is durable is known only to who has synced it.
            let mut known = self.directories.lock();
            if !known.contains(&id.0[0]) {
                self.layout.fs.create_dir_all(dir).context("create", dir)?;
                self.layout.sync_dir(&objects)?;
                known.insert(id.0[0]);
            }
        }
        let file = self
            .layout
            .fs
            .open(&path, Access::CreateNew)
            .context("create", &path)?;
        Ok(Started {
            id,
            file,
            path,
            writing,
        })
    }

    /// Removes an object file that no commit refers to.
    pub fn discard(&self, path: &Path) {
        if let Err(error) = self.layout.fs.remove(path) {
            tracing::warn!(path = %path.display(), %error,
                "cannot remove an object file that was not finished; nothing refers to it");
        }
    }

    /// An object file's descriptor, for whoever reads by itself.
    pub fn descriptor(&self, id: FileId) -> Result<std::fs::File> {
        let path = self.path(id);
        self.layout.fs.open_descriptor(&path).context("open", &path)
    }

    /// Makes an object file durable and immutable, and sees to it that it holds what was written. Cost: a sync, and the
    /// file, read once.
    pub fn seal_object(
        &self,
        file: &dyn File,
        path: &std::path::Path,
        written: Written,
    ) -> Result<()> {
        file.seal().context("seal", path)?;
        if !planted(Bug::SkippedObjectSync) {
            file.sync_all().context("sync", path)?;
        }
        if written.of(file).context("read", path)? != written {
            return Err(Error::corrupt(format!(
                "{} does not hold what was just written to it",
                path.display()
            )));
        }
        match path.parent() {
            Some(_) if planted(Bug::SkippedObjectDirectorySync) => Ok(()),
            Some(dir) => self.layout.sync_dir(dir),
            None => Ok(()),
        }
    }

    /// Has the kernel verify whatever is read of a sealed object file, where the file system offers that: also what is
    /// read past us. Nobody may have it open for writing. Cost: the file, read once.
    pub fn protect(&self, path: &std::path::Path) {
        if self.unprotected.load(Ordering::Relaxed) {
            return;
        }
        match self.layout.fs.protect(path) {
            Ok(true) => {}
            Ok(false) => {
                self.unprotected.store(true, Ordering::Relaxed);
                tracing::debug!(path = %path.display(), "the file system offers no fs-verity");
            }
            // It is whole and sealed all the same.
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot protect an object file by fs-verity");
            }
        }
    }
}

/// What was written to a file, in its order, holes as zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Written {
    len: u64,
    sum: u32,
}

impl Written {
    pub fn add(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        self.sum = crc32c::crc32c_append(self.sum, bytes);
    }

    /// What so much of a file, and no more than it has, holds now.
    fn of(self, file: &dyn File) -> std::io::Result<Self> {
        const STEP: usize = 256 << 10;
        let len = file.metadata()?.len;
        if len != self.len {
            return Ok(Self { len, sum: 0 });
        }
        let mut found = Self::default();
        let mut buffer = vec![0; STEP.min(len as usize)];
        while found.len < len {
            let n = ((len - found.len) as usize).min(STEP);
            file.read_exact_at(&mut buffer[..n], found.len)?;
            found.add(&buffer[..n]);
        }
        Ok(found)
    }
}

/// Whether the id is an object file's, not a segment's.
pub(crate) fn is_object(id: FileId) -> bool {
    id.0[8] & OBJECT_BIT != 0
}
