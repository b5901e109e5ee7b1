//! The model of a whole store: a map of file-system states per timeline. Forking copies the map's entry, a
//! snapshot copies it too, and history is a copy of everything at the end of each epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use storage_engine::{ErrorKind, NodeKind};

use crate::fs::{Actor, Expected, Fs, Handle, Nanos, NewInode};
use crate::op::{At, FileOp, Limits, Op, Place, Step, StepId};
use crate::rng::pattern;

#[derive(Clone, Debug)]
pub struct Timeline {
    pub name: String,
    pub live: Arc<Fs>,
    pub read_only: bool,
    pub protected: bool,
    pub limits: Limits,
    /// States before this instant need not be there any more.
    pub horizon: i64,
}

impl Timeline {
    fn new(name: &str, live: Arc<Fs>) -> Timeline {
        Timeline {
            name: name.to_owned(),
            live,
            read_only: false,
            protected: false,
            limits: Limits::default(),
            horizon: 0,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Snapshot {
    pub name: String,
    pub state: Arc<Fs>,
}

/// The end of an epoch: what every timeline held then.
#[derive(Clone, Debug)]
pub struct Close {
    pub step: StepId,
    pub states: BTreeMap<StepId, Arc<Fs>>,
}

/// Ends of epochs that are remembered.
const HISTORY: usize = 16;

/// First instant of a run.
pub const START: i64 = 1_700_000_000_000_000_000;

#[derive(Clone, Debug)]
pub struct World {
    pub timelines: BTreeMap<StepId, Timeline>,
    pub snapshots: BTreeMap<StepId, Snapshot>,
    pub history: Vec<Close>,
    /// Timelines and snapshots that ever were.
    made: BTreeSet<StepId>,
    /// Creates that were answered, to be asked for again.
    pub creates: BTreeMap<StepId, Op>,
    pub now: i64,
}

/// What an operation has to answer.
#[derive(Clone, Debug)]
pub enum Answer {
    Nothing,
    /// Attributes of this inode as they are after the operation.
    Attr(Handle),
    /// The same, of an inode made by this step.
    Made(Handle),
    Bytes(Vec<u8>),
    Count(u64),
    Flag(bool),
    Names(Vec<Vec<u8>>),
    /// Every entry of a directory.
    Entries(Vec<(Vec<u8>, Handle, NodeKind)>),
    /// Not determined; checked against the state.
    Seek {
        ino: Handle,
        offset: u64,
        data: bool,
    },
    /// The contract does not say what happens: the step is left out.
    Skip,
}

fn refused<T>(kind: ErrorKind) -> Expected<T> {
    Err(vec![kind])
}

/// A point that the model knows, or does not judge.
enum Found {
    State(Arc<Fs>),
    Missing,
    Unjudged,
}

impl World {
    pub fn new() -> World {
        World {
            timelines: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            history: Vec::new(),
            made: BTreeSet::new(),
            creates: BTreeMap::new(),
            now: START,
        }
    }

    fn find(&self, at: At) -> Found {
        match at {
            At::Now(t) => self
                .timelines
                .get(&t)
                .map_or(Found::Missing, |t| Found::State(t.live.clone())),
            At::Snapshot(s) => self
                .snapshots
                .get(&s)
                .map_or(Found::Missing, |s| Found::State(s.state.clone())),
            At::Closed(t, step) => {
                let Some(close) = self.history.iter().find(|close| close.step == step) else {
                    return Found::Unjudged;
                };
                if !self.timelines.contains_key(&t) {
                    return Found::Missing;
                }
                close
                    .states
                    .get(&t)
                    .map_or(Found::Unjudged, |state| Found::State(state.clone()))
            }
        }
    }

    /// What a point shows, if it exists.
    pub fn state(&self, at: At) -> Option<Arc<Fs>> {
        match self.find(at) {
            Found::State(state) => Some(state),
            _ => None,
        }
    }

    fn close(&mut self, step: StepId) {
        let states = self
            .timelines
            .iter()
            .map(|(&id, timeline)| (id, timeline.live.clone()))
            .collect();
        self.history.push(Close { step, states });
        if self.history.len() > HISTORY {
            self.history.remove(0);
        }
    }

    /// The state a file operation sees, for looking at answers afterwards.
    pub fn place(&self, place: Place) -> Option<Arc<Fs>> {
        match place {
            Place::Timeline(t) => self.state(At::Now(t)),
            Place::Snapshot(s) => self.state(At::Snapshot(s)),
        }
    }

    /// Does a step and says what it has to answer.
    pub fn apply(&mut self, step: &Step) -> Expected<Answer> {
        self.now += step.clock;
        self.pass_time();
        let answer = self.apply_op(step.id, &step.op);
        if answer.is_ok()
            && matches!(
                step.op,
                Op::CreateRoot { .. }
                    | Op::Fork { .. }
                    | Op::ForkGroup { .. }
                    | Op::Snapshot { .. }
                    | Op::SnapshotGroup { .. }
            )
            && !matches!(answer, Ok(Answer::Skip))
        {
            self.creates.insert(step.id, step.op.clone());
        }
        answer
    }

    /// Retention ends, and does not come back.
    fn pass_time(&mut self) {
        for timeline in self.timelines.values_mut() {
            let retain = timeline.limits.retain_millis as i64 * 1_000_000;
            timeline.horizon = timeline.horizon.max(self.now.saturating_sub(retain));
        }
    }

    /// Whether a timeline's state at this epoch may be refused because of retention.
    pub fn may_be_gone(&self, timeline: StepId, epoch: u64) -> bool {
        self.timelines
            .get(&timeline)
            .is_some_and(|t| (epoch as i64) < t.horizon)
    }

    fn apply_op(&mut self, id: StepId, op: &Op) -> Expected<Answer> {
        match op {
            Op::File {
                place,
                uid,
                gid,
                op,
            } => {
                let actor = Actor {
                    uid: *uid,
                    gid: *gid,
                    now: Nanos::from(self.now),
                };
                self.apply_file(id, *place, actor, op)
            }
            Op::CreateRoot { name } => {
                self.free_timeline_name(name)?;
                let live = Arc::new(Fs::new(Nanos::from(self.now)));
                self.made.insert(id);
                self.timelines.insert(id, Timeline::new(name, live));
                Ok(Answer::Nothing)
            }
            Op::Fork { name, source } => self.fork(id, &[(name.clone(), *source)]),
            Op::ForkGroup { forks } => self.fork(id, forks),
            Op::Snapshot { name, source } => self.snapshot(id, &[(name.clone(), *source)]),
            Op::SnapshotGroup { snapshots } => self.snapshot(id, snapshots),
            Op::Restore { timeline, source } => {
                let state = match self.find(*source) {
                    Found::State(state) => state,
                    Found::Unjudged => return Ok(Answer::Skip),
                    Found::Missing => {
                        return match self.timelines.get(timeline) {
                            Some(timeline) if timeline.read_only => Ok(Answer::Skip),
                            _ => refused(ErrorKind::NotFound),
                        };
                    }
                };
                let Some(timeline) = self.timelines.get_mut(timeline) else {
                    return refused(ErrorKind::NotFound);
                };
                if timeline.read_only {
                    return Ok(Answer::Skip);
                }
                let mut state = (*state).clone();
                state.born = Arc::new(state.born.union(&timeline.live.born).copied().collect());
                timeline.live = Arc::new(state);
                Ok(Answer::Nothing)
            }
            Op::Rename { timeline, name } => {
                let Some(old) = self.timelines.get(timeline) else {
                    return refused(ErrorKind::NotFound);
                };
                if old.name != *name {
                    self.free_timeline_name(name)?;
                }
                if let Some(timeline) = self.timelines.get_mut(timeline) {
                    timeline.name = name.clone();
                }
                Ok(Answer::Nothing)
            }
            Op::Settings {
                timeline,
                read_only,
                protected,
                limits,
            } => {
                let Some(timeline) = self.timelines.get_mut(timeline) else {
                    return refused(ErrorKind::NotFound);
                };
                timeline.read_only = *read_only;
                timeline.protected = *protected;
                timeline.limits = *limits;
                self.pass_time();
                Ok(Answer::Nothing)
            }
            Op::DeleteTimeline { timeline } => {
                if self
                    .timelines
                    .get(timeline)
                    .is_some_and(|timeline| timeline.protected)
                {
                    return refused(ErrorKind::Protected);
                }
                self.timelines.remove(timeline);
                self.was(*timeline)
            }
            Op::DeleteSnapshot { snapshot } => {
                self.snapshots.remove(snapshot);
                self.was(*snapshot)
            }
            Op::Repeat { step } => Ok(if self.repeatable(*step) {
                Answer::Nothing
            } else {
                Answer::Skip
            }),
            Op::Tick => {
                self.close(id);
                Ok(Answer::Nothing)
            }
            Op::Sync | Op::Collect | Op::Reopen { .. } => Ok(Answer::Nothing),
        }
    }

    /// Deleting what was deleted is no error; deleting what never was is one.
    fn was(&self, id: StepId) -> Expected<Answer> {
        if self.made.contains(&id) {
            Ok(Answer::Nothing)
        } else {
            refused(ErrorKind::NotFound)
        }
    }

    /// Whether everything a step made is still as it was made.
    fn repeatable(&self, step: StepId) -> bool {
        let timeline = |id: StepId, name: &str| {
            self.timelines
                .get(&id)
                .is_some_and(|t| t.name == name && !t.read_only && !t.protected)
        };
        match self.creates.get(&step) {
            Some(Op::CreateRoot { name }) => timeline(step, name),
            Some(Op::Fork { name, .. }) => timeline(step, name),
            Some(Op::ForkGroup { forks }) => forks
                .iter()
                .zip(step..)
                .all(|((name, _), id)| timeline(id, name)),
            Some(Op::Snapshot { .. }) => self.snapshots.contains_key(&step),
            Some(Op::SnapshotGroup { snapshots }) => snapshots
                .iter()
                .zip(step..)
                .all(|(_, id)| self.snapshots.contains_key(&id)),
            _ => false,
        }
    }

    fn free_timeline_name(&self, name: &str) -> Expected<()> {
        if self
            .timelines
            .values()
            .any(|timeline| timeline.name == name)
        {
            return Err(vec![ErrorKind::AlreadyExists, ErrorKind::Conflict]);
        }
        Ok(())
    }

    /// The states of several points; `None` when one of them is not judged.
    fn sources(&self, points: &[(String, At)]) -> Expected<Option<Vec<Arc<Fs>>>> {
        let mut states = Vec::new();
        let mut faults = Vec::new();
        for (_, at) in points {
            match self.find(*at) {
                Found::State(state) => states.push(state),
                Found::Missing => faults.push(ErrorKind::NotFound),
                Found::Unjudged => return Ok(None),
            }
        }
        if points
            .iter()
            .map(|(name, _)| name)
            .collect::<BTreeSet<_>>()
            .len()
            < points.len()
        {
            faults.extend([
                ErrorKind::AlreadyExists,
                ErrorKind::Conflict,
                ErrorKind::InvalidArgument,
            ]);
        }
        if faults.is_empty() {
            Ok(Some(states))
        } else {
            Err(faults)
        }
    }

    fn fork(&mut self, id: StepId, forks: &[(String, At)]) -> Expected<Answer> {
        let sources = self.sources(forks);
        if matches!(sources, Ok(None)) {
            return Ok(Answer::Skip);
        }
        let mut faults = Vec::new();
        for (name, _) in forks {
            faults.extend(self.free_timeline_name(name).err().unwrap_or_default());
        }
        let states = match sources {
            Ok(Some(states)) if faults.is_empty() => states,
            Ok(_) => return Err(faults),
            Err(more) => return Err(faults.into_iter().chain(more).collect()),
        };
        if forks.iter().any(|(_, at)| matches!(at, At::Now(_))) {
            self.close(id);
        }
        for (((name, _), live), id) in forks.iter().zip(states).zip(id..) {
            self.made.insert(id);
            self.timelines.insert(id, Timeline::new(name, live));
        }
        Ok(Answer::Nothing)
    }

    fn snapshot(&mut self, id: StepId, snapshots: &[(String, At)]) -> Expected<Answer> {
        let sources = self.sources(snapshots);
        if matches!(sources, Ok(None)) {
            return Ok(Answer::Skip);
        }
        let mut faults = Vec::new();
        for (name, _) in snapshots {
            if self
                .snapshots
                .values()
                .any(|snapshot| snapshot.name == *name)
            {
                faults.extend([ErrorKind::AlreadyExists, ErrorKind::Conflict]);
            }
        }
        let states = match sources {
            Ok(Some(states)) if faults.is_empty() => states,
            Ok(_) => return Err(faults),
            Err(more) => return Err(faults.into_iter().chain(more).collect()),
        };
        if snapshots.iter().any(|(_, at)| matches!(at, At::Now(_))) {
            self.close(id);
        }
        for (((name, _), state), id) in snapshots.iter().zip(states).zip(id..) {
            self.made.insert(id);
            self.snapshots.insert(
                id,
                Snapshot {
                    name: name.clone(),
                    state,
                },
            );
        }
        Ok(Answer::Nothing)
    }

    fn apply_file(
        &mut self,
        id: StepId,
        place: Place,
        actor: Actor,
        op: &FileOp,
    ) -> Expected<Answer> {
        let Some(state) = self.place(place) else {
            return refused(ErrorKind::NotFound);
        };
        let read_only = match place {
            Place::Timeline(t) => self.timelines.get(&t).is_some_and(|t| t.read_only),
            Place::Snapshot(_) => true,
        };
        if let Some(answer) = look(&state, op) {
            return answer;
        }
        let mut changed = (*state).clone();
        drop(state);
        let answer = change(&mut changed, id, actor, op);
        if read_only {
            return match answer {
                Err(kinds) => Err(kinds.into_iter().chain([ErrorKind::ReadOnly]).collect()),
                // What changes nothing may be refused or not.
                Ok(Answer::Skip | Answer::Flag(_) | Answer::Count(0)) => Ok(Answer::Skip),
                Ok(_)
                    if matches!(
                        op,
                        FileOp::Rename { .. } | FileOp::Fsync { .. } | FileOp::ReapAll
                    ) =>
                {
                    Ok(Answer::Skip)
                }
                Ok(_) => refused(ErrorKind::ReadOnly),
            };
        }
        if answer.is_ok()
            && let Place::Timeline(t) = place
            && let Some(timeline) = self.timelines.get_mut(&t)
        {
            let (before, after) = (timeline.live.nodes.len(), changed.nodes.len());
            if after > before
                && timeline
                    .limits
                    .inodes
                    .is_some_and(|limit| after as u64 > limit)
            {
                return refused(ErrorKind::QuotaExceeded);
            }
            timeline.live = Arc::new(changed);
        }
        answer
    }
}

/// Operations that only look.
fn look(fs: &Fs, op: &FileOp) -> Option<Expected<Answer>> {
    Some(match op {
        FileOp::Lookup { parent, name } => fs.lookup(*parent, name).map(Answer::Attr),
        FileOp::Attr { ino } => fs.node(*ino).map(|_| Answer::Attr(*ino)),
        FileOp::Read { ino, offset, len } => fs.read(*ino, *offset, *len).map(Answer::Bytes),
        FileOp::ReadLink { ino } => fs.read_link(*ino).map(Answer::Bytes),
        FileOp::ReadDir { ino, .. } => fs.entries(*ino).map(|entries| {
            Answer::Entries(
                entries
                    .iter()
                    .filter_map(|(name, &handle)| {
                        Some((name.clone(), handle, fs.node(handle).ok()?.kind))
                    })
                    .collect(),
            )
        }),
        FileOp::Xattr { ino, name } => fs.xattr(*ino, name).map(Answer::Bytes),
        FileOp::Xattrs { ino } => fs
            .node(*ino)
            .map(|node| Answer::Names(node.xattrs.keys().cloned().collect())),
        FileOp::Seek { ino, offset, data } => Ok(Answer::Seek {
            ino: *ino,
            offset: *offset,
            data: *data,
        }),
        _ => return None,
    })
}

fn change(fs: &mut Fs, id: StepId, actor: Actor, op: &FileOp) -> Expected<Answer> {
    match op {
        FileOp::Create {
            parent,
            name,
            kind,
            mode,
            rdev,
            target,
        } => {
            let new = NewInode {
                handle: id,
                kind: *kind,
                mode: *mode,
                rdev: *rdev,
                target: target.clone(),
            };
            fs.create(actor, *parent, name, &new)
                .map(|()| Answer::Made(id))
        }
        FileOp::CreateUnlinked { parent, mode } => fs
            .create_unlinked(actor, *parent, *mode, id)
            .map(|()| Answer::Made(id)),
        FileOp::Link { ino, parent, name } => match fs.link(actor, *ino, *parent, name) {
            Some(done) => done.map(|()| Answer::Attr(*ino)),
            None => Ok(Answer::Skip),
        },
        FileOp::Unlink { parent, name } => {
            fs.unlink(actor, *parent, name).map(|()| Answer::Nothing)
        }
        FileOp::Rmdir { parent, name } => fs.rmdir(actor, *parent, name).map(|()| Answer::Nothing),
        FileOp::Rename {
            parent,
            name,
            new_parent,
            new_name,
            mode,
        } => fs
            .rename(actor, (*parent, name), (*new_parent, new_name), *mode)
            .map(|()| Answer::Nothing),
        FileOp::Write {
            ino,
            offset,
            len,
            kill_priv,
            keep_times,
        } => {
            let data = pattern(id, *len as usize);
            fs.write(actor, *ino, *offset, &data, *kill_priv, *keep_times)
                .map(|n| Answer::Count(n as u64))
        }
        FileOp::SetAttr { ino, change } => fs
            .set_attr(actor, *ino, change)
            .map(|()| Answer::Attr(*ino)),
        FileOp::Allocate {
            ino,
            how,
            offset,
            len,
        } => fs
            .allocate(actor, *ino, *how, *offset, *len)
            .map(|()| Answer::Nothing),
        FileOp::CopyRange {
            from,
            from_offset,
            to,
            to_offset,
            len,
        } => match fs.copy_range(actor, (*from, *from_offset), (*to, *to_offset), *len) {
            Some(done) => done.map(Answer::Count),
            None => Ok(Answer::Skip),
        },
        FileOp::SetXattr {
            ino,
            name,
            len,
            mode,
        } => fs
            .set_xattr(actor, *ino, name, &pattern(id, *len as usize), *mode)
            .map(|()| Answer::Nothing),
        FileOp::RemoveXattr { ino, name } => {
            fs.remove_xattr(actor, *ino, name).map(|()| Answer::Nothing)
        }
        FileOp::Fsync { ino } => Ok(if fs.node(*ino).is_ok() {
            Answer::Nothing
        } else {
            Answer::Skip
        }),
        FileOp::Reap { ino } => match fs.node(*ino) {
            Ok(_) => Ok(Answer::Flag(fs.reap(*ino))),
            Err(_) => Ok(Answer::Skip),
        },
        FileOp::ReapAll => {
            let orphans = fs.orphans();
            orphans.iter().for_each(|&orphan| {
                fs.reap(orphan);
            });
            Ok(Answer::Count(orphans.len() as u64))
        }
        _ => Ok(Answer::Skip),
    }
}
