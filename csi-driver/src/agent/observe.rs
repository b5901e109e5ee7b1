//! What there is, as plans see it.

use std::collections::BTreeMap;

use operator::observed::{Import, Mount, Observed, Origin, Snapshot, Timeline};
use operator::{Id, Settings};
use storage_engine::{Engine, TimelineId};

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
        let id = Id(info.id.0);
        for path in host.mounts(info.id) {
            observed.mounts.push(Mount {
                target: id,
                path: path.display().to_string(),
                read_only: info.settings.read_only,
                pod: None,
            });
        }
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
            usage: if usage {
                measure(engine, host, info.id)
            } else {
                None
            },
            settings: Settings {
                read_only: info.settings.read_only,
                protected: info.settings.protected,
                quota_bytes: info.settings.quota.bytes,
                quota_inodes: info.settings.quota.inodes,
                retain: info.settings.retain,
                labels: info.settings.labels,
            },
        };
        observed.timelines.insert(id, timeline);
    }
    for info in engine.snapshots()? {
        let id = Id(info.id.0);
        let snapshot = Snapshot {
            id,
            name: info.name,
            timeline: Id(info.timeline.0),
            epoch: crds::Epoch(info.epoch.0),
            created: crds::Epoch(info.created.0),
            digest: info.digest,
            bytes: info.logical_bytes,
            inodes: info.inodes,
            labels: info.labels,
        };
        observed.snapshots.insert(id, snapshot);
    }
    Ok(observed)
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
