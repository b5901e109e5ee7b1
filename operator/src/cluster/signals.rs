//! The end of a process, as Kubernetes asks for it.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Turns true at SIGTERM or SIGINT. Without a handler, which the system has to refuse, a signal ends the process at once;
/// everything of ours is made to survive that.
pub fn end() -> watch::Receiver<bool> {
    let (stop, end) = watch::channel(false);
    tokio::spawn(async move {
        match (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            _ => std::future::pending().await,
        }
        stop.send_replace(true);
    });
    end
}
