//! Calls that touch a path, which may hang: each has a deadline.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::mount::MountError;

/// How long a call that touches a path may take before it is given up.
pub const PATH_DEADLINE: Duration = Duration::from_secs(10);

/// What a call keeps until it has returned, also one that was given up.
pub type Kept = Arc<dyn fmt::Debug + Send + Sync>;

/// Runs `call`, which touches `path`, on a thread of its own and waits at most [`PATH_DEADLINE`].
///
/// # Errors
/// [`MountError::Deadline`]; the thread is left behind and ends when the path answers.
pub fn with_deadline<T: Send + 'static>(
    path: &Path,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, MountError> {
    within(PATH_DEADLINE, path, call)
}

fn within<T: Send + 'static>(
    limit: Duration,
    path: &Path,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, MountError> {
    let (sender, receiver) = mpsc::channel();
    let system = |error| MountError::System {
        what: "look at",
        path: path.to_owned(),
        error,
    };
    std::thread::Builder::new()
        .name("path".into())
        .spawn(move || {
            // Nobody waits any more: what came out is dropped here, and undoes itself.
            let _ = sender.send(call());
        })
        .map_err(system)?;
    let late = |_| MountError::Deadline {
        path: path.to_owned(),
        seconds: limit.as_secs(),
    };
    receiver.recv_timeout(limit).map_err(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_call_gives_after_it_was_given_up_is_dropped() {
        let (go, wait) = mpsc::channel::<()>();
        let made = Arc::new(());
        let held = Arc::downgrade(&made);
        let outcome = within(Duration::from_millis(20), Path::new("/slow"), move || {
            let _ = wait.recv();
            made
        });
        assert!(matches!(outcome, Err(MountError::Deadline { .. })));
        assert!(held.upgrade().is_some(), "the call goes on");
        go.send(()).unwrap();
        while held.upgrade().is_some() {
            std::thread::yield_now();
        }
    }
}
