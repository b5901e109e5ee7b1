//! From a source as people write it to a point in the engine, or to what is awaited.

use crds::conditions::{Reason, State};
use crds::{At, ForkSource, Kind, Object, ObjectKey, SnapshotSource, names};

use crate::action::Point;
use crate::earlier::earlier;
use crate::id::Id;
use crate::owner::{self, engine_name};
use crate::plan::{Draft, Wait, World};

/// A source: which object, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    kind: Kind,
    /// None for that of the object.
    namespace: Option<&'a str>,
    name: &'a str,
    at: Option<&'a At>,
}

impl<'a> Source<'a> {
    /// The first source that is named; validation has made sure that it is the only one.
    fn first(
        named: [(Kind, &'a Option<String>); 3],
        namespace: Option<&'a str>,
        at: &'a Option<At>,
    ) -> Option<Self> {
        let (kind, name) = named
            .into_iter()
            .find_map(|(kind, name)| Some((kind, name.as_deref()?)))?;
        Some(Source {
            kind,
            namespace,
            name,
            at: at.as_ref(),
        })
    }

    pub(crate) fn of_snapshot(source: &'a SnapshotSource) -> Option<Self> {
        let named = [
            (Kind::Bucket, &source.bucket),
            (Kind::Fork, &source.fork),
            (Kind::Snapshot, &None),
        ];
        Source::first(named, None, &source.at)
    }

    pub(crate) fn of_fork(source: &'a ForkSource) -> Option<Self> {
        let named = [
            (Kind::Bucket, &source.bucket),
            (Kind::Snapshot, &source.snapshot),
            (Kind::Fork, &source.fork),
        ];
        Source::first(named, source.namespace.as_deref(), &source.at)
    }

    /// The object that the source is, seen from an object.
    pub(crate) fn key(&self, object: &ObjectKey) -> ObjectKey {
        ObjectKey::new(
            self.kind,
            self.namespace.unwrap_or(&object.namespace),
            self.name,
        )
    }
}

/// The object that an object is made from; none for a bucket.
pub fn key_of(object: &Object, key: &ObjectKey) -> Option<ObjectKey> {
    let source = match object {
        Object::Bucket(_) => None,
        Object::Snapshot(object) => Source::of_snapshot(&object.spec.source),
        Object::Fork(object) => Source::of_fork(&object.spec.source),
    };
    Some(source?.key(key))
}

/// Finds the point of a source for an object; without one, the draft says what is awaited or wrong.
pub(crate) fn resolve(
    source: &Source<'_>,
    object: &ObjectKey,
    world: &World<'_>,
    draft: &mut Draft,
) -> Option<Point> {
    if let Some(at) = source.at
        && at.epoch().timestamp() > world.now
    {
        draft.wake(at.epoch().timestamp());
        draft.state = State::Reconciling(
            Reason::WaitingForTime,
            format!("waits until {at}, which spec.source.at asks for"),
        );
        return None;
    }
    let key = source.key(object);
    let name = engine_name(key.kind, &key.namespace, &key.name, None);
    let found = match source.kind {
        Kind::Snapshot => world
            .observed
            .snapshot_named(&name)
            .map(|snapshot| (snapshot.id, None, &snapshot.labels)),
        Kind::Bucket | Kind::Fork => world
            .observed
            .timeline_named(&name)
            .filter(|timeline| !owner::is_retained(&timeline.settings.labels))
            .map(|timeline| (timeline.id, Some(timeline.id), &timeline.settings.labels)),
    };
    let Some((id, timeline, labels)) = found else {
        missing(source, object, world, draft);
        return None;
    };
    let owner = match source.kind {
        Kind::Fork => world.peers.maker_of_fork(&key.namespace, source.name),
        _ => world.peers.get(&key).map(|peer| (key.clone(), None, peer)),
    };
    if world.options.node.is_some()
        && let Some((owner, _, peer)) = owner
        && let Some(uid) = &peer.unsettled
        && earlier(labels, uid).is_some()
    {
        wait(
            draft,
            owner,
            "has data of an earlier object of its name",
            world,
        );
        return None;
    }
    if labels
        .get(names::LABEL_IMPORT)
        .is_some_and(|import| import != "complete")
    {
        wait(draft, key, "is still importing its source", world);
        return None;
    }
    match (timeline, source.at) {
        (Some(timeline), Some(at)) => Some(Point::At(timeline, at.epoch())),
        (Some(timeline), None) => Some(Point::Now(timeline)),
        (None, None) => Some(Point::Snapshot(id)),
        (None, Some(at)) => {
            let foreign = key.namespace != object.namespace;
            of_snapshot_at(id, at, foreign, world, draft)
        }
    }
}

/// An instant of a snapshot's timeline, not later than the snapshot. Who was granted a snapshot of another namespace was not
/// granted the history behind it.
fn of_snapshot_at(
    id: Id,
    at: &At,
    foreign: bool,
    world: &World<'_>,
    draft: &mut Draft,
) -> Option<Point> {
    let snapshot = world.observed.snapshots.get(&id)?;
    if foreign && at.epoch() < snapshot.epoch {
        draft.state = State::Stalled(
            Reason::NotGranted,
            format!(
                "spec.source.at {at} is before the snapshot was taken, and a grant of a snapshot of another namespace is one of that state alone; leave it out, or name the bucket or fork, with a grant of it"
            ),
        );
        return None;
    }
    if at.epoch() > snapshot.epoch {
        draft.state = State::Stalled(
            Reason::Invalid,
            format!(
                "spec.source.at {at} is later than the snapshot, which holds {}; name the bucket or fork instead of the snapshot, or an earlier time",
                snapshot.epoch.timestamp()
            ),
        );
        return None;
    }
    Some(if at.epoch() == snapshot.epoch {
        Point::Snapshot(id)
    } else {
        Point::At(snapshot.timeline, at.epoch())
    })
}

/// Says why a source is not in the store.
fn missing(source: &Source<'_>, object: &ObjectKey, world: &World<'_>, draft: &mut Draft) {
    let direct = source.key(object);
    if source.kind == Kind::Fork {
        if let Some(cycle) = cycle(source.name, object, world) {
            draft.state = State::Stalled(
                Reason::SourceUnavailable,
                format!(
                    "forks that are made from each other can never begin: {cycle}; give one of them another source"
                ),
            );
            return;
        }
        match world.peers.maker_of_fork(&object.namespace, source.name) {
            Some((set, Some(index), peer)) if peer.count.is_some_and(|count| index >= count) => {
                let count = peer.count.unwrap_or_default();
                wait(
                    draft,
                    set,
                    &format!("has {count} forks, and fork {index} is asked for"),
                    world,
                );
                return;
            }
            Some((set, _, _)) => return wait(draft, set, "is not there yet", world),
            None if world
                .peers
                .get(&direct)
                .is_some_and(|peer| peer.count.is_some()) =>
            {
                draft.waits.push(Wait {
                    on: direct.clone(),
                    why: "is a set".to_owned(),
                });
                draft.state = State::Stalled(
                    Reason::SourceUnavailable,
                    format!(
                        "{direct} is a set of forks; name one of them in spec.source.fork: {}-0",
                        source.name
                    ),
                );
                return;
            }
            None => {}
        }
    }
    wait(draft, direct, "is not there yet", world);
}

/// Waits for another object, or says that waiting is in vain.
fn wait(draft: &mut Draft, on: ObjectKey, why: &str, world: &World<'_>) {
    let peer = world.peers.get(&on);
    draft.state = match peer {
        Some(peer) if peer.expired => State::Stalled(
            Reason::SourceUnavailable,
            format!(
                "{on} has expired and its data was freed; make it again, or make this object from another source"
            ),
        ),
        Some(peer) if peer.deleting => State::Reconciling(
            Reason::WaitingForSource,
            format!("waits for {on}, which is being deleted; it would have to be made again"),
        ),
        Some(peer) => match &peer.stalled {
            Some(reason) => State::Reconciling(
                Reason::WaitingForSource,
                format!("waits for {on}, which {why} and needs somebody's help ({reason})"),
            ),
            None => State::Reconciling(
                Reason::WaitingForSource,
                format!("waits for {on}, which {why}"),
            ),
        },
        None => State::Reconciling(
            Reason::WaitingForSource,
            format!("waits for {on}, which does not exist"),
        ),
    };
    draft.waits.push(Wait {
        on,
        why: why.to_owned(),
    });
}

/// Follows forks that are made from forks, from the source of an object back to the object: `a <- b <- a`.
fn cycle(name: &str, object: &ObjectKey, world: &World<'_>) -> Option<String> {
    let mut path = vec![object.name.clone()];
    let mut name = name.to_owned();
    loop {
        let (maker, _, peer) = world.peers.maker_of_fork(&object.namespace, &name)?;
        path.push(name);
        if maker == *object {
            return Some(path.join(" <- "));
        }
        // A cycle without this object in it is that of others.
        if path.len() > 1 + world.peers.len() {
            return None;
        }
        name = peer.fork.clone()?;
    }
}
