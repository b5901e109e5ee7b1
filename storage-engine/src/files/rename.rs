//! Renaming.

use crate::commit::Txn;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Ino;
use crate::index::keys::RecordKey;
use crate::index::records::{Inode, Record};

use super::names;
use super::node::{
    add_entry, directory, drop_link, entry, exists, forget_name, not_a_directory, not_empty,
    remove_entry, touch,
};
use super::types::{Caller, NodeKind, RenameMode};
use super::volume::Volume;

/// A name in a directory.
#[derive(Clone, Copy)]
struct Place<'a> {
    parent: Ino,
    name: &'a [u8],
}

impl Volume {
    /// Moves a name, atomically; what the new name stood for is unlinked, kept (`NoReplace`: an error)
    /// or exchanged. Two names of one inode are left alone. Cost: one commit; moving a directory to
    /// another one also costs the depth of the target.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `NotADirectory`, `IsADirectory`, `NotEmpty`, `InvalidArgument` (a
    /// directory into itself).
    pub fn rename(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        names::check(name)?;
        names::check(new_name)?;
        let mut txn = self.begin(caller)?;
        directory(&txn, parent)?;
        directory(&txn, new_parent)?;
        let from = Place { parent, name };
        let to = Place {
            parent: new_parent,
            name: new_name,
        };
        let (ino, kind) = entry(&txn, parent, name)?;
        let there = match entry(&txn, new_parent, new_name) {
            Ok(there) => Some(there),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        if kind == NodeKind::Directory && parent != new_parent {
            refuse_descent(&txn, ino, new_parent)?;
        }
        match (mode, there) {
            (RenameMode::NoReplace, Some(_)) => return Err(exists(new_name)),
            (RenameMode::Exchange, None) => return Err(super::attr::no_entry(new_name)),
            (RenameMode::Exchange, Some((other, other_kind))) => {
                if other_kind == NodeKind::Directory && parent != new_parent {
                    refuse_descent(&txn, other, parent)?;
                }
                if other != ino {
                    exchange(&mut txn, from, (ino, kind), to, (other, other_kind))?;
                }
            }
            (_, Some((other, _))) if other == ino => {}
            (_, there) => replace(&mut txn, from, (ino, kind), to, there)?,
        }
        txn.answer(caller.request, Some(ino), 0);
        txn.commit()?;
        Ok(())
    }
}

fn replace(
    txn: &mut Txn<'_>,
    from: Place<'_>,
    (ino, kind): (Ino, NodeKind),
    to: Place<'_>,
    there: Option<(Ino, NodeKind)>,
) -> Result<()> {
    if let Some((other, other_kind)) = there {
        match (
            kind == NodeKind::Directory,
            other_kind == NodeKind::Directory,
        ) {
            (true, false) => return Err(not_a_directory(to.name)),
            (false, true) => {
                return Err(Error::new(
                    ErrorKind::IsADirectory,
                    format!("{:?} is a directory", String::from_utf8_lossy(to.name)),
                ));
            }
            (true, true) if txn.inode(other)?.entries > 0 => return Err(not_empty(to.name)),
            _ => {}
        }
        edit(txn, to.parent, |txn, dir| {
            remove_entry(txn, to.parent, dir, to.name, other_kind)
        })?;
        drop_link(txn, other, to.parent, to.name)?;
    }
    edit(txn, from.parent, |txn, dir| {
        remove_entry(txn, from.parent, dir, from.name, kind)
    })?;
    edit(txn, to.parent, |txn, dir| {
        add_entry(txn, to.parent, dir, to.name, ino, kind)
    })?;
    rename_inode(txn, ino, from, to)
}

fn exchange(
    txn: &mut Txn<'_>,
    from: Place<'_>,
    (ino, kind): (Ino, NodeKind),
    to: Place<'_>,
    (other, other_kind): (Ino, NodeKind),
) -> Result<()> {
    // Entry counts stay; only a directory that changes place with something else changes link counts.
    let was_dir = u32::from(kind == NodeKind::Directory);
    let is_dir = u32::from(other_kind == NodeKind::Directory);
    edit(txn, from.parent, |txn, dir| {
        dir.nlink = (dir.nlink + is_dir).saturating_sub(was_dir);
        touch(txn, dir);
    })?;
    edit(txn, to.parent, |txn, dir| {
        dir.nlink = (dir.nlink + was_dir).saturating_sub(is_dir);
        touch(txn, dir);
    })?;
    let dirent = |ino, kind| Record::Dirent { ino, kind };
    txn.put(
        RecordKey::Dirent(from.parent, from.name.to_vec()),
        dirent(other, other_kind),
    );
    txn.put(
        RecordKey::Dirent(to.parent, to.name.to_vec()),
        dirent(ino, kind),
    );
    rename_inode(txn, ino, from, to)?;
    rename_inode(txn, other, to, from)
}

/// Tells an inode its new name.
fn rename_inode(txn: &mut Txn<'_>, ino: Ino, from: Place<'_>, to: Place<'_>) -> Result<()> {
    let mut inode = txn.inode(ino)?;
    inode.ctime = txn.now();
    if inode.parent == from.parent && inode.name == from.name {
        inode.parent = to.parent;
        inode.name = to.name.to_vec();
    } else {
        forget_name(txn, ino, &mut inode, from.parent, from.name)?;
        txn.put(
            RecordKey::Backlink {
                ino,
                parent: to.parent,
                name: to.name.to_vec(),
            },
            Record::Mark,
        );
    }
    txn.put_inode(ino, inode);
    Ok(())
}

fn edit(txn: &mut Txn<'_>, ino: Ino, change: impl FnOnce(&mut Txn<'_>, &mut Inode)) -> Result<()> {
    let mut inode = txn.inode(ino)?;
    change(txn, &mut inode);
    txn.put_inode(ino, inode);
    Ok(())
}

/// Refuses to put a directory below itself.
fn refuse_descent(txn: &Txn<'_>, moved: Ino, target: Ino) -> Result<()> {
    let mut at = target;
    loop {
        if at == moved {
            return Err(Error::invalid("a directory cannot be moved into itself"));
        }
        if at == Ino::ROOT {
            return Ok(());
        }
        at = txn.inode(at)?.parent;
    }
}
