//! What the tests do to a store, and what must be there afterwards.
//!
//! Every step is one commit. The naive model keeps what the store must show after each of them; after a
//! crash the store must show one of those states, not an earlier one than what was acknowledged as durable.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use storage_engine::fs::FileSystem;
use storage_engine::objects::{PutOptions, SEALED_BYTES};
use storage_engine::{
    Caller, Clock, CreateRoot, Durability, Engine, Epoch, Error, ErrorKind, ForkRequest, GcOptions,
    IdSource, Ino, NewNode, NodeKind, Options, Point, Result, Settings, SnapshotId,
    SnapshotRequest, TimelineId, Volume, VolumeOptions, WriteOptions,
};

use crate::rng::Rng;

/// Length and hash of a file's bytes.
type Content = (usize, u64);
type Files = BTreeMap<String, Content>;

/// What the store shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    timelines: BTreeMap<TimelineId, Files>,
    snapshots: BTreeMap<SnapshotId, Files>,
}

#[derive(Clone, Debug)]
struct Past {
    timeline: TimelineId,
    epoch: Epoch,
    files: Files,
    /// What was committed until then is durable.
    sure: bool,
}

struct Steps(AtomicU64);

impl Clock for Steps {
    fn now(&self) -> u64 {
        self.0.fetch_add(1_000_000, Ordering::SeqCst)
    }
}

struct Counted(AtomicU64);

impl IdSource for Counted {
    fn next(&self) -> std::io::Result<[u8; 16]> {
        let mut id = [0xc0; 16];
        id[8..].copy_from_slice(&self.0.fetch_add(1, Ordering::SeqCst).to_be_bytes());
        Ok(id)
    }
}

/// Log after which the index is written out, in the runs that do that.
pub const FLUSH_OFTEN: u64 = 96 << 10;
const SEGMENT: u64 = 192 << 10;

pub struct World {
    pub engine: Option<Engine>,
    clock: Arc<Steps>,
    ids: Arc<Counted>,
    pub flush: u64,
    /// What the store showed after each commit since the last thing that is known to be durable, which is
    /// the first.
    states: Vec<State>,
    /// States since somebody asked to keep them all.
    watched: Option<Vec<State>>,
    /// The state that a step that failed would have made.
    maybe: Option<State>,
    /// States of timelines at past epochs.
    past: Vec<Past>,
    step: u64,
    pub trace: Vec<String>,
}

fn bytes(tag: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(tag);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&(rng.next() | 0x0101_0101_0101_0101).to_le_bytes());
    }
    out.truncate(len);
    out
}

fn content(bytes: &[u8]) -> Content {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    (bytes.len(), hasher.finish())
}

fn settings(retain: u64) -> Settings {
    Settings {
        retain: Duration::from_secs(retain),
        ..Settings::default()
    }
}

const KEPT: u64 = 1 << 20;

impl World {
    pub fn new(flush: u64) -> World {
        World {
            engine: None,
            clock: Arc::new(Steps(AtomicU64::new(1_000_000_000_000_000_000))),
            ids: Arc::new(Counted(AtomicU64::new(1))),
            flush,
            states: vec![State::default()],
            watched: None,
            maybe: None,
            past: Vec::new(),
            step: 0,
            trace: Vec::new(),
        }
    }

    pub fn open(&mut self, dir: &Path, fs: Arc<dyn FileSystem>) -> Result<()> {
        let options = Options {
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            fs,
            segment_bytes: SEGMENT,
            flush_bytes: self.flush,
            ..Options::default()
        };
        self.engine = Some(Engine::open(dir, options)?);
        Ok(())
    }

    fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// Something was committed, and is durable or not.
    fn became(&mut self, state: State, durability: Durability) {
        if durability == Durability::Local {
            self.states.clear();
            self.past.iter_mut().for_each(|p| p.sure = true);
        }
        if let Some(watched) = &mut self.watched {
            watched.push(state.clone());
        }
        self.states.push(state);
    }

    /// From now on power may be lost.
    pub fn watch(&mut self) {
        self.watched = Some(self.states.clone());
    }

    /// The same world on what is there after a loss of power since [`watch`](Self::watch).
    pub fn after_power_loss(&mut self) -> World {
        World {
            engine: None,
            clock: Arc::clone(&self.clock),
            ids: Arc::clone(&self.ids),
            flush: self.flush,
            states: self.watched.take().unwrap(),
            watched: None,
            maybe: None,
            past: self.past.clone(),
            step: self.step + 1_000_000,
            trace: Vec::new(),
        }
    }

    fn all_durable(&mut self) {
        let last = self.now().clone();
        self.states = vec![last];
        self.past.iter_mut().for_each(|p| p.sure = true);
    }

    fn volume(&self, point: Point) -> Result<Volume> {
        self.engine().volume(point, VolumeOptions::default())
    }

    /// One commit that makes `next` of the state, if it succeeds.
    fn commit(
        &mut self,
        next: State,
        durability: Durability,
        work: impl FnOnce(&World) -> Result<()>,
    ) -> Result<()> {
        match work(self) {
            Ok(()) => {
                self.became(next, durability);
                Ok(())
            }
            Err(e) => {
                self.maybe = Some(next);
                Err(e)
            }
        }
    }

    /// Does something. An error is one of the engine; a panic says that it was wrong.
    pub fn random_step(&mut self, rng: &mut Rng) -> Result<()> {
        self.step += 1;
        self.maybe = None;
        let tag = self.step;
        let durability = if rng.chance(35) {
            Durability::Local
        } else {
            Durability::Memory
        };
        let timelines: Vec<TimelineId> = self.now().timelines.keys().copied().collect();
        let snapshots: Vec<SnapshotId> = self.now().snapshots.keys().copied().collect();
        let mut next = self.now().clone();
        let what = rng.below(100);
        self.trace.push(format!("{tag}: {what} {durability:?}"));
        if timelines.is_empty() {
            return self.create_root(next, tag, durability);
        }
        let t = *rng.pick(&timelines);
        let name = format!("f{}", rng.below(6));
        match what {
            // Objects: in the log, or as files of their own.
            0..38 => {
                let len = if rng.chance(16) {
                    SEALED_BYTES + rng.below(40_000) as usize
                } else {
                    let most = if rng.chance(25) { 70_000 } else { 6_000 };
                    1 + rng.below(most) as usize
                };
                let bytes = bytes(tag, len);
                let files = next.timelines.get_mut(&t).unwrap();
                files.insert(name.clone(), content(&bytes));
                self.commit(next, durability, |w| {
                    let options = PutOptions {
                        durability,
                        ..PutOptions::default()
                    };
                    w.volume(Point::Now(t))?
                        .objects()
                        .put(&name, &bytes, &options)
                        .map(drop)
                })
            }
            // A file, and then its bytes.
            38..52 => {
                if next.timelines[&t].contains_key(&name) {
                    let volume = self.volume(Point::Now(t))?;
                    let ino = volume.lookup(Ino::ROOT, name.as_bytes())?.ino;
                    // Over some of it: what is there stays before and behind it.
                    let mut old = volume.read(ino, 0, 1 << 20)?;
                    let new = bytes(tag, 1 + rng.below(40_000) as usize);
                    let at = rng.below(old.len() as u64 + 1) as usize;
                    old.resize(old.len().max(at + new.len()), 0);
                    old[at..at + new.len()].copy_from_slice(&new);
                    let files = next.timelines.get_mut(&t).unwrap();
                    files.insert(name, content(&old));
                    self.commit(next, Durability::Memory, |_| {
                        let options = WriteOptions::default();
                        volume
                            .write(&Caller::default(), ino, at as u64, &new, options)
                            .map(drop)
                    })
                } else {
                    let files = next.timelines.get_mut(&t).unwrap();
                    files.insert(name.clone(), content(&[]));
                    self.commit(next, Durability::Memory, |w| {
                        let node = NewNode {
                            kind: NodeKind::File,
                            mode: 0o644,
                            rdev: 0,
                            target: &[],
                        };
                        w.volume(Point::Now(t))?
                            .create(&Caller::default(), Ino::ROOT, name.as_bytes(), &node)
                            .map(drop)
                    })
                }
            }
            52..60 if next.timelines[&t].contains_key(&name) => {
                let files = next.timelines.get_mut(&t).unwrap();
                files.remove(&name);
                self.commit(next, Durability::Local, |w| {
                    let volume = w.volume(Point::Now(t))?;
                    volume.objects().delete(&name).map(drop)
                })
            }
            60..66 if timelines.len() < 5 => {
                let (source, files) = match snapshots.is_empty() || rng.chance(50) {
                    true => (Point::Now(t), next.timelines[&t].clone()),
                    false => {
                        let s = *rng.pick(&snapshots);
                        (Point::Snapshot(s), next.snapshots[&s].clone())
                    }
                };
                self.fork(next, source, files, tag, durability)
            }
            66..72 if snapshots.len() < 4 => {
                let mut id = [2; 16];
                id[8..].copy_from_slice(&tag.to_be_bytes());
                let id = SnapshotId(id);
                next.snapshots.insert(id, next.timelines[&t].clone());
                self.commit(next, durability, |w| {
                    let request = SnapshotRequest {
                        id: Some(id),
                        name: format!("snapshot{tag}"),
                        source: Point::Now(t),
                        labels: BTreeMap::new(),
                        durability,
                    };
                    w.engine().snapshot(request).map(drop)
                })
            }
            72..75 if !snapshots.is_empty() => {
                let s = *rng.pick(&snapshots);
                let files = next.snapshots[&s].clone();
                next.timelines.insert(t, files);
                self.commit(next, Durability::Local, |w| {
                    w.engine().restore(t, Point::Snapshot(s)).map(drop)
                })
            }
            75..78 if timelines.len() > 1 => {
                next.timelines.remove(&t);
                self.commit(next, Durability::Local, |w| w.engine().delete_timeline(t))
            }
            78..81 if !snapshots.is_empty() => {
                let s = *rng.pick(&snapshots);
                next.snapshots.remove(&s);
                self.commit(next, Durability::Local, |w| w.engine().delete_snapshot(s))
            }
            81..87 => {
                let options = GcOptions {
                    full: rng.below(2) == 0,
                    ..GcOptions::default()
                };
                self.engine().gc(options).map(drop)
            }
            87..90 => {
                self.engine().sync()?;
                self.all_durable();
                Ok(())
            }
            90..93 => {
                let epoch = self.engine().tick()?;
                for t in &timelines {
                    let files = self.now().timelines[t].clone();
                    let sure = self.states.len() == 1;
                    self.past.push(Past {
                        timeline: *t,
                        epoch,
                        files,
                        sure,
                    });
                }
                Ok(())
            }
            93..95 => self.engine().update_settings(t, settings(KEPT)).map(drop),
            95..99 if !self.past.is_empty() && timelines.len() < 6 => {
                let Past {
                    timeline: of,
                    epoch,
                    files,
                    ..
                } = rng.pick(&self.past).clone();
                // Unknown, or no longer promised: both are fine; another state is not.
                let there = timelines.contains(&of);
                match self.fork(next, Point::At(of, epoch), files, tag, Durability::Local) {
                    Err(e) if e.kind() == ErrorKind::OutOfRetention => self.nothing(),
                    Err(e) if e.kind() == ErrorKind::NotFound && !there => self.nothing(),
                    done => done,
                }
            }
            _ => self.create_root(next, tag, durability),
        }
    }

    fn nothing(&mut self) -> Result<()> {
        self.maybe = None;
        Ok(())
    }

    fn create_root(&mut self, mut next: State, tag: u64, durability: Durability) -> Result<()> {
        if next.timelines.len() > 5 {
            return Ok(());
        }
        let id = timeline_id(tag);
        next.timelines.insert(id, Files::new());
        self.commit(next, durability, |w| {
            let request = CreateRoot {
                id: Some(id),
                name: format!("root{tag}"),
                settings: settings(0),
                durability,
            };
            w.engine().create_root(request).map(drop)
        })
    }

    fn fork(
        &mut self,
        mut next: State,
        source: Point,
        files: Files,
        tag: u64,
        durability: Durability,
    ) -> Result<()> {
        let id = timeline_id(tag);
        next.timelines.insert(id, files);
        self.commit(next, durability, |w| {
            let request = ForkRequest {
                id: Some(id),
                name: format!("fork{tag}"),
                source,
                settings: settings(0),
                durability,
            };
            w.engine().fork(request).map(drop)
        })?;
        // A fork of a past state is read at once: nothing else does before it may be gone.
        let volume = self.volume(Point::Now(id))?;
        let seen = look(&volume)?;
        assert_eq!(
            seen,
            self.now().timelines[&id],
            "a fork of {source:?} shows another state"
        );
        Ok(())
    }

    /// Ends the run in order; then everything is durable.
    pub fn close(&mut self) -> Result<()> {
        self.maybe = None;
        if let Some(engine) = &self.engine {
            engine.clone().close()?;
        }
        self.all_durable();
        self.engine = None;
        Ok(())
    }

    /// What the store shows, all of it.
    fn observe(&self) -> Result<State> {
        let mut state = State::default();
        for t in self.engine().timelines() {
            let files = look(&self.volume(Point::Now(t.id))?)?;
            state.timelines.insert(t.id, files);
        }
        for s in self.engine().snapshots()? {
            let files = look(&self.volume(Point::Snapshot(s.id))?)?;
            state.snapshots.insert(s.id, files);
        }
        Ok(state)
    }

    /// After a crash and an opening without faults: acknowledged work is there, the rest is a prefix of what
    /// was done, and the store is sound.
    pub fn verify(&mut self) -> std::result::Result<(), String> {
        let seen = self.observe().map_err(|e| broken("reading", &e))?;
        if let Some(maybe) = self.maybe.take() {
            self.states.push(maybe);
        }
        let Some(at) = self.states.iter().rposition(|s| *s == seen) else {
            return Err(format!(
                "the store shows none of the {} states that it may: {}",
                self.states.len(),
                self.states
                    .last()
                    .map_or(String::new(), |s| difference(s, &seen))
            ));
        };
        self.states.truncate(at + 1);
        let report = self
            .engine()
            .check(|_| {})
            .map_err(|e| broken("checking", &e))?;
        if report.errors > 0 {
            return Err(format!("the check finds: {:#?}", report.findings));
        }
        Ok(())
    }

    /// Nothing can be done with this engine any more.
    pub fn given_up(&self) -> bool {
        self.engine.as_ref().is_none_or(|e| e.tick().is_err())
    }

    /// States at epochs that the crash may have undone are not asked for any more.
    pub fn forget_past(&mut self) {
        self.past.retain(|p| p.sure);
    }
}

fn broken(what: &str, e: &Error) -> String {
    format!("{what} fails: {:?}: {e}", e.kind())
}

fn timeline_id(tag: u64) -> TimelineId {
    let mut id = [1; 16];
    id[8..].copy_from_slice(&tag.to_be_bytes());
    TimelineId(id)
}

fn look(volume: &Volume) -> Result<Files> {
    let mut files = Files::new();
    for entry in volume.read_dir(Ino::ROOT, 0, usize::MAX)? {
        let bytes = volume.read(entry.ino, 0, 2 << 20)?;
        files.insert(
            String::from_utf8_lossy(&entry.name).into_owned(),
            content(&bytes),
        );
    }
    Ok(files)
}

fn difference(wanted: &State, seen: &State) -> String {
    let mut out = String::new();
    for (id, files) in &wanted.timelines {
        match seen.timelines.get(id) {
            None => out += &format!("\n  timeline {id} is missing"),
            Some(s) if s != files => {
                out += &format!("\n  timeline {id}: {s:?} instead of {files:?}")
            }
            _ => {}
        }
    }
    for id in seen
        .timelines
        .keys()
        .filter(|t| !wanted.timelines.contains_key(t))
    {
        out += &format!("\n  timeline {id} is too much");
    }
    for (id, files) in &wanted.snapshots {
        match seen.snapshots.get(id) {
            None => out += &format!("\n  snapshot {id} is missing"),
            Some(s) if s != files => {
                out += &format!("\n  snapshot {id}: {s:?} instead of {files:?}")
            }
            _ => {}
        }
    }
    for id in seen
        .snapshots
        .keys()
        .filter(|s| !wanted.snapshots.contains_key(s))
    {
        out += &format!("\n  snapshot {id} is too much");
    }
    out
}
