//! What the collector knows of the segments of the log: which epochs each may hold rows of.

use std::collections::{BTreeMap, HashMap};

use crate::check::log::open_segment;
use crate::engine::Inner;
use crate::error::{Error, IoContext, Result};
use crate::ids::{Epoch, FileId, Position};
use crate::log::frame::{HEADER_BYTES, Header};
use crate::log::reader::SegmentFile;
use crate::log::segment::{SEGMENT_HEADER_BYTES, parse_segment_name};

/// One segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub id: FileId,
    pub base: Position,
    /// What frames up to here took away is not in it; `None` if it is as it was written.
    pub seen: Option<Position>,
    /// Epochs of its first and its last frame; `None` if it has none.
    epochs: Option<(Epoch, Epoch)>,
}

/// All segments. Memory: some 70 bytes for each.
#[derive(Default)]
pub(super) struct Segments {
    /// By position.
    list: Vec<Known>,
    places: HashMap<FileId, usize>,
    /// First epochs of those that have frames, and where they stand in the list: in order.
    firsts: Vec<(Epoch, usize)>,
}

impl Segments {
    /// Takes in segments that were made since. Cost: a listing of the log, and two reads for each new one.
    pub fn refresh(&mut self, inner: &Inner) -> Result<()> {
        let dir = inner.layout.log();
        let mut all: BTreeMap<Position, Known> = BTreeMap::new();
        for name in inner.layout.fs.list(&dir).context("list", &dir)? {
            let Some(id) = name.to_str().and_then(parse_segment_name) else {
                continue;
            };
            let known = match self.places.get(&id).map(|n| self.list[*n]) {
                // The last one may have got its first frame since.
                Some(known) if known.epochs.is_some() || known.seen.is_some() => known,
                _ => look(inner, id)?,
            };
            all.insert(known.base, known);
        }
        self.list = all.into_values().collect();
        // Epochs never go down, so the next one's first is this one's last at most.
        let mut next = Epoch::MAX;
        for known in self.list.iter_mut().rev() {
            if let Some((first, last)) = &mut known.epochs {
                if known.seen.is_none() {
                    *last = next;
                }
                next = *first;
            }
        }
        self.places = (0..).zip(&self.list).map(|(n, k)| (k.id, n)).collect();
        self.note_firsts();
        Ok(())
    }

    fn note_firsts(&mut self) {
        let first = |(n, k): (usize, &Known)| k.epochs.map(|(first, _)| (first, n));
        self.firsts = (0..).zip(&self.list).filter_map(first).collect();
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn get(&self, n: usize) -> Option<Known> {
        self.list.get(n).copied()
    }

    /// A segment was compacted.
    pub fn compacted(&mut self, n: usize, seen: Position, epochs: Option<(Epoch, Epoch)>) {
        if let Some(known) = self.list.get_mut(n) {
            (known.seen, known.epochs) = (Some(seen), epochs);
        }
        self.note_firsts();
    }

    /// Whether a segment is a compacted one.
    pub fn is_compacted(&self, id: FileId) -> bool {
        self.places
            .get(&id)
            .is_some_and(|n| self.list[*n].seen.is_some())
    }

    /// The segment in which a frame stands.
    pub fn at(&self, position: Position) -> Option<Known> {
        let n = self.list.partition_point(|k| k.base <= position);
        self.get(n.checked_sub(1)?)
    }

    /// The newest segment that may have rows of an epoch. Cost: a search.
    pub fn of_epoch(&self, epoch: Epoch) -> Option<Known> {
        let n = self.firsts.partition_point(|(first, _)| *first <= epoch);
        let (_, n) = self.firsts.get(n.checked_sub(1)?)?;
        self.get(*n)
    }

    /// Whether a segment before the one at `base` may still have rows of these epochs that a frame at `position` took away.
    /// Cost: the number of segments.
    pub fn may_hold(&self, epochs: (Epoch, Epoch), base: Position, position: Position) -> bool {
        let n = self.list.partition_point(|k| k.base < base);
        self.list[..n].iter().any(|k| {
            k.seen.is_none_or(|seen| seen < position)
                && k.epochs
                    .is_some_and(|(first, last)| first <= epochs.1 && epochs.0 <= last)
        })
    }
}

/// Reads what there is to know of a segment.
fn look(inner: &Inner, id: FileId) -> Result<Known> {
    let segment = open(inner, id)?;
    let Some(header) = &segment.compacted else {
        let mut bytes = [0; HEADER_BYTES];
        let at = SEGMENT_HEADER_BYTES as u64;
        let mut epochs = None;
        if segment.len >= at + HEADER_BYTES as u64 {
            segment
                .file
                .read_exact_at(&mut bytes, at)
                .context("read", &segment.path)?;
            // What is damaged says nothing, and counts as holding everything.
            epochs = match Header::decode(&bytes) {
                Some(frame) => Some((frame.epoch, Epoch::MAX)),
                None if bytes == [0; HEADER_BYTES] => None,
                None => Some((Epoch::ZERO, Epoch::MAX)),
            };
        }
        return Ok(Known {
            id,
            base: segment.header.base,
            seen: None,
            epochs,
        });
    };
    Ok(Known {
        id,
        base: header.base,
        seen: Some(header.seen),
        epochs: header.has_frames().then_some(header.epochs),
    })
}

/// Opens a segment for reading. One whose header is damaged is placed by its first frame.
pub(super) fn open(inner: &Inner, id: FileId) -> Result<SegmentFile> {
    let path = inner.files.path(id);
    let opened = open_segment(&*inner.layout.fs, &path, id);
    opened
        .map(|(segment, _)| segment)
        .map_err(|why| Error::corrupt(format!("{} is damaged at offset 0: {why}", path.display())))
}
