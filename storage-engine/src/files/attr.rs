//! Attributes.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::Ino;
use crate::index::keys::RecordKey;
use crate::index::records::{Inode, Record};

use super::names;
use super::types::{Attr, Caller, NodeKind, SetAttr, SetTime, Time};
use super::volume::{View, Volume};

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// What others see of an inode.
pub(crate) fn attr_of(ino: Ino, i: &Inode) -> Attr {
    Attr {
        ino,
        kind: i.kind,
        size: if i.kind == NodeKind::Symlink {
            i.target.len() as u64
        } else {
            i.size
        },
        allocated: i.allocated,
        mode: i.mode,
        nlink: i.nlink,
        uid: i.uid,
        gid: i.gid,
        rdev: i.rdev,
        atime: i.atime,
        mtime: i.mtime,
        ctime: i.ctime,
        btime: i.btime,
    }
}

/// Clears the set-id bits that a change of data or owner takes away.
pub(super) fn kill_priv(inode: &mut Inode) {
    if inode.kind == NodeKind::File {
        inode.mode &= !SET_UID;
        if inode.mode & GROUP_EXECUTE != 0 {
            inode.mode &= !SET_GID;
        }
    }
}

impl Volume {
    /// The entry `name` of a directory; `..` is its parent. Cost: two reads.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `Stale` (the directory is gone), `NameTooLong`.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        let view = self.view()?;
        let ino = match name {
            b"." => parent,
            b".." => view.inode(parent)?.parent,
            _ => view.entry(parent, name)?.ok_or_else(|| no_entry(name))?,
        };
        Ok(attr_of(ino, &view.inode(ino)?))
    }

    /// Attributes of an inode. Cost: one read.
    pub fn attr(&self, ino: Ino) -> Result<Attr> {
        Ok(attr_of(ino, &self.view()?.inode(ino)?))
    }

    /// Changes attributes. Cost: one commit; a shorter size also costs the chunks cut off.
    pub fn set_attr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr> {
        if let Some(size) = set.size {
            self.shrink_in_steps(caller, ino, size)?;
        }
        let mut txn = self.begin(caller)?;
        let mut inode = txn.inode(ino)?;
        let now = txn.now();
        if let Some(size) = set.size {
            match inode.kind {
                NodeKind::File => {}
                NodeKind::Directory => {
                    return Err(Error::new(
                        ErrorKind::IsADirectory,
                        "a directory has no length to set",
                    ));
                }
                _ => return Err(Error::invalid("only a regular file has a length to set")),
            }
            if size != inode.size {
                self.truncate_in(&mut txn, ino, &mut inode, size)?;
            }
            inode.mtime = now;
        }
        if let Some(mode) = set.mode {
            inode.mode = mode & 0o7777;
        }
        if let Some(uid) = set.uid {
            inode.uid = uid;
        }
        if let Some(gid) = set.gid {
            inode.gid = gid;
        }
        if set.kill_priv {
            kill_priv(&mut inode);
        }
        let time = |t: SetTime| -> Result<Time> {
            match t {
                SetTime::Now => Ok(now),
                SetTime::At(t) if t.nanos < 1_000_000_000 => Ok(t),
                SetTime::At(_) => Err(Error::invalid("nanoseconds must be below 10^9")),
            }
        };
        if let Some(t) = set.atime {
            inode.atime = time(t)?;
        }
        if let Some(t) = set.mtime {
            inode.mtime = time(t)?;
        }
        inode.ctime = match set.ctime {
            Some(t) => time(SetTime::At(t))?,
            None => now,
        };
        let attr = attr_of(ino, &inode);
        txn.put_inode(ino, inode);
        txn.check_quota()?;
        txn.answer(caller.request, Some(ino), 0);
        txn.commit()?;
        Ok(attr)
    }

    /// Target of a symbolic link. Cost: one read.
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        let inode = self.view()?.inode(ino)?;
        if inode.kind != NodeKind::Symlink {
            return Err(Error::invalid("only a symbolic link has a target"));
        }
        Ok(inode.target)
    }

    /// One path of an inode, from the root, with a leading slash; of an unlinked one the last it had.
    /// Cost: one read for each component.
    pub fn path_of(&self, ino: Ino) -> Result<Vec<u8>> {
        self.view()?.path_of(ino)
    }

    /// The inode at a path (slashes separate, symbolic links are not followed). Cost: two reads for each
    /// component.
    pub fn resolve(&self, path: &[u8]) -> Result<Attr> {
        let view = self.view()?;
        let mut ino = Ino::ROOT;
        for name in path
            .split(|b| *b == b'/')
            .filter(|n| !n.is_empty() && *n != b".")
        {
            ino = match name {
                b".." => view.inode(ino)?.parent,
                _ => view.entry(ino, name)?.ok_or_else(|| {
                    Error::not_found(format!(
                        "/{}",
                        String::from_utf8_lossy(path).trim_start_matches('/')
                    ))
                })?,
            };
        }
        Ok(attr_of(ino, &view.inode(ino)?))
    }
}

impl View<'_> {
    /// What a name in a directory stands for.
    pub fn entry(&self, parent: Ino, name: &[u8]) -> Result<Option<Ino>> {
        if name.len() > names::NAME_MAX {
            names::check(name)?;
        }
        match self
            .get(&RecordKey::Dirent(parent, name.to_vec()))?
            .map(|s| s.record)
        {
            Some(Record::Dirent { ino, .. }) => Ok(Some(ino)),
            Some(_) => Err(Error::corrupt("a dirent record holds something else")),
            None => {
                if self.inode(parent)?.kind != NodeKind::Directory {
                    return Err(Error::new(
                        ErrorKind::NotADirectory,
                        format!("inode {parent} is not a directory"),
                    ));
                }
                Ok(None)
            }
        }
    }

    /// See [`Volume::path_of`].
    pub fn path_of(&self, ino: Ino) -> Result<Vec<u8>> {
        /// Deeper than any path that the kernel takes; a damaged store must not make this go round.
        const DEEPEST: usize = 4096;
        let mut names = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let inode = self.inode(at)?;
            names.push(inode.name);
            at = inode.parent;
            if names.len() > DEEPEST {
                return Err(Error::corrupt(format!(
                    "the parents of inode {ino} lead in a circle"
                )));
            }
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(path)
    }
}

pub(super) fn no_entry(name: &[u8]) -> Error {
    Error::not_found(format!("{:?}", String::from_utf8_lossy(name)))
}
