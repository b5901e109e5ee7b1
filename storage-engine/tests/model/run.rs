//! Runs generated steps and makes a run that fails short.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::compare::assert_store_sound;
use crate::fs::Change;
use crate::generate::{Generator, Profile};
use crate::op::{FileOp, Op, Reopen, SPAN, Step};
use crate::subject::Subject;
use crate::world::World;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Panics of this thread are kept from the output while `work` runs: they are results.
fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    done.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        format!("panic: {}", text.unwrap_or_default())
    })
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
    let memory = std::path::Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory)
        .is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) > 2 << 30);
    let made = if room {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a temporary directory")
}

/// Steps between two comparisons of everything.
const COMPARE_EVERY: usize = 40;

struct Run {
    _dir: tempfile::TempDir,
    subject: Subject,
    world: World,
}

impl Run {
    fn new() -> Result<Run, String> {
        let dir = directory();
        let subject =
            Subject::open(&dir.path().join("store")).map_err(|e| format!("cannot open: {e}"))?;
        Ok(Run {
            _dir: dir,
            subject,
            world: World::new(),
        })
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        self.subject.step(&mut self.world, step)
    }

    fn compare(&mut self, epochs: impl Fn(usize) -> bool) -> Result<(), String> {
        self.subject.compare(&self.world, epochs)
    }

    /// Everything, before and after opening again, and once more from the log alone.
    fn finish(&mut self) -> Result<(), String> {
        self.compare(|_| true)?;
        let collect = |subject: &Subject| {
            subject
                .engine()
                .gc(storage_engine::GcOptions::default())
                .map_err(|e| format!("collecting: {:?}: {e}", e.kind()))
        };
        collect(&self.subject)?;
        self.compare(|_| true)
            .map_err(|fault| format!("after collecting: {fault}"))?;
        assert_store_sound(self.subject.engine());
        for how in [Reopen::Dropped, Reopen::Clean, Reopen::WithoutIndex] {
            self.subject
                .reopen(how)
                .map_err(|e| format!("reopening ({how:?}): {:?}: {e}", e.kind()))?;
            self.compare(|_| true)
                .map_err(|fault| format!("after reopening ({how:?}): {fault}"))?;
            collect(&self.subject)?;
            self.compare(|i| i % 2 == 0)
                .map_err(|fault| format!("after collecting again ({how:?}): {fault}"))?;
        }
        assert_store_sound(self.subject.engine());
        Ok(())
    }
}

/// Runs these steps; gives the first fault and the number of steps up to it.
fn replay(steps: &[Step], compare_each: bool) -> Result<(), (usize, String)> {
    let mut done = 0;
    let result = quietly(|| {
        let mut run = Run::new()?;
        for step in steps {
            done += 1;
            run.step(step)?;
            if compare_each || matches!(step.op, Op::Reopen { .. }) {
                run.compare(|i| compare_each || i % 4 == 0)?;
            }
        }
        run.finish()
    });
    result.and_then(|r| r).map_err(|fault| (done, fault))
}

/// Generates and runs `count` steps; on a fault gives them and what is wrong.
fn generate(profile: Profile, seed: u64, count: usize) -> Result<(), (Vec<Step>, String)> {
    let mut steps = Vec::new();
    let result = quietly(|| {
        let mut run = Run::new()?;
        let mut generator = Generator::new(seed, profile, SPAN);
        for n in 1..=count {
            let step = generator.step(&run.world);
            steps.push(step.clone());
            run.step(&step)?;
            if n % COMPARE_EVERY == 0 || matches!(step.op, Op::Reopen { .. }) {
                let some = generator.rng.below(5) as usize;
                run.compare(|i| i % 5 == some)?;
            }
        }
        run.finish()
    });
    result.and_then(|r| r).map_err(|fault| (steps, fault))
}

/// Generates runs of one kind until the budget is used up; panics with a short run that fails.
pub fn explore(test: &str, profile: Profile, cases: u64) {
    let first = seed();
    let steps = number("ANABRANCH_STEPS").unwrap_or(400) as usize;
    let cases = number("ANABRANCH_CASES").unwrap_or(cases);
    println!(
        "{test}: seeds {first} to {}, {steps} steps each",
        first + cases - 1
    );
    for seed in first..first + cases {
        if let Err((failed, fault)) = generate(profile, seed, steps) {
            let (short, short_fault) = shrink(failed.clone(), &fault);
            let list: Vec<String> = short.iter().map(|step| format!("  {step:?}")).collect();
            panic!(
                "{fault}\nat step {} of {steps}; repeat with\n  ANABRANCH_SEED={seed} ANABRANCH_STEPS={steps} ANABRANCH_CASES=1 \
                 cargo test -p storage-engine --test model {test}\nshort run:\n{}\n{short_fault}",
                failed.len(),
                list.join("\n")
            );
        }
    }
}

/// Leaves out what a failure does not need.
fn shrink(steps: Vec<Step>, fault: &str) -> (Vec<Step>, String) {
    let until =
        Instant::now() + Duration::from_secs(number("ANABRANCH_SHRINK_SECONDS").unwrap_or(60));
    let mut best = steps;
    let mut message = fault.to_owned();
    // Another fault than the one looked for is no success.
    let wanted = shape(fault);
    let attempt = |steps: &[Step]| {
        replay(steps, steps.len() <= 60)
            .err()
            .filter(|(_, fault)| shape(fault) == wanted)
    };
    match attempt(&best) {
        Some((done, fault)) => {
            best.truncate(done);
            message = fault;
        }
        None => {
            return (
                best,
                format!("{message}\n(did not fail again when repeated)"),
            );
        }
    }
    let mut size = best.len().div_ceil(2);
    while size > 0 && Instant::now() < until {
        let mut at = 0;
        let mut shorter = false;
        while at < best.len() && Instant::now() < until {
            let mut less = best.clone();
            less.drain(at..(at + size).min(best.len()));
            match attempt(&less) {
                Some((done, fault)) if !less.is_empty() => {
                    less.truncate(done);
                    best = less;
                    message = fault;
                    shorter = true;
                }
                _ => at += size,
            }
        }
        if size == 1 && !shorter {
            break;
        }
        size = if size == 1 { 1 } else { size.div_ceil(2) };
    }
    for at in 0..best.len() {
        for simpler in simpler(&best[at]) {
            if Instant::now() > until || at >= best.len() {
                break;
            }
            let mut less = best.clone();
            less[at] = simpler;
            if let Some((done, fault)) = attempt(&less) {
                less.truncate(done);
                best = less;
                message = fault;
            }
        }
    }
    (best, message)
}

/// A fault without its numbers, as far as faults of one kind are alike.
fn shape(fault: &str) -> String {
    let letters: String = fault
        .chars()
        .filter(|c| c.is_alphabetic() || *c == ' ')
        .collect();
    letters
        .replace("after reopening Dropped", "")
        .split_whitespace()
        .take(5)
        .collect()
}

/// Steps that say less, most different first.
fn simpler(step: &Step) -> Vec<Step> {
    let mut out = Vec::new();
    if step.clock != 0 {
        out.push(Step {
            clock: 0,
            ..step.clone()
        });
    }
    let Op::File { place, op, .. } = &step.op else {
        return out;
    };
    let mut with = |op: FileOp| {
        out.push(Step {
            op: Op::File {
                place: *place,
                uid: 0,
                gid: 0,
                op,
            },
            ..step.clone()
        })
    };
    match op.clone() {
        FileOp::Write {
            ino, offset, len, ..
        } => {
            for (offset, len) in [
                (0, 1),
                (0, len),
                (offset, 1),
                (offset, len),
                (offset / 4096 * 4096, len),
                (offset, len.div_ceil(2)),
            ] {
                with(FileOp::Write {
                    ino,
                    offset,
                    len,
                    kill_priv: false,
                    keep_times: false,
                });
            }
        }
        FileOp::SetAttr { ino, change } if change.size.is_some() => {
            with(FileOp::SetAttr {
                ino,
                change: Change {
                    size: change.size,
                    ..Change::default()
                },
            });
        }
        FileOp::Create {
            parent,
            name,
            kind,
            rdev,
            target,
            ..
        } => {
            with(FileOp::Create {
                parent,
                name: name.clone(),
                kind,
                mode: 0o644,
                rdev,
                target: target.clone(),
            });
            with(FileOp::Create {
                parent: crate::fs::ROOT,
                name,
                kind,
                mode: 0o644,
                rdev,
                target,
            });
        }
        op => with(op),
    }
    out
}
