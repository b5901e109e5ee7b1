//! The barrier of a mount: everything that returned on it before is with the serving process when it is passed.
//!
//! With the write-back cache a write(2) returns when its pages are dirty. syncfs(2) begins to write them all, but on
//! FUSE it does not wait for the server's answers (the kernel leaves FUSE out of its data integrity wait, so that a
//! server that hangs cannot hang sync(2)). What it guarantees is that the requests stand in the connection's queue.
//! So a *marker*, a request of our own, is sent after it: the queue is first in first out, and the session answers a
//! marker only when every request before it has been answered.
//!
//! The queue takes 65,535 background requests (negotiated); more wait outside of it, and would come after the
//! marker. And while a file is being truncated, the kernel holds its writes back. The marker's answer counts cached
//! writes and truncations, and when either says so there is another round.
//!
//! It runs in the keeper's helper process, never in the serving one: that would wait for itself, and once killed it
//! could not end, with the store's lock in its hands.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use crate::fuse::negotiate::MAX_BACKGROUND;
use crate::fuse::session::MARKER;

/// Rounds because of truncations, at most: a program that truncates all the time must not hold a snapshot up.
const TRUNCATION_ROUNDS: u32 = 4;

/// Passes the barrier of the mount at `point`, whose device number must be `device` (`major:minor`).
///
/// Cost: writing back what is dirty, and two or more requests.
///
/// # Errors
/// Not that mount, or the write-back failed.
pub fn pass(point: &Path, device: &str) -> io::Result<()> {
    let root = rustix::fs::open(
        point,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
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
    let mut truncation_rounds = 0;
    loop {
        rustix::fs::syncfs(&root)?;
        let after = mark()?;
        let Some(((writes, truncations), (earlier_writes, earlier_truncations))) =
            after.zip(before)
        else {
            // The serving process changed in between.
            before = after.or(mark()?);
            continue;
        };
        before = after;
        if writes.wrapping_sub(earlier_writes) >= u64::from(MAX_BACKGROUND) {
            continue;
        }
        if truncations != earlier_truncations && truncation_rounds < TRUNCATION_ROUNDS {
            truncation_rounds += 1;
            continue;
        }
        return Ok(());
    }
}

/// Sends one marker: the counts of cached writes and of truncations so far, or `None` when it has to be sent again.
fn marker(root: &impl std::os::fd::AsFd, number: u64) -> io::Result<Option<(u64, u64)>> {
    let name = [
        MARKER,
        format!("{}.{number}", std::process::id()).as_bytes(),
    ]
    .concat();
    let mut value = [0; 64];
    match rustix::fs::fgetxattr(root, name.as_slice(), &mut value) {
        Ok(length) => {
            let text =
                std::str::from_utf8(value.get(..length).unwrap_or_default()).unwrap_or_default();
            let counts = text
                .split_once(' ')
                .and_then(|(writes, cuts)| Some((writes.parse().ok()?, cuts.parse().ok()?)));
            counts.map(Some).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the mount's server knows no barrier",
                )
            })
        }
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
