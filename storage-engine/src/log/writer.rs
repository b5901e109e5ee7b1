//! Appending frames and making them durable.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::fs::{Access, File};
use crate::ids::{FileId, Position};
use crate::planted::{Bug, planted};
use crate::store::Layout;

use super::durable::Durable;
use super::frame::{self, Chain, HEADER_BYTES, Parts};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_id, segment_path};

/// The end of the log; owned by whoever holds the engine's commit lock.
pub(crate) struct LogWriter {
    layout: Layout,
    store: [u8; 16],
    term: u32,
    next_number: u32,
    /// A segment of that number was begun and not finished; its file may be there still, without a frame.
    begun: bool,
    segment_bytes: u64,
    current: Option<Segment>,
    /// Position of the next frame or segment header.
    end: Position,
    chain: Chain,
    /// Whether the reserve is there.
    reserved: bool,
    shared: Arc<Durable>,
}

struct Segment {
    id: FileId,
    path: PathBuf,
    file: Arc<dyn File>,
    base: Position,
    offset: u64,
    /// It is full from here on.
    limit: u64,
    /// It was the reserve: only what frees space goes into it.
    last_resort: bool,
}

/// What a frame is for, which decides what it may be written with on a full disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// Anything else.
    Ordinary,
    /// It leads to space being given back: a deletion, or what the collector writes down. It may use the
    /// reserve.
    Freeing,
}

/// The reserve is half a segment, and no more than this: tens of thousands of deletions.
const RESERVE_BYTES: u64 = 32 << 20;
/// What is tried without a reserve.
const LEAST_SEGMENT_BYTES: u64 = 64 << 10;

/// Where the next frame's data will stand.
pub(crate) struct Place {
    pub segment: FileId,
    pub data_offset: u64,
    pub position: Position,
}

impl LogWriter {
    pub fn new(
        layout: Layout,
        store: [u8; 16],
        term: u32,
        segment_bytes: u64,
        end: Position,
        chain: Chain,
    ) -> Self {
        let shared = Arc::new(Durable::new(end));
        Self {
            layout,
            store,
            term,
            next_number: 0,
            begun: false,
            segment_bytes,
            current: None,
            end,
            chain,
            reserved: false,
            shared,
        }
    }

    /// The part that `wait` needs, usable without the commit lock.
    pub fn durable(&self) -> Arc<Durable> {
        Arc::clone(&self.shared)
    }

    /// Chain value of the history so far.
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// The segment that is being written; none before the first commit.
    pub fn current(&self) -> Option<FileId> {
        self.current.as_ref().map(|s| s.id)
    }

    /// Position behind the last frame.
    pub fn end(&self) -> Position {
        self.end
    }

    /// Says where the data of the next frame will stand; starts a new segment when the current one is
    /// full (which syncs the old one).
    ///
    /// # Errors
    /// `NoSpace` if there is no room for a segment; for what frees space only when the reserve is used up, too.
    pub fn place(&mut self, claim: Claim) -> Result<Place> {
        self.shared.check()?;
        let next = self
            .current
            .as_ref()
            .is_none_or(|s| s.offset >= s.limit || s.last_resort && claim == Claim::Ordinary);
        if next {
            self.roll(claim)?;
        }
        let segment = self
            .current
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Io, "the log has no segment"))?;
        Ok(Place {
            segment: segment.id,
            data_offset: segment.offset + HEADER_BYTES as u64,
            position: Position(segment.base.0 + segment.offset),
        })
    }

    /// Appends the frame for which [`place`](Self::place) was asked last. On an error nothing was
    /// appended. Cost: one write; no sync.
    pub fn append(&mut self, parts: &Parts<'_>, data: &[u8]) -> Result<(Position, Chain)> {
        let Some(segment) = self.current.as_mut() else {
            return Err(Error::new(ErrorKind::Io, "the log has no segment"));
        };
        let position = Position(segment.base.0 + segment.offset);
        let durable = self.shared.synced();
        let (header, chain) = frame::encode_header(parts, position, durable, &self.chain)?;
        let total = frame::total(data.len(), parts.rows.len());
        let padding = total as usize - HEADER_BYTES - data.len() - parts.rows.len();
        let write = || -> std::io::Result<()> {
            const ZEROS: [u8; frame::ALIGN] = [0; frame::ALIGN];
            if data.len() <= 64 << 10 {
                let mut whole = Vec::with_capacity(total as usize);
                for part in [&header[..], data, parts.rows, &ZEROS[..padding]] {
                    whole.extend_from_slice(part);
                }
                segment.file.write_all_at(&whole, segment.offset)
            } else {
                let data_at = segment.offset + HEADER_BYTES as u64;
                segment.file.write_all_at(data, data_at)?;
                let mut tail = Vec::with_capacity(parts.rows.len() + padding);
                tail.extend_from_slice(parts.rows);
                tail.extend_from_slice(&ZEROS[..padding]);
                segment
                    .file
                    .write_all_at(&tail, data_at + data.len() as u64)?;
                segment.file.write_all_at(&header, segment.offset)
            }
        };
        if let Err(e) = write() {
            let error = Error::io("write", &segment.path, &e);
            // A full disk leaves at most a torn frame, which the next append overwrites and recovery cuts.
            if error.kind() != ErrorKind::NoSpace {
                self.shared.poison();
            }
            return Err(error);
        }
        segment.offset += total;
        self.end = Position(segment.base.0 + segment.offset);
        self.chain = chain;
        self.shared.note(self.end);
        Ok((self.end, chain))
    }

    /// Starts a new segment; on a full disk, for what frees space, one of the reserve's size in its place.
    fn roll(&mut self, claim: Claim) -> Result<()> {
        match self.start_segment(self.segment_bytes, false) {
            Err(e) if e.kind() == ErrorKind::NoSpace && claim == Claim::Freeing => {
                tracing::warn!("the disk is full: deletions are written to the reserve");
                let (fs, path) = (&self.layout.fs, self.layout.reserve());
                let len = fs.metadata(&path).map_or(0, |m| m.len);
                match fs.remove(&path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::io("remove", &path, &e));
                    }
                    _ => {}
                }
                self.reserved = false;
                let bytes = len.saturating_sub(2 * HEADER_BYTES as u64);
                self.start_segment(bytes.max(LEAST_SEGMENT_BYTES), true)
            }
            done => done,
        }
    }

    fn start_segment(&mut self, bytes: u64, last_resort: bool) -> Result<()> {
        if !last_resort {
            self.keep_reserve()?;
            // The one that is there can still be used by deletions.
            let there = self.current.as_ref().is_some_and(|s| s.last_resort);
            if there && crate::store::room(&self.layout.root).is_some_and(|room| room <= bytes) {
                return Err(Error::new(ErrorKind::NoSpace, "the disk is full"));
            }
        }
        self.finish_segment()?;
        let id = segment_id(&self.store, self.term, self.next_number);
        let dir = self.layout.log();
        let path = segment_path(&dir, id);
        let fs = &self.layout.fs;
        let access = if self.begun {
            Access::Replace
        } else {
            Access::CreateNew
        };
        self.begun = true;
        let file = fs.open(&path, access).context("create", &path)?;
        let made = (|| -> Result<()> {
            // Space taken now is space that a commit cannot fail on later; a file system that cannot
            // reserve only loses that.
            if let Err(e) = file.reserve(bytes + HEADER_BYTES as u64) {
                let error = Error::io("reserve space for", &path, &e);
                if error.kind() == ErrorKind::NoSpace {
                    return Err(error);
                }
            }
            let header = SegmentHeader {
                id,
                base: self.end,
                chain: self.chain,
            };
            file.write_all_at(&header.encode(), 0)
                .context("write", &path)?;
            file.sync_all().context("sync", &path)?;
            if planted(Bug::SkippedDirectorySync) {
                return Ok(());
            }
            self.layout.sync_dir(&dir)
        })();
        if let Err(e) = made {
            let _ = fs.remove(&path);
            return Err(e);
        }
        self.next_number += 1;
        self.begun = false;
        self.current = Some(Segment {
            id,
            path,
            file: Arc::clone(&file),
            base: self.end,
            offset: SEGMENT_HEADER_BYTES as u64,
            limit: bytes,
            last_resort,
        });
        self.end = Position(self.end.0 + SEGMENT_HEADER_BYTES as u64);
        self.shared.begin(file, self.end);
        Ok(())
    }

    /// Sees to it that nobody else has what is needed to delete something on a full disk.
    fn keep_reserve(&mut self) -> Result<()> {
        if self.reserved {
            return Ok(());
        }
        let (fs, path) = (&self.layout.fs, self.layout.reserve());
        let opened = match fs.open(&path, Access::Write) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => fs.open(&path, Access::CreateNew),
            opened => opened,
        };
        let bytes = (self.segment_bytes / 2).min(RESERVE_BYTES);
        let taken = opened
            .context("open", &path)
            .and_then(|file| file.reserve(bytes).context("reserve space in", &path));
        match taken {
            Err(e) if e.kind() == ErrorKind::NoSpace => return Err(e),
            // A file system that cannot reserve loses only that.
            _ => self.reserved = true,
        }
        Ok(())
    }

    /// Syncs the current segment and gives back what it reserved and did not use.
    fn finish_segment(&mut self) -> Result<()> {
        let Some(segment) = self.current.as_ref() else {
            return Ok(());
        };
        let finish = || {
            segment.file.set_len(segment.offset)?;
            if planted(Bug::SkippedSyncOfFullSegment) {
                return Ok(());
            }
            segment.file.sync_all()
        };
        self.shared
            .finish(self.end, finish)
            .map_err(|e| Error::io("sync", &segment.path, &e))?;
        self.current = None;
        Ok(())
    }

    /// Makes everything durable and closes the segment.
    pub fn close(&mut self) -> Result<()> {
        self.shared.check()?;
        self.finish_segment()
    }
}
