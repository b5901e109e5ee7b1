//! Inodes without a name that somebody may still have open.

use crate::commit::Txn;
use crate::error::{ErrorKind, Result};
use crate::ids::Ino;
use crate::index::keys::{RecordKey, tag, xattrs_of};
use crate::index::records::Inode;

use super::chunk;
use super::space::chunks_between;
use super::types::{Caller, NodeKind};
use super::volume::Volume;

impl Volume {
    /// Removes an inode for good if it has no name left; says whether it did. Call it when nobody has
    /// it open any more. Cost: one read if it has a name; otherwise a commit and its chunks.
    pub fn reap(&self, ino: Ino) -> Result<bool> {
        match self.view()?.inode(ino) {
            Ok(inode) if inode.nlink > 0 => return Ok(false),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::Stale => return Ok(false),
            Err(e) => return Err(e),
        }
        let caller = Caller::default();
        self.shrink_in_steps(&caller, ino, 0)?;
        let mut txn = self.begin(&caller)?;
        let inode = match txn.inode(ino) {
            Ok(inode) if inode.nlink == 0 => inode,
            // It got a name, or was reaped, in between.
            Ok(_) => return Ok(false),
            Err(e) if e.kind() == ErrorKind::Stale => return Ok(false),
            Err(e) => return Err(e),
        };
        erase(&mut txn, ino, &inode)?;
        txn.commit()?;
        Ok(true)
    }

    /// Removes every inode without a name; returns how many. Call it when nobody has anything open:
    /// before a fresh mount and after an unmount. Cost: their number and data.
    pub fn reap_all(&self) -> Result<u64> {
        let orphans = {
            let view = self.view()?;
            let prefix = [tag::ORPHAN];
            let mut scan = view.scan(&prefix, &prefix);
            let mut found = Vec::new();
            while let Some((key, _)) = scan.next()? {
                if let RecordKey::Orphan(ino) = key {
                    found.push(ino);
                }
            }
            found
        };
        let mut reaped = 0;
        for ino in orphans {
            reaped += u64::from(self.reap(ino)?);
        }
        Ok(reaped)
    }
}

/// Removes an inode that has no name, and all that belongs to it, within a transaction.
pub(super) fn erase(txn: &mut Txn<'_>, ino: Ino, inode: &Inode) -> Result<()> {
    if inode.kind == NodeKind::File {
        for n in chunks_between(txn, ino, 0, u64::MAX)? {
            chunk::remove(txn, ino, n)?;
        }
        txn.usage.logical = txn.usage.logical.saturating_sub(inode.size);
    }
    if inode.has_xattrs {
        for key in txn.keys(&xattrs_of(ino), usize::MAX)? {
            txn.delete(key);
        }
    }
    txn.delete(RecordKey::Inode(ino));
    txn.delete(RecordKey::Orphan(ino));
    txn.usage.inodes = txn.usage.inodes.saturating_sub(1);
    Ok(())
}
