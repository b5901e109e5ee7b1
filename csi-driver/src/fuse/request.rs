//! Decodes what the kernel wrote: bytes to a typed request. No bytes make it panic or read outside them; what does
//! not fit is a [`DecodeError`] that still carries the `unique` to answer when there is one.

use bytemuck::Pod;

use super::abi::{self, opcode};

/// One request: who asks, about which node, and what.
#[derive(Debug)]
pub struct Request<'a> {
    /// The kernel's number of the request without the resend bit.
    pub unique: u64,
    /// The request may have been served before by a process that is gone (the resend bit was set).
    pub resent: bool,
    /// Node id, which is the inode number.
    pub node: u64,
    /// User of the calling process.
    pub uid: u32,
    /// Group of the calling process.
    pub gid: u32,
    /// Calling process; 0 for the kernel's own work or one outside the namespace.
    pub pid: u32,
    /// The request itself.
    pub operation: Operation<'a>,
}

impl Request<'_> {
    /// The `unique` that the reply must carry: the one of the request, resend bit included.
    pub fn reply_unique(&self) -> u64 {
        if self.resent {
            self.unique | abi::UNIQUE_RESEND
        } else {
            self.unique
        }
    }
}

/// Where a directory listing goes on and how much of it fits.
#[derive(Debug, Clone, Copy)]
pub struct ReadDir {
    /// Handle of OPENDIR, 0 without one.
    pub handle: u64,
    /// Cookie of the last entry already seen, 0 at the start.
    pub after: u64,
    /// Room for the reply in bytes.
    pub size: u32,
}

/// What is asked; names and data borrow from the receive buffer.
#[derive(Debug)]
#[allow(missing_docs)] // The fields are those of the kernel's structures.
pub enum Operation<'a> {
    Lookup {
        name: &'a [u8],
    },
    Forget {
        count: u64,
    },
    BatchForget {
        items: Forgets<'a>,
    },
    GetAttr,
    Statx {
        mask: u32,
    },
    SetAttr(abi::SetAttrIn),
    ReadLink,
    SymLink {
        name: &'a [u8],
        target: &'a [u8],
    },
    MkNod {
        mode: u32,
        rdev: u32,
        name: &'a [u8],
    },
    MkDir {
        mode: u32,
        name: &'a [u8],
    },
    Unlink {
        name: &'a [u8],
    },
    RmDir {
        name: &'a [u8],
    },
    Rename {
        new_parent: u64,
        flags: u32,
        name: &'a [u8],
        new_name: &'a [u8],
    },
    Link {
        node: u64,
        name: &'a [u8],
    },
    Open {
        flags: u32,
        kill_priv: bool,
    },
    Read {
        handle: u64,
        offset: u64,
        size: u32,
    },
    Write {
        handle: u64,
        offset: u64,
        flags: u32,
        data: &'a [u8],
    },
    StatFs,
    Release {
        handle: u64,
    },
    Fsync {
        data_only: bool,
    },
    SetXattr {
        flags: u32,
        name: &'a [u8],
        value: &'a [u8],
    },
    GetXattr {
        size: u32,
        name: &'a [u8],
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a [u8],
    },
    Flush,
    Init {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u64,
    },
    OpenDir,
    ReadDir(ReadDir),
    ReadDirPlus(ReadDir),
    ReleaseDir,
    FsyncDir,
    Access,
    Create {
        flags: u32,
        mode: u32,
        name: &'a [u8],
    },
    Interrupt {
        unique: u64,
    },
    Destroy,
    Fallocate {
        offset: u64,
        length: u64,
        mode: u32,
    },
    Lseek {
        offset: u64,
        whence: u32,
    },
    CopyFileRange {
        from_offset: u64,
        to: u64,
        to_offset: u64,
        length: u64,
        wide: bool,
    },
    SyncFs,
    TmpFile {
        flags: u32,
        mode: u32,
    },
    /// An opcode this server does not know: answered ENOSYS.
    Unknown {
        opcode: u32,
    },
}

impl Operation<'_> {
    /// Name of the operation for logs and spans.
    pub fn name(&self) -> &'static str {
        match self {
            Operation::Lookup { .. } => "lookup",
            Operation::Forget { .. } => "forget",
            Operation::BatchForget { .. } => "batch_forget",
            Operation::GetAttr => "getattr",
            Operation::Statx { .. } => "statx",
            Operation::SetAttr(_) => "setattr",
            Operation::ReadLink => "readlink",
            Operation::SymLink { .. } => "symlink",
            Operation::MkNod { .. } => "mknod",
            Operation::MkDir { .. } => "mkdir",
            Operation::Unlink { .. } => "unlink",
            Operation::RmDir { .. } => "rmdir",
            Operation::Rename { .. } => "rename",
            Operation::Link { .. } => "link",
            Operation::Open { .. } => "open",
            Operation::Read { .. } => "read",
            Operation::Write { .. } => "write",
            Operation::StatFs => "statfs",
            Operation::Release { .. } => "release",
            Operation::Fsync { .. } => "fsync",
            Operation::SetXattr { .. } => "setxattr",
            Operation::GetXattr { .. } => "getxattr",
            Operation::ListXattr { .. } => "listxattr",
            Operation::RemoveXattr { .. } => "removexattr",
            Operation::Flush => "flush",
            Operation::Init { .. } => "init",
            Operation::OpenDir => "opendir",
            Operation::ReadDir(_) => "readdir",
            Operation::ReadDirPlus(_) => "readdirplus",
            Operation::ReleaseDir => "releasedir",
            Operation::FsyncDir => "fsyncdir",
            Operation::Access => "access",
            Operation::Create { .. } => "create",
            Operation::Interrupt { .. } => "interrupt",
            Operation::Destroy => "destroy",
            Operation::Fallocate { .. } => "fallocate",
            Operation::Lseek { .. } => "lseek",
            Operation::CopyFileRange { .. } => "copy_file_range",
            Operation::SyncFs => "syncfs",
            Operation::TmpFile { .. } => "tmpfile",
            Operation::Unknown { .. } => "unknown",
        }
    }

    /// The kernel waits for no reply to these.
    pub fn is_silent(&self) -> bool {
        matches!(
            self,
            Operation::Forget { .. } | Operation::BatchForget { .. } | Operation::Interrupt { .. }
        )
    }
}

/// The items of a BATCH_FORGET: (node, lookups to take back).
#[derive(Debug, Clone, Copy)]
pub struct Forgets<'a>(&'a [u8]);

impl Iterator for Forgets<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let mut reader = Reader(self.0);
        let item: abi::ForgetOne = reader.take().ok()?;
        self.0 = reader.0;
        Some((item.nodeid, item.nlookup))
    }
}

/// Bytes that are no request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a request of {length} bytes with opcode {opcode} cannot be decoded: {reason}")]
pub struct DecodeError {
    /// The `unique` to answer with an error; `None` when not even the header is whole or none is waited for.
    pub unique: Option<u64>,
    /// Opcode, 0 when there is no header.
    pub opcode: u32,
    /// Bytes received.
    pub length: usize,
    /// What does not fit.
    pub reason: &'static str,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<T: Pod>(&mut self) -> Result<T, &'static str> {
        let (head, rest) = self
            .0
            .split_at_checked(size_of::<T>())
            .ok_or("its fixed part is cut short")?;
        self.0 = rest;
        Ok(bytemuck::pod_read_unaligned(head))
    }

    /// A string that ends with NUL.
    fn name(&mut self) -> Result<&'a [u8], &'static str> {
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .ok_or("a name has no end")?;
        let (name, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        Ok(name)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (head, rest) = self
            .0
            .split_at_checked(length)
            .ok_or("its data is cut short")?;
        self.0 = rest;
        Ok(head)
    }
}

/// Decodes one request. Cost: one pass over the fixed part; names and data are borrowed.
///
/// # Errors
/// [`DecodeError`] when the bytes are not one whole request.
pub fn decode(bytes: &[u8]) -> Result<Request<'_>, DecodeError> {
    let mut reader = Reader(bytes);
    let fail = |reason, header: Option<&abi::InHeader>| {
        let silent = header.is_some_and(|h| {
            matches!(
                h.opcode,
                opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT
            )
        });
        DecodeError {
            unique: header.filter(|_| !silent).map(|h| h.unique),
            opcode: header.map_or(0, |h| h.opcode),
            length: bytes.len(),
            reason,
        }
    };
    let header: abi::InHeader = reader.take().map_err(|reason| fail(reason, None))?;
    if header.len as usize != bytes.len() {
        return Err(fail("its length field is not its length", Some(&header)));
    }
    // Extensions follow the arguments; none is negotiated, so they are only cut off.
    let extensions = usize::from(header.total_extlen) * 8;
    let body = reader
        .0
        .len()
        .checked_sub(extensions)
        .ok_or_else(|| fail("its extensions are cut short", Some(&header)))?;
    reader.0 = reader.0.get(..body).unwrap_or_default();
    let operation =
        operation(header.opcode, &mut reader).map_err(|reason| fail(reason, Some(&header)))?;
    Ok(Request {
        unique: header.unique & !abi::UNIQUE_RESEND,
        resent: header.unique & abi::UNIQUE_RESEND != 0,
        node: header.nodeid,
        uid: header.uid,
        gid: header.gid,
        pid: header.pid,
        operation,
    })
}

fn operation<'a>(code: u32, reader: &mut Reader<'a>) -> Result<Operation<'a>, &'static str> {
    Ok(match code {
        opcode::LOOKUP => Operation::Lookup {
            name: reader.name()?,
        },
        opcode::FORGET => Operation::Forget {
            count: reader.take::<abi::ForgetIn>()?.nlookup,
        },
        opcode::BATCH_FORGET => {
            let count = reader.take::<abi::BatchForgetIn>()?.count as usize;
            let length = count
                .checked_mul(size_of::<abi::ForgetOne>())
                .ok_or("its count is too large")?;
            Operation::BatchForget {
                items: Forgets(reader.bytes(length)?),
            }
        }
        opcode::GETATTR => Operation::GetAttr,
        opcode::STATX => Operation::Statx {
            mask: reader.take::<abi::StatxIn>()?.sx_mask,
        },
        opcode::SETATTR => Operation::SetAttr(reader.take()?),
        opcode::READLINK => Operation::ReadLink,
        opcode::SYMLINK => Operation::SymLink {
            name: reader.name()?,
            target: reader.name()?,
        },
        opcode::MKNOD => {
            let fixed: abi::MkNodIn = reader.take()?;
            Operation::MkNod {
                mode: fixed.mode,
                rdev: fixed.rdev,
                name: reader.name()?,
            }
        }
        opcode::MKDIR => Operation::MkDir {
            mode: reader.take::<abi::MkDirIn>()?.mode,
            name: reader.name()?,
        },
        opcode::UNLINK => Operation::Unlink {
            name: reader.name()?,
        },
        opcode::RMDIR => Operation::RmDir {
            name: reader.name()?,
        },
        opcode::RENAME => Operation::Rename {
            new_parent: reader.take::<abi::RenameIn>()?.newdir,
            flags: 0,
            name: reader.name()?,
            new_name: reader.name()?,
        },
        opcode::RENAME2 => {
            let fixed: abi::Rename2In = reader.take()?;
            Operation::Rename {
                new_parent: fixed.newdir,
                flags: fixed.flags,
                name: reader.name()?,
                new_name: reader.name()?,
            }
        }
        opcode::LINK => Operation::Link {
            node: reader.take::<abi::LinkIn>()?.oldnodeid,
            name: reader.name()?,
        },
        opcode::OPEN => {
            let fixed: abi::OpenIn = reader.take()?;
            Operation::Open {
                flags: fixed.flags,
                kill_priv: fixed.open_flags & abi::OPEN_KILL_SUIDGID != 0,
            }
        }
        opcode::READ => {
            let fixed: abi::ReadIn = reader.take()?;
            Operation::Read {
                handle: fixed.fh,
                offset: fixed.offset,
                size: fixed.size,
            }
        }
        opcode::WRITE => {
            let fixed: abi::WriteIn = reader.take()?;
            Operation::Write {
                handle: fixed.fh,
                offset: fixed.offset,
                flags: fixed.write_flags,
                data: reader.bytes(fixed.size as usize)?,
            }
        }
        opcode::STATFS => Operation::StatFs,
        opcode::RELEASE => Operation::Release {
            handle: reader.take::<abi::ReleaseIn>()?.fh,
        },
        opcode::FSYNC => {
            let fixed: abi::FsyncIn = reader.take()?;
            Operation::Fsync {
                data_only: fixed.fsync_flags & abi::FSYNC_FDATASYNC != 0,
            }
        }
        opcode::SETXATTR => {
            let fixed: abi::SetXattrIn = reader.take()?;
            Operation::SetXattr {
                flags: fixed.flags,
                name: reader.name()?,
                value: reader.bytes(fixed.size as usize)?,
            }
        }
        opcode::GETXATTR => Operation::GetXattr {
            size: reader.take::<abi::GetXattrIn>()?.size,
            name: reader.name()?,
        },
        opcode::LISTXATTR => Operation::ListXattr {
            size: reader.take::<abi::GetXattrIn>()?.size,
        },
        opcode::REMOVEXATTR => Operation::RemoveXattr {
            name: reader.name()?,
        },
        opcode::FLUSH => Operation::Flush,
        opcode::INIT => {
            let fixed: abi::InitIn = reader.take()?;
            let mut flags = u64::from(fixed.flags);
            if flags & abi::init::INIT_EXT != 0 {
                flags |= u64::from(reader.take::<u32>()?) << 32;
            }
            Operation::Init {
                major: fixed.major,
                minor: fixed.minor,
                max_readahead: fixed.max_readahead,
                flags,
            }
        }
        opcode::OPENDIR => Operation::OpenDir,
        opcode::READDIR => Operation::ReadDir(read_dir(reader)?),
        opcode::READDIRPLUS => Operation::ReadDirPlus(read_dir(reader)?),
        opcode::RELEASEDIR => Operation::ReleaseDir,
        opcode::FSYNCDIR => Operation::FsyncDir,
        opcode::ACCESS => Operation::Access,
        opcode::CREATE => {
            let fixed: abi::CreateIn = reader.take()?;
            Operation::Create {
                flags: fixed.flags,
                mode: fixed.mode,
                name: reader.name()?,
            }
        }
        opcode::INTERRUPT => Operation::Interrupt {
            unique: reader.take::<abi::InterruptIn>()?.unique,
        },
        opcode::DESTROY => Operation::Destroy,
        opcode::FALLOCATE => {
            let fixed: abi::FallocateIn = reader.take()?;
            Operation::Fallocate {
                offset: fixed.offset,
                length: fixed.length,
                mode: fixed.mode,
            }
        }
        opcode::LSEEK => {
            let fixed: abi::LseekIn = reader.take()?;
            Operation::Lseek {
                offset: fixed.offset,
                whence: fixed.whence,
            }
        }
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => {
            let fixed: abi::CopyFileRangeIn = reader.take()?;
            Operation::CopyFileRange {
                from_offset: fixed.off_in,
                to: fixed.nodeid_out,
                to_offset: fixed.off_out,
                length: fixed.len,
                wide: code == opcode::COPY_FILE_RANGE_64,
            }
        }
        opcode::SYNCFS => Operation::SyncFs,
        opcode::TMPFILE => {
            let fixed: abi::CreateIn = reader.take()?;
            Operation::TmpFile {
                flags: fixed.flags,
                mode: fixed.mode,
            }
        }
        opcode => Operation::Unknown { opcode },
    })
}

fn read_dir(reader: &mut Reader<'_>) -> Result<ReadDir, &'static str> {
    let fixed: abi::ReadIn = reader.take()?;
    Ok(ReadDir {
        handle: fixed.fh,
        after: fixed.offset,
        size: fixed.size,
    })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
