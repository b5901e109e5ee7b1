//! What the store has of one object: the same as [`observe`](super::observe), narrowed to what its plan looks at, so that
//! the cost does not grow with what else the node holds.

use std::collections::BTreeMap;

use crds::{Kind, Object, ObjectKey, names};
use operator::observed::{Import, Observed};
use operator::owner::{engine_name, key_of};
use operator::{Failures, Id};
use storage_engine::{Engine, ErrorKind, SnapshotInfo, TimelineId, TimelineInfo};

use super::observe::{snapshot_seen, timeline_seen};
use crate::owner::{Host, Outcome};

/// The timelines and snapshots that may belong to an object: those that have one of its names.
pub(super) struct Named {
    pub(super) timelines: Vec<TimelineInfo>,
    pub(super) snapshots: Vec<SnapshotInfo>,
}

impl Named {
    /// `set`: whether the forks of a set are looked for, too. Cost: a lookup; for a set, one for each fork that a set could have
    /// (a third of a millisecond).
    pub(super) fn find(engine: &Engine, key: &ObjectKey, set: bool) -> Outcome<Self> {
        let mut named = Named {
            timelines: Vec::new(),
            snapshots: Vec::new(),
        };
        let name = |index| engine_name(key.kind, &key.namespace, &key.name, index);
        match key.kind {
            Kind::Snapshot => named
                .snapshots
                .extend(absent(engine.snapshot_named(&name(None)))?),
            Kind::Bucket => named
                .timelines
                .extend(absent(engine.timeline_named(&name(None)))?),
            Kind::Fork => {
                named
                    .timelines
                    .extend(absent(engine.timeline_named(&name(None)))?);
                for index in (0..names::COUNT_MAX).filter(|_| set) {
                    named
                        .timelines
                        .extend(absent(engine.timeline_named(&name(Some(index))))?);
                }
            }
        }
        Ok(named)
    }

    /// Only what belongs to the object.
    pub(super) fn owned_by(mut self, key: &ObjectKey) -> Self {
        self.timelines
            .retain(|info| key_of(&info.settings.labels).as_ref() == Some(key));
        self.snapshots
            .retain(|info| key_of(&info.labels).as_ref() == Some(key));
        self
    }
}

/// What a plan of this object looks at: what has its names, its source, and where its forks started.
pub(super) fn observe(
    engine: &Engine,
    host: &dyn Host,
    object: &Object,
    imports: BTreeMap<Id, Import>,
    failures: Failures,
) -> Outcome<Observed> {
    let key = object.key();
    // A single fork stays one, as the rules of its kind have it.
    let set = matches!(object, Object::Fork(fork) if fork.spec.count.is_some());
    let mut named = Named::find(engine, &key, set)?;
    if let Some(source) = operator::source::key_of(object, &key) {
        let name = engine_name(source.kind, &source.namespace, &source.name, None);
        match source.kind {
            Kind::Snapshot => {
                let found = absent(engine.snapshot_named(&name))?;
                // An earlier instant of a snapshot is one of its timeline.
                if let Some(info) = &found {
                    named
                        .timelines
                        .extend(absent(engine.timeline(info.timeline))?);
                }
                named.snapshots.extend(found);
            }
            Kind::Bucket | Kind::Fork => named
                .timelines
                .extend(absent(engine.timeline_named(&name))?),
        }
    }
    let origins: Vec<_> = named
        .timelines
        .iter()
        .filter_map(|info| info.origins.first().cloned())
        .collect();
    for origin in origins {
        named
            .timelines
            .extend(absent(engine.timeline(origin.parent))?);
        if let Some(snapshot) = origin.snapshot {
            named
                .snapshots
                .extend(absent(engine.snapshot_info(snapshot))?);
        }
    }
    let mut observed = Observed {
        imports,
        failures,
        ..Observed::default()
    };
    for info in named.timelines {
        let (timeline, mounts) = timeline_seen(info, host, |id| usage_of(engine, id));
        if observed.timelines.insert(timeline.id, timeline).is_none() {
            observed.mounts.extend(mounts);
        }
    }
    for info in named.snapshots {
        let snapshot = snapshot_seen(info);
        observed.snapshots.insert(snapshot.id, snapshot);
    }
    Ok(observed)
}

/// What a timeline holds, as the engine has it; what is only in the cache of a mount comes with its next sync.
pub(super) fn usage_of(engine: &Engine, id: TimelineId) -> Option<crds::Usage> {
    let usage = engine.usage(id).ok()?;
    Some(crds::Usage {
        logical_bytes: usage.logical_bytes,
        divergent_bytes: usage.divergent_bytes,
        shared_bytes: usage.shared_bytes,
        inodes: usage.inodes,
    })
}

/// What is not there is none, and no failure.
fn absent<T>(found: Result<T, storage_engine::Error>) -> Outcome<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
