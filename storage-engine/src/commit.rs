//! A transaction on one timeline: reads that see its own changes, and one frame that makes them all.

use std::collections::BTreeMap;

use parking_lot::{RwLockReadGuard, RwLockWriteGuard};

use crate::engine::{Inner, TimelineInner};
use crate::error::{Error, ErrorKind, Result};
use crate::files::types::{Answer, RequestId, Time};
use crate::ids::{Epoch, FileId, Ino, Position, TimelineId};
use crate::index::dead::Dead;
use crate::index::keys::RecordKey;
use crate::index::lineage::{self, Lineage, Scan};
use crate::index::records::{self, Chunk, Extent, INLINE, Inode, Record, THIS_FRAME, UsageRecord};
use crate::log::frame::{Parts, Row};
use crate::log::writer::Claim;
use crate::observe::Notice;
use crate::planted::{Bug, planted};
use crate::rocks::Index;

/// Inode numbers are taken from the store in blocks of this many.
const INO_BLOCK: u64 = 1024;

/// An open transaction. Dropping it changes nothing.
pub(crate) struct Txn<'a> {
    engine: &'a Inner,
    timeline: TimelineId,
    state: RwLockWriteGuard<'a, TimelineInner>,
    epoch: RwLockReadGuard<'a, Epoch>,
    pending: BTreeMap<RecordKey, Option<Record>>,
    dead: Vec<Dead>,
    data: Vec<u8>,
    data_hash: Option<[u8; 32]>,
    pub usage: UsageRecord,
    next_ino: u64,
    ino_limit: u64,
    reply: Option<(RequestId, Answer)>,
    origin: u64,
    now: Time,
}

impl<'a> Txn<'a> {
    pub fn new(
        engine: &'a Inner,
        timeline: TimelineId,
        epoch: RwLockReadGuard<'a, Epoch>,
        state: RwLockWriteGuard<'a, TimelineInner>,
        origin: u64,
    ) -> Self {
        let now = Time::from_nanos(engine.clock.now());
        Self {
            engine,
            timeline,
            epoch,
            pending: BTreeMap::new(),
            dead: Vec::new(),
            data: Vec::new(),
            data_hash: None,
            usage: state.usage,
            next_ino: state.next_ino,
            ino_limit: state.ino_limit,
            state,
            reply: None,
            origin,
            now,
        }
    }

    /// The time of this transaction.
    pub fn now(&self) -> Time {
        self.now
    }

    pub fn epoch(&self) -> Epoch {
        *self.epoch
    }

    /// The record as this transaction sees it, and whether this timeline wrote it.
    pub fn get(&self, key: &RecordKey) -> Result<Option<(Record, bool)>> {
        if let Some(pending) = self.pending.get(key) {
            return Ok(pending.clone().map(|r| (r, true)));
        }
        let seen = match self.state.recent.get(key) {
            Some(seen) => seen,
            None => lineage::get(&self.engine.index, &self.state.lineage, key)?,
        };
        Ok(seen.map(|s| {
            let own = lineage::is_own(&self.state.lineage, s.hop, self.timeline);
            (s.record, own)
        }))
    }

    /// The index, and the lineage that this transaction reads: what is stored without its own changes.
    pub fn stored(&self) -> (&Index, &Lineage) {
        (&self.engine.index, &self.state.lineage)
    }

    /// Whether this timeline has written the record, or removed it, in the open epoch: one more change
    /// would leave no trace of that in the history. Cost: one read.
    pub fn changed_in_open_epoch(&self, key: &RecordKey) -> Result<bool> {
        let before = Epoch(self.epoch.0 - 1);
        let newest = self
            .engine
            .index
            .newest(self.timeline, &key.encode(), before, *self.epoch)?;
        Ok(newest.is_some())
    }

    pub fn put(&mut self, key: RecordKey, record: Record) {
        self.pending.insert(key, Some(record));
    }

    pub fn delete(&mut self, key: RecordKey) {
        self.pending.insert(key, None);
    }

    /// The inode, or `Stale` if it is gone.
    pub fn inode(&self, ino: Ino) -> Result<Inode> {
        match self.get(&RecordKey::Inode(ino))? {
            Some((Record::Inode(inode), _)) => Ok(inode),
            _ => Err(Error::new(ErrorKind::Stale, format!("inode {ino} is gone"))),
        }
    }

    pub fn put_inode(&mut self, ino: Ino, inode: Inode) {
        self.put(RecordKey::Inode(ino), Record::Inode(inode));
    }

    /// Keys with this prefix that exist for this transaction. Cost: the records passed.
    pub fn keys(&self, prefix: &[u8], limit: usize) -> Result<Vec<RecordKey>> {
        self.keys_from(prefix, prefix, limit)
    }

    /// The same, from the first key at or after `from`.
    pub fn keys_from(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<RecordKey>> {
        let mut stored = Scan::new(&self.engine.index, &self.state.lineage, prefix, from);
        let mut out = Vec::new();
        while let Some((key, _)) = stored.next()? {
            if !matches!(self.pending.get(&key), Some(None)) && !self.pending.contains_key(&key) {
                out.push(key);
            }
            if out.len() >= limit {
                break;
            }
        }
        for (key, record) in &self.pending {
            if record.is_some() {
                let encoded = key.encode();
                if encoded.starts_with(prefix) && encoded[..] >= *from {
                    out.push(key.clone());
                }
            }
        }
        Ok(out)
    }

    /// A new inode number, never used in this lineage before.
    pub fn take_ino(&mut self) -> Result<Ino> {
        if self.next_ino >= self.ino_limit {
            self.ino_limit = self.next_ino.checked_add(INO_BLOCK).ok_or_else(|| {
                Error::new(
                    ErrorKind::NoSpace,
                    "the inode numbers of this lineage are used up",
                )
            })?;
            self.put(RecordKey::NextIno, Record::NextIno(self.ino_limit));
        }
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        Ok(ino)
    }

    /// Adds bytes to the frame's data; gives a piece for `[at, at + bytes)` of a chunk that refers to them.
    pub fn add_data(&mut self, at: u32, bytes: &[u8]) -> Extent {
        let offset = self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        self.data_hash = None;
        Extent {
            at,
            take: bytes.len() as u32,
            skip: 0,
            born: self.epoch.0,
            inherited: false,
            file: THIS_FRAME,
            offset,
            length: bytes.len() as u32,
            sums: records::sums_of(bytes),
        }
    }

    /// Tells the hash of the frame's data, if the caller has computed it outside of the locks already.
    pub fn set_data_hash(&mut self, hash: [u8; 32]) {
        self.data_hash = Some(hash);
    }

    /// Whether the frame's data is exactly these bytes, which a write has just added: it adds other bytes
    /// only beside them, when it has to write again what stood there, so the length tells.
    pub fn data_is(&self, bytes: &[u8]) -> bool {
        self.data.len() == bytes.len()
    }

    /// Writes down that `take` bytes of this extent are no longer referred to.
    pub fn supersede(&mut self, ino: Ino, chunk: u32, piece: &Extent) {
        self.usage.allocated = self.usage.allocated.saturating_sub(u64::from(piece.take));
        // Bytes added and dropped within one transaction were never counted as anybody's.
        if piece.inherited {
            return;
        }
        self.usage.own = self.usage.own.saturating_sub(u64::from(piece.take));
        self.usage.dead += u64::from(piece.take);
        self.dead.push(Dead {
            birth: Epoch(piece.born),
            ino,
            chunk,
            file: piece.file,
            offset: piece.offset,
            length: piece.length,
            skip: piece.skip,
            take: piece.take,
        });
    }

    /// The same for inline bytes.
    pub fn supersede_inline(
        &mut self,
        ino: Ino,
        chunk: u32,
        born: u64,
        inherited: bool,
        len: usize,
    ) {
        let inline = Extent {
            at: 0,
            take: len as u32,
            skip: 0,
            born,
            inherited,
            file: INLINE,
            offset: 0,
            length: len as u32,
            sums: Vec::new(),
        };
        self.supersede(ino, chunk, &inline);
    }

    /// Counts bytes that this timeline now refers to and wrote itself.
    pub fn count_own(&mut self, bytes: u64) {
        self.usage.allocated += bytes;
        self.usage.own += bytes;
    }

    /// Refuses if the timeline would be over its quota. Called before the commit of what grows.
    pub fn check_quota(&self) -> Result<()> {
        let quota = &self.state.quota;
        let before = &self.state.usage;
        if let Some(limit) = quota.bytes
            && self.usage.own > limit
            && self.usage.own > before.own
        {
            return Err(Error::new(
                ErrorKind::QuotaExceeded,
                format!("the quota of {limit} bytes is used up: raise it or delete files"),
            ));
        }
        if let Some(limit) = quota.inodes
            && self.usage.inodes > limit
            && self.usage.inodes > before.inodes
        {
            return Err(Error::new(
                ErrorKind::QuotaExceeded,
                format!("the quota of {limit} inodes is used up: raise it or delete files"),
            ));
        }
        Ok(())
    }

    /// Records what the request is answered, so that the same request is not carried out twice.
    pub fn answer(&mut self, request: Option<RequestId>, ino: Option<Ino>, size: u64) {
        self.reply = request.map(|r| (r, Answer { ino, size }));
    }

    /// Reads bytes of stored extents (not of this frame).
    pub fn read_extent(&self, piece: &Extent, from: u32, out: &mut [u8]) -> Result<()> {
        if piece.file == THIS_FRAME {
            let start = piece.offset as usize + (piece.skip + from) as usize;
            out.copy_from_slice(&self.data[start..start + out.len()]);
            return Ok(());
        }
        self.engine.files.read(piece, from, out)
    }

    /// Whether it may use the reserve on a full disk: it takes something away, and adds nothing.
    fn claim(&self) -> Claim {
        let (before, behind) = (&self.state.usage, &self.usage);
        let adds =
            !self.data.is_empty() || behind.own > before.own || behind.inodes > before.inodes;
        let takes = behind.own < before.own
            || behind.inodes < before.inodes
            || self.pending.values().any(Option::is_none);
        if takes && !adds {
            Claim::Freeing
        } else {
            Claim::Ordinary
        }
    }

    /// Makes all changes, as one frame. On an error nothing has changed. Cost: one log write and one
    /// index batch; no sync. Returns the position to wait for.
    pub fn commit(self) -> Result<Position> {
        self.commit_at().map(|(position, _, _)| position)
    }

    /// The same; also tells the segment that the frame's data went into, and where it starts there.
    pub fn commit_at(mut self) -> Result<(Position, FileId, u64)> {
        self.engine.check_open()?;
        if self.pending.is_empty() && self.reply.is_none() {
            return Ok((self.engine.durable_position(), THIS_FRAME, 0));
        }
        self.pending
            .insert(RecordKey::Usage, Some(Record::Usage(self.usage)));
        let data_hash = match self.data_hash {
            _ if self.data.is_empty() => [0; 32],
            Some(hash) => hash,
            None => *blake3::hash(&self.data).as_bytes(),
        };
        let claim = self.claim();
        let mut commit = self.engine.commit.lock();
        let place = commit.log.place(claim)?;
        let mut rows = Vec::with_capacity(self.pending.len() + self.dead.len() + 1);
        for (key, record) in &mut self.pending {
            if let Some(Record::Chunk(Chunk::Extents(extents))) = record {
                for e in extents.iter_mut().filter(|e| e.file == THIS_FRAME) {
                    e.file = place.segment;
                    e.offset += place.data_offset;
                }
            }
            rows.push(Row::Record {
                key: key.encode(),
                value: records::encode(record.as_ref()),
            });
        }
        for dead in self.dead.iter_mut().filter(|d| d.file == THIS_FRAME) {
            dead.file = place.segment;
            dead.offset += place.data_offset;
        }
        if planted(Bug::LostDeadlist) {
            self.dead.clear();
        }
        rows.extend(self.dead.iter().map(|dead| Row::Dead {
            value: dead.encode(),
        }));
        if let Some((request, answer)) = self.reply {
            rows.push(Row::Reply {
                connection: request.connection,
                unique: request.unique,
                ino: answer.ino.map_or(0, |i| i.0),
                size: answer.size,
            });
        }
        let rows_bytes = crate::log::frame::encode_rows(&rows);
        let parts = Parts {
            epoch: *self.epoch,
            timeline: self.timeline,
            data_len: self.data.len(),
            data_hash,
            rows: &rows_bytes,
        };
        let end = self
            .engine
            .append(&mut commit, place.position, &parts, &self.data, &rows)?;
        drop(commit);
        self.state.usage = self.usage;
        self.state.next_ino = self.next_ino;
        self.state.ino_limit = self.ino_limit;
        let notices = self
            .engine
            .observers
            .wanted(self.timeline, self.origin)
            .then(|| Notice::of(&self.pending));
        self.state.recent.note(*self.epoch, self.pending);
        let Self {
            engine,
            timeline,
            state,
            epoch,
            origin,
            ..
        } = self;
        drop(state);
        drop(epoch);
        if let Some(notices) = notices {
            engine.observers.tell(timeline, origin, &notices);
        }
        Ok((end, place.segment, place.data_offset))
    }
}
