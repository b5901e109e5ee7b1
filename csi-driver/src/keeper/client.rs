//! The serving process's side: finds or starts the keeper and asks it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags};

use super::server::prepare_directory;
use super::wire::{self, Record, Reply, Request};

/// Name of the keeper's program.
pub const PROGRAM: &str = "anabranch-keeper";

/// How long a started keeper may take until it answers.
const START: Duration = Duration::from_secs(10);

/// Why the keeper did not do it.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The keeper refused or failed; errno 0 when there is none.
    #[error("{message}")]
    Refused {
        /// The errno.
        errno: i32,
        /// The keeper's sentence.
        message: String,
    },
    /// It cannot be reached.
    #[error("the keeper of {} cannot be reached: {error}", .directory.display())]
    Unreachable {
        /// Its directory.
        directory: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It cannot be started.
    #[error("the keeper cannot be started: {0}")]
    Start(String),
}

impl KeeperError {
    /// The errno, if the keeper gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            KeeperError::Refused { errno, .. } if *errno != 0 => Some(*errno),
            _ => None,
        }
    }
}

/// Where the keeper is, and how to start one when none runs.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// Its directory.
    pub directory: PathBuf,
    /// Whether to start one. False where something else runs it, for example a pod of its own: one started here would
    /// end with this process's container.
    pub start: bool,
    /// Its program; `None` looks at `$ANABRANCH_KEEPER`, beside this program, and in `$PATH`.
    pub program: Option<PathBuf>,
    /// See the keeper's `--abandon-after`; zero means never.
    pub abandon_after: Duration,
}

/// A connection to the keeper. While it is open, the keeper knows that its mounts are served.
pub struct Client {
    directory: PathBuf,
    control: Mutex<OwnedFd>,
}

impl Client {
    /// Connects to the keeper of the directory and starts one, detached from this process, when none answers.
    ///
    /// # Errors
    /// None can be started, or may be ([`StartOptions::start`]) and none answers, or it speaks an older protocol.
    pub fn connect_or_start(options: &StartOptions) -> Result<Client, KeeperError> {
        let unreachable = |error| KeeperError::Unreachable {
            directory: options.directory.clone(),
            error,
        };
        prepare_directory(&options.directory).map_err(unreachable)?;
        match Client::connect(&options.directory) {
            Ok(client) => return Ok(client),
            Err(error) if !options.start => return Err(error),
            Err(_) => start(options)?,
        }
        let deadline = Instant::now() + START;
        loop {
            match Client::connect(&options.directory) {
                Err(KeeperError::Unreachable { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2))
                }
                other => return other,
            }
        }
    }

    /// Connects to a keeper that runs.
    ///
    /// # Errors
    /// None answers, or it speaks an older protocol.
    pub fn connect(directory: &Path) -> Result<Client, KeeperError> {
        let control = Mutex::new(introduce(directory)?);
        Ok(Client {
            directory: directory.to_owned(),
            control,
        })
    }

    /// Keeps a mount with its descriptors.
    ///
    /// # Errors
    /// As the others: refused, or not reachable.
    pub fn put(
        &self,
        mount: Record,
        device: BorrowedFd<'_>,
        backing: BorrowedFd<'_>,
    ) -> Result<(), KeeperError> {
        self.done(Request::Put { mount }, &[device, backing])
    }

    /// Replaces what is kept about a mount.
    ///
    /// # Errors
    /// It is not kept.
    pub fn update(&self, mount: Record) -> Result<(), KeeperError> {
        self.done(Request::Update { mount }, &[])
    }

    /// The mounts kept, ordered by id.
    ///
    /// # Errors
    /// Not reachable.
    pub fn list(&self) -> Result<Vec<Record>, KeeperError> {
        let mut all: Vec<Record> = Vec::new();
        loop {
            let after = all.last().map(|record| record.id.clone());
            match self.call(&Request::List { after }, &[])?.0 {
                Reply::Mounts { mounts } if mounts.is_empty() => return Ok(all),
                Reply::Mounts { mounts } => all.extend(mounts),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// A mount's descriptors: `/dev/fuse` and the record of backing files.
    ///
    /// # Errors
    /// It is not kept.
    pub fn take(&self, id: &str) -> Result<(Record, OwnedFd, OwnedFd), KeeperError> {
        let (reply, descriptors) = self.call(&Request::Take { id: id.to_owned() }, &[])?;
        let mut descriptors = descriptors.into_iter();
        match (reply, descriptors.next(), descriptors.next()) {
            (Reply::Mount { mount }, Some(device), Some(backing)) => Ok((mount, device, backing)),
            (other, ..) => Err(unexpected(&other)),
        }
    }

    /// Passes a mount's barrier, on a connection of its own: it may take as long as writing back does.
    ///
    /// # Errors
    /// The mount does not answer in time, or its pages could not be written.
    pub fn sync(&self, id: &str, timeout: Duration) -> Result<(), KeeperError> {
        self.apart(&Request::Sync {
            id: id.to_owned(),
            timeout_ms: timeout.as_millis() as u64,
        })
    }

    /// Unmounts, on a connection of its own.
    ///
    /// # Errors
    /// In use (EBUSY) unless `lazy`; not mounted (EINVAL).
    pub fn unmount(
        &self,
        id: &str,
        lazy: bool,
        force: bool,
        timeout: Duration,
    ) -> Result<(), KeeperError> {
        self.apart(&Request::Unmount {
            id: id.to_owned(),
            lazy,
            force,
            timeout_ms: timeout.as_millis() as u64,
        })
    }

    /// Lets the keeper forget a mount.
    ///
    /// # Errors
    /// Not reachable.
    pub fn forget(&self, id: &str) -> Result<(), KeeperError> {
        self.done(Request::Drop { id: id.to_owned() }, &[])
    }

    /// Ends the keeper.
    ///
    /// # Errors
    /// It still keeps mounts (EBUSY).
    pub fn shutdown(&self) -> Result<(), KeeperError> {
        self.done(Request::Shutdown, &[])
    }

    /// Waits up to `timeout` for the keeper to go away; true when it has.
    pub fn wait_gone(&self, timeout: Duration) -> bool {
        let Ok(copy) = self.control.lock().try_clone() else {
            std::thread::sleep(timeout);
            return false;
        };
        let timeout = rustix::event::Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut polled = [PollFd::new(&copy, PollFlags::RDHUP)];
        matches!(rustix::event::poll(&mut polled, Some(&timeout)), Ok(1..))
            && polled.iter().any(|fd| {
                fd.revents()
                    .intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR)
            })
    }

    /// Takes over the connection of another client of the same directory.
    pub fn replace(&self, other: Client) {
        *self.control.lock() = other.control.into_inner();
    }

    fn call(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), KeeperError> {
        ask(&self.directory, &self.control.lock(), request, descriptors)
    }

    fn done(&self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), KeeperError> {
        match self.call(&request, descriptors)?.0 {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn apart(&self, request: &Request) -> Result<(), KeeperError> {
        let connection = introduce(&self.directory)?;
        match ask(&self.directory, &connection, request, &[])?.0 {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

fn introduce(directory: &Path) -> Result<OwnedFd, KeeperError> {
    let connection = wire::connect(directory).map_err(|error| KeeperError::Unreachable {
        directory: directory.to_owned(),
        error,
    })?;
    match ask(
        directory,
        &connection,
        &Request::Hello {
            protocol: wire::PROTOCOL,
        },
        &[],
    )?
    .0
    {
        Reply::Hello { .. } => Ok(connection),
        other => Err(unexpected(&other)),
    }
}

fn ask(
    directory: &Path,
    connection: &OwnedFd,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(Reply, Vec<OwnedFd>), KeeperError> {
    let unreachable = |error| KeeperError::Unreachable {
        directory: directory.to_owned(),
        error,
    };
    wire::send(connection.as_fd(), request, descriptors).map_err(unreachable)?;
    match wire::receive(connection.as_fd()).map_err(unreachable)? {
        Some((Reply::Failed { errno, message }, _)) => Err(KeeperError::Refused { errno, message }),
        Some(answer) => Ok(answer),
        None => Err(unreachable(io::Error::from_raw_os_error(libc::ECONNRESET))),
    }
}

fn unexpected(reply: &Reply) -> KeeperError {
    KeeperError::Refused {
        errno: libc::EPROTO,
        message: format!("the keeper answers something else: {reply:?}"),
    }
}

fn start(options: &StartOptions) -> Result<(), KeeperError> {
    let program = program(options)?;
    let log_path = options.directory.join("keeper.log");
    let cannot = |what: &str, error: io::Error| KeeperError::Start(format!("{what}: {error}"));
    let log = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log_path);
    let log = log.map_err(|error| cannot(&log_path.display().to_string(), error))?;
    let copy = log.try_clone().map_err(|error| cannot("its log", error))?;
    let mut command = Command::new(&program);
    command
        .arg("--dir")
        .arg(&options.directory)
        .arg("--abandon-after")
        .arg(format!("{}ms", options.abandon_after.as_millis()))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::from(copy))
        .stderr(Stdio::from(log));
    // SAFETY: setsid is async-signal-safe and touches no memory. A session of its own: no Ctrl-C, no hang-up, and no
    // signal to this process's group reaches the keeper.
    unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(|_| ())?)) };
    let mut child = command
        .spawn()
        .map_err(|error| cannot(&program.display().to_string(), error))?;
    // Waits for it, so that a keeper that ends is no zombie of this process.
    let _ = std::thread::Builder::new()
        .name("keeper".into())
        .spawn(move || child.wait());
    Ok(())
}

fn program(options: &StartOptions) -> Result<PathBuf, KeeperError> {
    let given = options
        .program
        .clone()
        .or_else(|| std::env::var_os("ANABRANCH_KEEPER").map(PathBuf::from));
    if let Some(given) = given {
        return Ok(given);
    }
    let own = std::env::current_exe().map_err(|error| KeeperError::Start(error.to_string()))?;
    // Tests live one folder below the programs.
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(PROGRAM))
        .find(|path| path.is_file());
    if let Some(beside) = beside {
        return Ok(beside);
    }
    let in_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path)
            .map(|folder| folder.join(PROGRAM))
            .find(|path| path.is_file())
    });
    in_path.ok_or_else(|| {
        KeeperError::Start(format!(
            "the program {PROGRAM} is neither beside {} nor in PATH; set ANABRANCH_KEEPER",
            own.display()
        ))
    })
}
