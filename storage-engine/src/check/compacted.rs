//! Compacted segments: what is left of a stretch of the log.

use crate::ids::Position;
use crate::log::compacted::{self, CompactedHeader, Piece};
use crate::log::reader::SegmentFile;

use super::log::{At, Walk};
use super::report::FindingKind;
use super::{Check, Cut};

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
        for piece in pieces {
            let Some(what) = piece.problem(&*segment.file) else {
                continue;
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
