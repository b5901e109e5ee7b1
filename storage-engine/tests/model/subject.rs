//! The engine under test: a store in a directory, and what the model's names are called there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use storage_engine::{
    Attr, Clock, Durability, Engine, Epoch, Error, ErrorKind, IdSource, Ino, Point, Quota, Result,
    Settings, SnapshotId, SnapshotInfo, Time, TimelineId, TimelineInfo, Volume, VolumeOptions,
};

use crate::compare;
use crate::fs::{Fs, Handle, ROOT};
use crate::op::{At, Limits, Op, Place, Reopen, Step, StepId};
use crate::world::{Answer, World};

/// A clock that stands still until the test moves it.
#[derive(Debug)]
pub struct TestClock(pub AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Ids counted up from a number.
#[derive(Debug)]
pub struct CountedIds(pub AtomicU64);

impl IdSource for CountedIds {
    fn next(&self) -> std::io::Result<[u8; 16]> {
        let mut id = [0xc0; 16];
        id[8..].copy_from_slice(&self.0.fetch_add(1, Ordering::SeqCst).to_be_bytes());
        Ok(id)
    }
}

pub struct Subject {
    pub dir: PathBuf,
    /// `None` only while the store is being opened again.
    engine: Option<Engine>,
    pub clock: Arc<TestClock>,
    ids: Arc<CountedIds>,
    pub inos: BTreeMap<Handle, Ino>,
    pub timelines: BTreeMap<StepId, TimelineId>,
    pub snapshots: BTreeMap<StepId, SnapshotId>,
    pub epochs: BTreeMap<StepId, Epoch>,
    /// What the step that is being done sees.
    pub scope: Option<Arc<Fs>>,
    /// Kept open over many steps, as mounts are.
    pub volumes: BTreeMap<StepId, Arc<Volume>>,
    /// What the creates of a step answered.
    pub answers: BTreeMap<StepId, Vec<Made>>,
    /// Connection of the requests, when they have ids.
    pub connection: Option<u64>,
    /// Leave the choice of some ids to the engine.
    pub own_ids: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    Timeline {
        id: TimelineId,
        name: String,
        created: Epoch,
    },
    Snapshot {
        id: SnapshotId,
        epoch: Epoch,
        created: Epoch,
        digest: String,
    },
}

pub fn made_timeline(info: &TimelineInfo) -> Made {
    Made::Timeline {
        id: info.id,
        name: info.name.clone(),
        created: info.created,
    }
}

pub fn made_snapshot(info: &SnapshotInfo) -> Made {
    Made::Snapshot {
        id: info.id,
        epoch: info.epoch,
        created: info.created,
        digest: info.digest.clone(),
    }
}

/// History stays readable longer than any run lasts.
pub fn settings() -> Settings {
    settings_of(&Limits::default())
}

pub fn settings_of(limits: &Limits) -> Settings {
    Settings {
        retain: Duration::from_millis(limits.retain_millis),
        quota: Quota {
            bytes: limits.bytes,
            inodes: limits.inodes,
        },
        ..Settings::default()
    }
}

/// Some creates wait for the disk.
pub fn durability(step: StepId) -> Durability {
    if (step / crate::op::SPAN).is_multiple_of(4) {
        Durability::Local
    } else {
        Durability::Memory
    }
}

/// Segments small enough that runs go over their borders.
const SEGMENT: u64 = 1 << 20;

/// Opens a store the way the tests do.
pub fn open(
    dir: &Path,
    clock: &Arc<TestClock>,
    ids: &Arc<CountedIds>,
    segment: u64,
) -> Result<Engine> {
    let options = storage_engine::Options {
        create: true,
        clock: clock.clone(),
        ids: ids.clone(),
        segment_bytes: segment,
        ..storage_engine::Options::default()
    };
    // A child that another test is just starting holds a copy of the lock until it executes its program.
    for _ in 0..50 {
        match Engine::open(dir, options.clone()) {
            Err(error) if error.kind() == ErrorKind::Locked => {
                std::thread::sleep(Duration::from_millis(10))
            }
            done => return done,
        }
    }
    Engine::open(dir, options)
}

/// The engine's answer to one step.
#[derive(Debug)]
pub enum Got {
    Nothing,
    Attr(Attr),
    Bytes(Vec<u8>),
    Count(u64),
    Flag(bool),
    Names(Vec<Vec<u8>>),
    Entries(Vec<storage_engine::DirEntry>),
}

impl Subject {
    pub fn open(dir: &Path) -> Result<Subject> {
        Self::open_with(dir, SEGMENT)
    }

    pub fn open_with(dir: &Path, segment: u64) -> Result<Subject> {
        let clock = Arc::new(TestClock(AtomicU64::new(crate::world::START as u64)));
        // Two openings of one store must not make the same ids.
        static OPENED: AtomicU64 = AtomicU64::new(1);
        let from =
            (u64::from(std::process::id()) << 24) + (OPENED.fetch_add(1, Ordering::SeqCst) << 12);
        let ids = Arc::new(CountedIds(AtomicU64::new(from)));
        let engine = open(dir, &clock, &ids, segment)?;
        Ok(Subject {
            dir: dir.to_owned(),
            engine: Some(engine),
            clock,
            ids,
            inos: BTreeMap::from([(ROOT, Ino::ROOT)]),
            timelines: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            epochs: BTreeMap::new(),
            scope: None,
            volumes: BTreeMap::new(),
            answers: BTreeMap::new(),
            connection: None,
            own_ids: true,
        })
    }

    /// Another user of the same open store, with names of its own.
    pub fn beside(&self) -> Subject {
        Subject {
            dir: self.dir.clone(),
            engine: self.engine.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            inos: BTreeMap::from([(ROOT, Ino::ROOT)]),
            timelines: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            epochs: BTreeMap::new(),
            scope: None,
            volumes: BTreeMap::new(),
            answers: BTreeMap::new(),
            connection: None,
            own_ids: false,
        }
    }

    /// Lets go of the store.
    pub fn leave(&mut self) {
        self.volumes.clear();
        self.engine = None;
    }

    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the store is open")
    }

    /// Ends the use of the store, closing it or not.
    pub fn into_engine(mut self) -> Engine {
        self.volumes.clear();
        self.engine.take().expect("the store is open")
    }

    pub fn reopen(&mut self, how: Reopen) -> Result<()> {
        self.reopen_with(how, SEGMENT)
    }

    /// Closes the store, puts another index in the place of its own, and opens it.
    pub fn replace_index(
        &mut self,
        index: Option<&Path>,
        segment: u64,
        copy: impl Fn(&Path, &Path, bool),
    ) -> Result<()> {
        self.volumes.clear();
        if let Some(engine) = self.engine.take() {
            engine.close()?;
        }
        let own = self.dir.join("index");
        std::fs::remove_dir_all(&own).expect("the index is a directory of the store");
        if let Some(index) = index {
            copy(index, &own, true);
        }
        self.engine = Some(open(&self.dir, &self.clock, &self.ids, segment)?);
        Ok(())
    }

    pub fn reopen_with(&mut self, how: Reopen, segment: u64) -> Result<()> {
        self.volumes.clear();
        let Some(engine) = self.engine.take() else {
            return Err(Error::new(ErrorKind::Io, "not open"));
        };
        match how {
            Reopen::Dropped => drop(engine),
            Reopen::Clean | Reopen::WithoutIndex => engine.close()?,
        }
        if how == Reopen::WithoutIndex {
            std::fs::remove_dir_all(self.dir.join("index"))
                .expect("the index is a directory of the store");
        }
        self.engine = Some(open(&self.dir, &self.clock, &self.ids, segment)?);
        Ok(())
    }

    /// Id of a timeline made by this step: known, or the one it would be given.
    pub fn timeline_id(&self, step: StepId) -> TimelineId {
        self.timelines
            .get(&step)
            .copied()
            .unwrap_or_else(|| TimelineId(self.made_id(0x71, step)))
    }

    pub fn snapshot_id(&self, step: StepId) -> SnapshotId {
        self.snapshots
            .get(&step)
            .copied()
            .unwrap_or_else(|| SnapshotId(self.made_id(0x52, step)))
    }

    fn made_id(&self, tag: u8, step: StepId) -> [u8; 16] {
        let mut id = [tag; 16];
        id[12..].copy_from_slice(&step.to_be_bytes());
        id
    }

    /// `None` for an epoch whose number is not known.
    pub fn point(&self, at: At) -> Option<Point> {
        Some(match at {
            At::Now(t) => Point::Now(self.timeline_id(t)),
            At::Snapshot(s) => Point::Snapshot(self.snapshot_id(s)),
            At::Closed(t, step) => Point::At(self.timeline_id(t), *self.epochs.get(&step)?),
        })
    }

    /// The number of an inode, or one that no inode has.
    pub fn ino(&self, handle: Handle) -> Ino {
        let nobody = Ino(1 << 50 | u64::from(handle));
        let Some(&ino) = self.inos.get(&handle) else {
            return nobody;
        };
        // A state that was restored from elsewhere may give the number of an inode that is gone to another.
        let taken = self.scope.as_ref().is_some_and(|fs| {
            !fs.nodes.contains_key(&handle)
                && fs
                    .nodes
                    .keys()
                    .any(|other| self.inos.get(other) == Some(&ino))
        });
        if taken { nobody } else { ino }
    }

    pub fn volume(&mut self, place: Place) -> Result<Arc<Volume>> {
        match place {
            Place::Snapshot(s) => self
                .engine()
                .volume(
                    Point::Snapshot(self.snapshot_id(s)),
                    VolumeOptions::default(),
                )
                .map(Arc::new),
            Place::Timeline(t) => {
                if let Some(volume) = self.volumes.get(&t) {
                    return Ok(volume.clone());
                }
                let volume = self
                    .engine()
                    .volume(Point::Now(self.timeline_id(t)), VolumeOptions::default())?;
                let volume = Arc::new(volume);
                self.volumes.insert(t, volume.clone());
                Ok(volume)
            }
        }
    }

    /// Does a step in the model and in the engine and compares the answers.
    pub fn step(&mut self, world: &mut World, step: &Step) -> Result<(), String> {
        self.scope = match &step.op {
            Op::File { place, .. } => world.place(*place),
            _ => None,
        };
        let before = self.may_be_refused(world, &step.op).then(|| world.clone());
        let own = self.own_bytes(&step.op);
        let expected = world.apply(step);
        self.clock.0.store(world.now as u64, Ordering::SeqCst);
        if matches!(expected, Ok(Answer::Skip)) || self.unknown_epoch(&step.op) {
            return match expected {
                Ok(Answer::Skip) | Err(_) => Ok(()),
                Ok(_) => Err("an epoch that the model knows has no number".into()),
            };
        }
        let got = match &step.op {
            Op::File {
                place,
                uid,
                gid,
                op,
            } => self.file_op(step.id, *place, *uid, *gid, op),
            Op::Repeat { step: first } => {
                let Some(op) = world.creates.get(first) else {
                    return Ok(());
                };
                return self.repeat(*first, op);
            }
            op => self.store_op(step.id, op).map(|()| Got::Nothing),
        };
        if let (Some(before), Err(error)) = (&before, &got)
            && self.rightly_refused(world, &step.op, own, error)?
        {
            let now = world.now;
            *world = before.clone();
            world.now = now;
            return Ok(());
        }
        self.quota_kept(world, &step.op, own)?;
        let fs = match &step.op {
            Op::File { place, .. } => world.place(*place),
            _ => None,
        };
        self.judge(&expected, got, fs.as_deref())
    }

    fn unknown_epoch(&self, op: &Op) -> bool {
        let unknown = |at: &At| self.point(*at).is_none();
        match op {
            Op::Fork { source, .. } | Op::Snapshot { source, .. } | Op::Restore { source, .. } => {
                unknown(source)
            }
            Op::ForkGroup { forks: points } | Op::SnapshotGroup { snapshots: points } => {
                points.iter().any(|(_, at)| unknown(at))
            }
            _ => false,
        }
    }

    fn judge(
        &mut self,
        expected: &Result<Answer, Vec<ErrorKind>>,
        got: Result<Got>,
        fs: Option<&Fs>,
    ) -> Result<(), String> {
        let answer = match (expected, got) {
            (Err(kinds), Err(error)) if kinds.contains(&error.kind()) => return Ok(()),
            (Err(kinds), other) => {
                return Err(format!("engine: {other:?}; right is an error of {kinds:?}"));
            }
            (Ok(Answer::Seek { ino, offset, data }), got) => {
                let got = match got {
                    Ok(Got::Count(at)) => Ok(at),
                    Ok(other) => return Err(format!("a seek answers {other:?}")),
                    Err(error) => Err(error.kind()),
                };
                let fault = fs.and_then(|fs| fs.seek_fault(*ino, *offset, *data, &got));
                return fault.map_or(Ok(()), Err);
            }
            (Ok(answer), Err(error)) => {
                return Err(format!(
                    "engine: {:?}: {error}; right is {answer:?}",
                    error.kind()
                ));
            }
            (Ok(answer), Ok(got)) => (answer, got),
        };
        match (answer, fs) {
            ((Answer::Nothing, Got::Nothing), _) => Ok(()),
            ((Answer::Made(handle), Got::Attr(attr)), Some(fs)) => {
                let known = |other: &&Handle| self.inos.get(other) == Some(&attr.ino);
                if let Some(other) = fs.born.iter().find(known) {
                    return Err(format!(
                        "inode number {} was used before in this lineage, by inode {other}",
                        attr.ino
                    ));
                }
                self.inos.insert(*handle, attr.ino);
                self.scope = None;
                compare::attr_fault(fs, *handle, self.ino(*handle), &attr).map_or(Ok(()), Err)
            }
            ((Answer::Attr(handle), Got::Attr(attr)), Some(fs)) => {
                compare::attr_fault(fs, *handle, self.ino(*handle), &attr).map_or(Ok(()), Err)
            }
            ((Answer::Bytes(right), Got::Bytes(bytes)), _) => {
                compare::bytes_fault(right, &bytes).map_or(Ok(()), Err)
            }
            ((Answer::Count(right), Got::Count(count)), _) if *right == count => Ok(()),
            ((Answer::Flag(right), Got::Flag(flag)), _) if *right == flag => Ok(()),
            ((Answer::Names(right), Got::Names(mut names)), _) => {
                names.sort();
                if names == *right {
                    Ok(())
                } else {
                    Err(format!("names {names:?}; right: {right:?}"))
                }
            }
            ((Answer::Entries(right), Got::Entries(entries)), _) => {
                compare::entries_fault(right, &entries, |handle| self.ino(handle))
                    .map_or(Ok(()), Err)
            }
            ((right, got), _) => Err(format!("engine: {got:?}; right: {right:?}")),
        }
    }
}

pub fn to_time(nanos: i128) -> Time {
    Time {
        secs: nanos.div_euclid(1_000_000_000) as i64,
        nanos: nanos.rem_euclid(1_000_000_000) as u32,
    }
}
