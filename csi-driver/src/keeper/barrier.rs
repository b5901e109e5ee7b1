//! The barrier of a mount: everything that returned on it before is with the serving process when it is passed.
//!
//! With the write-back cache a write(2) returns when its pages are dirty. syncfs(2) begins to write them all, but on
//! FUSE it does not wait for the server's answers (the kernel leaves FUSE out of its data integrity wait, so that a
//! server that hangs cannot hang sync(2)). What it guarantees is that the requests stand in the connection's queue.
//! So a *marker*, a request of our own, is sent after it: the queue is first in first out, and the session answers a
//! marker only when every request before it has been answered.
//!
//! The queue takes 65,535 background requests (negotiated); more wait outside of it, and would come after the
//! marker. The marker's answer counts cached writes, and when it says so there is another round.
//!
//! While a file is given another size, the kernel holds its pages back, outside of any queue. The marker's answer
//! names the files that have got another size lately, and each of these is synced by fsync(2), which waits for the
//! file's lock, so for the end of the resizing, and then for its pages.
//!
//! It runs in the keeper's helper process, never in the serving one: that would wait for itself, and once killed it
//! could not end, with the store's lock in its hands.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, StatxFlags};

use crate::fuse::convert::GENERATION;
use crate::fuse::negotiate::MAX_BACKGROUND;
use crate::fuse::place::Place;
use crate::fuse::session::MARKER;

/// Largest value of an extended attribute, in bytes (Linux's `XATTR_SIZE_MAX`).
const XATTR_SIZE_MAX: usize = 64 << 10;

/// Rounds because of files that have just got another size, at most: a program that resizes file after file must not
/// hold a snapshot up.
const RESIZE_ROUNDS: u32 = 4;

/// Passes the barrier of the mount at `point`, whose device number must be `device` (`major:minor`).
///
/// Cost: writing back what is dirty, two or more requests, and one fsync(2) for each file whose size was set to other
/// than zero in the last seconds.
///
/// # Errors
/// Not that mount, the write-back failed, or the files cannot be opened by handle (CAP_DAC_READ_SEARCH).
pub fn pass(point: &Path, device: &str) -> io::Result<()> {
    let root = Place::at(point)
        .map_err(io::Error::other)?
        .open_for_reading()?;
    // Not synchronised: the answer must come from the kernel and not from the server.
    let found = rustix::fs::statx(
        &root,
        "",
        AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC,
        StatxFlags::MODE,
    )?;
    let found = format!("{}:{}", found.stx_dev_major, found.stx_dev_minor);
    if found != device {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} is device {found}, not {device}", point.display()),
        ));
    }
    let mut number = 0u64;
    let mut mark = || {
        number += 1;
        marker(&root, number)
    };
    let mut before = mark()?;
    loop {
        rustix::fs::syncfs(&root)?;
        let after = mark()?;
        let Some((now, earlier)) = after.as_ref().zip(before.as_ref()) else {
            // The serving process changed in between.
            before = after.or(mark()?);
            continue;
        };
        let written = now.writes.wrapping_sub(earlier.writes);
        before = after;
        if written < u64::from(MAX_BACKGROUND) {
            break;
        }
    }
    let mut synced = HashSet::new();
    for _ in 0..RESIZE_ROUNDS {
        let resized = before.map_or_else(Vec::new, |mark| mark.resized);
        let mut any = false;
        for node in resized {
            if synced.insert(node) {
                sync_node(&root, node)?;
                any = true;
            }
        }
        if !any {
            break;
        }
        before = mark()?;
    }
    Ok(())
}

/// What a marker answers.
struct Mark {
    /// Cached writes so far.
    writes: u64,
    /// Nodes of the files that have got another size lately.
    resized: Vec<u64>,
}

/// Sends one marker; `None` when it has to be sent again.
fn marker(root: &impl AsFd, number: u64) -> io::Result<Option<Mark>> {
    let name = [
        MARKER,
        format!("{}.{number}", std::process::id()).as_bytes(),
    ]
    .concat();
    let mut value = vec![0; XATTR_SIZE_MAX];
    match rustix::fs::fgetxattr(root, name.as_slice(), value.as_mut_slice()) {
        Ok(length) => {
            let text =
                std::str::from_utf8(value.get(..length).unwrap_or_default()).unwrap_or_default();
            let numbers: Result<Vec<u64>, _> = text.split(' ').map(str::parse).collect();
            let (writes, resized) = numbers
                .ok()
                .and_then(|numbers| Some((*numbers.first()?, numbers.get(1..)?.to_vec())))
                .ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the mount's server knows no barrier",
                    )
                })?;
            Ok(Some(Mark { writes, resized }))
        }
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// fsync(2) of a file that is known by its node id only.
fn sync_node(root: &impl AsFd, node: u64) -> io::Result<()> {
    /// `struct file_handle` with the content of FUSE's file handles.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        content: [u32; 3],
    }
    /// `FILEID_INO64_GEN`: the node id's upper and lower half, and the generation.
    const KIND: i32 = 0x81;
    let mut handle = Handle {
        bytes: 12,
        kind: KIND,
        content: [(node >> 32) as u32, node as u32, GENERATION as u32],
    };
    // SAFETY: the descriptor is open, and the handle a live `struct file_handle` whose content has the length it says.
    let opened = unsafe {
        libc::open_by_handle_at(
            root.as_fd().as_raw_fd(),
            (&raw mut handle).cast(),
            libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC,
        )
    };
    if opened < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            // Gone, and its pages with it.
            Some(libc::ESTALE | libc::ENOENT) => Ok(()),
            _ => Err(error),
        };
    }
    // SAFETY: the descriptor was just opened and is owned by nobody else.
    let opened = unsafe { OwnedFd::from_raw_fd(opened) };
    Ok(rustix::fs::fsync(&opened)?)
}
