//! The keeper process: holds descriptors, answers the serving process, and otherwise does nothing that can fail.
//!
//! One thread accepts, one per connection answers; nothing here opens anything inside a mount (the helper does).

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use super::helper::{Helper, HelperError, Work};
use super::peer;
use super::wire::{self, Record, Reply, Request};

/// How the keeper runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory (mode 0700): socket, lock and log.
    pub directory: PathBuf,
    /// Abort and unmount everything when no serving process has been connected for so long; zero means never.
    pub abandon_after: Duration,
}

/// How long an unmount of an abandoned mount may take.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(20);

struct Keeper {
    options: Options,
    helper: Helper,
    state: Mutex<State>,
}

struct State {
    mounts: BTreeMap<String, Held>,
    connections: usize,
    /// When the last serving process went.
    alone_since: Instant,
}

struct Held {
    record: Record,
    device: OwnedFd,
    backing: OwnedFd,
}

/// Makes the keeper's directory, or checks the one that is there.
///
/// # Errors
/// It cannot be made, or belongs to another user.
pub fn prepare_directory(directory: &Path) -> io::Result<()> {
    match fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(directory)
    {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let found = fs::metadata(directory)?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{} belongs to user {}, not to this process's",
                directory.display(),
                found.uid()
            ),
        ));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Runs the keeper until `shutdown` or until it abandons its mounts.
///
/// # Errors
/// Another keeper has the directory (`AlreadyExists`), or the socket cannot be made.
pub fn run(options: Options) -> io::Result<()> {
    prepare_directory(&options.directory)?;
    let lock = lock(&options.directory)?;
    let socket = wire::listen(&options.directory)?;
    std::env::set_current_dir("/")?;
    // The mounts of a node hang on this process: it is the last to be killed when memory runs out. Needs privilege.
    let _ = fs::write("/proc/self/oom_score_adj", "-999");
    let state = State {
        mounts: BTreeMap::new(),
        connections: 0,
        alone_since: Instant::now(),
    };
    let keeper = Arc::new(Keeper {
        helper: Helper::start()?,
        options,
        state: Mutex::new(state),
    });
    let own = Arc::clone(&keeper);
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in &mut signals {
                own.asked_to_end(signal);
            }
        })?;
    log("the keeper is ready");
    if !keeper.options.abandon_after.is_zero() {
        let own = Arc::clone(&keeper);
        std::thread::Builder::new()
            .name("abandon".into())
            .spawn(move || own.watch())?;
    }
    loop {
        match rustix::net::accept_with(&socket, rustix::net::SocketFlags::CLOEXEC) {
            Ok(connection) => {
                let own = Arc::clone(&keeper);
                let started = std::thread::Builder::new()
                    .name("connection".into())
                    .spawn(move || own.converse(&connection));
                if let Err(error) = started {
                    log(&format!("a connection is refused: {error}"));
                }
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            Err(error) => {
                log(&format!("accepting fails: {error}"));
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        // The lock lives as long as the process.
        let _ = &lock;
    }
}

fn lock(directory: &Path) -> io::Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(directory.join("keeper.lock"))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(
        |error| match error {
            rustix::io::Errno::WOULDBLOCK => io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("a keeper already runs for {}", directory.display()),
            ),
            other => other.into(),
        },
    )?;
    Ok(file)
}

fn log(line: &str) {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64());
    eprintln!("{now:.3} keeper[{}]: {line}", std::process::id());
}

fn failed(error: &io::Error) -> Reply {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<HelperError>())
        .map(|error| error.errno);
    let kind = if error.kind() == io::ErrorKind::TimedOut {
        libc::ETIMEDOUT
    } else {
        0
    };
    Reply::Failed {
        errno: inner.or(error.raw_os_error()).unwrap_or(kind),
        message: error.to_string(),
    }
}

fn refused(errno: i32, message: String) -> (Reply, Vec<OwnedFd>) {
    (Reply::Failed { errno, message }, Vec::new())
}

impl Keeper {
    fn converse(&self, connection: &OwnedFd) {
        let own = rustix::process::geteuid().as_raw();
        match peer::user(connection) {
            Ok(user) if user == own || user == 0 => {}
            Ok(user) => return log(&format!("user {user} is refused")),
            Err(error) => return log(&format!("a connection is refused: {error}")),
        }
        self.state.lock().connections += 1;
        if let Err(error) = self.serve(connection) {
            log(&format!("a connection ends: {error}"));
        }
        let mut state = self.state.lock();
        state.connections -= 1;
        state.alone_since = Instant::now();
    }

    fn serve(&self, connection: &OwnedFd) -> io::Result<()> {
        while let Some((request, descriptors)) = wire::receive::<Request>(connection.as_fd())? {
            let ends = request == Request::Shutdown;
            let (reply, descriptors) = self.answer(request, descriptors);
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            wire::send(connection.as_fd(), &reply, &borrowed)?;
            if ends && reply == Reply::Done {
                log("the keeper ends");
                std::process::exit(0);
            }
        }
        Ok(())
    }

    fn answer(&self, request: Request, descriptors: Vec<OwnedFd>) -> (Reply, Vec<OwnedFd>) {
        let done = (Reply::Done, Vec::new());
        match request {
            Request::Hello { protocol } if protocol > wire::PROTOCOL => refused(
                libc::EPROTONOSUPPORT,
                format!(
                    "this keeper speaks protocol {}, not {protocol}",
                    wire::PROTOCOL
                ),
            ),
            Request::Hello { .. } => {
                let version = env!("CARGO_PKG_VERSION").to_owned();
                (
                    Reply::Hello {
                        protocol: wire::PROTOCOL,
                        version,
                        pid: std::process::id(),
                    },
                    Vec::new(),
                )
            }
            Request::Put { mount } => {
                let mut descriptors = descriptors.into_iter();
                let (Some(device), Some(backing)) = (descriptors.next(), descriptors.next()) else {
                    return refused(libc::EINVAL, "put needs two descriptors".into());
                };
                log(&format!("keeps {} at {}", mount.id, mount.mount_point));
                self.state.lock().mounts.insert(
                    mount.id.clone(),
                    Held {
                        record: mount,
                        device,
                        backing,
                    },
                );
                done
            }
            Request::Update { mount } => match self.state.lock().mounts.get_mut(&mount.id) {
                Some(held) => {
                    held.record = mount;
                    done
                }
                None => refused(libc::ENOENT, format!("{} is not kept", mount.id)),
            },
            Request::List { after } => {
                use std::ops::Bound;
                let state = self.state.lock();
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let page = state
                    .mounts
                    .range((from, Bound::Unbounded))
                    .take(wire::PAGE);
                (
                    Reply::Mounts {
                        mounts: page.map(|(_, held)| held.record.clone()).collect(),
                    },
                    Vec::new(),
                )
            }
            Request::Take { id } => match self.state.lock().mounts.get(&id) {
                Some(held) => match (held.device.try_clone(), held.backing.try_clone()) {
                    (Ok(device), Ok(backing)) => (
                        Reply::Mount {
                            mount: held.record.clone(),
                        },
                        vec![device, backing],
                    ),
                    (Err(error), _) | (_, Err(error)) => (failed(&error), Vec::new()),
                },
                None => refused(libc::ENOENT, format!("{id} is not kept")),
            },
            Request::Sync { id, timeout_ms } => self.work(&id, timeout_ms, |record| Work::Sync {
                point: record.mount_point.into(),
                device: record.device,
            }),
            Request::Unmount {
                id,
                lazy,
                force,
                timeout_ms,
            } => {
                log(&format!(
                    "unmounts {id}{}{}",
                    if lazy { ", lazily" } else { "" },
                    if force { ", by force" } else { "" }
                ));
                self.work(&id, timeout_ms, |record| unmount_work(record, lazy, force))
            }
            Request::Drop { id } => {
                log(&format!("drops {id}"));
                self.state.lock().mounts.remove(&id);
                done
            }
            Request::Shutdown => match self.state.lock().mounts.len() {
                0 => done,
                kept => refused(libc::EBUSY, format!("{kept} mounts are still kept")),
            },
        }
    }

    fn work(
        &self,
        id: &str,
        timeout_ms: u64,
        work: impl FnOnce(Record) -> Work,
    ) -> (Reply, Vec<OwnedFd>) {
        let Some(record) = self
            .state
            .lock()
            .mounts
            .get(id)
            .map(|held| held.record.clone())
        else {
            return refused(libc::ENOENT, format!("{id} is not kept"));
        };
        match self
            .helper
            .perform(work(record), Duration::from_millis(timeout_ms))
        {
            Ok(()) => (Reply::Done, Vec::new()),
            Err(error) => (failed(&error), Vec::new()),
        }
    }

    /// A signal asks the keeper to end. Without mounts it does. With some it says what would become of them, and stays: only
    /// SIGKILL ends it then, and programs on those mounts get errors.
    fn asked_to_end(&self, signal: i32) {
        let state = self.state.lock();
        if state.mounts.is_empty() {
            log(&format!("signal {signal}: holds nothing, and ends"));
            std::process::exit(0);
        }
        let names: Vec<&str> = state.mounts.keys().map(String::as_str).collect();
        log(&format!(
            "signal {signal}: stays, because it holds the descriptors of {} mounts ({}); they would fail with it. \
             Unmount them first, or kill it (SIGKILL)",
            names.len(),
            names.join(", ")
        ));
    }

    /// Abandons the mounts when the serving process stays away too long.
    fn watch(&self) {
        let limit = self.options.abandon_after;
        loop {
            std::thread::sleep(
                (limit / 10).clamp(Duration::from_millis(50), Duration::from_secs(5)),
            );
            let records: Vec<Record> = {
                let state = self.state.lock();
                if state.connections > 0 || state.alone_since.elapsed() < limit {
                    continue;
                }
                state
                    .mounts
                    .values()
                    .map(|held| held.record.clone())
                    .collect()
            };
            log(&format!(
                "no serving process for {} s: abandons {} mounts",
                limit.as_secs(),
                records.len()
            ));
            for record in records {
                let id = record.id.clone();
                if let Err(error) = self
                    .helper
                    .perform(unmount_work(record, true, true), ABANDON_TIMEOUT)
                {
                    log(&format!("{id} cannot be unmounted: {error}"));
                }
            }
            // The descriptors close with the process, which aborts whatever is left.
            std::process::exit(0);
        }
    }
}

fn unmount_work(record: Record, lazy: bool, force: bool) -> Work {
    Work::Unmount {
        point: record.mount_point.into(),
        device: record.device,
        lazy,
        force,
    }
}
