//! The engine's types to the kernel's and back.

use storage_engine::{Attr, NodeKind, SetAttr, SetTime, StatFs, Time};

use super::abi::{self, fattr};

/// Seconds that the kernel may keep names and attributes: ten years. A timeline has one writer, and what changes by
/// another door is invalidated.
pub const KEEP_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// Generation of every node: inode numbers are never reused in a lineage, so one is enough.
pub const GENERATION: u64 = 1;

/// Preferred size of reads and writes in bytes, also the block size of a file.
const BLOCK: u32 = 4096;

/// `S_IFMT` bits of a kind.
pub fn type_bits(kind: NodeKind) -> u32 {
    match kind {
        NodeKind::File => libc::S_IFREG,
        NodeKind::Directory => libc::S_IFDIR,
        NodeKind::Symlink => libc::S_IFLNK,
        NodeKind::CharDevice => libc::S_IFCHR,
        NodeKind::BlockDevice => libc::S_IFBLK,
        NodeKind::Fifo => libc::S_IFIFO,
        NodeKind::Socket => libc::S_IFSOCK,
    }
}

/// The kind that a mode asks for; no type bits mean a file, as for mknod(2).
pub fn kind_of_mode(mode: u32) -> Option<NodeKind> {
    Some(match mode & libc::S_IFMT {
        libc::S_IFREG | 0 => NodeKind::File,
        libc::S_IFDIR => NodeKind::Directory,
        libc::S_IFLNK => NodeKind::Symlink,
        libc::S_IFCHR => NodeKind::CharDevice,
        libc::S_IFBLK => NodeKind::BlockDevice,
        libc::S_IFIFO => NodeKind::Fifo,
        libc::S_IFSOCK => NodeKind::Socket,
        _ => return None,
    })
}

/// `d_type` of a directory entry.
pub fn entry_type(kind: NodeKind) -> u32 {
    type_bits(kind) >> 12
}

/// Attributes.
pub fn attributes(attr: &Attr) -> abi::AttrOut {
    abi::AttrOut {
        ino: attr.ino.0,
        size: attr.size,
        blocks: attr.allocated.div_ceil(512),
        atime: attr.atime.secs as u64,
        mtime: attr.mtime.secs as u64,
        ctime: attr.ctime.secs as u64,
        atimensec: attr.atime.nanos,
        mtimensec: attr.mtime.nanos,
        ctimensec: attr.ctime.nanos,
        mode: attr.mode | type_bits(attr.kind),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK,
        flags: 0,
    }
}

/// A name and what it names, to be kept.
pub fn entry(attr: &Attr) -> abi::EntryOut {
    abi::EntryOut {
        nodeid: attr.ino.0,
        generation: GENERATION,
        entry_valid: KEEP_SECONDS,
        attr_valid: KEEP_SECONDS,
        entry_valid_nsec: 0,
        attr_valid_nsec: 0,
        attr: attributes(attr),
    }
}

/// A name that is not there, to be kept.
pub fn absent() -> abi::EntryOut {
    abi::EntryOut {
        entry_valid: KEEP_SECONDS,
        ..bytemuck::Zeroable::zeroed()
    }
}

/// Attributes, to be kept.
pub fn attr_out(attr: &Attr) -> abi::GetAttrOut {
    abi::GetAttrOut {
        attr_valid: KEEP_SECONDS,
        attr_valid_nsec: 0,
        dummy: 0,
        attr: attributes(attr),
    }
}

/// Attributes with the time of birth.
pub fn statx_out(attr: &Attr) -> abi::StatxOut {
    let time = |time: Time| abi::StatxTime {
        tv_sec: time.secs,
        tv_nsec: time.nanos,
        reserved: 0,
    };
    abi::StatxOut {
        attr_valid: KEEP_SECONDS,
        attr_valid_nsec: 0,
        flags: 0,
        spare: [0; 2],
        stat: abi::Statx {
            mask: libc::STATX_BASIC_STATS | libc::STATX_BTIME,
            blksize: BLOCK,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            mode: (attr.mode | type_bits(attr.kind)) as u16,
            ino: attr.ino.0,
            size: attr.size,
            blocks: attr.allocated.div_ceil(512),
            atime: time(attr.atime),
            btime: time(attr.btime),
            ctime: time(attr.ctime),
            mtime: time(attr.mtime),
            rdev_major: (attr.rdev & 0xf_ff00) >> 8,
            rdev_minor: (attr.rdev & 0xff) | ((attr.rdev >> 12) & 0xf_ff00),
            ..bytemuck::Zeroable::zeroed()
        },
    }
}

/// What SETATTR changes.
pub fn change(from: &abi::SetAttrIn) -> SetAttr {
    let has = |flag: u32| from.valid & flag != 0;
    let time = |set: u32, now: u32, secs: u64, nanos: u32| {
        let at = || {
            SetTime::At(Time {
                secs: secs as i64,
                nanos,
            })
        };
        has(set | now).then(|| if has(now) { SetTime::Now } else { at() })
    };
    SetAttr {
        mode: has(fattr::MODE).then_some(from.mode & 0o7777),
        uid: has(fattr::UID).then_some(from.uid),
        gid: has(fattr::GID).then_some(from.gid),
        size: has(fattr::SIZE).then_some(from.size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, from.atime, from.atimensec),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, from.mtime, from.mtimensec),
        ctime: has(fattr::CTIME).then_some(Time {
            secs: from.ctime as i64,
            nanos: from.ctimensec,
        }),
        // With HANDLE_KILLPRIV_V2 the kernel leaves it to the server on every change of owner.
        kill_priv: has(fattr::KILL_SUIDGID) || (has(fattr::UID | fattr::GID) && !has(fattr::MODE)),
    }
}

/// Figures of statfs(2).
pub fn stat_fs(from: &StatFs) -> abi::StatFsOut {
    let block = u64::from(from.block_size.max(512));
    abi::StatFsOut {
        blocks: from.bytes_total / block,
        bfree: from.bytes_free / block,
        bavail: from.bytes_available / block,
        files: from.inodes_total,
        ffree: from.inodes_free,
        bsize: block as u32,
        namelen: from.name_max,
        frsize: block as u32,
        padding: 0,
        spare: [0; 6],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_owner_takes_the_set_id_bits_and_a_change_of_mode_with_it_does_not() {
        let mut from: abi::SetAttrIn = bytemuck::Zeroable::zeroed();
        from.valid = fattr::UID;
        assert!(change(&from).kill_priv);
        from.valid |= fattr::MODE;
        assert!(!change(&from).kill_priv);
    }

    #[test]
    fn times_are_set_to_now_or_to_an_instant() {
        let mut from: abi::SetAttrIn = bytemuck::Zeroable::zeroed();
        (from.valid, from.mtime, from.mtimensec) =
            (fattr::ATIME | fattr::ATIME_NOW | fattr::MTIME, u64::MAX, 5);
        let change = change(&from);
        assert_eq!(change.atime, Some(SetTime::Now));
        assert_eq!(change.mtime, Some(SetTime::At(Time { secs: -1, nanos: 5 })));
        assert_eq!(change.size, None);
    }
}
