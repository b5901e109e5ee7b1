//! A process that writes is killed at a random moment. Whatever it acknowledged must be there after opening
//! the store again, synced or not (the page cache outlives a process), and besides it at most the one
//! operation that was being done; and a request is found to be applied exactly when it is.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use storage_engine::{Epoch, Ino, RequestId};

use crate::compare::assert_store_sound;
use crate::fs::Expected;
use crate::generate::{Generator, Profile};
use crate::op::{At, FileOp, Op, Place, SPAN, Step, StepId};
use crate::rng::Rng;
use crate::run::{directory, number, seed};
use crate::subject::Subject;
use crate::world::{Answer, World};

/// Names the plan of a child; the test that is the child does nothing without it.
const PLAN: &str = "ANABRANCH_KILL_PLAN";
/// Kills of one store.
const LIVES: u64 = 6;

/// Steps that one process did.
#[derive(Clone, Debug)]
struct Life {
    seed: u64,
    first: StepId,
    count: usize,
    /// Ends of epochs whose number nobody saw.
    forgotten: Vec<StepId>,
}

/// Everything that a process has to know to go on with a store.
#[derive(Clone, Debug, Default)]
struct Plan {
    lives: Vec<Life>,
    inos: Vec<(u32, u64)>,
    epochs: Vec<(StepId, u64)>,
}

impl Plan {
    fn text(&self) -> String {
        let mut text = String::new();
        for life in &self.lives {
            let _ = write!(text, "life {} {} {}", life.seed, life.first, life.count);
            for step in &life.forgotten {
                let _ = write!(text, " {step}");
            }
            text.push('\n');
        }
        for (handle, ino) in &self.inos {
            let _ = writeln!(text, "ino {handle} {ino}");
        }
        for (step, epoch) in &self.epochs {
            let _ = writeln!(text, "epoch {step} {epoch}");
        }
        text
    }

    fn parse(text: &str) -> Plan {
        let mut plan = Plan::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let what = words.next().expect("a line says what it is");
            let numbers: Vec<u64> = words.map(|word| word.parse().expect("a number")).collect();
            match what {
                "life" => plan.lives.push(Life {
                    seed: numbers[0],
                    first: numbers[1] as StepId,
                    count: numbers[2] as usize,
                    forgotten: numbers[3..].iter().map(|&n| n as StepId).collect(),
                }),
                "ino" => plan.inos.push((numbers[0] as u32, numbers[1])),
                "epoch" => plan.epochs.push((numbers[0] as StepId, numbers[1])),
                other => panic!("what is {other}?"),
            }
        }
        plan
    }

    fn bind(&self, subject: &mut Subject) {
        subject.own_ids = false;
        subject
            .inos
            .extend(self.inos.iter().map(|&(handle, ino)| (handle, Ino(ino))));
        subject.epochs.extend(
            self.epochs
                .iter()
                .map(|&(step, epoch)| (step, Epoch(epoch))),
        );
    }

    fn learn(&mut self, subject: &Subject) {
        self.inos = subject
            .inos
            .iter()
            .map(|(&handle, ino)| (handle, ino.0))
            .collect();
        self.epochs = subject
            .epochs
            .iter()
            .map(|(&step, epoch)| (step, epoch.0))
            .collect();
    }

    /// The model after all lives but the last one.
    fn world(&self) -> World {
        let mut world = World::new();
        for life in &self.lives[..self.lives.len() - 1] {
            let mut generator = Generator::new(life.seed, Profile::Killed, life.first);
            for _ in 0..life.count {
                let step = generator.step(&world);
                let _ = world.apply(&step);
            }
            world
                .history
                .retain(|close| !life.forgotten.contains(&close.step));
        }
        world
    }
}

/// The child: goes on with the store until it is killed.
#[test]
fn kill_child() {
    let Ok(path) = std::env::var(PLAN) else {
        return;
    };
    let plan = Plan::parse(&std::fs::read_to_string(&path).expect("the plan can be read"));
    let mut world = plan.world();
    let life = plan.lives.last().expect("a life to live");
    let mut generator = Generator::new(life.seed, Profile::Killed, life.first);
    let mut subject =
        Subject::open(&Path::new(&path).with_extension("store")).expect("the store opens");
    plan.bind(&mut subject);
    subject.connection = Some(life.seed);
    let mut out = std::io::stdout();
    let mut say = |line: String| {
        out.write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .expect("somebody listens");
    };
    say("\n".into());
    for _ in 0..life.count {
        let step = generator.step(&world);
        if let Err(fault) = subject.step(&mut world, &step) {
            say(format!("fault at {step:?}: {}\n", fault.replace('\n', " ")));
            return;
        }
        let mut line = format!("done {}", step.id);
        for id in step.id..step.id + SPAN {
            if let Some(ino) = subject.inos.get(&id) {
                let _ = write!(line, " ino {id} {ino}");
            }
            if let Some(epoch) = subject.epochs.get(&id) {
                let _ = write!(line, " epoch {id} {epoch}");
            }
        }
        say(line + "\n");
    }
}

/// What a child acknowledged before it was killed.
struct Report {
    done: usize,
    inos: Vec<(u32, u64)>,
    epochs: Vec<(StepId, u64)>,
}

fn live_and_die(plan_path: &Path, rng: &mut Rng) -> Report {
    let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
        .args([
            "--exact",
            "kill::kill_child",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(PLAN, plan_path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let lines = BufReader::new(child.stdout.take().expect("the output is piped")).lines();
    // Usually after some steps; sometimes while the store is being opened.
    let after_steps = if rng.chance(80) {
        1 + rng.below(120) as usize
    } else {
        0
    };
    let then = Duration::from_micros(if after_steps == 0 {
        rng.below(60_000)
    } else {
        rng.below(3_000)
    });
    let mut report = Report {
        done: 0,
        inos: Vec::new(),
        epochs: Vec::new(),
    };
    let mut killed = false;
    let kill = |child: &mut std::process::Child| {
        std::thread::sleep(then);
        child.kill().expect("the child can be killed");
    };
    if after_steps == 0 {
        kill(&mut child);
        killed = true;
    }
    for line in lines {
        let line = line.expect("the output of the child can be read");
        let mut words = line.split(' ');
        match words.next() {
            Some("done") => {
                report.done += 1;
                let words: Vec<&str> = words.skip(1).collect();
                for fact in words.chunks_exact(3) {
                    let (id, number) = (
                        fact[1].parse().expect("an id"),
                        fact[2].parse().expect("a number"),
                    );
                    if fact[0] == "ino" {
                        report.inos.push((id, number))
                    } else {
                        report.epochs.push((id, number))
                    }
                }
            }
            Some("fault") => {
                let _ = child.wait();
                panic!("the child found a {line}");
            }
            _ => {}
        }
        if !killed && report.done >= after_steps {
            kill(&mut child);
            killed = true;
        }
    }
    let status = child.wait().expect("the child ends");
    assert!(
        killed && status.code().is_none(),
        "the child ended by itself: {status}"
    );
    report
}

/// A request that the engine has to remember if it was done.
fn remembered(step: &Step) -> Option<StepId> {
    match &step.op {
        Op::File {
            place: Place::Timeline(t),
            op:
                FileOp::Create { .. }
                | FileOp::CreateUnlinked { .. }
                | FileOp::Link { .. }
                | FileOp::Unlink { .. }
                | FileOp::Rmdir { .. }
                | FileOp::Rename { .. }
                | FileOp::SetXattr { .. }
                | FileOp::RemoveXattr { .. },
            ..
        } => Some(*t),
        _ => None,
    }
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let rounds = number("ANABRANCH_KILLS").unwrap_or(60);
    let first = seed();
    println!(
        "seeds from {first}, {rounds} kills; repeat one store with ANABRANCH_SEED=its seed ANABRANCH_KILLS={LIVES}"
    );
    for seed in first..first + rounds.div_ceil(LIVES) {
        let mut rng = Rng::new(seed);
        let dir = directory();
        let plan_path = dir.path().join("plan");
        let mut plan = Plan::default();
        let mut next = SPAN;
        for life in 0..LIVES {
            let seed = seed * 1000 + life;
            plan.lives.push(Life {
                seed,
                first: next,
                count: 100_000,
                forgotten: Vec::new(),
            });
            std::fs::write(&plan_path, plan.text()).expect("the plan can be written");
            let report = live_and_die(&plan_path, &mut rng);
            plan.inos.extend(&report.inos);
            plan.epochs.extend(&report.epochs);
            let count = inspect(&mut plan, &plan_path, report.done).unwrap_or_else(|fault| {
                panic!("seed {seed}: killed after {} steps: {fault}", report.done)
            });
            next += count as u32 * SPAN;
            println!(
                "seed {seed}: {} steps acknowledged, {count} there",
                report.done
            );
        }
    }
}

/// Opens the store of a killed process and compares; gives the number of steps that count from now on.
fn inspect(plan: &mut Plan, plan_path: &Path, done: usize) -> Result<usize, String> {
    let mut world = plan.world();
    let life = plan.lives.last().cloned().ok_or("no life")?;
    let mut generator = Generator::new(life.seed, Profile::Killed, life.first);
    let mut steps = Vec::new();
    let mut fine = Vec::new();
    for _ in 0..done {
        let step = generator.step(&world);
        fine.push(effective(&world.apply(&step)));
        steps.push(step);
    }
    let mut subject = Subject::open(&plan_path.with_extension("store"))
        .map_err(|e| format!("cannot open: {:?}: {e}", e.kind()))?;
    plan.bind(&mut subject);
    subject.connection = Some(life.seed);
    let flying = generator.step(&world);
    let mut after = world.clone();
    let flew = effective(&after.apply(&flying));
    let changes = flew && remembered(&flying).is_some();

    let request = |step: &Step| RequestId {
        connection: life.seed,
        unique: u64::from(step.id),
    };
    // What was in flight may have made an inode: its number is known only by its request.
    let mut answered = None;
    if let (true, Some(t)) = (changes, remembered(&flying)) {
        let volume = subject
            .volume(Place::Timeline(t))
            .map_err(|e| e.to_string())?;
        answered = volume
            .answered(request(&flying))
            .map_err(|e| e.to_string())?;
        if let (Some(answer), FileOp::Create { .. } | FileOp::CreateUnlinked { .. }) =
            (answered, file_op(&flying))
        {
            let ino = answer
                .ino
                .ok_or("a create is remembered without its inode")?;
            subject.inos.insert(flying.id, ino);
        }
    }
    learn_epoch(&mut subject, &flying);
    let mut forgotten = Vec::new();
    if !subject.epochs.contains_key(&flying.id) {
        after.history.retain(|close| close.step != flying.id);
        forgotten.push(flying.id);
    }

    let as_before = subject.compare(&world, |_| true);
    let as_after = if flew {
        subject.compare(&after, |_| true)
    } else {
        as_before.clone()
    };
    let count = match (&as_before, &as_after) {
        (Err(before), Err(after)) => {
            return Err(format!(
                "not as before {flying:?}: {before}\nnor as after it: {after}"
            ));
        }
        (Ok(()), Err(_)) => done,
        (_, Ok(())) => done + 1,
    };
    // An inode without a name is seen only by its request.
    let count = match file_op(&flying) {
        FileOp::CreateUnlinked { .. } if changes && answered.is_none() => done,
        _ => count,
    };
    if changes && (as_before.is_err() || as_after.is_err()) {
        match (answered.is_some(), count == done) {
            (true, true) => return Err(format!("{flying:?} is remembered, but was not done")),
            (false, false) => return Err(format!("{flying:?} was done, but is not remembered")),
            _ => {}
        }
    }
    // The last requests that were acknowledged are remembered, with their answers.
    for (step, _) in steps
        .iter()
        .zip(&fine)
        .rev()
        .filter(|(_, fine)| **fine)
        .take(12)
    {
        let Some(t) = remembered(step) else { continue };
        let restored = steps.iter().any(|later| {
            later.id > step.id && matches!(later.op, Op::Restore { timeline, .. } if timeline == t)
        }) || matches!(flying.op, Op::Restore { .. });
        if !world.timelines.contains_key(&t)
            || !after.timelines.contains_key(&t)
            || restored
            || world_skips(step)
        {
            continue;
        }
        let volume = subject
            .volume(Place::Timeline(t))
            .map_err(|e| e.to_string())?;
        let answer = volume.answered(request(step)).map_err(|e| e.to_string())?;
        let Some(answer) = answer else {
            return Err(format!("{step:?} was acknowledged and is not remembered"));
        };
        if let FileOp::Create { .. } | FileOp::CreateUnlinked { .. } = file_op(step)
            && answer.ino != subject.inos.get(&step.id).copied()
        {
            return Err(format!(
                "{step:?} is remembered to have made {:?}, it made {:?}",
                answer.ino,
                subject.inos.get(&step.id)
            ));
        }
    }
    // The request is made again, as after a takeover: it is done now if it was not, and only then.
    let mut count = count;
    if changes && answered.is_none() && count == done {
        let mut again = world.clone();
        subject
            .step(&mut again, &flying)
            .map_err(|fault| format!("{flying:?}, made again: {fault}"))?;
        subject
            .compare(&again, |_| true)
            .map_err(|fault| format!("after {flying:?}, made again: {fault}"))?;
        count += 1;
    }
    assert_store_sound(subject.engine());
    plan.learn(&subject);
    if let Some(life) = plan.lives.last_mut() {
        life.count = count;
        life.forgotten = if count > done { forgotten } else { Vec::new() };
    }
    // Closed or not, the next process goes on.
    let engine = subject.into_engine();
    if life.seed % 2 == 0 {
        engine.close().map_err(|e| format!("cannot close: {e}"))?;
    }
    Ok(count)
}

/// Whether a step was done, and could have been.
fn effective(answer: &Expected<Answer>) -> bool {
    answer
        .as_ref()
        .is_ok_and(|answer| !matches!(answer, Answer::Skip))
}

fn file_op(step: &Step) -> &FileOp {
    match &step.op {
        Op::File { op, .. } => op,
        _ => &FileOp::ReapAll,
    }
}

/// Steps that are answered without being done.
fn world_skips(step: &Step) -> bool {
    // A rename onto itself changes nothing, and so does a link that the model does not judge.
    matches!(file_op(step), FileOp::Rename { .. } | FileOp::Link { .. })
}

/// The number of the epoch that a snapshot or fork closed, which nobody was told.
fn learn_epoch(subject: &mut Subject, step: &Step) {
    let points: Vec<At> = match &step.op {
        Op::Fork { source, .. } | Op::Snapshot { source, .. } => vec![*source],
        Op::ForkGroup { forks: points } | Op::SnapshotGroup { snapshots: points } => {
            points.iter().map(|(_, at)| *at).collect()
        }
        _ => return,
    };
    let fork = matches!(step.op, Op::Fork { .. } | Op::ForkGroup { .. });
    for (at, id) in points.iter().zip(step.id..) {
        if !matches!(at, At::Now(_)) {
            continue;
        }
        let engine = subject.engine();
        let epoch = if fork {
            engine
                .timeline(subject.timeline_id(id))
                .ok()
                .and_then(|info| info.origin)
                .map(|origin| origin.cutoff)
        } else {
            engine
                .snapshot_info(subject.snapshot_id(id))
                .ok()
                .map(|info| info.epoch)
        };
        if let Some(epoch) = epoch {
            subject.epochs.insert(step.id, epoch);
        }
    }
}
