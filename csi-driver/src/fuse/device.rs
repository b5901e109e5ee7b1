//! The `/dev/fuse` descriptor of one mount: requests in, replies and notifications out.
//!
//! All threads of a mount share one descriptor. Cloned ones (FUSE_DEV_IOC_CLONE) would spread the load a little
//! better, but the kernel aborts what was read from a clone when the clone is closed, so a killed process would fail
//! requests that its successor could have answered.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use bytemuck::Pod;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno as SystemError;

use super::abi::{self, notify};
use super::reply::Reply;

/// Largest write and read of one request: 256 pages, the kernel's default limit.
pub const MAX_WRITE: u32 = 1 << 20;
/// Size of a receive buffer: the largest request and its fixed part.
pub const BUFFER_SIZE: usize = MAX_WRITE as usize + 4096;

/// What reading the device gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A request of so many bytes.
    Request(usize),
    /// Nothing: a signal came, or the request was taken back. Read again.
    Nothing,
    /// The file system is unmounted or the connection aborted. Nothing will come any more.
    Ended,
}

/// One open `/dev/fuse`.
#[derive(Debug)]
pub struct Device {
    descriptor: OwnedFd,
}

impl Device {
    /// Opens a new connection, not mounted yet.
    ///
    /// # Errors
    /// No `/dev/fuse`, or not permitted.
    pub fn open() -> io::Result<Device> {
        let descriptor =
            rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Device { descriptor })
    }

    /// A descriptor that somebody kept.
    pub fn from_descriptor(descriptor: OwnedFd) -> Device {
        Device { descriptor }
    }

    /// Waits for one request. `buffer` has at least [`BUFFER_SIZE`] bytes. Interrupted by signals.
    ///
    /// # Errors
    /// Those that mean neither "again" nor "ended".
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        match rustix::io::read(&self.descriptor, buffer) {
            Ok(0) => Ok(Received::Ended),
            Ok(length) => Ok(Received::Request(length)),
            // ENOENT: the request was interrupted before it was read.
            Err(SystemError::INTR | SystemError::AGAIN | SystemError::NOENT) => {
                Ok(Received::Nothing)
            }
            Err(SystemError::NODEV | SystemError::CONNABORTED) => Ok(Received::Ended),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a reply. That the request is gone meanwhile (its process was killed, the mount is gone) is no error.
    ///
    /// # Errors
    /// The kernel refuses the reply: a fault of this program.
    pub fn send(&self, unique: u64, reply: &Reply) -> io::Result<()> {
        if matches!(reply, Reply::Silent) {
            return Ok(());
        }
        let header = reply.header(unique);
        match self.write(&header, &[reply.payload()]) {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::ENODEV | libc::ECONNABORTED)
                ) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    fn write(&self, header: &abi::OutHeader, parts: &[&[u8]]) -> io::Result<()> {
        let mut slices = [
            IoSlice::new(bytemuck::bytes_of(header)),
            IoSlice::new(&[]),
            IoSlice::new(&[]),
        ];
        for (slice, part) in slices.iter_mut().skip(1).zip(parts) {
            *slice = IoSlice::new(part);
        }
        rustix::io::writev(
            &self.descriptor,
            slices.get(..=parts.len()).unwrap_or_default(),
        )?;
        Ok(())
    }

    fn notify<T: Pod>(&self, code: i32, body: &T, tail: &[u8]) -> io::Result<()> {
        let body = bytemuck::bytes_of(body);
        let header = abi::OutHeader {
            len: (size_of::<abi::OutHeader>() + body.len() + tail.len()) as u32,
            error: code,
            unique: 0,
        };
        match self.write(&header, &[body, tail]) {
            // The kernel does not know the node or the name: nothing is cached, so nothing is stale.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Drops cached attributes of a node and its cached pages from `offset` on. May wait for pages under writeback:
    /// never called from a thread that serves requests.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn invalidate_inode(&self, ino: u64, offset: i64) -> io::Result<()> {
        self.notify(
            notify::INVAL_INODE,
            &abi::NotifyInvalInode {
                ino,
                off: offset,
                len: 0,
            },
            &[],
        )
    }

    /// Drops a cached name, present or absent. Waits for operations in that directory: never called from a thread
    /// that serves requests.
    ///
    /// # Errors
    /// The connection is gone. A name that is a mount point or a non-empty directory in use is left, and is none.
    pub fn invalidate_entry(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        let mut text = Vec::with_capacity(name.len() + 1);
        text.extend_from_slice(name);
        text.push(0);
        let body = abi::NotifyInvalEntry {
            parent,
            namelen: name.len() as u32,
            flags: 0,
        };
        match self.notify(notify::INVAL_ENTRY, &body, &text) {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOTDIR | libc::EBUSY | libc::ENOTEMPTY)
                ) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Lets the kernel send again every request that was read but not answered (protocol 7.40).
    ///
    /// # Errors
    /// The kernel does not know it, or the connection is gone.
    pub fn resend(&self) -> io::Result<()> {
        self.notify(notify::RESEND, &(), &[])
    }

    /// Makes every cached name be looked up again (protocol 7.44).
    ///
    /// # Errors
    /// The kernel does not know it, or the connection is gone.
    pub fn increment_epoch(&self) -> io::Result<()> {
        self.notify(notify::INC_EPOCH, &(), &[])
    }

    /// Lets the kernel forget nodes that nobody uses (protocol 7.45): their names are dropped and, unless a process
    /// has them open, the inodes with their cached length.
    ///
    /// # Errors
    /// The kernel does not know it, or the connection is gone.
    pub fn prune(&self, nodes: &[u64]) -> io::Result<()> {
        for some in nodes.chunks(256) {
            let body = abi::NotifyPrune {
                count: some.len() as u32,
                padding: 0,
                spare: 0,
            };
            self.notify(notify::PRUNE, &body, bytemuck::cast_slice(some))?;
        }
        Ok(())
    }

    /// Registers a file whose pages the kernel shall serve itself; the id is given in OPEN replies.
    ///
    /// # Errors
    /// Not permitted (CAP_SYS_ADMIN), not negotiated, or a file that cannot be passed through to.
    pub fn open_backing(&self, file: &File) -> io::Result<u32> {
        let map = abi::BackingMap {
            fd: file.as_raw_fd(),
            flags: 0,
            padding: 0,
        };
        // SAFETY: the descriptor is an open /dev/fuse and the argument a live `fuse_backing_map`, which the kernel only
        // reads.
        let id = unsafe {
            libc::ioctl(
                self.descriptor.as_raw_fd(),
                abi::DEV_IOC_BACKING_OPEN as _,
                &raw const map,
            )
        };
        u32::try_from(id).map_err(|_| io::Error::last_os_error())
    }

    /// Gives a backing id back.
    ///
    /// # Errors
    /// No such id.
    pub fn close_backing(&self, id: u32) -> io::Result<()> {
        // SAFETY: as above; the argument is a live u32.
        let result = unsafe {
            libc::ioctl(
                self.descriptor.as_raw_fd(),
                abi::DEV_IOC_BACKING_CLOSE as _,
                &raw const id,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
