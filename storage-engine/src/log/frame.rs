//! One frame: a commit. Layout (big-endian):
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `ABF1` |
//! | 4 | 4 | CRC-32C of bytes 8..128 and of the rows |
//! | 8 | 4 | length of the data |
//! | 12 | 4 | length of the rows |
//! | 16 | 8 | log position of this frame |
//! | 24 | 8 | log position known durable when it was written |
//! | 32 | 8 | epoch |
//! | 40 | 16 | timeline |
//! | 56 | 32 | BLAKE3 of the data (zeros without data) |
//! | 88 | 32 | chain: BLAKE3 of (chain of the frame before, bytes 8..88, rows) |
//! | 120 | 8 | reserved, zero |
//! | 128 | | data, then rows, then zeros up to a multiple of 8 |
//!
//! The chain covers the data through its hash, so a snapshot's digest fixes every byte before it.

use crate::codec::{Reader, Writer};
use crate::error::{Error, Result};
use crate::ids::{Epoch, FileId, Position, TimelineId};

/// Bytes of a frame before its data.
pub(crate) const HEADER_BYTES: usize = 128;
/// A frame carries at most this much data, and at most this much of rows.
pub(crate) const MAX_PART_BYTES: usize = 64 << 20;
const MAGIC: [u8; 4] = *b"ABF1";
/// Frames start at multiples of this.
pub(crate) const ALIGN: usize = 8;

/// BLAKE3 hash of the history up to a frame.
pub(crate) type Chain = [u8; 32];

/// The fixed part of a frame.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Header {
    pub data_len: u32,
    pub rows_len: u32,
    pub position: Position,
    pub durable: Position,
    pub epoch: Epoch,
    pub timeline: TimelineId,
    pub data_hash: [u8; 32],
    pub chain: Chain,
    crc: u32,
}

impl Header {
    /// Bytes from this frame's start to the next one's.
    pub fn total(&self) -> u64 {
        total(self.data_len as usize, self.rows_len as usize)
    }

    /// Decodes a header; `None` if there is no frame here (wrong magic or impossible lengths). The
    /// checksum is not looked at yet.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let mut r = Reader::new(bytes, "a frame header");
        let header = (|| -> Result<Self> {
            if r.array::<4>()? != MAGIC {
                return Err(r.bad("has the wrong magic"));
            }
            let crc = r.u32()?;
            Ok(Self {
                crc,
                data_len: r.u32()?,
                rows_len: r.u32()?,
                position: Position(r.u64()?),
                durable: Position(r.u64()?),
                epoch: Epoch(r.u64()?),
                timeline: TimelineId(r.array()?),
                data_hash: r.array()?,
                chain: r.array()?,
            })
        })()
        .ok()?;
        let sane = header.data_len as usize <= MAX_PART_BYTES
            && header.rows_len as usize <= MAX_PART_BYTES
            && bytes[120..] == [0; 8];
        sane.then_some(header)
    }

    /// Whether header and rows are what was written.
    pub fn intact(&self, bytes: &[u8; HEADER_BYTES], rows: &[u8]) -> bool {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[8..]), rows) == self.crc
    }

    /// The chain value that this frame must carry after `previous`.
    pub fn expected_chain(previous: &Chain, bytes: &[u8; HEADER_BYTES], rows: &[u8]) -> Chain {
        chain_of(previous, &bytes[8..88], rows)
    }
}

fn chain_of(previous: &Chain, head: &[u8], rows: &[u8]) -> Chain {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous).update(head).update(rows);
    *hasher.finalize().as_bytes()
}

/// Bytes that a frame with so much data and rows takes.
pub(crate) fn total(data_len: usize, rows_len: usize) -> u64 {
    ((HEADER_BYTES + data_len + rows_len).next_multiple_of(ALIGN)) as u64
}

/// What goes into a header besides what the log knows.
pub(crate) struct Parts<'a> {
    pub epoch: Epoch,
    pub timeline: TimelineId,
    pub data_len: usize,
    pub data_hash: [u8; 32],
    pub rows: &'a [u8],
}

/// Encodes a header and gives the new chain value.
pub(crate) fn encode_header(
    parts: &Parts<'_>,
    position: Position,
    durable: Position,
    previous: &Chain,
) -> Result<([u8; HEADER_BYTES], Chain)> {
    if parts.data_len > MAX_PART_BYTES || parts.rows.len() > MAX_PART_BYTES {
        return Err(Error::invalid(
            "one commit holds more than 64 MiB: write it in smaller pieces",
        ));
    }
    let mut w = Writer(Vec::with_capacity(HEADER_BYTES));
    w.bytes(&MAGIC)
        .u32(0)
        .u32(parts.data_len as u32)
        .u32(parts.rows.len() as u32);
    w.u64(position.0)
        .u64(durable.0)
        .u64(parts.epoch.0)
        .bytes(&parts.timeline.0)
        .bytes(&parts.data_hash);
    let chain = chain_of(previous, &w.0[8..88], parts.rows);
    w.bytes(&chain).u64(0);
    let mut bytes = [0; HEADER_BYTES];
    bytes.copy_from_slice(&w.0);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[8..]), parts.rows);
    bytes[4..8].copy_from_slice(&crc.to_be_bytes());
    Ok((bytes, chain))
}

/// A change that a frame makes to the index.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Row {
    /// A version of a record of the frame's timeline, at the frame's epoch.
    Record { key: Vec<u8>, value: Vec<u8> },
    /// A deadlist record of the frame's timeline.
    Dead { value: Vec<u8> },
    /// A catalog record, set.
    Catalog { key: Vec<u8>, value: Vec<u8> },
    /// The request that this frame carries out, and what it was answered.
    Reply {
        connection: u64,
        unique: u64,
        ino: u64,
        size: u64,
    },
    /// A version of the frame's timeline that no state needs any more is gone.
    Drop { key: Vec<u8>, epoch: Epoch },
    /// A deadlist record of the frame's timeline is gone: its bytes were given back.
    Free {
        death: Epoch,
        frame: Position,
        number: u32,
    },
    /// Everything of the frame's timeline is gone.
    Empty,
    /// So many deadlist records stood here: they are gone. Only in compacted segments.
    Skipped { count: u32 },
    /// What of a run of stored bytes was given up, but not given back yet, set; nothing: no more of it.
    Residue {
        file: FileId,
        offset: u64,
        value: Vec<u8>,
    },
}

mod row_tag {
    pub const RECORD: u8 = 1;
    pub const DEAD: u8 = 2;
    pub const CATALOG: u8 = 3;
    pub const REPLY: u8 = 4;
    pub const DROP: u8 = 5;
    pub const FREE: u8 = 6;
    pub const EMPTY: u8 = 7;
    pub const RESIDUE: u8 = 8;
    pub const SKIPPED: u8 = 9;
}

/// Encodes rows: a tag, then the fields; keys have a 16-bit length, values a 32-bit one.
pub(crate) fn encode_rows(rows: &[Row]) -> Vec<u8> {
    let mut w = Writer(Vec::with_capacity(256));
    for row in rows {
        match row {
            Row::Record { key, value } => w.u8(row_tag::RECORD).short(key).long(value),
            Row::Dead { value } => w.u8(row_tag::DEAD).long(value),
            Row::Catalog { key, value } => w.u8(row_tag::CATALOG).short(key).long(value),
            Row::Reply {
                connection,
                unique,
                ino,
                size,
            } => w
                .u8(row_tag::REPLY)
                .u64(*connection)
                .u64(*unique)
                .u64(*ino)
                .u64(*size),
            Row::Drop { key, epoch } => w.u8(row_tag::DROP).short(key).u64(epoch.0),
            Row::Free {
                death,
                frame,
                number,
            } => w.u8(row_tag::FREE).u64(death.0).u64(frame.0).u32(*number),
            Row::Empty => w.u8(row_tag::EMPTY),
            Row::Skipped { count } => w.u8(row_tag::SKIPPED).u32(*count),
            Row::Residue {
                file,
                offset,
                value,
            } => w
                .u8(row_tag::RESIDUE)
                .bytes(&file.0)
                .u64(*offset)
                .long(value),
        };
    }
    w.0
}

/// Decodes the rows of a frame.
pub(crate) fn decode_rows(bytes: &[u8]) -> Result<Vec<Row>> {
    let mut r = Reader::new(bytes, "a frame's rows");
    let mut rows = Vec::new();
    while r.remaining() > 0 {
        rows.push(match r.u8()? {
            row_tag::RECORD => Row::Record {
                key: r.short()?.to_vec(),
                value: r.long()?.to_vec(),
            },
            row_tag::DEAD => Row::Dead {
                value: r.long()?.to_vec(),
            },
            row_tag::CATALOG => Row::Catalog {
                key: r.short()?.to_vec(),
                value: r.long()?.to_vec(),
            },
            row_tag::REPLY => Row::Reply {
                connection: r.u64()?,
                unique: r.u64()?,
                ino: r.u64()?,
                size: r.u64()?,
            },
            row_tag::DROP => Row::Drop {
                key: r.short()?.to_vec(),
                epoch: Epoch(r.u64()?),
            },
            row_tag::FREE => Row::Free {
                death: Epoch(r.u64()?),
                frame: Position(r.u64()?),
                number: r.u32()?,
            },
            row_tag::EMPTY => Row::Empty,
            row_tag::SKIPPED => Row::Skipped { count: r.u32()? },
            row_tag::RESIDUE => Row::Residue {
                file: FileId(r.array()?),
                offset: r.u64()?,
                value: r.long()?.to_vec(),
            },
            other => return Err(r.bad(&format!("have the unknown tag {other}"))),
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_back_as_they_were_written() {
        let rows = vec![
            Row::Record {
                key: vec![1, 2],
                value: vec![3],
            },
            Row::Dead { value: vec![9; 10] },
            Row::Catalog {
                key: b"t".to_vec(),
                value: b"{}".to_vec(),
            },
            Row::Reply {
                connection: 1,
                unique: 2,
                ino: 3,
                size: 4,
            },
            Row::Drop {
                key: vec![8],
                epoch: Epoch(7),
            },
            Row::Free {
                death: Epoch(9),
                frame: Position(640),
                number: 2,
            },
            Row::Empty,
            Row::Skipped { count: 70_000 },
            Row::Residue {
                file: FileId([3; 16]),
                offset: 77,
                value: vec![1, 2, 3],
            },
        ];
        assert_eq!(decode_rows(&encode_rows(&rows)).unwrap(), rows);
    }

    #[test]
    fn a_header_is_read_back_and_every_flipped_bit_is_found() {
        let rows = b"rows".to_vec();
        let parts = Parts {
            epoch: Epoch(5),
            timeline: TimelineId([2; 16]),
            data_len: 3,
            data_hash: [4; 32],
            rows: &rows,
        };
        let (bytes, chain) = encode_header(&parts, Position(640), Position(512), &[7; 32]).unwrap();
        let header = Header::decode(&bytes).unwrap();
        assert!(header.intact(&bytes, &rows));
        assert_eq!(header.chain, chain);
        assert_eq!(Header::expected_chain(&[7; 32], &bytes, &rows), chain);
        assert_eq!(
            (header.position, header.durable, header.epoch),
            (Position(640), Position(512), Epoch(5))
        );
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = Header::decode(&flipped).is_none_or(|h| !h.intact(&flipped, &rows));
            assert!(found, "bit {bit} was flipped unseen");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_row_decoder_panic(bytes: Vec<u8>) {
            if let Ok(rows) = decode_rows(&bytes) {
                proptest::prop_assert_eq!(encode_rows(&rows), bytes);
            }
        }
    }
}
