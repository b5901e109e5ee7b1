//! What a plan asks for.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::{Epoch, ImportSource};

use crate::id::Id;

/// One step. Steps of one plan are done in their order; each can be repeated without harm.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make an empty timeline without a parent.
    CreateRoot {
        /// Its id.
        id: Id,
        /// Its name in the engine.
        name: String,
        /// Its settings.
        settings: Settings,
    },
    /// Start to import a source into a timeline, unless it is running. It goes on in the background and is reported in
    /// [`Observed::imports`](crate::Observed::imports). Relative paths are the applier's to resolve.
    Import {
        /// The timeline.
        timeline: Id,
        /// What to import.
        source: ImportSource,
    },
    /// Stop the import into a timeline and wait until it has stopped.
    CancelImport {
        /// The timeline.
        timeline: Id,
    },
    /// Start timelines, all at one cutoff of the source and in one durable step.
    Fork {
        /// What they start from.
        source: Point,
        /// The timelines; at least one.
        forks: Vec<NewFork>,
    },
    /// Pin a point.
    Snapshot {
        /// Id of the snapshot.
        id: Id,
        /// Its name in the engine.
        name: String,
        /// What it pins.
        source: Point,
        /// Its labels.
        labels: BTreeMap<String, String>,
    },
    /// Mount a timeline where forks of this name are mounted.
    Mount {
        /// The timeline.
        timeline: Id,
        /// Namespace of its object.
        namespace: String,
        /// Name of the fork: of the object, or `<name>-<index>` in a set.
        name: String,
        /// Whether writes are refused.
        read_only: bool,
    },
    /// Take a mount away. What programs wrote into it is in the timeline when this returns.
    Unmount {
        /// What is mounted.
        target: Id,
        /// Where.
        path: String,
    },
    /// Replace the settings of a timeline.
    UpdateSettings {
        /// The timeline.
        timeline: Id,
        /// All of its new settings.
        settings: Settings,
    },
    /// Delete a timeline; forks and snapshots of it stay whole.
    DeleteTimeline {
        /// The timeline.
        timeline: Id,
    },
    /// Delete a snapshot; forks of it stay whole.
    DeleteSnapshot {
        /// The snapshot.
        snapshot: Id,
    },
}

impl Action {
    /// What is being done, for a log or a progress line: `fork 3 timelines`.
    pub fn describe(&self) -> String {
        match self {
            Action::CreateRoot { name, .. } => format!("make {name}"),
            Action::Import { source, .. } => format!("import {}", source.describe()),
            Action::CancelImport { .. } => "stop the import".to_owned(),
            Action::Fork { forks, .. } => match forks.as_slice() {
                [fork] => format!("fork {}", fork.name),
                forks => format!("fork {} timelines", forks.len()),
            },
            Action::Snapshot { name, .. } => format!("take {name}"),
            Action::Mount {
                namespace, name, ..
            } => format!("mount {namespace}/{name}"),
            Action::Unmount { path, .. } => format!("unmount {path}"),
            Action::UpdateSettings { .. } => "change settings".to_owned(),
            Action::DeleteTimeline { timeline } => format!("delete timeline {timeline}"),
            Action::DeleteSnapshot { snapshot } => format!("delete snapshot {snapshot}"),
        }
    }
}

/// A timeline to be started.
#[derive(Clone, Debug, PartialEq)]
pub struct NewFork {
    /// Its id.
    pub id: Id,
    /// Its name in the engine.
    pub name: String,
    /// Its settings.
    pub settings: Settings,
}

/// A point of a lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A timeline as it is.
    Now(Id),
    /// A timeline as it was.
    At(Id, Epoch),
    /// A snapshot.
    Snapshot(Id),
}

/// Settings of a timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether deletion is refused.
    pub protected: bool,
    /// Most bytes, when limited.
    pub quota_bytes: Option<u64>,
    /// Most files, directories and links, when limited.
    pub quota_inodes: Option<u64>,
    /// How far back any instant stays readable.
    pub retain: Duration,
    /// Whose it is and how far it is: see [`crds::names`]. Labels of others are kept.
    pub labels: BTreeMap<String, String>,
}
