//! Where the forks of ephemeral volumes come from: an object for each in a cluster ([`crate::agent::inline`]), the
//! engine alone without one.

use crds::names::LABEL_VERIFIED_READS;
use storage_engine::{Durability, Engine, ForkRequest, Point, Quota, Settings, TimelineInfo};

use super::driver::present;
use super::error::{CsiError, Result};
use super::names::{EPHEMERAL, engine_name};
use crate::mounts::Mounts;

/// The fork of an ephemeral volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EphemeralFork {
    /// The caller's id of the volume: the same id is the same fork.
    pub volume: String,
    /// The pod that it is for, and lives as long as.
    pub pod: Pod,
    /// What is forked: a kind and a name in the pod's namespace.
    pub source: (SourceKind, String),
    /// What it may hold itself.
    pub quota: Quota,
    /// Whether every read is verified.
    pub verified_reads: Option<bool>,
}

/// A pod, as the kubelet names it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Kinds of objects that a volume can be forked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A Bucket.
    Bucket,
    /// A BucketSnapshot.
    Snapshot,
    /// A BucketFork, or one of a set.
    Fork,
}

impl SourceKind {
    /// Every kind.
    pub const ALL: [SourceKind; 3] = [SourceKind::Bucket, SourceKind::Snapshot, SourceKind::Fork];

    /// As an attribute of a volume, and before a name in the engine's catalog.
    pub fn as_str(self) -> &'static str {
        match self {
            SourceKind::Bucket => "bucket",
            SourceKind::Snapshot => "snapshot",
            SourceKind::Fork => "fork",
        }
    }
}

/// Makes and frees the forks of ephemeral volumes.
pub trait EphemeralForks: Send + Sync {
    /// The fork of a volume, made if it is not there.
    ///
    /// # Errors
    /// `NotFound` and `FailedPrecondition` for the source, `Unavailable` for what will come by itself.
    fn make(&self, fork: &EphemeralFork) -> Result<TimelineInfo>;

    /// A volume is unmounted: its fork goes. Nothing when there is none.
    ///
    /// # Errors
    /// Those of the engine.
    fn free(&self, volume: &str) -> Result<()>;
}

/// Forks that only the engine knows of.
pub struct EngineForks {
    engine: Engine,
    mounts: Mounts,
}

impl EngineForks {
    /// Forks of an engine, whose mounts are synced before one is made.
    pub fn new(engine: Engine, mounts: Mounts) -> Self {
        EngineForks { engine, mounts }
    }

    fn source(&self, fork: &EphemeralFork) -> Result<Point> {
        let (kind, object) = &fork.source;
        let namespace = &fork.pod.namespace;
        let name = format!("{}/{namespace}/{object}", kind.as_str());
        let missing = || {
            CsiError::not_found(format!(
                "there is no {} {object} in namespace {namespace} on this node",
                kind.as_str()
            ))
        };
        Ok(match kind {
            SourceKind::Snapshot => {
                let found = present(self.engine.snapshot_named(&name))?;
                Point::Snapshot(found.ok_or_else(missing)?.id)
            }
            SourceKind::Bucket | SourceKind::Fork => {
                let found = present(self.engine.timeline_named(&name))?;
                Point::Now(found.ok_or_else(missing)?.id)
            }
        })
    }
}

impl EphemeralForks for EngineForks {
    /// Cost: one commit with its sync.
    fn make(&self, fork: &EphemeralFork) -> Result<TimelineInfo> {
        let name = engine_name(EPHEMERAL, &fork.volume)?;
        if let Some(timeline) = present(self.engine.timeline_named(&name))? {
            return Ok(timeline);
        }
        let source = self.source(fork)?;
        if let Point::Now(timeline) = source {
            self.mounts.sync_timeline(timeline)?;
        }
        Ok(self.engine.fork(ForkRequest {
            id: None,
            name,
            source,
            settings: Settings {
                quota: fork.quota,
                labels: match fork.verified_reads {
                    Some(true) => [(LABEL_VERIFIED_READS.to_owned(), "true".to_owned())].into(),
                    _ => Default::default(),
                },
                ..Settings::default()
            },
            durability: Durability::Local,
        })?)
    }

    fn free(&self, volume: &str) -> Result<()> {
        let Ok(name) = engine_name(EPHEMERAL, volume) else {
            return Ok(());
        };
        match present(self.engine.timeline_named(&name))? {
            Some(timeline) => Ok(self.engine.delete_timeline(timeline.id)?),
            None => Ok(()),
        }
    }
}
