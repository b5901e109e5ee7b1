//! The keeper's helper: a child process that does what may wait on a mount.
//!
//! Whoever waits on a mount whose server is dead waits, unkillably, until somebody serves it. If such a waiter shared
//! the keeper's descriptors, killing the keeper would not close them, and the mount would hang for ever. The helper
//! has none of them (all are close-on-exec): when the keeper ends, the kernel aborts the connections, the helper's
//! waits return, and it ends too.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::{barrier, wire};
use crate::fuse::mount::{self, MountLine};
use crate::fuse::place::Place;

/// The argument that makes the keeper's program the helper.
pub const ARGUMENT: &str = "--helper";

/// One thing to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Pass the barrier.
    Sync {
        /// Mount point.
        point: PathBuf,
        /// Its device number.
        device: String,
    },
    /// Unmount.
    Unmount {
        /// Mount point.
        point: PathBuf,
        /// Its device number.
        device: String,
        /// Detach if in use.
        lazy: bool,
        /// Abort first.
        force: bool,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    number: u64,
    work: Work,
}

#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    number: u64,
    errno: i32,
    message: String,
}

/// Runs the helper on its standard input until the keeper is gone.
pub fn run() {
    let socket = Arc::new(io::stdin());
    // What fails here fails because the keeper is gone.
    while let Ok(Some((order, _))) = wire::receive::<Order>(socket.as_fd()) {
        let answers = Arc::clone(&socket);
        let started = std::thread::Builder::new()
            .name("work".into())
            .spawn(move || {
                let (errno, message) = match perform(&order.work) {
                    Ok(()) => (0, String::new()),
                    Err(error) => (error.raw_os_error().unwrap_or(libc::EIO), error.to_string()),
                };
                let _ = wire::send(
                    answers.as_fd(),
                    &Outcome {
                        number: order.number,
                        errno,
                        message,
                    },
                    &[],
                );
            });
        if started.is_err() {
            return;
        }
    }
}

fn perform(work: &Work) -> io::Result<()> {
    match work {
        Work::Sync { point, device } => barrier::pass(point, device),
        Work::Unmount {
            point,
            device,
            lazy,
            force,
        } => {
            let is = |line: &MountLine| {
                line.device == *device || device.is_empty() && line.kind == mount::TYPE
            };
            // The path may be gone with its mount, so the table is asked first.
            if !mount::mounted_at(point)?.is_some_and(|line| is(&line)) {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            Place::at(point)
                .map_err(io::Error::other)?
                .unmount(is, *lazy, *force)
        }
    }
}

/// The keeper's side.
pub struct Helper {
    running: Mutex<Option<Running>>,
}

struct Running {
    child: Child,
    socket: Arc<OwnedFd>,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    senders: HashMap<u64, Sender<Outcome>>,
    ended: bool,
}

impl Helper {
    /// Starts the helper.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start() -> io::Result<Helper> {
        Ok(Helper {
            running: Mutex::new(Some(Running::start()?)),
        })
    }

    /// Does `work` and waits for it, at most `timeout`. After that the work goes on in the helper, unattended.
    ///
    /// # Errors
    /// Of the work; `TimedOut`.
    pub fn perform(&self, work: Work, timeout: Duration) -> io::Result<()> {
        let (sender, receiver) = mpsc::channel();
        {
            let mut running = self.running.lock();
            if running
                .as_ref()
                .is_none_or(|running| running.waiting.lock().ended)
            {
                if let Some(mut old) = running.take() {
                    let _ = old.child.wait();
                }
                *running = Some(Running::start()?);
            }
            let Some(running) = running.as_ref() else {
                return Err(io::Error::from_raw_os_error(libc::ECHILD));
            };
            let number = {
                let mut waiting = running.waiting.lock();
                waiting.next += 1;
                let number = waiting.next;
                waiting.senders.insert(number, sender);
                number
            };
            wire::send(running.socket.as_fd(), &Order { number, work }, &[])?;
        }
        match receiver.recv_timeout(timeout) {
            Ok(outcome) if outcome.errno == 0 => Ok(()),
            Ok(outcome) if outcome.message.is_empty() => {
                Err(io::Error::from_raw_os_error(outcome.errno))
            }
            Ok(outcome) => Err(HelperError {
                errno: outcome.errno,
                message: outcome.message,
            }
            .into()),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "the mount does not answer within {} ms; is its server running?",
                    timeout.as_millis()
                ),
            )),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(io::Error::other("the helper process ended"))
            }
        }
    }
}

/// An error that came from the helper, with its errno.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct HelperError {
    /// The errno.
    pub errno: i32,
    message: String,
}

impl From<HelperError> for io::Error {
    fn from(error: HelperError) -> io::Error {
        io::Error::new(io::Error::from_raw_os_error(error.errno).kind(), error)
    }
}

impl Running {
    fn start() -> io::Result<Running> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let child = Command::new("/proc/self/exe")
            .arg(ARGUMENT)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .current_dir("/")
            .spawn()?;
        let socket = Arc::new(ours);
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let (own_socket, own_waiting) = (Arc::clone(&socket), Arc::clone(&waiting));
        std::thread::Builder::new()
            .name("helper".into())
            .spawn(move || {
                while let Ok(Some((outcome, _))) = wire::receive::<Outcome>(own_socket.as_fd()) {
                    let sender = own_waiting.lock().senders.remove(&outcome.number);
                    if let Some(sender) = sender {
                        let _ = sender.send(outcome);
                    }
                }
                let mut waiting = own_waiting.lock();
                waiting.ended = true;
                waiting.senders.clear();
            })?;
        Ok(Running {
            child,
            socket,
            waiting,
        })
    }
}
