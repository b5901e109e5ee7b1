//! What there is, as plans see it.

use std::collections::BTreeMap;

use operator::observed::{Import, Mount, Observed, Origin, Snapshot, Timeline};
use operator::{Id, Settings};
use storage_engine::{Engine, SnapshotInfo, TimelineId, TimelineInfo};

use crate::mounts::pods::users;
use crate::owner::{Host, Outcome};

/// Reads timelines, snapshots and mounts. Cost: their number; with `usage`, a sync of each mount too.
pub(super) fn observe(
    engine: &Engine,
    host: &dyn Host,
    imports: BTreeMap<Id, Import>,
    failures: operator::Failures,
    usage: bool,
) -> Outcome<Observed> {
    let mut observed = Observed {
        imports,
        failures,
        ..Observed::default()
    };
    for info in engine.timelines() {
        let measured = |id| usage.then(|| measure(engine, host, id)).flatten();
        let (timeline, mounts) = timeline_seen(info, host, measured);
        observed.mounts.extend(mounts);
        observed.timelines.insert(timeline.id, timeline);
    }
    for info in engine.snapshots()? {
        let snapshot = snapshot_seen(info);
        observed.snapshots.insert(snapshot.id, snapshot);
    }
    Ok(observed)
}

/// A timeline as plans see it, and where it is mounted.
pub(super) fn timeline_seen(
    info: TimelineInfo,
    host: &dyn Host,
    measured: impl FnOnce(TimelineId) -> Option<crds::Usage>,
) -> (Timeline, Vec<Mount>) {
    let id = Id(info.id.0);
    let paths = host.mounts(info.id);
    let users = match paths.is_empty() {
        true => Vec::new(),
        false => users(&paths).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell which pods have a mount");
            // Then it is taken for one of theirs: what a pod may be using is not taken away.
            vec![Some("that cannot be told".to_owned()); paths.len()]
        }),
    };
    let mounts = paths.iter().zip(users).map(|(path, pod)| Mount {
        target: id,
        path: path.display().to_string(),
        read_only: info.settings.read_only,
        pod,
    });
    let mounts = mounts.collect();
    let origin = info.origins.first().map(|origin| Origin {
        parent: Id(origin.parent.0),
        cutoff: crds::Epoch(origin.cutoff.0),
        snapshot: origin.snapshot.map(|id| Id(id.0)),
    });
    let timeline = Timeline {
        id,
        name: info.name,
        created: crds::Epoch(info.created.0),
        origin,
        usage: measured(info.id),
        settings: Settings {
            read_only: info.settings.read_only,
            protected: info.settings.protected,
            quota_bytes: info.settings.quota.bytes,
            quota_inodes: info.settings.quota.inodes,
            retain: info.settings.retain,
            labels: info.settings.labels,
        },
    };
    (timeline, mounts)
}

/// A snapshot as plans see it.
pub(super) fn snapshot_seen(info: SnapshotInfo) -> Snapshot {
    Snapshot {
        id: Id(info.id.0),
        name: info.name,
        timeline: Id(info.timeline.0),
        epoch: crds::Epoch(info.epoch.0),
        created: crds::Epoch(info.created.0),
        digest: info.digest,
        bytes: info.logical_bytes,
        inodes: info.inodes,
        labels: info.labels,
    }
}

/// What is in a mount's cache only counts too; of one that cannot be synced, what is in the engine.
pub(super) fn measure(engine: &Engine, host: &dyn Host, id: TimelineId) -> Option<crds::Usage> {
    if let Err(failure) = host.sync(id) {
        tracing::warn!(%failure, timeline = %id, "cannot sync a mount");
    }
    let usage = engine.usage(id).ok()?;
    Some(crds::Usage {
        logical_bytes: usage.logical_bytes,
        divergent_bytes: usage.divergent_bytes,
        shared_bytes: usage.shared_bytes,
        inodes: usage.inodes,
    })
}
