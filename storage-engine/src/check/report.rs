//! What a check says.

use std::fmt;

use serde::Serialize;

use crate::ids::{Epoch, Ino, Position, SnapshotId, TimelineId};

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// Nothing is wrong: something is left over that takes space.
    Note,
    /// Stored bytes are not what was written, or two of them contradict each other.
    Error,
}

/// What kind of thing a finding is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum FindingKind {
    /// `store.json` does not fit the store.
    StoreFile,
    /// A segment or a frame of the log is damaged, missing or out of order.
    Log,
    /// The index does not hold what the log says.
    IndexDiffers,
    /// The index cannot be read.
    IndexUnreadable,
    /// A stored row or key is in no known layout.
    Undecodable,
    /// The catalog contradicts itself or the log.
    Catalog,
    /// A snapshot's digest is not that of the history it names.
    Digest,
    /// Stored bytes of a file are damaged or missing.
    Extent,
    /// An object file is missing, has the wrong length or can still be written.
    Object,
    /// The tree of a timeline contradicts itself.
    Tree,
    /// A kept total is not what a recount gives.
    Usage,
    /// A deadlist record is wrong.
    Deadlist,
    /// The change list does not fit the stored versions.
    ChangeList,
    /// A file that nothing refers to.
    LeftOver,
}

/// Where something was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Place {
    /// A file of the data directory.
    #[serde(rename_all = "camelCase")]
    File {
        /// Relative to the data directory.
        path: String,
        /// Where in it, in bytes, if one place can be named.
        #[serde(skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
    },
    /// A state of a timeline.
    #[serde(rename_all = "camelCase")]
    State {
        /// The timeline.
        timeline: TimelineId,
        /// Its name.
        name: String,
        /// The epoch that was looked at.
        epoch: Epoch,
        /// Which inode, if it is about one.
        #[serde(skip_serializing_if = "Option::is_none")]
        ino: Option<Ino>,
        /// A path of that inode.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    /// A snapshot.
    Snapshot {
        /// Its id.
        snapshot: SnapshotId,
        /// Its name.
        name: String,
    },
    /// A key of the index, in hexadecimal, behind what it is.
    Index {
        /// For example `version 01…`.
        key: String,
    },
    /// The index as a whole.
    WholeIndex,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, offset: None } => write!(f, "{path}"),
            Self::File {
                path,
                offset: Some(offset),
            } => write!(f, "{path}, offset {offset}"),
            Self::State {
                name,
                epoch,
                ino,
                path,
                ..
            } => {
                write!(f, "timeline {name} at epoch {epoch}")?;
                match (ino, path) {
                    (_, Some(path)) => write!(f, ", {path}"),
                    (Some(ino), None) => write!(f, ", inode {ino}"),
                    _ => Ok(()),
                }
            }
            Self::Snapshot { name, .. } => write!(f, "snapshot {name}"),
            Self::Index { key } => write!(f, "index, {key}"),
            Self::WholeIndex => f.write_str("index"),
        }
    }
}

/// One thing found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub kind: FindingKind,
    /// Where it is.
    pub place: Place,
    /// What is wrong: a sentence without its place.
    pub what: String,
    /// What cannot be used because of it, one thing each; empty if nothing that users see.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub affected: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Error => "error",
        };
        write!(f, "{severity}: {}: {}", self.place, self.what)?;
        for affected in &self.affected {
            write!(f, "\n  affected: {affected}")?;
        }
        Ok(())
    }
}

/// How much was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckCounts {
    /// Segments of the log.
    pub segments: u64,
    /// Of these, compacted ones.
    pub compacted: u64,
    /// Frames of the log, as far as something of them is left.
    pub frames: u64,
    /// Bytes of the log up to the cut.
    pub log_bytes: u64,
    /// Stored versions of records.
    pub versions: u64,
    /// Deadlist records.
    pub dead: u64,
    /// Entries of the change list.
    pub changes: u64,
    /// Live timelines.
    pub timelines: u64,
    /// Live snapshots.
    pub snapshots: u64,
    /// Different states walked: the newest ones, snapshots and fork cutoffs.
    pub states: u64,
    /// Inodes in those states together.
    pub inodes: u64,
    /// Different stored runs of bytes that those states refer to.
    pub extents: u64,
    /// Their bytes.
    pub extent_bytes: u64,
    /// Object files.
    pub objects: u64,
}

/// The result of [`Engine::check`](crate::Engine::check).
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// The instant that was looked at: everything committed up to this epoch.
    pub epoch: Epoch,
    /// End of the log at that instant.
    pub position: Position,
    /// Number of findings that are errors.
    pub errors: u64,
    /// Number of findings that are notes.
    pub notes: u64,
    /// Findings that were counted but are not listed, because there are so many.
    pub omitted: u64,
    /// What was found, errors and notes, in the order in which the check met them.
    pub findings: Vec<Finding>,
    /// How much was looked at.
    pub counts: CheckCounts,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.errors == 0
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counts;
        writeln!(
            f,
            "log: {} in {}, {} bytes",
            count(c.frames, "frame"),
            count(c.segments, "segment"),
            c.log_bytes
        )?;
        writeln!(
            f,
            "index: {}, {}, {}",
            count(c.versions, "version"),
            count(c.dead, "deadlist record"),
            many(c.changes, "change list entry", "change list entries"),
        )?;
        writeln!(
            f,
            "states: {} of {} and {}, {}",
            c.states,
            count(c.timelines, "timeline"),
            count(c.snapshots, "snapshot"),
            count(c.inodes, "inode"),
        )?;
        writeln!(
            f,
            "data: {}, {} bytes; {}",
            count(c.extents, "extent"),
            c.extent_bytes,
            count(c.objects, "object file")
        )?;
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        if self.omitted > 0 {
            writeln!(f, "{} more are not listed", self.omitted)?;
        }
        match self.errors {
            0 => write!(f, "sound"),
            n => write!(f, "DAMAGED: {}", count(n, "error")),
        }?;
        match self.notes {
            0 => Ok(()),
            n => write!(f, " ({})", count(n, "note")),
        }
    }
}

fn count(n: u64, what: &str) -> String {
    many(n, what, &format!("{what}s"))
}

fn many(n: u64, one: &str, more: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { more })
}

/// What a check is busy with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum CheckPhase {
    /// Reading the log; counted in bytes.
    Log,
    /// Reading the index; counted in rows, whose number is not known before.
    Index,
    /// Walking states and reading their data; counted in states.
    States,
    /// Looking for what damaged data affects; counted in states.
    Affected,
}

/// How far a check is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckProgress {
    /// What it is busy with.
    pub phase: CheckPhase,
    /// How much of that is done.
    pub done: u64,
    /// How much there is, if it is known.
    pub total: Option<u64>,
    /// Errors found so far.
    pub errors: u64,
}

/// At most so many findings are listed, so that a store that is damaged everywhere does not fill memory.
const MAX_FINDINGS: usize = 10_000;

/// Collects findings.
#[derive(Default)]
pub(super) struct Findings {
    pub list: Vec<Finding>,
    pub errors: u64,
    pub notes: u64,
    pub omitted: u64,
}

impl Findings {
    /// Adds an error; returns its place in the list, if it is listed.
    pub fn error(
        &mut self,
        kind: FindingKind,
        place: Place,
        what: impl Into<String>,
    ) -> Option<usize> {
        self.errors += 1;
        self.add(Severity::Error, kind, place, what.into())
    }

    /// Adds a note.
    pub fn note(&mut self, kind: FindingKind, place: Place, what: impl Into<String>) {
        self.notes += 1;
        self.add(Severity::Note, kind, place, what.into());
    }

    fn add(
        &mut self,
        severity: Severity,
        kind: FindingKind,
        place: Place,
        what: String,
    ) -> Option<usize> {
        if self.list.len() >= MAX_FINDINGS {
            self.omitted += 1;
            return None;
        }
        self.list.push(Finding {
            severity,
            kind,
            place,
            what,
            affected: Vec::new(),
        });
        Some(self.list.len() - 1)
    }

    /// Says what the finding at this place of the list affects.
    pub fn affects(&mut self, at: Option<usize>, what: String) {
        if let Some(finding) = at.and_then(|at| self.list.get_mut(at)) {
            finding.affected.push(what);
        }
    }
}
