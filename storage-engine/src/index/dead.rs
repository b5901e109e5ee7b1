//! Deadlist records: what stopped being referred to, when, and since when it had been there. The
//! collector frees an entry when no cutoff lies in `[birth, death)`.
//!
//! Key: timeline (16 bytes), death epoch u64, log position of the frame u64, number in the frame u32.
//! Value: birth epoch u64, ino u64, chunk u32, file (16 bytes), offset u64, length u32, skip u32,
//! take u32. An entry with file 0 stands for `take` bytes of inline data.

use crate::codec::{Reader, Writer};
use crate::error::Result;
use crate::ids::{Epoch, FileId, Ino, Position, TimelineId};

/// Bytes that a timeline wrote and then superseded.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Dead {
    pub birth: Epoch,
    pub ino: Ino,
    pub chunk: u32,
    pub file: FileId,
    pub offset: u64,
    pub length: u32,
    pub skip: u32,
    pub take: u32,
}

impl Dead {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer(Vec::with_capacity(56));
        w.u64(self.birth.0)
            .u64(self.ino.0)
            .u32(self.chunk)
            .bytes(&self.file.0);
        w.u64(self.offset)
            .u32(self.length)
            .u32(self.skip)
            .u32(self.take);
        w.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes, "a deadlist record");
        let dead = Self {
            birth: Epoch(r.u64()?),
            ino: Ino(r.u64()?),
            chunk: r.u32()?,
            file: FileId(r.array()?),
            offset: r.u64()?,
            length: r.u32()?,
            skip: r.u32()?,
            take: r.u32()?,
        };
        r.end()?;
        Ok(dead)
    }
}

pub(crate) fn dead_key(
    timeline: TimelineId,
    death: Epoch,
    frame: Position,
    number: u32,
) -> Vec<u8> {
    let mut w = Writer(Vec::with_capacity(36));
    w.bytes(&timeline.0).u64(death.0).u64(frame.0).u32(number);
    w.0
}
