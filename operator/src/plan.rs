//! The plan of one object, and what the kinds have in common in it.

use crds::conditions::{Reason, State};
use crds::{FieldError, Object, ObjectKey, Validate, names};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::action::Action;
use crate::id::Id;
use crate::observed::{Mount, Observed};
use crate::peers::Peers;
use crate::{bucket, earlier, fork, snapshot};

/// What is decided on: the present, as it was reported.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// The time, injected: plans read no clock.
    pub now: Timestamp,
    /// What the engine holds.
    pub observed: &'a Observed,
    /// What the other objects are.
    pub peers: &'a Peers,
    /// What differs between a cluster and `anabranch play`.
    pub options: &'a Options,
}

/// What differs between a cluster and `anabranch play`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether every fork is mounted as long as it is there, as play does; in a cluster, pods ask for mounts.
    pub mount_forks: bool,
    /// Name of the node; none without a cluster.
    pub node: Option<String>,
    /// Whether deletion of what is protected was refused at admission already: what is being deleted all the same, because
    /// its namespace is, must end.
    pub admission: bool,
}

/// What to do for one object, and what to say of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The object with its new status. To be written before any action is done.
    pub object: Object,
    /// The state that the status says, for code.
    pub state: State,
    /// What to do, in this order. Empty when nothing is to be done now.
    pub actions: Vec<Action>,
    /// Objects that are awaited: plan again when one of them changes.
    pub waits: Vec<Wait>,
    /// When to plan again although nothing changed: an expiry, a time that is awaited, the end of a pause.
    pub next: Option<Timestamp>,
    /// Whether the object is being deleted and nothing of it is in the store any more: it can be forgotten.
    pub released: bool,
}

/// Something that is awaited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The object.
    pub on: ObjectKey,
    /// Why: what is missing of it.
    pub why: String,
}

/// Decides what to do for an object. Costs time in proportion to the number of timelines, snapshots and mounts observed.
pub fn plan(object: &Object, world: &World<'_>) -> Plan {
    let key = object.key();
    // Without a cluster an object has its uid from us, and whoever writes the manifests owns the store.
    let clustered = world.options.node.is_some();
    if clustered
        && object.metadata().deletion_timestamp.is_none()
        && let Some(state) = earlier::conflict(object, &key, world.observed)
    {
        return apart(object, state, world.now);
    }
    let mut draft = match object {
        Object::Bucket(object) => bucket::plan::plan(object, &key, world),
        Object::Snapshot(object) => snapshot::plan::plan(object, &key, world),
        Object::Fork(object) => fork::plan::plan(object, &key, world),
    };
    let generation = object.metadata().generation;
    if !draft.actions.is_empty()
        && let Some(failure) = world.observed.failures.of(&key, generation)
    {
        draft.state = failure.state();
        let due = failure.next();
        if due > world.now {
            draft.actions.clear();
            draft.wake(due);
        }
    }
    let mut object = object.clone();
    match &mut object {
        Object::Bucket(object) => bucket::status::write(object, &draft, world),
        Object::Snapshot(object) => snapshot::status::write(object, &draft, world),
        Object::Fork(object) => fork::status::write(object, &draft, world),
    }
    Plan {
        object,
        state: draft.state,
        actions: draft.actions,
        waits: draft.waits,
        next: draft.next,
        released: draft.released,
    }
}

/// A plan that does nothing, and says nothing about data that is not the object's.
fn apart(object: &Object, state: State, now: Timestamp) -> Plan {
    let mut object = object.clone();
    say(&mut object, &state, now);
    Plan {
        object,
        state,
        actions: Vec::new(),
        waits: Vec::new(),
        next: None,
        released: false,
    }
}

/// Says a state of an object in the words that are the same for all kinds; the rest of the status stays.
pub(crate) fn say(object: &mut Object, state: &State, now: Timestamp) {
    let generation = object.metadata().generation;
    let (conditions, observed, summary) = match object {
        Object::Bucket(object) => {
            let status = object.status.get_or_insert_default();
            (
                &mut status.conditions,
                &mut status.observed_generation,
                &mut status.summary,
            )
        }
        Object::Snapshot(object) => {
            let status = object.status.get_or_insert_default();
            status.ready_to_use &= state.is_ready();
            (
                &mut status.conditions,
                &mut status.observed_generation,
                &mut status.summary,
            )
        }
        Object::Fork(object) => {
            let status = object.status.get_or_insert_default();
            if !state.is_ready() {
                status.ready_count = 0;
            }
            (
                &mut status.conditions,
                &mut status.observed_generation,
                &mut status.summary,
            )
        }
    };
    state.write(conditions, generation, second(now));
    *observed = generation;
    let summary = summary.get_or_insert_default();
    summary.state = Some(state.word().to_owned());
    summary.message = Some(state.message().to_owned()).filter(|message| !message.is_empty());
}

/// A plan without its status.
pub(crate) struct Draft {
    pub(crate) state: State,
    pub(crate) actions: Vec<Action>,
    pub(crate) waits: Vec<Wait>,
    pub(crate) next: Option<Timestamp>,
    pub(crate) released: bool,
    /// When the data's lifetime ends, and when it was found to have ended.
    pub(crate) expires: Option<Timestamp>,
    pub(crate) expired: Option<Timestamp>,
    /// Forks whose data is lost, by index.
    pub(crate) lost: Vec<Option<u32>>,
}

impl Draft {
    pub(crate) fn new(state: State) -> Self {
        Draft {
            state,
            actions: Vec::new(),
            waits: Vec::new(),
            next: None,
            released: false,
            expires: None,
            expired: None,
            lost: Vec::new(),
        }
    }

    /// Plans again at this time at the latest.
    pub(crate) fn wake(&mut self, time: Timestamp) {
        self.next = Some(self.next.map_or(time, |next| next.min(time)));
    }

    /// Takes our mounts of a target away; says which pod still has it mounted, when one does.
    pub(crate) fn unmount(&mut self, observed: &Observed, target: Id) -> Option<String> {
        let mut pod = None;
        for mount in observed.mounts_of(target) {
            match &mount.pod {
                Some(name) => pod = Some(name.clone()),
                None => self.actions.push(unmount(mount)),
            }
        }
        pod
    }
}

pub(crate) fn unmount(mount: &Mount) -> Action {
    Action::Unmount {
        target: mount.target,
        path: mount.path.clone(),
    }
}

/// The uid of an object; its name, where there is no API server that gives uids.
pub(crate) fn uid(metadata: &ObjectMeta, key: &ObjectKey) -> String {
    metadata
        .uid
        .clone()
        .filter(|uid| !uid.is_empty())
        .unwrap_or_else(|| format!("{}/{}", key.namespace, key.name))
}

/// The state of an object that does not hold to its rules; none when it does.
pub(crate) fn invalid<T: Validate>(object: &T) -> Option<State> {
    let errors = object.validate();
    if errors.is_empty() {
        return None;
    }
    let sentences: Vec<_> = errors.iter().map(FieldError::to_string).collect();
    Some(State::Stalled(Reason::Invalid, sentences.join(". ")))
}

/// The state of an object whose source was changed after its data was made; nothing is done about the data.
pub(crate) fn source_changed(made_from: &str, asked_for: &str) -> State {
    State::Stalled(
        Reason::ImmutableFieldChanged,
        format!(
            "the data was made from {}, and spec.source now says {}; nothing was changed. Put the source back, or make an object of another name",
            or_nothing(made_from),
            or_nothing(asked_for)
        ),
    )
}

fn or_nothing(source: &str) -> &str {
    if source.is_empty() {
        "no source"
    } else {
        source
    }
}

/// The state of an object whose name in the engine belongs to something else.
pub(crate) fn name_taken(
    name: &str,
    owner: Option<&ObjectKey>,
    peers: &Peers,
) -> (State, Option<Wait>) {
    match owner {
        Some(owner) if peers.get(owner).is_some_and(|peer| peer.deleting) => {
            let why = format!("{name} still belongs to {owner}, which is being deleted");
            (
                State::Reconciling(Reason::WaitingForName, why.clone()),
                Some(Wait {
                    on: owner.clone(),
                    why,
                }),
            )
        }
        Some(owner) => {
            let message = format!("{name} belongs to {owner}; rename one of the two objects");
            (
                State::Stalled(Reason::NameTaken, message),
                Some(Wait {
                    on: owner.clone(),
                    why: "has the name".to_owned(),
                }),
            )
        }
        None => {
            let message = format!(
                "the store has {name} already, made by something else (no labels of {}); rename it or this object",
                names::GROUP
            );
            (State::Stalled(Reason::NameTaken, message), None)
        }
    }
}

/// The state of an object whose data was there and is not any more.
pub(crate) fn lost(what: &str) -> State {
    State::Stalled(
        Reason::DataLost,
        format!(
            "{what} was made before and is no longer in the store; it is not made anew by itself. Delete the object and make it again to start anew"
        ),
    )
}

/// The state while pods have mounted what is to be freed.
pub(crate) fn in_use(what: &str, pod: &str) -> State {
    State::Reconciling(
        Reason::InUse,
        format!("{what} is mounted by pod {pod}; it is freed when that pod ends"),
    )
}

/// A time for a status: to the second, as statuses are kept, the second that has passed.
pub(crate) fn second(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// When data was made, for a status: the next full second, so that a `ttl` that counts from it is never too short.
pub(crate) fn made(time: Timestamp) -> Time {
    let up = i64::from(time.subsec_nanosecond() > 0);
    Time(Timestamp::from_second(time.as_second().saturating_add(up)).unwrap_or(time))
}
