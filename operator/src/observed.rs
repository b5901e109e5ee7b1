//! What is there: reported by whoever holds the engine and the mounts.

use std::collections::BTreeMap;

use crds::{Epoch, Usage};

use crate::action::Settings;
use crate::failure::Failures;
use crate::id::Id;

/// Everything that plans need to know of one node's engine. Plain data; made anew for each round.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Live timelines, by id.
    pub timelines: BTreeMap<Id, Timeline>,
    /// Live snapshots, by id.
    pub snapshots: BTreeMap<Id, Snapshot>,
    /// Imports that run, and those that ended since the process began, by timeline.
    pub imports: BTreeMap<Id, Import>,
    /// What is mounted.
    pub mounts: Vec<Mount>,
    /// What failed and was not done since.
    pub failures: Failures,
}

impl Observed {
    /// The live timeline of a name.
    pub fn timeline_named(&self, name: &str) -> Option<&Timeline> {
        self.timelines
            .values()
            .find(|timeline| timeline.name == name)
    }

    /// The live snapshot of a name.
    pub fn snapshot_named(&self, name: &str) -> Option<&Snapshot> {
        self.snapshots
            .values()
            .find(|snapshot| snapshot.name == name)
    }

    /// Where a timeline or snapshot is mounted.
    pub fn mounts_of(&self, target: Id) -> impl Iterator<Item = &Mount> {
        self.mounts
            .iter()
            .filter(move |mount| mount.target == target)
    }
}

/// A live timeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// Its id.
    pub id: Id,
    /// Its name in the engine.
    pub name: String,
    /// When it was made.
    pub created: Epoch,
    /// What it was forked from; none for a root.
    pub origin: Option<Origin>,
    /// Its settings, with the labels that say whose it is.
    pub settings: Settings,
    /// What it holds, when it was measured.
    pub usage: Option<Usage>,
}

/// What a timeline was forked from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The timeline; it may be gone by now.
    pub parent: Id,
    /// The epoch up to which it is read.
    pub cutoff: Epoch,
    /// The snapshot that was named; it may be gone by now.
    pub snapshot: Option<Id>,
}

/// A live snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Its id.
    pub id: Id,
    /// Its name in the engine.
    pub name: String,
    /// The timeline that it pins; it may be gone by now.
    pub timeline: Id,
    /// The epoch that it pins.
    pub epoch: Epoch,
    /// When it was made.
    pub created: Epoch,
    /// Digest of the history up to the epoch, 64 hexadecimal digits.
    pub digest: String,
    /// Bytes of all the files in it.
    pub bytes: u64,
    /// Files, directories and links in it.
    pub inodes: u64,
    /// Whose it is.
    pub labels: BTreeMap<String, String>,
}

/// An import into a timeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    /// Whether it runs, and how it ended.
    pub state: ImportState,
    /// Files, directories and links so far.
    pub files: u64,
    /// Bytes so far.
    pub bytes: u64,
    /// Files, directories and links of the source, when they were counted.
    pub total_files: Option<u64>,
    /// Bytes of the source, when they were counted.
    pub total_bytes: Option<u64>,
    /// When it began.
    pub started: jiff::Timestamp,
    /// When it ended.
    pub ended: Option<jiff::Timestamp>,
}

/// Whether an import runs. An import that failed is noted in [`Observed::failures`], for its object, and not reported here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportState {
    /// It runs.
    Running,
    /// All of the source is in the timeline, durably.
    Done,
}

/// Something that is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The timeline or snapshot.
    pub target: Id,
    /// The path on the node.
    pub path: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The pod that has it, as one says it behind "pod": `<namespace>/<name>`, or `with uid ...`. Without one the mount is ours: plans make it and take it away.
    pub pod: Option<String>,
}
