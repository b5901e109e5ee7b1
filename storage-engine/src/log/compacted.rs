//! Compacted segments: what the collector makes of a full segment when most of it is garbage.
//!
//! It takes the segment's place, under its name, for the same stretch of the log, and holds what the index
//! still needs of it: the rows that say something, frame by frame and in their order, and the blocks of
//! runs that some version refers to. Extents name the place that a run had when it was written; a table
//! says where its bytes are now. So a compaction changes no record, and nobody but who reads bytes or the
//! log notices it.
//!
//! Frames are left out, so the chain cannot be computed over the stretch any more. The header has the
//! chain before and behind it, and marks have it where snapshots need it; a hash over all of this is in a frame of the
//! log behind (see `catalog::SegmentRecord`), which the chain covers.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic: `ANBSEG`, 00, format 02 |
//! | 8 | 16 | file id |
//! | 24 | 8 | log position of the segment's first byte |
//! | 32 | 32 | chain before its first frame |
//! | 64 | 8 | log position behind its last frame |
//! | 72 | 32 | chain there |
//! | 104 | 8 | log position that was looked back from: what later frames do is not taken into account |
//! | 112 | 4 | length of tables and frames |
//! | 116 | 4 | number of marks |
//! | 120 | 4 | number of pieces |
//! | 124 | 4 | number of frames |
//! | 128 | 4 | CRC-32C of marks and pieces |
//! | 132 | 4 | zeros |
//! | 136 | 32 | BLAKE3 of tables and frames |
//! | 168 | 8 | epoch of the first frame |
//! | 176 | 8 | epoch of the last frame |
//! | 184 | 4 | CRC-32C of bytes 0..184 |
//! | 188 | 4 | zeros |
//! | 192 | | marks, pieces, frames, then the bytes |
//! | | 192 | the header once more: what stands here can be placed without the first one |

use std::io;
use std::sync::Arc;

use crate::codec::{Reader, Writer};
use crate::error::{Error, Result};
use crate::fs::{File, Metadata};
use crate::ids::{Epoch, FileId, Position, TimelineId};

use super::frame::{self, Chain, Row};

/// Bytes of the header.
pub(crate) const COMPACTED_HEADER_BYTES: usize = 192;
/// What tells it from a segment as it was written.
pub(super) const MAGIC: [u8; 8] = *b"ANBSEG\0\x02";
const CRC_AT: usize = 184;
const MARK_BYTES: usize = 40;
const PIECE_BYTES: usize = 60;

/// The fixed part of a compacted segment.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct CompactedHeader {
    pub id: FileId,
    /// Position of the segment's first byte.
    pub base: Position,
    /// Chain before its first frame.
    pub chain: Chain,
    /// Position behind its last frame.
    pub end: Position,
    /// Chain there.
    pub end_chain: Chain,
    /// What frames up to here took away is not in it.
    pub seen: Position,
    /// Epochs of its first and its last frame; zeros without any.
    pub epochs: (Epoch, Epoch),
    meta_len: u32,
    marks: u32,
    pieces: u32,
    frames: u32,
    tables_crc: u32,
    meta_hash: [u8; 32],
}

/// The chain at a position that a snapshot needs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Mark {
    pub position: Position,
    pub chain: Chain,
}

/// A part of a run that is stored, and whose it is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Piece {
    /// Who wrote it, and into which chunk.
    pub timeline: TimelineId,
    pub ino: u64,
    pub chunk: u32,
    /// Where the run stood when it was written: extents name that.
    pub run: u64,
    pub length: u32,
    /// Bytes `[from, from + take)` of the run ...
    pub from: u32,
    pub take: u32,
    /// ... stand here.
    pub at: u64,
    /// CRC-32C of these bytes.
    pub sum: u32,
}

impl Piece {
    /// Reads the bytes and compares them with their checksum; a text says what is wrong. Cost: the bytes, in steps of 1 MiB.
    pub fn problem(&self, file: &dyn File) -> Option<String> {
        const STEP: usize = 1 << 20;
        let mut buffer = vec![0; STEP.min(self.take as usize)];
        let (mut sum, mut at, mut left) = (0, self.at, self.take as usize);
        while left > 0 {
            let n = left.min(buffer.len());
            if let Err(e) = file.read_exact_at(&mut buffer[..n], at) {
                return Some(format!("the {} bytes here cannot be read: {e}", self.take));
            }
            sum = crc32c::crc32c_append(sum, &buffer[..n]);
            (at, left) = (at + n as u64, left - n);
        }
        (sum != self.sum)
            .then(|| format!("the {} bytes here do not match their checksum", self.take))
    }
}

/// What is left of a frame.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct KeptFrame {
    pub position: Position,
    pub epoch: Epoch,
    pub timeline: TimelineId,
    pub rows: Vec<Row>,
}

/// Everything but the bytes of runs.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Meta {
    /// By position.
    pub marks: Vec<Mark>,
    /// By the place that their bytes had.
    pub pieces: Vec<Piece>,
    /// By position.
    pub frames: Vec<KeptFrame>,
}

/// The stretch of the log that a compacted segment stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub id: FileId,
    pub base: Position,
    pub chain: Chain,
    pub end: Position,
    pub end_chain: Chain,
    pub seen: Position,
}

impl Meta {
    /// Places the pieces' bytes behind header, tables and frames, one after the other, in their order.
    pub fn place(&mut self) -> Result<()> {
        let mut at = (COMPACTED_HEADER_BYTES + self.meta_len()?) as u64;
        for piece in &mut self.pieces {
            piece.at = at;
            at += u64::from(piece.take);
        }
        Ok(())
    }

    fn meta_len(&self) -> Result<usize> {
        let tables = self.marks.len() * MARK_BYTES + self.pieces.len() * PIECE_BYTES;
        Ok(tables + self.encode_frames()?.len())
    }

    /// Encodes header, tables and frames.
    ///
    /// # Errors
    /// `Invalid` if there is too much of it for its lengths.
    pub fn encode(&self, of: &Stretch) -> Result<Vec<u8>> {
        let number = |n: usize| {
            u32::try_from(n)
                .map_err(|_| Error::invalid("a segment of so many small parts cannot be compacted"))
        };
        let frames = self.encode_frames()?;
        let mut w = Writer::default();
        for mark in &self.marks {
            w.u64(mark.position.0).bytes(&mark.chain);
        }
        for p in &self.pieces {
            w.bytes(&p.timeline.0).u64(p.ino).u32(p.chunk);
            w.u64(p.run).u32(p.length).u32(p.from).u32(p.take);
            w.u64(p.at).u32(p.sum);
        }
        let tables_crc = crc32c::crc32c(&w.0);
        w.bytes(&frames);
        let meta = w.0;
        let epoch = |frame: Option<&KeptFrame>| frame.map_or(Epoch::ZERO, |f| f.epoch);
        let header = CompactedHeader {
            id: of.id,
            base: of.base,
            chain: of.chain,
            end: of.end,
            end_chain: of.end_chain,
            seen: of.seen,
            epochs: (epoch(self.frames.first()), epoch(self.frames.last())),
            meta_len: number(meta.len())?,
            marks: number(self.marks.len())?,
            pieces: number(self.pieces.len())?,
            frames: number(self.frames.len())?,
            tables_crc,
            meta_hash: *blake3::hash(&meta).as_bytes(),
        };
        let mut out = header.encode().to_vec();
        out.extend_from_slice(&meta);
        Ok(out)
    }

    /// Position u64, epoch u64, timeline, rows: length u32, and so on.
    fn encode_frames(&self) -> Result<Vec<u8>> {
        let mut w = Writer::default();
        for f in &self.frames {
            let rows = frame::encode_rows(&f.rows);
            if rows.len() > frame::MAX_PART_BYTES {
                return Err(Error::invalid("the rows of a frame are too long"));
            }
            w.u64(f.position.0).u64(f.epoch.0).bytes(&f.timeline.0);
            w.long(&rows);
        }
        Ok(w.0)
    }

    /// The chain at a position of the stretch, if it is known.
    pub fn chain_at(&self, position: Position, header: &CompactedHeader) -> Option<Chain> {
        if position == header.end {
            return Some(header.end_chain);
        }
        let mark = self.marks.iter().find(|m| m.position == position)?;
        Some(mark.chain)
    }

    /// Bytes that all of it takes, with those of the runs.
    pub fn size(&self) -> Result<u64> {
        let meta = COMPACTED_HEADER_BYTES + self.meta_len()?;
        let bytes: u64 = self.pieces.iter().map(|p| u64::from(p.take)).sum();
        Ok((meta + COMPACTED_HEADER_BYTES) as u64 + bytes)
    }
}

impl CompactedHeader {
    pub fn encode(&self) -> [u8; COMPACTED_HEADER_BYTES] {
        let mut w = Writer(Vec::with_capacity(COMPACTED_HEADER_BYTES));
        w.bytes(&MAGIC).bytes(&self.id.0).u64(self.base.0);
        w.bytes(&self.chain).u64(self.end.0).bytes(&self.end_chain);
        w.u64(self.seen.0).u32(self.meta_len).u32(self.marks);
        w.u32(self.pieces).u32(self.frames).u32(self.tables_crc);
        w.u32(0).bytes(&self.meta_hash);
        w.u64(self.epochs.0.0).u64(self.epochs.1.0);
        debug_assert_eq!(w.0.len(), CRC_AT);
        let crc = crc32c::crc32c(&w.0);
        w.u32(crc).u32(0);
        let mut bytes = [0; COMPACTED_HEADER_BYTES];
        bytes.copy_from_slice(&w.0);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes, "the header of a compacted segment");
        if r.array::<8>()? != MAGIC {
            return Err(r.bad("has the wrong magic"));
        }
        let (id, base, chain) = (FileId(r.array()?), Position(r.u64()?), r.array()?);
        let (end, end_chain, seen) = (Position(r.u64()?), r.array()?, Position(r.u64()?));
        let (meta_len, marks, pieces, frames) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        let (tables_crc, zeros, meta_hash) = (r.u32()?, r.u32()?, r.array()?);
        let epochs = (Epoch(r.u64()?), Epoch(r.u64()?));
        let (crc, end_zeros) = (r.u32()?, r.u32()?);
        if crc != crc32c::crc32c(&bytes[..CRC_AT]) {
            return Err(r.bad("does not match its checksum"));
        }
        let tables = u64::from(marks) * MARK_BYTES as u64 + u64::from(pieces) * PIECE_BYTES as u64;
        if zeros != 0 || end_zeros != 0 || tables > u64::from(meta_len) || end < base {
            return Err(r.bad("contradicts itself"));
        }
        Ok(Self {
            id,
            base,
            chain,
            end,
            end_chain,
            seen,
            epochs,
            meta_len,
            marks,
            pieces,
            frames,
            tables_crc,
            meta_hash,
        })
    }

    /// Whether anything is left of its frames.
    pub fn has_frames(&self) -> bool {
        self.frames > 0
    }

    /// What proves that a compacted segment is the one that was made: a hash over its header, which has one over the
    /// rest. (The bytes of runs have their checksums in the records.)
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&self.encode()).as_bytes()
    }

    /// Bytes before those of runs.
    #[cfg(test)]
    pub fn meta_bytes(&self) -> usize {
        COMPACTED_HEADER_BYTES + self.meta_len as usize
    }

    /// Everything but the bytes, verified. Cost: reads it.
    ///
    /// # Errors
    /// `Corrupt` if it is not what was written.
    pub fn meta(&self, file: &dyn File) -> Result<Meta> {
        let bytes = self.read(file, self.meta_len as usize)?;
        if *blake3::hash(&bytes).as_bytes() != self.meta_hash {
            return Err(Error::corrupt(
                "its tables or frames do not match their hash",
            ));
        }
        self.decode_meta(&bytes)
    }

    /// Decodes tables and frames.
    pub fn decode_meta(&self, bytes: &[u8]) -> Result<Meta> {
        let mut r = Reader::new(bytes, "a compacted segment");
        let mut meta = Meta::default();
        self.decode_tables(&mut r, &mut meta)?;
        let mut before = self.base;
        for _ in 0..self.frames {
            let (position, epoch) = (Position(r.u64()?), Epoch(r.u64()?));
            let timeline = TimelineId(r.array()?);
            let rows = frame::decode_rows(r.long()?)?;
            if position <= before || position >= self.end {
                return Err(r.bad("has frames out of their order"));
            }
            before = position;
            meta.frames.push(KeptFrame {
                position,
                epoch,
                timeline,
                rows,
            });
        }
        r.end()?;
        Ok(meta)
    }

    fn decode_tables(&self, r: &mut Reader<'_>, meta: &mut Meta) -> Result<()> {
        for _ in 0..self.marks {
            meta.marks.push(Mark {
                position: Position(r.u64()?),
                chain: r.array()?,
            });
        }
        let mut before = 0;
        for _ in 0..self.pieces {
            let (timeline, ino, chunk) = (TimelineId(r.array()?), r.u64()?, r.u32()?);
            let (run, length) = (r.u64()?, r.u32()?);
            let (from, take, at, sum) = (r.u32()?, r.u32()?, r.u64()?, r.u32()?);
            let inside = from.checked_add(take).is_some_and(|end| end <= length);
            let place = run.checked_add(u64::from(from));
            let Some(place) = place.filter(|p| inside && take > 0 && *p >= before) else {
                return Err(r.bad("has pieces that are out of order or leave their runs"));
            };
            before = place.saturating_add(u64::from(take));
            meta.pieces.push(Piece {
                timeline,
                ino,
                chunk,
                run,
                length,
                from,
                take,
                at,
                sum,
            });
        }
        Ok(())
    }

    /// The file as its extents see it. Cost: reads the tables; 16 bytes and a bit in memory for each piece.
    ///
    /// # Errors
    /// `Corrupt` if the tables are not what was written.
    pub fn translated(&self, file: Arc<dyn File>) -> Result<Translated> {
        let tables = self.marks as usize * MARK_BYTES + self.pieces as usize * PIECE_BYTES;
        let bytes = self.read(&*file, tables)?;
        if crc32c::crc32c(&bytes) != self.tables_crc {
            return Err(Error::corrupt(
                "the table of what it stores does not match its checksum",
            ));
        }
        let mut meta = Meta::default();
        let mut r = Reader::new(&bytes, "the tables of a compacted segment");
        self.decode_tables(&mut r, &mut meta)?;
        let places = meta.pieces.iter();
        let places = places
            .map(|p| (p.run + u64::from(p.from), p.take, p.at))
            .collect();
        Ok(Translated { file, places })
    }

    fn read(&self, file: &dyn File, len: usize) -> Result<Vec<u8>> {
        let there = file
            .metadata()
            .map_err(|e| Error::corrupt(format!("it cannot be looked at: {e}")))?
            .len;
        if there < (2 * COMPACTED_HEADER_BYTES + len) as u64 {
            return Err(Error::corrupt("it is shorter than its header says"));
        }
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, COMPACTED_HEADER_BYTES as u64)
            .map_err(|e| Error::corrupt(format!("it cannot be read: {e}")))?;
        Ok(bytes)
    }
}

/// The header of an open segment if it is a compacted one: the first one, or if that is damaged the last one.
///
/// # Errors
/// `Corrupt` if it says that it is one, and neither can be read.
pub(crate) fn header_of(file: &dyn File) -> Result<Option<CompactedHeader>> {
    let bytes = header_bytes(file, 0)?;
    if let Some(bytes) = &bytes
        && let Ok(header) = CompactedHeader::decode(bytes)
    {
        return Ok(Some(header));
    }
    let len = file
        .metadata()
        .map_err(|e| Error::corrupt(format!("it cannot be looked at: {e}")))?
        .len;
    if let Some(at) = len.checked_sub(COMPACTED_HEADER_BYTES as u64)
        && let Some(bytes) = header_bytes(file, at)?
        && let Ok(header) = CompactedHeader::decode(&bytes)
    {
        return Ok(Some(header));
    }
    match bytes {
        Some(bytes) if bytes.starts_with(&MAGIC) => CompactedHeader::decode(&bytes).map(Some),
        _ => Ok(None),
    }
}

/// So many bytes as a header has, if there are so many.
fn header_bytes(file: &dyn File, at: u64) -> Result<Option<[u8; COMPACTED_HEADER_BYTES]>> {
    let mut bytes = [0; COMPACTED_HEADER_BYTES];
    match file.read_exact_at(&mut bytes, at) {
        Ok(()) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(Error::corrupt(format!("its header cannot be read: {e}"))),
    }
}

/// Where a header of a compacted segment is not what it has to be.
pub(crate) fn damaged_header(file: &dyn File, header: &CompactedHeader) -> Result<Option<u64>> {
    let len = file
        .metadata()
        .map_err(|e| Error::corrupt(format!("it cannot be looked at: {e}")))?
        .len;
    let last = len.saturating_sub(COMPACTED_HEADER_BYTES as u64);
    for at in [0, last] {
        if header_bytes(file, at)?.is_none_or(|bytes| bytes != header.encode()) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// A compacted segment under the offsets that its runs had when they were written.
#[derive(Debug)]
pub(crate) struct Translated {
    file: Arc<dyn File>,
    /// Offset then, length, offset now.
    places: Vec<(u64, u32, u64)>,
}

impl File for Translated {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = self.places.partition_point(|(then, ..)| *then <= offset);
        if let Some(&(then, len, now)) = n.checked_sub(1).and_then(|n| self.places.get(n)) {
            let into = offset - then;
            if into < u64::from(len) {
                let most = (u64::from(len) - into).min(out.len() as u64) as usize;
                return self.file.read_at(&mut out[..most], now + into);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "these bytes were given back",
        ))
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn reserve(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn punch(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn is_hole(&self, from: u64, to: u64) -> bool {
        let overlap = |&(then, len, _): &(u64, u32, u64)| then < to && then + u64::from(len) > from;
        !self.places.iter().any(overlap)
    }

    fn seal(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }
}
