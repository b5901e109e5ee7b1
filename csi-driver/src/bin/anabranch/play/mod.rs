//! `anabranch play`.

mod manifests;
mod signals;
mod voice;
mod volumes;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use clap::Args;
use csi_driver::agent::objects::{DIRECTORY, Objects};
use csi_driver::agent::{Agent, Pass, retention};
use csi_driver::mounts::{Mounts, MountsError, MountsHost, Options as MountOptions};
use csi_driver::owner::{Client, Context, Failure, Host, Outcome, Server};
use parking_lot::Mutex;
use storage_engine::{Engine, ErrorKind, GcSchedule, Options};

use crate::session::Session;
use manifests::Manifests;
use voice::Voice;
use volumes::{Volumes, tidy_all};
use watch::Watch;

/// How long programs may go on using a mount after the end was asked for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long running commands may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// How long imports may take to stop: they look after every few files, and wait for their source.
const IMPORT_PATIENCE: Duration = Duration::from_millis(700);
/// Between two looks at how far imports are, for the status of their buckets.
const IMPORT_LOOK: Duration = Duration::from_secs(1);
/// Between two tries to mount what could not be mounted.
const MOUNT_AGAIN: Duration = Duration::from_secs(2);

/// Makes real what manifests ask for, mounts every fork, and follows the manifests until it is stopped.
#[derive(Args)]
pub struct Play {
    /// Manifests: files, or folders of .yaml, .yml and .json files. May be given several times.
    #[arg(short = 'f', long = "filename", required = true, num_args = 1.., value_name = "FILE_OR_FOLDER")]
    files: Vec<PathBuf>,
    /// Where forks are mounted: `DIR/<namespace>/<name>`.
    #[arg(
        long,
        env = "ANABRANCH_MOUNT",
        default_value = "anabranch-mounts",
        value_name = "DIR"
    )]
    mount: PathBuf,
    /// Mount nothing.
    #[arg(long)]
    no_mount: bool,
    /// Make one pass, wait for imports, and end, without mounts.
    #[arg(long)]
    once: bool,
}

/// What wakes the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something happened near the manifests.
    Files,
    /// A command or an import changed something.
    Changed,
    /// The end was asked for.
    Stop,
}

struct Running {
    engine: Engine,
    agent: Agent,
    manifests: Manifests,
    watch: Watch,
    objects: Objects,
    volumes: Option<Volumes>,
    voice: Voice,
    once: bool,
}

impl Play {
    pub fn run(&self, session: &Session) -> Outcome {
        for file in &self.files {
            if !file.exists() {
                return Err(Failure::not_found(format!(
                    "the manifest {} does not exist",
                    file.display()
                )));
            }
        }
        let mount = (!self.no_mount && !self.once).then_some(("--mount", self.mount.as_path()));
        for (option, folder) in [Some(("--data", session.data())), mount]
            .into_iter()
            .flatten()
        {
            if std::fs::metadata(folder).is_ok_and(|found| !found.is_dir()) {
                return Err(Failure::usage(format!(
                    "{} is a file, and {option} takes a folder",
                    folder.display()
                )));
            }
        }
        let (wake, woken) = channel();
        signals::follow(wake.clone())?;
        let engine = open(session)?;
        let mut voice = Voice::new();
        let mounts = self.mounts(session, &engine, &mut voice)?;
        let (changed, stopped) = (Mutex::new(wake.clone()), Mutex::new(wake.clone()));
        let host: Arc<dyn Host> = Arc::new(MountsHost::new(
            mounts.clone(),
            move || {
                let _ = changed.lock().send(Wake::Changed);
            },
            move || {
                let stopping = stopped.lock().send(Wake::Stop);
                stopping.map_err(|_| Failure::owner("it is ending already"))
            },
        ));
        let context = Context {
            engine: engine.clone(),
            data: session.data().to_owned(),
            host: Arc::clone(&host),
        };
        let server = Server::start(session.data(), context)?;
        let outcome = self.play(session, &engine, host, mounts.clone(), voice, wake, &woken);
        server.stop(GRACE);
        let ended = self.end(mounts, engine);
        outcome.and(ended)
    }

    /// Takes over what a killed predecessor left, before anything else.
    fn mounts(
        &self,
        session: &Session,
        engine: &Engine,
        voice: &mut Voice,
    ) -> Outcome<Option<Mounts>> {
        let directory = session.data().join(DIRECTORY).join("keeper");
        let serve = !self.no_mount && !self.once;
        // Without mounts of our own, a keeper is only of interest when a predecessor left one.
        if !serve && !directory.exists() {
            return Ok(None);
        }
        std::fs::create_dir_all(&directory)
            .map_err(|e| Failure::new("Io", format!("cannot make {}: {e}", directory.display())))?;
        let directory = std::fs::canonicalize(&directory).unwrap_or(directory);
        let mounts = Mounts::start(MountOptions::new(directory), engine.clone())
            .map_err(|e| Failure::from(e).then("With --no-mount it plays without mounts."))?;
        let taken = mounts.take_over()?;
        let served = taken.iter().filter(|one| one.outcome.is_ok()).count();
        if served > 0 {
            voice.line(&format!(
                "took over {}",
                crate::screen::count(served as u64, "mount", "mounts")
            ));
        }
        for one in &taken {
            if let Err(error) = &one.outcome {
                eprintln!(
                    "anabranch: the mount {} of the last process is given up: {error}",
                    one.id
                );
            }
        }
        if serve {
            return Ok(Some(mounts));
        }
        mounts.shut_down(PATIENCE)?;
        Ok(None)
    }

    #[allow(clippy::too_many_arguments)]
    fn play(
        &self,
        session: &Session,
        engine: &Engine,
        host: Arc<dyn Host>,
        mounts: Option<Mounts>,
        mut voice: Voice,
        wake: Sender<Wake>,
        woken: &Receiver<Wake>,
    ) -> Outcome {
        let manifests = Manifests::new(&self.files);
        let watch = Watch::new(manifests.named(), wake.clone());
        let top = real(&self.mount);
        let waker = Mutex::new(wake);
        let agent = Agent::new(
            engine.clone(),
            host,
            Arc::new(move || {
                let _ = waker.lock().send(Wake::Changed);
            }),
        );
        voice.line(&format!(
            "playing {} with the store in {} (process {})",
            self.files
                .iter()
                .map(|file| file.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
            session.data().display(),
            std::process::id()
        ));
        retention::keep(engine.clone())?;
        let mut running = Running {
            engine: engine.clone(),
            agent,
            manifests,
            watch,
            objects: Objects::load(session.data())?,
            volumes: mounts.map(|mounts| Volumes::new(mounts, &top)),
            voice,
            once: self.once,
        };
        let outcome = running.follow(woken);
        let stopped = running.agent.stop_imports(IMPORT_PATIENCE);
        running.voice.progress(&[]);
        if !stopped {
            eprintln!(
                "anabranch: an import is still waiting for its source; the next `anabranch play` does it again"
            );
        }
        if outcome.is_ok() && !self.once {
            running
                .voice
                .line("ending: unmounting and closing the store (Ctrl-C again ends at once)");
        }
        outcome
    }

    fn end(&self, mounts: Option<Mounts>, engine: Engine) -> Outcome {
        let unmounted = match mounts {
            Some(mounts) => {
                name_busy(&mounts);
                mounts.shut_down(PATIENCE).map_err(Failure::from)
            }
            None => Ok(()),
        };
        if !self.no_mount && !self.once {
            tidy_all(&real(&self.mount));
        }
        let closed = engine.close().map_err(Failure::from);
        unmounted.and(closed)
    }
}

impl Running {
    /// Makes passes until the end is asked for, or with `--once` until nothing more comes by itself.
    fn follow(&mut self, woken: &Receiver<Wake>) -> Outcome {
        let mut first = true;
        loop {
            if self.watch.changed() || first {
                self.manifests.read();
            }
            // Objects that vanished while nobody played have been gone for longer than a moment.
            let taken = self.manifests.take_in(&mut self.objects, first)?;
            first = false;
            let mut complaints = self.manifests.complaints.clone();
            for (key, errors) in &taken.refused {
                let name = csi_driver::agent::objects::short_name(key);
                complaints.extend(
                    errors
                        .iter()
                        .map(|error| format!("{name}: {error}; it stays as it is")),
                );
            }
            self.voice.complaints(&complaints);
            let pass = self.agent.pass(&mut self.objects)?;
            self.voice.states(&pass, &self.objects);
            let mut again = taken.again;
            if let Some(volumes) = &mut self.volumes {
                let round = volumes.round(&self.engine);
                for news in &round.news {
                    self.voice.line(news);
                }
                if round.trouble {
                    let soon = Instant::now() + MOUNT_AGAIN;
                    again = Some(again.map_or(soon, |other| other.min(soon)));
                }
            }
            let importing = !self.agent.progress().is_empty();
            if self.once && !importing {
                return self.verdict(&pass, &complaints);
            }
            self.sum_up(&pass);
            if self.wait(woken, again, pass.next) {
                if self.once {
                    return Err(
                        Failure::new("Interrupted", "stopped before everything was done")
                            .then("The next `anabranch play` goes on."),
                    );
                }
                return Ok(());
            }
        }
    }

    /// Waits until something is to be done. True when that is the end.
    fn wait(
        &mut self,
        woken: &Receiver<Wake>,
        again: Option<Instant>,
        next: Option<crds::Epoch>,
    ) -> bool {
        let due = next.map(|at| {
            Instant::now() + Duration::from_nanos(at.0.saturating_sub(self.engine.now()))
        });
        let due = [again, due].into_iter().flatten().min();
        let mut look = Instant::now() + watch::LOOK;
        let status = Instant::now() + IMPORT_LOOK;
        loop {
            let progress = self.agent.progress();
            self.voice.progress(&progress);
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) || (!progress.is_empty() && status <= now) {
                return false;
            }
            if look <= now {
                look = now + watch::LOOK;
                if self.watch.pending() {
                    return false;
                }
            }
            let step = if progress.is_empty() {
                watch::LOOK
            } else {
                Duration::from_millis(100)
            };
            let until = due.map_or(look, |due| due.min(look)).min(now + step);
            match woken.recv_timeout(until.saturating_duration_since(now)) {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return true,
                Ok(Wake::Files) => {
                    if self.watch.pending() {
                        return false;
                    }
                }
                Ok(Wake::Changed) => return false,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn sum_up(&mut self, pass: &Pass) {
        let all = pass.states.len();
        let ready = pass
            .states
            .values()
            .filter(|state| state.is_ready())
            .count();
        let expired = pass
            .states
            .values()
            .filter(|state| matches!(state, crds::conditions::State::Expired(..)))
            .count();
        let rest = all - ready - expired;
        let mut text = format!("{ready} of {all} objects ready");
        if expired > 0 {
            text.push_str(&format!(", {expired} expired"));
        }
        if rest > 0 {
            text.push_str(&format!(", {rest} waiting"));
        }
        text.push_str("; following the manifests (Ctrl-C ends)");
        self.voice.summary(text);
    }

    fn verdict(&mut self, pass: &Pass, complaints: &[String]) -> Outcome {
        use crds::conditions::State;
        let waiting = pass
            .states
            .values()
            .filter(|state| !matches!(state, State::Ready(..) | State::Expired(..)))
            .count();
        if waiting == 0 && complaints.is_empty() {
            self.voice.line(&format!(
                "{} of {} objects ready",
                pass.states.len(),
                pass.states.len()
            ));
            return Ok(());
        }
        let mut what = Vec::new();
        if waiting > 0 {
            what.push(format!(
                "{waiting} of {} objects are not ready",
                pass.states.len()
            ));
        }
        if !complaints.is_empty() {
            what.push(format!(
                "{} in the manifests",
                crate::screen::count(complaints.len() as u64, "error", "errors")
            ));
        }
        Err(Failure::new("Manifests", what.join(", and "))
            .then("The lines above say why; everything else was done."))
    }
}

/// Opens the store, and makes one where there is none.
fn open(session: &Session) -> Outcome<Engine> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let options = Options {
            gc: Some(GcSchedule::default()),
            ..Options::default()
        };
        match Engine::open(session.data(), options) {
            Ok(engine) => return Ok(engine),
            Err(error) if error.kind() == ErrorKind::Locked => {
                // An owner that answers is another play; one that does not is a command that ends soon.
                if let Some(client) = Client::connect(session.data())? {
                    let data = session.data().display();
                    return Err(Failure::new("Locked", format!("process {} plays the store in {data} already", client.owner()))
                        .then(format!("Look at it with `anabranch get all --data {data}`, or end it with `anabranch stop --data {data}`.")));
                }
                if Instant::now() >= deadline {
                    return Err(error.into());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Unmounts what nobody uses, and says what is in use before it is waited for.
fn name_busy(mounts: &Mounts) {
    for mount in mounts.list() {
        if let Err(MountsError::Busy { mount_point, .. }) = mounts.unmount(&mount.id, false) {
            let place = mount_point.display();
            eprintln!(
                "anabranch: {place} is in use: the programs in it (`fuser -vm '{place}'` names them) have {} s to leave it, and get errors then",
                PATIENCE.as_secs()
            );
        }
    }
}

/// The path as the kernel lists mounts in it: absolute, with its links followed as far as it exists.
fn real(path: &std::path::Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut missing = Vec::new();
    for folder in path.ancestors() {
        if let Ok(real) = std::fs::canonicalize(folder) {
            return missing
                .iter()
                .rev()
                .fold(real, |path, name| path.join(name));
        }
        missing.extend(folder.file_name());
    }
    path
}
