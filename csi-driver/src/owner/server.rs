//! The owner's side of the socket: one thread per asker, each running one command.

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::command::Command;
use super::context::Context;
use super::failure::{Failure, Outcome, host};
use super::frame::{DATA, FrameKind, Hello, PROTOCOL, json, read_frame, write_frame, write_json};
use super::output::{Event, Output};
use super::run::run;

/// The socket's name in the data directory.
pub const SOCKET: &str = "owner.sock";

/// Most commands that run at the same time; further askers are told to try again.
const MOST_ASKERS: usize = 64;

/// How long an asker may take for its hello and its command.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A socket that is being served. Dropping it does not stop it: call [`Server::stop`].
pub struct Server {
    path: PathBuf,
    stopping: Arc<AtomicBool>,
    askers: Arc<Askers>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Askers {
    next: AtomicU64,
    running: AtomicUsize,
    streams: Mutex<Vec<(u64, UnixStream)>>,
}

impl Server {
    /// Listens on `<data>/owner.sock`. Only the owner of a store may call this: a socket that is there
    /// already is a dead predecessor's.
    pub fn start(data: &Path, context: Context) -> Outcome<Server> {
        let path = data.join(SOCKET);
        let listener =
            listen(data).map_err(|e| host(format_args!("listen on {}", path.display()), &e))?;
        let stopping = Arc::new(AtomicBool::new(false));
        let askers = Arc::new(Askers::default());
        let (flag, counted) = (Arc::clone(&stopping), Arc::clone(&askers));
        let accepting = std::thread::Builder::new()
            .name("owner-socket".to_owned())
            .spawn(move || accept(&listener, &context, &flag, &counted))
            .map_err(|e| host("start a thread", &e))?;
        Ok(Server {
            path,
            stopping,
            askers,
            accepting,
        })
    }

    /// Takes no more commands, gives running ones `grace` to end, then cuts them off.
    pub fn stop(self, grace: Duration) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = fs::remove_file(&self.path);
        // Wakes the accepting thread: it looks at the flag after every connection.
        if let Some(data) = self.path.parent() {
            let _ = super::client::connect(data);
        }
        let deadline = std::time::Instant::now() + grace;
        while self.askers.running.load(Ordering::SeqCst) > 0 && std::time::Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        for (_, stream) in self.askers.streams.lock().iter() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(2);
        while self.askers.running.load(Ordering::SeqCst) > 0 && std::time::Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        // It looks at the flag five times a second. Whoever ends the process next must not find it with the engine in its hands.
        let deadline = std::time::Instant::now() + Duration::from_secs(2);
        while !self.accepting.is_finished() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.accepting.is_finished() {
            let _ = self.accepting.join();
        }
    }
}

/// Binds through the directory's descriptor: a path of any length works, although the address of a
/// socket holds 108 bytes only.
fn listen(data: &Path) -> io::Result<UnixListener> {
    let directory = fs::File::open(data)?;
    let path = super::client::short_path(&directory, SOCKET);
    match fs::remove_file(data.join(SOCKET)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(data.join(SOCKET), fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept(listener: &UnixListener, context: &Context, stopping: &AtomicBool, askers: &Arc<Askers>) {
    while !stopping.load(Ordering::SeqCst) {
        let mut poll = [rustix::event::PollFd::new(
            listener,
            rustix::event::PollFlags::IN,
        )];
        let wait = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 200_000_000,
        };
        let _ = rustix::event::poll(&mut poll, Some(&wait));
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the owner's socket");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if stream.set_nonblocking(false).is_err() || !permitted(&stream) {
            continue;
        }
        if askers.running.load(Ordering::SeqCst) >= MOST_ASKERS {
            refuse(
                &stream,
                &Failure::owner(format!("the owner runs {MOST_ASKERS} commands already"))
                    .then("Try again in a moment."),
            );
            continue;
        }
        let Ok(kept) = stream.try_clone() else {
            continue;
        };
        let id = askers.next.fetch_add(1, Ordering::SeqCst);
        askers.running.fetch_add(1, Ordering::SeqCst);
        askers.streams.lock().push((id, kept));
        let (context, counted) = (context.clone(), Arc::clone(askers));
        let spawned = std::thread::Builder::new()
            .name("owner-command".to_owned())
            .spawn(move || {
                if let Err(error) = serve(&stream, &context) {
                    tracing::debug!(%error, "an asker went away");
                }
                // Before it counts as ended: it may have been the last to hold the engine.
                drop(context);
                counted.leave(id);
            });
        if spawned.is_err() {
            askers.leave(id);
        }
    }
}

impl Askers {
    fn leave(&self, id: u64) {
        self.streams.lock().retain(|(other, _)| *other != id);
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The socket's mode keeps others out; this holds too where the mode of sockets is not looked at.
fn permitted(stream: &UnixStream) -> bool {
    let Ok(peer) = rustix::net::sockopt::socket_peercred(stream.as_fd()) else {
        return false;
    };
    peer.uid == rustix::process::geteuid() || peer.uid.is_root()
}

fn refuse(mut stream: &UnixStream, failure: &Failure) {
    let _ = stream.set_write_timeout(Some(HANDSHAKE));
    let _ = write_json(&mut stream, FrameKind::Failed, failure);
}

fn serve(stream: &UnixStream, context: &Context) -> io::Result<()> {
    stream.set_read_timeout(Some(HANDSHAKE))?;
    let mut writer = stream;
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    let Some((FrameKind::Hello, payload)) = read_frame(&mut reader)? else {
        refuse(
            stream,
            &Failure::owner("a connection has to start with a hello"),
        );
        return Ok(());
    };
    let hello: Hello = match json(&payload) {
        Ok(hello) => hello,
        Err(failure) => return write_json(&mut writer, FrameKind::Failed, &failure),
    };
    if hello.protocol != PROTOCOL {
        let failure = Failure::owner(format!(
            "the owner of this store (version {}, process {}) speaks protocol {PROTOCOL}, and this command (version {}) speaks {}",
            env!("CARGO_PKG_VERSION"),
            std::process::id(),
            hello.version,
            hello.protocol
        ));
        return write_json(
            &mut writer,
            FrameKind::Failed,
            &failure.then("Use the same version on both sides."),
        );
    }
    write_json(&mut writer, FrameKind::Hello, &Hello::own())?;
    let Some((FrameKind::Command, payload)) = read_frame(&mut reader)? else {
        refuse(stream, &Failure::owner("a command has to follow the hello"));
        return Ok(());
    };
    let command: Command = match json(&payload) {
        Ok(command) => command,
        Err(failure) => {
            return write_json(
                &mut writer,
                FrameKind::Failed,
                &failure.then("Use the same version on both sides."),
            );
        }
    };
    stream.set_read_timeout(None)?;
    let mut input = FrameInput {
        reader,
        rest: Vec::new(),
        at: 0,
        ended: !command.has_input(),
    };
    let mut output = FrameOutput { stream };
    match run(&command, context, &mut input, &mut output) {
        Ok(()) => write_json(&mut writer, FrameKind::Done, &serde_json::json!({})),
        Err(failure) => {
            // The rest of the input is read away, so that the asker gets to read the answer.
            let _ = stream.set_read_timeout(Some(HANDSHAKE));
            write_json(&mut writer, FrameKind::Failed, &failure)?;
            let mut away = [0; 64 << 10];
            while !input.ended && input.read(&mut away).is_ok_and(|n| n > 0) {}
            Ok(())
        }
    }
}

/// The bytes that follow a command. Ends with an error when the asker goes away before it said
/// `EndOfData`, so that half a file is never taken for a whole one.
struct FrameInput<R> {
    reader: R,
    rest: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<R: Read> Read for FrameInput<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.rest.len() {
            if self.ended {
                return Ok(0);
            }
            match read_frame(&mut self.reader)? {
                Some((FrameKind::Data, payload)) => (self.rest, self.at) = (payload, 0),
                Some((FrameKind::EndOfData, _)) => self.ended = true,
                Some((kind, _)) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{kind:?} instead of data"),
                    ));
                }
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the asker went away",
                    ));
                }
            }
        }
        let n = buffer.len().min(self.rest.len() - self.at);
        buffer[..n].copy_from_slice(&self.rest[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

struct FrameOutput<'a> {
    stream: &'a UnixStream,
}

impl Output for FrameOutput<'_> {
    fn event(&mut self, event: Event) -> Outcome {
        let mut to = self.stream;
        let written = match &event {
            Event::Begin(fields) => write_json(&mut to, FrameKind::Begin, fields),
            Event::Row(row) => write_json(&mut to, FrameKind::Row, row),
            Event::End(fields) => write_json(&mut to, FrameKind::End, fields),
            Event::Progress(progress) => write_json(&mut to, FrameKind::Progress, progress),
            Event::Bytes(bytes) => bytes
                .chunks(DATA)
                .try_for_each(|part| write_frame(&mut to, FrameKind::Data, part)),
        };
        written
            .and_then(|()| to.flush())
            .map_err(|e| Failure::owner(format!("the asker went away: {e}")))
    }
}
