//! Reading data.

use crate::blobs::Blobs;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Ino;
use crate::index::keys::RecordKey;
use crate::index::records::{CHUNK_BYTES, Chunk, Inode, NO_OBJECT, Record};

use super::types::NodeKind;
use super::volume::{View, Volume};

/// Longest read in one call in bytes.
const MAX_READ: usize = 64 << 20;

impl Volume {
    /// Reads up to `len` bytes (64 MiB at most) from `offset`; fewer only at the end of the file. Every
    /// block read is verified. Cost: one index read for each 128 KiB, and the bytes.
    ///
    /// # Errors
    /// `IsADirectory`, `Stale`, `Corrupt`.
    pub fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<Vec<u8>> {
        let view = self.view()?;
        let inode = view.inode(ino)?;
        check_file(&inode)?;
        if offset >= inode.size {
            return Ok(Vec::new());
        }
        let mut out = vec![0; (len.min(MAX_READ) as u64).min(inode.size - offset) as usize];
        view.read_into(ino, offset, &mut out)?;
        Ok(out)
    }

    /// The sealed object file that holds exactly this file's bytes, if there is one: for passthrough.
    /// Its blocks are not verified when others read it. Cost: one read, one open.
    pub fn sealed_file(&self, ino: Ino) -> Result<Option<std::fs::File>> {
        let view = self.view()?;
        let inode = view.inode(ino)?;
        if inode.object == NO_OBJECT {
            return Ok(None);
        }
        view.files.descriptor(inode.object).map(Some)
    }
}

/// Refuses what has no data.
pub(super) fn check_file(inode: &Inode) -> Result<()> {
    match inode.kind {
        NodeKind::File => Ok(()),
        NodeKind::Directory => Err(Error::new(
            ErrorKind::IsADirectory,
            "a directory has no data",
        )),
        _ => Err(Error::invalid("only a regular file has data here")),
    }
}

impl View<'_> {
    /// Fills `out`, which is all zeros, with the bytes from `offset`; holes stay zeros.
    pub fn read_into(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let (n, from) = (at / CHUNK_BYTES, (at % CHUNK_BYTES) as u32);
            let len = (out.len() - done).min((CHUNK_BYTES - u64::from(from)) as usize);
            let seen = self.get(&RecordKey::Chunk(ino, n as u32))?;
            if let Some(Record::Chunk(chunk)) = seen.map(|s| s.record) {
                read_chunk(self.files, &chunk, from, &mut out[done..done + len])
                    .map_err(|e| self.affects(ino, e))?;
            }
            done += len;
        }
        Ok(())
    }

    /// Adds to a damage report which file it hits.
    fn affects(&self, ino: Ino, error: Error) -> Error {
        if error.kind() != ErrorKind::Corrupt {
            return error;
        }
        let path = self.path_of(ino).map_or_else(
            |_| format!("inode {ino}"),
            |p| String::from_utf8_lossy(&p).into_owned(),
        );
        Error::corrupt(format!("{path} cannot be read: {error}"))
    }
}

/// Fills `out`, which is all zeros, with the bytes from `from` of a chunk.
pub(crate) fn read_chunk(files: &Blobs, chunk: &Chunk, from: u32, out: &mut [u8]) -> Result<()> {
    match chunk {
        Chunk::Inline { bytes, .. } => {
            let start = (from as usize).min(bytes.len());
            let n = (bytes.len() - start).min(out.len());
            out[..n].copy_from_slice(&bytes[start..start + n]);
            Ok(())
        }
        Chunk::Extents(extents) => {
            let end = from + out.len() as u32;
            for e in extents {
                let (a, b) = (e.at.max(from), (e.at + e.take).min(end));
                if a < b {
                    files.read(
                        e,
                        a - e.at,
                        &mut out[(a - from) as usize..(b - from) as usize],
                    )?;
                }
            }
            Ok(())
        }
    }
}
