//! Keys of records, relative to their timeline.
//!
//! A key starts with a tag that is assigned once; a retired tag stays reserved. Names end with a zero
//! byte, which no name holds, so that all versions of one name are neighbours.
//!
//! | tag | record | rest of the key |
//! |---|---|---|
//! | 01 | inode | ino u64 |
//! | 02 | dirent | parent ino u64, name, 00 |
//! | 03 | chunk | ino u64, chunk number u32 |
//! | 04 | xattr | ino u64, name, 00 |
//! | 05 | orphan | ino u64 |
//! | 06 | next ino | |
//! | 07 | backlink | ino u64, parent ino u64, name, 00 |
//! | 08 | usage | |

use crate::codec::{Reader, Writer};
use crate::error::Result;
use crate::ids::{Epoch, Ino, TimelineId};

/// Tags of record keys.
pub(crate) mod tag {
    pub const INODE: u8 = 0x01;
    pub const DIRENT: u8 = 0x02;
    pub const CHUNK: u8 = 0x03;
    pub const XATTR: u8 = 0x04;
    pub const ORPHAN: u8 = 0x05;
    pub const NEXT_INO: u8 = 0x06;
    pub const BACKLINK: u8 = 0x07;
    pub const USAGE: u8 = 0x08;
}

/// Bytes of a timeline id before the relative key.
pub(crate) const TIMELINE_LEN: usize = 16;
/// Bytes of the inverted epoch behind the relative key.
pub(crate) const EPOCH_LEN: usize = 8;

/// Which record of a timeline.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) enum RecordKey {
    Inode(Ino),
    Dirent(Ino, Vec<u8>),
    Chunk(Ino, u32),
    Xattr(Ino, Vec<u8>),
    Orphan(Ino),
    NextIno,
    Backlink {
        ino: Ino,
        parent: Ino,
        name: Vec<u8>,
    },
    Usage,
}

impl RecordKey {
    /// The relative key.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer(Vec::with_capacity(32));
        match self {
            Self::Inode(ino) => w.u8(tag::INODE).u64(ino.0),
            Self::Dirent(parent, name) => w.u8(tag::DIRENT).u64(parent.0).bytes(name).u8(0),
            Self::Chunk(ino, n) => w.u8(tag::CHUNK).u64(ino.0).u32(*n),
            Self::Xattr(ino, name) => w.u8(tag::XATTR).u64(ino.0).bytes(name).u8(0),
            Self::Orphan(ino) => w.u8(tag::ORPHAN).u64(ino.0),
            Self::NextIno => w.u8(tag::NEXT_INO),
            Self::Backlink { ino, parent, name } => w
                .u8(tag::BACKLINK)
                .u64(ino.0)
                .u64(parent.0)
                .bytes(name)
                .u8(0),
            Self::Usage => w.u8(tag::USAGE),
        };
        w.0
    }

    /// The key that these bytes are; anything else is corrupt.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes, "a record key");
        let key = match r.u8()? {
            tag::INODE => Self::Inode(Ino(r.u64()?)),
            tag::DIRENT => Self::Dirent(Ino(r.u64()?), name(&mut r)?),
            tag::CHUNK => Self::Chunk(Ino(r.u64()?), r.u32()?),
            tag::XATTR => Self::Xattr(Ino(r.u64()?), name(&mut r)?),
            tag::ORPHAN => Self::Orphan(Ino(r.u64()?)),
            tag::NEXT_INO => Self::NextIno,
            tag::BACKLINK => Self::Backlink {
                ino: Ino(r.u64()?),
                parent: Ino(r.u64()?),
                name: name(&mut r)?,
            },
            tag::USAGE => Self::Usage,
            other => return Err(r.bad(&format!("has the unknown tag {other:#04x}"))),
        };
        r.end()?;
        Ok(key)
    }

    /// Whether a change of this record is listed for `diff`: bookkeeping is not.
    pub fn is_content(bytes: &[u8]) -> bool {
        matches!(
            bytes.first(),
            Some(&(tag::INODE | tag::DIRENT | tag::CHUNK | tag::XATTR))
        )
    }
}

fn name(r: &mut Reader<'_>) -> Result<Vec<u8>> {
    let n = r.remaining();
    if n == 0 {
        return Err(r.bad("lacks its name"));
    }
    let name = r.bytes(n - 1)?.to_vec();
    if r.u8()? != 0 || name.contains(&0) {
        return Err(r.bad("has a name that does not end with the first zero byte"));
    }
    Ok(name)
}

/// Prefix of all dirents of a directory.
pub(crate) fn dirents_of(parent: Ino) -> Vec<u8> {
    prefix(tag::DIRENT, parent)
}

/// Prefix of all chunks of a file.
pub(crate) fn chunks_of(ino: Ino) -> Vec<u8> {
    prefix(tag::CHUNK, ino)
}

/// Prefix of all extended attributes of an inode.
pub(crate) fn xattrs_of(ino: Ino) -> Vec<u8> {
    prefix(tag::XATTR, ino)
}

/// Prefix of all backlinks of an inode.
pub(crate) fn backlinks_of(ino: Ino) -> Vec<u8> {
    prefix(tag::BACKLINK, ino)
}

fn prefix(tag: u8, ino: Ino) -> Vec<u8> {
    let mut w = Writer(Vec::with_capacity(9));
    w.u8(tag).u64(ino.0);
    w.0
}

/// Key of one version in the index: timeline, relative key, inverted epoch: the newest sorts first.
pub(crate) fn version_key(timeline: TimelineId, relative: &[u8], epoch: Epoch) -> Vec<u8> {
    let mut w = Writer(Vec::with_capacity(
        TIMELINE_LEN + relative.len() + EPOCH_LEN,
    ));
    w.bytes(&timeline.0).bytes(relative).u64(!epoch.0);
    w.0
}

/// The parts of a version key.
pub(crate) fn split_version_key(key: &[u8]) -> Result<(TimelineId, &[u8], Epoch)> {
    let mut r = Reader::new(key, "a version key");
    if key.len() < TIMELINE_LEN + 1 + EPOCH_LEN {
        return Err(r.bad("is too short"));
    }
    let timeline = TimelineId(r.array()?);
    let relative = r.bytes(key.len() - TIMELINE_LEN - EPOCH_LEN)?;
    Ok((timeline, relative, Epoch(!r.u64()?)))
}

/// Key of one entry of the change list: timeline, epoch, relative key.
pub(crate) fn change_key(timeline: TimelineId, epoch: Epoch, relative: &[u8]) -> Vec<u8> {
    let mut w = Writer(Vec::with_capacity(
        TIMELINE_LEN + EPOCH_LEN + relative.len(),
    ));
    w.bytes(&timeline.0).u64(epoch.0).bytes(relative);
    w.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_back_as_it_was_written() {
        for key in [
            RecordKey::Inode(Ino(7)),
            RecordKey::Dirent(Ino(1), b"a name".to_vec()),
            RecordKey::Chunk(Ino(9), 3),
            RecordKey::Xattr(Ino(9), b"user.x".to_vec()),
            RecordKey::Orphan(Ino(2)),
            RecordKey::NextIno,
            RecordKey::Backlink {
                ino: Ino(3),
                parent: Ino(1),
                name: b"x".to_vec(),
            },
            RecordKey::Usage,
        ] {
            assert_eq!(RecordKey::decode(&key.encode()).unwrap(), key);
        }
    }

    #[test]
    fn versions_of_one_name_are_neighbours_and_the_newest_comes_first() {
        let t = TimelineId([1; 16]);
        let a = RecordKey::Dirent(Ino(1), b"a".to_vec()).encode();
        let ab = RecordKey::Dirent(Ino(1), b"a\xff".to_vec()).encode();
        let new = version_key(t, &a, Epoch(9));
        let old = version_key(t, &a, Epoch(3));
        let other = version_key(t, &ab, Epoch(5));
        assert!(new < old && old < other);
        assert_eq!(split_version_key(&old).unwrap(), (t, &a[..], Epoch(3)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            if let Ok(key) = RecordKey::decode(&bytes) {
                proptest::prop_assert_eq!(key.encode(), bytes);
            }
        }
    }
}
