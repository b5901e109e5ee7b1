//! `tree`: the timelines with what they come from.

use std::collections::{BTreeMap, BTreeSet};

use storage_engine::{Engine, Origin, SnapshotInfo, TimelineId, TimelineInfo};

use super::history::{origin_state, restores};
use crate::owner::context::Context;
use crate::owner::failure::Outcome;
use crate::owner::instant::rfc3339;
use crate::owner::name::{Found, Name, split_engine_name};
use crate::owner::output::Output;
use crate::owner::report::{OriginText, Reference, RestoreText, TreeRow, TreeSnapshot};

pub(super) fn tree(
    context: &Context,
    name: Option<&Name>,
    namespace: Option<&str>,
    output: &mut dyn Output,
) -> Outcome {
    let engine = &context.engine;
    let live = engine.timelines();
    let deleted = engine.deleted_timelines();
    let mut snapshots: BTreeMap<TimelineId, Vec<SnapshotInfo>> = BTreeMap::new();
    for snapshot in engine.snapshots()? {
        snapshots
            .entry(snapshot.timeline)
            .or_default()
            .push(snapshot);
    }
    let mut shown: BTreeSet<TimelineId> = live
        .iter()
        .filter(|info| namespace.is_none_or(|wanted| within(info, wanted)))
        .map(|info| info.id)
        .collect();
    if let Some(name) = name {
        let one = match name.resolve(engine)? {
            Found::Timeline(info, _) => info.id,
            Found::Snapshot(info) => info.timeline,
        };
        let family = family(&live, &deleted, one);
        shown = family.into_iter().collect();
    }
    let gone = needed_ancestors(&live, &deleted, &shown, &snapshots, name.is_some());
    output.begin(&serde_json::json!({}))?;
    for info in deleted.iter().filter(|info| gone.contains(&info.id)) {
        output.row(&row(
            engine,
            info,
            snapshots.remove(&info.id).unwrap_or_default(),
            true,
        ))?;
    }
    for info in live.iter().filter(|info| shown.contains(&info.id)) {
        context.host.sync(info.id)?;
        let mut row = row(
            engine,
            info,
            snapshots.remove(&info.id).unwrap_or_default(),
            false,
        );
        // A timeline that was deleted since it was listed shows no bytes.
        if let Ok(usage) = engine.usage(info.id) {
            (row.divergent_bytes, row.logical_bytes) = (usage.divergent_bytes, usage.logical_bytes);
        }
        row.mounts = context
            .host
            .mounts(info.id)
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        output.row(&row)?;
    }
    Ok(())
}

fn within(info: &TimelineInfo, namespace: &str) -> bool {
    split_engine_name(&info.name).is_some_and(|(_, own, _)| own == namespace)
}

fn row(engine: &Engine, info: &TimelineInfo, own: Vec<SnapshotInfo>, deleted: bool) -> TreeRow {
    TreeRow {
        timeline: Reference::timeline(info),
        deleted,
        created: Some(info.created),
        origin: info.origin.as_ref().map(origin_text),
        restores: restores(info)
            .iter()
            .map(|origin| RestoreText {
                epoch: origin.since,
                time: rfc3339(origin.since),
                to: origin_state(engine, origin),
            })
            .collect(),
        snapshots: snapshot_rows(own),
        read_only: info.settings.read_only,
        divergent_bytes: 0,
        logical_bytes: 0,
        mounts: Vec::new(),
    }
}

fn origin_text(origin: &Origin) -> OriginText {
    OriginText {
        parent: origin.parent.to_string(),
        epoch: origin.cutoff,
        time: rfc3339(origin.cutoff),
        snapshot: origin.snapshot.map(|id| id.to_string()),
    }
}

fn snapshot_rows(mut own: Vec<SnapshotInfo>) -> Vec<TreeSnapshot> {
    own.sort_by(|a, b| (a.epoch, &a.name).cmp(&(b.epoch, &b.name)));
    own.iter()
        .map(|snapshot| TreeSnapshot {
            snapshot: Reference::snapshot(snapshot),
            epoch: snapshot.epoch,
            time: rfc3339(snapshot.epoch),
            logical_bytes: snapshot.logical_bytes,
        })
        .collect()
}

/// The deleted timelines that something shown comes from, or that still have snapshots.
fn needed_ancestors(
    live: &[TimelineInfo],
    deleted: &[TimelineInfo],
    shown: &BTreeSet<TimelineId>,
    snapshots: &BTreeMap<TimelineId, Vec<SnapshotInfo>>,
    one_family: bool,
) -> BTreeSet<TimelineId> {
    let parents: BTreeMap<TimelineId, TimelineId> = live
        .iter()
        .chain(deleted)
        .filter_map(|info| Some((info.id, info.origin.as_ref()?.parent)))
        .collect();
    let dead: BTreeSet<TimelineId> = deleted.iter().map(|info| info.id).collect();
    let mut pending: Vec<TimelineId> = shown.iter().copied().collect();
    if !one_family {
        pending.extend(dead.iter().filter(|id| snapshots.contains_key(id)));
    }
    let mut gone: BTreeSet<TimelineId> = BTreeSet::new();
    while let Some(id) = pending.pop() {
        if dead.contains(&id) && !gone.insert(id) {
            continue;
        }
        pending.extend(parents.get(&id).filter(|parent| dead.contains(parent)));
    }
    gone
}

/// Every timeline that has an ancestor in common with this one.
fn family(
    live: &[TimelineInfo],
    deleted: &[TimelineInfo],
    one: TimelineId,
) -> BTreeSet<TimelineId> {
    let mut family = BTreeSet::from([one]);
    // As many rounds as the lineage is deep at most.
    loop {
        let before = family.len();
        for info in live.iter().chain(deleted) {
            if let Some(origin) = &info.origin
                && (family.contains(&origin.parent) || family.contains(&info.id))
            {
                family.insert(info.id);
                family.insert(origin.parent);
            }
        }
        if family.len() == before {
            return family;
        }
    }
}
