//! Runs a case: lives of a store, each ended by force and looked over after an opening.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use storage_engine::{Durability, Engine, ErrorKind, Options};

use crate::rng::Rng;
use crate::sim::{Fault, Plan, Sim};
use crate::world::World;

/// How a life ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    PowerLoss,
    /// Power is lost (also at a random call), or the process is killed, or it ends in order.
    Random,
}

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub seed: u64,
    pub plan: Plan,
    pub end: End,
    pub lives: u64,
    pub steps: u64,
    pub flush: u64,
    /// Close and open the store in the middle of a life.
    pub reopen: bool,
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
    )
}

/// The seed of this process: given, or from the time.
pub fn seed() -> u64 {
    number("ANABRANCH_SEED").unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos() as u64 % 1_000_000_000_000)
    })
}

/// A directory for stores: in memory if there is room, as these tests are not about the disk.
pub fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a temporary directory")
}

/// Runs so many cases, on all processors; panics with the first that fails.
pub fn cases(count: u64, case: impl Fn(u64) -> Case + Sync) {
    let next = AtomicU64::new(0);
    let failed: Mutex<Option<String>> = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while failed.lock().unwrap().is_none() {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= count {
                        return;
                    }
                    let case = case(n);
                    let caught = std::panic::catch_unwind(|| case.run()).unwrap_or_else(|panic| {
                        let text = panic
                            .downcast_ref::<String>()
                            .cloned()
                            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                        Err(text.unwrap_or_else(|| "a panic".into()))
                    });
                    if let Err(why) = caught {
                        let why = format!("{why}\nin ANABRANCH_SEED={} {case:?}", case.seed);
                        failed.lock().unwrap().get_or_insert(why);
                    }
                }
            });
        }
    });
    if let Some(why) = failed.into_inner().unwrap() {
        panic!("{why}");
    }
}

impl Case {
    /// Gives the number of calls of the first life.
    pub fn run(&self) -> Result<u64, String> {
        let dir = directory();
        let mut rng = Rng::new(self.seed);
        let mut world = World::new(self.flush);
        let mut sim = Sim::new(&dir.path().join("0"), self.seed);
        let mut calls = 0;
        for life in 0..self.lives {
            let mut plan = self.plan;
            let end = match self.end {
                End::PowerLoss => 0,
                End::Random => rng.below(4),
            };
            if self.end == End::Random && end == 0 {
                plan.cut_at = Some(rng.below(1500));
            }
            sim.plan(plan);
            self.live(&mut world, &sim, &mut rng, end == 3)
                .map_err(|e| story(&world, &sim, life, &e))?;
            calls = calls.max(sim.calls());
            sim.turn_off();
            let root = dir.path().join((life + 1).to_string());
            let next = match end {
                0 | 1 => sim.after_power_loss(&root, self.seed + life),
                _ => sim.after_kill(&root, self.seed + life),
            };
            copy_index(&data(sim.root()), &data(next.root()));
            // Only now: RocksDB writes out what it has when it is closed.
            world.engine = None;
            let mut check = || -> Result<(), String> {
                world
                    .open(&data(next.root()), Arc::new(next.clone()))
                    .map_err(|e| {
                        format!("after a crash it cannot be opened: {:?}: {e}", e.kind())
                    })?;
                world.verify()?;
                world.forget_past();
                // Now and then what a recovery says is durable meets the next loss of power at once.
                if rng.chance(50) {
                    world.close().map_err(|e| format!("closing: {e}"))?;
                } else {
                    world.engine = None;
                }
                Ok(())
            };
            check().map_err(|e| story(&world, &sim, life, &e))?;
            sim = next;
        }
        Ok(calls)
    }

    /// Work until the store gives up. An error that nobody made is wrong.
    fn live(&self, world: &mut World, sim: &Sim, rng: &mut Rng, close: bool) -> Result<(), String> {
        let made = |e: &storage_engine::Error, what: &str| -> Result<(), String> {
            if sim.injected().is_empty() && !sim.is_off() {
                return Err(format!(
                    "{what} fails without a reason: {:?}: {e}",
                    e.kind()
                ));
            }
            Ok(())
        };
        let open = |world: &mut World| world.open(&data(sim.root()), Arc::new(sim.clone()));
        if let Err(e) = open(world) {
            return made(&e, "opening");
        }
        for step in 0..self.steps {
            if self.reopen && step == self.steps / 2 {
                if let Err(e) = world.close() {
                    return made(&e, "closing");
                }
                if let Err(e) = open(world) {
                    return made(&e, "opening again");
                }
            }
            match world.random_step(rng) {
                Ok(()) => {}
                Err(e) => {
                    made(&e, "a step")?;
                    if e.kind() == ErrorKind::Poisoned || sim.is_off() || world.given_up() {
                        return Ok(());
                    }
                }
            }
        }
        if close && let Err(e) = world.close() {
            return made(&e, "closing");
        }
        Ok(())
    }
}

fn story(world: &World, sim: &Sim, life: u64, why: &str) -> String {
    let from = world.trace.len().saturating_sub(30);
    format!(
        "{why}\nin life {life}, with the faults {:?}, after {:?}",
        sim.injected(),
        &world.trace[from..]
    )
}

/// The data directory.
pub fn data(root: &Path) -> PathBuf {
    root.join("data")
}

/// Copies RocksDB's files, which it may be writing: until nothing has changed meanwhile.
fn copy_index(from: &Path, to: &Path) {
    let (from, to) = (from.join("index"), to.join("index"));
    if !from.is_dir() || !to.is_dir() {
        return;
    }
    let list = || -> Vec<(String, u64)> {
        let mut names: Vec<_> = std::fs::read_dir(&from)
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| {
                let len = e.metadata().map_or(0, |m| m.len());
                (e.file_name().into_string().unwrap(), len)
            })
            .filter(|(n, _)| n != "LOCK" && !n.starts_with("LOG"))
            .collect();
        names.sort();
        names
    };
    for _ in 0..1000 {
        let before = list();
        let copied = before
            .iter()
            .all(|(n, _)| std::fs::copy(from.join(n), to.join(n)).is_ok());
        if copied && list() == before {
            return;
        }
        for entry in std::fs::read_dir(&to).unwrap() {
            let _ = std::fs::remove_file(entry.unwrap().path());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the index cannot be copied");
}

fn open_on(sim: &Sim) -> Engine {
    let options = Options {
        fs: Arc::new(sim.clone()),
        ..Options::default()
    };
    Engine::open(data(sim.root()), options).unwrap()
}

pub fn failed_sync(seed: u64, fault: Fault) {
    let dir = directory();
    let sim = Sim::new(&dir.path().join("0"), seed);
    let engine = open_on(&sim);
    let root = |engine: &Engine, name: &str, durability| {
        engine.create_root(storage_engine::CreateRoot {
            name: name.into(),
            durability,
            ..Default::default()
        })
    };
    root(&engine, "first", Durability::Local).unwrap();
    root(&engine, "second", Durability::Memory).unwrap();
    sim.plan(Plan {
        fail_at: Some((0, fault)),
        ..Plan::default()
    });
    for _ in 0..3 {
        let error = engine.sync().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
    }
    let error = root(&engine, "third", Durability::Memory).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
    assert_eq!(
        sim.injected(),
        [(0, fault)],
        "the sync that failed was another"
    );
    drop(engine);
    let engine = open_on(&sim);
    assert!(engine.timeline_named("first").is_ok());
    assert!(engine.timeline_named("third").is_err());
    root(&engine, "fourth", Durability::Local).unwrap();
    assert!(engine.check(|_| {}).unwrap().findings.is_empty());
}

/// Lets calls of the first commit fail, which makes a segment: each of them, and so many behind it. Where the commit fails
/// and the store goes on, the next one succeeds. Returns how often that was.
pub fn failed_segment(seed: u64, fault: Fault, and_more: u64) -> u64 {
    let mut failed = 0;
    for at in 0.. {
        let dir = directory();
        let sim = Sim::new(&dir.path().join("0"), seed);
        let engine = open_on(&sim);
        let root = |name: &str| {
            engine.create_root(storage_engine::CreateRoot {
                name: name.into(),
                durability: Durability::Memory,
                ..Default::default()
            })
        };
        sim.plan(Plan {
            fail_at: Some((at, fault)),
            and_more,
            ..Plan::default()
        });
        let first = root("first");
        let calls = sim.calls();
        sim.plan(Plan::default());
        let what = format!("{fault:?} at call {at} and {and_more} more");
        match root("second") {
            Ok(_) => failed += u64::from(first.is_err()),
            // A frame was not written, or not synced: what is on disk is unknown then.
            Err(e) if e.kind() == ErrorKind::Poisoned && first.is_err() => continue,
            Err(e) => panic!("{what}: {:?}: {e}", e.kind()),
        }
        engine.sync().unwrap();
        let report = engine.check(|_| {}).unwrap();
        assert!(report.findings.is_empty(), "{what}: {report}");
        drop(engine);
        let engine = open_on(&sim);
        assert!(engine.timeline_named("second").is_ok(), "{what}");
        if at >= calls {
            break;
        }
    }
    failed
}
