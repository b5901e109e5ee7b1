//! The storage engine of Anabranch: an append-only log, indexed by RocksDB.
//!
//! Every change is appended to one log; the index maps `(timeline, record key, inverted epoch)` to a
//! record and can be rebuilt from the log. A write adds a version, a delete adds a tombstone, a snapshot
//! is a cutoff, a fork is a timeline with a parent and a cutoff that shares everything until it writes.
//!
//! The engine is synchronous and safe to share between threads; callers with an async runtime use its
//! blocking pool. Start at [`Engine::open`], then [`Engine::create_root`], [`Engine::fork`] and
//! [`Engine::volume`].
//!
//! # Recovery
//! Opening replays what was committed since the index was last written out. That is done in the
//! background after 32 MiB of changes of the index or 128 MiB of log, and after an opening that had more
//! than a little to replay, so that neither long work nor repeated crashes make openings slow.

mod blobs;
mod catalog;
mod check;
mod clock;
mod codec;
mod commit;
mod diff;
mod engine;
mod error;
pub mod files;
mod flush;
pub mod fs;
#[cfg(test)]
mod fuzz;
mod gc;
#[cfg(test)]
mod golden;
mod ids;
pub mod import;
mod index;
mod leases;
mod log;
pub mod objects;
mod observe;
mod open;
mod planted;
mod repair;
mod rocks;
mod scrub;
mod store;
mod sync;
mod timeline;
mod usage;

pub use catalog::{MAX_CATALOG_NAME, Origin, Quota, Settings};
pub use check::{
    CheckCounts, CheckPhase, CheckProgress, CheckReport, Finding, FindingKind, Place, Severity,
    Verified,
};
pub use clock::{Clock, IdSource, RandomIds, SystemClock};
pub use diff::{Diff, DiffEntry, DiffKind, Touched};
pub use engine::{Durability, Engine, Options, Point};
pub use error::{Error, ErrorKind, Result};
pub use files::types::*;
pub use files::{Volume, VolumeOptions};
pub use gc::{GcOptions, GcReport, GcSchedule, Kept, KeptBy};
pub use ids::{Epoch, FileId, Ino, Position, SnapshotId, TimelineId};
pub use observe::{Change, Observation, Observer};
pub use open::Recovery;
pub use repair::{Lost, Repair};
pub use scrub::{Damage, ScrubOptions, ScrubProgress, ScrubReport};
pub use store::FORMAT;
pub use timeline::{CreateRoot, ForkRequest, SnapshotInfo, SnapshotRequest, TimelineInfo, Usage};
pub use usage::Holder;
