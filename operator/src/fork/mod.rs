//! Kind `BucketFork`.

pub(crate) mod items;
pub(crate) mod plan;
pub(crate) mod status;
