//! Making the kernel's side of a mount, and why a mount cannot be made. Where it is attached is [`super::place`]'s, what is
//! mounted [`super::mountinfo`]'s.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

pub use super::deadline::{PATH_DEADLINE, with_deadline};
use super::device::Device;
pub use super::mountinfo::{MountLine, mounted, mounted_at};
use super::place::Place;

/// Type of our mounts in mountinfo.
pub const TYPE: &str = "fuse.anabranch";

/// Read-ahead of a mount in KiB: the kernel's default of 128 costs a fifth on cold reads, more than 512 gains nothing.
const READ_AHEAD_KIB: u32 = 512;

/// Why a mount point cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Something is mounted there.
    #[error("{} is in use: {kind} is mounted there; unmount it or choose another mount point", .path.display())]
    Mounted {
        /// The mount point.
        path: PathBuf,
        /// Type of what is mounted.
        kind: String,
    },
    /// It lies inside another of our mounts, which would make one mount depend on the other being served.
    #[error("{} lies inside the mount {}; mounts cannot be nested", .path.display(), .outer.display())]
    Nested {
        /// The mount point.
        path: PathBuf,
        /// The mount around it.
        outer: PathBuf,
    },
    /// The directory has entries, which the mount would hide.
    #[error("{} is not empty; mounting there would hide what it holds", .0.display())]
    NotEmpty(PathBuf),
    /// It is there and no directory.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The parent directory is missing.
    #[error("{} cannot be made: its parent directory does not exist", .0.display())]
    NoParent(PathBuf),
    /// The path is relative, has `..`, or is not UTF-8.
    #[error("{} is not usable as a mount point: {why}", .path.display())]
    BadPath {
        /// The mount point.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// A part of the path is a symbolic link, or leads out of where it should be.
    #[error("a part of {} is a symbolic link or leads outside", .0.display())]
    Link(PathBuf),
    /// No volume is mounted there.
    #[error("nothing is mounted at {}", .0.display())]
    NotMounted(PathBuf),
    /// Something that is none of ours is mounted there.
    #[error(
        "{kind} ({source_name}) is mounted at {}, which is not this volume; it is left there: unmount it by hand if nobody needs it",
        .path.display()
    )]
    Foreign {
        /// The path.
        path: PathBuf,
        /// Type of what is mounted.
        kind: String,
        /// Its source.
        source_name: String,
    },
    /// The directory was renamed while it was mounted on.
    #[error(
        "{} was renamed while a volume was mounted there{}; nothing is mounted, try again when nobody renames it",
        .path.display(),
        .now.as_ref().map(|now| format!(", to {}", now.display())).unwrap_or_default()
    )]
    Moved {
        /// The path.
        path: PathBuf,
        /// Where the directory was found.
        now: Option<PathBuf>,
    },
    /// A call on the path did not return in time.
    #[error(
        "{} does not answer within {} s: a file system on the way to it hangs. The call goes on when it answers; \
         `findmnt` shows what is mounted there, and `umount -f -l` ends a mount whose server is gone",
        .path.display(),
        .seconds
    )]
    Deadline {
        /// The path.
        path: PathBuf,
        /// The deadline.
        seconds: u64,
    },
    /// The system refused.
    #[error("cannot {what} {}: {error}", .path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// How to mount.
#[derive(Debug, Clone, Copy)]
pub struct MountOptions<'a> {
    /// Name of the mount in mountinfo, after `anabranch:`.
    pub name: &'a str,
    /// Refuse every change.
    pub read_only: bool,
}

/// Mounts a connection nowhere yet: [`super::place::Place::attach`] makes it visible. The kernel sends INIT at once. Every
/// user may use the mount, by the permissions of the files (`allow_other`, `default_permissions`); set-user-id programs and
/// devices do not work on it.
///
/// # Errors
/// The system refuses.
pub fn create(device: &Device, options: MountOptions<'_>) -> io::Result<OwnedFd> {
    let (kind, subtype) = TYPE.split_once('.').unwrap_or((TYPE, ""));
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [
        ("source", source(options.name)),
        ("subtype", subtype.to_owned()),
        ("fd", device.as_fd().as_raw_fd().to_string()),
        ("rootmode", "40000".to_owned()),
        ("user_id", rustix::process::geteuid().as_raw().to_string()),
        ("group_id", rustix::process::getegid().as_raw().to_string()),
        ("max_read", super::device::MAX_WRITE.to_string()),
    ] {
        rustix::mount::fsconfig_set_string(&context, key, value)?;
    }
    for flag in ["allow_other", "default_permissions"] {
        rustix::mount::fsconfig_set_flag(&context, flag)?;
    }
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    if options.read_only {
        rustix::mount::fsconfig_set_flag(&context, "ro")?;
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    rustix::mount::fsconfig_create(&context)?;
    Ok(rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Source of a mount in mountinfo, by the mount's name.
pub fn source(name: &str) -> String {
    format!("anabranch:{name}")
}

/// Unmounts what is on top at a path that has no links, whatever it is; see [`super::place::Place::unmount`].
///
/// # Errors
/// In use, or not mounted.
pub fn unmount(point: &Path, lazy: bool, force: bool) -> io::Result<()> {
    let place = Place::at(point).map_err(io::Error::other)?;
    place.unmount(|_| true, lazy, force)
}

/// Raises the read-ahead of a mounted device (`major:minor`). A kernel that refuses costs speed only.
pub fn raise_read_ahead(device: &str) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = fs::write(&path, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(path, %error, "the read-ahead of a mount stays at the kernel's default");
    }
}
