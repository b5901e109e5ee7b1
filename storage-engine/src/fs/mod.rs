//! The file operations of the engine, behind one small trait.
//!
//! Everything the engine itself stores (the log, object files, `store.json`, marks) goes through
//! [`FileSystem`], so that a test can put one in the place of the real one that fails, tears writes, or
//! forgets what was not synced. RocksDB keeps its own files, the lock belongs to the process, and what is
//! imported is read from where it is: they do not.

mod real;
mod verity;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use real::RealFileSystem;

use crate::planted::{Bug, planted};

/// How to open a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// To read one that exists.
    Read,
    /// To read and write one that exists.
    Write,
    /// To read and write one that must not exist yet.
    CreateNew,
    /// To read and write an empty one, whether it exists or not.
    Replace,
}

/// What a file system says about a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// Length in bytes.
    pub len: u64,
    /// Bytes that it takes on the disk.
    pub stored: u64,
    /// Whether the permissions let anybody write.
    pub writable: bool,
    /// Whether it is a directory.
    pub directory: bool,
}

/// Where the engine's files are. Nothing is durable before it is synced: bytes by [`File::sync_data`],
/// names by [`sync_dir`](Self::sync_dir) of the directory they stand in.
pub trait FileSystem: fmt::Debug + Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>>;

    /// Opens a file for somebody who is given its descriptor (a kernel that reads by itself).
    fn open_descriptor(&self, path: &Path) -> io::Result<std::fs::File>;

    /// What is known about a path.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;

    /// Names in a directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<std::ffi::OsString>>;

    /// Makes a directory, and those above it; nothing if it is there.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Gives a file another name, in place of the file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Has the kernel verify whatever anybody reads of a sealed file that nobody has open for writing; false if this
    /// file system does not offer that. Cost: the file, read once.
    fn protect(&self, path: &Path) -> io::Result<bool> {
        let _ = path;
        Ok(false)
    }

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Whether something is there.
    fn exists(&self, path: &Path) -> bool {
        self.metadata(path).is_ok()
    }

    /// The whole content of a file. For small ones.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, Access::Read)?;
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// An open file. Safe to share between threads.
pub trait File: fmt::Debug + Send + Sync {
    /// Reads at an offset; fewer bytes than asked for at the end of the file, or at the whim of the system.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at an offset; may take fewer bytes than given.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes the content and the length durable.
    fn sync_data(&self) -> io::Result<()>;

    /// The same, and the permissions.
    fn sync_all(&self) -> io::Result<()>;

    /// Cuts the file off, or makes it longer by zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Takes space on the disk up to `len`; the file becomes as long.
    fn reserve(&self, len: u64) -> io::Result<()>;

    /// Gives whole blocks back: they read as zeros then. The length stays.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Whether nothing is stored in `[from, to)`.
    fn is_hole(&self, from: u64, to: u64) -> bool;

    /// Takes everybody's permission to write away; who has it open writes on.
    fn seal(&self) -> io::Result<()>;

    /// What is known about it.
    fn metadata(&self) -> io::Result<Metadata>;

    /// Reads exactly so many bytes; `UnexpectedEof` if there are fewer.
    fn read_exact_at(&self, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !out.is_empty() {
            match self.read_at(out, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    out = &mut out[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Writes all the bytes, in as many turns as that takes.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    bytes = &bytes[n..];
                    offset += n as u64;
                    if planted(Bug::ShortWriteAccepted) {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
