//! The proof of a snapshot: that the log up to it is what was written.

use serde::Serialize;

use crate::engine::Engine;
use crate::error::{Error, IoContext, Result};
use crate::ids::{Epoch, Position, SnapshotId};
use crate::log::reader::{self, Found};
use crate::log::segment::{SEGMENT_HEADER_BYTES, parse_segment_name};

use super::log::open_segment;

/// What was proven about a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// Its digest, which is the chain of the frames read.
    pub digest: String,
    /// The log up to here is what was written.
    pub position: Position,
    /// Segments read.
    pub segments: u64,
    /// Of these, segments that the collector has compacted: what it left out of them cannot be read any more, and the chain
    /// behind them says that it was the collector.
    pub compacted: u64,
    /// Commits read.
    pub frames: u64,
}

impl Engine {
    /// Proves by the chain of digests that the history up to a snapshot is what was written: each frame is
    /// whole, follows the one before, carries the data that it was written with (as far as the collector has
    /// not given it back), and together they give the snapshot's digest. Who keeps the digest elsewhere gives it as `expected`;
    /// without that, whoever can write everything anew, the snapshot included, is not found out.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt`, naming file, offset and commit. Cost: the log up to the snapshot, read once.
    pub fn verify(&self, id: SnapshotId, expected: Option<&str>) -> Result<Verified> {
        let inner = &*self.inner;
        inner.check_open()?;
        // What is being given back must not be taken for damage.
        let _collector = inner.collector.lock();
        let (name, digest, end) = {
            let catalog = inner.catalog.read();
            let s = catalog.live_snapshot(id)?;
            (s.name.clone(), s.digest.clone(), Position(s.position))
        };
        if let Some(expected) = expected
            && !expected.eq_ignore_ascii_case(&digest)
        {
            return Err(Error::corrupt(format!(
                "snapshot {name} has the digest {digest} in the index, not {expected}"
            )));
        }
        let dir = inner.layout.log();
        let mut segments = Vec::new();
        for file in inner.layout.fs.list(&dir).context("list", &dir)? {
            let path = dir.join(&file);
            if let Some(id) = file.to_str().and_then(parse_segment_name) {
                let bad = |why: String| {
                    Error::corrupt(format!("{} is damaged at offset 0: {why}", path.display()))
                };
                let (segment, damage) = open_segment(&*inner.layout.fs, &path, id).map_err(bad)?;
                segments.push((segment, damage.map(bad)));
            }
        }
        segments.sort_by_key(|(s, _)| s.header.base);
        let (mut at, mut chain, mut epoch) = (Position(0), [0; 32], Epoch::ZERO);
        let mut verified = Verified {
            digest,
            position: end,
            segments: 0,
            compacted: 0,
            frames: 0,
        };
        for (n, (segment, damage)) in segments.iter().enumerate() {
            if at >= end || segment.header.base >= end {
                break;
            }
            if let Some(damage) = damage {
                return Err(damage.clone());
            }
            if segment.header.base != at || segment.header.chain != chain {
                return Err(Error::corrupt(format!(
                    "{} does not continue the log at position {at}: a segment was removed, replaced or moved",
                    segment.path.display()
                )));
            }
            if let Some(header) = &segment.compacted {
                let vouched = |why: String| {
                    Error::corrupt(format!(
                        "{} is not what the collector made of it: {why}; the commits from position {} to {} are affected",
                        segment.path.display(),
                        header.base,
                        header.end
                    ))
                };
                let known = inner.catalog.read().segments.get(&header.id).cloned();
                if !known.is_some_and(|r| r.digests.contains(&hex::encode(header.digest()))) {
                    return Err(vouched("no commit has its digest".into()));
                }
                let meta = header
                    .meta(&*segment.file)
                    .map_err(|e| vouched(e.to_string()))?;
                verified.segments += 1;
                verified.compacted += 1;
                verified.frames += meta.frames.len() as u64;
                let reached = end.min(header.end);
                let Some(there) = meta.chain_at(reached, header) else {
                    return Err(vouched(format!(
                        "it has no chain for position {reached}, which snapshot {name} needs"
                    )));
                };
                (at, chain) = (reached, there);
                continue;
            }
            let full = n + 1 < segments.len();
            let mut offset = SEGMENT_HEADER_BYTES as u64;
            at = Position(segment.header.base.0 + offset);
            verified.segments += 1;
            while at < end {
                let bad = |why: &str| {
                    Error::corrupt(format!(
                        "{} is not what was written at offset {offset}: {why}; the commit at position {at} and what follows are affected",
                        segment.path.display()
                    ))
                };
                match reader::read_frame(segment, offset, Some(&chain), full)? {
                    Found::Frame(frame) if frame.header.epoch < epoch => {
                        return Err(bad("its epoch goes back"));
                    }
                    Found::Frame(frame) => {
                        offset += frame.header.total();
                        at = Position(segment.header.base.0 + offset);
                        (chain, epoch) = (frame.header.chain, frame.header.epoch);
                        verified.frames += 1;
                    }
                    // The next segment goes on, or nothing does.
                    Found::End => break,
                    Found::BadData(_) => return Err(bad(reader::BAD_DATA)),
                    Found::Bad(why) => return Err(bad(why)),
                }
            }
        }
        // A snapshot may have been the first thing in a segment.
        if at != end || hex::encode(chain) != verified.digest {
            return Err(Error::corrupt(format!(
                "the log gives the digest {} at position {at}, snapshot {name} has {} at position {end}: its history is not what was written",
                hex::encode(chain),
                verified.digest
            )));
        }
        Ok(verified)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::files::types::*;
    use crate::gc::tests::copy;
    use crate::log::frame::{HEADER_BYTES, Header};
    use crate::{
        CreateRoot, Durability, ErrorKind, Options, Point, SnapshotRequest, VolumeOptions,
    };

    fn build(dir: &Path) -> SnapshotId {
        let engine = Engine::open(dir, Options::default()).unwrap();
        let id = engine
            .create_root(CreateRoot {
                name: "base".into(),
                ..Default::default()
            })
            .unwrap()
            .id;
        let v = engine
            .volume(Point::Now(id), VolumeOptions::default())
            .unwrap();
        let me = Caller::default();
        for n in 0..9u8 {
            let node = NewNode {
                kind: NodeKind::File,
                mode: 0o644,
                rdev: 0,
                target: &[],
            };
            let name = [b'a' + n];
            let ino = v.create(&me, crate::Ino::ROOT, &name, &node).unwrap().ino;
            let data = vec![n; 2_000];
            v.write(&me, ino, 0, &data, WriteOptions::default())
                .unwrap();
        }
        let snapshot = engine
            .snapshot(SnapshotRequest {
                id: None,
                name: "s".into(),
                source: Point::Now(id),
                labels: Default::default(),
                durability: Durability::Local,
            })
            .unwrap();
        let proven = engine.verify(snapshot.id, Some(&snapshot.digest)).unwrap();
        assert!(proven.frames > 15, "{proven:?}");
        assert!(engine.verify(snapshot.id, Some(&"00".repeat(32))).is_err());
        drop(v);
        engine.close().unwrap();
        snapshot.id
    }

    fn segment(dir: &Path) -> PathBuf {
        let mut all = fs::read_dir(dir.join("log")).unwrap();
        all.next().unwrap().unwrap().path()
    }

    /// The frames of a segment: whole bytes of each.
    fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut at = SEGMENT_HEADER_BYTES;
        let mut all = Vec::new();
        while at < bytes.len() {
            let mut head = [0; HEADER_BYTES];
            head.copy_from_slice(&bytes[at..at + HEADER_BYTES]);
            let len = Header::decode(&head).unwrap().total() as usize;
            all.push(bytes[at..at + len].to_vec());
            at += len;
        }
        all
    }

    /// Puts frames together again, with the positions, hashes, checksums, and if asked for chains that they
    /// would have.
    fn forge(head: &[u8], frames: &[Vec<u8>], chains: bool) -> Vec<u8> {
        let mut out = head.to_vec();
        let mut chain = [0; 32];
        for frame in frames {
            let mut bytes = frame.clone();
            bytes[16..24].copy_from_slice(&(out.len() as u64).to_be_bytes());
            let data_len = u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
            let rows_len = u32::from_be_bytes(bytes[12..16].try_into().unwrap()) as usize;
            let rows = HEADER_BYTES + data_len..HEADER_BYTES + data_len + rows_len;
            if data_len > 0 {
                let hash = blake3::hash(&bytes[HEADER_BYTES..HEADER_BYTES + data_len]);
                bytes[56..88].copy_from_slice(hash.as_bytes());
            }
            if chains {
                let mut hasher = blake3::Hasher::new();
                hasher.update(&chain);
                hasher.update(&bytes[8..88]);
                hasher.update(&bytes[rows.clone()]);
                chain = *hasher.finalize().as_bytes();
                bytes[88..120].copy_from_slice(&chain);
            }
            let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[8..128]), &bytes[rows]);
            bytes[4..8].copy_from_slice(&sum.to_be_bytes());
            out.extend_from_slice(&bytes);
        }
        out
    }

    #[test]
    fn each_frame_that_is_edited_removed_or_moved_is_found() {
        let base = tempfile::tempdir().unwrap();
        let made = base.path().join("made");
        let snapshot = build(&made);
        let whole = fs::read(segment(&made)).unwrap();
        let head = &whole[..SEGMENT_HEADER_BYTES];
        let right = frames(&whole);
        assert_eq!(
            forge(head, &right, true),
            whole,
            "the forger knows the format"
        );
        // The snapshot's own frame is the last; its history is what comes before.
        let history = right.len() - 1;
        assert!(history > 15);
        let mut tried = 0;
        for chains in [false, true] {
            for n in 0..history {
                let mut variants: Vec<(&str, Vec<Vec<u8>>)> = Vec::new();
                // A byte of its data, of its rows, of what stands in its header.
                for (what, at) in [("data", HEADER_BYTES + 5), ("timeline", 45), ("epoch", 39)] {
                    let mut list = right.clone();
                    list[n][at] ^= 0x10;
                    variants.push((what, list));
                }
                let mut list = right.clone();
                list.remove(n);
                variants.push(("removed", list));
                let mut list = right.clone();
                list.swap(n, (n + 1) % history);
                variants.push(("moved", list));
                for (what, list) in variants {
                    tried += 1;
                    let dir = base.path().join(format!("{tried}"));
                    copy(&made, &dir);
                    fs::write(segment(&dir), forge(head, &list, chains)).unwrap();
                    let found = match Engine::open(&dir, Options::default()) {
                        Err(e) => e,
                        Ok(engine) => engine.verify(snapshot, None).unwrap_err(),
                    };
                    assert_eq!(
                        found.kind(),
                        ErrorKind::Corrupt,
                        "{what} of frame {n}: {found}"
                    );
                    fs::remove_dir_all(&dir).unwrap();
                }
            }
        }
        println!("{tried} forgeries, all found");
    }
}
