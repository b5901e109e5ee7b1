//! The signal that gets a thread out of a blocking read(2): it does nothing but interrupt.

use std::io;
use std::sync::OnceLock;

/// A real-time signal that neither the C library nor common runtimes use.
fn number() -> libc::c_int {
    libc::SIGRTMIN() + 7
}

extern "C" fn nothing(_: libc::c_int) {}

/// Installs the handler, once per process, without SA_RESTART so that read(2) returns.
///
/// # Errors
/// The system refuses the handler.
pub(super) fn prepare() -> io::Result<()> {
    static PREPARED: OnceLock<Option<i32>> = OnceLock::new();
    let failure = PREPARED.get_or_init(|| {
        // SAFETY: an all-zero sigaction is valid (no flags, an empty mask) and the handler does nothing, so it is
        // safe wherever it interrupts.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(number(), &raw const action, std::ptr::null_mut())
        };
        (result != 0).then(|| {
            io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EINVAL)
        })
    });
    failure.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code)))
}

/// Lets the signal through in the calling thread, whatever it inherited.
pub(super) fn admit() {
    // SAFETY: the set is initialised by sigemptyset before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, number());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// The calling thread for [`wake`].
pub(super) fn current_thread() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Interrupts a thread of this process; nothing happens for 0 or one that has ended.
pub(super) fn wake(thread: i32) {
    if thread != 0 {
        // SAFETY: tgkill reaches threads of this process only, and the signal's handler does nothing.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, number()) };
    }
}
