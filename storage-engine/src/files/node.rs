//! Making, linking and unlinking nodes.

use crate::commit::Txn;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Ino;
use crate::index::keys::{RecordKey, backlinks_of};
use crate::index::records::{Inode, NO_OBJECT, Record};

use super::attr::{attr_of, no_entry};
use super::names;
use super::types::{Attr, Caller, NewNode, NodeKind};
use super::volume::Volume;

const SET_GID: u32 = 0o2000;
/// As many links as other file systems allow at most.
const MAX_LINKS: u32 = i32::MAX as u32;
/// Longest target of a symbolic link in bytes.
const MAX_TARGET: usize = 4095;

impl Volume {
    /// Makes a node of any kind. A set-group-id directory gives its group. Cost: one commit.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotADirectory`, `NotFound` (the directory was removed), `NameTooLong`,
    /// `QuotaExceeded`.
    pub fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        new: &NewNode<'_>,
    ) -> Result<Attr> {
        names::check(name)?;
        let mut txn = self.begin(caller)?;
        let mut dir = directory(&txn, parent)?;
        if txn
            .get(&RecordKey::Dirent(parent, name.to_vec()))?
            .is_some()
        {
            return Err(exists(name));
        }
        let (ino, mut inode) = make(&mut txn, caller, &dir, new)?;
        inode.parent = parent;
        inode.name = name.to_vec();
        add_entry(&mut txn, parent, &mut dir, name, ino, new.kind);
        let attr = attr_of(ino, &inode);
        txn.put_inode(ino, inode);
        txn.put_inode(parent, dir);
        txn.check_quota()?;
        txn.answer(caller.request, Some(ino), 0);
        txn.commit()?;
        Ok(attr)
    }

    /// Makes a regular file without a name (`O_TMPFILE`), in the place of `parent` as to its group. It
    /// lives until it is reaped or linked. Cost: one commit.
    pub fn create_unlinked(&self, caller: &Caller, parent: Ino, mode: u32) -> Result<Attr> {
        let mut txn = self.begin(caller)?;
        let dir = directory(&txn, parent)?;
        let new = NewNode {
            kind: NodeKind::File,
            mode,
            rdev: 0,
            target: &[],
        };
        let (ino, mut inode) = make(&mut txn, caller, &dir, &new)?;
        inode.nlink = 0;
        inode.parent = parent;
        let attr = attr_of(ino, &inode);
        txn.put_inode(ino, inode);
        txn.put(RecordKey::Orphan(ino), Record::Mark);
        txn.check_quota()?;
        txn.answer(caller.request, Some(ino), 0);
        txn.commit()?;
        Ok(attr)
    }

    /// Gives an inode another name. Cost: one commit.
    ///
    /// # Errors
    /// `AlreadyExists`, `PermissionDenied` (a directory), `TooManyLinks`.
    pub fn link(&self, caller: &Caller, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        names::check(name)?;
        let mut txn = self.begin(caller)?;
        let mut inode = txn.inode(ino)?;
        if inode.kind == NodeKind::Directory {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "a directory cannot have a second name",
            ));
        }
        if inode.nlink >= MAX_LINKS {
            return Err(Error::new(
                ErrorKind::TooManyLinks,
                format!("the file has {MAX_LINKS} links already"),
            ));
        }
        let mut dir = directory(&txn, parent)?;
        if txn
            .get(&RecordKey::Dirent(parent, name.to_vec()))?
            .is_some()
        {
            return Err(exists(name));
        }
        if inode.nlink == 0 {
            // An unnamed file gets its first name.
            if txn.get(&RecordKey::Orphan(ino))?.is_none() {
                return Err(Error::new(ErrorKind::Stale, format!("inode {ino} is gone")));
            }
            txn.delete(RecordKey::Orphan(ino));
            inode.parent = parent;
            inode.name = name.to_vec();
        } else {
            txn.put(
                RecordKey::Backlink {
                    ino,
                    parent,
                    name: name.to_vec(),
                },
                Record::Mark,
            );
        }
        inode.nlink += 1;
        inode.ctime = txn.now();
        add_entry(&mut txn, parent, &mut dir, name, ino, inode.kind);
        let attr = attr_of(ino, &inode);
        txn.put_inode(ino, inode);
        txn.put_inode(parent, dir);
        txn.answer(caller.request, Some(ino), 0);
        txn.commit()?;
        Ok(attr)
    }

    /// Removes a name that is not a directory's. The inode stays, for those who have it open, until it
    /// is reaped. Cost: one commit.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`.
    pub fn unlink(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        names::check(name)?;
        let mut txn = self.begin(caller)?;
        let mut dir = directory(&txn, parent)?;
        let (ino, kind) = entry(&txn, parent, name)?;
        if kind == NodeKind::Directory {
            return Err(Error::new(
                ErrorKind::IsADirectory,
                format!("{:?} is a directory", String::from_utf8_lossy(name)),
            ));
        }
        remove_entry(&mut txn, parent, &mut dir, name, kind);
        drop_link(&mut txn, ino, parent, name)?;
        txn.put_inode(parent, dir);
        txn.answer(caller.request, Some(ino), 0);
        txn.commit()?;
        Ok(())
    }

    /// Removes an empty directory. Cost: one commit.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `NotEmpty`.
    pub fn rmdir(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        names::check(name)?;
        let mut txn = self.begin(caller)?;
        let mut dir = directory(&txn, parent)?;
        let (ino, kind) = entry(&txn, parent, name)?;
        if kind != NodeKind::Directory {
            return Err(not_a_directory(name));
        }
        if txn.inode(ino)?.entries > 0 {
            return Err(not_empty(name));
        }
        remove_entry(&mut txn, parent, &mut dir, name, kind);
        drop_link(&mut txn, ino, parent, name)?;
        txn.put_inode(parent, dir);
        txn.answer(caller.request, Some(ino), 0);
        txn.commit()?;
        Ok(())
    }
}

/// The inode of a directory that still has a place in the tree.
pub(super) fn directory(txn: &Txn<'_>, ino: Ino) -> Result<Inode> {
    let inode = txn.inode(ino)?;
    if inode.kind != NodeKind::Directory {
        return Err(Error::new(
            ErrorKind::NotADirectory,
            format!("inode {ino} is not a directory"),
        ));
    }
    if inode.nlink == 0 {
        return Err(Error::new(ErrorKind::NotFound, "the directory was removed"));
    }
    Ok(inode)
}

/// What a name in a directory stands for.
pub(super) fn entry(txn: &Txn<'_>, parent: Ino, name: &[u8]) -> Result<(Ino, NodeKind)> {
    match txn.get(&RecordKey::Dirent(parent, name.to_vec()))? {
        Some((Record::Dirent { ino, kind }, _)) => Ok((ino, kind)),
        Some(_) => Err(Error::corrupt("a dirent record holds something else")),
        None => Err(no_entry(name)),
    }
}

pub(super) fn make(
    txn: &mut Txn<'_>,
    caller: &Caller,
    dir: &Inode,
    new: &NewNode<'_>,
) -> Result<(Ino, Inode)> {
    if new.target.len() > MAX_TARGET {
        return Err(Error::new(
            ErrorKind::NameTooLong,
            format!(
                "a symbolic link's target may have {MAX_TARGET} bytes, this one has {}",
                new.target.len()
            ),
        ));
    }
    if new.kind == NodeKind::Symlink && (new.target.is_empty() || new.target.contains(&0)) {
        return Err(Error::invalid(
            "a symbolic link needs a target without zero bytes",
        ));
    }
    let inherits_group = dir.mode & SET_GID != 0;
    let is_dir = new.kind == NodeKind::Directory;
    let mode = match new.kind {
        NodeKind::Symlink => 0o777,
        _ => new.mode & 0o7777 & !caller.umask,
    };
    let now = txn.now();
    let ino = txn.take_ino()?;
    txn.usage.inodes += 1;
    let inode = Inode {
        kind: new.kind,
        mode: if is_dir && inherits_group {
            mode | SET_GID
        } else {
            mode
        },
        nlink: if is_dir { 2 } else { 1 },
        uid: caller.uid,
        gid: if inherits_group { dir.gid } else { caller.gid },
        rdev: new.rdev,
        size: 0,
        allocated: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        has_xattrs: false,
        entries: 0,
        parent: Ino::ROOT,
        name: Vec::new(),
        target: if new.kind == NodeKind::Symlink {
            new.target.to_vec()
        } else {
            Vec::new()
        },
        object: NO_OBJECT,
    };
    Ok((ino, inode))
}

/// Puts a name into a directory whose inode the caller writes back.
pub(super) fn add_entry(
    txn: &mut Txn<'_>,
    parent: Ino,
    dir: &mut Inode,
    name: &[u8],
    ino: Ino,
    kind: NodeKind,
) {
    txn.put(
        RecordKey::Dirent(parent, name.to_vec()),
        Record::Dirent { ino, kind },
    );
    dir.entries += 1;
    if kind == NodeKind::Directory {
        dir.nlink += 1;
    }
    touch(txn, dir);
}

/// Takes a name out of a directory whose inode the caller writes back.
pub(super) fn remove_entry(
    txn: &mut Txn<'_>,
    parent: Ino,
    dir: &mut Inode,
    name: &[u8],
    kind: NodeKind,
) {
    txn.delete(RecordKey::Dirent(parent, name.to_vec()));
    dir.entries = dir.entries.saturating_sub(1);
    if kind == NodeKind::Directory {
        dir.nlink = dir.nlink.saturating_sub(1);
    }
    touch(txn, dir);
}

pub(super) fn touch(txn: &Txn<'_>, dir: &mut Inode) {
    dir.mtime = txn.now();
    dir.ctime = txn.now();
}

/// Takes one name away from an inode; the last one makes it an orphan.
pub(super) fn drop_link(txn: &mut Txn<'_>, ino: Ino, parent: Ino, name: &[u8]) -> Result<()> {
    let mut inode = txn.inode(ino)?;
    inode.ctime = txn.now();
    if inode.kind == NodeKind::Directory || inode.nlink <= 1 {
        inode.nlink = 0;
        txn.put(RecordKey::Orphan(ino), Record::Mark);
    } else {
        inode.nlink -= 1;
        forget_name(txn, ino, &mut inode, parent, name)?;
    }
    txn.put_inode(ino, inode);
    Ok(())
}

/// Removes (parent, name) from where an inode says it is named; another name takes the first place.
pub(super) fn forget_name(
    txn: &mut Txn<'_>,
    ino: Ino,
    inode: &mut Inode,
    parent: Ino,
    name: &[u8],
) -> Result<()> {
    if inode.parent != parent || inode.name != name {
        txn.delete(RecordKey::Backlink {
            ino,
            parent,
            name: name.to_vec(),
        });
        return Ok(());
    }
    if let Some(RecordKey::Backlink { parent, name, .. }) =
        txn.keys(&backlinks_of(ino), 1)?.into_iter().next()
    {
        txn.delete(RecordKey::Backlink {
            ino,
            parent,
            name: name.clone(),
        });
        inode.parent = parent;
        inode.name = name;
    }
    Ok(())
}

pub(super) fn exists(name: &[u8]) -> Error {
    Error::new(
        ErrorKind::AlreadyExists,
        format!("{:?} exists already", String::from_utf8_lossy(name)),
    )
}

pub(super) fn not_a_directory(name: &[u8]) -> Error {
    Error::new(
        ErrorKind::NotADirectory,
        format!("{:?} is not a directory", String::from_utf8_lossy(name)),
    )
}

pub(super) fn not_empty(name: &[u8]) -> Error {
    Error::new(
        ErrorKind::NotEmpty,
        format!("{:?} is not empty", String::from_utf8_lossy(name)),
    )
}
