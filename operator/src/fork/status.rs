//! What to say of a BucketFork.

use crds::conditions::State;
use crds::{BucketFork, ForkItem, ForkStatus, Usage};

use super::items::{Index, Items, item_name};
use crate::observed::Timeline;
use crate::plan::{Draft, World, made, second};
use crate::summary;

pub(crate) fn write(fork: &mut BucketFork, draft: &Draft, world: &World<'_>) {
    let key = crds::Object::Fork(Box::new(fork.clone())).key();
    let items = Items::of(fork, &key, world.observed);
    let generation = fork.metadata.generation;
    let deleting = fork.metadata.deletion_timestamp.is_some();
    let status = fork.status.get_or_insert_default();
    status.observed_generation = generation;
    draft
        .state
        .write(&mut status.conditions, generation, second(world.now));
    status.count = items.wanted.len() as u32;
    let ready =
        |timeline: &Timeline| !deleting && draft.expired.is_none() && mounted(timeline, world);
    status.ready_count = items.kept().filter(|(_, timeline)| ready(timeline)).count() as u32;
    if let Some(timeline) = items.found.get(&None) {
        status.timeline = Some(timeline.id.to_string());
    }
    if fork.spec.count.is_some() {
        let all = items
            .wanted
            .iter()
            .map(|index| item(&key.name, *index, &items, draft, status, world, &ready));
        status.items = all.collect();
    }
    if let Some(origin) = items.found.values().find_map(|timeline| timeline.origin) {
        status.epoch = Some(origin.cutoff);
        status.time = Some(second(origin.cutoff.timestamp()));
    }
    if let Some(created) = items
        .found
        .values()
        .map(|timeline| made(timeline.created.timestamp()))
        .min()
    {
        // The first of a set may have been deleted since; a ttl counts from it all the same.
        status.creation_time = Some(
            status
                .creation_time
                .take()
                .map_or(created.clone(), |before| before.min(created)),
        );
    }
    status.usage = usage(&items);
    status.mounts = mounts(&key.name, &items, world);
    if !deleting {
        if draft.expired.is_none() {
            status.expire_time = draft.expires.map(second);
        }
        status.expired_time = status
            .expired_time
            .take()
            .or_else(|| draft.expired.map(second));
    }
    let source = fork.spec.source.describe();
    let mut summary = summary::summary(&draft.state, source, status.usage.as_ref(), &status.mounts);
    summary.expires = summary::expires(
        &fork.spec.lifetime,
        draft.expires,
        status.expired_time.is_some(),
    );
    summary.forks = Some(format!("{}/{}", status.ready_count, status.count));
    status.summary = Some(summary);
}

/// Whether a fork can be used: in play, when it is mounted.
fn mounted(timeline: &Timeline, world: &World<'_>) -> bool {
    !world.options.mount_forks
        || world
            .observed
            .mounts_of(timeline.id)
            .any(|mount| mount.pod.is_none())
}

fn item(
    name: &str,
    index: Index,
    items: &Items<'_>,
    draft: &Draft,
    before: &ForkStatus,
    world: &World<'_>,
    ready: &dyn Fn(&Timeline) -> bool,
) -> ForkItem {
    let number = index.unwrap_or_default();
    let mut item = ForkItem {
        name: item_name(name, index),
        index: number,
        ..ForkItem::default()
    };
    let Some(timeline) = items.found.get(&index) else {
        // What was there stays said when it is lost, so that it is not made anew.
        item.timeline = before
            .items
            .iter()
            .find(|item| item.index == number)
            .and_then(|item| item.timeline.clone());
        item.message = Some(match &draft.state {
            State::Expired(..) => "expired".to_owned(),
            _ if draft.lost.contains(&index) => "its data is no longer in the store".to_owned(),
            state => state.message().to_owned(),
        });
        return item;
    };
    let mounts: Vec<_> = world
        .observed
        .mounts_of(timeline.id)
        .map(|mount| summary::mount(mount, None, world.options))
        .collect();
    item.timeline = Some(timeline.id.to_string());
    item.ready = ready(timeline);
    item.divergent_bytes = timeline.usage.map(|usage| usage.divergent_bytes);
    item.shared_bytes = timeline.usage.map(|usage| usage.shared_bytes);
    item.mounted = summary::mounted(&mounts);
    item
}

/// What the forks hold together; nothing until all are measured.
fn usage(items: &Items<'_>) -> Option<Usage> {
    if items.found.is_empty() {
        return None;
    }
    items
        .found
        .values()
        .try_fold(Usage::default(), |sum, timeline| {
            let usage = timeline.usage?;
            Some(Usage {
                logical_bytes: sum.logical_bytes.saturating_add(usage.logical_bytes),
                divergent_bytes: sum.divergent_bytes.saturating_add(usage.divergent_bytes),
                shared_bytes: sum.shared_bytes.saturating_add(usage.shared_bytes),
                inodes: sum.inodes.saturating_add(usage.inodes),
            })
        })
}

fn mounts(name: &str, items: &Items<'_>, world: &World<'_>) -> Vec<crds::Mount> {
    let of = |(index, timeline): (&Index, &&Timeline)| {
        let item = index.map(|_| item_name(name, *index));
        let mounts = world.observed.mounts_of(timeline.id);
        mounts
            .map(|mount| summary::mount(mount, item.as_deref(), world.options))
            .collect::<Vec<_>>()
    };
    items.found.iter().flat_map(of).collect()
}
