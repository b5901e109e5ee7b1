//! The asker's side of the socket.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::Command;
use super::failure::{Failure, Outcome};
use super::frame::{DATA, FrameKind, Hello, PROTOCOL, json, read_frame, write_frame, write_json};
use super::output::{Event, Output};
use super::server::SOCKET;

/// How long an owner may take for its hello.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection to the owner of a store, good for one command.
pub struct Client {
    stream: UnixStream,
    owner: Hello,
}

impl Client {
    /// Connects to the owner of the store in `data`; `None` when nobody listens there.
    pub fn connect(data: &Path) -> Outcome<Option<Client>> {
        let stream = match connect(data) {
            Ok(stream) => stream,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Failure::owner(format!(
                    "the store in {} belongs to another user",
                    data.display()
                ))
                .then("Run the command as that user, or as root."));
            }
            Err(e) => {
                return Err(Failure::owner(format!(
                    "cannot reach the owner of the store in {}: {e}",
                    data.display()
                )));
            }
        };
        let gone =
            |e: io::Error| Failure::owner(format!("the owner of the store does not answer: {e}"));
        stream.set_read_timeout(Some(HANDSHAKE)).map_err(gone)?;
        let mut both = &stream;
        write_json(&mut both, FrameKind::Hello, &Hello::own()).map_err(gone)?;
        match read_frame(&mut both).map_err(gone)? {
            Some((FrameKind::Hello, payload)) => {
                let owner: Hello = json(&payload)?;
                if owner.protocol != PROTOCOL {
                    return Err(Failure::owner(format!(
                        "the owner of this store (version {}, process {}) speaks protocol {}, and this command (version {}) speaks {PROTOCOL}",
                        owner.version,
                        owner.pid,
                        owner.protocol,
                        env!("CARGO_PKG_VERSION")
                    ))
                    .then("Use the same version on both sides."));
                }
                stream.set_read_timeout(None).map_err(gone)?;
                Ok(Some(Client { stream, owner }))
            }
            Some((FrameKind::Failed, payload)) => Err(json::<Failure>(&payload)?),
            Some((kind, _)) => Err(Failure::owner(format!(
                "the owner of the store answers {kind:?} to a hello"
            ))),
            // It listens no more: it is ending.
            None => Ok(None),
        }
    }

    /// The process that owns the store.
    pub fn owner(&self) -> u32 {
        self.owner.pid
    }

    /// Runs a command in the owner. `input` is what follows the command, read to its end.
    pub fn run(self, command: &Command, input: &mut dyn Read, output: &mut dyn Output) -> Outcome {
        let gone = |e: io::Error| {
            Failure::owner(format!(
                "the owner of the store went away in the middle of {}: {e}",
                command.word()
            ))
            .then("Look with `anabranch log` or `ls` whether it was done, then do it again.")
        };
        let mut writer = &self.stream;
        write_json(&mut writer, FrameKind::Command, command).map_err(gone)?;
        let mut unreadable = None;
        if command.has_input() {
            match send(input, writer) {
                Ok(()) => {}
                // Our own input cannot be read to its end: the owner sees the connection end and keeps nothing.
                Err(Sending::Source(error)) => unreadable = Some(error),
                // It answered before it had read everything: the answer says why.
                Err(Sending::Owner) => {}
            }
        }
        if let Some(error) = unreadable {
            return Err(super::failure::host("read the input", &error));
        }
        let mut reader = BufReader::with_capacity(64 << 10, &self.stream);
        loop {
            let Some((kind, payload)) = read_frame(&mut reader).map_err(gone)? else {
                return Err(gone(io::ErrorKind::UnexpectedEof.into()));
            };
            let event = match kind {
                FrameKind::Begin => Event::Begin(json(&payload)?),
                FrameKind::Row => Event::Row(json(&payload)?),
                FrameKind::End => Event::End(json(&payload)?),
                FrameKind::Progress => Event::Progress(json(&payload)?),
                FrameKind::Data => Event::Bytes(payload),
                FrameKind::Done => return Ok(()),
                FrameKind::Failed => return Err(json::<Failure>(&payload)?),
                FrameKind::Hello | FrameKind::Command | FrameKind::EndOfData => {
                    return Err(Failure::owner(format!(
                        "the owner of the store says {kind:?}, which is not its turn"
                    )));
                }
            };
            output.event(event)?;
        }
    }
}

enum Sending {
    Source(io::Error),
    Owner,
}

fn send(input: &mut dyn Read, mut to: &UnixStream) -> Result<(), Sending> {
    let mut buffer = vec![0; DATA];
    loop {
        let n = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Sending::Source(e)),
        };
        write_frame(&mut to, FrameKind::Data, &buffer[..n]).map_err(|_| Sending::Owner)?;
    }
    write_frame(&mut to, FrameKind::EndOfData, &[]).map_err(|_| Sending::Owner)
}

/// Connects to the socket in a data directory, however long the directory's path is.
pub(crate) fn connect(data: &Path) -> io::Result<UnixStream> {
    let directory = File::open(data)?;
    UnixStream::connect(short_path(&directory, SOCKET))
}

/// A short path to a file in an open directory: the address of a socket holds 108 bytes only.
pub(crate) fn short_path(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}
