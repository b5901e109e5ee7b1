//! The file system of the machine.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use super::{Access, File, FileSystem, Metadata};

/// The file system of the machine. Cost: one call of the kernel for each operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFileSystem;

#[derive(Debug)]
struct RealFile(fs::File);

impl From<fs::Metadata> for Metadata {
    fn from(meta: fs::Metadata) -> Self {
        // Whatever the file system's block is.
        const UNIT: u64 = 512;
        Self {
            len: meta.len(),
            stored: meta.blocks() * UNIT,
            writable: meta.permissions().mode() & 0o222 != 0,
            directory: meta.is_dir(),
        }
    }
}

impl FileSystem for RealFileSystem {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let mut how = fs::File::options();
        how.read(true);
        match access {
            Access::Read => &mut how,
            Access::Write => how.write(true),
            Access::CreateNew => how.write(true).create_new(true),
            Access::Replace => how.write(true).create(true).truncate(true),
        };
        Ok(Arc::new(RealFile(how.open(path)?)))
    }

    fn open_descriptor(&self, path: &Path) -> io::Result<fs::File> {
        fs::File::open(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        fs::metadata(path).map(Into::into)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
        fs::read_dir(dir)?
            .map(|entry| entry.map(|e| e.file_name()))
            .collect()
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn protect(&self, path: &Path) -> io::Result<bool> {
        super::verity::enable(&fs::File::open(path)?)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }
}

impl File for RealFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        Ok(fallocate(&self.0, FallocateFlags::empty(), 0, len)?)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.0, flags, offset, len)?)
    }

    fn is_hole(&self, from: u64, to: u64) -> bool {
        match seek(&self.0, SeekFrom::Data(from)) {
            Ok(data) => data >= to,
            Err(e) => e == rustix::io::Errno::NXIO,
        }
    }

    fn seal(&self) -> io::Result<()> {
        self.0.set_permissions(fs::Permissions::from_mode(0o400))
    }

    fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata().map(Into::into)
    }
}
