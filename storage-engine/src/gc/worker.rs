//! Collecting in the background.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::engine::{Engine, Inner};
use crate::error::{Error, ErrorKind, Result};

use super::GcOptions;

/// When to collect in the background.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GcSchedule {
    /// Time between two collections.
    pub every: Duration,
    /// See [`GcOptions::rate`].
    pub rate: Option<u32>,
}

impl Default for GcSchedule {
    /// Every minute, and 50,000 records each second: about a tenth of what a core can do.
    fn default() -> Self {
        Self {
            every: Duration::from_secs(60),
            rate: Some(50_000),
        }
    }
}

/// The thread that collects.
pub(crate) struct Worker {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub fn start(inner: Weak<Inner>, schedule: GcSchedule) -> Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let of_thread = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("gc".into())
            .spawn(move || {
                loop {
                    {
                        let mut stopped = of_thread.0.lock();
                        of_thread
                            .1
                            .wait_while_for(&mut stopped, |s| !*s, schedule.every);
                        if *stopped {
                            return;
                        }
                    }
                    // Held only while it works, so that the store can be given up in between.
                    let Some(inner) = inner.upgrade() else { return };
                    let options = GcOptions {
                        rate: schedule.rate,
                        ..GcOptions::default()
                    };
                    match (Engine { inner }).gc(options) {
                        Ok(_) => {}
                        Err(e) if e.kind() == ErrorKind::Unavailable => return,
                        Err(error) => tracing::error!(%error, "collecting in the background"),
                    }
                }
            })
            .map_err(|e| Error::new(ErrorKind::Io, format!("cannot start a thread: {e}")))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends the thread soon.
    pub fn stop(&self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take()
            // The last handle of the store may be the thread's own.
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the thread that collects has panicked");
        }
    }
}
