//! One mount being served by this process.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use storage_engine::{Engine, Point, VolumeOptions};

use super::MountsError;
use super::notifier::{Notifier, Target};
use super::state::{ShownPoint, State};
use crate::fuse::adapter::{Adapter, Parts};
use crate::fuse::backing::Backings;
use crate::fuse::device::Device;
use crate::fuse::mountinfo;
use crate::fuse::negotiate::Negotiated;
use crate::fuse::session::Session;
use crate::fuse::view::View;
use crate::keeper::wire::Record;

/// A mount with its threads.
pub(super) struct Live {
    pub id: String,
    pub mount_point: PathBuf,
    pub device_number: String,
    /// The kernel's number of the mount; 0 when a successor did not find it.
    mount_number: u64,
    pub state: State,
    pub device: Arc<Device>,
    /// The record of backing files, to be given to another keeper when the first one is gone.
    pub backing: OwnedFd,
    pub adapter: Arc<Adapter>,
    session: Session,
    notifier: Mutex<Option<Notifier>>,
    /// The serving process leaves the mount to its successor.
    pub leaving: AtomicBool,
    /// A lazy unmount is under way: the mount is out of sight and ends with its last user.
    pub detached: AtomicBool,
    /// An unmount was given up by its caller, and goes on.
    pub unmounting: AtomicBool,
    finished: Mutex<bool>,
    changed: Condvar,
    /// Those that end by themselves after the mount: the one that waits for the end of the connection and cleans up, and
    /// the notifier's.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What it takes to serve an initialised connection.
pub(super) struct Connection {
    pub id: String,
    pub mount_point: PathBuf,
    pub device_number: String,
    pub mount_number: u64,
    pub state: State,
    pub negotiated: Negotiated,
    pub device: Arc<Device>,
    pub backing: OwnedFd,
    pub taken_over: bool,
}

impl Live {
    /// Opens the volume and starts the threads.
    pub(super) fn serve(engine: &Engine, connection: Connection) -> Result<Arc<Live>, MountsError> {
        let Connection {
            id,
            mount_point,
            device_number,
            mount_number,
            state,
            negotiated,
            device,
            backing,
            taken_over,
        } = connection;
        let volume = engine.volume(
            Point::from(state.point),
            VolumeOptions {
                origin: state.connection,
            },
        )?;
        let system = |what: &'static str| {
            let id = id.clone();
            move |error| MountsError::Serve { id, what, error }
        };
        let record = backing.try_clone().map_err(system("copy a descriptor"))?;
        let backings = Backings::from_record(Arc::clone(&device), record)
            .map_err(system("read the record of backing files"))?;
        // A read-only mount of a timeline shows its restores, too.
        let observed = matches!(state.point, ShownPoint::Now(_));
        let adapter = Arc::new(Adapter::new(Parts {
            volume,
            connection: state.connection,
            mode: state.mode,
            negotiated,
            taken_over,
            backings: (!state.verified).then_some(backings),
            view: View { group: state.group },
        }));
        if taken_over {
            // Before the first request is read: one that this process were already serving would be sent again too,
            // unanswered as it is, and be applied twice.
            device
                .resend()
                .map_err(system("have requests sent again"))?;
        }
        let handler = Arc::clone(&adapter);
        let session = Session::start(
            Arc::clone(&device),
            &id,
            Box::new(move |request| handler.handle(request)),
        );
        let session = session.map_err(system("start a thread"))?;
        let notifier = if observed {
            let target = Target {
                device: Arc::clone(&device),
                adapter: Arc::clone(&adapter),
                negotiated,
                connection: state.connection,
                taken_over,
                name: id.clone(),
            };
            Some(Notifier::start(target).map_err(system("start a thread"))?)
        } else {
            None
        };
        Ok(Arc::new(Live {
            id,
            mount_point,
            device_number,
            mount_number,
            state,
            device,
            backing,
            adapter,
            session,
            notifier: Mutex::new(notifier),
            leaving: AtomicBool::new(false),
            detached: AtomicBool::new(false),
            unmounting: AtomicBool::new(false),
            finished: Mutex::new(false),
            changed: Condvar::new(),
            threads: Mutex::default(),
        }))
    }

    /// The keeper's record of this mount.
    pub(super) fn record(&self) -> Result<Record, MountsError> {
        record(
            &self.id,
            &self.mount_point,
            &self.device_number,
            &self.state,
        )
    }

    /// Where the mount is attached now, if it is. Cost: the mounts of this machine, read once.
    pub(super) fn attached_at(&self) -> Option<PathBuf> {
        let line = mountinfo::mounted_as(self.mount_number).ok()??;
        (line.device == self.device_number).then_some(line.point)
    }

    /// Requests served, by opcode.
    pub(super) fn requests(&self) -> std::collections::HashMap<u32, u64> {
        self.session.requests()
    }

    /// Waits until the kernel has ended the connection or this process leaves it; true in the first case.
    pub(super) fn wait_ended(&self) -> bool {
        while !self.session.wait_ended(Duration::from_millis(500)) {
            if self.leaving.load(Ordering::SeqCst) {
                return false;
            }
        }
        true
    }

    /// Stops the threads; requests that were read are answered first.
    pub(super) fn stop(&self) {
        if let Some(notifier) = self.notifier.lock().take() {
            self.threads.lock().extend(notifier.stop());
        }
        self.session.stop();
    }

    /// Waits until every change observed so far has been told to the kernel.
    pub(super) fn pass_notifications(&self) {
        if let Some(notifier) = self.notifier.lock().as_ref() {
            notifier.pass();
        }
    }

    /// The thread that waits for the end of the connection.
    pub(super) fn watched_by(&self, thread: JoinHandle<()>) {
        self.threads.lock().push(thread);
    }

    /// Waits until the threads have given back what they hold, the engine above all: a process that exits while one of them
    /// gives the last of it back crashes. They do so at once after the end, and after [`Live::stop`]; only a notification
    /// that the kernel does not take may keep one longer than `patience`.
    pub(super) fn join_threads(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_micros(200));
            }
            if thread.is_finished() {
                let _ = thread.join();
            } else {
                tracing::debug!(mount = %self.id, "a thread of a mount ends later");
            }
        }
    }

    /// Everything about the mount is cleaned up.
    pub(super) fn finish(&self) {
        *self.finished.lock() = true;
        self.changed.notify_all();
    }

    /// Waits for [`Live::finish`]; false when it did not come in time.
    pub(super) fn wait_finished(&self, timeout: Duration) -> bool {
        let mut finished = self.finished.lock();
        if !*finished {
            self.changed.wait_for(&mut finished, timeout);
        }
        *finished
    }
}

/// A keeper's record.
pub(super) fn record(
    id: &str,
    mount_point: &std::path::Path,
    device: &str,
    state: &State,
) -> Result<Record, MountsError> {
    let state = serde_json::to_value(state).map_err(|error| MountsError::Record {
        id: id.to_owned(),
        error: error.to_string(),
    })?;
    Ok(Record {
        id: id.to_owned(),
        mount_point: mount_point.to_string_lossy().into_owned(),
        device: device.to_owned(),
        state,
    })
}
