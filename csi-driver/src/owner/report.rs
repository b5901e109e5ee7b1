//! The answers of commands: what `-o json` prints, field by field. Fields may be added, never renamed.
//!
//! Epochs are decimal strings (JSON numbers lose digits above 2^53), times are RFC 3339 in UTC, sizes are
//! bytes. A path is a string; one that is not UTF-8 shows replacement characters and carries its bytes in
//! hexadecimal beside it.

use serde::{Deserialize, Serialize};
use storage_engine::{Engine, Epoch, Point, SnapshotInfo, TimelineInfo};

use super::instant::rfc3339;
use super::name::{Found, Kind, split_engine_name};

/// A timeline or a snapshot by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    /// `bucket`, `fork` or `snapshot`; missing for timelines of other making.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kind: Option<Kind>,
    /// The namespace; empty for timelines of other making.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The engine's id.
    pub id: String,
}

/// A state: a timeline now or then, or a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Of what.
    #[serde(flatten)]
    pub of: Reference,
    /// The instant; missing for the present.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub epoch: Option<Epoch>,
    /// The same as a time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub time: Option<String>,
}

/// A path in a timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathText {
    /// The path with its leading slash.
    pub path: String,
    /// Its bytes, when it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path_hex: Option<String>,
}

impl From<&[u8]> for PathText {
    fn from(path: &[u8]) -> Self {
        let path_hex = std::str::from_utf8(path)
            .is_err()
            .then(|| hex::encode(path));
        Self {
            path: String::from_utf8_lossy(path).into_owned(),
            path_hex,
        }
    }
}

/// One file of `ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileRow {
    /// Where it is.
    #[serde(flatten)]
    pub path: PathText,
    /// `file`, `directory`, `symlink`, `charDevice`, `blockDevice`, `fifo` or `socket`.
    pub kind: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits in octal, four digits.
    pub mode: String,
    /// Links.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub modified: String,
    /// Inode number.
    pub inode: u64,
    /// What a symbolic link points to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
}

/// The answer of `put`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PutAnswer {
    /// The timeline.
    pub timeline: Reference,
    /// The file.
    #[serde(flatten)]
    pub path: PathText,
    /// Its size in bytes.
    pub size: u64,
    /// Whether the name existed before.
    pub replaced: bool,
}

/// One removal of `rm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovedRow {
    /// The timeline.
    pub timeline: Reference,
    /// What was named.
    #[serde(flatten)]
    pub path: PathText,
    /// How many files and directories that were.
    pub removed: u64,
}

/// The answer of `snapshot`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotAnswer {
    /// The new snapshot.
    #[serde(flatten)]
    pub snapshot: Reference,
    /// What it is a snapshot of.
    pub source: Reference,
    /// The instant it pins.
    pub epoch: Epoch,
    /// The same as a time.
    pub time: String,
    /// Fixes the history up to it.
    pub digest: String,
    /// Sum of the sizes of the files in it.
    pub logical_bytes: u64,
    /// Inodes in it.
    pub inodes: u64,
    /// When it goes away by itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires: Option<String>,
}

/// One fork of the answer of `fork`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForkRow {
    /// The new timeline.
    #[serde(flatten)]
    pub fork: Reference,
    /// What it was forked from.
    pub source: Reference,
    /// The cutoff.
    pub epoch: Epoch,
    /// The same as a time.
    pub time: String,
    /// When it goes away by itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires: Option<String>,
}

/// The answer of `delete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteAnswer {
    /// What is gone.
    pub deleted: Reference,
}

/// The answer of `restore`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreAnswer {
    /// The timeline.
    pub timeline: Reference,
    /// The state it has now.
    pub restored_to: State,
    /// An instant at which what was there before is still read.
    pub before: Epoch,
    /// The same as a time.
    pub before_time: String,
    /// The snapshot that keeps the state before, made where `history.retain` keeps nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kept: Option<Reference>,
}

/// One timeline or snapshot of `du`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageRow {
    /// The timeline or snapshot.
    #[serde(flatten)]
    pub timeline: Reference,
    /// Sum of the sizes of its files.
    pub logical_bytes: u64,
    /// Stored bytes that its (newest) state refers to.
    pub allocated_bytes: u64,
    /// Of these, bytes that an ancestor wrote.
    pub shared_bytes: u64,
    /// Bytes that the timeline wrote itself, what it has superseded included; of a snapshot those in its state.
    pub divergent_bytes: u64,
    /// What a collection would give up if this alone were deleted.
    pub freed_bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// The end of `du`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageTotals {
    /// Sum over the timelines.
    pub logical_bytes: u64,
    /// Sum over the timelines.
    pub divergent_bytes: u64,
}

/// A row of `gc`: superseded bytes that are kept for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcRow {
    /// Who needs them.
    pub by: storage_engine::KeptBy,
    /// How many.
    pub bytes: u64,
    /// Pieces that they are in.
    pub pieces: u64,
    /// The reason for people.
    pub text: String,
}

/// The end of `gc`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcEnd {
    /// Timelines that there was something to do for.
    pub timelines: u64,
    /// Deleted timelines of which everything is gone now.
    pub dropped_timelines: u64,
    /// Versions of records that are gone.
    pub versions: u64,
    /// Bytes that were given up.
    pub bytes: u64,
    /// Bytes that the file system got back at once.
    pub returned_bytes: u64,
    /// Files that were removed.
    pub objects: u64,
    /// Segments of the log that were compacted.
    #[serde(default)]
    pub compacted: u64,
    /// Superseded bytes that are kept, for the reasons in the rows.
    pub kept_bytes: u64,
}

/// The end of `check`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckEnd {
    /// Whether nothing is wrong.
    pub sound: bool,
    /// Findings that are errors.
    pub errors: u64,
    /// Findings that are no errors.
    pub notes: u64,
    /// Findings that are counted but not listed.
    pub omitted: u64,
    /// How much was looked at.
    pub counts: serde_json::Value,
    /// The whole report for people.
    pub text: String,
}

/// The end of `scrub`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubEnd {
    /// Whether everything was what was written.
    pub sound: bool,
    /// Damaged places found, those that are not listed included.
    pub damaged: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Frames of the log read.
    pub frames: u64,
    /// Runs of object files read.
    pub runs: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// All that for people.
    pub text: String,
}

/// The begin of `log`, `ls` and other answers about one state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// The state.
    pub state: State,
    /// The path in it, when one was given.
    #[serde(flatten, skip_serializing_if = "Option::is_none", default)]
    pub path: Option<PathText>,
}

/// What happened to a timeline at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Happening {
    /// It was made, empty or by an import.
    Created,
    /// It was forked from `other`.
    ForkedFrom,
    /// The snapshot `other` was taken of it.
    Snapshot,
    /// The timeline `other` was forked from it.
    Fork,
    /// It was pointed at the state `other`.
    RestoredTo,
    /// The file got this content.
    Written,
    /// The file was removed.
    Removed,
}

/// One entry of `log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogRow {
    /// The instant.
    pub epoch: Epoch,
    /// The same as a time.
    pub time: String,
    /// What happened.
    pub event: Happening,
    /// The other side of a fork, snapshot or restore; of a file's version, the state in which it is read when that
    /// is not the timeline at this epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub other: Option<State>,
    /// Size of the file's version in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
    /// Which file, in the log of a directory.
    #[serde(flatten, skip_serializing_if = "Option::is_none", default)]
    pub path: Option<PathText>,
}

/// What differs about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Difference {
    /// It is only in the newer state.
    Added,
    /// It is only in the older state.
    Removed,
    /// Its content or its attributes differ.
    Changed,
    /// It has another name; the content may differ too.
    Renamed,
}

/// The begin of `diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiffAbout {
    /// The older state.
    pub from: State,
    /// The newer state.
    pub to: State,
}

/// One entry of `diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiffRow {
    /// What differs.
    pub difference: Difference,
    /// The path; of a removed file, its old one.
    #[serde(flatten)]
    pub path: PathText,
    /// The old path of a renamed file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<PathText>,
    /// `file`, `directory`, `symlink` and so on.
    pub kind: String,
    /// Its size in bytes; of a removed file, its old one.
    pub size: u64,
    /// Bytes of it that differ.
    pub changed_bytes: u64,
}

/// The end of `diff`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiffTotals {
    /// Paths.
    pub added: u64,
    /// Their bytes.
    pub added_bytes: u64,
    /// Paths.
    pub removed: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Paths.
    pub changed: u64,
    /// Bytes that differ in them and in renamed ones.
    pub changed_bytes: u64,
    /// Paths.
    pub renamed: u64,
}

/// One timeline of `tree`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeRow {
    /// The timeline.
    #[serde(flatten)]
    pub timeline: Reference,
    /// It is gone, and others still come from it.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub deleted: bool,
    /// When it was made; missing for a deleted one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub created: Option<Epoch>,
    /// Where it started.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub origin: Option<OriginText>,
    /// The states it was pointed at later, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub restores: Vec<RestoreText>,
    /// Its snapshots, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub snapshots: Vec<TreeSnapshot>,
    /// Refuses writes.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub read_only: bool,
    /// Bytes of its own.
    pub divergent_bytes: u64,
    /// Sum of the sizes of its files.
    pub logical_bytes: u64,
    /// Where it is mounted.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub mounts: Vec<String>,
}

/// Where a timeline started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginText {
    /// Id of the parent.
    pub parent: String,
    /// The cutoff.
    pub epoch: Epoch,
    /// The same as a time.
    pub time: String,
    /// Id of the snapshot it was forked from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub snapshot: Option<String>,
}

/// A restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreText {
    /// When.
    pub epoch: Epoch,
    /// The same as a time.
    pub time: String,
    /// To what.
    pub to: State,
}

/// A snapshot in `tree`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeSnapshot {
    /// The snapshot.
    #[serde(flatten)]
    pub snapshot: Reference,
    /// The instant it pins.
    pub epoch: Epoch,
    /// The same as a time.
    pub time: String,
    /// Sum of the sizes of the files in it.
    pub logical_bytes: u64,
}

impl Reference {
    /// By engine name and id.
    pub fn new(name: &str, id: impl std::fmt::Display) -> Self {
        let (kind, namespace, name) = match split_engine_name(name) {
            Some((kind, namespace, name)) => (Some(kind), namespace, name),
            None => (None, "", name),
        };
        Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            id: id.to_string(),
        }
    }

    /// Of a timeline.
    pub fn timeline(info: &TimelineInfo) -> Self {
        Self::new(&info.name, info.id)
    }

    /// Of a snapshot.
    pub fn snapshot(info: &SnapshotInfo) -> Self {
        Self::new(&info.name, info.id)
    }

    /// As people write it, the namespace only where it is not the usual one.
    pub fn short(&self) -> String {
        match self.kind {
            Some(kind) if self.namespace == "default" => format!("{kind}/{}", self.name),
            Some(kind) => kind.engine_name(&self.namespace, &self.name),
            None => self.name.clone(),
        }
    }
}

impl State {
    /// Of what a name stands for.
    pub fn found(found: &Found) -> Self {
        match found {
            Found::Timeline(info, at) => Self::at(Reference::timeline(info), *at),
            Found::Snapshot(info) => Self::at(Reference::snapshot(info), Some(info.epoch)),
        }
    }

    /// Of this at that instant, or now.
    pub fn at(of: Reference, epoch: Option<Epoch>) -> Self {
        Self {
            of,
            epoch,
            time: epoch.map(rfc3339),
        }
    }

    /// Of a point; a timeline or snapshot that is gone is named by its id.
    pub fn point(engine: &Engine, point: Point) -> Self {
        let timeline = |id| match engine.timeline(id) {
            Ok(info) => Reference::timeline(&info),
            Err(_) => match engine
                .deleted_timelines()
                .into_iter()
                .find(|info| info.id == id)
            {
                Some(info) => Reference::timeline(&info),
                None => Reference {
                    kind: None,
                    namespace: String::new(),
                    name: id.to_string(),
                    id: id.to_string(),
                },
            },
        };
        match point {
            Point::Now(id) => Self::at(timeline(id), None),
            Point::At(id, epoch) => Self::at(timeline(id), Some(epoch)),
            Point::Snapshot(id) => match engine.snapshot_info(id) {
                Ok(info) => Self::at(Reference::snapshot(&info), Some(info.epoch)),
                Err(_) => {
                    let name = format!("deleted snapshot {id}");
                    Self::at(
                        Reference {
                            kind: None,
                            namespace: String::new(),
                            name,
                            id: id.to_string(),
                        },
                        None,
                    )
                }
            },
        }
    }

    /// As people write it.
    pub fn short(&self) -> String {
        match (&self.of.kind, &self.time) {
            (Some(Kind::Snapshot), _) | (_, None) => self.of.short(),
            (_, Some(time)) => format!("{}@{time}", self.of.short()),
        }
    }
}
