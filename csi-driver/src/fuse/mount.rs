//! mount(2) and umount(2), and everything around them that touches a path. A path may hang (a dead mount, a network
//! file system), so each such call has a deadline; whether something is mounted is read from mountinfo, never asked
//! of the path.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags};

use super::device::Device;

/// Type of our mounts in mountinfo.
pub const TYPE: &str = "fuse.anabranch";

/// How long a call that touches a path may take before it is given up.
pub const PATH_DEADLINE: Duration = Duration::from_secs(10);

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
    /// A call on the path did not return in time.
    #[error("{} does not answer within {} s; is it on a file system that hangs?", .path.display(), .seconds)]
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

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLine {
    /// Where.
    pub point: PathBuf,
    /// Device number as `major:minor`.
    pub device: String,
    /// File system type, for example `fuse.anabranch`.
    pub kind: String,
    /// Source: for our mounts `anabranch` and the mount's id.
    pub source: String,
    /// Options of this one mount (`rw,nosuid`), as opposed to those of its file system.
    pub options: String,
}

impl MountLine {
    /// Whether this mount refuses writing.
    pub fn read_only(&self) -> bool {
        self.options.split(',').any(|option| option == "ro")
    }
}

/// Every mount of this process's namespace, in mounting order. Cost: one file of the kernel; touches no path.
///
/// # Errors
/// `/proc` is not there.
pub fn mounted() -> io::Result<Vec<MountLine>> {
    Ok(fs::read("/proc/self/mountinfo")?
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect())
}

/// What is mounted on `point` last, so on top.
///
/// # Errors
/// As [`mounted`].
pub fn mounted_at(point: &Path) -> io::Result<Option<MountLine>> {
    Ok(mounted()?.into_iter().rfind(|line| line.point == point))
}

fn parse_line(line: &[u8]) -> Option<MountLine> {
    let text = std::str::from_utf8(line).ok()?;
    let (before, after) = text.split_once(" - ")?;
    let mut before = before.split(' ').skip(2);
    let device = before.next()?.to_owned();
    let point = PathBuf::from(unescape(before.nth(1)?));
    let options = before.next()?.to_owned();
    let mut after = after.split(' ');
    Some(MountLine {
        point,
        device,
        kind: after.next()?.to_owned(),
        source: unescape(after.next()?),
        options,
    })
}

/// Octal escapes of mountinfo: `\040` is a space.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) if *first == b'\\' => {
                out.push(code);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Runs `call`, which touches `path`, on a thread of its own and waits at most [`PATH_DEADLINE`].
///
/// # Errors
/// [`MountError::Deadline`]; the thread is left behind and ends when the path answers.
pub fn with_deadline<T: Send + 'static>(
    path: &Path,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, MountError> {
    let (sender, receiver) = mpsc::channel();
    let system = |error| MountError::System {
        what: "look at",
        path: path.to_owned(),
        error,
    };
    std::thread::Builder::new()
        .name("path".into())
        .spawn(move || {
            let _ = sender.send(call());
        })
        .map_err(system)?;
    let late = |_| MountError::Deadline {
        path: path.to_owned(),
        seconds: PATH_DEADLINE.as_secs(),
    };
    receiver.recv_timeout(PATH_DEADLINE).map_err(late)
}

/// Checks that a mount point can be used and makes the directory when only it, not its parent, is missing. Returns
/// whether it was made.
///
/// # Errors
/// Why not; nothing is touched then.
pub fn prepare(point: &Path) -> Result<bool, MountError> {
    let bad = |why| MountError::BadPath {
        path: point.to_owned(),
        why,
    };
    if !point.is_absolute() {
        return Err(bad("it is not absolute"));
    }
    if point.to_str().is_none() {
        return Err(bad("it is not UTF-8"));
    }
    if point
        .components()
        .any(|part| matches!(part, std::path::Component::ParentDir))
    {
        return Err(bad("it contains '..'"));
    }
    let system = |what| {
        move |error| MountError::System {
            what,
            path: point.to_owned(),
            error,
        }
    };
    let lines = mounted().map_err(system("read the mounts around"))?;
    if let Some(line) = lines.iter().rfind(|line| line.point == point) {
        return Err(MountError::Mounted {
            path: point.to_owned(),
            kind: line.kind.clone(),
        });
    }
    if let Some(line) = lines
        .iter()
        .rfind(|line| line.kind == TYPE && point.starts_with(&line.point))
    {
        return Err(MountError::Nested {
            path: point.to_owned(),
            outer: line.point.clone(),
        });
    }
    let owned = point.to_owned();
    with_deadline(point, move || prepare_directory(&owned))?
}

fn prepare_directory(point: &Path) -> Result<bool, MountError> {
    let system = |what| {
        move |error| MountError::System {
            what,
            path: point.to_owned(),
            error,
        }
    };
    match fs::symlink_metadata(point) {
        Ok(found) if !found.is_dir() => Err(MountError::NotADirectory(point.to_owned())),
        Ok(_) => match fs::read_dir(point).map_err(system("list"))?.next() {
            None => Ok(false),
            Some(_) => Err(MountError::NotEmpty(point.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::create_dir(point) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(MountError::NoParent(point.to_owned()))
            }
            Err(error) => Err(system("make")(error)),
        },
        Err(error) => Err(system("look at")(error)),
    }
}

/// How to mount.
#[derive(Debug, Clone, Copy)]
pub struct MountOptions<'a> {
    /// Name of the mount in mountinfo, after `anabranch:`.
    pub name: &'a str,
    /// Refuse every change.
    pub read_only: bool,
}

/// Mounts a connection at a prepared mount point. The kernel then sends INIT. Every user may use the mount, by the
/// permissions of the files (`allow_other`, `default_permissions`); set-user-id programs and devices do not work on
/// it.
///
/// # Errors
/// The system refuses.
pub fn mount(device: &Device, point: &Path, options: MountOptions<'_>) -> Result<(), MountError> {
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},allow_other,default_permissions,max_read={}",
        device.as_fd().as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
        super::device::MAX_WRITE,
    );
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    let source = format!("anabranch:{}", options.name);
    let system = |error: io::Error| MountError::System {
        what: "mount a volume at",
        path: point.to_owned(),
        error,
    };
    let data = std::ffi::CString::new(data).map_err(|error| system(error.into()))?;
    let target = point.to_owned();
    // The descriptor number in `data` stays valid: if the call hangs, the deadline returns an error and the caller
    // keeps the device until the process ends.
    with_deadline(point, move || {
        rustix::mount::mount(source, target, TYPE, flags, data.as_c_str())
    })?
    .map_err(|error| system(error.into()))
}

/// Unmounts. `lazy` detaches a mount that is in use, so that it goes when its last user does; `force` aborts the
/// connection first, so that processes which wait on it get an error.
///
/// Without `force` it waits for dirty pages to be served: never called in the process that serves the mount.
///
/// # Errors
/// In use, or not mounted.
pub fn unmount(point: &Path, lazy: bool, force: bool) -> io::Result<()> {
    let mut flags = UnmountFlags::NOFOLLOW;
    if lazy {
        flags |= UnmountFlags::DETACH;
    }
    if force {
        flags |= UnmountFlags::FORCE;
    }
    Ok(rustix::mount::unmount(point, flags)?)
}

/// Raises the read-ahead of a mounted device (`major:minor`). A kernel that refuses costs speed only.
pub fn raise_read_ahead(device: &str) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = fs::write(&path, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(path, %error, "the read-ahead of a mount stays at the kernel's default");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_understood_with_its_escapes() {
        let line = b"36 35 0:57 / /mnt/with\\040space rw,nosuid shared:1 - fuse.anabranch anabranch:a\\134b rw,user_id=0";
        let parsed = parse_line(line).unwrap();
        assert_eq!(parsed.point, Path::new("/mnt/with space"));
        assert!(!parsed.read_only());
        assert_eq!(
            (
                parsed.device.as_str(),
                parsed.kind.as_str(),
                parsed.source.as_str()
            ),
            ("0:57", TYPE, "anabranch:a\\b")
        );
    }

    #[test]
    fn a_mount_point_with_content_or_without_parent_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "x").unwrap();
        assert!(matches!(
            prepare(folder.path()),
            Err(MountError::NotEmpty(_))
        ));
        assert!(matches!(
            prepare(&folder.path().join("file")),
            Err(MountError::NotADirectory(_))
        ));
        assert!(matches!(
            prepare(&folder.path().join("no/such")),
            Err(MountError::NoParent(_))
        ));
        assert!(matches!(
            prepare(Path::new("/proc")),
            Err(MountError::Mounted { .. })
        ));
        assert!(matches!(
            prepare(Path::new("relative")),
            Err(MountError::BadPath { .. })
        ));
        assert!(prepare(&folder.path().join("new")).unwrap());
        assert!(!prepare(&folder.path().join("new")).unwrap());
    }
}
