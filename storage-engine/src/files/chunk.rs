//! Changes to the record of one chunk, with the accounting that goes with them.

use crate::commit::Txn;
use crate::error::{Error, Result};
use crate::ids::Ino;
use crate::index::extents::{carve, insert, runs};
use crate::index::keys::RecordKey;
use crate::index::records::{CHUNK_BYTES, Chunk, Extent, INLINE_BYTES, MAX_EXTENTS, Record};

/// The chunk as this timeline may change it: what an ancestor wrote is marked so.
enum Current {
    Nothing,
    Inline {
        born: u64,
        inherited: bool,
        bytes: Vec<u8>,
    },
    Extents(Vec<Extent>),
}

fn current(txn: &Txn<'_>, ino: Ino, n: u32) -> Result<Current> {
    Ok(match txn.get(&RecordKey::Chunk(ino, n))? {
        None => Current::Nothing,
        Some((
            Record::Chunk(Chunk::Inline {
                born,
                inherited,
                bytes,
            }),
            own,
        )) => Current::Inline {
            born,
            inherited: inherited || !own,
            bytes,
        },
        Some((Record::Chunk(Chunk::Extents(mut extents)), own)) => {
            if !own {
                for e in &mut extents {
                    e.inherited = true;
                }
            }
            Current::Extents(extents)
        }
        Some(_) => return Err(Error::corrupt("a chunk record holds something else")),
    })
}

/// Writes `bytes` at `at` of chunk `n`. `file_end` is the file's size after the write: it decides
/// whether the bytes stand inline.
pub(super) fn write(
    txn: &mut Txn<'_>,
    ino: Ino,
    n: u32,
    at: u32,
    bytes: &[u8],
    file_end: u64,
) -> Result<()> {
    let len = bytes.len() as u32;
    let mut extents = match current(txn, ino, n)? {
        old @ (Current::Nothing | Current::Inline { .. }) if n == 0 && file_end <= INLINE_BYTES => {
            let mut whole = match old {
                Current::Inline {
                    born,
                    inherited,
                    bytes,
                } => {
                    txn.supersede_inline(ino, n, born, inherited, bytes.len());
                    bytes
                }
                _ => Vec::new(),
            };
            let end = at as usize + bytes.len();
            if whole.len() < end {
                whole.resize(end, 0);
            }
            whole[at as usize..end].copy_from_slice(bytes);
            put_inline(txn, ino, n, whole);
            return Ok(());
        }
        Current::Nothing => Vec::new(),
        Current::Inline {
            born,
            inherited,
            bytes: old,
        } => {
            txn.supersede_inline(ino, n, born, inherited, old.len());
            outgrow(txn, at, len, &old)
        }
        Current::Extents(extents) => {
            let carved = carve(extents, at, len);
            for piece in &carved.removed {
                txn.supersede(ino, n, piece);
            }
            carved.kept
        }
    };
    if extents.len() >= MAX_EXTENTS {
        extents = merge(txn, ino, n, &extents, at, bytes)?;
    } else {
        let new = txn.add_data(at, bytes);
        txn.count_own(u64::from(len));
        insert(&mut extents, new);
    }
    txn.put(
        RecordKey::Chunk(ino, n),
        Record::Chunk(Chunk::Extents(extents)),
    );
    Ok(())
}

/// The parts of inline bytes that a write of `[at, at + len)` leaves, as extents.
fn outgrow(txn: &mut Txn<'_>, at: u32, len: u32, old: &[u8]) -> Vec<Extent> {
    let mut extents = Vec::new();
    let head = &old[..old.len().min(at as usize)];
    let tail_at = (at + len) as usize;
    let tail = if tail_at < old.len() {
        &old[tail_at..]
    } else {
        &[]
    };
    for (at, part) in [(0, head), (tail_at as u32, tail)] {
        if !part.is_empty() {
            let piece = txn.add_data(at, part);
            txn.count_own(part.len() as u64);
            extents.push(piece);
        }
    }
    extents
}

/// Writes a chunk of many pieces again, each run without a hole as one piece, with `bytes` in it. If
/// holes alone make many runs, they are filled.
fn merge(
    txn: &mut Txn<'_>,
    ino: Ino,
    n: u32,
    kept: &[Extent],
    at: u32,
    bytes: &[u8],
) -> Result<Vec<Extent>> {
    let mut covered: Vec<Extent> = kept.to_vec();
    let marker = Extent {
        at,
        take: bytes.len() as u32,
        skip: 0,
        born: 0,
        inherited: false,
        file: crate::index::records::NO_OBJECT,
        offset: 0,
        length: bytes.len() as u32,
        sums: Vec::new(),
    };
    insert(&mut covered, marker);
    let mut ranges = runs(&covered);
    if ranges.len() > MAX_EXTENTS / 2
        && let (Some(first), Some(last)) = (ranges.first().copied(), ranges.last().copied())
    {
        ranges = vec![(first.0, last.1)];
    }
    let mut merged = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        let mut whole = vec![0; (to - from) as usize];
        for e in kept.iter().filter(|e| e.at >= from && e.at + e.take <= to) {
            let start = (e.at - from) as usize;
            txn.read_extent(e, 0, &mut whole[start..start + e.take as usize])?;
        }
        if at >= from && at < to {
            let start = (at - from) as usize;
            whole[start..start + bytes.len()].copy_from_slice(bytes);
        }
        merged.push(txn.add_data(from, &whole));
        txn.count_own(whole.len() as u64);
    }
    for piece in kept {
        txn.supersede(ino, n, piece);
    }
    Ok(merged)
}

/// Makes `[at, at + len)` of chunk `n` a hole.
pub(super) fn clear(txn: &mut Txn<'_>, ino: Ino, n: u32, at: u32, len: u32) -> Result<()> {
    match current(txn, ino, n)? {
        Current::Nothing => {}
        Current::Inline {
            born,
            inherited,
            mut bytes,
        } => {
            let (from, to) = (
                (at as usize).min(bytes.len()),
                ((at + len) as usize).min(bytes.len()),
            );
            if from == to {
                return Ok(());
            }
            txn.supersede_inline(ino, n, born, inherited, bytes.len());
            if to == bytes.len() {
                bytes.truncate(from);
            } else {
                bytes[from..to].fill(0);
            }
            if bytes.is_empty() {
                txn.delete(RecordKey::Chunk(ino, n));
            } else {
                put_inline(txn, ino, n, bytes);
            }
        }
        Current::Extents(extents) => {
            let carved = carve(extents, at, len);
            if carved.removed.is_empty() {
                return Ok(());
            }
            for piece in &carved.removed {
                txn.supersede(ino, n, piece);
            }
            if carved.kept.is_empty() {
                txn.delete(RecordKey::Chunk(ino, n));
            } else {
                txn.put(
                    RecordKey::Chunk(ino, n),
                    Record::Chunk(Chunk::Extents(carved.kept)),
                );
            }
        }
    }
    Ok(())
}

/// Removes a whole chunk.
pub(super) fn remove(txn: &mut Txn<'_>, ino: Ino, n: u32) -> Result<()> {
    clear(txn, ino, n, 0, CHUNK_BYTES as u32)
}

fn put_inline(txn: &mut Txn<'_>, ino: Ino, n: u32, bytes: Vec<u8>) {
    txn.count_own(bytes.len() as u64);
    let born = txn.epoch().0;
    txn.put(
        RecordKey::Chunk(ino, n),
        Record::Chunk(Chunk::Inline {
            born,
            inherited: false,
            bytes,
        }),
    );
}
