//! Length, holes and preallocation.

use crate::commit::Txn;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Ino;
use crate::index::keys::{RecordKey, chunks_of};
use crate::index::records::{CHUNK_BYTES, Chunk, Inode, NO_OBJECT, Record};

use super::chunk;
use super::read::check_file;
use super::types::{AllocateMode, Caller, NodeKind, Seek};
use super::volume::Volume;
use super::write::end_of;

/// A commit removes at most so many chunks (4 GiB of data); more is cut off in steps.
const STEP_CHUNKS: u64 = 32 << 10;

impl Volume {
    /// `fallocate`: see [`AllocateMode`]. Cost: one commit, and the chunks that it touches.
    pub fn allocate(
        &self,
        caller: &Caller,
        ino: Ino,
        mode: AllocateMode,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        if len == 0 {
            return Err(Error::invalid("the range is empty"));
        }
        let end = end_of(offset, len)?;
        let mut txn = self.begin(caller)?;
        let mut inode = txn.inode(ino)?;
        check_file(&inode)?;
        let before = txn.usage.allocated;
        let (clears, grows) = match mode {
            AllocateMode::Reserve { keep_size } => (false, !keep_size),
            AllocateMode::Punch => (true, false),
            AllocateMode::Zero { keep_size } => (true, !keep_size),
        };
        if clears {
            for n in chunks_between(&txn, ino, offset, end)? {
                let start = u64::from(n) * CHUNK_BYTES;
                let (from, to) = (
                    offset.max(start) - start,
                    end.min(start + CHUNK_BYTES) - start,
                );
                chunk::clear(&mut txn, ino, n, from as u32, (to - from) as u32)?;
            }
            inode.object = NO_OBJECT;
        }
        if grows && end > inode.size {
            txn.usage.logical += end - inode.size;
            inode.size = end;
            inode.object = NO_OBJECT;
        }
        inode.allocated = (inode.allocated + txn.usage.allocated).saturating_sub(before);
        inode.mtime = txn.now();
        inode.ctime = txn.now();
        txn.put_inode(ino, inode);
        txn.check_quota()?;
        txn.answer(caller.request, Some(ino), 0);
        txn.commit()?;
        Ok(())
    }

    /// Offset of the next data or hole at or after `offset`. Cost: the chunks passed.
    ///
    /// # Errors
    /// `NoData` behind the end, or when no data follows.
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64> {
        let view = self.view()?;
        let inode = view.inode(ino)?;
        check_file(&inode)?;
        let nothing = || {
            Error::new(
                ErrorKind::NoData,
                "there is nothing of that kind behind the offset",
            )
        };
        if offset >= inode.size {
            return Err(nothing());
        }
        let first = (offset / CHUNK_BYTES) as u32;
        let mut scan = view.scan(&chunks_of(ino), &RecordKey::Chunk(ino, first).encode());
        // End of the data that touches `offset`, for a hole.
        let mut reached = offset;
        while let Some((key, seen)) = scan.next()? {
            let (RecordKey::Chunk(_, n), Record::Chunk(chunk)) = (key, seen.record) else {
                continue;
            };
            let start = u64::from(n) * CHUNK_BYTES;
            let ranges = match chunk {
                Chunk::Inline { bytes, .. } => vec![(0, bytes.len() as u32)],
                Chunk::Extents(extents) => crate::index::extents::runs(&extents),
            };
            for (from, to) in ranges {
                let (from, to) = (
                    start + u64::from(from),
                    (start + u64::from(to)).min(inode.size),
                );
                if to <= reached {
                    continue;
                }
                match what {
                    Seek::Data if from < inode.size => return Ok(from.max(offset)),
                    Seek::Data => return Err(nothing()),
                    Seek::Hole if from > reached => return Ok(reached),
                    Seek::Hole => reached = to,
                }
            }
        }
        match what {
            Seek::Data => Err(nothing()),
            Seek::Hole => Ok(reached.min(inode.size)),
        }
    }

    /// Cuts so much off a very long file that the rest fits into one commit.
    pub(super) fn shrink_in_steps(&self, caller: &Caller, ino: Ino, size: u64) -> Result<()> {
        loop {
            let mut txn = self.begin(caller)?;
            let mut inode = txn.inode(ino)?;
            if inode.kind != NodeKind::File || inode.size <= size {
                return Ok(());
            }
            // Counting stops where a step is full, so this costs little for ordinary files.
            let from = RecordKey::Chunk(
                ino,
                size.div_ceil(CHUNK_BYTES).min(u64::from(u32::MAX)) as u32,
            );
            if txn
                .keys_from(&chunks_of(ino), &from.encode(), STEP_CHUNKS as usize + 1)?
                .len() as u64
                <= STEP_CHUNKS
            {
                return Ok(());
            }
            let step = inode
                .size
                .saturating_sub(STEP_CHUNKS * CHUNK_BYTES)
                .max(size);
            self.truncate_in(&mut txn, ino, &mut inode, step)?;
            txn.put_inode(ino, inode);
            txn.commit()?;
        }
    }

    /// Sets the length within a transaction; the caller writes the inode back.
    pub(super) fn truncate_in(
        &self,
        txn: &mut Txn<'_>,
        ino: Ino,
        inode: &mut Inode,
        size: u64,
    ) -> Result<()> {
        end_of(size, 0)?;
        let before = txn.usage.allocated;
        if size < inode.size {
            let first = size / CHUNK_BYTES;
            for n in chunks_between(txn, ino, first * CHUNK_BYTES, u64::MAX)? {
                let start = u64::from(n) * CHUNK_BYTES;
                let from = size.saturating_sub(start);
                if from < CHUNK_BYTES {
                    chunk::clear(txn, ino, n, from as u32, (CHUNK_BYTES - from) as u32)?;
                }
            }
            txn.usage.logical = txn.usage.logical.saturating_sub(inode.size - size);
        } else {
            txn.usage.logical += size - inode.size;
        }
        inode.allocated = (inode.allocated + txn.usage.allocated).saturating_sub(before);
        inode.size = size;
        inode.object = NO_OBJECT;
        Ok(())
    }
}

/// Numbers of the chunks that exist and touch `[from, to)`.
pub(super) fn chunks_between(txn: &Txn<'_>, ino: Ino, from: u64, to: u64) -> Result<Vec<u32>> {
    let first = (from / CHUNK_BYTES).min(u64::from(u32::MAX)) as u32;
    let start = RecordKey::Chunk(ino, first).encode();
    let mut out = Vec::new();
    for key in txn.keys_from(&chunks_of(ino), &start, usize::MAX)? {
        if let RecordKey::Chunk(_, n) = key
            && u64::from(n) * CHUNK_BYTES < to
        {
            out.push(n);
        }
    }
    Ok(out)
}
