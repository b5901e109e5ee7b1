//! Reading the log back: recovery after a stop, and walks over the whole history.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, IoContext, Result};
use crate::fs::{Access, File};
use crate::ids::{Epoch, Position, TimelineId};
use crate::index::keys::RecordKey;
use crate::index::records::{self, Chunk, Extent, Record, SUM_BYTES};
use crate::planted::{Bug, planted};
use crate::store::Layout;

use super::compacted::CompactedHeader;
use super::frame::{self, ALIGN, Chain, HEADER_BYTES, Header, Row};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, parse_segment_name, read_header};

/// The collector gives whole blocks of so many bytes of a file back.
pub(crate) const GIVEN_BACK_BYTES: u64 = 4096;

/// A segment found on disk.
pub(crate) struct SegmentFile {
    pub path: PathBuf,
    pub header: SegmentHeader,
    pub file: Arc<dyn File>,
    /// Bytes of the file; the end of the last frame once the tail has been looked at.
    pub len: u64,
    /// It is the last one, but another one was being made, which happens only when this one is durable.
    pub followed: bool,
    /// The collector has compacted it: it has no frames of its own any more.
    pub compacted: Option<CompactedHeader>,
}

impl SegmentFile {
    fn position(&self, offset: u64) -> Position {
        Position(self.header.base.0 + offset)
    }
}

/// The chain in a header that cannot be read.
pub(crate) const UNKNOWN_CHAIN: Chain = [0xff; 32];

/// One frame read back.
pub(crate) struct Frame {
    pub header: Header,
    pub rows: Vec<Row>,
}

/// All segments, oldest first. A file whose making was cut short (no readable header, no frame in it)
/// is removed: nothing was ever in it.
pub(crate) fn segments(layout: &Layout) -> Result<Vec<SegmentFile>> {
    let dir = layout.log();
    let mut found: Vec<SegmentFile> = Vec::new();
    let (mut removed, mut unreadable) = (Vec::new(), Vec::new());
    for name in layout.fs.list(&dir).context("list", &dir)? {
        let Some(id) = name.to_str().and_then(parse_segment_name) else {
            continue;
        };
        let path = dir.join(&name);
        let file = layout
            .fs
            .open(&path, Access::Write)
            .context("open", &path)?;
        let len = file.metadata().context("stat", &path)?.len;
        match read_header(&*file, len) {
            Ok((header, compacted)) if header.id == id => found.push(SegmentFile {
                path,
                header,
                file,
                len,
                followed: false,
                compacted,
            }),
            Ok(_) => {
                return Err(Error::corrupt(format!(
                    "{} was renamed: its header names another segment",
                    path.display()
                )));
            }
            Err(e) if e.kind() == crate::ErrorKind::UnsupportedFormat => {
                return Err(Error::new(e.kind(), format!("{}: {e}", path.display())));
            }
            Err(e) => {
                let mut probe = SegmentFile {
                    path: path.clone(),
                    header: SegmentHeader {
                        id,
                        base: Position(0),
                        chain: UNKNOWN_CHAIN,
                    },
                    file,
                    len,
                    followed: false,
                    compacted: None,
                };
                // The header says nothing that the frames do not: what is in them must not be lost with it.
                if let Some(base) = place_by_first_frame(&probe)? {
                    tracing::error!(segment = %path.display(), error = %e,
                        "a segment's header is damaged; its frames say where it belongs");
                    probe.header.base = base;
                    found.push(probe);
                    continue;
                }
                if any_frame(&probe, SEGMENT_HEADER_BYTES as u64, |_, _| true)?.is_some() {
                    return Err(Error::corrupt(format!(
                        "{} is damaged at offset 0 ({e}): the commits in it cannot be placed",
                        path.display()
                    )));
                }
                unreadable.push((id, path));
            }
        }
    }
    found.sort_by_key(|s| s.header.base);
    for (id, path) in unreadable {
        // Where the log goes on without it, nothing was ever in it.
        if let Some(at) = gap(&found) {
            return Err(Error::corrupt(format!(
                "{} is damaged: nothing of it can be read, and the log lacks what follows position {at}",
                path.display()
            )));
        }
        layout.fs.remove(&path).context("remove", &path)?;
        // The writer term and the number: what was made later has the greater one.
        removed.push(id.0[8..].to_vec());
    }
    if let Some(last) = found.last_mut() {
        last.followed = removed.iter().any(|id| id[..] > last.header.id.0[8..]);
    }
    Ok(found)
}

/// Where segments, in the order of their positions, do not follow one another.
fn gap(segments: &[SegmentFile]) -> Option<Position> {
    let mut at = Position(0);
    for (n, s) in segments.iter().enumerate() {
        if s.header.base != at {
            return Some(at);
        }
        at = match &s.compacted {
            Some(header) => header.end,
            // The last one may have been cut short by the same stop.
            None if n + 1 == segments.len() => return None,
            None => s.position(s.len),
        };
    }
    None
}

/// Header, its bytes, and rows of a frame.
pub(crate) type Head = (Header, [u8; HEADER_BYTES], Vec<u8>);

/// The header and rows at an offset if they are whole; otherwise why not. The data is not looked at.
pub(crate) fn read_head(
    segment: &SegmentFile,
    offset: u64,
) -> std::io::Result<std::result::Result<Head, &'static str>> {
    let mut bytes = [0; HEADER_BYTES];
    if offset + HEADER_BYTES as u64 > segment.len {
        return Ok(Err("the file is cut short"));
    }
    segment.file.read_exact_at(&mut bytes, offset)?;
    let Some(header) = Header::decode(&bytes) else {
        return Ok(Err("there is no frame header"));
    };
    if offset + header.total() > segment.len {
        return Ok(Err("the frame is cut short, or its length is damaged"));
    }
    let mut rows = vec![0; header.rows_len as usize];
    let rows_at = offset + HEADER_BYTES as u64 + u64::from(header.data_len);
    segment.file.read_exact_at(&mut rows, rows_at)?;
    if !header.intact(&bytes, &rows) {
        return Ok(Err("the frame does not match its checksum"));
    }
    if header.position.0 != segment.header.base.0 + offset {
        return Ok(Err("the frame belongs to another position"));
    }
    Ok(Ok((header, bytes, rows)))
}

/// Makes what a segment holds from `from` on durable, whatever became of it before: it is written once more,
/// and synced. After a sync that failed, the kernel shows bytes that never came to the disk, and takes them
/// for written: another sync alone would prove nothing. Cost: the bytes, twice; holes cost nothing.
pub(crate) fn write_again(segment: &SegmentFile, from: u64) -> Result<()> {
    const WINDOW: u64 = 1 << 20;
    let mut buffer = Vec::new();
    let mut at = from;
    while at < segment.len {
        let end = segment.len.min((at / WINDOW + 1) * WINDOW);
        if !segment.file.is_hole(at, end) {
            buffer.resize((end - at) as usize, 0);
            segment
                .file
                .read_exact_at(&mut buffer, at)
                .context("read", &segment.path)?;
            let used = buffer.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
            segment
                .file
                .write_all_at(&buffer[..used], at)
                .context("write", &segment.path)?;
        }
        at = end;
    }
    // The length, too: zeros at the end are part of a frame.
    if let Some(end) = segment.len.checked_sub(1)
        && end >= from
    {
        let mut last = [0];
        segment
            .file
            .read_exact_at(&mut last, end)
            .and_then(|()| segment.file.write_all_at(&last, end))
            .context("write", &segment.path)?;
    }
    segment.file.sync_data().context("sync", &segment.path)
}

/// The state of the log that the index already has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Applied {
    pub position: Position,
    pub chain: Chain,
}

/// One step of the replay: what the index does not have yet.
pub(crate) struct Step {
    pub timeline: TimelineId,
    pub epoch: Epoch,
    /// Where the frame stands, or stood.
    pub frame: Position,
    pub rows: Vec<Row>,
    /// The log behind it.
    pub applied: Applied,
    /// Bytes read for it.
    pub bytes: u64,
    /// Whether it is a frame.
    pub is_frame: bool,
}

impl Step {
    fn of(frame: Frame) -> Self {
        let header = frame.header;
        Self {
            timeline: header.timeline,
            epoch: header.epoch,
            frame: header.position,
            rows: frame.rows,
            applied: Applied {
                position: Position(header.position.0 + header.total()),
                chain: header.chain,
            },
            bytes: header.total(),
            is_frame: true,
        }
    }
}

/// Walks what is left of a compacted segment. Before its end the index is at no place from which it could go on.
pub(crate) fn replay_compacted(
    segment: &SegmentFile,
    header: &CompactedHeader,
    mut each: impl FnMut(Step) -> Result<()>,
) -> Result<Applied> {
    let meta = header.meta(&*segment.file).map_err(|e| {
        Error::corrupt(format!(
            "{} is damaged: {e}; the commits from position {} up to position {} are affected",
            segment.path.display(),
            header.base,
            header.end
        ))
    })?;
    for f in meta.frames {
        each(Step {
            timeline: f.timeline,
            epoch: f.epoch,
            frame: f.position,
            rows: f.rows,
            applied: Applied {
                position: f.position,
                chain: [0; 32],
            },
            bytes: 0,
            is_frame: true,
        })?;
    }
    let end = Applied {
        position: header.end,
        chain: header.end_chain,
    };
    each(Step {
        timeline: TimelineId([0; 16]),
        epoch: header.epochs.1,
        frame: header.end,
        rows: Vec::new(),
        applied: end,
        bytes: segment.len,
        is_frame: false,
    })?;
    Ok(end)
}

/// Walks the frames after `applied`, oldest first, and cuts a torn tail. Returns the end of the log.
///
/// # Errors
/// `Corrupt`, naming file and offset, for damage before the tail: a frame that cannot be read although
/// it is known to have been durable. Nothing is changed then.
pub(crate) fn replay(
    segments: &mut [SegmentFile],
    applied: Applied,
    mut each: impl FnMut(Step) -> Result<()>,
) -> Result<Applied> {
    let mut end = applied;
    for n in 0..segments.len() {
        let last = n + 1 == segments.len();
        let next_base = segments.get(n + 1).map(|s| s.header.base);
        let segment = &segments[n];
        if next_base.is_some_and(|base| base <= applied.position) {
            continue;
        }
        if segment.header.base > end.position {
            return Err(Error::corrupt(format!(
                "the log lacks the segment before {} (positions {} to {})",
                segment.path.display(),
                end.position,
                segment.header.base
            )));
        }
        if segment.header.base == end.position {
            // The chain goes over the border of two segments. (Where it is unknown, the frames are held against it.)
            if segment.header.chain != end.chain && segment.header.chain != UNKNOWN_CHAIN {
                return Err(Error::corrupt(format!(
                    "{} does not continue the segment before it: a segment was replaced or removed",
                    segment.path.display()
                )));
            }
            if let Some(header) = &segment.compacted {
                end = replay_compacted(segment, header, &mut each)?;
                if let Some(base) = next_base
                    && end.position != base
                {
                    return Err(Error::corrupt(format!(
                        "the log lacks the segment behind {} (positions {} to {base})",
                        segment.path.display(),
                        end.position
                    )));
                }
                continue;
            }
            end.position = segment.position(SEGMENT_HEADER_BYTES as u64);
        } else if let Some(header) = &segment.compacted {
            if header.end <= applied.position {
                continue;
            }
            return Err(Error::corrupt(format!(
                "the index has the log up to position {}, within {}, which was compacted since: it is older than the log",
                end.position,
                segment.path.display()
            )));
        }
        let mut offset = end.position.0 - segment.header.base.0;
        if offset > segment.len {
            // The index is written after the log is synced: what it has was there.
            return Err(damaged(
                segment,
                segment.len,
                "the file ends before what the index has of it",
                Some(end.position),
            ));
        }
        let stop = loop {
            match read_frame(segment, offset, Some(&end.chain), !last || segment.followed)? {
                Found::Frame(frame) => {
                    offset += frame.header.total();
                    end = Applied {
                        position: segment.position(offset),
                        chain: frame.header.chain,
                    };
                    each(Step::of(*frame))?;
                }
                Found::End => break None,
                Found::BadData(_) => break Some(BAD_DATA),
                Found::Bad(why) => break Some(why),
            }
        };
        if !last {
            // A later segment is only made when this one is durable to its end.
            if let Some(base) = next_base
                && segment.position(offset) < base
            {
                if stop.is_none() && offset >= segment.len {
                    return Err(Error::corrupt(format!(
                        "the log lacks the segment behind {} (positions {} to {base})",
                        segment.path.display(),
                        segment.position(offset)
                    )));
                }
                return Err(damaged(
                    segment,
                    offset,
                    stop.unwrap_or("the frame is missing"),
                    Some(base),
                ));
            }
            continue;
        }
        if let Some(why) = stop {
            let position = segment.position(offset);
            let after = any_frame(segment, offset + ALIGN as u64, |at, h| {
                h.position == segment.position(at) && h.durable > position
            })?;
            if let Some(at) = after {
                return Err(damaged(segment, offset, why, Some(segment.position(at))));
            }
        }
        if offset < segment.len {
            let segment = &mut segments[n];
            segment
                .file
                .set_len(offset)
                .context("cut the torn tail of", &segment.path)?;
            segment.file.sync_all().context("sync", &segment.path)?;
            segment.len = offset;
        }
    }
    if end.position < applied.position || segments.is_empty() && applied.position > Position(0) {
        return Err(Error::corrupt(format!(
            "the log ends before position {}, which the index says was durable: segments are missing",
            applied.position
        )));
    }
    Ok(end)
}

fn damaged(segment: &SegmentFile, offset: u64, why: &str, until: Option<Position>) -> Error {
    let until = until.map_or_else(String::new, |p| format!(" up to position {p}"));
    Error::corrupt(format!(
        "{} is damaged at offset {offset}: {why}; the commits from position {}{until} are affected",
        segment.path.display(),
        segment.position(offset)
    ))
}

/// What stands at an offset.
pub(crate) enum Found {
    Frame(Box<Frame>),
    /// Zeros, or the end of the file.
    End,
    /// A whole frame, whose data does not match its hash.
    BadData(Box<Frame>),
    /// Something else.
    Bad(&'static str),
}

/// Reads and verifies the frame at `offset`: checksum, data hash, position and chain. Of a segment that is
/// `full` the collector may have given parts of the data back. Without a `previous` chain that is not verified.
pub(crate) fn read_frame(
    segment: &SegmentFile,
    offset: u64,
    previous: Option<&Chain>,
    full: bool,
) -> Result<Found> {
    if offset >= segment.len {
        return Ok(Found::End);
    }
    let mut bytes = [0; HEADER_BYTES];
    if offset + HEADER_BYTES as u64 > segment.len {
        return Ok(Found::Bad("the frame is cut short"));
    }
    segment
        .file
        .read_exact_at(&mut bytes, offset)
        .context("read", &segment.path)?;
    if bytes == [0; HEADER_BYTES] {
        return Ok(Found::End);
    }
    let Some(header) = Header::decode(&bytes) else {
        return Ok(Found::Bad("there is no frame header"));
    };
    if offset + header.total() > segment.len {
        return Ok(Found::Bad("the frame is cut short"));
    }
    let data_at = offset + HEADER_BYTES as u64;
    let mut rows = vec![0; header.rows_len as usize];
    segment
        .file
        .read_exact_at(&mut rows, data_at + u64::from(header.data_len))
        .context("read", &segment.path)?;
    if !header.intact(&bytes, &rows) {
        return Ok(Found::Bad("the frame does not match its checksum"));
    }
    if header.position != segment.position(offset) {
        return Ok(Found::Bad("the frame belongs to another position"));
    }
    let follows = previous
        .is_none_or(|previous| Header::expected_chain(previous, &bytes, &rows) == header.chain);
    let Ok(rows) = frame::decode_rows(&rows) else {
        return Ok(Found::Bad("the frame's rows cannot be decoded"));
    };
    if header.data_len > 0
        && !planted(Bug::TornTailAccepted)
        && data_hash(segment, data_at, header.data_len)? != header.data_hash
        && !(full && given_back(segment, data_at, header.data_len, &rows)?)
    {
        return Ok(Found::BadData(Box::new(Frame { header, rows })));
    }
    if !follows {
        return Ok(Found::Bad("the frame does not continue the one before it"));
    }
    Ok(Found::Frame(Box::new(Frame { header, rows })))
}

/// What is wrong with [`Found::BadData`].
pub(crate) const BAD_DATA: &str = "the data does not match its hash";

/// Hash of `len` bytes of data at an offset.
pub(crate) fn data_hash(segment: &SegmentFile, mut at: u64, len: u32) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; (len as usize).min(256 << 10)];
    let mut left = len as usize;
    while left > 0 {
        let n = left.min(buffer.len());
        segment
            .file
            .read_exact_at(&mut buffer[..n], at)
            .context("read", &segment.path)?;
        hasher.update(&buffer[..n]);
        at += n as u64;
        left -= n;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Whether data that does not match its hash is what the collector left of it, in a segment that was durable to
/// its end: every block of a run that the frame's rows name matches its checksum there, or was given back, and something
/// was. (Holes are not asked for: a copy of the store may have none. They read as zeros.)
pub(crate) fn given_back(segment: &SegmentFile, at: u64, len: u32, rows: &[Row]) -> Result<bool> {
    let holes = zero_blocks(segment, at, at + u64::from(len))?;
    if holes.is_empty() {
        return Ok(false);
    }
    let mut block = vec![0; SUM_BYTES as usize];
    for row in rows {
        let Row::Record { key, value } = row else {
            continue;
        };
        let Ok(key) = RecordKey::decode(key) else {
            continue;
        };
        let Ok(Some(Record::Chunk(Chunk::Extents(extents)))) = records::decode(&key, value) else {
            continue;
        };
        let here = |e: &&Extent| {
            e.file == segment.header.id
                && e.offset >= at
                && e.offset + u64::from(e.length) <= at + u64::from(len)
        };
        for e in extents.iter().filter(here) {
            for (n, sum) in e.sums.iter().enumerate() {
                let from = e.offset + n as u64 * u64::from(SUM_BYTES);
                let to = (from + u64::from(SUM_BYTES)).min(e.offset + u64::from(e.length));
                let bytes = &mut block[..(to - from) as usize];
                segment
                    .file
                    .read_exact_at(bytes, from)
                    .context("read", &segment.path)?;
                if crc32c::crc32c(bytes) != *sum && !is_given_back(&holes, from, to) {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

/// Whole blocks of the file in `[from, to)` that read as zeros.
fn zero_blocks(segment: &SegmentFile, from: u64, to: u64) -> Result<HashSet<u64>> {
    let end = to / GIVEN_BACK_BYTES * GIVEN_BACK_BYTES;
    let mut at = from.next_multiple_of(GIVEN_BACK_BYTES);
    let mut buffer = vec![0; 64 * GIVEN_BACK_BYTES as usize];
    let mut found = HashSet::new();
    while at < end {
        let n = ((end - at) as usize).min(buffer.len());
        segment
            .file
            .read_exact_at(&mut buffer[..n], at)
            .context("read", &segment.path)?;
        for block in buffer[..n].chunks(GIVEN_BACK_BYTES as usize) {
            if block.iter().all(|b| *b == 0) {
                found.insert(at);
            }
            at += block.len() as u64;
        }
    }
    Ok(found)
}

/// Whether all whole blocks of the file within `[from, to)` are among these; of a piece without one, whether a
/// block that it reaches into is (what stands beside it was given back with it).
fn is_given_back(holes: &HashSet<u64>, from: u64, to: u64) -> bool {
    let size = GIVEN_BACK_BYTES as usize;
    let (first, end) = (
        from.next_multiple_of(GIVEN_BACK_BYTES),
        to / GIVEN_BACK_BYTES * GIVEN_BACK_BYTES,
    );
    if first < end {
        return (first..end).step_by(size).all(|b| holes.contains(&b));
    }
    let reached = from / GIVEN_BACK_BYTES * GIVEN_BACK_BYTES;
    (reached..to).step_by(size).any(|b| holes.contains(&b))
}

/// Where a segment belongs whose header cannot be read: what its first frame says, if that is intact.
pub(crate) fn place_by_first_frame(segment: &SegmentFile) -> Result<Option<Position>> {
    const FIRST: u64 = SEGMENT_HEADER_BYTES as u64;
    let mut base = None;
    let mut bytes = [0; HEADER_BYTES];
    if FIRST + HEADER_BYTES as u64 > segment.len {
        return Ok(None);
    }
    segment
        .file
        .read_exact_at(&mut bytes, FIRST)
        .context("read", &segment.path)?;
    if let Some(header) = Header::decode(&bytes)
        && is_whole(segment, FIRST, &header, &bytes)?
    {
        base = header.position.0.checked_sub(FIRST).map(Position);
    }
    Ok(base)
}

/// Whether header and rows of the frame at an offset are there and match their checksum. The data is not looked at.
fn is_whole(
    segment: &SegmentFile,
    at: u64,
    header: &Header,
    bytes: &[u8; HEADER_BYTES],
) -> Result<bool> {
    if at + header.total() > segment.len {
        return Ok(false);
    }
    let mut rows = vec![0; header.rows_len as usize];
    let rows_at = at + HEADER_BYTES as u64 + u64::from(header.data_len);
    segment
        .file
        .read_exact_at(&mut rows, rows_at)
        .context("read", &segment.path)?;
    Ok(header.intact(bytes, &rows))
}

/// Offset of the first intact frame at or after `from` that `wanted` accepts.
pub(crate) fn any_frame(
    segment: &SegmentFile,
    from: u64,
    wanted: impl Fn(u64, &Header) -> bool,
) -> Result<Option<u64>> {
    const WINDOW: usize = 1 << 20;
    let mut at = from.next_multiple_of(ALIGN as u64);
    let mut window = vec![0; WINDOW + HEADER_BYTES];
    while at + HEADER_BYTES as u64 <= segment.len {
        let n = ((segment.len - at) as usize).min(window.len());
        segment
            .file
            .read_exact_at(&mut window[..n], at)
            .context("read", &segment.path)?;
        let mut i = 0;
        while i + HEADER_BYTES <= n && i < WINDOW {
            if window[i..i + 4] == *b"ABF1" {
                let mut bytes = [0; HEADER_BYTES];
                bytes.copy_from_slice(&window[i..i + HEADER_BYTES]);
                let here = at + i as u64;
                if let Some(header) = Header::decode(&bytes)
                    && here + header.total() <= segment.len
                    && wanted(here, &header)
                    && is_whole(segment, here, &header, &bytes)?
                {
                    return Ok(Some(here));
                }
            }
            i += ALIGN;
        }
        at += WINDOW as u64;
    }
    Ok(None)
}
