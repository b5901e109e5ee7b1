//! Object files, by the versions that refer to them.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::blobs::is_object;
use crate::error::Result;
use crate::ids::{Epoch, Ino, TimelineId};
use crate::index::keys::RecordKey;
use crate::index::records::{self, Chunk, Extent, Record, SUM_BYTES};

use super::{Damage, Scrub};

/// So many versions are looked at between two looks at the disk: the index is held still no longer than that.
const PAGE: usize = 4096;

/// A piece of an object file, and the version that refers to it.
struct Piece {
    timeline: TimelineId,
    relative: Vec<u8>,
    epoch: Epoch,
    ino: Ino,
    extent: Extent,
}

impl Scrub<'_> {
    /// Reads all versions in the index, and the object files that they refer to.
    pub(super) fn versions(&mut self) -> Result<()> {
        // Numbers of what was read already, under a key that is another one in each scrub.
        let numbers = RandomState::new();
        let mut seen: HashSet<u64> = HashSet::new();
        let mut from: Vec<u8> = Vec::new();
        loop {
            let mut pieces = Vec::new();
            let (mut rows, mut bytes) = (0, 0);
            let mut next = None;
            let read = self.inner.index.versions_from(&from, |key, parts, value| {
                if rows >= PAGE {
                    next = Some(key.to_vec());
                    return false;
                }
                rows += 1;
                bytes += (key.len() + value.len()) as u64;
                let Some((timeline, relative, epoch)) = parts else {
                    return true;
                };
                let Ok(key @ RecordKey::Chunk(ino, _)) = RecordKey::decode(relative) else {
                    return true;
                };
                let Ok(Some(Record::Chunk(Chunk::Extents(extents)))) = records::decode(&key, value)
                else {
                    return true;
                };
                for extent in extents.into_iter().filter(|e| is_object(e.file)) {
                    let id = (extent.file, extent.offset, extent.skip, extent.take);
                    if seen.insert(numbers.hash_one(id)) {
                        pieces.push(Piece {
                            timeline,
                            relative: relative.to_vec(),
                            epoch,
                            ino,
                            extent,
                        });
                    }
                }
                true
            });
            if let Err(e) = read {
                self.index_damaged(&e);
                // Where the next block begins is not known.
                return self.read(bytes);
            }
            self.read(bytes)?;
            pieces.sort_by_key(|p| (p.extent.file, p.extent.offset));
            for piece in &pieces {
                self.piece(piece)?;
            }
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    fn piece(&mut self, piece: &Piece) -> Result<()> {
        let extent = &piece.extent;
        let mut buffer = vec![0; extent.take as usize];
        self.report.runs += 1;
        if self.inner.files.read(extent, 0, &mut buffer).is_err()
            && let Some(what) = self.still_damaged(piece, &mut buffer)
        {
            let path = self.inner.files.path(extent.file);
            let damage = Damage {
                file: self.name(&path),
                offset: Some(self.first_bad(extent)),
                what,
                timeline: self.timeline_name(piece.timeline),
                paths: vec![self.path_of(piece.timeline, piece.epoch, piece.ino)],
            };
            self.damaged(damage);
        }
        self.read(u64::from(extent.take))
    }

    /// What is wrong with a piece, if it is still needed.
    fn still_damaged(&self, piece: &Piece, buffer: &mut [u8]) -> Option<String> {
        let _collector = self.inner.collector.lock();
        let version = self
            .inner
            .index
            .version(piece.timeline, &piece.relative, piece.epoch);
        if matches!(version, Ok(None)) {
            return None;
        }
        let read = self.inner.files.read(&piece.extent, 0, buffer);
        read.err().map(|e| e.to_string())
    }

    /// Offset in the file of the first block that cannot be read.
    fn first_bad(&self, extent: &Extent) -> u64 {
        let mut block = vec![0; SUM_BYTES as usize];
        let mut at = 0;
        while at < extent.take {
            let n = (SUM_BYTES - (extent.skip + at) % SUM_BYTES).min(extent.take - at);
            if self
                .inner
                .files
                .read(extent, at, &mut block[..n as usize])
                .is_err()
            {
                break;
            }
            at += n;
        }
        extent.offset + u64::from(extent.skip + at.min(extent.take))
    }
}
