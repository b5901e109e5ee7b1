//! The mounts of one engine: made, listed, synced, taken over and unmounted.
//!
//! Flow of a mount: check the mount point, open `/dev/fuse`, give the descriptor to the keeper, make the mount out of sight,
//! INIT, attach it to the mount point, serve. The keeper has it before the kernel does, so whenever this process dies, its
//! successor finds either a mount to go on with or a half-made one to remove.
//!
//! Guarantees: a mount point in use is refused and left as it is; a timeline has one writable mount; what returned on
//! a mount before [`Mounts::sync`] is in the engine after it; a request is applied once, however many processes
//! served it. Assumption: one serving process per keeper (the engine's lock sees to it).

mod end;
mod error;
mod host;
mod live;
mod make;
mod notifier;
pub(crate) mod pods;
mod rebase;
mod state;
mod successor;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use storage_engine::{Engine, Point, TimelineId};

pub use self::error::MountsError;
pub use self::host::MountsHost;
use self::live::Live;
use crate::keeper::client::{Client, StartOptions};

pub use crate::fuse::negotiate::Mode;

/// How long a mount's dirty pages may take to be written back in a sync or an unmount.
const SYNC_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest wait for the threads of a mount that is left to a successor: programs on it wait meanwhile.
const LEAVE_WAIT: Duration = Duration::from_millis(200);

/// How [`Mounts`] works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the keeper; made if missing. Beside the store and never inside a mount.
    pub keeper_directory: PathBuf,
    /// Start a keeper when none runs. False where a keeper is run by something else, as in a cluster by its own pod:
    /// [`Mounts::start`] then fails while none answers, and one that goes away is waited for.
    pub start_keeper: bool,
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
            start_keeper: true,
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
    /// Where; made if missing (its parent must be there), and removed again with the mount. Links on the way to it
    /// are followed: [`MountInfo`] has the path that the kernel lists.
    pub mount_point: PathBuf,
    /// Mode; by default a workspace if writable and a dataset if not.
    pub mode: Option<Mode>,
    /// Refuse changes even if the timeline is writable.
    pub read_only: bool,
    /// Show every file as belonging to this group, which has the owner's rights; nothing is written for it.
    pub group: Option<u32>,
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
    /// The group that files are shown to belong to.
    pub group: Option<u32>,
    /// The caller's own words.
    pub label: String,
    /// Device number in mountinfo, `major:minor`: of this mount and of what is bound from it.
    pub device: String,
    /// Unmounted lazily: out of sight, served until its last user is gone.
    pub detached: bool,
    /// An unmount was given up, and goes on until the mount point answers.
    pub unmounting: bool,
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
    keeper: Arc<Client>,
    live: Mutex<BTreeMap<String, Slot>>,
    ending: Arc<AtomicBool>,
}

enum Slot {
    /// Being made; what is written is kept from being mounted twice.
    Reserved {
        writes: Option<TimelineId>,
    },
    Served(Arc<Live>),
}

impl Mounts {
    /// Finds the keeper, or starts one where the options say so. Nothing is served yet: call [`Mounts::take_over`] next.
    ///
    /// # Errors
    /// No keeper answers, and none can or may be started.
    pub fn start(options: Options, engine: Engine) -> Result<Mounts, MountsError> {
        let options = StartOptions {
            directory: options.keeper_directory,
            start: options.start_keeper,
            program: options.keeper_program,
            abandon_after: options.abandon_after,
        };
        let keeper = Arc::new(Client::connect_or_start(&options)?);
        let live = Mutex::new(BTreeMap::new());
        let inner = Arc::new(Inner {
            engine,
            options,
            keeper,
            live,
            ending: Arc::new(AtomicBool::new(false)),
        });
        let watch = watch::Watch::of(&inner);
        std::thread::Builder::new()
            .name("keeper watch".into())
            .spawn(move || watch.run())
            .map_err(|error| MountsError::Serve {
                id: "keeper".into(),
                what: "start a thread",
                error,
            })?;
        Ok(Mounts { inner })
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
        let lives = self.inner.lives();
        for live in &lives {
            live.leaving.store(true, Ordering::SeqCst);
            live.stop();
        }
        self.inner.live.lock().clear();
        for live in &lives {
            live.join_threads(LEAVE_WAIT);
        }
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
        group: live.state.group,
        label: live.state.label.clone(),
        device: live.device_number.clone(),
        detached: live.detached.load(Ordering::SeqCst),
        unmounting: live.unmounting.load(Ordering::SeqCst),
    }
}
