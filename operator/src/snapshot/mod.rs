//! Kind `BucketSnapshot`.

pub(crate) mod plan;
pub(crate) mod status;

use crds::ObjectKey;

use crate::observed::{Observed, Snapshot};
use crate::owner;

/// The snapshot of an object, when it is there.
pub(crate) fn snapshot<'a>(key: &ObjectKey, observed: &'a Observed) -> Option<&'a Snapshot> {
    observed
        .snapshots
        .values()
        .find(|snapshot| owner::key_of(&snapshot.labels).as_ref() == Some(key))
}
