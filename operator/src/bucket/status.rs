//! What to say of a Bucket.

use crds::{Bucket, ImportStatus, names};

use super::{source, timeline};
use crate::observed::ImportState;
use crate::plan::{Draft, World, made, second};
use crate::summary;

pub(crate) fn write(bucket: &mut Bucket, draft: &Draft, world: &World<'_>) {
    let key = crds::Object::Bucket(Box::new(bucket.clone())).key();
    let source = source(bucket);
    let generation = bucket.metadata.generation;
    let status = bucket.status.get_or_insert_default();
    status.observed_generation = generation;
    draft
        .state
        .write(&mut status.conditions, generation, second(world.now));
    let found = timeline(&key, world.observed);
    // What was there stays said when it is lost.
    if let Some(timeline) = found {
        status.timeline = Some(timeline.id.to_string());
        status.time = Some(made(timeline.created.timestamp()));
    }
    status.usage = found.and_then(|timeline| timeline.usage);
    let mounts = found
        .into_iter()
        .flat_map(|timeline| world.observed.mounts_of(timeline.id));
    status.mounts = mounts
        .map(|mount| summary::mount(mount, None, world.options))
        .collect();
    if let Some(import) = found.and_then(|timeline| world.observed.imports.get(&timeline.id)) {
        status.import = Some(ImportStatus {
            complete: import.state == ImportState::Done,
            files: import.files,
            bytes: import.bytes,
            total_files: import.total_files,
            total_bytes: import.total_bytes,
            start_time: Some(second(import.started)),
            completion_time: import.ended.map(second),
        });
    } else if found.is_some_and(|timeline| {
        timeline
            .settings
            .labels
            .get(names::LABEL_IMPORT)
            .is_some_and(|import| import == "complete")
    }) {
        status.import.get_or_insert_default().complete = true;
    }
    status.summary = Some(summary::summary(
        &draft.state,
        source,
        status.usage.as_ref(),
        &status.mounts,
    ));
}
