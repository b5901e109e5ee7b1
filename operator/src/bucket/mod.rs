//! Kind `Bucket`.

pub(crate) mod plan;
pub(crate) mod status;

use crds::{Bucket, ObjectKey};

use crate::observed::{Observed, Timeline};
use crate::owner;

/// The timeline of a bucket, when it is there.
pub(crate) fn timeline<'a>(key: &ObjectKey, observed: &'a Observed) -> Option<&'a Timeline> {
    observed
        .timelines
        .values()
        .find(|timeline| owner::key_of(&timeline.settings.labels).as_ref() == Some(key))
}

/// The source of a bucket in one line; empty without one.
pub(crate) fn source(bucket: &Bucket) -> String {
    bucket
        .spec
        .source
        .as_ref()
        .map(|source| source.describe())
        .unwrap_or_default()
}
