//! The rules that a schema alone cannot say: exactly one of, never changed, and the like.
//!
//! Each rule stands here once, as the CEL expression that an API server evaluates and as the message that people read.
//! [`crate::validate`] says the same in Rust, for `anabranch play`, which has no API server; tests hold the two together.

use kube::core::{Message, Rule};

/// One rule: what CEL evaluates, and what people read when it does not hold.
#[derive(Debug, PartialEq, Eq)]
pub struct FieldRule {
    /// The field that `self` is in the expression, from the root of the object; empty for the object itself.
    pub scope: &'static str,
    /// The CEL expression. It speaks of `oldSelf` when the rule is about changes.
    pub cel: &'static str,
    /// What people read when the rule does not hold.
    pub message: &'static str,
    /// What is allowed instead.
    pub allowed: &'static str,
}

impl FieldRule {
    /// Whether the rule is about changes: it compares with the object as it was.
    pub fn is_transition(&self) -> bool {
        self.cel.contains("oldSelf")
    }

    /// The message as an API server gives it: with what is allowed.
    pub fn full_message(&self) -> String {
        format!("{}; allowed: {}", self.message, self.allowed)
    }
}

impl From<&FieldRule> for Rule {
    fn from(rule: &FieldRule) -> Self {
        Rule::new(rule.cel).message(Message::Message(rule.full_message()))
    }
}

/// A bucket is named so that everything derived from it can be named.
pub const BUCKET_NAME: FieldRule = FieldRule {
    scope: "",
    cel: "size(self.metadata.name) <= 63",
    message: "the name is too long",
    allowed: "at most 63 characters",
};

/// A snapshot is named so that everything derived from it can be named.
pub const SNAPSHOT_NAME: FieldRule = FieldRule {
    scope: "",
    cel: "size(self.metadata.name) <= 63",
    message: "the name is too long",
    allowed: "at most 63 characters",
};

/// A fork and every fork of a set is named so that everything derived from it can be named.
pub const FORK_NAME: FieldRule = FieldRule {
    scope: "",
    cel: "size(self.metadata.name) + (has(self.spec.count) ? 1 + size(string(self.spec.count - 1)) : 0) <= 63",
    message: "the name is too long",
    allowed: "at most 63 characters, with the index of the last fork of a set (<name>-<index>)",
};

/// Nothing is forked from itself.
pub const FORK_NOT_OF_ITSELF: FieldRule = FieldRule {
    scope: "",
    cel: "!has(self.spec.source.fork) || self.spec.source.fork != self.metadata.name",
    message: "the fork is its own source",
    allowed: "the name of another BucketFork in spec.source.fork",
};

/// What was imported is history.
pub const BUCKET_SOURCE_IMMUTABLE: FieldRule = FieldRule {
    scope: "spec",
    cel: "has(self.source) == has(oldSelf.source) && (!has(self.source) || self.source == oldSelf.source)",
    message: "source cannot be changed: the bucket's content was made from it",
    allowed: "the source as it was; to import something else, make another Bucket",
};

/// Data does not move between nodes.
pub const BUCKET_NODE_IMMUTABLE: FieldRule = FieldRule {
    scope: "spec",
    cel: "has(self.node) == has(oldSelf.node) && (!has(self.node) || self.node == oldSelf.node)",
    message: "node cannot be changed: the bucket's data is on the node that was chosen first",
    allowed: "the node as it was; to use another node, make another Bucket",
};

/// An import has one source.
pub const IMPORT_SOURCE_ONE_OF: FieldRule = FieldRule {
    scope: "spec.source",
    cel: "has(self.directory) != has(self.tar)",
    message: "exactly one source is needed",
    allowed: "one of directory: {path} and tar: {path}",
};

/// A snapshot never changes.
pub const SNAPSHOT_SOURCE_IMMUTABLE: FieldRule = FieldRule {
    scope: "spec",
    cel: "self.source == oldSelf.source",
    message: "source cannot be changed: a snapshot holds one instant for ever",
    allowed: "the source as it was; to take another snapshot, make another BucketSnapshot",
};

/// A snapshot is of one timeline.
pub const SNAPSHOT_SOURCE_ONE_OF: FieldRule = FieldRule {
    scope: "spec.source",
    cel: "has(self.bucket) != has(self.fork)",
    message: "exactly one source is needed",
    allowed: "one of bucket: NAME and fork: NAME",
};

/// What was forked is history.
pub const FORK_SOURCE_IMMUTABLE: FieldRule = FieldRule {
    scope: "spec",
    cel: "self.source == oldSelf.source",
    message: "source cannot be changed: the fork was started from it",
    allowed: "the source as it was; to fork something else, make another BucketFork",
};

/// A fork has one source.
pub const FORK_SOURCE_ONE_OF: FieldRule = FieldRule {
    scope: "spec.source",
    cel: "[has(self.bucket), has(self.snapshot), has(self.fork)].exists_one(x, x)",
    message: "exactly one source is needed",
    allowed: "one of bucket: NAME, snapshot: NAME and fork: NAME",
};

/// What a fork holds is its namespace's own affair until somebody there takes a snapshot of it.
pub const FORK_SOURCE_NAMESPACE: FieldRule = FieldRule {
    scope: "spec.source",
    cel: "!has(self.__namespace__) || has(self.bucket) || has(self.snapshot)",
    message: "a fork of another namespace cannot be forked",
    allowed: "namespace with bucket or snapshot; take a BucketSnapshot of the fork there, and fork that",
};

/// A fork stays one fork and a set stays a set: their timelines have other names.
pub const FORK_COUNT_FORM: FieldRule = FieldRule {
    scope: "spec",
    cel: "has(self.count) == has(oldSelf.count)",
    message: "count cannot be added or removed: a single fork and a set name their timelines differently",
    allowed: "another count for a set, none for a single fork; for the other form, make another BucketFork",
};

/// The pattern lets some dates through that no calendar has.
pub const AT_IS_A_TIME: FieldRule = FieldRule {
    scope: "spec.source",
    cel: "!has(self.at) || self.at.matches('^[0-9]+$') || timestamp(self.at) >= timestamp('1970-01-01T00:00:00Z') && timestamp(self.at) < timestamp('9999-01-01T00:00:00Z')",
    message: "at is not a time since 1970 and before the year 9999",
    allowed: crate::time::AT_ALLOWED,
};

/// A lifetime is said once.
pub const LIFETIME_ONE_OF: FieldRule = FieldRule {
    scope: "spec.lifetime",
    cel: "[has(self.ttl), has(self.expireTime), has(self.noExpiry)].exists_one(x, x)",
    message: "exactly one lifetime is needed",
    allowed: "one of ttl: 24h, expireTime: 2026-01-31T12:00:00Z and noExpiry: true",
};

/// `noExpiry: false` says nothing.
pub const LIFETIME_NO_EXPIRY: FieldRule = FieldRule {
    scope: "spec.lifetime",
    cel: "!has(self.noExpiry) || self.noExpiry",
    message: "noExpiry: false does not say when it expires",
    allowed: "noExpiry: true, or ttl or expireTime instead",
};

/// Nothing lives for no time.
pub const LIFETIME_TTL: FieldRule = FieldRule {
    scope: "spec.lifetime",
    cel: "!has(self.ttl) || self.ttl.matches('[1-9]')",
    message: "ttl is zero",
    allowed: "a ttl longer than zero",
};

/// The end of the calendar is not for ever, and beyond the last of our times nothing can be read.
pub const LIFETIME_END: FieldRule = FieldRule {
    scope: "spec.lifetime",
    cel: "!has(self.expireTime) || self.expireTime < timestamp('9999-01-01T00:00:00Z')",
    message: "expireTime is too far away",
    allowed: "a time before the year 9999; noExpiry: true keeps it until it is deleted",
};

/// The rules of kind Bucket.
pub const BUCKET: &[&FieldRule] = &[
    &BUCKET_NAME,
    &BUCKET_SOURCE_IMMUTABLE,
    &BUCKET_NODE_IMMUTABLE,
    &IMPORT_SOURCE_ONE_OF,
];

/// The rules of kind BucketSnapshot.
pub const SNAPSHOT: &[&FieldRule] = &[
    &SNAPSHOT_NAME,
    &SNAPSHOT_SOURCE_IMMUTABLE,
    &SNAPSHOT_SOURCE_ONE_OF,
    &AT_IS_A_TIME,
    &LIFETIME_ONE_OF,
    &LIFETIME_NO_EXPIRY,
    &LIFETIME_TTL,
    &LIFETIME_END,
];

/// The rules of kind BucketFork.
pub const FORK: &[&FieldRule] = &[
    &FORK_NAME,
    &FORK_NOT_OF_ITSELF,
    &FORK_SOURCE_IMMUTABLE,
    &FORK_COUNT_FORM,
    &FORK_SOURCE_ONE_OF,
    &FORK_SOURCE_NAMESPACE,
    &AT_IS_A_TIME,
    &LIFETIME_ONE_OF,
    &LIFETIME_NO_EXPIRY,
    &LIFETIME_TTL,
    &LIFETIME_END,
];
