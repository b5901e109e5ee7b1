//! Reading objects.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::files::Volume;
use crate::files::read::read_chunk;
use crate::ids::{Epoch, Ino};
use crate::index::keys::{RecordKey, chunks_of};
use crate::index::lineage::Lineage;
use crate::index::records::{CHUNK_BYTES, Chunk, Record};
use crate::leases::Lease;

use super::Objects;
use super::key::Key;
use super::state::{Found, State};
use super::types::{ByteRange, ObjectInfo};

/// A reader keeps the places of so many chunks (256 MiB of data, about half a megabyte of memory) at once.
/// Unit tests take few, to have batches at all.
const BATCH_CHUNKS: u64 = if cfg!(test) { 4 } else { 2048 };

impl<'a> Objects<'a> {
    /// An object without its bytes. Cost: a read for each component of the key and a few more, and what
    /// the entity tag costs: one row for each 128 KiB unless the object is a file of its own.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` (the key).
    pub fn head(&self, key: &str) -> Result<ObjectInfo> {
        let parsed = Key::parse(key)?;
        self.with_state(|state| Ok(look(state, key, &parsed)?.info))
    }

    /// A version of an object without its bytes: the one that began at this epoch, or was there then.
    ///
    /// # Errors
    /// As for [`head`](Self::head); `OutOfRetention`, `InvalidArgument` (an epoch in the future).
    pub fn head_version(&self, key: &str, version: Epoch) -> Result<ObjectInfo> {
        let parsed = Key::parse(key)?;
        let _lease = self.lease_history();
        let hops = self.hops_of_version(key, &parsed, version)?;
        Ok(look(self.state(&hops), key, &parsed)?.info)
    }

    /// Starts to read an object, or a part of it. What it gives is the object as it is now, whatever
    /// happens to it meanwhile. Cost: as for [`head`](Self::head), and one row for each 128 KiB; then
    /// the bytes, each block of which is verified.
    ///
    /// # Errors
    /// As for [`head`](Self::head); `Range` if no byte of the object is in the range.
    pub fn get(&self, key: &str, range: Option<ByteRange>) -> Result<ObjectReader<'a>> {
        let parsed = Key::parse(key)?;
        let lease = self.lease_now();
        let reader = self.with_state(|state| {
            let mut reader = self.reader(look(state, key, &parsed)?, range, None)?;
            if reader.chunks_left() <= BATCH_CHUNKS {
                // All places are known before anything can change them.
                reader.load(state)?;
                return Ok(Some(reader));
            }
            Ok(None)
        })?;
        let mut reader = match reader {
            Some(reader) => reader,
            None => self.get_fixed(key, &parsed, self.fixed()?, range)?,
        };
        reader.lease = Some(lease);
        Ok(reader)
    }

    /// Starts to read a version of an object: see [`head_version`](Self::head_version) and
    /// [`get`](Self::get).
    pub fn get_version(
        &self,
        key: &str,
        version: Epoch,
        range: Option<ByteRange>,
    ) -> Result<ObjectReader<'a>> {
        let parsed = Key::parse(key)?;
        let lease = self.lease_history();
        let hops = self.hops_of_version(key, &parsed, version)?;
        let mut reader = self.get_fixed(key, &parsed, hops, range)?;
        reader.lease = Some(lease);
        Ok(reader)
    }

    fn get_fixed(
        &self,
        key: &str,
        parsed: &Key<'_>,
        hops: Lineage,
        range: Option<ByteRange>,
    ) -> Result<ObjectReader<'a>> {
        let looked = look(self.state(&hops), key, parsed)?;
        self.reader(looked, range, Some(hops))
    }

    pub(super) fn state<'s>(&self, hops: &'s Lineage) -> State<'s>
    where
        'a: 's,
    {
        State {
            index: &self.volume.inner().index,
            hops,
        }
    }

    fn reader(
        &self,
        looked: Looked,
        range: Option<ByteRange>,
        hops: Option<Lineage>,
    ) -> Result<ObjectReader<'a>> {
        let (start, end) = resolve(range, looked.info.size)?;
        Ok(ObjectReader {
            volume: self.volume,
            info: looked.info,
            ino: looked.found.ino,
            hops,
            start,
            end,
            at: start,
            loaded: (0, 0),
            places: BTreeMap::new(),
            buffer: Vec::new(),
            lease: None,
        })
    }
}

/// An object found, and what is told of it.
pub(super) struct Looked {
    pub found: Found,
    pub info: ObjectInfo,
}

/// Looks an object up in a state.
pub(super) fn look(state: State<'_>, key: &str, parsed: &Key<'_>) -> Result<Looked> {
    let found = state
        .find(parsed)?
        .ok_or_else(|| Error::not_found(format!("{key:?}")))?;
    let identity = state.identity(found.ino, &found.inode)?;
    let info = ObjectInfo {
        key: key.to_owned(),
        size: identity.size,
        etag: identity.etag.clone(),
        modified: identity.modified,
        version: state.version(&found, &identity)?,
        content_type: identity.notes.content_type.clone(),
        metadata: identity.notes.metadata.clone(),
    };
    Ok(Looked { found, info })
}

/// First byte of a range, and the one behind its last.
fn resolve(range: Option<ByteRange>, size: u64) -> Result<(u64, u64)> {
    let (start, end) = match range {
        None => return Ok((0, size)),
        Some(ByteRange::From(start)) => (start, size),
        Some(ByteRange::Inclusive(first, last)) => (first, last.saturating_add(1).min(size)),
        Some(ByteRange::Last(n)) => (size - n.min(size), size),
    };
    if start >= end {
        return Err(Error::new(
            ErrorKind::Range,
            format!("the object has {size} bytes, and none of them is in the range"),
        ));
    }
    Ok((start, end))
}

/// Reads an object's bytes. It holds no lock, and shows one state of the object however long it takes.
pub struct ObjectReader<'a> {
    volume: &'a Volume,
    info: ObjectInfo,
    ino: Ino,
    /// Where to look for the places of further chunks; none if all of them are loaded.
    hops: Option<Lineage>,
    start: u64,
    end: u64,
    at: u64,
    /// Numbers of the chunks whose places are loaded: the first, and the one behind the last.
    loaded: (u64, u64),
    places: BTreeMap<u32, Chunk>,
    /// The bytes before the next chunk's start, or a part of them, if the caller takes them in small bits.
    buffer: Vec<u8>,
    /// Keeps the bytes that it has still to give.
    lease: Option<Lease>,
}

impl ObjectReader<'_> {
    /// What is read.
    pub fn info(&self) -> &ObjectInfo {
        &self.info
    }

    /// Offset of the first byte that it gives, and of the one behind the last.
    pub fn range(&self) -> (u64, u64) {
        (self.start, self.end)
    }

    /// Bytes still to come.
    pub fn remaining(&self) -> u64 {
        self.end - self.at
    }

    /// All bytes still to come. Cost: as much memory.
    pub fn into_bytes(mut self) -> Result<Vec<u8>> {
        let mut out = vec![0; self.remaining() as usize];
        let mut done = 0;
        while done < out.len() {
            done += self.next(&mut out[done..])?;
        }
        Ok(out)
    }

    fn chunks_left(&self) -> u64 {
        self.end.div_ceil(CHUNK_BYTES) - self.at / CHUNK_BYTES
    }

    /// Loads the places of the next chunks.
    fn load(&mut self, state: State<'_>) -> Result<()> {
        let first = self.at / CHUNK_BYTES;
        let last = self.end.div_ceil(CHUNK_BYTES).min(first + BATCH_CHUNKS);
        self.places.clear();
        let from = RecordKey::Chunk(self.ino, first as u32).encode();
        let mut scan = state.scan(&chunks_of(self.ino), &from);
        while let Some((key, seen)) = scan.next()? {
            let (RecordKey::Chunk(_, n), Record::Chunk(chunk)) = (key, seen.record) else {
                return Err(Error::corrupt("a chunk record holds something else"));
            };
            if u64::from(n) >= last {
                break;
            }
            self.places.insert(n, chunk);
        }
        self.loaded = (first, last);
        Ok(())
    }

    /// Gives the next bytes, at least one unless all were given.
    fn next(&mut self, out: &mut [u8]) -> Result<usize> {
        if self.at >= self.end || out.is_empty() {
            return Ok(0);
        }
        if !self.buffer.is_empty() {
            let n = self.buffer.len().min(out.len());
            let from = self.buffer.len();
            // Kept the other way round, so that what was given comes off the end.
            for (to, byte) in out[..n].iter_mut().zip(self.buffer.drain(from - n..).rev()) {
                *to = byte;
            }
            self.at += n as u64;
            return Ok(n);
        }
        let chunk = self.at / CHUNK_BYTES;
        if chunk < self.loaded.0 || chunk >= self.loaded.1 {
            let Some(hops) = self.hops.clone() else {
                return Err(Error::new(ErrorKind::Io, "a chunk's place is not known"));
            };
            let index = &self.volume.inner().index;
            self.load(State { index, hops: &hops })?;
        }
        let from = (self.at % CHUNK_BYTES) as u32;
        let whole = (CHUNK_BYTES - u64::from(from)).min(self.end - self.at) as usize;
        if out.len() >= whole {
            self.read_at(chunk, from, &mut out[..whole])?;
            self.at += whole as u64;
            return Ok(whole);
        }
        let mut bytes = vec![0; whole];
        self.read_at(chunk, from, &mut bytes)?;
        bytes.reverse();
        self.buffer = bytes;
        self.next(out)
    }

    fn read_at(&self, chunk: u64, from: u32, out: &mut [u8]) -> Result<()> {
        out.fill(0);
        let Some(place) = self.places.get(&(chunk as u32)) else {
            return Ok(());
        };
        read_chunk(&self.volume.inner().files, place, from, out).map_err(|e| {
            if e.kind() == ErrorKind::Corrupt {
                Error::corrupt(format!("{:?} cannot be read: {e}", self.info.key))
            } else {
                e
            }
        })
    }
}

impl Read for ObjectReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.next(out).map_err(io::Error::other)
    }
}

impl Objects<'_> {
    /// The state to read a version in.
    fn hops_of_version(&self, key: &str, parsed: &Key<'_>, version: Epoch) -> Result<Lineage> {
        let eras = self.eras()?;
        for era in &eras {
            if version >= era.from && version <= era.to {
                let state = self.state(&era.hops);
                return Ok(state.hops_at(version).into());
            }
        }
        let oldest = eras.first().filter(|era| version < era.from);
        if let Some(era) = oldest {
            // It may have begun before the history that is kept, and be there at its start.
            let hops: Lineage = self.state(&era.hops).hops_at(era.from).into();
            match look(self.state(&hops), key, parsed) {
                Ok(looked) if looked.info.version == version => return Ok(hops),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let point = crate::Point::At(self.volume.timeline(), version);
        let past = self
            .volume
            .engine()
            .volume(point, crate::VolumeOptions::default())?;
        let hops = Arc::clone(&past.view()?.hops);
        Ok(hops)
    }
}
