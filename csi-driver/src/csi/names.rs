//! Names of volumes and snapshots in the engine's catalog, from the names that callers choose.

use super::error::{CsiError, Result};
use super::ids::GroupId;
use storage_engine::TimelineId;

/// Before the name of a volume that a caller created.
pub(super) const VOLUME: &str = "volume/";
/// Before the name of a volume that lives as long as its pod.
pub(super) const EPHEMERAL: &str = "ephemeral/";
/// Before the name of a snapshot that a caller created.
pub(super) const SNAPSHOT: &str = "volumesnapshot/";
/// Before the name of a member of a group snapshot.
pub(super) const MEMBER: &str = "groupsnapshot/";

/// Longest name in bytes; the interface asks for 128 to be taken.
const LONGEST: usize = 256;

/// The engine's name for what a caller calls `name`: letters, digits, `.`, `_` and `-` as they are, every other byte as
/// `%` and two digits, so that no name can be taken for another.
pub(super) fn engine_name(prefix: &str, name: &str) -> Result<String> {
    if name.is_empty() {
        return Err(CsiError::invalid("a name is missing"));
    }
    if name.len() > LONGEST {
        return Err(CsiError::invalid(format!(
            "a name of {} bytes is longer than {LONGEST}",
            name.len()
        )));
    }
    let mut out = String::from(prefix);
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02x}")),
        }
    }
    Ok(out)
}

/// The engine's name of the snapshot of one timeline within a group.
pub(super) fn member_name(group: &GroupId, timeline: TimelineId) -> String {
    format!("{MEMBER}{}/{timeline}", group.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_names_stay_different_and_none_leaves_its_place() {
        assert_eq!(
            engine_name(VOLUME, "pvc-1.a_b").unwrap(),
            "volume/pvc-1.a_b"
        );
        assert_eq!(engine_name(VOLUME, "../x").unwrap(), "volume/..%2fx");
        assert_ne!(
            engine_name(VOLUME, "a%2fb").unwrap(),
            engine_name(VOLUME, "a/b").unwrap()
        );
        assert!(engine_name(VOLUME, "").is_err());
        assert!(engine_name(VOLUME, &"x".repeat(257)).is_err());
    }
}
