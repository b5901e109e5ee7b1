//! Extended attributes.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::Ino;
use crate::index::keys::{RecordKey, xattrs_of};
use crate::index::records::Record;

use super::types::{Caller, XattrMode};
use super::volume::Volume;

/// Longest name of an attribute in bytes, and its longest value, as in the kernel.
const NAME_MAX: usize = 255;
const VALUE_MAX: usize = 64 << 10;

impl Volume {
    /// Value of an attribute. Cost: one read for an inode without any, two otherwise.
    ///
    /// # Errors
    /// `NoAttribute`, `Stale`.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let view = self.view()?;
        if view.inode(ino)?.has_xattrs
            && let Some(Record::Xattr(value)) = view
                .get(&RecordKey::Xattr(ino, name.to_vec()))?
                .map(|s| s.record)
        {
            return Ok(value);
        }
        Err(no_attribute(name))
    }

    /// Names of all attributes, in byte order. Cost: their number.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let view = self.view()?;
        let mut out = Vec::new();
        if !view.inode(ino)?.has_xattrs {
            return Ok(out);
        }
        let prefix = xattrs_of(ino);
        let mut scan = view.scan(&prefix, &prefix);
        while let Some((key, _)) = scan.next()? {
            if let RecordKey::Xattr(_, name) = key {
                out.push(name);
            }
        }
        Ok(out)
    }

    /// Sets an attribute. Cost: one commit.
    ///
    /// # Errors
    /// `AlreadyExists` (mode `Create`), `NoAttribute` (mode `Replace`), `Range` (name over 255 bytes or
    /// empty), `FileTooLarge` (value over 64 KiB).
    pub fn set_xattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&0) {
            return Err(Error::new(
                ErrorKind::Range,
                format!("an attribute's name has 1 to {NAME_MAX} bytes"),
            ));
        }
        if value.len() > VALUE_MAX {
            return Err(Error::new(
                ErrorKind::FileTooLarge,
                format!("an attribute may have {VALUE_MAX} bytes"),
            ));
        }
        let mut txn = self.begin(caller)?;
        let mut inode = txn.inode(ino)?;
        let key = RecordKey::Xattr(ino, name.to_vec());
        let there = inode.has_xattrs && txn.get(&key)?.is_some();
        match mode {
            XattrMode::Create if there => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("{} is set already", String::from_utf8_lossy(name)),
                ));
            }
            XattrMode::Replace if !there => return Err(no_attribute(name)),
            _ => {}
        }
        inode.has_xattrs = true;
        inode.ctime = txn.now();
        txn.put(key, Record::Xattr(value.to_vec()));
        txn.put_inode(ino, inode);
        txn.answer(caller.request, Some(ino), 0);
        txn.commit()?;
        Ok(())
    }

    /// Removes an attribute. Cost: one commit.
    ///
    /// # Errors
    /// `NoAttribute`.
    pub fn remove_xattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<()> {
        let mut txn = self.begin(caller)?;
        let mut inode = txn.inode(ino)?;
        let key = RecordKey::Xattr(ino, name.to_vec());
        if !inode.has_xattrs || txn.get(&key)?.is_none() {
            return Err(no_attribute(name));
        }
        inode.ctime = txn.now();
        txn.delete(key);
        txn.put_inode(ino, inode);
        txn.answer(caller.request, Some(ino), 0);
        txn.commit()?;
        Ok(())
    }
}

fn no_attribute(name: &[u8]) -> Error {
    Error::new(
        ErrorKind::NoAttribute,
        format!("no attribute {}", String::from_utf8_lossy(name)),
    )
}
