//! What to do for a BucketSnapshot.

use crds::conditions::{Reason, State};
use crds::{BucketSnapshot, Kind, ObjectKey};

use super::snapshot;
use crate::action::Action;
use crate::id::Id;
use crate::lifetime::{Standing, decide};
use crate::observed::Snapshot;
use crate::owner::{self, engine_name};
use crate::plan::{Draft, World, in_use, invalid, lost, made, name_taken, source_changed, uid};
use crate::source::{Source, resolve};

pub(crate) fn plan(object: &BucketSnapshot, key: &ObjectKey, world: &World<'_>) -> Draft {
    let found = snapshot(key, world.observed);
    if object.metadata.deletion_timestamp.is_some() {
        let mut draft = Draft::new(State::Reconciling(
            Reason::Deleting,
            "the data is being freed".to_owned(),
        ));
        draft.released = found.is_none();
        free(&mut draft, found, world);
        return draft;
    }
    let status = object.status.as_ref();
    let created = found.map(|snapshot| made(snapshot.created.timestamp()).0);
    let created = created.or_else(|| status?.creation_time.as_ref().map(|time| time.0));
    let expired = status
        .and_then(|status| status.expired_time.as_ref())
        .map(|time| time.0);
    let until = match decide(&object.spec.lifetime, created, expired, world.now) {
        Standing::Lives(until) => until,
        Standing::Ended {
            since,
            reason,
            message,
        } => {
            let mut draft = Draft::new(match found {
                None => State::Expired(reason, message),
                Some(_) => State::Reconciling(
                    Reason::Deleting,
                    format!("{message}; the data is being freed"),
                ),
            });
            draft.expired = Some(since);
            free(&mut draft, found, world);
            return draft;
        }
    };
    let mut draft = match (invalid(object), found) {
        (Some(state), _) => Draft::new(state),
        (None, Some(found)) => {
            let (made_from, asked_for) = (
                owner::source_of(&found.labels),
                object.spec.source.describe(),
            );
            Draft::new(if made_from == asked_for {
                State::Ready(Reason::Available, String::new())
            } else {
                source_changed(made_from, &asked_for)
            })
        }
        (None, None) => create(object, key, world),
    };
    draft.expires = until;
    if let Some(until) = until {
        draft.wake(until);
    }
    draft
}

fn create(object: &BucketSnapshot, key: &ObjectKey, world: &World<'_>) -> Draft {
    if object
        .status
        .as_ref()
        .is_some_and(|status| status.snapshot.is_some())
    {
        return Draft::new(lost("the snapshot"));
    }
    let mut draft = Draft::new(State::Reconciling(
        Reason::Creating,
        "the snapshot is being taken".to_owned(),
    ));
    let name = engine_name(Kind::Snapshot, &key.namespace, &key.name, None);
    if let Some(other) = world.observed.snapshot_named(&name) {
        let (state, wait) = name_taken(&name, owner::key_of(&other.labels).as_ref(), world.peers);
        draft.state = state;
        draft.waits.extend(wait);
        return draft;
    }
    let Some(source) = Source::of_snapshot(&object.spec.source) else {
        return draft;
    };
    if let Some(point) = resolve(&source, key, world, &mut draft) {
        let uid = uid(&object.metadata, key);
        draft.actions.push(Action::Snapshot {
            id: Id::derive(
                Kind::Snapshot,
                &uid,
                None,
                object.metadata.generation.unwrap_or_default(),
            ),
            name,
            source: point,
            labels: owner::labels(key, &uid, None, &object.spec.source.describe()),
        });
    }
    draft
}

/// Frees the snapshot, when nobody has it mounted.
fn free(draft: &mut Draft, found: Option<&Snapshot>, world: &World<'_>) {
    let Some(found) = found else { return };
    match draft.unmount(world.observed, found.id) {
        Some(pod) => draft.state = in_use("the snapshot", &pod),
        None => draft
            .actions
            .push(Action::DeleteSnapshot { snapshot: found.id }),
    }
}
