//! The log, frame by frame.

use crate::blobs::is_object;
use crate::check::log::open_segment;
use crate::error::{IoContext, Result};
use crate::ids::{Epoch, FileId, Ino};
use crate::index::keys::RecordKey;
use crate::index::records::{self, Chunk, Record, SUM_BYTES};
use crate::log::compacted::{self, CompactedHeader, Piece};
use crate::log::frame::{ALIGN, Row};
use crate::log::reader::{self, Found, Frame, SegmentFile};
use crate::log::segment::{SEGMENT_HEADER_BYTES, parse_segment_name};

use super::{Damage, Scrub};

impl Scrub<'_> {
    /// Reads the log up to where it ends now.
    pub(super) fn log(&mut self) -> Result<()> {
        let dir = self.inner.layout.log();
        let names = self.inner.layout.fs.list(&dir).context("list", &dir)?;
        let mut ids: Vec<FileId> = names
            .iter()
            .filter_map(|name| parse_segment_name(name.to_str()?))
            .collect();
        ids.sort_by_key(|id| id.0);
        // Behind the list: whatever is in it ends here or before, or is full.
        let end = self.inner.commit.lock().log.end();
        for id in ids {
            let Some(segment) = self.segment(id)? else {
                continue;
            };
            let stop = end.0.saturating_sub(segment.header.base.0).min(segment.len);
            self.report.segments += 1;
            match &segment.compacted {
                Some(header) => self.compacted(&segment, header)?,
                None => self.frames(id, &segment, stop)?,
            }
        }
        Ok(())
    }

    /// Opens a segment; `None` when it is gone or cannot be used, which is told.
    fn segment(&mut self, id: FileId) -> Result<Option<SegmentFile>> {
        let fs = &*self.inner.layout.fs;
        let path = self.inner.files.path(id);
        let (found, what) = match open_segment(fs, &path, id) {
            Ok((segment, None)) => return Ok(Some(segment)),
            Ok((segment, Some(why))) => (
                Some(segment),
                format!("its header is damaged: {why}; a repair writes it again"),
            ),
            Err(why) => (None, why),
        };
        // One that is being made has no header yet, and one that was rewritten is gone.
        let writing = self.inner.commit.lock().log.current();
        if fs.exists(&path) && (found.is_some() || writing.is_some_and(|w| w.0 > id.0)) {
            let damage = Damage {
                file: self.name(&path),
                offset: Some(0),
                what,
                timeline: None,
                paths: Vec::new(),
            };
            self.damaged(damage);
        }
        Ok(found)
    }

    /// What is left of a stretch of the log. It never changes; if it was compacted again, the file that is open here stays.
    fn compacted(&mut self, segment: &SegmentFile, header: &CompactedHeader) -> Result<()> {
        let bad = |scrub: &mut Self, offset: u64, what: String, hit: Option<&Piece>| {
            let damage = Damage {
                file: scrub.name(&segment.path),
                offset: Some(offset),
                what,
                timeline: hit.and_then(|p| scrub.timeline_name(p.timeline)),
                paths: hit
                    .map(|p| scrub.path_of(p.timeline, Epoch::MAX, Ino(p.ino)))
                    .into_iter()
                    .collect(),
            };
            scrub.damaged(damage);
        };
        match compacted::damaged_header(&*segment.file, header) {
            Ok(None) => {}
            Ok(Some(at)) => bad(self, at, "one of its two headers is damaged".into(), None),
            Err(e) => bad(self, 0, e.to_string(), None),
        }
        let meta = match header.meta(&*segment.file) {
            Ok(meta) => meta,
            Err(e) => {
                bad(self, 0, e.to_string(), None);
                return self.read(segment.len);
            }
        };
        self.report.frames += meta.frames.len() as u64;
        for piece in &meta.pieces {
            if let Some(what) = piece.problem(&*segment.file) {
                bad(self, piece.at, what, Some(piece));
            }
            self.read(u64::from(piece.take))?;
        }
        Ok(())
    }

    fn frames(&mut self, id: FileId, segment: &SegmentFile, stop: u64) -> Result<()> {
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        while offset < stop {
            let found = reader::read_frame(segment, offset, None, true);
            if let Ok(Found::Frame(frame)) = found {
                self.report.frames += 1;
                offset += frame.header.total();
                self.read(frame.header.total())?;
                continue;
            }
            // Once more, while the collector waits.
            let (again, frame) = {
                let _collector = self.inner.collector.lock();
                if !self.inner.layout.fs.exists(&segment.path) {
                    return Ok(());
                }
                match reader::read_frame(segment, offset, None, true) {
                    Ok(Found::Frame(frame)) => (None, Some(frame)),
                    Ok(Found::BadData(frame)) => (Some(reader::BAD_DATA.to_owned()), Some(frame)),
                    Ok(Found::Bad(why)) => (Some(why.to_owned()), None),
                    Ok(Found::End) => (Some("there is no frame".into()), None),
                    Err(e) => (Some(e.to_string()), None),
                }
            };
            if let Some(what) = again {
                let (timeline, paths) = frame
                    .as_ref()
                    .map_or((None, Vec::new()), |f| self.hit(id, segment, f));
                let damage = Damage {
                    file: self.name(&segment.path),
                    offset: Some(offset),
                    what,
                    timeline,
                    paths,
                };
                self.damaged(damage);
            }
            let next = match &frame {
                Some(frame) => offset + frame.header.total(),
                None => reader::any_frame(segment, offset + ALIGN as u64, |at, h| {
                    h.position.0 == segment.header.base.0 + at
                })
                .unwrap_or(None)
                .unwrap_or(stop),
            };
            self.read(next - offset)?;
            offset = next;
        }
        Ok(())
    }

    /// Whose bytes the damaged data of a frame are, as far as its rows say.
    fn hit(
        &self,
        id: FileId,
        segment: &SegmentFile,
        frame: &Frame,
    ) -> (Option<String>, Vec<String>) {
        let (timeline, epoch) = (frame.header.timeline, frame.header.epoch);
        let mut paths = Vec::new();
        for row in &frame.rows {
            let Row::Record { key, value } = row else {
                continue;
            };
            let Ok(key @ RecordKey::Chunk(ino, _)) = RecordKey::decode(key) else {
                continue;
            };
            let Ok(Some(Record::Chunk(Chunk::Extents(extents)))) = records::decode(&key, value)
            else {
                continue;
            };
            let damaged = extents.iter().filter(|e| e.file == id).any(|e| {
                debug_assert!(!is_object(e.file));
                let mut block = vec![0; SUM_BYTES as usize];
                e.sums.iter().enumerate().any(|(n, sum)| {
                    let from = n as u32 * SUM_BYTES;
                    let len = SUM_BYTES.min(e.length.saturating_sub(from)) as usize;
                    segment
                        .file
                        .read_exact_at(&mut block[..len], e.offset + u64::from(from))
                        .is_err()
                        || crc32c::crc32c(&block[..len]) != *sum
                })
            });
            if damaged {
                paths.push(self.path_of(timeline, epoch, ino));
            }
        }
        paths.sort();
        paths.dedup();
        (self.timeline_name(timeline), paths)
    }
}
