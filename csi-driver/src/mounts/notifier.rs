//! Tells the kernel of what another door changed: the engine's `Change` to notifications, on a thread of its own.
//!
//! A notification may wait for operations in the directory or for pages under writeback, which in turn need the
//! threads that serve the mount. So neither those nor the engine's commit path ever write one: they put the change
//! into a queue. That a reply with the older state is under way meanwhile is safe: the kernel takes the directory's
//! lock before it drops a name, and drops attributes that were asked for before the notification.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use storage_engine::{Change, Ino, Point};

use super::rebase;
use crate::fuse::adapter::Adapter;
use crate::fuse::device::Device;
use crate::fuse::negotiate::Negotiated;

/// A [`Change`] that owns its parts.
#[derive(Debug)]
enum Told {
    Entry {
        parent: Ino,
        name: Vec<u8>,
    },
    Inode {
        ino: Ino,
    },
    Data {
        ino: Ino,
    },
    Rebased {
        from: Point,
        to: Point,
    },
    /// The mount is going away.
    Stop,
    /// Everything before has been told.
    Passed(Sender<()>),
}

/// The thread that notifies one mount.
pub(super) struct Notifier {
    queue: Sender<Told>,
    observation: Option<storage_engine::Observation>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread needs.
pub(super) struct Target {
    pub device: Arc<Device>,
    pub adapter: Arc<Adapter>,
    pub negotiated: Negotiated,
    pub connection: u64,
    /// Another process served the mount before, so the kernel may know inodes that the adapter does not.
    pub taken_over: bool,
    pub name: String,
}

impl Notifier {
    /// Begins to observe the mount's timeline.
    pub(super) fn start(target: Target) -> io::Result<Notifier> {
        let (queue, told) = mpsc::channel();
        let adapter = Arc::clone(&target.adapter);
        let connection = target.connection;
        let thread = std::thread::Builder::new()
            .name("notify".into())
            .spawn(move || run(&target, &told))?;
        let sender = parking_lot::Mutex::new(queue.clone());
        let observer = Arc::new(move |change: &Change<'_>| {
            // It fails only when the mount is going away.
            let _ = sender.lock().send(owned(change));
        });
        let observation =
            adapter
                .volume()
                .engine()
                .observe(adapter.volume().timeline(), connection, observer);
        Ok(Notifier {
            queue,
            observation: Some(observation),
            thread: Some(thread),
        })
    }

    /// Waits until every change that was observed before has been told to the kernel.
    pub(super) fn pass(&self) {
        let (sender, receiver) = mpsc::channel();
        if self.queue.send(Told::Passed(sender)).is_ok() {
            let _ = receiver.recv();
        }
    }

    /// Stops observing. The thread ends when it has told what is queued; it is not waited for here, since a notification
    /// may need the session that is about to stop.
    pub(super) fn stop(mut self) -> Option<JoinHandle<()>> {
        self.observation.take();
        let _ = self.queue.send(Told::Stop);
        self.thread.take()
    }
}

fn owned(change: &Change<'_>) -> Told {
    match change {
        Change::Entry { parent, name } => Told::Entry {
            parent: *parent,
            name: name.to_vec(),
        },
        Change::Inode { ino } => Told::Inode { ino: *ino },
        Change::Data { ino } => Told::Data { ino: *ino },
        Change::Rebased { from, to } => Told::Rebased {
            from: *from,
            to: *to,
        },
    }
}

fn run(target: &Target, queue: &Receiver<Told>) {
    while let Ok(told) = queue.recv() {
        let result = match &told {
            Told::Entry { parent, name } => target.device.invalidate_entry(parent.0, name),
            // A negative offset leaves the pages.
            Told::Inode { ino } => target.device.invalidate_inode(ino.0, -1),
            Told::Data { ino } => data(target, *ino),
            Told::Rebased { from, to } => rebase::tell(target, *from, *to),
            Told::Stop => return,
            Told::Passed(sender) => {
                let _ = sender.send(());
                Ok(())
            }
        };
        if let Err(error) = result {
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOTCONN | libc::ENODEV | libc::ECONNABORTED)
            ) {
                return;
            }
            tracing::warn!(mount = %target.name, ?told, %error, "the kernel refuses a notification");
        }
    }
}

/// The content changed. The pages go; and since with the write-back cache the kernel trusts its own length, the
/// inode must go too, which it does unless a process has it open.
fn data(target: &Target, ino: Ino) -> io::Result<()> {
    target.device.invalidate_inode(ino.0, 0)?;
    if target.negotiated.prunes() {
        return target.device.prune(&[ino.0]);
    }
    // Older kernels: by its name.
    let volume = target.adapter.volume();
    let Ok(path) = volume.path_of(ino) else {
        return Ok(());
    };
    let split = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let (folder, name) = path.split_at(split);
    let name = name.strip_prefix(b"/").unwrap_or(name);
    match volume.resolve(folder) {
        Ok(parent) => target.device.invalidate_entry(parent.ino.0, name),
        Err(_) => Ok(()),
    }
}
