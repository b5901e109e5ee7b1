//! Data of an earlier object of the same name: an object that was deleted and made again while its node was away, or
//! restored under another uid. Whoever made the object anew may expect either, so a person says which.

use std::collections::BTreeMap;

use crds::conditions::{Reason, State};
use crds::{Object, ObjectKey, names};

use crate::id::Id;
use crate::observed::Observed;
use crate::owner;

/// The state of an object whose name has data of an earlier one; none when what is there is its own, was retained for
/// whoever takes the name next, or is taken over because the object says so.
/// Cost: the number of timelines and snapshots observed.
pub(crate) fn conflict(object: &Object, key: &ObjectKey, observed: &Observed) -> Option<State> {
    let metadata = object.metadata();
    let uid = metadata.uid.as_deref().filter(|uid| !uid.is_empty())?;
    let timelines = observed.timelines.values();
    let timelines = timelines.map(|one| (one.id, &one.settings.labels, &one.name));
    let snapshots = observed.snapshots.values();
    let snapshots = snapshots.map(|one| (one.id, &one.labels, &one.name));
    let mut ours = timelines
        .chain(snapshots)
        .filter(|(_, labels, _)| owner::key_of(labels).as_ref() == Some(key));
    let adopted = metadata.annotations.as_ref();
    let adopted = adopted.and_then(|all| all.get(names::ANNOTATION_ADOPT));
    let (owner, name) = ours.find_map(|(id, labels, name)| {
        let owner = earlier(labels, uid)?;
        let allowed =
            adopted.is_some_and(|adopted| adopted == owner || adopted == names::ADOPT_ANY);
        (!allowed && !is_named(object, id)).then_some((owner, name))
    })?;
    Some(State::Stalled(
        Reason::NameTaken,
        format!(
            "the node has data of an earlier object of this name ({name}, of uid {owner}), which was not freed when that one was deleted. To take the data over, annotate this object with {}={owner}; to free it, delete this object and make it again",
            names::ANNOTATION_ADOPT
        ),
    ))
}

/// The uid of the owner that labels name, when it is another one.
pub(crate) fn earlier<'a>(labels: &'a BTreeMap<String, String>, uid: &str) -> Option<&'a str> {
    let owner = labels.get(names::LABEL_OWNER)?;
    (owner != uid && !owner::is_retained(labels)).then_some(owner)
}

/// Whether the status of an object names any data as its own.
pub(crate) fn names_data(object: &Object) -> bool {
    named(object).next().is_some()
}

/// Whether the status of an object names this as its own.
fn is_named(object: &Object, id: Id) -> bool {
    let id = id.to_string();
    named(object).any(|named| *named == id)
}

/// The ids of the data that the status of an object names as its own.
fn named(object: &Object) -> impl Iterator<Item = &String> {
    let (one, items) = match object {
        Object::Bucket(object) => (object.status.as_ref().map(|status| &status.timeline), None),
        Object::Snapshot(object) => (object.status.as_ref().map(|status| &status.snapshot), None),
        Object::Fork(object) => {
            let status = object.status.as_ref();
            (
                status.map(|status| &status.timeline),
                status.map(|status| &status.items),
            )
        }
    };
    let items = items.into_iter().flatten().map(|item| &item.timeline);
    one.into_iter().chain(items).flatten()
}
