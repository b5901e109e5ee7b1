//! Plain data of the file interface.

use serde::{Deserialize, Serialize};

use crate::ids::Ino;

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

impl NodeKind {
    /// Its number in rows; assigned once.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::Symlink => 3,
            Self::CharDevice => 4,
            Self::BlockDevice => 5,
            Self::Fifo => 6,
            Self::Socket => 7,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::File,
            2 => Self::Directory,
            3 => Self::Symlink,
            4 => Self::CharDevice,
            5 => Self::BlockDevice,
            6 => Self::Fifo,
            7 => Self::Socket,
            _ => return None,
        })
    }
}

/// An instant: seconds since 1970 and nanoseconds (below 10^9) after them.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash, Serialize, Deserialize,
)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// Nanoseconds after `secs`.
    pub nanos: u32,
}

impl Time {
    /// From Unix nanoseconds.
    pub fn from_nanos(nanos: u64) -> Self {
        Self {
            secs: (nanos / 1_000_000_000) as i64,
            nanos: (nanos % 1_000_000_000) as u32,
        }
    }
}

/// Attributes of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attr {
    /// Inode number; the root is 1.
    pub ino: Ino,
    /// What it is.
    pub kind: NodeKind,
    /// Length in bytes (of a symbolic link: of its target).
    pub size: u64,
    /// Bytes stored for it; smaller than `size` for a sparse file.
    pub allocated: u64,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Number of names (of a directory: 2 + sub-directories).
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u32,
    /// Last access as far as it is kept.
    pub atime: Time,
    /// Last change of the data.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Birth.
    pub btime: Time,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The engine's clock.
    Now,
    /// This instant.
    At(Time),
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// Permission, set-id and sticky bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length: cuts, or extends with a hole.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Time of the last change of the data.
    pub mtime: Option<SetTime>,
    /// Time of the last change of the inode (a write-back cache sets it); now otherwise.
    pub ctime: Option<Time>,
    /// Clear set-user-id, and set-group-id of a group-executable file.
    pub kill_priv: bool,
}

/// A node to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewNode<'a> {
    /// What to make.
    pub kind: NodeKind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Device number, for a device.
    pub rdev: u32,
    /// Target, for a symbolic link.
    pub target: &'a [u8],
}

/// Who asks. Permission checks are the caller's (the kernel's, with `default_permissions`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    /// Owner of what is made.
    pub uid: u32,
    /// Group of what is made (a set-group-id directory gives its own instead).
    pub gid: u32,
    /// Permission bits to clear in what is made; 0 when the kernel has done so.
    pub umask: u32,
    /// The request, if it may be repeated after a takeover.
    pub request: Option<RequestId>,
}

/// Identity of a request that may reach the engine twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct RequestId {
    /// Random number of the mount.
    pub connection: u64,
    /// The kernel's number of the request.
    pub unique: u64,
}

/// What a request that was already applied had answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The inode made or linked.
    pub ino: Option<Ino>,
    /// Bytes written or copied.
    pub size: u64,
}

/// How `rename` treats an existing target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// It is an error.
    NoReplace,
    /// The two change places.
    Exchange,
}

/// How `set_xattr` treats an existing attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XattrMode {
    /// Sets it in any case.
    Set,
    /// Fails if it is there.
    Create,
    /// Fails if it is not there.
    Replace,
}

/// What `allocate` does with the range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocateMode {
    /// Extends the file (an append-only store has nothing to reserve).
    Reserve {
        /// Leaves the length as it is.
        keep_size: bool,
    },
    /// Makes a hole; the length stays.
    Punch,
    /// Makes it read as zeros.
    Zero {
        /// Leaves the length as it is.
        keep_size: bool,
    },
}

/// What `seek` looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    /// The next stored byte.
    Data,
    /// The next hole; the end of the file is one.
    Hole,
}

/// How `write` treats attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriteOptions {
    /// Clear set-user-id, and set-group-id of a group-executable file.
    pub kill_priv: bool,
    /// Leave the times alone: the kernel's write-back cache sets them itself.
    pub keep_mtime: bool,
}

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// What it names.
    pub ino: Ino,
    /// What that is.
    pub kind: NodeKind,
    /// Place in the listing: 63 bits made from the name alone, so it stays valid when entries come and go.
    pub cookie: u64,
}

/// Figures for `statfs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatFs {
    /// Size in bytes: the quota if there is one, otherwise the disk's.
    pub bytes_total: u64,
    /// Bytes free.
    pub bytes_free: u64,
    /// Bytes that may be written by anybody.
    pub bytes_available: u64,
    /// Inodes that there can be.
    pub inodes_total: u64,
    /// Inodes that can be made.
    pub inodes_free: u64,
    /// Preferred size of a write in bytes.
    pub block_size: u32,
    /// Longest name in bytes.
    pub name_max: u32,
}
