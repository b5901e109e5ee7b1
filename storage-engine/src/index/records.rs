//! Values of records. The first byte of a row says what it is: 00 a tombstone, 01 a record in the
//! layout below (all numbers big-endian). `docs/format.md` has the same tables; golden tests hold the
//! two together.

use crate::codec::{Reader, Writer};
use crate::error::Result;
use crate::files::types::{NodeKind, Time};
use crate::ids::{FileId, Ino};

use super::keys::RecordKey;

const TOMBSTONE: u8 = 0;
const RECORD_V1: u8 = 1;

/// A file is stored in spans of this many bytes, each with a record of its own.
pub(crate) const CHUNK_BYTES: u64 = 128 << 10;
/// A file of at most this many bytes stands in the row of its first chunk.
pub(crate) const INLINE_BYTES: u64 = 1 << 10;
/// An extent has one CRC-32C for each block of this many bytes (the last may be shorter).
pub(crate) const SUM_BYTES: u32 = 16 << 10;
/// Largest file: chunk numbers have 32 bits.
pub(crate) const MAX_FILE_BYTES: u64 = CHUNK_BYTES * (1 << 32);
/// A chunk with more extents than this is written again as one.
pub(crate) const MAX_EXTENTS: usize = 24;

/// The extents of the frame that is being built carry this id until the log gives them a place.
pub(crate) const THIS_FRAME: FileId = FileId([0xff; 16]);
/// Stands for "inline" in deadlist records.
pub(crate) const INLINE: FileId = FileId([0; 16]);
/// No object file.
pub(crate) const NO_OBJECT: FileId = FileId([0; 16]);

/// A record of a timeline.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Record {
    Inode(Inode),
    Dirent {
        ino: Ino,
        kind: NodeKind,
    },
    Chunk(Chunk),
    Xattr(Vec<u8>),
    /// Presence is all there is to say (orphan, backlink).
    Mark,
    NextIno(u64),
    Usage(UsageRecord),
}

/// Attributes of a file, and where it is named.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Inode {
    pub kind: NodeKind,
    /// Permission bits, set-id bits and the sticky bit.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub size: u64,
    /// Bytes that extents and inline data hold.
    pub allocated: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
    /// Whether xattr records may exist: spares a look-up per write.
    pub has_xattrs: bool,
    /// Number of sub-directories' and files' entries: makes rmdir O(1).
    pub entries: u32,
    /// One place where it is named; further links are backlink records. The root's is itself.
    pub parent: Ino,
    pub name: Vec<u8>,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// The object file that holds exactly this file's bytes (zeros: none).
    pub object: FileId,
}

/// The bytes of one chunk.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Chunk {
    /// The bytes themselves, from the chunk's start (only chunk 0, at most [`INLINE_BYTES`]).
    Inline {
        born: u64,
        inherited: bool,
        bytes: Vec<u8>,
    },
    /// Sorted by `at`, not overlapping; what they leave out reads as zeros.
    Extents(Vec<Extent>),
}

/// A piece of a chunk: `take` bytes at `at`, found `skip` bytes into a stored run of bytes.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Extent {
    /// Offset in the chunk.
    pub at: u32,
    pub take: u32,
    pub skip: u32,
    /// Epoch at which the bytes were written.
    pub born: u64,
    /// Written by an ancestor: not this timeline's to free.
    pub inherited: bool,
    pub file: FileId,
    pub offset: u64,
    pub length: u32,
    /// CRC-32C of each [`SUM_BYTES`] of the stored run.
    pub sums: Vec<u32>,
}

/// Running totals of a timeline, exact after every commit.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct UsageRecord {
    /// Sum of the sizes of all regular files.
    pub logical: u64,
    /// Bytes that the newest state refers to.
    pub allocated: u64,
    pub inodes: u64,
    /// Of `allocated`, the bytes that this timeline wrote.
    pub own: u64,
    /// Bytes that this timeline wrote and has superseded since.
    pub dead: u64,
}

/// Whether a row says that its record does not exist.
pub(crate) fn is_tombstone(row: &[u8]) -> bool {
    row.first() == Some(&TOMBSTONE)
}

/// Encodes a row: a record, or a tombstone for `None`.
pub(crate) fn encode(record: Option<&Record>) -> Vec<u8> {
    let mut w = Writer(Vec::with_capacity(128));
    let Some(record) = record else {
        w.u8(TOMBSTONE);
        return w.0;
    };
    w.u8(RECORD_V1);
    match record {
        Record::Inode(i) => encode_inode(&mut w, i),
        Record::Dirent { ino, kind } => {
            w.u64(ino.0).u8(kind.code());
        }
        Record::Chunk(Chunk::Inline {
            born,
            inherited,
            bytes,
        }) => {
            w.u8(0).u64(*born).u8(u8::from(*inherited)).long(bytes);
        }
        Record::Chunk(Chunk::Extents(extents)) => {
            w.u8(1).u16(extents.len() as u16);
            for e in extents {
                w.u32(e.at)
                    .u32(e.take)
                    .u32(e.skip)
                    .u64(e.born)
                    .u8(u8::from(e.inherited));
                w.bytes(&e.file.0).u64(e.offset).u32(e.length);
                for sum in &e.sums {
                    w.u32(*sum);
                }
            }
        }
        Record::Xattr(value) => {
            w.long(value);
        }
        Record::Mark => {}
        Record::NextIno(next) => {
            w.u64(*next);
        }
        Record::Usage(u) => {
            w.u64(u.logical)
                .u64(u.allocated)
                .u64(u.inodes)
                .u64(u.own)
                .u64(u.dead);
        }
    }
    w.0
}

fn encode_inode(w: &mut Writer, i: &Inode) {
    w.u8(i.kind.code())
        .u32(i.mode)
        .u32(i.nlink)
        .u32(i.uid)
        .u32(i.gid)
        .u32(i.rdev);
    w.u64(i.size).u64(i.allocated);
    for t in [i.atime, i.mtime, i.ctime, i.btime] {
        w.i64(t.secs).u32(t.nanos);
    }
    w.u8(u8::from(i.has_xattrs))
        .u32(i.entries)
        .u64(i.parent.0)
        .short(&i.name)
        .short(&i.target)
        .bytes(&i.object.0);
}

/// Decodes the row of `key`; `None` is a tombstone.
pub(crate) fn decode(key: &RecordKey, row: &[u8]) -> Result<Option<Record>> {
    let mut r = Reader::new(row, what(key));
    match r.u8()? {
        TOMBSTONE => {
            r.end()?;
            return Ok(None);
        }
        RECORD_V1 => {}
        other => return Err(r.bad(&format!("has the unknown version {other}"))),
    }
    let record = match key {
        RecordKey::Inode(_) => Record::Inode(decode_inode(&mut r)?),
        RecordKey::Dirent(..) => {
            let ino = Ino(r.u64()?);
            let code = r.u8()?;
            Record::Dirent {
                ino,
                kind: NodeKind::from_code(code).ok_or_else(|| r.bad("has an unknown kind"))?,
            }
        }
        RecordKey::Chunk(..) => Record::Chunk(decode_chunk(&mut r)?),
        RecordKey::Xattr(..) => Record::Xattr(r.long()?.to_vec()),
        RecordKey::Orphan(_) | RecordKey::Backlink { .. } => Record::Mark,
        RecordKey::NextIno => Record::NextIno(r.u64()?),
        RecordKey::Usage => Record::Usage(UsageRecord {
            logical: r.u64()?,
            allocated: r.u64()?,
            inodes: r.u64()?,
            own: r.u64()?,
            dead: r.u64()?,
        }),
    };
    r.end()?;
    Ok(Some(record))
}

fn decode_inode(r: &mut Reader<'_>) -> Result<Inode> {
    let code = r.u8()?;
    let kind = NodeKind::from_code(code).ok_or_else(|| r.bad("has an unknown kind"))?;
    let (mode, nlink, uid, gid, rdev) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?, r.u32()?);
    let (size, allocated) = (r.u64()?, r.u64()?);
    let mut times = [Time::default(); 4];
    for t in &mut times {
        *t = Time {
            secs: r.i64()?,
            nanos: r.u32()?,
        };
    }
    let [atime, mtime, ctime, btime] = times;
    let has_xattrs = flag(r)?;
    let entries = r.u32()?;
    let parent = Ino(r.u64()?);
    let name = r.short()?.to_vec();
    let target = r.short()?.to_vec();
    let object = FileId(r.array()?);
    Ok(Inode {
        kind,
        mode,
        nlink,
        uid,
        gid,
        rdev,
        size,
        allocated,
        atime,
        mtime,
        ctime,
        btime,
        has_xattrs,
        entries,
        parent,
        name,
        target,
        object,
    })
}

fn decode_chunk(r: &mut Reader<'_>) -> Result<Chunk> {
    match r.u8()? {
        0 => {
            let (born, inherited) = (r.u64()?, flag(r)?);
            let bytes = r.long()?;
            if bytes.len() as u64 > INLINE_BYTES {
                return Err(r.bad("holds more bytes inline than it may"));
            }
            Ok(Chunk::Inline {
                born,
                inherited,
                bytes: bytes.to_vec(),
            })
        }
        1 => {
            let count = r.u16()?;
            let mut extents = Vec::with_capacity(usize::from(count).min(MAX_EXTENTS + 2));
            let mut end = 0;
            for _ in 0..count {
                let e = decode_extent(r)?;
                let fits = u64::from(e.at) + u64::from(e.take) <= CHUNK_BYTES
                    && e.at >= end
                    && e.take > 0
                    && u64::from(e.skip) + u64::from(e.take) <= u64::from(e.length);
                if !fits {
                    return Err(r.bad("has extents that overlap or leave their bounds"));
                }
                end = e.at + e.take;
                extents.push(e);
            }
            Ok(Chunk::Extents(extents))
        }
        other => Err(r.bad(&format!("has the unknown form {other}"))),
    }
}

fn decode_extent(r: &mut Reader<'_>) -> Result<Extent> {
    let (at, take, skip, born, inherited) = (r.u32()?, r.u32()?, r.u32()?, r.u64()?, flag(r)?);
    let (file, offset, length) = (FileId(r.array()?), r.u64()?, r.u32()?);
    let blocks = sum_count(length);
    if blocks * 4 > r.remaining() {
        return Err(r.bad("lacks checksums"));
    }
    let sums = (0..blocks).map(|_| r.u32()).collect::<Result<_>>()?;
    Ok(Extent {
        at,
        take,
        skip,
        born,
        inherited,
        file,
        offset,
        length,
        sums,
    })
}

/// How many checksums an extent of this length has.
pub(crate) fn sum_count(length: u32) -> usize {
    length.div_ceil(SUM_BYTES) as usize
}

/// The checksums of these bytes.
pub(crate) fn sums_of(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks(SUM_BYTES as usize)
        .map(crc32c::crc32c)
        .collect()
}

fn flag(r: &mut Reader<'_>) -> Result<bool> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(r.bad("has a flag that is neither 0 nor 1")),
    }
}

fn what(key: &RecordKey) -> &'static str {
    match key {
        RecordKey::Inode(_) => "an inode record",
        RecordKey::Dirent(..) => "a dirent record",
        RecordKey::Chunk(..) => "a chunk record",
        RecordKey::Xattr(..) => "an xattr record",
        RecordKey::Orphan(_) => "an orphan record",
        RecordKey::NextIno => "a next-ino record",
        RecordKey::Backlink { .. } => "a backlink record",
        RecordKey::Usage => "a usage record",
    }
}
