//! INIT: what this server asks of the kernel in each mode, and what it got.

use std::io;

use serde::{Deserialize, Serialize};

use super::abi::{self, init};
use super::device::{BUFFER_SIZE, Device, MAX_WRITE, Received};
use super::errno::Errno;
use super::reply::Reply;
use super::request::{Operation, decode};

/// How a mount trades round trips; the kernel's features exclude each other, so it is chosen at mount time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Writes stay in the page cache and opening costs nothing: native speed for small files. A snapshot or fork
    /// syncs the mount first.
    Workspace,
    /// Writes go through, opens are requests, and sealed files are passed through to the kernel: native speed for
    /// large files and one page cache for all the mounts that show the same bytes.
    Dataset,
}

/// Both directions: what matters in the two modes alike.
const COMMON: u64 = init::ASYNC_READ
    | init::BIG_WRITES
    | init::EXPORT_SUPPORT
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::ABORT_ERROR
    | init::MAX_PAGES
    | init::CACHE_SYMLINKS
    | init::NO_OPENDIR_SUPPORT
    | init::EXPLICIT_INVAL_DATA
    | init::HANDLE_KILLPRIV_V2
    | init::INIT_EXT
    | init::HAS_EXPIRE_ONLY
    | init::HAS_RESEND;

/// Without these a mount could not keep its promises.
const NEEDED: u64 = init::INIT_EXT
    | init::HAS_RESEND
    | init::MAX_PAGES
    | init::NO_OPENDIR_SUPPORT
    | init::HANDLE_KILLPRIV_V2;

/// Background requests the kernel may have under way. The largest value there is: then writes of the page cache and
/// the barrier's marker stand in one queue, in order (see `session::marker`).
pub const MAX_BACKGROUND: u16 = u16::MAX;

impl Mode {
    fn wanted(self) -> u64 {
        match self {
            Mode::Workspace => COMMON | init::WRITEBACK_CACHE | init::NO_OPEN_SUPPORT,
            Mode::Dataset => COMMON | init::PASSTHROUGH,
        }
    }

    fn needed(self) -> u64 {
        match self {
            Mode::Workspace => NEEDED | init::WRITEBACK_CACHE | init::NO_OPEN_SUPPORT,
            Mode::Dataset => NEEDED,
        }
    }
}

/// The outcome of INIT. It lasts as long as the connection, over all the processes that serve it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiated {
    /// Minor version of the protocol.
    pub minor: u32,
    /// Flags in effect, both halves.
    pub flags: u64,
}

impl Negotiated {
    /// Whether passthrough may be offered in OPEN replies.
    pub fn passthrough(&self) -> bool {
        self.flags & init::PASSTHROUGH != 0
    }

    /// Whether the kernel knows NOTIFY_INC_EPOCH.
    pub fn epochs(&self) -> bool {
        self.minor >= 44
    }

    /// Whether the kernel knows NOTIFY_PRUNE.
    pub fn prunes(&self) -> bool {
        self.minor >= 45
    }
}

/// Answers the kernel's INIT on a fresh connection. Everything else waits for it, so this is called once, by one
/// thread, right after mount(2).
///
/// # Errors
/// The kernel is too old (the message names what is missing), or the connection ended.
pub fn negotiate(device: &Device, mode: Mode) -> io::Result<Negotiated> {
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let length = match device.receive(&mut buffer)? {
            Received::Request(length) => length,
            Received::Nothing => continue,
            Received::Ended => {
                return Err(io::Error::new(
                    io::ErrorKind::NotConnected,
                    "the mount ended before it began",
                ));
            }
        };
        let Ok(request) = decode(buffer.get(..length).unwrap_or_default()) else {
            continue;
        };
        let Operation::Init {
            major,
            minor,
            max_readahead,
            flags,
        } = request.operation
        else {
            // Nothing but INIT comes on a fresh connection.
            device.send(request.reply_unique(), &Reply::Failed(Errno(libc::EIO)))?;
            continue;
        };
        if major > abi::KERNEL_VERSION {
            // The kernel sends another INIT with our major version.
            device.send(
                request.reply_unique(),
                &Reply::of(&out(abi::KERNEL_MINOR_VERSION, max_readahead, 0)),
            )?;
            continue;
        }
        let missing = mode.needed() & !flags;
        if major < abi::KERNEL_VERSION || minor < abi::OLDEST_MINOR_VERSION || missing != 0 {
            device.send(request.reply_unique(), &Reply::Failed(Errno(libc::EPROTO)))?;
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "the kernel's FUSE protocol is {major}.{minor} and lacks the flags {missing:#x}; \
                     a {mode:?} mount needs 7.{} (Linux 6.9) or newer",
                    abi::OLDEST_MINOR_VERSION
                ),
            ));
        }
        let negotiated = Negotiated {
            minor: minor.min(abi::KERNEL_MINOR_VERSION),
            flags: mode.wanted() & flags,
        };
        device.send(
            request.reply_unique(),
            &Reply::of(&out(negotiated.minor, max_readahead, negotiated.flags)),
        )?;
        return Ok(negotiated);
    }
}

fn out(minor: u32, max_readahead: u32, flags: u64) -> abi::InitOut {
    abi::InitOut {
        major: abi::KERNEL_VERSION,
        minor,
        max_readahead,
        flags: flags as u32,
        max_background: MAX_BACKGROUND,
        congestion_threshold: MAX_BACKGROUND / 4 * 3,
        max_write: MAX_WRITE,
        time_gran: 1,
        max_pages: (MAX_WRITE / 4096) as u16,
        map_alignment: 0,
        flags2: (flags >> 32) as u32,
        // Files of an ordinary file system may back a passthrough; stacked ones may not.
        max_stack_depth: u32::from(flags & init::PASSTHROUGH != 0),
        request_timeout: 0,
        unused: [0; 11],
    }
}
