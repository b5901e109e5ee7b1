//! Serves one mount: a few threads that read requests from the shared descriptor, hand them to a handler and send
//! what it returns.
//!
//! Flow: a thread waits in read(2), works on one request, answers it, and waits again. When a request leaves no
//! thread waiting, another thread is started, up to a limit. A panic in the handler is answered EIO and logged; the
//! mount goes on.
//!
//! Each thread counts its phase: even while it waits, odd while it works. The counts carry two promises without a
//! cost per request: [`Session::stop`] loses no request (a thread ends only between two), and a *marker* request is
//! answered only when everything that the kernel had queued before it has been answered.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::abi;
use super::device::{BUFFER_SIZE, Device, Received};
use super::errno::Errno;
use super::reply::Reply;
use super::request::{Operation, Request, decode};
use super::resized::Resized;
use super::wake;

/// Answers requests.
pub type Handler = dyn Fn(&Request<'_>) -> Reply + Send + Sync;

/// Threads of one mount, at most: enough for syncs to be grouped, few enough to leave the processor to others.
pub const THREADS: usize = 8;

/// Name of the extended attribute of the root whose reading is the marker of a barrier; a nonce follows.
pub const MARKER: &[u8] = b"user.anabranch.barrier.";

/// The phase of a thread that has ended.
const ENDED: u64 = u64::MAX;

/// A mount being served.
pub struct Session {
    shared: Arc<Shared>,
}

struct Shared {
    device: Arc<Device>,
    handler: Box<Handler>,
    name: String,
    stopping: AtomicBool,
    waiting: AtomicUsize,
    workers: Mutex<Vec<Worker>>,
    /// Whether the kernel has ended the connection; set once.
    ended: Mutex<bool>,
    changed: Condvar,
    requests: [AtomicU64; OPCODES],
    cached_writes: AtomicU64,
    resized: Mutex<Resized>,
}

/// Opcodes counted one by one; larger ones share the last place.
const OPCODES: usize = 64;

struct Worker {
    state: Arc<WorkerState>,
    thread: Option<JoinHandle<()>>,
}

struct WorkerState {
    phase: AtomicU64,
    /// Kernel thread id, 0 until it runs.
    thread: AtomicI32,
    /// Works on a marker: others need not wait for it.
    marker: AtomicBool,
}

impl Session {
    /// Starts serving an initialised connection. `name` is for logs and thread names.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(device: Arc<Device>, name: &str, handler: Box<Handler>) -> io::Result<Session> {
        wake::prepare()?;
        let shared = Arc::new(Shared {
            device,
            handler,
            name: name.to_owned(),
            stopping: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            workers: Mutex::new(Vec::new()),
            ended: Mutex::new(false),
            changed: Condvar::new(),
            requests: std::array::from_fn(|_| AtomicU64::new(0)),
            cached_writes: AtomicU64::new(0),
            resized: Mutex::default(),
        });
        Shared::add_worker(&shared)?;
        Ok(Session { shared })
    }

    /// Waits until the kernel has ended the connection (unmounted or aborted), serving was stopped, or `timeout` has
    /// passed; true when the connection has ended.
    pub fn wait_ended(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut ended = self.shared.ended.lock();
        while !*ended && !self.shared.stopping.load(Ordering::SeqCst) {
            if self
                .shared
                .changed
                .wait_until(&mut ended, deadline)
                .timed_out()
            {
                break;
            }
        }
        *ended
    }

    /// Stops serving without unmounting. Requests already read are answered; those not read stay with the kernel for
    /// whoever serves the descriptor next. Returns when every thread has ended.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // With the lock: whoever looked before this waits by now.
        drop(self.shared.ended.lock());
        self.shared.changed.notify_all();
        loop {
            let mut workers = std::mem::take(&mut *self.shared.workers.lock());
            if workers.is_empty() {
                return;
            }
            for worker in &mut workers {
                while worker.state.phase.load(Ordering::SeqCst) != ENDED {
                    wake::wake(worker.state.thread.load(Ordering::SeqCst));
                    std::thread::sleep(Duration::from_micros(200));
                }
                if let Some(thread) = worker.thread.take() {
                    let _ = thread.join();
                }
            }
        }
    }

    /// Requests served so far, by opcode; for tests and measurements.
    pub fn requests(&self) -> HashMap<u32, u64> {
        let counts = self.shared.requests.iter().enumerate();
        counts
            .map(|(code, count)| (code as u32, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn add_worker(shared: &Arc<Shared>) -> io::Result<()> {
        let mut workers = shared.workers.lock();
        if workers.len() >= THREADS || shared.stopping.load(Ordering::SeqCst) {
            return Ok(());
        }
        let state = Arc::new(WorkerState {
            phase: AtomicU64::new(0),
            thread: AtomicI32::new(0),
            marker: AtomicBool::new(false),
        });
        let (own, own_state) = (Arc::clone(shared), Arc::clone(&state));
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        let started = std::thread::Builder::new()
            .name(format!("fuse {}", shared.name))
            .spawn(move || own.work(&own_state));
        match started {
            Ok(thread) => workers.push(Worker {
                state,
                thread: Some(thread),
            }),
            Err(error) => {
                shared.waiting.fetch_sub(1, Ordering::SeqCst);
                // With at least one thread the mount is served all the same.
                if workers.is_empty() {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn work(self: &Arc<Shared>, state: &WorkerState) {
        wake::admit();
        state.thread.store(wake::current_thread(), Ordering::SeqCst);
        // Written and not only reserved: a page fault in the kernel's copy fails when this process is being killed, and
        // the request with it, instead of waiting for a successor.
        let mut buffer = vec![1; BUFFER_SIZE];
        while !self.stopping.load(Ordering::SeqCst) {
            match self.device.receive(&mut buffer) {
                Ok(Received::Request(length)) => {
                    state.phase.fetch_add(1, Ordering::SeqCst);
                    if self.waiting.fetch_sub(1, Ordering::SeqCst) == 1
                        && let Err(error) = Shared::add_worker(self)
                    {
                        tracing::warn!(mount = %self.name, %error, "a further thread for a mount cannot be started");
                    }
                    self.serve(state, buffer.get(..length).unwrap_or_default());
                    self.waiting.fetch_add(1, Ordering::SeqCst);
                    state.phase.fetch_add(1, Ordering::SeqCst);
                }
                Ok(Received::Nothing) => {
                    state.phase.fetch_add(2, Ordering::SeqCst);
                }
                Ok(Received::Ended) => {
                    *self.ended.lock() = true;
                    self.changed.notify_all();
                    break;
                }
                Err(error) => {
                    tracing::error!(mount = %self.name, %error, "reading requests of a mount fails");
                    std::thread::sleep(Duration::from_millis(100));
                    state.phase.fetch_add(2, Ordering::SeqCst);
                }
            }
        }
        state.phase.store(ENDED, Ordering::SeqCst);
    }

    fn serve(&self, state: &WorkerState, bytes: &[u8]) {
        let (unique, reply) = match decode(bytes) {
            Ok(request) => {
                self.count(bytes, request.node, &request.operation);
                let reply = match request.operation {
                    Operation::GetXattr { size, name }
                        if request.node == abi::ROOT_ID && name.starts_with(MARKER) =>
                    {
                        self.marker(state, request.resent, size)
                    }
                    _ => self.guarded(&request),
                };
                (request.reply_unique(), reply)
            }
            Err(error) => {
                tracing::error!(mount = %self.name, %error, "a request of the kernel is not understood");
                let Some(unique) = error.unique else { return };
                (unique, Reply::Failed(Errno(libc::EIO)))
            }
        };
        if let Err(error) = self.device.send(unique, &reply) {
            tracing::error!(mount = %self.name, %error, "the kernel refuses a reply");
            // Something has to be answered, or the process waits for ever.
            let _ = self.device.send(unique, &Reply::Failed(Errno(libc::EIO)));
        }
    }

    fn guarded(&self, request: &Request<'_>) -> Reply {
        catch_unwind(AssertUnwindSafe(|| (self.handler)(request))).unwrap_or_else(|_| {
            tracing::error!(mount = %self.name, operation = request.operation.name(), node = request.node, "a request panics");
            if request.operation.is_silent() { Reply::Silent } else { Reply::Failed(Errno(libc::EIO)) }
        })
    }

    fn count(&self, bytes: &[u8], node: u64, operation: &Operation<'_>) {
        let code = bytes
            .get(4..8)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u32::from_ne_bytes) as usize;
        if let Some(count) = self.requests.get(code.min(OPCODES - 1)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        match operation {
            Operation::Write { flags, .. } if flags & abi::WRITE_CACHE != 0 => {
                self.cached_writes.fetch_add(1, Ordering::SeqCst)
            }
            // A file that is cut to nothing has no pages left whose writing could be held back.
            Operation::SetAttr(change)
                if change.valid & abi::fattr::SIZE != 0 && change.size != 0 =>
            {
                self.resized.lock().add(node);
                0
            }
            _ => 0,
        };
    }

    /// Answers the marker of a barrier: waits for every request that the kernel had handed out before it, then tells
    /// how many cached writes there have been, and which files have got another size lately (`keeper::barrier`
    /// decides on them what is left to wait for).
    ///
    /// The kernel hands requests out in the order in which they were queued. A thread that was working when the
    /// marker came is waited for. One that was waiting may have been given an earlier request without having said so
    /// yet: it is sent a signal, which a thread that really waits answers at once and one that has a request answers
    /// by its phase.
    ///
    /// A marker that is sent again after a takeover has lost its place in the queue: EAGAIN, the caller repeats it.
    fn marker(&self, own: &WorkerState, resent: bool, size: u32) -> Reply {
        if resent {
            return Reply::Failed(Errno(libc::EAGAIN));
        }
        if size == 0 {
            return Reply::sized_value(vec![0; 64], 0);
        }
        own.marker.store(true, Ordering::SeqCst);
        let others: Vec<Arc<WorkerState>> = {
            let workers = self.workers.lock();
            workers
                .iter()
                .map(|w| Arc::clone(&w.state))
                .filter(|state| !std::ptr::eq(&raw const **state, own))
                .collect()
        };
        for other in others {
            let seen = other.phase.load(Ordering::SeqCst);
            if seen % 2 == 0 {
                wait_for_change(&other, seen, true);
            }
            let seen = other.phase.load(Ordering::SeqCst);
            if seen % 2 == 1 {
                wait_for_change(&other, seen, false);
            }
        }
        own.marker.store(false, Ordering::SeqCst);
        let mut answer = self.cached_writes.load(Ordering::SeqCst).to_string();
        for node in self.resized.lock().recent() {
            answer.push(' ');
            answer.push_str(&node.to_string());
        }
        Reply::sized_value(answer.into_bytes(), size)
    }
}

fn wait_for_change(worker: &WorkerState, seen: u64, signal: bool) {
    let mut turns = 0u32;
    while worker.phase.load(Ordering::SeqCst) == seen
        && seen != ENDED
        && !worker.marker.load(Ordering::SeqCst)
    {
        // A signal that comes before the thread is in read(2) is lost, so it is repeated.
        if signal && turns.is_multiple_of(64) {
            wake::wake(worker.thread.load(Ordering::SeqCst));
        }
        turns += 1;
        if turns < 64 {
            std::thread::yield_now()
        } else {
            std::thread::sleep(Duration::from_micros(20))
        }
    }
}
