//! Compacted segments: what is left of a stretch of the log.

use crate::ids::Position;
use crate::log::compacted::{self, CompactedHeader, Piece};
use crate::log::reader::SegmentFile;

use super::log::{At, Walk};
use super::report::FindingKind;
use super::{Check, Cut};

/// Read at once, in bytes.
const STEP: usize = 1 << 20;

impl Check<'_> {
    /// What is left of a stretch of the log: that it is what the collector made of it, and what the index holds of it.
    pub(super) fn check_compacted(
        &mut self,
        cut: &Cut,
        segment: &SegmentFile,
        header: &CompactedHeader,
        walk: &mut Walk<'_>,
    ) {
        let place = self.file_place(&segment.path, Some(0));
        let digest = hex::encode(header.digest());
        let record = cut.catalog.segments.get(&header.id);
        if !record.is_some_and(|r| r.digests.contains(&digest)) {
            self.findings.error(
                FindingKind::Log,
                place.clone(),
                "no commit says that the collector made this compacted segment: its digest is another",
            );
        }
        self.counts.compacted += 1;
        match compacted::damaged_header(&*segment.file, header) {
            Ok(None) => {}
            Ok(Some(at)) => {
                let place = self.file_place(&segment.path, Some(at));
                let what = "one of the two headers of this compacted segment is damaged";
                self.findings.error(FindingKind::Log, place, what);
            }
            Err(e) => {
                self.findings
                    .error(FindingKind::Log, place.clone(), e.to_string());
            }
        }
        (walk.at, walk.chain) = (header.end, Some(header.end_chain));
        let meta = match header.meta(&*segment.file) {
            Ok(meta) => meta,
            Err(e) => {
                let at = self.findings.error(FindingKind::Log, place, e.to_string());
                let what = format!(
                    "the commits from position {} to {}",
                    header.base, header.end
                );
                self.findings.affects(at, what);
                walk.chain = None;
                return;
            }
        };
        self.check_pieces(segment, &meta.pieces);
        while let Some(&(position, snapshot)) = walk.digests.get(walk.next_digest) {
            if position > header.end.0 {
                break;
            }
            walk.next_digest += 1;
            let mark = meta.chain_at(Position(position), header);
            if mark.is_none_or(|chain| hex::encode(chain) != snapshot.digest) {
                self.digest_differs(snapshot);
            }
        }
        for f in &meta.frames {
            if f.epoch != walk.epoch {
                self.settle(walk);
                walk.epoch = f.epoch;
            }
            self.counts.frames += 1;
            let at = At {
                timeline: f.timeline,
                epoch: f.epoch,
                position: f.position,
            };
            self.compare_frame(cut, at, &f.rows, walk);
        }
    }

    /// Every byte that is stored, also what nobody needs any more.
    fn check_pieces(&mut self, segment: &SegmentFile, pieces: &[Piece]) {
        let mut buffer = vec![0; STEP];
        for piece in pieces {
            let (mut sum, mut at) = (0, piece.at);
            let mut left = piece.take as usize;
            let mut read = Ok(());
            while left > 0 && read.is_ok() {
                let n = left.min(STEP);
                read = segment.file.read_exact_at(&mut buffer[..n], at);
                sum = crc32c::crc32c_append(sum, &buffer[..n]);
                (at, left) = (at + n as u64, left - n);
            }
            let what = match read {
                Ok(()) if sum == piece.sum => continue,
                Ok(()) => format!("the {} bytes here do not match their checksum", piece.take),
                Err(e) => format!("the {} bytes here cannot be read: {e}", piece.take),
            };
            let place = self.file_place(&segment.path, Some(piece.at));
            let at = self.findings.error(FindingKind::Log, place, what);
            let whose = format!(
                "bytes that were written to chunk {} of inode {} of timeline {}, if they are still needed",
                piece.chunk, piece.ino, piece.timeline
            );
            self.findings.affects(at, whose);
        }
    }
}
