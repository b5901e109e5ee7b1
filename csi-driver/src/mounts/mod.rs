//! The mounts of one engine: made, listed, synced, taken over and unmounted.
//!
//! Flow of a mount: check the mount point, open `/dev/fuse`, give the descriptor to the keeper, mount(2), INIT, serve.
//! The keeper has it before the kernel does, so whenever this process dies, its successor finds either a mount to go
//! on with or a half-made one to remove.
//!
//! Guarantees: a mount point in use is refused and left as it is; a timeline has one writable mount; what returned on
//! a mount before [`Mounts::sync`] is in the engine after it; a request is applied once, however many processes
//! served it. Assumption: one serving process per keeper (the engine's lock sees to it).

mod error;
mod live;
mod notifier;
mod state;

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use storage_engine::{Engine, Point, TimelineId, VolumeOptions};

pub use self::error::MountsError;
use self::live::{Connection, Live, record};
use self::state::State;
use crate::fuse::backing::new_record;
use crate::fuse::device::Device;
use crate::fuse::mount::{self, MountOptions};
use crate::fuse::negotiate::{Negotiated, negotiate};
use crate::keeper::client::{Client, StartOptions};
use crate::keeper::wire::Record;

pub use crate::fuse::negotiate::Mode;

/// How long a mount's dirty pages may take to be written back in a sync or an unmount.
const SYNC_TIMEOUT: Duration = Duration::from_secs(120);

/// How [`Mounts`] works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the keeper; made if missing. Beside the store and never inside a mount.
    pub keeper_directory: PathBuf,
    /// Program of the keeper; `None` finds it beside this program.
    pub keeper_program: Option<PathBuf>,
    /// When no process has served for so long, a started keeper unmounts everything; zero means never.
    pub abandon_after: Duration,
}

impl Options {
    /// The keeper in `directory`, found beside this program, which never abandons.
    pub fn new(directory: impl Into<PathBuf>) -> Options {
        Options {
            keeper_directory: directory.into(),
            keeper_program: None,
            abandon_after: Duration::ZERO,
        }
    }
}

/// A mount to make.
#[derive(Debug, Clone)]
pub struct MountRequest {
    /// Name, unique among the mounts of the keeper.
    pub id: String,
    /// What to show: a timeline as it is now (writable unless its settings say read-only) or a cutoff.
    pub point: Point,
    /// Where; made if missing (its parent must be there), and removed again with the mount.
    pub mount_point: PathBuf,
    /// Mode; by default a workspace if writable and a dataset if not.
    pub mode: Option<Mode>,
    /// Refuse changes even if the timeline is writable.
    pub read_only: bool,
    /// The caller's own words, given back by [`Mounts::list`] and after a takeover.
    pub label: String,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Name.
    pub id: String,
    /// What is shown.
    pub point: Point,
    /// Timeline of what is shown.
    pub timeline: TimelineId,
    /// Where.
    pub mount_point: PathBuf,
    /// Mode.
    pub mode: Mode,
    /// No changes.
    pub read_only: bool,
    /// The caller's own words.
    pub label: String,
    /// Unmounted lazily: out of sight, served until its last user is gone.
    pub detached: bool,
}

/// What became of one mount in [`Mounts::take_over`].
#[derive(Debug)]
pub struct TakenOver {
    /// Name.
    pub id: String,
    /// The mount, served again; or why it was given up (it is unmounted then).
    pub outcome: Result<MountInfo, MountsError>,
}

/// The mounts of one engine. Cloning gives another handle.
#[derive(Clone)]
pub struct Mounts {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    options: StartOptions,
    keeper: Client,
    live: Mutex<BTreeMap<String, Slot>>,
    ending: AtomicBool,
}

enum Slot {
    /// Being made; what is written is kept from being mounted twice.
    Reserved {
        writes: Option<TimelineId>,
    },
    Served(Arc<Live>),
}

impl Mounts {
    /// Finds the keeper or starts one. Nothing is served yet: call [`Mounts::take_over`] next.
    ///
    /// # Errors
    /// No keeper can be started.
    pub fn start(options: Options, engine: Engine) -> Result<Mounts, MountsError> {
        let options = StartOptions {
            directory: options.keeper_directory,
            program: options.keeper_program,
            abandon_after: options.abandon_after,
        };
        let keeper = Client::connect_or_start(&options)?;
        let live = Mutex::new(BTreeMap::new());
        let inner = Arc::new(Inner {
            engine,
            options,
            keeper,
            live,
            ending: AtomicBool::new(false),
        });
        let own = Arc::downgrade(&inner);
        std::thread::Builder::new()
            .name("keeper watch".into())
            .spawn(move || {
                while let Some(inner) = own.upgrade() {
                    inner.watch_keeper(Duration::from_millis(500));
                }
            })
            .map_err(|error| MountsError::Serve {
                id: "keeper".into(),
                what: "start a thread",
                error,
            })?;
        Ok(Mounts { inner })
    }

    /// Serves every mount that the keeper holds, as the successor of whoever served them. Programs on them go on;
    /// requests that the predecessor had read are sent again by the kernel and answered without being applied twice.
    ///
    /// Cost: about 1 ms per mount.
    ///
    /// # Errors
    /// The keeper does not answer. What cannot be served (its timeline is gone) is unmounted by force and listed.
    pub fn take_over(&self) -> Result<Vec<TakenOver>, MountsError> {
        let mut all = Vec::new();
        for record in self.inner.keeper.list()? {
            let id = record.id.clone();
            if self.inner.live.lock().contains_key(&id) {
                continue;
            }
            let outcome = self.inner.take_over_one(&record);
            if let Err(error) = &outcome {
                tracing::warn!(mount = %id, %error, "a mount cannot be taken over and is given up");
                self.inner.give_up(&record);
            }
            all.push(TakenOver {
                id,
                outcome: outcome.map(|live| info(&live)),
            });
        }
        Ok(all)
    }

    /// Makes a mount. Cost: about 1 ms, and the removal of what earlier mounts left unlinked but open.
    ///
    /// # Errors
    /// Each says what to do; nothing is left behind.
    pub fn mount(&self, request: MountRequest) -> Result<MountInfo, MountsError> {
        let inner = &self.inner;
        let volume = inner
            .engine
            .volume(request.point, VolumeOptions { origin: 0 })?;
        let read_only = request.read_only || volume.read_only();
        let writes = (!read_only).then(|| volume.timeline());
        inner.reserve(&request.id, writes)?;
        let mut made = false;
        let result = mount::prepare(&request.mount_point)
            .map_err(MountsError::from)
            .and_then(|made_directory| {
                made = made_directory;
                if writes.is_some() {
                    volume.reap_all()?;
                }
                let mode = request.mode.unwrap_or(if read_only {
                    Mode::Dataset
                } else {
                    Mode::Workspace
                });
                inner.make(&request, mode, read_only, made_directory)
            });
        match result {
            Ok(live) => {
                let info = info(&live);
                inner.adopt(live)?;
                Ok(info)
            }
            Err(error) => {
                if made {
                    let _ = std::fs::remove_dir(&request.mount_point);
                }
                inner.live.lock().remove(&request.id);
                Err(error)
            }
        }
    }

    /// Unmounts: dirty pages are written first. With `lazy` a mount in use is taken out of sight and goes with its
    /// last user.
    ///
    /// # Errors
    /// [`MountsError::Busy`] when it is in use and `lazy` is not given.
    pub fn unmount(&self, id: &str, lazy: bool) -> Result<(), MountsError> {
        let inner = &self.inner;
        let live = inner.served(id)?;
        match inner.keeper.unmount(id, false, false, SYNC_TIMEOUT) {
            Ok(()) => {}
            Err(error) if error.errno() == Some(libc::EBUSY) && !lazy => {
                return Err(MountsError::Busy {
                    id: id.to_owned(),
                    mount_point: live.mount_point.clone(),
                });
            }
            Err(error) if error.errno() == Some(libc::EBUSY) => {
                inner.keeper.sync(id, SYNC_TIMEOUT)?;
                live.detached.store(true, Ordering::SeqCst);
                inner.keeper.unmount(id, true, false, SYNC_TIMEOUT)?;
                return Ok(());
            }
            // Somebody else has unmounted it.
            Err(error) if error.errno() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
        // A lazy unmount of the same file system elsewhere (a bind mount) may keep the connection.
        if !live.wait_finished(Duration::from_secs(5)) {
            live.detached.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Every mount served, by id.
    pub fn list(&self) -> Vec<MountInfo> {
        self.inner.lives().iter().map(|live| info(live)).collect()
    }

    /// Passes the barrier of a mount: everything that returned on it before is in the engine when this returns.
    /// Cost: writing back what is dirty, and about 0.2 ms.
    ///
    /// # Errors
    /// The pages cannot be written (the error of the engine, for example a full quota), or not in time.
    pub fn sync(&self, id: &str) -> Result<(), MountsError> {
        let live = self.inner.served(id)?;
        if live.adapter.volume().read_only() || live.detached.load(Ordering::SeqCst) {
            return Ok(());
        }
        Ok(self.inner.keeper.sync(id, SYNC_TIMEOUT)?)
    }

    /// Passes the barriers of every writable mount of a timeline (there is at most one).
    ///
    /// # Errors
    /// As [`Mounts::sync`].
    pub fn sync_timeline(&self, timeline: TimelineId) -> Result<(), MountsError> {
        for live in self.inner.lives() {
            if live.adapter.volume().timeline() == timeline {
                self.sync(&live.id)?;
            }
        }
        Ok(())
    }

    /// Waits until the kernel has been told of every change by another door that is committed in the engine.
    ///
    /// # Errors
    /// No such mount.
    pub fn pass_invalidations(&self, id: &str) -> Result<(), MountsError> {
        self.inner.served(id)?.pass_notifications();
        Ok(())
    }

    /// Requests that a mount has served, by opcode of the protocol; for measurements.
    ///
    /// # Errors
    /// No such mount.
    pub fn requests(&self, id: &str) -> Result<HashMap<u32, u64>, MountsError> {
        Ok(self.inner.served(id)?.requests())
    }

    /// Stops serving and leaves the mounts to a successor: programs on them wait until it takes over. Requests that
    /// were read are answered first.
    pub fn leave(&self) {
        self.inner.ending.store(true, Ordering::SeqCst);
        for live in self.inner.lives() {
            live.leaving.store(true, Ordering::SeqCst);
            live.stop();
        }
        self.inner.live.lock().clear();
    }

    /// Unmounts everything and ends the keeper. Programs that still use a mount after `patience` get errors.
    ///
    /// # Errors
    /// The first that a mount or the keeper reported; the rest is unmounted all the same.
    pub fn shut_down(&self, patience: Duration) -> Result<(), MountsError> {
        self.inner.ending.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + patience;
        let mut first = None;
        for live in self.inner.lives() {
            if let Err(error) = self.end_one(&live, deadline) {
                first.get_or_insert(error);
            }
        }
        if let Err(error) = self.inner.keeper.shutdown() {
            first.get_or_insert(error.into());
        }
        first.map_or(Ok(()), Err)
    }

    fn end_one(&self, live: &Live, deadline: Instant) -> Result<(), MountsError> {
        let mut result = Ok(());
        while !live.detached.load(Ordering::SeqCst) {
            match self.unmount(&live.id, false) {
                Ok(()) => break,
                Err(MountsError::Busy { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50))
                }
                Err(MountsError::Busy { .. }) => {
                    tracing::warn!(mount = %live.id, "a mount is still in use; its users get errors from now on");
                    result = self
                        .inner
                        .keeper
                        .sync(&live.id, SYNC_TIMEOUT)
                        .map_err(MountsError::from);
                    self.inner
                        .keeper
                        .unmount(&live.id, true, true, SYNC_TIMEOUT)?;
                    break;
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if !live.wait_finished(
            deadline
                .saturating_duration_since(Instant::now())
                .max(Duration::from_secs(1)),
        ) {
            // Detached and still in use, perhaps from another namespace: closing the last descriptors aborts it.
            live.leaving.store(true, Ordering::SeqCst);
            live.stop();
            self.inner.keeper.forget(&live.id)?;
            self.inner.live.lock().remove(&live.id);
        }
        result
    }
}

impl Inner {
    fn lives(&self) -> Vec<Arc<Live>> {
        let served = |slot: &Slot| {
            if let Slot::Served(live) = slot {
                Some(Arc::clone(live))
            } else {
                None
            }
        };
        self.live.lock().values().filter_map(served).collect()
    }

    fn served(&self, id: &str) -> Result<Arc<Live>, MountsError> {
        match self.live.lock().get(id) {
            Some(Slot::Served(live)) => Ok(Arc::clone(live)),
            _ => Err(MountsError::NotMounted { id: id.to_owned() }),
        }
    }

    fn reserve(&self, id: &str, writes: Option<TimelineId>) -> Result<(), MountsError> {
        let mut live = self.live.lock();
        if live.contains_key(id) {
            return Err(MountsError::Exists { id: id.to_owned() });
        }
        if let Some(timeline) = writes {
            let other = live
                .iter()
                .find(|(_, slot)| slot.writes() == Some(timeline));
            if let Some((other, _)) = other {
                return Err(MountsError::Written {
                    timeline,
                    other: other.clone(),
                });
            }
        }
        live.insert(id.to_owned(), Slot::Reserved { writes });
        Ok(())
    }

    fn make(
        &self,
        request: &MountRequest,
        mode: Mode,
        read_only: bool,
        made_directory: bool,
    ) -> Result<Arc<Live>, MountsError> {
        let system = |what: &'static str| {
            move |error| MountsError::Serve {
                id: request.id.clone(),
                what,
                error,
            }
        };
        let device = Arc::new(Device::open().map_err(system("open /dev/fuse"))?);
        let backing = new_record().map_err(system("make a memory file"))?;
        let mut state = State {
            point: request.point.into(),
            mode,
            connection: random().map_err(system("read /dev/urandom"))?,
            negotiated: None,
            read_only,
            label: request.label.clone(),
            made_directory,
        };
        let point = &request.mount_point;
        use std::os::fd::AsFd;
        self.keeper.put(
            record(&request.id, point, "", &state)?,
            device.as_fd(),
            backing.as_fd(),
        )?;
        let result = self.mount_and_serve(request, &mut state, &device, backing);
        if result.is_err() {
            if let Ok(Some(line)) = mount::mounted_at(point)
                && line.source == source(&request.id)
            {
                let _ = mount::unmount(point, true, true);
            }
            let _ = self.keeper.forget(&request.id);
        }
        result
    }

    fn mount_and_serve(
        &self,
        request: &MountRequest,
        state: &mut State,
        device: &Arc<Device>,
        backing: std::os::fd::OwnedFd,
    ) -> Result<Arc<Live>, MountsError> {
        let point = &request.mount_point;
        let system = |what: &'static str| {
            move |error| MountsError::Serve {
                id: request.id.clone(),
                what,
                error,
            }
        };
        mount::mount(
            device,
            point,
            MountOptions {
                name: &request.id,
                read_only: state.read_only,
            },
        )?;
        let negotiated = negotiate(device, state.mode).map_err(system("agree with the kernel"))?;
        state.negotiated = Some(negotiated);
        let number = device_number(point, &request.id)?;
        mount::raise_read_ahead(&number);
        self.keeper
            .update(record(&request.id, point, &number, state)?)?;
        Live::serve(
            &self.engine,
            Connection {
                id: request.id.clone(),
                mount_point: point.clone(),
                device_number: number,
                state: state.clone(),
                negotiated,
                device: Arc::clone(device),
                backing,
                taken_over: false,
            },
        )
    }

    /// Puts a served mount into the list and watches for its end.
    fn adopt(self: &Arc<Inner>, live: Arc<Live>) -> Result<(), MountsError> {
        self.live
            .lock()
            .insert(live.id.clone(), Slot::Served(Arc::clone(&live)));
        let (own, id) = (Arc::clone(self), live.id.clone());
        let watch = move || {
            if live.wait_ended() {
                own.clean_up(&live);
            }
        };
        let started = std::thread::Builder::new()
            .name("mount end".into())
            .spawn(watch);
        started.map(|_| ()).map_err(|error| MountsError::Serve {
            id,
            what: "start a thread",
            error,
        })
    }

    /// The kernel has ended the connection: by our unmount, or somebody else's.
    fn clean_up(&self, live: &Live) {
        live.stop();
        let volume = live.adapter.volume();
        if !volume.read_only()
            && let Err(error) = volume.reap_all()
        {
            tracing::debug!(mount = %live.id, %error, "unlinked inodes are left for the next mount");
        }
        if let Err(error) = self.keeper.forget(&live.id) {
            tracing::debug!(mount = %live.id, %error, "the keeper does not forget a mount");
        }
        if live.state.made_directory {
            remove_directory(&live.mount_point);
        }
        self.live.lock().remove(&live.id);
        live.finish();
    }

    fn take_over_one(self: &Arc<Inner>, record: &Record) -> Result<Arc<Live>, MountsError> {
        let state: State =
            serde_json::from_value(record.state.clone()).map_err(|error| MountsError::Record {
                id: record.id.clone(),
                error: error.to_string(),
            })?;
        let unfinished = || MountsError::Record {
            id: record.id.clone(),
            error: "its mounting was not finished".into(),
        };
        let negotiated: Negotiated = state.negotiated.ok_or_else(unfinished)?;
        let writes = |state: &State| match (state.read_only, state.point) {
            (false, state::ShownPoint::Now(timeline)) => Some(timeline),
            _ => None,
        };
        self.reserve(&record.id, writes(&state))?;
        let result = self.resume(record, state, negotiated);
        if result.is_err() {
            self.live.lock().remove(&record.id);
        }
        result
    }

    fn resume(
        self: &Arc<Inner>,
        record: &Record,
        state: State,
        negotiated: Negotiated,
    ) -> Result<Arc<Live>, MountsError> {
        let (_, device, backing) = self.keeper.take(&record.id)?;
        let live = Live::serve(
            &self.engine,
            Connection {
                id: record.id.clone(),
                mount_point: PathBuf::from(&record.mount_point),
                device_number: record.device.clone(),
                state,
                negotiated,
                device: Arc::new(Device::from_descriptor(device)),
                backing,
                taken_over: true,
            },
        )?;
        self.adopt(Arc::clone(&live))?;
        Ok(live)
    }

    /// A mount nobody can serve: processes that wait on it get errors.
    fn give_up(&self, record: &Record) {
        let _ = self
            .keeper
            .unmount(&record.id, true, true, Duration::from_secs(10));
        let _ = self.keeper.forget(&record.id);
        let made = record
            .state
            .get("made_directory")
            .and_then(serde_json::Value::as_bool)
            .unwrap_or(false);
        if made {
            remove_directory(Path::new(&record.mount_point));
        }
    }

    /// A keeper that went away is replaced, and the new one gets every mount.
    fn watch_keeper(&self, patience: Duration) {
        if !self.keeper.wait_gone(patience) || self.ending.load(Ordering::SeqCst) {
            if self.ending.load(Ordering::SeqCst) {
                std::thread::sleep(patience);
            }
            return;
        }
        tracing::warn!("the keeper is gone; another one is started");
        let fresh = match Client::connect_or_start(&self.options) {
            Ok(fresh) => fresh,
            Err(error) => {
                tracing::error!(%error, "mounts do not outlive this process until there is a keeper again");
                std::thread::sleep(Duration::from_secs(1));
                return;
            }
        };
        self.keeper.replace(fresh);
        use std::os::fd::AsFd;
        for live in self.lives() {
            let kept = live.record().and_then(|record| {
                Ok(self
                    .keeper
                    .put(record, live.device.as_fd(), live.backing.as_fd())?)
            });
            if let Err(error) = kept {
                tracing::error!(mount = %live.id, %error, "the new keeper does not take a mount");
            }
        }
    }
}

impl Slot {
    fn writes(&self) -> Option<TimelineId> {
        match self {
            Slot::Reserved { writes } => *writes,
            Slot::Served(live) if live.state.read_only || live.detached.load(Ordering::SeqCst) => {
                None
            }
            Slot::Served(live) => Some(live.adapter.volume().timeline()),
        }
    }
}

fn info(live: &Live) -> MountInfo {
    MountInfo {
        id: live.id.clone(),
        point: live.state.point.into(),
        timeline: live.adapter.volume().timeline(),
        mount_point: live.mount_point.clone(),
        mode: live.state.mode,
        read_only: live.state.read_only,
        label: live.state.label.clone(),
        detached: live.detached.load(Ordering::SeqCst),
    }
}

fn source(id: &str) -> String {
    format!("anabranch:{id}")
}

fn device_number(point: &Path, id: &str) -> Result<String, MountsError> {
    let line = mount::mounted_at(point).map_err(|error| MountsError::Serve {
        id: id.to_owned(),
        what: "read mountinfo",
        error,
    })?;
    line.filter(|line| line.kind == mount::TYPE)
        .map(|line| line.device)
        .ok_or_else(|| MountsError::NotMounted { id: id.to_owned() })
}

fn remove_directory(point: &Path) {
    let owned = point.to_owned();
    // One that is not empty any more is somebody else's by now.
    let _ = mount::with_deadline(point, move || std::fs::remove_dir(owned));
}

fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
