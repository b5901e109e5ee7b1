//! Messages between the serving process and the keeper; `docs/keeper-protocol.md` is their description.
//!
//! A message is one packet of a Unix SEQPACKET socket: a JSON object, with descriptors attached where it says so.
//! The keeper outlives upgrades of the serving process, so a released message is never changed: fields are added,
//! and unknown ones are ignored.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the protocol; a keeper refuses a serving process that needs a newer one.
pub const PROTOCOL: u32 = 1;
/// Largest packet in bytes.
pub const PACKET: usize = 64 << 10;
/// Descriptors in one packet, at most.
pub const DESCRIPTORS: usize = 4;
/// Mounts in one answer to `list`, at most; the rest is asked for with `after`.
pub const PAGE: usize = 32;
/// Name of the socket in the keeper's directory.
pub const SOCKET: &str = "keeper.sock";

/// What the keeper holds for one mount. `state` belongs to the serving process; the keeper gives it back as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the mount, chosen by the serving process.
    pub id: String,
    /// Mount point, absolute.
    pub mount_point: String,
    /// Device number of the mount as `major:minor`; empty until it is mounted.
    #[serde(default)]
    pub device: String,
    /// Everything a successor needs, in the serving process's own words.
    pub state: serde_json::Value,
}

/// From the serving process to the keeper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// First message of a connection.
    Hello {
        /// Version the sender speaks.
        protocol: u32,
    },
    /// Keep this mount. Descriptors: `/dev/fuse`, record of backing files.
    Put {
        /// The mount.
        mount: Record,
    },
    /// Replace what is kept about a mount; the descriptors stay.
    Update {
        /// The mount.
        mount: Record,
    },
    /// The mounts kept, ordered by id.
    List {
        /// Only those with a larger id.
        #[serde(default)]
        after: Option<String>,
    },
    /// One mount. Descriptors come back, as for `put`; the keeper keeps its own.
    Take {
        /// The mount.
        id: String,
    },
    /// Everything that returned on the mount before is with the serving process when the answer comes.
    Sync {
        /// The mount.
        id: String,
        /// Give up after so many milliseconds.
        timeout_ms: u64,
    },
    /// Unmount. The mount stays kept until `drop`.
    Unmount {
        /// The mount.
        id: String,
        /// Detach it even when it is in use.
        lazy: bool,
        /// Abort the connection first: processes that wait get errors.
        force: bool,
        /// Give up after so many milliseconds.
        timeout_ms: u64,
    },
    /// Forget a mount and close its descriptors. One that is not kept is no error.
    Drop {
        /// The mount.
        id: String,
    },
    /// End, if nothing is kept.
    Shutdown,
}

/// From the keeper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Reply {
    /// Answers `hello`.
    Hello {
        /// Version the keeper speaks.
        protocol: u32,
        /// Its release.
        version: String,
        /// Its process.
        pid: u32,
    },
    /// It is done.
    Done,
    /// Answers `list`.
    Mounts {
        /// One page.
        mounts: Vec<Record>,
    },
    /// Answers `take`, with descriptors.
    Mount {
        /// The mount.
        mount: Record,
    },
    /// It is not done.
    Failed {
        /// Errno where there is one, 0 otherwise.
        errno: i32,
        /// A sentence for a person.
        message: String,
    },
}

/// A path of a socket in `directory` that fits into a socket address however long the directory's own is.
fn address(directory: BorrowedFd<'_>) -> io::Result<SocketAddrUnix> {
    use std::os::fd::AsRawFd;
    Ok(SocketAddrUnix::new(format!(
        "/proc/self/fd/{}/{SOCKET}",
        directory.as_raw_fd()
    ))?)
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Connects to the keeper of a directory.
///
/// # Errors
/// None is there.
pub fn connect(directory: &Path) -> io::Result<OwnedFd> {
    let socket = socket()?;
    let directory = open_directory(directory)?;
    rustix::net::connect(&socket, &address(directory.as_fd())?)?;
    Ok(socket)
}

/// Listens as the keeper of a directory; the caller holds its lock.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(directory: &Path) -> io::Result<OwnedFd> {
    let socket = socket()?;
    match std::fs::remove_file(directory.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let directory = open_directory(directory)?;
    rustix::net::bind(&socket, &address(directory.as_fd())?)?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

/// Sends one message with descriptors.
///
/// # Errors
/// The other side is gone, or the message is too large.
pub fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > PACKET {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {} bytes is too large", bytes.len()),
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(
            socket,
            &[IoSlice::new(&bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
    })?;
    Ok(())
}

/// Waits for one message; `None` when the other side has closed.
///
/// # Errors
/// The connection broke, or what came is no message.
pub fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(bytes.get(..received.bytes).unwrap_or_default())?;
    Ok(Some((message, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words on the wire are part of the product: a keeper of any release understands them.
    #[test]
    fn messages_keep_their_form() {
        let sync = Request::Sync {
            id: "a".into(),
            timeout_ms: 5,
        };
        assert_eq!(
            serde_json::to_string(&sync).unwrap(),
            r#"{"do":"sync","id":"a","timeout_ms":5}"#
        );
        let put = r#"{"do":"put","mount":{"id":"a","mount_point":"/m","state":{"x":1},"later":2},"more":3}"#;
        let Request::Put { mount } = serde_json::from_str(put).unwrap() else {
            panic!("not a put")
        };
        assert_eq!((mount.id.as_str(), mount.device.as_str()), ("a", ""));
        let failed = Reply::Failed {
            errno: 16,
            message: "in use".into(),
        };
        assert_eq!(
            serde_json::to_string(&failed).unwrap(),
            r#"{"is":"failed","errno":16,"message":"in use"}"#
        );
    }
}
