//! Durability bugs planted on purpose, to prove that the tests find them.
//!
//! Only the feature `planted-bugs`, which no build but that of `make mutants` turns on and which refuses to
//! compile without debug assertions, has them; one is active at a time, named by an environment variable.
//! Without the feature every question is the constant `false`.

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!(
    "the feature planted-bugs breaks the store on purpose: it is for tests of debug builds only"
);

/// A bug that can be planted. The names are what `make mutants` prints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "planted-bugs", derive(serde::Deserialize))]
#[cfg_attr(feature = "planted-bugs", serde(rename_all = "kebab-case"))]
pub(crate) enum Bug {
    /// Waiting for durability does not sync the segment.
    SkippedSegmentSync,
    /// A segment that is full is not synced.
    SkippedSyncOfFullSegment,
    /// A new segment's name is not synced.
    SkippedDirectorySync,
    /// An object file's bytes are not synced.
    SkippedObjectSync,
    /// An object file's name is not synced.
    SkippedObjectDirectorySync,
    /// The index is written out before the log is synced.
    IndexBeforeLog,
    /// What recovery replays is not synced before the index has it.
    RecoveredWithoutSync,
    /// Recovery accepts a frame whose data is not what was written.
    TornTailAccepted,
    /// A commit forgets its deadlist records.
    LostDeadlist,
    /// The horizon that the collector applied is not looked at.
    WrongHorizon,
    /// A deadlist record stays after its bytes were given back.
    DoubleFree,
    /// Blocks are given back of which a part is still needed.
    FreedTooMuch,
    /// Inode numbers are handed out again after an opening.
    ReusedInode,
    /// A commit is acknowledged as durable without waiting.
    AcknowledgedBeforeSync,
    /// `store.json` is renamed into place before its bytes are synced.
    RenameBeforeSync,
    /// The index says that it has a frame that it has not.
    PositionAhead,
    /// A failed sync is forgotten, and the next one claims success.
    SyncRetried,
    /// What was appended during a sync counts as synced. Only the interleavings find it.
    AppendedDuringSync,
    /// A compacted segment takes its place before it, and what its rows were left out for, is on the disk.
    CompactedWithoutSync,
    /// A compaction leaves rows out that take away what an earlier segment still sets.
    RemovalForgotten,
    /// The bytes of a write that was cut short are not written again.
    ShortWriteAccepted,
}

/// Whether this bug is active.
#[cfg(feature = "planted-bugs")]
pub(crate) fn planted(bug: Bug) -> bool {
    use std::sync::LazyLock;
    static ACTIVE: LazyLock<Option<Bug>> = LazyLock::new(|| {
        let name = std::env::var("ANABRANCH_PLANTED_BUG").ok()?;
        let name: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
            serde::de::IntoDeserializer::into_deserializer(name.as_str());
        let found = serde::Deserialize::deserialize(name);
        debug_assert!(found.is_ok(), "no such bug");
        found.ok()
    });
    *ACTIVE == Some(bug)
}

/// Whether this bug is active: never.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}
