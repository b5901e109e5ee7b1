//! What a run does, step by step. A step names inodes, timelines, snapshots and epochs by the step that made
//! them, so leaving one out changes nothing in the others: runs that fail can be made short.

use storage_engine::{NodeKind, RenameMode, XattrMode};

use crate::fs::{Allocation, Change, Handle};

/// Number of a step; a step that makes several things numbers them from here on (see [`SPAN`]).
pub type StepId = u32;
/// Distance between the numbers of two steps: the most things one step can make.
pub const SPAN: u32 = 8;

/// A moment of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Now(StepId),
    Snapshot(StepId),
    /// The state at the end of the epoch that this step closed.
    Closed(StepId, StepId),
}

/// Where a file operation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Timeline(StepId),
    Snapshot(StepId),
}

pub type Name = Vec<u8>;

#[derive(Clone, Debug)]
pub enum FileOp {
    Lookup {
        parent: Handle,
        name: Name,
    },
    Attr {
        ino: Handle,
    },
    Create {
        parent: Handle,
        name: Name,
        kind: NodeKind,
        mode: u32,
        rdev: u32,
        target: Vec<u8>,
    },
    CreateUnlinked {
        parent: Handle,
        mode: u32,
    },
    Link {
        ino: Handle,
        parent: Handle,
        name: Name,
    },
    Unlink {
        parent: Handle,
        name: Name,
    },
    Rmdir {
        parent: Handle,
        name: Name,
    },
    Rename {
        parent: Handle,
        name: Name,
        new_parent: Handle,
        new_name: Name,
        mode: RenameMode,
    },
    Read {
        ino: Handle,
        offset: u64,
        len: u64,
    },
    Write {
        ino: Handle,
        offset: u64,
        len: u64,
        kill_priv: bool,
        keep_times: bool,
    },
    SetAttr {
        ino: Handle,
        change: Change,
    },
    Allocate {
        ino: Handle,
        how: Allocation,
        offset: u64,
        len: u64,
    },
    CopyRange {
        from: Handle,
        from_offset: u64,
        to: Handle,
        to_offset: u64,
        len: u64,
    },
    Seek {
        ino: Handle,
        offset: u64,
        data: bool,
    },
    ReadLink {
        ino: Handle,
    },
    ReadDir {
        ino: Handle,
        page: usize,
    },
    Xattr {
        ino: Handle,
        name: Name,
    },
    Xattrs {
        ino: Handle,
    },
    SetXattr {
        ino: Handle,
        name: Name,
        len: u64,
        mode: XattrMode,
    },
    RemoveXattr {
        ino: Handle,
        name: Name,
    },
    Fsync {
        ino: Handle,
    },
    Reap {
        ino: Handle,
    },
    ReapAll,
}

#[derive(Clone, Debug)]
pub enum Op {
    File {
        place: Place,
        uid: u32,
        gid: u32,
        op: FileOp,
    },
    CreateRoot {
        name: String,
    },
    Fork {
        name: String,
        source: At,
    },
    ForkGroup {
        forks: Vec<(String, At)>,
    },
    Snapshot {
        name: String,
        source: At,
    },
    SnapshotGroup {
        snapshots: Vec<(String, At)>,
    },
    Restore {
        timeline: StepId,
        source: At,
    },
    Rename {
        timeline: StepId,
        name: String,
    },
    Settings {
        timeline: StepId,
        read_only: bool,
        protected: bool,
        limits: Limits,
    },
    DeleteTimeline {
        timeline: StepId,
    },
    DeleteSnapshot {
        snapshot: StepId,
    },
    /// The create that this step made, asked for once more.
    Repeat {
        step: StepId,
    },
    Tick,
    Sync,
    /// What nobody can see is collected: nothing changes.
    Collect,
    Reopen {
        how: Reopen,
    },
}

/// What a timeline may hold, and how long its history must stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub retain_millis: u64,
    pub bytes: Option<u64>,
    pub inodes: Option<u64>,
}

impl Default for Limits {
    /// No quota; history stays readable longer than any run lasts.
    fn default() -> Limits {
        Limits {
            retain_millis: 86_400_000,
            bytes: None,
            inodes: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopen {
    /// Closed and opened.
    Clean,
    /// Dropped without closing, and opened.
    Dropped,
    /// Closed, its index deleted, and opened: the log alone gives everything.
    WithoutIndex,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub id: StepId,
    /// What the clock gains before the step; it may run backwards.
    pub clock: i64,
    pub op: Op,
}
