//! The only place that knows RocksDB: the store of versions, narrow on purpose (newest at or below an
//! epoch, ordered scan at an epoch, commit of a batch), so that another store can take its place.
//!
//! Everything stands in one column family, under a first byte that says what it is: a flush is then
//! atomic by construction, and the log position that it carries is true for all of it. RocksDB's own
//! WAL is off (the log is the WAL), and RocksDB never flushes by itself: [`Index::flush`] is called
//! when the log is synced, so the index can never be ahead of a durable log.
//!
//! | first byte | what | rest of the key |
//! |---|---|---|
//! | `c` | catalog record | its key |
//! | `d` | deadlist record | timeline, death epoch, frame position, number |
//! | `h` | change list | timeline, epoch, relative key |
//! | `m` | meta: what is applied | |
//! | `p` | what of a run was given up and not given back yet | file, offset u64 |
//! | `r` | version of a record | timeline, relative key, inverted epoch |
//! | `y` | answers to requests | connection u64, slot u16 |

mod audit;
mod collect;
mod open;
mod scan;

use std::collections::HashSet;
use std::path::Path;

use parking_lot::Mutex;
use rocksdb::{DB, FlushOptions, WriteBatch, WriteOptions};

pub(crate) use scan::VersionScan;

use crate::codec::{Reader, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::files::types::{Answer, RequestId};
use crate::ids::{Epoch, FileId, Ino, Position, TimelineId};
use crate::index::dead::dead_key;
use crate::index::keys::{EPOCH_LEN, RecordKey, change_key, version_key};
use crate::log::frame::Row;
use crate::log::reader::Applied;
use crate::planted::{Bug, planted};

const CATALOG: u8 = b'c';
const DEAD: u8 = b'd';
const CHANGE: u8 = b'h';
const META: u8 = b'm';
const RECORD: u8 = b'r';
const RESIDUE: u8 = b'p';
const REPLY: u8 = b'y';

/// How many of the last requests of a mount keep their answer. The kernel has far fewer applied and
/// unanswered at once: one for each serving thread.
const REPLY_SLOTS: u64 = 4096;

/// The index over one RocksDB.
pub(crate) struct Index {
    db: DB,
    write: WriteOptions,
    listed: Mutex<Listed>,
    /// Why the index that was there had to be thrown away.
    thrown_away: Option<String>,
}

/// Keys that the list of changes has for the open epoch already: what changes again and again in it, as a directory
/// that files are made in, is listed once.
#[derive(Default)]
struct Listed {
    epoch: Epoch,
    keys: HashSet<Vec<u8>>,
}

impl Listed {
    /// Some megabytes at most.
    const MOST: usize = 16 << 10;

    /// Notes that a key is listed; false when it was before.
    fn add(&mut self, epoch: Epoch, key: &[u8]) -> bool {
        if self.epoch != epoch || self.keys.len() >= Self::MOST {
            self.epoch = epoch;
            self.keys.clear();
        }
        !self.keys.contains(key) && self.keys.insert(key.to_vec())
    }
}

/// A commit as the index sees it.
pub(crate) struct Applying<'a> {
    pub timeline: TimelineId,
    pub epoch: Epoch,
    pub frame: Position,
    pub rows: &'a [Row],
    /// The log after this frame.
    pub applied: Applied,
}

impl Index {
    /// Opens or creates the index. One that is so damaged that the store could not be opened with it is thrown
    /// away, since the log has all of it. Cost: the catalog.
    pub fn open(path: &Path) -> Result<Self> {
        let index = Self::open_as_it_is(path)?;
        let needed = index
            .applied()
            .and_then(|_| index.catalog(|_, _| Ok(())))
            .map_err(|e| (e.kind(), e.to_string()));
        match needed {
            Err((ErrorKind::Corrupt, why)) => {
                drop(index);
                open::forget(path, &why)?;
                let mut index = Self::open_as_it_is(path)?;
                index.thrown_away = Some(why);
                Ok(index)
            }
            // What else there is to say, the opening meets again.
            _ => Ok(index),
        }
    }

    fn open_as_it_is(path: &Path) -> Result<Self> {
        let (db, thrown_away) = open::open(path)?;
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Ok(Self {
            db,
            write,
            listed: Mutex::default(),
            thrown_away,
        })
    }

    /// Why the index that was there was thrown away when this one was opened.
    pub fn thrown_away(&self) -> Option<&str> {
        self.thrown_away.as_deref()
    }

    /// What the index holds of the log, and the newest epoch in it.
    pub fn applied(&self) -> Result<Option<(Applied, Epoch)>> {
        let Some(value) = self
            .db
            .get([META])
            .map_err(|e| translate("read the index", &e))?
        else {
            return Ok(None);
        };
        decode_applied(&value).map(Some)
    }

    /// Applies one frame. Applying it again changes nothing. Cost: one batch of its rows; returns the
    /// size of that batch in bytes.
    pub fn apply(&self, commit: &Applying<'_>) -> Result<usize> {
        let mut batch = WriteBatch::default();
        let mut number = 0;
        // Held until the batch is written: what counts as listed is in this batch or one before it.
        let mut listed = self.listed.lock();
        for row in commit.rows {
            match row {
                Row::Record { key, value } => {
                    batch.put(
                        tagged(RECORD, &version_key(commit.timeline, key, commit.epoch)),
                        value,
                    );
                    if RecordKey::is_content(key) {
                        let change = change_key(commit.timeline, commit.epoch, key);
                        if listed.add(commit.epoch, &change) {
                            batch.put(tagged(CHANGE, &change), []);
                        }
                    }
                }
                Row::Dead { value } => {
                    let key = dead_key(commit.timeline, commit.epoch, commit.frame, number);
                    batch.put(tagged(DEAD, &key), value);
                    number += 1;
                }
                Row::Catalog { key, value } => batch.put(tagged(CATALOG, key), value),
                Row::Reply {
                    connection,
                    unique,
                    ino,
                    size,
                } => {
                    let mut w = Writer(Vec::with_capacity(24));
                    w.u64(*unique).u64(*ino).u64(*size);
                    batch.put(reply_key(*connection, *unique), w.0);
                }
                Row::Drop { key, epoch } => {
                    batch.delete(tagged(RECORD, &version_key(commit.timeline, key, *epoch)));
                    if RecordKey::is_content(key) {
                        let change = change_key(commit.timeline, *epoch, key);
                        listed.keys.remove(&change);
                        batch.delete(tagged(CHANGE, &change));
                    }
                }
                Row::Free {
                    death,
                    frame,
                    number,
                } => {
                    if planted(Bug::DoubleFree) {
                        continue;
                    }
                    let key = dead_key(commit.timeline, *death, *frame, *number);
                    batch.delete(tagged(DEAD, &key));
                }
                Row::Skipped { count } => number += count,
                Row::Empty => {
                    listed.keys.clear();
                    for tag in [RECORD, CHANGE, DEAD] {
                        let from = tagged(tag, &commit.timeline.0);
                        if let Some(to) = open::successor(&from) {
                            batch.delete_range(from, to);
                        }
                    }
                }
                Row::Residue {
                    file,
                    offset,
                    value,
                } => {
                    let key = residue_key(*file, *offset);
                    if value.is_empty() {
                        batch.delete(key);
                    } else {
                        batch.put(key, value);
                    }
                }
            }
        }
        let mut w = Writer(Vec::with_capacity(48));
        w.u64(commit.applied.position.0)
            .bytes(&commit.applied.chain)
            .u64(commit.epoch.0);
        batch.put([META], w.0);
        let size = batch.size_in_bytes();
        self.db.write_opt(batch, &self.write).map_err(|e| {
            listed.keys.clear();
            translate("write the index", &e)
        })?;
        Ok(size)
    }

    /// Starts writing what is in memory to disk, after the caller has synced the log; `wait` returns
    /// when it is there.
    pub fn flush(&self, wait: bool) -> Result<()> {
        let mut options = FlushOptions::default();
        options.set_wait(wait);
        self.db
            .flush_opt(&options)
            .map_err(|e| translate("flush the index", &e))
    }

    /// Whether a flush that was started is not on disk yet.
    pub fn flushing(&self) -> Result<bool> {
        let waiting = self
            .db
            .property_int_value("rocksdb.num-immutable-mem-table")
            .map_err(|e| translate("ask the index", &e))?;
        Ok(waiting.is_some_and(|n| n > 0))
    }

    /// Newest version of a record with an epoch in `(lo, hi]`: the epoch and the row. Cost: one seek.
    pub fn newest(
        &self,
        timeline: TimelineId,
        relative: &[u8],
        lo: Epoch,
        hi: Epoch,
    ) -> Result<Option<(Epoch, Vec<u8>)>> {
        let start = tagged(RECORD, &version_key(timeline, relative, hi));
        let mut iter = self.db.raw_iterator_opt(open::point_reads());
        iter.seek(&start);
        if let (Some(key), Some(value)) = (iter.key(), iter.value())
            && key.len() == start.len()
            && key[..key.len() - EPOCH_LEN] == start[..start.len() - EPOCH_LEN]
        {
            let mut r = Reader::new(&key[key.len() - EPOCH_LEN..], "a version key");
            let epoch = Epoch(!r.u64()?);
            return Ok((epoch > lo).then(|| (epoch, value.to_vec())));
        }
        iter.status().map_err(|e| translate("read the index", &e))?;
        Ok(None)
    }

    /// Newest versions with an epoch in `(lo, hi]` of all records whose relative key starts with
    /// `prefix`, in key order, tombstones included. Cost: the versions passed.
    pub fn scan(
        &self,
        timeline: TimelineId,
        prefix: &[u8],
        lo: Epoch,
        hi: Epoch,
    ) -> VersionScan<'_> {
        VersionScan::new(&self.db, timeline, prefix, lo, hi)
    }

    /// Relative keys of the records that `timeline` changed in an epoch in `(lo, hi]`, with repeats.
    /// Cost: the changes.
    pub fn changes(
        &self,
        timeline: TimelineId,
        lo: Epoch,
        hi: Epoch,
        mut each: impl FnMut(Epoch, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let prefix = tagged(CHANGE, &timeline.0);
        let mut iter = self.db.raw_iterator_opt(open::scans(&prefix));
        let mut start = prefix.clone();
        start.extend_from_slice(&lo.0.saturating_add(1).to_be_bytes());
        iter.seek(start);
        while let Some(key) = iter.key() {
            if !key.starts_with(&prefix) {
                break;
            }
            let mut r = Reader::new(&key[prefix.len()..], "a change list key");
            let epoch = Epoch(r.u64()?);
            if epoch > hi {
                break;
            }
            each(epoch, r.bytes(r.remaining())?)?;
            iter.next();
        }
        iter.status().map_err(|e| translate("read the index", &e))
    }

    /// One catalog record. Cost: one look-up.
    pub fn catalog_record(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db
            .get(tagged(CATALOG, key))
            .map_err(|e| translate("read the index", &e))
    }

    /// All catalog records, in key order.
    pub fn catalog(&self, mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        self.walk(CATALOG, &[], |key, value| each(key, value))
    }

    /// Every stored version of a timeline: relative key and inverted epoch, and row.
    pub fn versions(
        &self,
        timeline: TimelineId,
        prefix: &[u8],
        each: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut start = timeline.0.to_vec();
        start.extend_from_slice(prefix);
        let skip = TIMELINE_PREFIX;
        let mut each = each;
        self.walk_from(RECORD, &start, |key, value| each(&key[skip..], value))
    }

    fn walk(
        &self,
        tag: u8,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let skip = prefix.len();
        self.walk_from(tag, prefix, |key, value| each(&key[skip..], value))
    }

    /// Calls `each` with every key (without its tag) that starts with `prefix`.
    fn walk_from(
        &self,
        tag: u8,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let prefix = tagged(tag, prefix);
        let mut iter = self.db.raw_iterator_opt(open::scans(&prefix));
        iter.seek(&prefix);
        while let (Some(key), Some(value)) = (iter.key(), iter.value()) {
            if !key.starts_with(&prefix) {
                break;
            }
            each(&key[1..], value)?;
            iter.next();
        }
        iter.status().map_err(|e| translate("read the index", &e))
    }

    /// The answer of a request, if it was applied and is among the last of its mount.
    pub fn reply(&self, request: RequestId) -> Result<Option<Answer>> {
        let key = reply_key(request.connection, request.unique);
        let Some(value) = self
            .db
            .get(key)
            .map_err(|e| translate("read the index", &e))?
        else {
            return Ok(None);
        };
        let (unique, answer) = decode_reply(&value)?;
        Ok((unique == request.unique).then_some(answer))
    }
}

/// What the index holds of the log, and the newest epoch in it.
pub(crate) fn decode_applied(value: &[u8]) -> Result<(Applied, Epoch)> {
    let mut r = Reader::new(value, "the index's log position");
    let applied = Applied {
        position: Position(r.u64()?),
        chain: r.array()?,
    };
    let epoch = Epoch(r.u64()?);
    r.end()?;
    Ok((applied, epoch))
}

/// A stored answer, and the request's number that it is of.
pub(crate) fn decode_reply(value: &[u8]) -> Result<(u64, Answer)> {
    let mut r = Reader::new(value, "a stored answer");
    let (unique, ino, size) = (r.u64()?, r.u64()?, r.u64()?);
    r.end()?;
    let ino = (ino != 0).then_some(Ino(ino));
    Ok((unique, Answer { ino, size }))
}

const TIMELINE_PREFIX: usize = crate::index::keys::TIMELINE_LEN;

fn tagged(tag: u8, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 1);
    out.push(tag);
    out.extend_from_slice(key);
    out
}

fn residue_key(file: FileId, offset: u64) -> Vec<u8> {
    let mut w = Writer(Vec::with_capacity(25));
    w.u8(RESIDUE).bytes(&file.0).u64(offset);
    w.0
}

fn reply_key(connection: u64, unique: u64) -> Vec<u8> {
    let mut w = Writer(Vec::with_capacity(11));
    // The kernel counts its requests in steps of two.
    w.u8(REPLY)
        .u64(connection)
        .u16(((unique >> 1) % REPLY_SLOTS) as u16);
    w.0
}

/// RocksDB's errors, told apart by their text: it offers nothing else.
fn translate(what: &str, error: &rocksdb::Error) -> Error {
    let text = error.to_string();
    let kind = match error.kind() {
        // What it refuses of its own files' form or settings was not written so either.
        rocksdb::ErrorKind::Corruption
        | rocksdb::ErrorKind::NotSupported
        | rocksdb::ErrorKind::InvalidArgument => ErrorKind::Corrupt,
        _ if text.contains("No space left") => ErrorKind::NoSpace,
        _ if text.contains("lock ") && text.contains("LOCK") => ErrorKind::Locked,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("cannot {what}: {text}"))
}
