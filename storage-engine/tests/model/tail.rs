//! Damage to the files of a store: a log that ends early, flipped bits, a lost or old index.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use storage_engine::{
    Caller, CreateRoot, ErrorKind, Ino, NewNode, NodeKind, Point, VolumeOptions, WriteOptions,
};

use crate::compare::assert_store_sound;
use crate::fs::Handle;
use crate::generate::{Generator, Profile};
use crate::op::{FileOp, Op, SPAN, StepId};
use crate::rng::{Rng, pattern};
use crate::run::{directory, number, seed};
use crate::subject::Subject;
use crate::world::World;

/// Small segments, so that a short run has several.
const SEGMENT: u64 = 24 << 10;

/// A store that was left as a crash leaves it, and what it has to hold after each position of its log.
struct Written {
    dir: tempfile::TempDir,
    /// State after a step, and where the log ended then.
    marks: Vec<(u64, World)>,
    inos: BTreeMap<Handle, Ino>,
    epochs: BTreeMap<StepId, storage_engine::Epoch>,
    next: StepId,
}

impl Written {
    fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// What the store has to hold if its log ends at this position.
    fn at(&self, position: u64) -> &World {
        let mark = self.marks.iter().rev().find(|(end, _)| *end <= position);
        &mark.expect("the first mark is at the beginning").1
    }

    /// Opens a damaged copy and compares it with the state at a position.
    fn compare(&self, store: &Path, position: u64, what: &str) -> Subject {
        let mut subject = Subject::open_with(store, SEGMENT)
            .unwrap_or_else(|e| panic!("{what}: cannot be opened: {:?}: {e}", e.kind()));
        subject.own_ids = false;
        subject.inos = self.inos.clone();
        subject.epochs = self.epochs.clone();
        if let Err(fault) = subject.compare(self.at(position), |i| i % 8 == 0) {
            panic!("{what}: not the state at position {position}: {fault}");
        }
        subject
    }

    /// Goes on working with a store that was recovered.
    fn go_on(&self, mut subject: Subject, position: u64, seed: u64, what: &str) {
        let mut world = self.at(position).clone();
        let mut generator = Generator::new(seed, Profile::Killed, self.next);
        for _ in 0..12 {
            let step = generator.step(&world);
            subject
                .step(&mut world, &step)
                .unwrap_or_else(|fault| panic!("{what}: going on with {step:?}: {fault}"));
        }
        for how in [crate::op::Reopen::Dropped, crate::op::Reopen::WithoutIndex] {
            subject
                .reopen(how)
                .unwrap_or_else(|e| panic!("{what}: reopening: {e}"));
            subject
                .compare(&world, |i| i % 3 == 0)
                .unwrap_or_else(|fault| panic!("{what}: after going on: {fault}"));
        }
        assert_store_sound(subject.engine());
    }
}

/// Writes a store: `synced` steps of all kinds, a sync, and `after` steps that nothing syncs.
fn write(seed: u64, synced: usize, after: usize) -> Written {
    let dir = directory();
    let mut subject =
        Subject::open_with(&dir.path().join("store"), SEGMENT).expect("the store opens");
    subject.own_ids = false;
    let mut world = World::new();
    let mut marks = vec![(0, world.clone())];
    let mut generator = Generator::new(seed, Profile::Killed, SPAN);
    let mut done = 0;
    while done < synced + after {
        if done == synced {
            subject.engine().sync().expect("a sync");
            let next = SPAN * (1 + done as u32 * 100);
            generator = Generator::new(seed + 1, Profile::Alone, next);
        }
        let step = generator.step(&world);
        if done >= synced
            && matches!(
                step.op,
                Op::File {
                    op: FileOp::Fsync { .. },
                    ..
                }
            )
        {
            continue;
        }
        subject
            .step(&mut world, &step)
            .unwrap_or_else(|fault| panic!("seed {seed}, {step:?}: {fault}"));
        marks.push((subject.engine().position().0, world.clone()));
        done += 1;
    }
    let (inos, epochs) = (subject.inos.clone(), subject.epochs.clone());
    // What a crash leaves is copied before the engine can tidy up.
    let left = dir.path().join("left");
    copy(&dir.path().join("store"), &left, true);
    drop(subject);
    fs::remove_dir_all(dir.path().join("store")).expect("the store can be removed");
    fs::rename(&left, dir.path().join("store")).expect("the copy can be renamed");
    Written {
        dir,
        marks,
        inos,
        epochs,
        next: SPAN * 1_000_000,
    }
}

/// Copies a store, with or without its index.
fn copy(from: &Path, to: &Path, index: bool) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_name().to_str() {
            Some("lock" | "LOCK" | "reserve") => {}
            Some("index") if !index => {}
            _ if path.is_dir() => copy(&path, &target, index),
            _ => drop(fs::copy(&path, &target).expect("a file can be copied")),
        }
    }
}

/// A frame as the format page describes it, found without the engine.
#[derive(Clone, Debug)]
struct Frame {
    segment: PathBuf,
    last_segment: bool,
    offset: usize,
    /// Bytes that are checked; then zeros up to a multiple of eight.
    used: usize,
    total: usize,
    position: u64,
    /// Position known to be durable when it was written.
    durable: u64,
}

const HEADER: usize = 128;

fn be(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len]
        .iter()
        .fold(0, |n, &byte| n << 8 | u64::from(byte))
}

fn segments(store: &Path) -> Vec<PathBuf> {
    let mut all: Vec<(u64, PathBuf)> = fs::read_dir(store.join("log"))
        .expect("a log")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            (be(&fs::read(&path).expect("a segment"), 24, 8), path)
        })
        .collect();
    all.sort();
    all.into_iter().map(|(_, path)| path).collect()
}

fn frames(store: &Path) -> Vec<Frame> {
    let mut frames = Vec::new();
    let segments = segments(store);
    for (n, segment) in segments.iter().enumerate() {
        let bytes = fs::read(segment).expect("a segment");
        let base = be(&bytes, 24, 8);
        let mut offset = HEADER;
        while offset + HEADER <= bytes.len() && bytes[offset..offset + 4] == *b"ABF1" {
            let used =
                HEADER + be(&bytes, offset + 8, 4) as usize + be(&bytes, offset + 12, 4) as usize;
            let total = used.next_multiple_of(8);
            frames.push(Frame {
                segment: segment.clone(),
                last_segment: n + 1 == segments.len(),
                offset,
                used,
                total,
                position: base + offset as u64,
                durable: be(&bytes, offset + 24, 8),
            });
            assert_eq!(
                be(&bytes, offset + 16, 8),
                base + offset as u64,
                "a frame says where it stands"
            );
            offset += total;
        }
    }
    frames
}

/// Runs `work` on every item, on two threads.
fn each<T: Sync>(items: &[T], work: impl Fn(usize, &T) + Sync) {
    let next = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let at = {
                        let mut next = next.lock().expect("no thread has failed");
                        *next += 1;
                        *next - 1
                    };
                    match items.get(at) {
                        Some(item) => work(at, item),
                        None => return,
                    }
                }
            });
        }
    });
}

/// At most `most` of these, spread evenly; all with `ANABRANCH_ALL=1`.
fn some<T: Clone>(items: Vec<T>, most: usize) -> Vec<T> {
    if number("ANABRANCH_ALL").is_some() || items.len() <= most {
        return items;
    }
    let step = items.len() as f64 / most as f64;
    (0..most)
        .map(|n| items[(n as f64 * step) as usize].clone())
        .collect()
}

fn damaged_copy(written: &Written, n: usize, index: bool) -> PathBuf {
    let store = written.dir.path().join(format!("damaged-{n}"));
    copy(&written.path(), &store, index);
    store
}

fn same_segment(store: &Path, segment: &Path) -> PathBuf {
    store
        .join("log")
        .join(segment.file_name().expect("a segment has a name"))
}

#[test]
fn a_log_cut_at_any_byte_gives_the_operations_before_the_cut() {
    let seed = seed();
    println!("ANABRANCH_SEED={seed}");
    let written = write(seed, 40, 25);
    let frames: Vec<Frame> = frames(&written.path())
        .into_iter()
        .filter(|frame| frame.last_segment)
        .collect();
    let (Some(first), Some(last)) = (frames.first(), frames.last()) else {
        panic!("seed {seed}: no frames")
    };
    assert_eq!(
        last.position + last.total as u64,
        written.marks.last().expect("marks").0,
        "the end of the log"
    );
    // Every byte of the three last frames, and around the border of every other one.
    let tail = frames[frames.len().saturating_sub(3)].offset;
    let mut cuts: Vec<usize> = some((tail..last.offset + last.total).collect(), 30);
    cuts.extend(some(
        frames
            .iter()
            .flat_map(|frame| {
                [
                    frame.offset,
                    frame.offset + 1,
                    frame.offset + frame.used - 1,
                ]
            })
            .collect(),
        30,
    ));
    cuts.push(last.offset + last.total);
    cuts.push(first.offset - 1);
    cuts.sort_unstable();
    cuts.dedup();
    each(&cuts, |n, &cut| {
        let what = format!("seed {seed}, last segment cut at byte {cut}");
        let store = damaged_copy(&written, n, false);
        let segment = fs::File::options()
            .write(true)
            .open(same_segment(&store, &last.segment))
            .expect("a segment");
        segment.set_len(cut as u64).expect("a segment can be cut");
        let end = frames
            .iter()
            .rev()
            .find(|frame| frame.offset + frame.total <= cut);
        let position = end.map_or(first.position, |frame| frame.position + frame.total as u64);
        let subject = written.compare(&store, position, &what);
        if n % 16 == 0 {
            written.go_on(subject, position, seed + n as u64, &what);
        }
        fs::remove_dir_all(&store).expect("the copy can be removed");
    });
}

#[test]
fn a_flipped_bit_before_the_durable_end_is_an_error_and_after_it_ends_the_log() {
    let mut seed = seed();
    // One run in three writes so little that there is only one segment: the next seed is taken then.
    let (written, frames) = loop {
        let written = write(seed, 40, 25);
        let frames = frames(&written.path());
        if frames.iter().any(|frame| !frame.last_segment) {
            break (written, frames);
        }
        seed += 1;
    };
    println!("ANABRANCH_SEED={seed}");
    let mut rng = Rng::new(seed);
    let flips: Vec<(usize, usize)> = (0..frames.len())
        .flat_map(|n| {
            let frame = &frames[n];
            // The magic, the lengths, the rest of the header; data; rows.
            [
                0,
                9,
                13,
                17 + rng.below(103) as usize,
                HEADER + rng.below((frame.used - HEADER).max(1) as u64) as usize,
                frame.used - 1,
            ]
            .map(|at| (n, at.min(frame.used - 1) * 8 + rng.below(8) as usize))
        })
        .collect();
    each(&some(flips, 80), |n, &(number, bit)| {
        let frame = &frames[number];
        let what = format!(
            "seed {seed}, bit {bit} of the frame at {} of {}",
            frame.offset,
            frame.segment.display()
        );
        let store = damaged_copy(&written, n, false);
        flip(
            &same_segment(&store, &frame.segment),
            frame.offset + bit / 8,
            bit % 8,
        );
        // Only what a later frame says was durable is known to be missing.
        let attested = frames[number + 1..]
            .iter()
            .any(|later| later.durable > frame.position);
        if attested || !frame.last_segment {
            let error = match Subject::open_with(&store, SEGMENT) {
                Ok(_) => panic!("{what}: the store opens"),
                Err(error) => error,
            };
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
            assert_names(&error, &frame.segment, &what);
            // The error is no loss: it is the same when asked again, and gone when the bit is back.
            assert!(
                Subject::open_with(&store, SEGMENT).is_err(),
                "{what}: the store opens the second time"
            );
            flip(
                &same_segment(&store, &frame.segment),
                frame.offset + bit / 8,
                bit % 8,
            );
            written.compare(&store, u64::MAX, &format!("{what}, flipped back"));
        } else {
            let subject = written.compare(&store, frame.position, &what);
            if n % 8 == 0 {
                written.go_on(subject, frame.position, seed + n as u64, &what);
            }
        }
        fs::remove_dir_all(&store).expect("the copy can be removed");
    });
}

/// The message names the file and the place in it.
fn assert_names(error: &storage_engine::Error, file: &Path, what: &str) {
    let text = error.to_string();
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a name");
    assert!(
        text.contains(name) && text.contains("offset"),
        "{what}: names no place: {text}"
    );
}

fn flip(file: &Path, byte: usize, bit: usize) {
    let mut bytes = fs::read(file).expect("a file");
    bytes[byte] ^= 1 << bit;
    fs::write(file, bytes).expect("a file can be written");
}

#[test]
fn an_index_that_is_lost_or_behind_is_made_good_from_the_log() {
    let seed = seed();
    println!("ANABRANCH_SEED={seed}");
    for seed in seed..seed + 3 {
        let dir = directory();
        let store = dir.path().join("store");
        let mut subject = Subject::open_with(&store, SEGMENT).expect("the store opens");
        let mut world = World::new();
        let mut generator = Generator::new(seed, Profile::Killed, SPAN);
        let mut old = Vec::new();
        for n in 0..120 {
            let step = generator.step(&world);
            subject
                .step(&mut world, &step)
                .unwrap_or_else(|fault| panic!("seed {seed}, {step:?}: {fault}"));
            if n % 40 == 39 {
                subject
                    .reopen_with(crate::op::Reopen::Clean, SEGMENT)
                    .expect("the store opens again");
                let keep = dir.path().join(format!("index-{n}"));
                copy(&store.join("index"), &keep, true);
                old.push(keep);
            }
        }
        // A crash after more work, with each of the old indexes, and with none.
        subject
            .reopen_with(crate::op::Reopen::Clean, SEGMENT)
            .expect("the store opens again");
        for index in old.iter().map(Some).chain([None]) {
            subject
                .replace_index(index.map(PathBuf::as_path), SEGMENT, copy)
                .expect("the store opens again");
            subject
                .compare(&world, |_| true)
                .unwrap_or_else(|fault| panic!("seed {seed}, with the index {index:?}: {fault}"));
            assert_store_sound(subject.engine());
        }
    }
}

#[test]
fn a_log_shorter_than_its_index_is_an_error() {
    let seed = seed();
    println!("ANABRANCH_SEED={seed}");
    let dir = directory();
    let store = dir.path().join("store");
    let mut subject = Subject::open_with(&store, SEGMENT).expect("the store opens");
    let mut world = World::new();
    let mut generator = Generator::new(seed, Profile::Killed, SPAN);
    for _ in 0..60 {
        let step = generator.step(&world);
        subject
            .step(&mut world, &step)
            .unwrap_or_else(|fault| panic!("{step:?}: {fault}"));
    }
    subject.into_engine().close().expect("the store closes");
    let all = segments(&store);
    let last = all.last().expect("a segment");
    let whole = fs::read(last).expect("a segment");
    for cut in [whole.len() - 1, whole.len() - 8, HEADER + 1, HEADER] {
        fs::write(last, &whole[..cut]).expect("a segment can be written");
        let error = Subject::open_with(&store, SEGMENT)
            .err()
            .unwrap_or_else(|| panic!("cut at {cut}: it opens"));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {cut}: {error}");
    }
    fs::write(last, &whole).expect("a segment can be written");
    if all.len() > 1 {
        let kept = fs::read(&all[0]).expect("a segment");
        fs::remove_file(&all[0]).expect("a segment can be removed");
        fs::remove_dir_all(store.join("index")).expect("the index can be removed");
        let error = Subject::open_with(&store, SEGMENT)
            .err()
            .expect("without its first segment it does not open");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        fs::write(&all[0], kept).expect("a segment can be written");
    }
    drop(Subject::open_with(&store, SEGMENT).expect("whole again, it opens"));
}

#[test]
fn damaged_data_is_found_when_it_is_read_and_harms_nothing_else() {
    let dir = directory();
    let store = dir.path().join("store");
    let subject = Subject::open(&store).expect("the store opens");
    let engine = subject.into_engine();
    let request = CreateRoot {
        name: "bucket/n/a".into(),
        ..CreateRoot::default()
    };
    let timeline = engine.create_root(request).expect("a timeline").id;
    let point = Point::Now(timeline);
    let volume = engine
        .volume(point, VolumeOptions::default())
        .expect("a volume");
    let caller = Caller::default();
    let new = NewNode {
        kind: NodeKind::File,
        mode: 0o644,
        rdev: 0,
        target: b"",
    };
    let data = [pattern(7, 100_000), pattern(8, 100_000)];
    let inos = [b"one", b"two"].map(|name| {
        volume
            .create(&caller, Ino::ROOT, name, &new)
            .expect("a file")
            .ino
    });
    for (ino, data) in inos.iter().zip(&data) {
        volume
            .write(&caller, *ino, 0, data, WriteOptions::default())
            .expect("a write");
    }
    drop(volume);
    engine.close().expect("the store closes");

    let segment = segments(&store).pop().expect("a segment");
    let bytes = fs::read(&segment).expect("a segment");
    let at = bytes
        .windows(64)
        .position(|window| *window == data[0][50_000..50_064])
        .expect("the data is in the log");
    flip(&segment, at, 3);
    let engine = Subject::open(&store)
        .expect("the store opens, as nothing was read yet")
        .into_engine();
    let volume = engine
        .volume(point, VolumeOptions::default())
        .expect("a volume");
    let error = volume
        .read(inos[0], 45_000, 10_000)
        .expect_err("the damage is found");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_names(&error, &segment, "a damaged block");
    assert_eq!(
        volume.read(inos[1], 0, 200_000).expect("the other file"),
        data[1]
    );
    assert_eq!(
        volume
            .read(inos[0], 0, 16_384)
            .expect("the undamaged blocks"),
        data[0][..16_384]
    );
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let dir = directory();
    let store = dir.path().join("store");
    Subject::open(&store)
        .expect("the store opens")
        .into_engine()
        .close()
        .expect("the store closes");
    let path = store.join("store.json");
    let text = fs::read_to_string(&path).expect("store.json");
    let newer = text.replace(
        &format!("\"format\": {}", storage_engine::FORMAT),
        &format!("\"format\": {}", storage_engine::FORMAT + 1),
    );
    assert_ne!(text, newer, "store.json says its format");
    // What a person changes does not match the checksum.
    let sum = newer
        .find(",\n  \"sum\"")
        .expect("store.json has a checksum");
    fs::write(&path, format!("{}\n}}", &newer[..sum])).expect("store.json can be written");
    let error = Subject::open(&store)
        .err()
        .expect("a newer store is refused");
    assert_eq!(error.kind(), ErrorKind::UnsupportedFormat, "{error}");
    assert!(
        error
            .to_string()
            .contains(&format!("format {}", storage_engine::FORMAT + 1)),
        "names the format: {error}"
    );
}
