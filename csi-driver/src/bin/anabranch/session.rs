//! Where a command runs: in the owner of the store, or here on a store that nobody owns.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use csi_driver::owner::instant::{now, parse_duration, parse_instant};
use csi_driver::owner::name::Name;
use csi_driver::owner::{Client, Command, Context, Event, Failure, Outcome, Output, run};
use storage_engine::{Engine, Epoch, ErrorKind, Options};

use crate::progress::ProgressLine;
use crate::screen::JsonPrinter;

/// How long a command waits for a store that another command owns, or whose owner is just starting or
/// ending.
const PATIENCE: Duration = Duration::from_secs(10);

/// The store and the namespace that the command line named.
pub struct Session {
    data: PathBuf,
    namespace: String,
    now: Epoch,
}

/// `-o`, for the commands that print an answer.
#[derive(Args, Clone, Copy, Debug)]
pub struct Format {
    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = FormatKind::Text)]
    pub output: FormatKind,
}

/// The forms of an answer.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatKind {
    /// For people.
    Text,
    /// For programs: one JSON object.
    Json,
}

impl Format {
    /// Whether the answer is for programs.
    pub fn json(self) -> bool {
        self.output == FormatKind::Json
    }
}

impl Session {
    pub fn new(data: PathBuf, namespace: String) -> Self {
        Self {
            data,
            namespace,
            now: now(),
        }
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn now(&self) -> Epoch {
        self.now
    }

    /// Reads a name in the session's namespace.
    pub fn name(&self, text: &std::ffi::OsStr) -> Outcome<Name> {
        use std::os::unix::ffi::OsStrExt;
        Name::parse(text.as_bytes(), &self.namespace, self.now)
    }

    /// When something that was asked for with `--ttl` or `--expire-time` goes away.
    pub fn expiry(&self, lifetime: &Lifetime) -> Outcome<Option<Epoch>> {
        if let Some(ttl) = &lifetime.ttl {
            let nanos = u64::try_from(parse_duration(ttl)?.as_nanos()).unwrap_or(u64::MAX);
            return Ok(Some(Epoch(self.now.0.saturating_add(nanos))));
        }
        match &lifetime.expire_time {
            Some(text) => {
                let at = parse_instant(text, self.now)?;
                if at <= self.now {
                    return Err(Failure::usage(format!("{text} has passed already")));
                }
                Ok(Some(at))
            }
            None => Ok(None),
        }
    }

    /// Runs a command and prints its answer: as JSON, or each event by `text`.
    pub fn show(
        &self,
        command: &Command,
        format: Format,
        text: &mut dyn FnMut(Event) -> Outcome,
    ) -> Outcome {
        self.show_with(command, &mut io::empty(), format, text)
    }

    /// The same for a command that bytes follow.
    pub fn show_with(
        &self,
        command: &Command,
        input: &mut dyn Read,
        format: Format,
        text: &mut dyn FnMut(Event) -> Outcome,
    ) -> Outcome {
        if format.json() {
            let mut printer = JsonPrinter::new(io::stdout().lock());
            let outcome = self.execute(command, input, &mut printer);
            printer.finish()?;
            return outcome;
        }
        let mut screen = Screen {
            text,
            progress: ProgressLine::new(),
        };
        let outcome = self.execute(command, input, &mut screen);
        screen.progress.clear();
        outcome
    }

    /// Runs a command where it has to run.
    pub fn execute(
        &self,
        command: &Command,
        input: &mut dyn Read,
        output: &mut dyn Output,
    ) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(client) = Client::connect(&self.data)? {
                return client.run(command, input, output);
            }
            let options = Options {
                create: false,
                ..Options::default()
            };
            let engine = match Engine::open(&self.data, options) {
                Ok(engine) => engine,
                Err(e) if e.kind() == ErrorKind::Locked && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::Locked => {
                    return Err(
                        Failure::new("Locked", format!("{e}; it does not answer yet"))
                            .then("Try again when it has started, or has ended."),
                    );
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    return Err(Failure::not_found(format!("there is no store in {}", self.data.display()))
                        .then("Name it with --data or ANABRANCH_DATA, or make one: `anabranch play -f MANIFEST --data DIR`."));
                }
                Err(e) => return Err(e.into()),
            };
            let outcome = run(
                command,
                &Context::alone(engine.clone(), self.data.clone()),
                input,
                output,
            );
            let closed = engine.close().map_err(Failure::from);
            return outcome.and(closed);
        }
    }
}

/// `--ttl` and `--expire-time`.
#[derive(Args, Clone, Debug)]
#[group(multiple = false)]
pub struct Lifetime {
    /// It goes away this long from now: 30m, 24h, 7d. Without a lifetime it stays until it is deleted.
    #[arg(long, value_name = "DURATION")]
    pub ttl: Option<String>,
    /// It goes away at this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub expire_time: Option<String>,
}

struct Screen<'a> {
    text: &'a mut dyn FnMut(Event) -> Outcome,
    progress: ProgressLine,
}

impl Output for Screen<'_> {
    fn event(&mut self, event: Event) -> Outcome {
        if let Event::Progress(progress) = &event {
            self.progress.show(progress);
            return Ok(());
        }
        self.progress.clear();
        (self.text)(event)
    }
}
