//! The commands that a store understands, whoever runs them: the command line itself on a store that
//! nobody owns, or the owner on behalf of the command line.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage_engine::Epoch;

use super::name::{Kind, Name};

/// One command, complete in itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "command",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Command {
    /// The objects of a kind with their status.
    Get {
        /// The kind.
        kind: Kind,
        /// Only the one of this name.
        name: Option<String>,
        /// Only this namespace; all of them without.
        namespace: Option<String>,
    },
    /// Pins an instant of a timeline.
    Snapshot {
        /// What to pin.
        source: Name,
        /// The snapshot's name.
        name: String,
        /// When it goes away by itself.
        expires: Option<Epoch>,
    },
    /// Starts one or several timelines at one cutoff.
    Fork {
        /// Where they start.
        source: Name,
        /// The names of the forks: one, or those of a set.
        names: Vec<String>,
        /// Refuses every write.
        read_only: bool,
        /// Most logical bytes; no limit without.
        quota_bytes: Option<u64>,
        /// Most inodes; no limit without.
        quota_inodes: Option<u64>,
        /// When they go away by themselves.
        expires: Option<Epoch>,
    },
    /// Deletes a timeline or a snapshot that was made by command.
    Delete {
        /// What to delete.
        name: Name,
    },
    /// What differs between two points.
    Diff {
        /// The older side; what `to` was forked from when it is left out.
        from: Option<Name>,
        /// The newer side.
        to: Name,
        /// Only paths at or below this one.
        path: Option<Vec<u8>>,
    },
    /// The history of a timeline, or of one file in it, newest first.
    Log {
        /// The timeline, or a file in it.
        name: Name,
        /// At most so many entries.
        limit: Option<usize>,
    },
    /// A directory, or one file.
    Ls {
        /// Where.
        name: Name,
        /// Everything below it too.
        recursive: bool,
    },
    /// The bytes of a file.
    Cat {
        /// Which file.
        name: Name,
        /// First byte.
        start: u64,
        /// How many bytes at most; to the end without.
        length: Option<u64>,
    },
    /// Replaces or creates a file with the bytes that follow the command.
    Put {
        /// Which file; its directories are made when they are missing.
        name: Name,
        /// Permission bits; 0644 without, or those of the file that is replaced.
        mode: Option<u32>,
        /// The owner of new files and directories.
        uid: u32,
        /// Their group.
        gid: u32,
    },
    /// Removes files.
    Rm {
        /// Which.
        names: Vec<Name>,
        /// Directories too, with everything in them.
        recursive: bool,
        /// What does not exist is no error.
        force: bool,
    },
    /// Points a timeline at an earlier state; what was there stays as history.
    Restore {
        /// The timeline.
        name: Name,
        /// The state it gets.
        to: Name,
    },
    /// Verifies the whole store.
    Check,
    /// Proves that the history up to a snapshot is what was written.
    Verify {
        /// The snapshot.
        name: Name,
        /// Its digest, as somebody has kept it elsewhere.
        digest: Option<String>,
    },
    /// Reads everything that is stored, slowly.
    Scrub {
        /// Bytes read each second, at most.
        rate: Option<u64>,
    },
    /// Gives back what nothing needs any more.
    Gc {
        /// Only tells what would be done.
        dry_run: bool,
        /// Compacts the log as far as it goes.
        #[serde(default)]
        full: bool,
    },
    /// Bytes and inodes of timelines.
    Du {
        /// Which; all of them when empty.
        names: Vec<Name>,
        /// Of this namespace; all of them without.
        namespace: Option<String>,
    },
    /// The timelines with their snapshots.
    Tree {
        /// Only the lineage that this one belongs to.
        name: Option<Name>,
        /// Of this namespace; all of them without.
        namespace: Option<String>,
    },
    /// Makes the owner end as if it had been interrupted.
    Stop {
        /// How long the asker waits for the end; told to the owner for its log only.
        wait: Duration,
    },
}

impl Command {
    /// Whether bytes follow the command.
    pub fn has_input(&self) -> bool {
        matches!(self, Command::Put { .. })
    }

    /// The word for this command in messages.
    pub fn word(&self) -> &'static str {
        match self {
            Command::Get { .. } => "get",
            Command::Snapshot { .. } => "snapshot",
            Command::Fork { .. } => "fork",
            Command::Delete { .. } => "delete",
            Command::Diff { .. } => "diff",
            Command::Log { .. } => "log",
            Command::Ls { .. } => "ls",
            Command::Cat { .. } => "cat",
            Command::Put { .. } => "put",
            Command::Rm { .. } => "rm",
            Command::Restore { .. } => "restore",
            Command::Check => "check",
            Command::Verify { .. } => "verify",
            Command::Scrub { .. } => "scrub",
            Command::Gc { .. } => "gc",
            Command::Du { .. } => "du",
            Command::Tree { .. } => "tree",
            Command::Stop { .. } => "stop",
        }
    }
}
