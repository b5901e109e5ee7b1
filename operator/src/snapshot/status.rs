//! What to say of a BucketSnapshot.

use crds::{BucketSnapshot, Usage};

use super::snapshot;
use crate::plan::{Draft, World, made, second};
use crate::summary;

pub(crate) fn write(object: &mut BucketSnapshot, draft: &Draft, world: &World<'_>) {
    let key = crds::Object::Snapshot(Box::new(object.clone())).key();
    let generation = object.metadata.generation;
    let status = object.status.get_or_insert_default();
    status.observed_generation = generation;
    draft
        .state
        .write(&mut status.conditions, generation, second(world.now));
    let found = snapshot(&key, world.observed);
    status.ready_to_use = draft.state.is_ready() && found.is_some();
    // What was there stays said when it is freed or lost.
    if let Some(found) = found {
        status.snapshot = Some(found.id.to_string());
        status.timeline = Some(found.timeline.to_string());
        status.epoch = Some(found.epoch);
        status.time = Some(second(found.epoch.timestamp()));
        status.creation_time = Some(made(found.created.timestamp()));
        status.digest = Some(found.digest.clone());
        status.bytes = Some(found.bytes);
        status.inodes = Some(found.inodes);
    }
    let mounts = found
        .into_iter()
        .flat_map(|found| world.observed.mounts_of(found.id));
    status.mounts = mounts
        .map(|mount| summary::mount(mount, None, world.options))
        .collect();
    if object.metadata.deletion_timestamp.is_none() {
        if draft.expired.is_none() {
            status.expire_time = draft.expires.map(second);
        }
        status.expired_time = status
            .expired_time
            .take()
            .or_else(|| draft.expired.map(second));
    }
    let size = status.bytes.map(|logical_bytes| Usage {
        logical_bytes,
        ..Usage::default()
    });
    let source = object.spec.source.describe();
    let mut summary = summary::summary(&draft.state, source, size.as_ref(), &status.mounts);
    (summary.divergent, summary.shared) = (None, None);
    summary.expires = summary::expires(
        &object.spec.lifetime,
        draft.expires,
        status.expired_time.is_some(),
    );
    status.summary = Some(summary);
}
