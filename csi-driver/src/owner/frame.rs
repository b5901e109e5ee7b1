//! The owner's socket on the wire.
//!
//! A frame is a length (4 bytes, big-endian, counting what follows), a kind (1 byte) and a payload. Payloads
//! are JSON, except those of `Data`, which are bytes as they are. A frame is at most [`MAX_FRAME`] bytes; a
//! longer one ends the connection. `docs/cli.md` gives the conversation.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::failure::{Failure, Outcome};

/// The version of this protocol. Another one is refused by its number.
pub const PROTOCOL: u32 = 1;

/// Largest frame in bytes, kind and payload together.
pub const MAX_FRAME: usize = 4 << 20;

/// Most bytes of a file that one `Data` frame carries.
pub const DATA: usize = 256 << 10;

/// The kind of a frame. A byte is given once; retired ones stay reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// The first frame of both sides: `{"protocol":1,"version":"0.1.0","pid":4711}`.
    Hello = 1,
    /// From the asker: a command.
    Command = 2,
    /// Bytes of a file: from the asker after `put`, from the owner for `cat`.
    Data = 3,
    /// From the asker: no more `Data` follows.
    EndOfData = 4,
    /// From the owner: fields of the answer known at the start.
    Begin = 5,
    /// From the owner: one entry of the answer.
    Row = 6,
    /// From the owner: fields of the answer known at the end.
    End = 7,
    /// From the owner: how far it has come.
    Progress = 8,
    /// From the owner, the last frame: the command is done.
    Done = 9,
    /// From the owner, the last frame: the command failed.
    Failed = 10,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        use FrameKind::*;
        [
            Hello, Command, Data, EndOfData, Begin, Row, End, Progress, Done, Failed,
        ]
        .into_iter()
        .find(|k| *k as u8 == byte)
    }
}

/// What both sides say first. Unknown fields are ignored, so that later versions can add some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Hello {
    /// The protocol's version.
    pub protocol: u32,
    /// The program's version, for messages.
    pub version: String,
    /// The process, for messages.
    pub pid: u32,
}

impl Hello {
    /// This process.
    pub fn own() -> Self {
        Self {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
        }
    }
}

/// Writes a frame. One system call for small ones.
pub fn write_frame(to: &mut impl Write, kind: FrameKind, payload: &[u8]) -> io::Result<()> {
    let length = payload.len() + 1;
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a frame of {length} bytes is too long"),
        ));
    }
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes.push(kind as u8);
    bytes.extend_from_slice(payload);
    to.write_all(&bytes)
}

/// Writes a frame with a JSON payload.
pub fn write_json(
    to: &mut impl Write,
    kind: FrameKind,
    payload: &impl Serialize,
) -> io::Result<()> {
    write_frame(
        to,
        kind,
        &serde_json::to_vec(payload).map_err(io::Error::other)?,
    )
}

/// Reads a frame. `None` when the other side ended between two frames.
pub fn read_frame(from: &mut impl Read) -> io::Result<Option<(FrameKind, Vec<u8>)>> {
    let mut header = [0; 4];
    let mut filled = 0;
    while filled < 4 {
        match from.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let length = u32::from_be_bytes(header) as usize;
    if length == 0 || length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame cannot have {length} bytes"),
        ));
    }
    let mut kind = [0];
    from.read_exact(&mut kind)?;
    let kind = FrameKind::from_byte(kind[0]).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is no kind of frame", kind[0]),
        )
    })?;
    let mut payload = vec![0; length - 1];
    from.read_exact(&mut payload)?;
    Ok(Some((kind, payload)))
}

/// Reads a JSON payload.
pub fn json<T: DeserializeOwned>(payload: &[u8]) -> Outcome<T> {
    serde_json::from_slice(payload).map_err(|e| {
        Failure::owner(format!(
            "the other side of the socket said something else than expected: {e}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_frame_are_these() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, FrameKind::Data, b"abc").unwrap();
        assert_eq!(bytes, [0, 0, 0, 4, 3, b'a', b'b', b'c']);
        let mut from = bytes.as_slice();
        assert_eq!(
            read_frame(&mut from).unwrap(),
            Some((FrameKind::Data, b"abc".to_vec()))
        );
        assert_eq!(read_frame(&mut from).unwrap(), None);
    }

    #[test]
    fn torn_long_and_unknown_frames_are_errors_and_cost_no_memory() {
        for bytes in [
            &[0, 0][..],
            &[0, 0, 0, 0],
            &[0xff, 0xff, 0xff, 0xff, 3],
            &[0, 0, 0, 1, 99],
            &[0, 0, 0, 4, 3, 1],
        ] {
            assert!(read_frame(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
        assert!(write_frame(&mut Vec::new(), FrameKind::Data, &vec![0; MAX_FRAME]).is_err());
    }
}
