//! Types of the custom resources of Anabranch, group `anabranch.dev`, version `v1alpha1`.
//!
//! - [`Bucket`]: a dataset with a root timeline;
//! - [`BucketSnapshot`]: a named, durable pin on a timeline at an epoch;
//! - [`BucketFork`]: a writable timeline, or a set of them, started at a cutoff of another.
//!
//! The CustomResourceDefinitions in `crds/yaml/` are generated from these types (`cargo run -p crds --bin crdgen`).

pub mod bucket;
pub mod conditions;
pub mod crdfiles;
pub mod duration;
pub mod fork;
pub mod lifetime;
pub mod manifest;
pub mod names;
pub mod object;
pub mod quantity;
pub mod rules;
pub mod schema;
pub mod snapshot;
pub mod status;
pub mod time;
pub mod validate;
pub mod yaml;

pub use bucket::{
    Bucket, BucketSpec, BucketStatus, DeletionPolicy, History, ImportSource, ImportStatus,
    PathSource,
};
pub use duration::Duration;
pub use fork::{AccessMode, BucketFork, Claim, ForkItem, ForkSource, ForkSpec, ForkStatus};
pub use lifetime::{Lifetime, Quota};
pub use object::{Kind, Object, ObjectKey};
pub use quantity::Bytes;
pub use snapshot::{BucketSnapshot, SnapshotSource, SnapshotSpec, SnapshotStatus};
pub use status::{Mount, Summary, Usage};
pub use time::{At, Epoch};
pub use validate::{FieldError, Validate};
