//! From requests to the engine's `Volume`: one call each, no logic of a file system here.
//!
//! What is the adapter's: which features each mode uses (answers of ENOSYS that the kernel remembers), the entries
//! `.` and `..`, and that a request which is sent again after a takeover is answered from the engine's memory of it
//! instead of being applied twice.

use storage_engine::{
    AllocateMode, Answer, Attr, Caller, ErrorKind, Ino, NewNode, NodeKind, RenameMode, RequestId,
    Seek, Volume, WriteOptions, XattrMode,
};

use super::abi::{self, fopen};
use super::backing::Backings;
use super::convert;
use super::errno::Errno;
use super::known::Known;
use super::negotiate::{Mode, Negotiated};
use super::reply::{Listing, Reply};
use super::request::{Operation, ReadDir, Request};
use super::view::View;

/// Serves one mount from one volume.
pub struct Adapter {
    volume: Volume,
    connection: u64,
    mode: Mode,
    known: Known,
    backings: Option<Backings>,
    view: View,
}

/// What an adapter is made of.
pub struct Parts {
    /// The timeline or cutoff shown.
    pub volume: Volume,
    /// Random number of the mount, the same for every process that serves it.
    pub connection: u64,
    /// Mode of the mount.
    pub mode: Mode,
    /// Outcome of INIT.
    pub negotiated: Negotiated,
    /// Whether another process has served this mount before.
    pub taken_over: bool,
    /// Files passed through; `None` when the mount has no passthrough.
    pub backings: Option<Backings>,
    /// How attributes are shown.
    pub view: View,
}

type Outcome = Result<Reply, Errno>;

const NOT_SUPPORTED: Errno = Errno(libc::ENOSYS);

impl Adapter {
    /// An adapter.
    pub fn new(parts: Parts) -> Adapter {
        let usable = parts.negotiated.passthrough() && parts.volume.read_only();
        Adapter {
            known: Known::new(parts.taken_over),
            volume: parts.volume,
            connection: parts.connection,
            mode: parts.mode,
            backings: parts.backings.filter(|_| usable),
            view: parts.view,
        }
    }

    /// The volume.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The inodes the kernel knows.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Answers one request.
    pub fn handle(&self, request: &Request<'_>) -> Reply {
        let reply = self.dispatch(request).unwrap_or_else(Reply::Failed);
        tracing::trace!(
            operation = request.operation.name(),
            node = request.node,
            unique = request.unique,
            ?reply,
            "serves"
        );
        reply
    }

    fn dispatch(&self, request: &Request<'_>) -> Outcome {
        let node = Ino(request.node);
        match request.operation {
            Operation::Lookup { name } => self.lookup(node, name),
            Operation::Forget { count } => Ok(self.forget([(request.node, count)])),
            Operation::BatchForget { items } => Ok(self.forget(items)),
            Operation::GetAttr => Ok(Reply::of(&convert::attr_out(&self.attr(node)?))),
            Operation::Statx { .. } => Ok(Reply::of(&convert::statx_out(&self.attr(node)?))),
            Operation::SetAttr(ref change) => self.set_attr(request, node, change),
            Operation::ReadLink => Ok(Reply::Data(self.volume.read_link(node)?)),
            Operation::SymLink { name, target } => self.make(
                request,
                name,
                &NewNode {
                    kind: NodeKind::Symlink,
                    mode: 0o777,
                    rdev: 0,
                    target,
                },
            ),
            Operation::MkNod { mode, rdev, name } => {
                let kind = convert::kind_of_mode(mode).ok_or(Errno(libc::EINVAL))?;
                self.make(
                    request,
                    name,
                    &NewNode {
                        kind,
                        mode: mode & 0o7777,
                        rdev,
                        target: b"",
                    },
                )
            }
            Operation::MkDir { mode, name } => self.make(
                request,
                name,
                &NewNode {
                    kind: NodeKind::Directory,
                    mode: mode & 0o7777,
                    rdev: 0,
                    target: b"",
                },
            ),
            Operation::Unlink { name } => {
                self.remove(request, |caller| self.volume.unlink(caller, node, name))
            }
            Operation::RmDir { name } => {
                self.remove(request, |caller| self.volume.rmdir(caller, node, name))
            }
            Operation::Rename {
                new_parent,
                flags,
                name,
                new_name,
            } => {
                let mode = match flags {
                    0 => RenameMode::Replace,
                    libc::RENAME_NOREPLACE => RenameMode::NoReplace,
                    libc::RENAME_EXCHANGE => RenameMode::Exchange,
                    _ => return Err(Errno(libc::EINVAL)),
                };
                self.remove(request, |caller| {
                    self.volume
                        .rename(caller, node, name, Ino(new_parent), new_name, mode)
                })
            }
            Operation::Link { node: linked, name } => {
                let attr = match self.answered(request)? {
                    Some(answer) => self.answered_attr(answer)?,
                    None => self
                        .volume
                        .link(&self.caller(request), Ino(linked), node, name)?,
                };
                Ok(self.entry(&attr))
            }
            Operation::Open { kill_priv, .. } => self.open(request, node, kill_priv),
            Operation::Read { offset, size, .. } => Ok(Reply::Data(self.volume.read(
                node,
                offset,
                size as usize,
            )?)),
            Operation::Write {
                offset,
                flags,
                data,
                ..
            } => self.write(request, node, offset, flags, data),
            Operation::StatFs => Ok(Reply::of(&convert::stat_fs(&self.volume.stat_fs()?))),
            Operation::Release { handle } => Ok(self.release(handle)),
            Operation::Fsync { .. } | Operation::FsyncDir => self.done(self.volume.fsync(node)),
            Operation::SyncFs => self.done(self.volume.sync()),
            Operation::SetXattr { flags, name, value } => {
                self.set_xattr(request, node, flags, name, value)
            }
            Operation::GetXattr { size, name } => {
                supported(name)?;
                Ok(Reply::sized_value(self.volume.xattr(node, name)?, size))
            }
            Operation::ListXattr { size } => {
                let names = self.volume.xattrs(node)?;
                let list = names
                    .iter()
                    .flat_map(|name| name.iter().copied().chain([0]))
                    .collect();
                Ok(Reply::sized_value(list, size))
            }
            Operation::RemoveXattr { name } => {
                supported(name)?;
                self.once(request, |caller| {
                    self.volume.remove_xattr(caller, node, name)
                })
            }
            Operation::ReadDir(range) => self.read_dir(node, range),
            Operation::ReadDirPlus(range) => self.read_dir_plus(node, range),
            Operation::Create { mode, name, .. } => self.create(request, name, mode),
            Operation::TmpFile { mode, .. } => self.create_unlinked(request, node, mode),
            Operation::Fallocate {
                offset,
                length,
                mode,
            } => self.allocate(request, node, offset, length, mode),
            Operation::Lseek { offset, whence } => self.seek(node, offset, whence),
            Operation::CopyFileRange {
                from_offset,
                to,
                to_offset,
                length,
                wide,
            } => self.copy(
                request,
                (node, from_offset),
                (Ino(to), to_offset),
                length,
                wide,
            ),
            Operation::Interrupt { .. } => Ok(Reply::Silent),
            Operation::Destroy => Ok(Reply::Empty),
            // The kernel takes ENOSYS once and never asks again: directories need no handle, a close has nothing to
            // flush here, and permissions are checked by the kernel.
            Operation::OpenDir | Operation::ReleaseDir | Operation::Flush | Operation::Access => {
                Err(NOT_SUPPORTED)
            }
            Operation::Init { .. } => Err(Errno(libc::EIO)),
            Operation::Unknown { .. } => Err(NOT_SUPPORTED),
        }
    }

    /// Attributes as they are shown.
    fn attr(&self, node: Ino) -> storage_engine::Result<Attr> {
        Ok(self.view.show(self.volume.attr(node)?))
    }

    fn caller(&self, request: &Request<'_>) -> Caller {
        let id = RequestId {
            connection: self.connection,
            unique: request.unique,
        };
        Caller {
            uid: request.uid,
            gid: request.gid,
            umask: 0,
            request: Some(id),
        }
    }

    /// What this very request was answered before, if it is sent again and had been applied.
    fn answered(&self, request: &Request<'_>) -> Result<Option<Answer>, Errno> {
        if !request.resent {
            return Ok(None);
        }
        Ok(self.volume.answered(RequestId {
            connection: self.connection,
            unique: request.unique,
        })?)
    }

    fn answered_attr(&self, answer: Answer) -> Result<Attr, Errno> {
        Ok(self.volume.attr(answer.ino.ok_or(Errno(libc::EIO))?)?)
    }

    /// Applies a change that has nothing to answer, unless it was applied before.
    fn once(
        &self,
        request: &Request<'_>,
        change: impl FnOnce(&Caller) -> storage_engine::Result<()>,
    ) -> Outcome {
        if self.answered(request)?.is_none() {
            change(&self.caller(request))?;
        }
        Ok(Reply::Empty)
    }

    /// The same for one that may take an inode's last name.
    fn remove(
        &self,
        request: &Request<'_>,
        change: impl FnOnce(&Caller) -> storage_engine::Result<()>,
    ) -> Outcome {
        self.known.may_orphan();
        self.once(request, change)
    }

    fn done(&self, result: storage_engine::Result<()>) -> Outcome {
        result?;
        Ok(Reply::Empty)
    }

    fn entry(&self, attr: &Attr) -> Reply {
        self.known.add(attr.ino.0);
        Reply::of(&convert::entry(&self.view.show(*attr)))
    }

    fn lookup(&self, parent: Ino, name: &[u8]) -> Outcome {
        // The kernel asks for "." when it has only a node id (a file handle kept by somebody).
        let found = if name == b"." {
            self.volume.attr(parent)
        } else {
            self.volume.lookup(parent, name)
        };
        match found {
            Ok(attr) => Ok(self.entry(&attr)),
            Err(error) if error.kind() == ErrorKind::NotFound && name != b"." => {
                Ok(Reply::of(&convert::absent()))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn forget(&self, items: impl IntoIterator<Item = (u64, u64)>) -> Reply {
        for (node, count) in items {
            if self.known.forget(node, count)
                && self.known.has_orphans()
                && !self.volume.read_only()
            {
                // Nothing waits for the outcome: an inode left behind is reaped at the next mount.
                if let Err(error) = self.volume.reap(Ino(node)) {
                    tracing::debug!(node, %error, "an unlinked inode cannot be reaped yet");
                }
            }
        }
        Reply::Silent
    }

    fn set_attr(&self, request: &Request<'_>, node: Ino, from: &abi::SetAttrIn) -> Outcome {
        let attr = match self.answered(request)? {
            Some(_) => self.volume.attr(node)?,
            None => self.volume.set_attr(
                &self.caller(request),
                node,
                &self.view.change(convert::change(from)),
            )?,
        };
        Ok(Reply::of(&convert::attr_out(&self.view.show(attr))))
    }

    fn make_attr(
        &self,
        request: &Request<'_>,
        name: &[u8],
        new: &NewNode<'_>,
    ) -> Result<Attr, Errno> {
        match self.answered(request)? {
            Some(answer) => self.answered_attr(answer),
            None => Ok(self
                .volume
                .create(&self.caller(request), Ino(request.node), name, new)?),
        }
    }

    fn make(&self, request: &Request<'_>, name: &[u8], new: &NewNode<'_>) -> Outcome {
        Ok(self.entry(&self.make_attr(request, name, new)?))
    }

    fn create(&self, request: &Request<'_>, name: &[u8], mode: u32) -> Outcome {
        if self.mode == Mode::Workspace {
            // The kernel makes files by MKNOD from then on, and needs no RELEASE for each.
            return Err(NOT_SUPPORTED);
        }
        let new = NewNode {
            kind: NodeKind::File,
            mode: mode & 0o7777,
            rdev: 0,
            target: b"",
        };
        Ok(self.opened_entry(&self.make_attr(request, name, &new)?))
    }

    fn create_unlinked(&self, request: &Request<'_>, parent: Ino, mode: u32) -> Outcome {
        self.known.may_orphan();
        let attr = match self.answered(request)? {
            Some(answer) => self.answered_attr(answer)?,
            None => self
                .volume
                .create_unlinked(&self.caller(request), parent, mode & 0o7777)?,
        };
        Ok(self.opened_entry(&attr))
    }

    fn opened_entry(&self, attr: &Attr) -> Reply {
        self.known.add(attr.ino.0);
        Reply::of_both(&convert::entry(&self.view.show(*attr)), &cached_open())
    }

    fn open(&self, request: &Request<'_>, node: Ino, kill_priv: bool) -> Outcome {
        if self.mode == Mode::Workspace {
            return Err(NOT_SUPPORTED);
        }
        if kill_priv {
            let change = storage_engine::SetAttr {
                kill_priv: true,
                ..Default::default()
            };
            self.volume.set_attr(&self.caller(request), node, &change)?;
        }
        if let Some(backings) = &self.backings {
            let opened = backings.open(node.0, || {
                self.volume.sealed_file(node).map_err(Errno::from)
            })?;
            if let Some(opened) = opened {
                return Ok(Reply::of(&abi::OpenOut {
                    fh: opened.handle,
                    open_flags: fopen::PASSTHROUGH | fopen::NOFLUSH,
                    backing_id: opened.id as i32,
                }));
            }
        }
        Ok(Reply::of(&cached_open()))
    }

    fn release(&self, handle: u64) -> Reply {
        if let Some(backings) = &self.backings {
            backings.release(handle);
        }
        Reply::Empty
    }

    fn write(
        &self,
        request: &Request<'_>,
        node: Ino,
        offset: u64,
        flags: u32,
        data: &[u8],
    ) -> Outcome {
        let written = match self.answered(request)? {
            Some(answer) => answer.size,
            None => {
                let cached = flags & abi::WRITE_CACHE != 0;
                let options = WriteOptions {
                    kill_priv: flags & abi::WRITE_KILL_SUIDGID != 0,
                    // A write of the page cache comes later than the process's; the kernel sends the time itself.
                    keep_mtime: cached,
                };
                self.volume
                    .write(&self.caller(request), node, offset, data, options)
                    .map_err(|error| match Errno::from(error) {
                        // The process learns of it at its close, where the kernel knows "no space" and else only "input/output
                        // error", which would say that the store is broken.
                        Errno(libc::EDQUOT) if cached => Errno(libc::ENOSPC),
                        errno => errno,
                    })? as u64
            }
        };
        Ok(Reply::of(&abi::WriteOut {
            size: written as u32,
            padding: 0,
        }))
    }

    fn set_xattr(
        &self,
        request: &Request<'_>,
        node: Ino,
        flags: u32,
        name: &[u8],
        value: &[u8],
    ) -> Outcome {
        supported(name)?;
        let mode = match flags as i32 {
            0 => XattrMode::Set,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(Errno(libc::EINVAL)),
        };
        self.once(request, |caller| {
            self.volume.set_xattr(caller, node, name, value, mode)
        })
    }

    fn allocate(
        &self,
        request: &Request<'_>,
        node: Ino,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> Outcome {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE as u32 != 0;
        let mode = match (mode & !(libc::FALLOC_FL_KEEP_SIZE as u32)) as i32 {
            0 => AllocateMode::Reserve { keep_size },
            libc::FALLOC_FL_PUNCH_HOLE => AllocateMode::Punch,
            libc::FALLOC_FL_ZERO_RANGE => AllocateMode::Zero { keep_size },
            _ => return Err(Errno(libc::EOPNOTSUPP)),
        };
        self.once(request, |caller| {
            self.volume.allocate(caller, node, mode, offset, length)
        })
    }

    fn seek(&self, node: Ino, offset: u64, whence: u32) -> Outcome {
        if self.mode == Mode::Workspace {
            // The kernel asks without writing its dirty pages back first, so the engine would take fresh data for a
            // hole, and cp(1) would lose it. Unasked, the kernel takes everything for data: slower, never wrong.
            return Err(NOT_SUPPORTED);
        }
        let kind = match whence as i32 {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return Err(Errno(libc::EINVAL)),
        };
        Ok(Reply::of(&abi::LseekOut {
            offset: self.volume.seek(node, offset, kind)?,
        }))
    }

    fn copy(
        &self,
        request: &Request<'_>,
        from: (Ino, u64),
        to: (Ino, u64),
        length: u64,
        wide: bool,
    ) -> Outcome {
        // The narrow reply has 32 bits for the count.
        let length = if wide {
            length
        } else {
            length.min(u64::from(u32::MAX) & !0xfff)
        };
        let copied = match self.answered(request)? {
            Some(answer) => answer.size,
            None => {
                self.volume
                    .copy_range(&self.caller(request), from.0, from.1, to.0, to.1, length)?
            }
        };
        Ok(match wide {
            true => Reply::of(&abi::CopyFileRangeOut {
                bytes_copied: copied,
            }),
            false => Reply::of(&abi::WriteOut {
                size: copied as u32,
                padding: 0,
            }),
        })
    }

    /// The entries `.` and `..` come first, with the cookies 1 and 2; the engine's cookies are larger.
    fn dots(
        &self,
        node: Ino,
        after: u64,
        mut push: impl FnMut(u64, u64, &[u8]) -> bool,
    ) -> Result<(), Errno> {
        if after < 1 {
            push(node.0, 1, b".");
        }
        if after < 2 {
            let parent = if node == Ino::ROOT {
                node
            } else {
                self.volume.lookup(node, b"..")?.ino
            };
            push(parent.0, 2, b"..");
        }
        Ok(())
    }

    fn read_dir(&self, node: Ino, range: ReadDir) -> Outcome {
        let mut listing = Listing::new(range.size);
        let kind = convert::entry_type(NodeKind::Directory);
        self.dots(node, range.after, |ino, cookie, name| {
            listing.push(ino, cookie, kind, name, None)
        })?;
        let most = range.size as usize / (size_of::<abi::Dirent>() + 8);
        for entry in self
            .volume
            .read_dir(node, engine_cookie(range.after), most)?
        {
            if !listing.push(
                entry.ino.0,
                entry.cookie,
                convert::entry_type(entry.kind),
                &entry.name,
                None,
            ) {
                break;
            }
        }
        Ok(listing.into_reply())
    }

    fn read_dir_plus(&self, node: Ino, range: ReadDir) -> Outcome {
        let mut listing = Listing::new(range.size);
        let kind = convert::entry_type(NodeKind::Directory);
        // A node id of 0 tells the kernel to take the name and leave its caches alone.
        let nothing: abi::EntryOut = bytemuck::Zeroable::zeroed();
        self.dots(node, range.after, |ino, cookie, name| {
            listing.push(ino, cookie, kind, name, Some(&nothing))
        })?;
        let most =
            range.size as usize / (size_of::<abi::EntryOut>() + size_of::<abi::Dirent>() + 8);
        for entry in self
            .volume
            .read_dir(node, engine_cookie(range.after), most)?
        {
            // An entry that went away between the two calls is listed without attributes, as READDIR would.
            let attr = self.attr(entry.ino).ok();
            let plus = attr.as_ref().map_or(nothing, convert::entry);
            if !listing.push(
                entry.ino.0,
                entry.cookie,
                convert::entry_type(entry.kind),
                &entry.name,
                Some(&plus),
            ) {
                break;
            }
            if attr.is_some() {
                self.known.add(entry.ino.0);
            }
        }
        Ok(listing.into_reply())
    }
}

/// Where the engine goes on: the cookies of `.` and `..` are before its first.
fn engine_cookie(after: u64) -> u64 {
    if after <= 2 { 0 } else { after }
}

fn cached_open() -> abi::OpenOut {
    abi::OpenOut {
        fh: 0,
        open_flags: fopen::KEEP_CACHE | fopen::NOFLUSH,
        backing_id: 0,
    }
}

/// POSIX ACLs and other attributes of the `system.` namespace are not offered.
fn supported(name: &[u8]) -> Result<(), Errno> {
    if name.starts_with(b"system.") {
        Err(Errno(libc::EOPNOTSUPP))
    } else {
        Ok(())
    }
}
