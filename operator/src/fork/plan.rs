//! What to do for a BucketFork.

use crds::conditions::{Reason, State};
use crds::{BucketFork, Kind, ObjectKey, names, rules};

use super::items::{Index, Items, item_name, timeline_name};
use crate::action::{Action, NewFork, Point, Settings};
use crate::id::Id;
use crate::lifetime::{Standing, decide};
use crate::observed::Timeline;
use crate::owner::{self, merged};
use crate::plan::{
    Draft, World, in_use, invalid, lost, made, name_taken, source_changed, uid, unmount,
};
use crate::source::{Source, resolve};

pub(crate) fn plan(fork: &BucketFork, key: &ObjectKey, world: &World<'_>) -> Draft {
    let items = Items::of(fork, key, world.observed);
    let protected = fork.spec.protected == Some(true);
    if fork.metadata.deletion_timestamp.is_some() {
        return delete(protected && !world.options.admission, &items, world);
    }
    let status = fork.status.as_ref();
    let created = items.found.values().map(|timeline| timeline.created).min();
    let created = created
        .map(|created| made(created.timestamp()).0)
        .into_iter()
        .chain(
            status
                .and_then(|status| status.creation_time.as_ref())
                .map(|time| time.0),
        )
        .min();
    let expired = status
        .and_then(|status| status.expired_time.as_ref())
        .map(|time| time.0);
    let standing = decide(&fork.spec.lifetime, created, expired, world.now);
    let kept = match standing {
        // What was never made cannot be kept, and what was freed is gone.
        Standing::Ended { .. } if protected && expired.is_none() && !items.found.is_empty() => true,
        Standing::Ended {
            since,
            reason,
            message,
        } => {
            let mut draft = Draft::new(State::Expired(reason, message.clone()));
            draft.expired = Some(since);
            if !items.found.is_empty() {
                draft.state = State::Reconciling(
                    Reason::Deleting,
                    format!("{message}; the data is being freed"),
                );
                free(&mut draft, items.found.values().copied(), world);
            }
            return draft;
        }
        Standing::Lives(_) => false,
    };
    let mut draft = live(fork, key, &items, world);
    if kept && draft.state.is_ready() {
        let message = "its lifetime has ended, and it is kept because it is protected; it is freed when spec.protected is false";
        draft.state = State::Ready(Reason::Protected, message.to_owned());
    }
    draft.expires = crate::lifetime::end(&fork.spec.lifetime, created);
    if let Some(until) = draft.expires.filter(|until| *until > world.now) {
        draft.wake(until);
    }
    draft
}

/// A fork within its lifetime.
fn live(fork: &BucketFork, key: &ObjectKey, items: &Items<'_>, world: &World<'_>) -> Draft {
    if let Some(state) = invalid(fork) {
        return Draft::new(state);
    }
    if items.other_form(fork) {
        let message = rules::FORK_COUNT_FORM.full_message();
        return Draft::new(State::Stalled(Reason::ImmutableFieldChanged, message));
    }
    let asked_for = fork.spec.source.describe();
    let made_from = |timeline: &&Timeline| owner::source_of(&timeline.settings.labels) != asked_for;
    if let Some(other) = items.found.values().copied().find(made_from) {
        return Draft::new(source_changed(
            owner::source_of(&other.settings.labels),
            &asked_for,
        ));
    }
    let mut draft = Draft::new(State::Ready(Reason::Available, String::new()));
    change(fork, key, items, world, &mut draft);
    shrink(fork, items, world, &mut draft);
    grow(fork, key, items, world, &mut draft);
    draft
}

/// Brings the settings and mounts of the forks that are there to what they should be.
fn change(
    fork: &BucketFork,
    key: &ObjectKey,
    items: &Items<'_>,
    world: &World<'_>,
    draft: &mut Draft,
) {
    let read_only = fork.spec.read_only == Some(true);
    for (index, timeline) in items.kept() {
        let wanted = settings(fork, key, index, &timeline.settings);
        let mut ours = world
            .observed
            .mounts_of(timeline.id)
            .filter(|mount| mount.pod.is_none())
            .peekable();
        let mut wrong = world.options.mount_forks && ours.peek().is_none();
        let stale = ours.filter(|mount| mount.read_only != read_only);
        // A mount has the mode that its timeline had when it was made.
        for mount in stale {
            draft.actions.push(unmount(mount));
            wrong = world.options.mount_forks;
        }
        if timeline.settings != wanted {
            draft.state = State::Reconciling(
                Reason::Updating,
                "the settings are being changed".to_owned(),
            );
            draft.actions.push(Action::UpdateSettings {
                timeline: timeline.id,
                settings: wanted,
            });
        }
        if wrong {
            draft.state = State::Reconciling(Reason::Updating, "it is being mounted".to_owned());
            draft.actions.push(Action::Mount {
                timeline: timeline.id,
                namespace: key.namespace.clone(),
                name: item_name(&key.name, index),
                read_only,
            });
        }
    }
}

/// Deletes the forks of a set that are no longer asked for.
fn shrink(fork: &BucketFork, items: &Items<'_>, world: &World<'_>, draft: &mut Draft) {
    let surplus = items.surplus();
    if surplus.is_empty() {
        return;
    }
    if fork.spec.protected == Some(true) {
        let message = format!(
            "count is smaller than before, and {} forks are kept because the set is protected; put the count back, or set spec.protected to false",
            surplus.len()
        );
        draft.state = State::Stalled(Reason::Protected, message);
        return;
    }
    draft.state = State::Reconciling(
        Reason::Updating,
        format!("{} forks are being deleted", surplus.len()),
    );
    free(draft, surplus.into_iter(), world);
}

/// Makes the forks that are not there, all at one cutoff.
fn grow(
    fork: &BucketFork,
    key: &ObjectKey,
    items: &Items<'_>,
    world: &World<'_>,
    draft: &mut Draft,
) {
    let mut missing = items.missing();
    let had = |index: &Index| match (index, &fork.status) {
        (_, None) => false,
        (None, Some(status)) => status.timeline.is_some(),
        (Some(index), Some(status)) => status
            .items
            .iter()
            .any(|item| item.index == *index && item.timeline.is_some()),
    };
    draft.lost = missing.iter().copied().filter(had).collect();
    missing.retain(|index| !draft.lost.contains(index));
    let mut problem = draft
        .lost
        .first()
        .map(|index| lost(&format!("fork {}", item_name(&key.name, *index))));
    missing.retain(|index| {
        let name = timeline_name(key, *index);
        let Some(other) = world.observed.timeline_named(&name) else {
            return true;
        };
        let (state, wait) = name_taken(
            &name,
            owner::key_of(&other.settings.labels).as_ref(),
            world.peers,
        );
        draft.waits.extend(wait);
        problem.get_or_insert(state);
        false
    });
    if !missing.is_empty() {
        // Set before the source is looked for, which may find something to wait for.
        let there = items.kept().count();
        let message = format!("{there} of {} forks are there", items.wanted.len());
        draft.state = State::Reconciling(Reason::Creating, message);
        if let Some(source) = point(fork, key, items, world, draft) {
            let uid = uid(&fork.metadata, key);
            let generation = fork.metadata.generation.unwrap_or_default();
            let forks = missing.into_iter().map(|index| NewFork {
                id: Id::derive(Kind::Fork, &uid, index, generation),
                name: timeline_name(key, index),
                settings: settings(fork, key, index, &Settings::default()),
            });
            draft.actions.push(Action::Fork {
                source,
                forks: forks.collect(),
            });
        }
    }
    if let Some(problem) = problem {
        draft.state = problem;
    }
}

/// The point at which forks start: that of the forks that are there, so that all of a set begin alike.
fn point(
    fork: &BucketFork,
    key: &ObjectKey,
    items: &Items<'_>,
    world: &World<'_>,
    draft: &mut Draft,
) -> Option<Point> {
    let sibling = items.found.values().find_map(|timeline| timeline.origin);
    let Some(origin) = sibling else {
        return resolve(&Source::of_fork(&fork.spec.source)?, key, world, draft);
    };
    match origin
        .snapshot
        .filter(|snapshot| world.observed.snapshots.contains_key(snapshot))
    {
        Some(snapshot) => Some(Point::Snapshot(snapshot)),
        None if world.observed.timelines.contains_key(&origin.parent) => {
            Some(Point::At(origin.parent, origin.cutoff))
        }
        None => {
            draft.state = State::Stalled(
                Reason::SourceUnavailable,
                "the source of the set was deleted, so that no further fork can start where the others did; put the count back".to_owned(),
            );
            None
        }
    }
}

fn delete(protected: bool, items: &Items<'_>, world: &World<'_>) -> Draft {
    let mut draft = Draft::new(State::Reconciling(
        Reason::Deleting,
        "the data is being freed".to_owned(),
    ));
    draft.released = items.found.is_empty();
    if protected && !draft.released {
        let message = "deletion was asked for and is refused while the fork is protected; set spec.protected to false to let it go on";
        draft.state = State::Stalled(Reason::Protected, message.to_owned());
        return draft;
    }
    free(&mut draft, items.found.values().copied(), world);
    draft
}

/// Frees forks that nobody has mounted; the others when they are free.
fn free<'a>(draft: &mut Draft, timelines: impl Iterator<Item = &'a Timeline>, world: &World<'_>) {
    for timeline in timelines {
        if let Some(pod) = draft.unmount(world.observed, timeline.id) {
            draft.state = in_use(&timeline.name, &pod);
            continue;
        }
        if timeline.settings.protected {
            let settings = Settings {
                protected: false,
                ..timeline.settings.clone()
            };
            draft.actions.push(Action::UpdateSettings {
                timeline: timeline.id,
                settings,
            });
        }
        draft.actions.push(Action::DeleteTimeline {
            timeline: timeline.id,
        });
    }
}

/// The settings that the timeline of a fork should have.
fn settings(fork: &BucketFork, key: &ObjectKey, index: Index, found: &Settings) -> Settings {
    let mut labels = owner::labels(
        key,
        &uid(&fork.metadata, key),
        index,
        &fork.spec.source.describe(),
    );
    let verified = fork.spec.verified_reads == Some(true);
    // "false" takes an earlier "true" back; where there was none, it says nothing.
    if verified || found.labels.contains_key(names::LABEL_VERIFIED_READS) {
        labels.insert(names::LABEL_VERIFIED_READS.to_owned(), verified.to_string());
    }
    let quota = fork.spec.quota.as_ref();
    Settings {
        read_only: fork.spec.read_only == Some(true),
        protected: fork.spec.protected == Some(true),
        quota_bytes: quota.and_then(|quota| quota.bytes).map(|bytes| bytes.0),
        quota_inodes: quota.and_then(|quota| quota.inodes),
        // History of a fork is what its snapshots keep.
        retain: std::time::Duration::ZERO,
        labels: merged(&found.labels, &labels),
    }
}
