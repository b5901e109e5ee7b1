//! Why a mount cannot be made, synced or ended.

use std::io;
use std::path::PathBuf;

use storage_engine::TimelineId;

use crate::fuse::mount::MountError;
use crate::keeper::client::KeeperError;

/// An error of [`super::Mounts`]; each message is a sentence for a person.
#[derive(Debug, thiserror::Error)]
pub enum MountsError {
    /// The mount point cannot be used.
    #[error(transparent)]
    Point(#[from] MountError),
    /// The engine refuses.
    #[error(transparent)]
    Engine(#[from] storage_engine::Error),
    /// The keeper refuses or is away.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// The id is taken.
    #[error("a mount named {id} is there already")]
    Exists {
        /// The id.
        id: String,
    },
    /// Another mount writes the timeline.
    #[error(
        "timeline {timeline} is already mounted writable as {other}; mount it read-only, or a fork of it"
    )]
    Written {
        /// The timeline.
        timeline: TimelineId,
        /// Id of the other mount.
        other: String,
    },
    /// Programs use the mount.
    #[error("{} (mount {id}) is in use; end the programs that use it, or unmount it lazily", .mount_point.display())]
    Busy {
        /// The mount.
        id: String,
        /// Its mount point.
        mount_point: PathBuf,
    },
    /// The directory of the mount was renamed.
    #[error(
        "mount {id} is not at {} any more but at {}: the directory was renamed; put it back, then try again",
        .mount_point.display(),
        .now.display()
    )]
    Moved {
        /// The mount.
        id: String,
        /// Where it was mounted.
        mount_point: PathBuf,
        /// Where it is now.
        now: PathBuf,
    },
    /// There is no such mount.
    #[error("there is no mount named {id}")]
    NotMounted {
        /// The id.
        id: String,
    },
    /// The keeper's record of a mount is not usable.
    #[error("the keeper's record of mount {id} cannot be used: {error}")]
    Record {
        /// The mount.
        id: String,
        /// Why not.
        error: String,
    },
    /// The system refuses what serving needs.
    #[error("mount {id}: cannot {what}: {error}")]
    Serve {
        /// The mount.
        id: String,
        /// What was tried.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
}
