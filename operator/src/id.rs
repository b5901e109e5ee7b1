//! Ids of timelines and snapshots.

use std::fmt;

use crds::Kind;

/// Id of a timeline or snapshot in the engine. Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// The id of what is made for an object: the same for every repetition of the same step, another for every other.
    ///
    /// The generation is in it because a fork of a set that was deleted by a smaller count and comes back by a larger one
    /// is another timeline, and the engine uses no id twice.
    pub fn derive(kind: Kind, uid: &str, index: Option<u32>, generation: i64) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(b"anabranch.dev/id/v1");
        for part in [
            kind.as_str(),
            uid,
            &index.map(|index| index.to_string()).unwrap_or_default(),
            &generation.to_string(),
        ] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut id = [0; 16];
        hash.finalize_xof().fill(&mut id);
        Id(id)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_same_for_the_same_step_and_for_no_other() {
        let base = Id::derive(Kind::Fork, "u", Some(1), 1);
        assert_eq!(base, Id::derive(Kind::Fork, "u", Some(1), 1));
        for other in [
            Id::derive(Kind::Bucket, "u", Some(1), 1),
            Id::derive(Kind::Fork, "v", Some(1), 1),
            Id::derive(Kind::Fork, "u", Some(2), 1),
            Id::derive(Kind::Fork, "u", None, 1),
            Id::derive(Kind::Fork, "u", Some(1), 2),
            Id::derive(Kind::Fork, "u1", None, 1),
        ] {
            assert_ne!(base, other);
        }
        assert_eq!(base.to_string().len(), 32);
    }
}
