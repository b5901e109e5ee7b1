//! Segment files: names and headers.
//!
//! A segment is named `<first half of the store id>-<writer term>-<number>.seg`, all in hexadecimal,
//! which is its file id as well, so that two writers can never make the same one. Header (128 bytes,
//! big-endian): magic `ANBSEG` 00 01 (8), file id (16), log position of the header u64, chain before
//! the first frame (32), CRC-32C of the bytes before u32, zeros.

use std::path::{Path, PathBuf};

use crate::codec::{Reader, Writer};
use crate::error::{Error, Result};
use crate::fs::File;
use crate::ids::{FileId, Position};

use super::compacted::{self, CompactedHeader};
use super::frame::Chain;

/// Bytes of a segment before its first frame.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 128;
const MAGIC: [u8; 8] = *b"ANBSEG\0\x01";
const CRC_AT: usize = 64;

/// What a segment's header says.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct SegmentHeader {
    pub id: FileId,
    /// Position of the header's first byte.
    pub base: Position,
    /// Chain before the first frame.
    pub chain: Chain,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut w = Writer(Vec::with_capacity(SEGMENT_HEADER_BYTES));
        w.bytes(&MAGIC)
            .bytes(&self.id.0)
            .u64(self.base.0)
            .bytes(&self.chain);
        debug_assert_eq!(w.0.len(), CRC_AT);
        let crc = crc32c::crc32c(&w.0);
        w.u32(crc);
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..w.0.len()].copy_from_slice(&w.0);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes, "a segment header");
        let magic: [u8; 8] = r.array()?;
        let intact = bytes
            .split_at_checked(CRC_AT)
            .is_some_and(|(head, rest)| rest.starts_with(&crc32c::crc32c(head).to_be_bytes()));
        if magic[..6] == MAGIC[..6] && magic != MAGIC && magic != compacted::MAGIC && intact {
            return Err(Error::new(
                crate::error::ErrorKind::UnsupportedFormat,
                format!(
                    "segment format {} is newer than this version knows (2)",
                    magic[7]
                ),
            ));
        }
        if magic != MAGIC {
            return Err(r.bad("has the wrong magic"));
        }
        let header = Self {
            id: FileId(r.array()?),
            base: Position(r.u64()?),
            chain: r.array()?,
        };
        if !intact {
            return Err(r.bad("does not match its checksum"));
        }
        Ok(header)
    }
}

/// The header of a segment, and that of a compacted one if it is one.
///
/// # Errors
/// `UnsupportedFormat`; `Corrupt` if there is none.
pub(crate) fn read_header(
    file: &dyn File,
    len: u64,
) -> Result<(SegmentHeader, Option<CompactedHeader>)> {
    if len < SEGMENT_HEADER_BYTES as u64 {
        return Err(Error::corrupt("it is shorter than a segment header"));
    }
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|e| Error::corrupt(format!("its header cannot be read: {e}")))?;
    let written = SegmentHeader::decode(&bytes);
    let compacted = match &written {
        Ok(_) => None,
        Err(_) => compacted::header_of(file)?,
    };
    let Some(compacted) = compacted else {
        return Ok((written?, None));
    };
    let header = SegmentHeader {
        id: compacted.id,
        base: compacted.base,
        chain: compacted.chain,
    };
    Ok((header, Some(compacted)))
}

/// The file id of a segment.
pub(crate) fn segment_id(store: &[u8; 16], term: u32, number: u32) -> FileId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&store[..8]);
    id[8..12].copy_from_slice(&term.to_be_bytes());
    id[12..].copy_from_slice(&number.to_be_bytes());
    FileId(id)
}

/// The writer term in a segment's file id.
pub(crate) fn segment_term(id: FileId) -> u32 {
    u32::from_be_bytes([id.0[8], id.0[9], id.0[10], id.0[11]])
}

/// Where a segment is.
pub(crate) fn segment_path(log_dir: &Path, id: FileId) -> PathBuf {
    let hex = hex::encode(id.0);
    log_dir.join(format!(
        "{}-{}-{}.seg",
        &hex[..16],
        &hex[16..24],
        &hex[24..]
    ))
}

/// The file id that a file name stands for; `None` if it is no segment's name.
pub(crate) fn parse_segment_name(name: &str) -> Option<FileId> {
    let stem = name.strip_suffix(".seg")?;
    let parts: Vec<&str> = stem.split('-').collect();
    let [store, term, number] = parts[..] else {
        return None;
    };
    if store.len() != 16 || term.len() != 8 || number.len() != 8 {
        return None;
    }
    let mut id = [0; 16];
    hex::decode_to_slice(format!("{store}{term}{number}"), &mut id).ok()?;
    Some(FileId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_headers_are_read_back() {
        let id = segment_id(&[0xab; 16], 3, 17);
        let path = segment_path(Path::new("log"), id);
        assert_eq!(
            path.to_str().unwrap(),
            "log/abababababababab-00000003-00000011.seg"
        );
        assert_eq!(
            parse_segment_name(path.file_name().unwrap().to_str().unwrap()),
            Some(id)
        );
        assert_eq!(parse_segment_name("x.seg"), None);
        assert_eq!(segment_term(id), 3);
        let header = SegmentHeader {
            id,
            base: Position(99),
            chain: [5; 32],
        };
        assert_eq!(SegmentHeader::decode(&header.encode()).unwrap(), header);
        let mut flipped = header.encode();
        flipped[20] ^= 1;
        assert!(SegmentHeader::decode(&flipped).is_err());
    }
}
