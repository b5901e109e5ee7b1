//! What is mounted: read from the kernel's mountinfo, never asked of a path, which may hang.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLine {
    /// The kernel's number of the mount, used again when it is gone.
    pub id: u64,
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

/// The mount with the kernel's number `id`, if it is attached in this namespace.
///
/// # Errors
/// As [`mounted`].
pub fn mounted_as(id: u64) -> io::Result<Option<MountLine>> {
    Ok(mounted()?.into_iter().find(|line| line.id == id))
}

/// The kernel's number of the mount that an open file or directory is on. Asks nothing of its file system.
///
/// # Errors
/// `/proc` is not there.
pub fn mount_of(descriptor: impl AsFd) -> io::Result<u64> {
    let number = descriptor.as_fd().as_raw_fd();
    fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel does not say what mount a descriptor is on"))
}

fn parse_line(line: &[u8]) -> Option<MountLine> {
    let text = std::str::from_utf8(line).ok()?;
    let (before, after) = text.split_once(" - ")?;
    let mut before = before.split(' ');
    let id = before.next()?.parse().ok()?;
    let device = before.nth(1)?.to_owned();
    let point = PathBuf::from(unescape(before.nth(1)?));
    let options = before.next()?.to_owned();
    let mut after = after.split(' ');
    Some(MountLine {
        id,
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
                parsed.id,
                parsed.device.as_str(),
                parsed.kind.as_str(),
                parsed.source.as_str()
            ),
            (36, "0:57", "fuse.anabranch", "anabranch:a\\b")
        );
    }

    #[test]
    fn a_descriptor_is_on_a_mount_of_the_table() {
        let proc = fs::File::open("/proc").unwrap();
        let line = mounted_as(mount_of(&proc).unwrap()).unwrap().unwrap();
        assert_eq!(
            (line.kind.as_str(), line.point.as_path()),
            ("proc", Path::new("/proc"))
        );
    }
}
