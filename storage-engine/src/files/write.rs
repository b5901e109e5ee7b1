//! Writing data.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::Ino;
use crate::index::records::{CHUNK_BYTES, INLINE_BYTES, MAX_FILE_BYTES, NO_OBJECT};

use super::attr::kill_priv;
use super::chunk;
use super::read::check_file;
use super::types::{Caller, NodeKind, WriteOptions};
use super::volume::Volume;

/// Longest write in one call in bytes: it is one frame.
const MAX_WRITE: usize = 32 << 20;
/// A copy inside a volume goes on in commits of so many bytes.
const COPY_STEP: u64 = 1 << 20;

impl Volume {
    /// Writes at an offset, extending the file if needed; all of it (32 MiB at most) or nothing. Not
    /// durable until synced. Cost: one commit: the bytes once, and one index row for each 128 KiB; a
    /// chunk of many small pieces is written again as a whole now and then.
    ///
    /// # Errors
    /// `NoSpace`, `QuotaExceeded`, `FileTooLarge`, `ReadOnly`, `IsADirectory`, `Stale`.
    pub fn write(
        &self,
        caller: &Caller,
        ino: Ino,
        offset: u64,
        data: &[u8],
        options: WriteOptions,
    ) -> Result<usize> {
        if data.len() > MAX_WRITE {
            return Err(Error::invalid(format!(
                "one write may have {MAX_WRITE} bytes"
            )));
        }
        let end = end_of(offset, data.len() as u64)?;
        // Hashing takes longer than anything else here: it is done before the locks are taken. It holds
        // if the frame's data turns out to be exactly these bytes.
        let hash = (end > INLINE_BYTES && !data.is_empty()).then(|| *blake3::hash(data).as_bytes());
        let mut txn = self.begin(caller)?;
        let mut inode = txn.inode(ino)?;
        check_file(&inode)?;
        let size = inode.size.max(end);
        let before = txn.usage.allocated;
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (n, from) = (at / CHUNK_BYTES, (at % CHUNK_BYTES) as u32);
            let len = (data.len() - done).min((CHUNK_BYTES - u64::from(from)) as usize);
            chunk::write(&mut txn, ino, n as u32, from, &data[done..done + len], size)?;
            done += len;
        }
        if let Some(hash) = hash
            && txn.data_is(data)
        {
            txn.set_data_hash(hash);
        }
        inode.allocated = (inode.allocated + txn.usage.allocated).saturating_sub(before);
        // A write of nothing changes nothing, not even the end of the file.
        if !data.is_empty() {
            txn.usage.logical += size - inode.size;
            inode.size = size;
            inode.object = NO_OBJECT;
            if !options.keep_mtime {
                inode.mtime = txn.now();
                inode.ctime = txn.now();
            }
            if options.kill_priv {
                kill_priv(&mut inode);
            }
            txn.put_inode(ino, inode);
            txn.check_quota()?;
        }
        txn.answer(caller.request, Some(ino), data.len() as u64);
        txn.commit()?;
        Ok(data.len())
    }

    /// Copies bytes between files of the volume without a way through the caller; holes are copied as
    /// zeros. Returns how many, fewer at the end of the source. Goes on in steps of 1 MiB, each of them
    /// atomic. Cost: the bytes.
    pub fn copy_range(
        &self,
        caller: &Caller,
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        len: u64,
    ) -> Result<u64> {
        end_of(to_offset, len.min(MAX_FILE_BYTES))?;
        if from == to
            && from_offset < to_offset.saturating_add(len)
            && to_offset < from_offset.saturating_add(len)
        {
            return Err(Error::invalid("the ranges overlap"));
        }
        let source = self.attr(from)?;
        if source.kind != NodeKind::File || self.attr(to)?.kind != NodeKind::File {
            return Err(Error::invalid("only bytes of regular files are copied"));
        }
        if self.read_only() {
            return Err(Error::new(ErrorKind::ReadOnly, "the volume is read-only"));
        }
        // Bounded once: a copy within one file must not follow its own growth.
        let len = len.min(source.size.saturating_sub(from_offset));
        let step_caller = Caller {
            request: None,
            ..*caller
        };
        let mut done = 0;
        while done < len {
            let step = (len - done).min(COPY_STEP);
            let bytes = self.read(from, from_offset.saturating_add(done), step as usize)?;
            if bytes.is_empty() {
                break;
            }
            match self.write(
                &step_caller,
                to,
                to_offset + done,
                &bytes,
                WriteOptions::default(),
            ) {
                Ok(n) => done += n as u64,
                Err(e) if done == 0 => return Err(e),
                // What was copied is copied: the caller sees the error when it goes on.
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

/// Where a range ends; refuses what no file can hold.
pub(super) fn end_of(offset: u64, len: u64) -> Result<u64> {
    offset
        .checked_add(len)
        .filter(|end| *end <= MAX_FILE_BYTES)
        .ok_or_else(|| {
            Error::new(
                ErrorKind::FileTooLarge,
                format!("a file may have {MAX_FILE_BYTES} bytes"),
            )
        })
}
