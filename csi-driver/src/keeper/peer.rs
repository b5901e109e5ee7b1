//! Who is at the other end of a socket.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd};

/// The user of the process that connected. Not through rustix, which knows no peer without a process id: one in another
/// namespace of processes, as the agent in its pod is for the keeper in another, has id 0.
///
/// # Errors
/// Not a connected Unix socket.
pub(super) fn user(connection: &impl AsFd) -> io::Result<u32> {
    // SAFETY: a struct of three numbers, for which zero is a value.
    let mut peer: libc::ucred = unsafe { zeroed() };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes into `peer`.
    let result = unsafe {
        libc::getsockopt(
            connection.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(peer.uid)
}
