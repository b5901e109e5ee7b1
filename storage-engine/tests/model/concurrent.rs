//! Timelines written by several threads at once, while another takes snapshots and forks of all of them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use storage_engine::{
    Caller, CreateRoot, Durability, Engine, ForkRequest, Ino, NewNode, NodeKind, Point,
    SnapshotRequest, TimelineId, Volume, VolumeOptions, WriteOptions,
};

use crate::compare::{assert_store_sound, state_fault};
use crate::generate::{Generator, Profile};
use crate::op::{At, Op, SPAN, Step};
use crate::run::{directory, number, seed};
use crate::subject::{Subject, settings};
use crate::world::World;

const THREADS: usize = 4;

/// Steps of each thread that were begun, and that returned.
struct Progress {
    begun: [AtomicU64; THREADS],
    returned: [AtomicU64; THREADS],
    done: AtomicBool,
}

impl Progress {
    fn new() -> Progress {
        Progress {
            begun: Default::default(),
            returned: Default::default(),
            done: AtomicBool::new(false),
        }
    }

    fn read(counters: &[AtomicU64; THREADS]) -> [u64; THREADS] {
        std::array::from_fn(|i| counters[i].load(Ordering::SeqCst))
    }
}

/// A cutoff of all timelines, and what each of them may hold in it at least and at most.
struct Cut {
    points: Vec<Point>,
    least: [u64; THREADS],
    most: [u64; THREADS],
}

fn timeline(i: usize) -> TimelineId {
    let mut id = [0x71; 16];
    id[12..].copy_from_slice(&(1 + i as u32).to_be_bytes());
    TimelineId(id)
}

/// Takes a cutoff of all timelines, one way or another.
fn cut(engine: &Engine, progress: &Progress, n: u64) -> Cut {
    let least = Progress::read(&progress.returned);
    let points = if n.is_multiple_of(2) {
        let requests = (0..THREADS)
            .map(|i| SnapshotRequest {
                id: None,
                name: format!("snapshot/n/{n}-{i}"),
                source: Point::Now(timeline(i)),
                labels: Default::default(),
                durability: Durability::default(),
            })
            .collect();
        let made = engine.snapshot_group(requests).expect("a group snapshot");
        assert!(
            made.iter().all(|info| info.epoch == made[0].epoch),
            "one cutoff"
        );
        made.iter().map(|info| Point::Snapshot(info.id)).collect()
    } else {
        let requests = (0..THREADS)
            .map(|i| ForkRequest {
                id: None,
                name: format!("fork/n/{n}-{i}"),
                source: Point::Now(timeline(i)),
                settings: settings(),
                durability: Durability::default(),
            })
            .collect();
        let made = engine.fork_group(requests).expect("a group fork");
        let cutoff = made[0]
            .origin
            .as_ref()
            .expect("a fork has an origin")
            .cutoff;
        assert!(
            made.iter()
                .all(|info| info.origin.as_ref().is_some_and(|o| o.cutoff == cutoff)),
            "one cutoff"
        );
        if n % 4 == 1 {
            // The parent's past is the same.
            (0..THREADS)
                .map(|i| Point::At(timeline(i), cutoff))
                .collect()
        } else {
            made.iter().map(|info| Point::Now(info.id)).collect()
        }
    };
    Cut {
        points,
        least,
        most: Progress::read(&progress.begun),
    }
}

#[test]
fn every_cutoff_holds_a_prefix_of_what_each_thread_did() {
    let seed = seed();
    let steps = number("ANABRANCH_STEPS").unwrap_or(250);
    println!("ANABRANCH_SEED={seed} ANABRANCH_STEPS={steps}");
    let dir = directory();
    let store = dir.path().join("store");
    let root = Subject::open(&store).expect("the store opens");
    let progress = Arc::new(Progress::new());
    let writers: Vec<_> = (0..THREADS)
        .map(|i| {
            let mut subject = root.beside();
            let progress = progress.clone();
            let mut world = World::new();
            let create = Step {
                id: 1 + i as u32,
                clock: 0,
                op: Op::CreateRoot {
                    name: format!("bucket/n/{i}"),
                },
            };
            subject.step(&mut world, &create).expect("a root timeline");
            let start = world.clone();
            thread::spawn(move || {
                let mut generator = Generator::new(seed + i as u64, Profile::Alone, SPAN * 100);
                let mut done = Vec::new();
                for n in 1..=steps {
                    let step = generator.step(&world);
                    progress.begun[i].store(n, Ordering::SeqCst);
                    subject
                        .step(&mut world, &step)
                        .unwrap_or_else(|fault| panic!("thread {i}, {step:?}: {fault}"));
                    progress.returned[i].store(n, Ordering::SeqCst);
                    done.push(step);
                }
                (start, world, done, subject)
            })
        })
        .collect();
    let cutter = {
        let (engine, progress) = (root.engine().clone(), progress.clone());
        thread::spawn(move || {
            let mut cuts = Vec::new();
            for n in 0..40 {
                cuts.push(cut(&engine, &progress, n));
                match n % 5 {
                    1 => drop(engine.tick().expect("a tick")),
                    3 => engine.sync().expect("a sync"),
                    _ => {}
                }
                if progress.done.load(Ordering::SeqCst) {
                    break;
                }
                thread::sleep(std::time::Duration::from_millis(5));
            }
            cuts
        })
    };
    let mut ends: Vec<_> = writers
        .into_iter()
        .map(|writer| writer.join().expect("a writer"))
        .collect();
    progress.done.store(true, Ordering::SeqCst);
    let cuts = cutter.join().expect("the cutter");
    println!("{} cutoffs", cuts.len());
    let engine = root.engine().clone();
    drop(root);
    let check = |engine: &Engine, ends: &mut Vec<(World, World, Vec<Step>, Subject)>| {
        for (n, cut) in cuts.iter().enumerate() {
            for (i, point) in cut.points.iter().enumerate() {
                let (start, _, done, subject) = &mut ends[i];
                let volume = engine
                    .volume(*point, VolumeOptions::default())
                    .expect("a cutoff can be read");
                prefix(&volume, i, start, done, subject, cut.least[i], cut.most[i]).unwrap_or_else(
                    |fault| panic!("seed {seed}, cutoff {n} ({point:?}) of thread {i}: {fault}"),
                );
            }
        }
        for (i, (_, world, _, subject)) in ends.iter_mut().enumerate() {
            let volume = engine
                .volume(Point::Now(timeline(i)), VolumeOptions::default())
                .expect("a timeline");
            let state = world
                .state(At::Now(1 + i as u32))
                .expect("the timeline is in the model");
            assert_eq!(
                state_fault(&volume, &state, &mut subject.inos),
                None,
                "seed {seed}, thread {i} at the end"
            );
        }
        assert_store_sound(engine);
    };
    check(&engine, &mut ends);
    for (_, _, _, subject) in &mut ends {
        subject.leave();
    }
    engine.close().expect("the store closes");
    let again = Subject::open(&store).expect("the store opens again");
    check(again.engine(), &mut ends);
}

/// Whether a view holds the first `m` steps of a thread, for an `m` that is possible.
fn prefix(
    volume: &Volume,
    i: usize,
    start: &World,
    done: &[Step],
    subject: &mut Subject,
    least: u64,
    most: u64,
) -> Result<(), String> {
    let mut world = start.clone();
    let mut first = None;
    for m in 0..=most {
        if m > 0 {
            let _ = world.apply(&done[m as usize - 1]);
        }
        if m < least {
            continue;
        }
        let state = world
            .state(At::Now(1 + i as u32))
            .ok_or("the timeline is not in the model")?;
        match state_fault(volume, &state, &mut subject.inos) {
            None => return Ok(()),
            Some(fault) => drop(first.get_or_insert(fault)),
        }
    }
    Err(format!(
        "is no state after {least} to {most} steps; after {least}: {}",
        first.unwrap_or_default()
    ))
}

/// One file per timeline, in which its thread writes how often it has written and how far it saw its neighbour.
struct Note {
    volume: Volume,
    ino: Ino,
}

impl Note {
    fn write(&self, n: u64, neighbour: u64) {
        let mut bytes = n.to_le_bytes().to_vec();
        bytes.extend(neighbour.to_le_bytes());
        let written = self.volume.write(
            &Caller::default(),
            self.ino,
            0,
            &bytes,
            WriteOptions::default(),
        );
        assert_eq!(written.map_err(|e| e.to_string()), Ok(16));
    }
}

fn read_note(engine: &Engine, point: Point, ino: Ino) -> (u64, u64) {
    let volume = engine
        .volume(point, VolumeOptions::default())
        .expect("a cutoff can be read");
    let bytes = volume.read(ino, 0, 100).expect("the note can be read");
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if bytes.is_empty() {
        (0, 0)
    } else {
        (word(0), word(8))
    }
}

#[test]
fn a_group_cutoff_holds_no_effect_without_its_cause() {
    let rounds = number("ANABRANCH_STEPS").unwrap_or(150);
    let dir = directory();
    let root = Subject::open(&dir.path().join("store")).expect("the store opens");
    let engine = root.engine().clone();
    let progress = Arc::new(Progress::new());
    let notes: Vec<Note> = (0..THREADS)
        .map(|i| {
            let request = CreateRoot {
                id: Some(timeline(i)),
                name: format!("bucket/n/{i}"),
                settings: settings(),
                durability: Durability::default(),
            };
            engine.create_root(request).expect("a root timeline");
            let volume = engine
                .volume(Point::Now(timeline(i)), VolumeOptions::default())
                .expect("a volume");
            let new = NewNode {
                kind: NodeKind::File,
                mode: 0o644,
                rdev: 0,
                target: b"",
            };
            let ino = volume
                .create(&Caller::default(), Ino::ROOT, b"note", &new)
                .expect("a file")
                .ino;
            Note { volume, ino }
        })
        .collect();
    let inos: Vec<Ino> = notes.iter().map(|note| note.ino).collect();
    let writers: Vec<_> = notes
        .into_iter()
        .enumerate()
        .map(|(i, note)| {
            let progress = progress.clone();
            thread::spawn(move || {
                let mut n = 0;
                while !progress.done.load(Ordering::SeqCst) {
                    n += 1;
                    let neighbour = progress.returned[(i + 1) % THREADS].load(Ordering::SeqCst);
                    progress.begun[i].store(n, Ordering::SeqCst);
                    note.write(n, neighbour);
                    progress.returned[i].store(n, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut cuts = Vec::new();
    for n in 0..rounds {
        let cut = cut(&engine, &progress, n);
        check_notes(&engine, &cut, &inos, n);
        cuts.push(cut);
    }
    progress.done.store(true, Ordering::SeqCst);
    writers
        .into_iter()
        .for_each(|writer| writer.join().expect("a writer"));
    for (n, cut) in cuts.iter().enumerate() {
        check_notes(&engine, cut, &inos, n as u64);
    }
    assert_store_sound(&engine);
}

fn check_notes(engine: &Engine, cut: &Cut, inos: &[Ino], n: u64) {
    let notes: Vec<(u64, u64)> = cut
        .points
        .iter()
        .zip(inos)
        .map(|(&point, &ino)| read_note(engine, point, ino))
        .collect();
    for i in 0..THREADS {
        let (written, seen) = notes[i];
        assert!(
            cut.least[i] <= written && written <= cut.most[i],
            "cutoff {n}: thread {i} has {written} writes in it; {} had returned, {} were begun",
            cut.least[i],
            cut.most[i]
        );
        let neighbour = notes[(i + 1) % THREADS].0;
        assert!(
            neighbour >= seen,
            "cutoff {n}: thread {i} had seen {seen} writes of its neighbour, {neighbour} are in it"
        );
    }
}

#[test]
fn a_second_owner_is_refused() {
    let dir = directory();
    let store = dir.path().join("store");
    let first = Subject::open(&store).expect("the store opens");
    let refused = |store: &Path| {
        Subject::open(store)
            .map(drop)
            .map_err(|e| (e.kind(), e.to_string()))
    };
    let (kind, text) = refused(&store).expect_err("the store has an owner");
    assert_eq!(kind, storage_engine::ErrorKind::Locked, "{text}");
    assert!(
        text.contains(&std::process::id().to_string()),
        "names the owner: {text}"
    );
    first.into_engine().close().expect("the store closes");
    assert_eq!(refused(&store), Ok(()));
}
