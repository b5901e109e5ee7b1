//! The kernel's FUSE protocol, version 7.45: opcodes, flags and the fixed structures, as `linux/fuse.h` has them.
//!
//! Every structure is plain data without padding (derived `Pod` proves it) and its size is asserted at compile
//! time. Names follow the header, so that a reader can look them up there; what is not used is not repeated.

use bytemuck::{Pod, Zeroable};

/// Major version of the protocol.
pub const KERNEL_VERSION: u32 = 7;
/// Minor version this code speaks; the smaller of this and the kernel's is used.
pub const KERNEL_MINOR_VERSION: u32 = 45;
/// The oldest minor version served: from here on NOTIFY_RESEND exists (Linux 6.9).
pub const OLDEST_MINOR_VERSION: u32 = 40;
/// Set by the kernel in the `unique` of a request that it sends again after NOTIFY_RESEND.
pub const UNIQUE_RESEND: u64 = 1 << 63;
/// Node id of the root.
pub const ROOT_ID: u64 = 1;

/// Request codes.
#[allow(missing_docs)]
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
    pub const TMPFILE: u32 = 51;
    pub const STATX: u32 = 52;
    pub const COPY_FILE_RANGE_64: u32 = 53;
}

/// Codes of the notifications that the server writes; they go out in the `error` field with `unique` 0.
#[allow(missing_docs)]
pub mod notify {
    pub const INVAL_INODE: i32 = 2;
    pub const INVAL_ENTRY: i32 = 3;
    pub const STORE: i32 = 4;
    /// Protocol 7.40.
    pub const RESEND: i32 = 7;
    /// Protocol 7.44.
    pub const INC_EPOCH: i32 = 8;
    /// Protocol 7.45.
    pub const PRUNE: i32 = 9;
}

/// Flags of INIT; the upper half travels in `flags2`.
#[allow(missing_docs)]
pub mod init {
    pub const ASYNC_READ: u64 = 1 << 0;
    pub const POSIX_LOCKS: u64 = 1 << 1;
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub const EXPORT_SUPPORT: u64 = 1 << 4;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const DONT_MASK: u64 = 1 << 6;
    pub const FLOCK_LOCKS: u64 = 1 << 10;
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const WRITEBACK_CACHE: u64 = 1 << 16;
    pub const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const POSIX_ACL: u64 = 1 << 20;
    pub const ABORT_ERROR: u64 = 1 << 21;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    pub const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const SETXATTR_EXT: u64 = 1 << 29;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const HAS_EXPIRE_ONLY: u64 = 1 << 35;
    pub const PASSTHROUGH: u64 = 1 << 37;
    pub const HAS_RESEND: u64 = 1 << 39;
    pub const OVER_IO_URING: u64 = 1 << 41;
}

/// Which fields of [`SetAttrIn`] count.
#[allow(missing_docs)]
pub mod fattr {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const CTIME: u32 = 1 << 10;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// Flags of an OPEN reply.
#[allow(missing_docs)]
pub mod fopen {
    pub const KEEP_CACHE: u32 = 1 << 1;
    pub const CACHE_DIR: u32 = 1 << 3;
    pub const NOFLUSH: u32 = 1 << 5;
    pub const PASSTHROUGH: u32 = 1 << 7;
}

/// `write_flags`: the write comes from the page cache, not from a process.
pub const WRITE_CACHE: u32 = 1 << 0;
/// `write_flags`: drop set-user-id and set-group-id.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `fsync_flags`: the data alone.
pub const FSYNC_FDATASYNC: u32 = 1 << 0;
/// `open_flags` of OPEN and CREATE: drop set-user-id and set-group-id (the open truncates).
pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;

/// `ioctl` on the device: register a file for passthrough; returns its backing id.
pub const DEV_IOC_BACKING_OPEN: libc::c_ulong = ioctl_write(229, 1, size_of::<BackingMap>());
/// `ioctl` on the device: forget a backing id.
pub const DEV_IOC_BACKING_CLOSE: libc::c_ulong = ioctl_write(229, 2, size_of::<u32>());

/// `_IOW(group, number, size)` of the generic Linux encoding (x86, arm64, riscv).
const fn ioctl_write(group: u32, number: u32, size: usize) -> libc::c_ulong {
    ((1u32 << 30) | ((size as u32) << 16) | (group << 8) | number) as libc::c_ulong
}

macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident = $size:literal { $($field:ident : $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[allow(missing_docs)]
        #[repr(C)]
        #[derive(Debug, Clone, Copy, Pod, Zeroable)]
        pub struct $name { $(pub $field: $type),* }
        const _: () = assert!(size_of::<$name>() == $size);
    )*};
}

structures! {
    /// `fuse_in_header`: begins every request.
    InHeader = 40 { len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32, total_extlen: u16, padding: u16 }
    /// `fuse_out_header`: begins every reply and notification.
    OutHeader = 16 { len: u32, error: i32, unique: u64 }
    /// `fuse_attr`.
    AttrOut = 88 { ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, flags: u32 }
    /// `fuse_entry_out`.
    EntryOut = 128 { nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32, attr_valid_nsec: u32, attr: AttrOut }
    /// `fuse_attr_out`.
    GetAttrOut = 104 { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: AttrOut }
    /// `fuse_sx_time`.
    StatxTime = 16 { tv_sec: i64, tv_nsec: u32, reserved: i32 }
    /// `fuse_statx`.
    Statx = 256 { mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16, spare0: u16, ino: u64, size: u64, blocks: u64, attributes_mask: u64, atime: StatxTime, btime: StatxTime, ctime: StatxTime, mtime: StatxTime, rdev_major: u32, rdev_minor: u32, dev_major: u32, dev_minor: u32, spare2: [u64; 14] }
    /// `fuse_statx_in`.
    StatxIn = 24 { getattr_flags: u32, reserved: u32, fh: u64, sx_flags: u32, sx_mask: u32 }
    /// `fuse_statx_out`.
    StatxOut = 288 { attr_valid: u64, attr_valid_nsec: u32, flags: u32, spare: [u64; 2], stat: Statx }
    /// `fuse_forget_in`.
    ForgetIn = 8 { nlookup: u64 }
    /// `fuse_forget_one`.
    ForgetOne = 16 { nodeid: u64, nlookup: u64 }
    /// `fuse_batch_forget_in`.
    BatchForgetIn = 8 { count: u32, dummy: u32 }
    /// `fuse_mknod_in`.
    MkNodIn = 16 { mode: u32, rdev: u32, umask: u32, padding: u32 }
    /// `fuse_mkdir_in`.
    MkDirIn = 8 { mode: u32, umask: u32 }
    /// `fuse_rename_in`.
    RenameIn = 8 { newdir: u64 }
    /// `fuse_rename2_in`.
    Rename2In = 16 { newdir: u64, flags: u32, padding: u32 }
    /// `fuse_link_in`.
    LinkIn = 8 { oldnodeid: u64 }
    /// `fuse_setattr_in`.
    SetAttrIn = 88 { valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32 }
    /// `fuse_open_in`.
    OpenIn = 8 { flags: u32, open_flags: u32 }
    /// `fuse_create_in`; TMPFILE has it too.
    CreateIn = 16 { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    /// `fuse_open_out`.
    OpenOut = 16 { fh: u64, open_flags: u32, backing_id: i32 }
    /// `fuse_release_in`.
    ReleaseIn = 24 { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    /// `fuse_read_in`; READDIR and READDIRPLUS have it too.
    ReadIn = 40 { fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    /// `fuse_write_in`.
    WriteIn = 40 { fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    /// `fuse_write_out`.
    WriteOut = 8 { size: u32, padding: u32 }
    /// `fuse_statfs_out`.
    StatFsOut = 80 { blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32, frsize: u32, padding: u32, spare: [u32; 6] }
    /// `fuse_fsync_in`.
    FsyncIn = 16 { fh: u64, fsync_flags: u32, padding: u32 }
    /// `fuse_setxattr_in` without SETXATTR_EXT.
    SetXattrIn = 8 { size: u32, flags: u32 }
    /// `fuse_getxattr_in`; LISTXATTR has it too.
    GetXattrIn = 8 { size: u32, padding: u32 }
    /// `fuse_getxattr_out`.
    GetXattrOut = 8 { size: u32, padding: u32 }
    /// `fuse_access_in`.
    AccessIn = 8 { mask: u32, padding: u32 }
    /// `fuse_init_in`, the part every kernel of our range sends.
    InitIn = 16 { major: u32, minor: u32, max_readahead: u32, flags: u32 }
    /// `fuse_init_out`.
    InitOut = 64 { major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16, congestion_threshold: u16, max_write: u32, time_gran: u32, max_pages: u16, map_alignment: u16, flags2: u32, max_stack_depth: u32, request_timeout: u16, unused: [u16; 11] }
    /// `fuse_interrupt_in`.
    InterruptIn = 8 { unique: u64 }
    /// `fuse_fallocate_in`.
    FallocateIn = 32 { fh: u64, offset: u64, length: u64, mode: u32, padding: u32 }
    /// `fuse_lseek_in`.
    LseekIn = 24 { fh: u64, offset: u64, whence: u32, padding: u32 }
    /// `fuse_lseek_out`.
    LseekOut = 8 { offset: u64 }
    /// `fuse_copy_file_range_in`.
    CopyFileRangeIn = 56 { fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64 }
    /// `fuse_copy_file_range_out`.
    CopyFileRangeOut = 8 { bytes_copied: u64 }
    /// `fuse_dirent` without the name.
    Dirent = 24 { ino: u64, off: u64, namelen: u32, kind: u32 }
    /// `fuse_notify_inval_inode_out`.
    NotifyInvalInode = 24 { ino: u64, off: i64, len: i64 }
    /// `fuse_notify_inval_entry_out`.
    NotifyInvalEntry = 16 { parent: u64, namelen: u32, flags: u32 }
    /// `fuse_notify_prune_out`, followed by `count` node ids.
    NotifyPrune = 16 { count: u32, padding: u32, spare: u64 }
    /// `fuse_backing_map`.
    BackingMap = 16 { fd: i32, flags: u32, padding: u64 }
}
