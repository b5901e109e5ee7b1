//! Kind `BucketSnapshot`: a named, durable pin on a timeline at an epoch.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::lifetime::Lifetime;
use crate::rules;
use crate::status::{Mount, Summary};
use crate::time::{At, Epoch};

/// What a BucketSnapshot should be.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "anabranch.dev",
    version = "v1alpha1",
    kind = "BucketSnapshot",
    plural = "bucketsnapshots",
    singular = "bucketsnapshot",
    shortname = "asnap",
    category = "anabranch",
    namespaced,
    status = "SnapshotStatus",
    selectable = ".status.node",
    derive = "PartialEq",
    doc = "A named, durable pin on the state of a bucket or a fork at one instant. It costs the same whatever there is, and never changes.",
    validation = &rules::SNAPSHOT_NAME,
    printcolumn(name = "Source", type_ = "string", json_path = ".status.summary.source",
        description = "What it is a snapshot of."),
    printcolumn(name = "Ready", type_ = "boolean", json_path = ".status.readyToUse",
        description = "Whether it can be forked and read."),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.summary.state",
        description = "What it is or waits for, in one word."),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.summary.size",
        description = "Bytes of all the files in it."),
    printcolumn(name = "Mounted", type_ = "string", json_path = ".status.summary.mounted",
        description = "Where it is mounted."),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.summary.expires",
        description = "When its data is freed."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node", priority = 1,
        description = "The node that holds the data."),
    printcolumn(name = "Taken", type_ = "string", json_path = ".status.time", priority = 1,
        description = "The instant that it holds."),
    printcolumn(name = "Epoch", type_ = "string", json_path = ".status.epoch", priority = 1,
        description = "The same in Unix nanoseconds."),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.digest", priority = 1,
        description = "Fixes the history up to it."),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.summary.message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = &rules::SNAPSHOT_SOURCE_IMMUTABLE)]
pub struct SnapshotSpec {
    /// What it is a snapshot of. Cannot be changed later.
    pub source: SnapshotSource,
    /// How long it is kept.
    pub lifetime: Lifetime,
}

/// The timeline that a snapshot is taken of, in the same namespace: exactly one of `bucket` and `fork`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = &rules::SNAPSHOT_SOURCE_ONE_OF)]
#[x_kube(validation = &rules::AT_IS_A_TIME)]
pub struct SnapshotSource {
    /// Name of a Bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::object_name")]
    pub bucket: Option<String>,
    /// Name of a BucketFork, or of one fork of a set: `<name>-<index>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::object_name")]
    pub fork: Option<String>,
    /// A past instant of it, within its retained history, instead of now: an RFC 3339 time, or an epoch as a quoted number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<At>,
}

impl SnapshotSource {
    /// In one line, for people and to recognise the source: `bucket/base`, `fork/agent-2@2026-01-31T12:00:00Z`.
    pub fn describe(&self) -> String {
        let what = [("bucket", &self.bucket), ("fork", &self.fork)];
        crate::status::describe_source(&what, self.at.as_ref())
    }
}

/// What a BucketSnapshot is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// The generation of the spec that this status speaks about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, and `Reconciling` or `Stalled` where they apply; `Expired` alone when the data was freed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// The node that holds the data; absent until one was chosen, and without a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether it can be forked and read.
    #[serde(default)]
    pub ready_to_use: bool,
    /// The engine's id of the snapshot (32 hexadecimal digits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The engine's id of the timeline it pins (32 hexadecimal digits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<String>,
    /// The epoch that it pins, in Unix nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// The same as a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// When the snapshot was made; a `ttl` counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_time: Option<Time>,
    /// Digest of the history up to the epoch (64 hexadecimal digits): equal digests mean equal histories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Bytes of all the files in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Files, directories and links in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<u64>,
    /// Where it is mounted (read-only).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// When it expires; absent with `noExpiry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_time: Option<Time>,
    /// When its lifetime was found to have ended. It is not made again while this stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_time: Option<Time>,
    /// For people: what the columns show. Derived from the rest; programs read the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}
