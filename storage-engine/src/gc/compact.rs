//! Compacting segments of which most is garbage.
//!
//! What the collector drops elsewhere leaves the rows that had written it in the log, and the parts of
//! blocks that could not be given back. Here a full segment is looked at once it is worth it: the index tells
//! of each row whether it is still needed, and the versions of a chunk which blocks of its runs are. If that
//! is little, a compacted segment ([`crate::log::compacted`]) takes its place.
//!
//! # Why the index can still be made anew
//! Replaying the log sets and removes keys of the index, and what is done last to a key counts. A row that
//! sets a key is left out only if the index has something else there: then a later row did that. A row
//! that removes a key is left out only if no row that sets it can be left in an earlier segment: those were
//! compacted after it had its effect. So the last word on each key stays, in its order.
//!
//! # Crashes
//! The new file is durable before a frame says what its digest is, that frame is durable before the file takes
//! the old one's place, and both have the same bytes for whoever reads. The index on disk is never behind a compacted
//! segment: what of it were replayed later would be wrong.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::catalog::{SegmentRecord, segment_row};
use crate::engine::{Durability, Inner};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::fs::Access;
use crate::ids::{FileId, Ino, Position};
use crate::index::keys::RecordKey;
use crate::index::records::{self, Chunk, Extent, Record, SUM_BYTES};
use crate::log::compacted::{CompactedHeader, KeptFrame, Mark, Meta, Piece, Stretch};
use crate::log::frame::{Header, Row};
use crate::log::reader::{self, SegmentFile};
use crate::log::segment::SEGMENT_HEADER_BYTES;
use crate::planted::{Bug, planted};
use crate::timeline::NO_TIMELINE;

use super::needed::{Needed, Owner, blocks_of, note_owner};
use super::segments::Known;
use super::sweep::Run;

/// A segment is compacted when so much of what it takes would come back, in percent. Each byte that is written
/// again has made room for one at least.
const SHARE: u64 = 50;
/// The same when everything is asked for.
const FULL_SHARE: u64 = 5;
/// What a file takes on the disk is a multiple of this.
const BLOCK: u64 = reader::GIVEN_BACK_BYTES;
/// To copy so many bytes counts as much as to look at a record.
const COPIED: usize = 4096;
/// Records looked at before the pace is kept.
const PAGE: usize = 256;

/// What a compacted segment would be.
struct Plan {
    meta: Meta,
    stretch: Stretch,
    /// Checksums of the blocks of each piece.
    sums: Vec<Vec<u32>>,
    /// Bytes that it would take.
    size: u64,
}

/// A segment as it was found.
struct Found {
    frames: Vec<KeptFrame>,
    /// Who wrote each run, by its offset.
    owners: HashMap<u64, Owner>,
    marks: Vec<Mark>,
    end: Position,
    end_chain: [u8; 32],
}

impl Run<'_> {
    /// Compacts the full segments of which enough would come back. Cost: those that were filled or of which much was given up
    /// since they were looked at last: their rows, and the versions of the chunks that have bytes there.
    pub(super) fn compact(&mut self, writing: Option<FileId>) -> Result<()> {
        let full: Vec<(usize, Known, Position)> = (0..self.segments.len())
            .filter_map(|n| {
                let (known, next) = (self.segments.get(n)?, self.segments.get(n + 1)?);
                (Some(known.id) != writing).then_some((n, known, next.base))
            })
            .collect();
        let wanted: Vec<_> = full
            .into_iter()
            .filter(|(_, known, _)| self.worth_a_look(known.id))
            .collect();
        let Some((.., last)) = wanted.last() else {
            return self.note_segments();
        };
        let reached = self.inner.index_on_disk(*last)?;
        for (n, known, end) in wanted {
            // What is damaged, or does not fit on the disk, stays as it is; `check` tells of damage.
            let done = match end <= reached {
                true => self.compact_segment(n, known, end),
                false => continue,
            };
            match done {
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NoSpace) => {
                    tracing::warn!(segment = %self.inner.files.path(known.id).display(), %error,
                        "a segment cannot be compacted now");
                }
                done => done?,
            }
        }
        self.note_segments()
    }

    /// Whether a segment may be worth to be compacted, as far as is known without reading it.
    fn worth_a_look(&self, id: FileId) -> bool {
        if self.options.full {
            return true;
        }
        let gone = self.lost.get(&id).copied().unwrap_or(0);
        let (needed, given_up) = match self.inner.catalog.read().segments.get(&id) {
            Some(SegmentRecord {
                needed: Some(needed),
                given_up,
                ..
            }) => (*needed, given_up + gone),
            _ => return true,
        };
        let stored = |meta: crate::fs::Metadata| meta.stored;
        let path = self.inner.files.path(id);
        given_up > 0
            && self
                .inner
                .layout
                .fs
                .metadata(&path)
                .map(stored)
                .is_ok_and(|stored| enough(stored, needed.saturating_sub(given_up), SHARE))
    }

    fn compact_segment(&mut self, n: usize, known: Known, end: Position) -> Result<()> {
        self.inner.check_open()?;
        let seen = self.inner.commit.lock().log.end();
        let segment = super::segments::open(self.inner, known.id)?;
        let plan = self.plan(&segment, end, seen)?;
        let path = &segment.path;
        let stored = segment.file.metadata().context("stat", path)?.stored;
        let share = if self.options.full { FULL_SHARE } else { SHARE };
        let mut needed = plan.size;
        if enough(stored, plan.size, share) {
            self.report.compacted += 1;
            if self.options.dry_run {
                return Ok(());
            }
            self.step_point()?;
            let header = self.write(&segment, plan)?;
            let epochs = header.has_frames().then_some(header.epochs);
            self.segments.compacted(n, seen, epochs);
            let meta = self.inner.layout.fs.metadata(path).context("stat", path)?;
            self.space.returned.bytes += stored.saturating_sub(meta.stored);
            needed = meta.len;
        }
        self.lost.remove(&known.id);
        self.looked_at.insert(known.id, needed);
        Ok(())
    }

    /// Finds out what is needed of a segment.
    fn plan(&mut self, segment: &SegmentFile, end: Position, seen: Position) -> Result<Plan> {
        let id = segment.header.id;
        let found = match &segment.compacted {
            Some(header) => self.read_compacted(segment, header)?,
            None => self.read_written(segment)?,
        };
        if found.end != end {
            return Err(Error::corrupt(format!(
                "{} ends at position {}, the next segment begins at {end}",
                segment.path.display(),
                found.end
            )));
        }
        let mut runs = BTreeMap::new();
        let owners: HashSet<Owner> = found.owners.values().copied().collect();
        for owner in owners {
            self.needed_of(id, owner, &found.owners, &mut runs)?;
        }
        let (mut pieces, mut sums) = (Vec::new(), Vec::new());
        for (run, needed) in runs {
            for (from, take) in needed.stretches() {
                let first = (from / SUM_BYTES) as usize;
                let count = take.div_ceil(SUM_BYTES) as usize;
                let of_blocks = needed.sums.get(first..first + count).ok_or_else(|| {
                    Error::corrupt("an extent has fewer checksums than its run has blocks")
                })?;
                sums.push(of_blocks.to_vec());
                pieces.push(Piece {
                    timeline: needed.owner.timeline,
                    ino: needed.owner.ino,
                    chunk: needed.owner.chunk,
                    run,
                    length: needed.length,
                    from,
                    take,
                    at: 0,
                    sum: 0,
                });
            }
        }
        let stretch = Stretch {
            id,
            base: segment.header.base,
            chain: segment.header.chain,
            end: found.end,
            end_chain: found.end_chain,
            seen,
        };
        let meta = Meta {
            marks: self.marks(&found.marks, &stretch)?,
            pieces,
            frames: found.frames,
        };
        Ok(Plan {
            size: meta.size()?,
            meta,
            stretch,
            sums,
        })
    }

    /// The chain where snapshots that are there need it.
    fn marks(&self, known: &[Mark], stretch: &Stretch) -> Result<Vec<Mark>> {
        let mut positions: Vec<Position> = {
            let catalog = self.inner.catalog.read();
            let live = catalog.snapshots.values().filter(|s| s.deleted.is_none());
            live.map(|s| Position(s.position))
                .filter(|p| *p > stretch.base && *p < stretch.end)
                .collect()
        };
        positions.sort_unstable();
        positions.dedup();
        let mark = |position: &Position| {
            let found = known.binary_search_by_key(position, |m| m.position);
            found.map(|n| known[n]).map_err(|_| {
                Error::corrupt(format!(
                    "a snapshot was made at position {position}, where no commit ended"
                ))
            })
        };
        positions.iter().map(mark).collect()
    }

    /// Reads a segment as it was written: its rows that are needed, and who has bytes in it.
    fn read_written(&mut self, segment: &SegmentFile) -> Result<Found> {
        let base = segment.header.base;
        let mut found = Found {
            frames: Vec::new(),
            owners: HashMap::new(),
            marks: Vec::new(),
            end: Position(base.0 + SEGMENT_HEADER_BYTES as u64),
            end_chain: segment.header.chain,
        };
        let first = Mark {
            position: found.end,
            chain: found.end_chain,
        };
        found.marks.push(first);
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        while offset < segment.len {
            let bad = |why: &str| {
                Error::corrupt(format!(
                    "{} is damaged at offset {offset}: {why}",
                    segment.path.display()
                ))
            };
            let head = reader::read_head(segment, offset)
                .map_err(|e| Error::io("read", &segment.path, &e))?;
            let (header, bytes, rows) = head.map_err(bad)?;
            if Header::expected_chain(&found.end_chain, &bytes, &rows) != header.chain {
                return Err(bad("the frame does not continue the one before it"));
            }
            let rows = crate::log::frame::decode_rows(&rows)?;
            for row in &rows {
                let Row::Record { key, value } = row else {
                    continue;
                };
                if header.data_len > 0 {
                    note_owner(
                        header.timeline,
                        (key, value),
                        segment.header.id,
                        &mut found.owners,
                    )?;
                }
            }
            let frame = KeptFrame {
                position: header.position,
                epoch: header.epoch,
                timeline: header.timeline,
                rows,
            };
            self.keep(base, frame, &mut found.frames)?;
            offset += header.total();
            (found.end, found.end_chain) = (Position(base.0 + offset), header.chain);
            found.marks.push(Mark {
                position: found.end,
                chain: header.chain,
            });
        }
        Ok(found)
    }

    /// The same of one that was compacted before.
    fn read_compacted(&mut self, segment: &SegmentFile, header: &CompactedHeader) -> Result<Found> {
        let meta = header.meta(&*segment.file).map_err(|e| {
            Error::new(
                e.kind(),
                format!("{} is damaged: {e}", segment.path.display()),
            )
        })?;
        let mut found = Found {
            frames: Vec::new(),
            owners: HashMap::new(),
            marks: meta.marks,
            end: header.end,
            end_chain: header.end_chain,
        };
        found.owners.extend(meta.pieces.iter().map(|p| {
            let owner = Owner {
                timeline: p.timeline,
                ino: p.ino,
                chunk: p.chunk,
            };
            (p.run, owner)
        }));
        for frame in meta.frames {
            self.keep(header.base, frame, &mut found.frames)?;
        }
        Ok(found)
    }

    /// Keeps the rows of a frame that are needed.
    fn keep(&mut self, base: Position, frame: KeptFrame, into: &mut Vec<KeptFrame>) -> Result<()> {
        let mut kept: Vec<Row> = Vec::new();
        let (mut number, mut skipped) = (0, 0);
        let looked_at = frame.rows.len();
        for row in frame.rows {
            if let Row::Skipped { count } = row {
                number += count;
                skipped += count;
                continue;
            }
            let is_dead = matches!(row, Row::Dead { .. });
            let at = (frame.timeline, frame.epoch, frame.position, number);
            number += u32::from(is_dead);
            if !self.inner.is_needed(&self.segments, base, at, &row)? {
                skipped += u32::from(is_dead);
                continue;
            }
            if is_dead && skipped > 0 {
                kept.push(Row::Skipped {
                    count: std::mem::take(&mut skipped),
                });
            }
            kept.push(row);
        }
        if !kept.is_empty() {
            into.push(KeptFrame {
                rows: kept,
                ..frame
            });
        }
        self.looked += looked_at;
        if self.looked >= PAGE {
            let looked = std::mem::take(&mut self.looked);
            self.rest(looked)?;
        }
        Ok(())
    }

    /// Which blocks of a segment the versions of one chunk need, of the runs that were written into it. (Who inherits a run
    /// reads a state of its owner's, so that the owner has a version of it, too.)
    fn needed_of(
        &self,
        id: FileId,
        owner: Owner,
        owners: &HashMap<u64, Owner>,
        runs: &mut BTreeMap<u64, Needed>,
    ) -> Result<()> {
        let key = RecordKey::Chunk(Ino(owner.ino), owner.chunk);
        for (_, row) in self
            .inner
            .index
            .versions_of(owner.timeline, &key.encode())?
        {
            let Some(Record::Chunk(Chunk::Extents(extents))) = records::decode(&key, &row)? else {
                continue;
            };
            let its = |e: &Extent| e.file == id && owners.get(&e.offset) == Some(&owner);
            for e in extents.into_iter().filter(its) {
                let blocks = blocks_of(&e);
                let needed = runs.entry(e.offset).or_insert_with(|| Needed {
                    owner,
                    length: e.length,
                    sums: e.sums,
                    blocks: HashSet::new(),
                });
                needed.blocks.extend(blocks);
            }
        }
        Ok(())
    }

    /// Writes the compacted segment and puts it into the other's place.
    fn write(&mut self, segment: &SegmentFile, mut plan: Plan) -> Result<CompactedHeader> {
        let inner = self.inner;
        let (fs, log) = (&inner.layout.fs, inner.layout.log());
        plan.meta.place()?;
        // No segment's name: what a crash leaves of it is written over.
        let temporary = log.join("compacted.new");
        let file = fs
            .open(&temporary, Access::Replace)
            .context("create", &temporary)?;
        let from = inner.files.file(segment.header.id)?;
        let mut bytes = Vec::new();
        for (piece, sums) in plan.meta.pieces.iter_mut().zip(&plan.sums) {
            bytes.resize(piece.take as usize, 0);
            from.read_exact_at(&mut bytes, piece.run + u64::from(piece.from))
                .map_err(|e| Error::io("read", &segment.path, &e))?;
            let right = bytes
                .chunks(SUM_BYTES as usize)
                .zip(sums)
                .all(|(block, sum)| crc32c::crc32c(block) == *sum);
            if !right {
                return Err(Error::corrupt(format!(
                    "{} is damaged in the run at offset {}: it does not match its checksums",
                    segment.path.display(),
                    piece.run
                )));
            }
            self.rest(bytes.len() / COPIED + 1)?;
            piece.sum = crc32c::crc32c(&bytes);
            file.write_all_at(&bytes, piece.at)
                .context("write", &temporary)?;
        }
        let head = plan.meta.encode(&plan.stretch)?;
        let header = CompactedHeader::decode(&head)?;
        file.write_all_at(&head, 0).context("write", &temporary)?;
        // So that damage at the start leaves no doubt about where the segment belongs.
        let end = plan.size - header.encode().len() as u64;
        file.write_all_at(&header.encode(), end)
            .context("write", &temporary)?;
        if !planted(Bug::CompactedWithoutSync) {
            file.sync_all().context("sync", &temporary)?;
        }
        self.step_point()?;
        self.vouch(segment, &header)?;
        self.step_point()?;
        fs.rename(&temporary, &segment.path)
            .context("replace", &segment.path)?;
        inner.files.forget(segment.header.id);
        inner.layout.sync_dir(&log)?;
        self.step_point()?;
        Ok(header)
    }

    /// Has the log say what the digest of a compacted segment is going to be, durably. With it everything is durable that its
    /// rows were left out for.
    fn vouch(&self, segment: &SegmentFile, header: &CompactedHeader) -> Result<()> {
        let inner = self.inner;
        let _structure = inner.structure.lock();
        let id = header.id;
        let known = inner.catalog.read().segments.get(&id).cloned();
        let mut record = known.unwrap_or_else(|| SegmentRecord::new(id));
        let before = segment.compacted.as_ref().map(CompactedHeader::digest);
        record.digests = before
            .into_iter()
            .chain([header.digest()])
            .map(hex::encode)
            .collect();
        let epoch = inner.shared_epoch();
        let position = inner.commit_freeing(*epoch, NO_TIMELINE, &[segment_row(&record)?])?;
        inner.catalog.write().segments.insert(id, record);
        drop(epoch);
        if planted(Bug::CompactedWithoutSync) {
            return Ok(());
        }
        inner.wait(position, Durability::Local)
    }

    /// Writes down what was found out about segments, and what was given up of them. Residues of compacted ones are of no use
    /// any more: which of their bytes are needed, the versions tell.
    fn note_segments(&mut self) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        let inner = self.inner;
        let mut changed: BTreeMap<FileId, Option<u64>> = BTreeMap::new();
        changed.extend(self.lost.keys().map(|id| (*id, None)));
        changed.extend(
            self.looked_at
                .iter()
                .map(|(id, needed)| (*id, Some(*needed))),
        );
        let mut rows = Vec::new();
        let _structure = inner.structure.lock();
        let mut records = Vec::new();
        for (id, needed) in changed {
            let known = inner.catalog.read().segments.get(&id).cloned();
            let mut record = known.unwrap_or_else(|| SegmentRecord::new(id));
            if let Some(needed) = needed {
                (record.needed, record.given_up) = (Some(needed), 0);
                if self.segments.is_compacted(id) {
                    let last = record
                        .digests
                        .split_off(record.digests.len().saturating_sub(1));
                    record.digests = last;
                    self.forget_residues(id, &mut rows)?;
                }
            }
            record.given_up += self.lost.get(&id).copied().unwrap_or(0);
            records.push(record);
        }
        for record in &records {
            rows.push(segment_row(record)?);
        }
        for some in rows.chunks(super::COMMIT) {
            let epoch = inner.shared_epoch();
            inner.commit_freeing(*epoch, NO_TIMELINE, some)?;
        }
        let mut catalog = inner.catalog.write();
        for record in records {
            catalog.segments.insert(record.id, record);
        }
        self.lost.clear();
        self.looked_at.clear();
        Ok(())
    }

    fn forget_residues(&self, id: FileId, rows: &mut Vec<Row>) -> Result<()> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self
                .inner
                .index
                .residues_page(Some(id), after.as_deref(), super::PAGE)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            for (key, _) in &page {
                let mut r = crate::codec::Reader::new(key, "a residue's key");
                rows.push(Row::Residue {
                    file: FileId(r.array()?),
                    offset: r.u64()?,
                    value: Vec::new(),
                });
            }
        }
    }
}

/// Whether enough comes back of what a file takes.
fn enough(stored: u64, needed: u64, share: u64) -> bool {
    let back = stored.saturating_sub(needed.next_multiple_of(BLOCK));
    back > 0 && back.saturating_mul(100) >= stored.saturating_mul(share)
}

impl Inner {
    /// Up to where the index is on disk, at least up to `wanted` if the disk has room for it.
    fn index_on_disk(&self, wanted: Position) -> Result<Position> {
        let since = || self.commit.lock().unflushed.since();
        if since() < wanted {
            self.flusher.ask();
        }
        self.flusher.idle();
        let reached = since();
        Ok(if self.index.flushing()? {
            Position(0)
        } else {
            reached
        })
    }
}
