//! The log against itself and against the index: every frame from the first byte on.

use std::collections::HashMap;

use crate::error::Result;
use crate::fs::{Access, FileSystem};
use crate::ids::{Epoch, FileId, Position, TimelineId};
use crate::index::keys::{tag, version_key};
use crate::log::frame::{self, Chain, HEADER_BYTES, Header, Row};
use crate::log::reader::{self, SegmentFile};
use crate::log::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, parse_segment_name, read_header};

use super::report::{CheckPhase, FindingKind, Place};
use super::{Check, Cut};

/// Bytes of a segment's header that mean something.
const SEGMENT_HEADER_USED: u64 = 68;

/// What is carried from frame to frame.
pub(super) struct Walk<'c> {
    /// Where the next frame or segment must begin.
    pub at: Position,
    /// Chain of the frame before; `None` behind damage, where it is not known.
    pub chain: Option<Chain>,
    pub epoch: Epoch,
    /// Snapshots by the position that their digest covers.
    pub digests: Vec<(u64, &'c crate::catalog::SnapshotRecord)>,
    pub next_digest: usize,
    /// Versions of the running epoch that the index has otherwise: a later frame of the epoch may explain it.
    pub open: HashMap<Vec<u8>, Compared>,
    /// Versions that the index lacks: a later frame must say that they were dropped.
    pub missing: HashMap<Vec<u8>, Position>,
    /// The same of deadlist records.
    pub missing_dead: HashMap<Vec<u8>, Position>,
    /// Another segment follows the one that is read.
    pub full: bool,
    /// The newest row of each catalog key.
    pub catalog: HashMap<Vec<u8>, Vec<u8>>,
    pub index_readable: bool,
}

/// Whose rows these are, and where they stand in the log.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub timeline: TimelineId,
    pub epoch: Epoch,
    pub position: Position,
}

/// A version that the index has not as a frame says.
pub(super) struct Compared {
    position: Position,
    /// The index has none at all.
    absent: bool,
}

impl Check<'_> {
    /// Walks the whole log up to the cut. Cost: reads the log once, and one look-up for each row.
    pub(super) fn check_log(
        &mut self,
        cut: &Cut,
        progress: &mut dyn FnMut(CheckPhase, u64, Option<u64>),
    ) {
        let segments = self.list_segments();
        let mut digests: Vec<_> = cut
            .catalog
            .snapshots
            .values()
            .filter(|s| s.deleted.is_none())
            .map(|s| (s.position, s))
            .collect();
        digests.sort_by_key(|(position, _)| *position);
        let mut walk = Walk {
            at: Position(0),
            chain: Some([0; 32]),
            epoch: Epoch::ZERO,
            digests,
            next_digest: 0,
            open: HashMap::new(),
            missing: HashMap::new(),
            missing_dead: HashMap::new(),
            full: false,
            catalog: HashMap::new(),
            index_readable: true,
        };
        for n in 0..segments.len() {
            let segment = &segments[n];
            // What began at or behind the cut was made while the check runs.
            if segment.header.base >= cut.end {
                break;
            }
            let until = segments
                .get(n + 1)
                .map_or(cut.end, |next| next.header.base.min(cut.end));
            self.counts.segments += 1;
            walk.full = n + 1 < segments.len();
            self.check_segment(cut, segment, until, &mut walk, progress);
        }
        self.counts.log_bytes = cut.end.0;
        if walk.at < cut.end {
            self.findings.error(
                FindingKind::Log,
                Place::File {
                    path: "log".into(),
                    offset: None,
                },
                format!(
                    "the log ends at position {} where {} is known to have been written: segments are missing or cut short",
                    walk.at, cut.end
                ),
            );
        } else if walk.chain.is_some_and(|chain| chain != cut.chain) {
            self.findings.error(
                FindingKind::Log,
                Place::File {
                    path: "log".into(),
                    offset: None,
                },
                "the chain of the frames read does not end where the writer is",
            );
        }
        self.settle(&mut walk);
        let mut missing: Vec<_> = walk.missing.drain().collect();
        missing.sort();
        for (key, position) in missing {
            self.findings.error(
                FindingKind::IndexDiffers,
                key_place("version", &key),
                format!("the commit at log position {position} made it, none dropped it, and the index lacks it"),
            );
        }
        let mut missing: Vec<_> = walk.missing_dead.drain().collect();
        missing.sort();
        for (key, position) in missing {
            self.findings.error(
                FindingKind::IndexDiffers,
                key_place("deadlist", &key),
                format!("the commit at log position {position} made it, none freed it, and the index has it otherwise or not at all"),
            );
        }
        for (_, snapshot) in walk.digests.split_off(walk.next_digest) {
            self.findings.error(
                FindingKind::Digest,
                snapshot_place(snapshot),
                format!(
                    "its digest covers the log up to position {}, which was not read",
                    snapshot.position
                ),
            );
        }
        self.compare_catalog(cut, &walk.catalog);
    }

    /// Segments in the order of their positions; what is none is reported.
    fn list_segments(&mut self) -> Vec<SegmentFile> {
        let dir = self.inner.layout.log();
        let mut found = Vec::new();
        let entries = match self.inner.layout.fs.list(&dir) {
            Ok(entries) => entries,
            Err(e) => {
                let place = self.file_place(&dir, None);
                self.findings
                    .error(FindingKind::Log, place, format!("it cannot be listed: {e}"));
                return found;
            }
        };
        let mut paths: Vec<_> = entries.iter().map(|name| dir.join(name)).collect();
        paths.sort();
        for path in paths {
            let place = self.file_place(&path, None);
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            let Some(id) = parse_segment_name(name) else {
                self.findings
                    .note(FindingKind::LeftOver, place, "it is no segment of the log");
                continue;
            };
            if id.0[..8] != self.store_id[..8] {
                self.findings.error(
                    FindingKind::StoreFile,
                    place.clone(),
                    "it belongs to another store than store.json says",
                );
            }
            match open_segment(&*self.inner.layout.fs, &path, id) {
                Ok((segment, damage)) => {
                    if let Some(why) = damage {
                        self.findings.error(
                            FindingKind::Log,
                            place,
                            format!("its header is damaged: {why}; its frames say where it belongs, and a repair writes it again"),
                        );
                    }
                    found.push(segment);
                }
                Err(why) => {
                    self.findings.error(FindingKind::Log, place, why);
                }
            }
        }
        found.sort_by_key(|s| s.header.base);
        found
    }

    fn check_segment(
        &mut self,
        cut: &Cut,
        segment: &SegmentFile,
        until: Position,
        walk: &mut Walk<'_>,
        progress: &mut dyn FnMut(CheckPhase, u64, Option<u64>),
    ) {
        let base = segment.header.base;
        let start = self.file_place(&segment.path, Some(0));
        if base != walk.at {
            let what = if base > walk.at {
                format!(
                    "the log before it is missing: positions {} to {base}, with the commits in them",
                    walk.at
                )
            } else {
                format!(
                    "it begins at position {base}, where the segment before it goes on to {}",
                    walk.at
                )
            };
            self.findings.error(FindingKind::Log, start.clone(), what);
            walk.chain = None;
        }
        if walk
            .chain
            .is_some_and(|chain| chain != segment.header.chain)
            && segment.header.chain != reader::UNKNOWN_CHAIN
        {
            self.findings.error(
                FindingKind::Log,
                start,
                "it does not continue the segment before it: the chain is broken",
            );
        }
        if let Some(header) = &segment.compacted {
            self.check_compacted(cut, segment, header, walk);
            progress(CheckPhase::Log, walk.at.0, Some(cut.end.0));
            return;
        }
        if segment.header.chain != reader::UNKNOWN_CHAIN {
            walk.chain = Some(segment.header.chain);
        }
        self.check_zeros(segment, SEGMENT_HEADER_USED, SEGMENT_HEADER_BYTES as u64);
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        walk.at = Position(base.0 + offset);
        self.pass_digests(walk);
        let stop = until.0.saturating_sub(base.0);
        while offset < stop {
            offset = match self.check_frame(cut, segment, offset, stop, walk) {
                Ok(next) => next,
                Err(e) => {
                    let place = self.file_place(&segment.path, Some(offset));
                    self.findings.error(FindingKind::Log, place, e.to_string());
                    return;
                }
            };
            walk.at = Position(base.0 + offset);
            self.pass_digests(walk);
            progress(CheckPhase::Log, walk.at.0, Some(cut.end.0));
        }
    }

    /// Checks the frame at `offset`; says where the next one stands.
    fn check_frame(
        &mut self,
        cut: &Cut,
        segment: &SegmentFile,
        offset: u64,
        stop: u64,
        walk: &mut Walk<'_>,
    ) -> Result<u64> {
        let base = segment.header.base.0;
        let read = reader::read_head(segment, offset)
            .map_err(|e| crate::Error::io("read", &segment.path, &e))?;
        let (header, bytes, rows) = match read {
            Ok(head) => head,
            Err(why) => {
                // Looks for where the log goes on.
                let next = reader::any_frame(segment, offset + frame::ALIGN as u64, |at, h| {
                    h.position.0 == base + at && at < stop
                })?
                .unwrap_or(stop);
                let place = self.file_place(&segment.path, Some(offset));
                let at = self.findings.error(
                    FindingKind::Log,
                    place,
                    format!("{why}; {} bytes cannot be read", next - offset),
                );
                self.findings.affects(
                    at,
                    format!(
                        "the commits from position {} to {}",
                        base + offset,
                        base + next
                    ),
                );
                walk.chain = None;
                return Ok(next);
            }
        };
        self.counts.frames += 1;
        let place = self.file_place(&segment.path, Some(offset));
        let commit = || {
            format!(
                "a commit of {} at epoch {}",
                super::timeline_name(&cut.catalog, header.timeline),
                header.epoch
            )
        };
        let complain = |findings: &mut super::report::Findings, what: String| {
            let at = findings.error(FindingKind::Log, place.clone(), what);
            findings.affects(at, commit());
        };
        if header.data_len > 0
            && reader::data_hash(segment, offset + HEADER_BYTES as u64, header.data_len)?
                != header.data_hash
            && !(walk.full
                && reader::given_back(
                    segment,
                    offset + HEADER_BYTES as u64,
                    header.data_len,
                    &frame::decode_rows(&rows).unwrap_or_default(),
                )?)
        {
            complain(
                &mut self.findings,
                format!(
                    "the {} bytes of data behind this frame's header do not match their hash",
                    header.data_len
                ),
            );
        }
        if walk
            .chain
            .is_some_and(|chain| Header::expected_chain(&chain, &bytes, &rows) != header.chain)
        {
            complain(
                &mut self.findings,
                "the frame does not continue the one before it: the chain is broken".into(),
            );
        }
        walk.chain = Some(header.chain);
        if header.epoch < walk.epoch {
            complain(
                &mut self.findings,
                format!(
                    "its epoch {} comes after epoch {}",
                    header.epoch, walk.epoch
                ),
            );
        }
        if header.epoch != walk.epoch {
            self.settle(walk);
            walk.epoch = header.epoch;
        }
        match frame::decode_rows(&rows) {
            Ok(rows) => {
                let has_totals =
                    |r: &Row| matches!(r, Row::Record { key, .. } if key[..] == [tag::USAGE]);
                if rows.iter().any(|r| matches!(r, Row::Record { .. }))
                    && !rows.iter().any(has_totals)
                {
                    complain(
                        &mut self.findings,
                        "it changes a timeline without writing its totals".into(),
                    );
                }
                let at = At {
                    timeline: header.timeline,
                    epoch: header.epoch,
                    position: header.position,
                };
                self.compare_frame(cut, at, &rows, walk);
            }
            Err(e) => complain(&mut self.findings, e.to_string()),
        }
        let next = offset + header.total();
        let used = HEADER_BYTES as u64 + u64::from(header.data_len) + u64::from(header.rows_len);
        self.check_zeros(segment, offset + used, next);
        Ok(next)
    }

    /// Bytes that mean nothing are zeros.
    fn check_zeros(&mut self, segment: &SegmentFile, from: u64, to: u64) {
        let mut bytes = vec![0; (to - from) as usize];
        let read = segment.file.read_exact_at(&mut bytes, from);
        if read.is_err() || bytes.iter().any(|b| *b != 0) {
            let place = self.file_place(&segment.path, Some(from));
            self.findings.error(
                FindingKind::Log,
                place,
                format!(
                    "the {} bytes here mean nothing and are not zeros",
                    to - from
                ),
            );
        }
    }

    pub(super) fn compare_frame(&mut self, cut: &Cut, at: At, rows: &[Row], walk: &mut Walk<'_>) {
        if walk.index_readable
            && let Err(e) = self.compare_rows(cut, at, rows, walk)
        {
            walk.index_readable = false;
            self.findings.error(
                FindingKind::IndexUnreadable,
                Place::WholeIndex,
                format!("{e}; it was not compared with the log any further"),
            );
        }
    }

    /// Compares the rows of a frame with what the index holds.
    fn compare_rows(
        &mut self,
        cut: &Cut,
        header: At,
        rows: &[Row],
        walk: &mut Walk<'_>,
    ) -> Result<()> {
        let mut number = 0;
        let dropped = cut
            .catalog
            .timelines
            .get(&header.timeline)
            .is_some_and(|t| t.dropped);
        for row in rows {
            match row {
                Row::Catalog { key, value } => {
                    walk.catalog.insert(key.clone(), value.clone());
                }
                // A later answer may have taken the slot; a residue is an aid, and no promise.
                Row::Reply { .. } | Row::Residue { .. } => {}
                Row::Skipped { count } => number += count,
                // Nothing of it is left to be compared.
                _ if dropped => {}
                Row::Empty => {
                    self.findings.error(
                        FindingKind::IndexDiffers,
                        Place::WholeIndex,
                        format!(
                            "the commit at position {} dropped timeline {}, the catalog has it still",
                            header.position, header.timeline
                        ),
                    );
                }
                Row::Drop { key, epoch } => {
                    let full = version_key(header.timeline, key, *epoch);
                    walk.open.remove(&full);
                    walk.missing.remove(&full);
                    let there = self.inner.index.version(header.timeline, key, *epoch)?;
                    if there.is_some() {
                        self.findings.error(
                            FindingKind::IndexDiffers,
                            key_place("version", &full),
                            format!(
                                "the commit at log position {} dropped it, the index has it still",
                                header.position
                            ),
                        );
                    }
                }
                Row::Free {
                    death,
                    frame,
                    number,
                } => {
                    let key =
                        crate::index::dead::dead_key(header.timeline, *death, *frame, *number);
                    walk.missing_dead.remove(&key);
                }
                Row::Record { key, value } => {
                    let full = version_key(header.timeline, key, header.epoch);
                    let there = self
                        .inner
                        .index
                        .version(header.timeline, key, header.epoch)?;
                    if there.as_deref() == Some(value) {
                        walk.open.remove(&full);
                    } else {
                        let compared = Compared {
                            position: header.position,
                            absent: there.is_none(),
                        };
                        walk.open.insert(full, compared);
                    }
                }
                Row::Dead { value } => {
                    let there = self.inner.index.dead_record(
                        header.timeline,
                        header.epoch,
                        header.position,
                        number,
                    )?;
                    if there.as_deref() != Some(value) {
                        let key = crate::index::dead::dead_key(
                            header.timeline,
                            header.epoch,
                            header.position,
                            number,
                        );
                        walk.missing_dead.insert(key, header.position);
                    }
                    number += 1;
                }
            }
        }
        Ok(())
    }

    /// No later frame can explain what the index has otherwise.
    pub(super) fn settle(&mut self, walk: &mut Walk<'_>) {
        for (key, Compared { position, absent }) in walk.open.drain() {
            if absent {
                walk.missing.insert(key, position);
                continue;
            }
            self.findings.error(
                FindingKind::IndexDiffers,
                key_place("version", &key),
                format!("it is not what the commit at log position {position} says"),
            );
        }
    }

    pub(super) fn digest_differs(&mut self, snapshot: &crate::catalog::SnapshotRecord) {
        self.findings.error(
            FindingKind::Digest,
            snapshot_place(snapshot),
            format!(
                "its digest {} is not that of the log up to position {}",
                snapshot.digest, snapshot.position
            ),
        );
    }

    /// Compares the digests of snapshots whose position has been reached.
    fn pass_digests(&mut self, walk: &mut Walk<'_>) {
        while let Some(&(position, snapshot)) = walk.digests.get(walk.next_digest) {
            if position > walk.at.0 {
                return;
            }
            walk.next_digest += 1;
            let matches = position == walk.at.0
                && walk
                    .chain
                    .is_some_and(|chain| hex::encode(chain) == snapshot.digest);
            if !matches {
                self.digest_differs(snapshot);
            }
        }
    }
}

fn snapshot_place(snapshot: &crate::catalog::SnapshotRecord) -> Place {
    Place::Snapshot {
        snapshot: snapshot.id,
        name: snapshot.name.clone(),
    }
}

/// A key of the index, shown.
pub(super) fn key_place(what: &str, key: &[u8]) -> Place {
    Place::Index {
        key: format!("{what} {}", hex::encode(key)),
    }
}

/// Opens a segment without changing anything; a text says what is wrong with it.
pub(crate) fn open_segment(
    fs: &dyn FileSystem,
    path: &std::path::Path,
    id: FileId,
) -> std::result::Result<(SegmentFile, Option<String>), String> {
    let file = fs
        .open(path, Access::Read)
        .map_err(|e| format!("it cannot be opened: {e}"))?;
    let len = file
        .metadata()
        .map_err(|e| format!("it cannot be looked at: {e}"))?
        .len;
    let decoded = read_header(&*file, len);
    if decoded.as_ref().is_ok_and(|(header, _)| header.id != id) {
        return Err("its header names another segment: it was renamed".into());
    }
    let mut segment = SegmentFile {
        path: path.to_owned(),
        header: SegmentHeader {
            id,
            base: Position(0),
            chain: reader::UNKNOWN_CHAIN,
        },
        file,
        len,
        followed: false,
        compacted: None,
    };
    match decoded {
        Ok((header, compacted)) => {
            (segment.header, segment.compacted) = (header, compacted);
            Ok((segment, None))
        }
        Err(e) => match reader::place_by_first_frame(&segment) {
            Ok(Some(base)) => {
                segment.header.base = base;
                Ok((segment, Some(e.to_string())))
            }
            _ => Err(e.to_string()),
        },
    }
}
