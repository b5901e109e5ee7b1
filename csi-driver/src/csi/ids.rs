//! The ids that callers pass: made here, parsed here, refused whole when they are anything else.

use std::fmt;

use storage_engine::{SnapshotId, TimelineId};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $of:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $of);

        impl $name {
            /// Reads what [`Display`](fmt::Display) has written; `None` for everything else, however similar.
            pub fn parse(text: &str) -> Option<$name> {
                let hex = text.strip_prefix($prefix)?;
                let id: $of = hex.parse().ok()?;
                let made = $name(id);
                // One spelling only: an id is compared as text by its callers.
                (made.to_string() == text).then_some(made)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A volume: `vol-` and the timeline's id.
    VolumeId,
    TimelineId,
    "vol-"
);
id!(
    /// A snapshot: `snap-` and the engine's snapshot id.
    SnapshotRef,
    SnapshotId,
    "snap-"
);

/// A group snapshot: `group-` and 32 hexadecimal digits that follow from its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupId(String);

impl GroupId {
    /// The id of the group of this name.
    pub fn of_name(name: &str) -> GroupId {
        let hash = blake3::derive_key("anabranch 2026 group snapshot id", name.as_bytes());
        GroupId(format!(
            "group-{}",
            hex::encode(hash.get(..16).unwrap_or_default())
        ))
    }

    /// Reads an id that [`GroupId::of_name`] has made.
    pub fn parse(text: &str) -> Option<GroupId> {
        let digits = text.strip_prefix("group-")?;
        let plain = digits.len() == 32
            && digits
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        plain.then(|| GroupId(text.to_owned()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_and_nothing_else_is() {
        let id = VolumeId(TimelineId([0xab; 16]));
        assert_eq!(VolumeId::parse(&id.to_string()), Some(id));
        let group = GroupId::of_name("a group");
        assert_eq!(GroupId::parse(group.as_str()), Some(group.clone()));
        for hostile in [
            "",
            "vol-",
            "vol-../../etc",
            "vol-ABABABABABABABABABABABABABABABAB",
            "vol-abababababababababababababababab ",
            " vol-abababababababababababababababab",
            "vol-abababababababababababababababab\0",
            "vol-abababababababababababababababababab",
            "snap-abababababababababababababababab",
            "vol-+babababababababababababababababa",
        ] {
            assert_eq!(VolumeId::parse(hostile), None, "{hostile:?}");
        }
        assert_eq!(
            GroupId::parse("group-ABABABABABABABABABABABABABABABAB"),
            None
        );
        assert_eq!(GroupId::parse("group-abab"), None);
        assert_ne!(GroupId::of_name("a"), GroupId::of_name("b"));
    }
}
