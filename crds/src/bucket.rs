//! Kind `Bucket`: a dataset with a root timeline.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::lifetime::Quota;
use crate::rules;
use crate::status::{Mount, Summary, Usage};

/// What a Bucket should be.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "anabranch.dev",
    version = "v1alpha1",
    kind = "Bucket",
    plural = "buckets",
    singular = "bucket",
    shortname = "abucket",
    category = "anabranch",
    namespaced,
    status = "BucketStatus",
    selectable = ".status.node",
    derive = "PartialEq",
    doc = "A dataset with a root timeline, from which snapshots and forks are made.",
    validation = &rules::BUCKET_NAME,
    printcolumn(name = "Source", type_ = "string", json_path = ".status.summary.source",
        description = "Where its first content came from."),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether snapshots and forks can be made of it."),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.summary.state",
        description = "What it is or waits for, in one word."),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.summary.size",
        description = "Bytes of all its files."),
    printcolumn(name = "Divergent", type_ = "string", json_path = ".status.summary.divergent",
        description = "Bytes that only this timeline refers to."),
    printcolumn(name = "Mounted", type_ = "string", json_path = ".status.summary.mounted",
        description = "Where it is mounted."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node", priority = 1,
        description = "The node that holds the data."),
    printcolumn(name = "Retain", type_ = "string", json_path = ".spec.history.retain", priority = 1,
        description = "How far back any instant stays readable."),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.summary.message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = &rules::BUCKET_SOURCE_IMMUTABLE)]
#[x_kube(validation = &rules::BUCKET_NODE_IMMUTABLE)]
pub struct BucketSpec {
    /// What is imported into the bucket before it is ready; without it the bucket starts empty. Cannot be changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<ImportSource>,
    /// How far back any instant stays readable without a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
    /// How much the bucket may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// What happens to the data when the Bucket is deleted: `Delete` (the default) frees it, `Retain` keeps it in the store;
    /// a later Bucket of the same name and namespace takes it over. Snapshots and forks stay whole in either case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// Name of the node that is to hold the bucket, for a source that is on that node; without it the node with the fewest
    /// buckets is chosen. Cannot be changed later. It means nothing without a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node: Option<String>,
}

/// Where a bucket's first content comes from: exactly one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = &rules::IMPORT_SOURCE_ONE_OF)]
pub struct ImportSource {
    /// A directory of the node, with all that is under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathSource>,
    /// A tar archive on the node, plain or compressed with gzip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tar: Option<PathSource>,
}

impl ImportSource {
    /// In one line, for people and to recognise the source: `directory:/some/dataset`.
    pub fn describe(&self) -> String {
        match (&self.directory, &self.tar) {
            (Some(directory), _) => format!("directory:{}", directory.path),
            (None, Some(tar)) => format!("tar:{}", tar.path),
            (None, None) => String::new(),
        }
    }
}

/// A place in the node's file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathSource {
    /// Path on the node that holds the bucket. `anabranch play` reads a relative path from the folder of the manifest.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
}

/// How much of the past is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Any instant this long ago stays readable without a snapshot: `1h`, `7d`; `0s`, the default, keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<Duration>,
}

/// What happens to a bucket's data when its Bucket is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The data is freed.
    #[default]
    Delete,
    /// The data stays in the store.
    Retain,
}

/// What a Bucket is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BucketStatus {
    /// The generation of the spec that this status speaks about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, and `Reconciling` or `Stalled` where they apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// The node that holds the data; absent until one was chosen, and without a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The engine's id of the root timeline (32 hexadecimal digits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<String>,
    /// When the timeline was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// How far the import of the source is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<ImportStatus>,
    /// What the timeline holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Where the bucket is mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// For people: what the columns show. Derived from the rest; programs read the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// How far an import is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportStatus {
    /// Whether all of the source is in the bucket.
    #[serde(default)]
    pub complete: bool,
    /// Files, directories and links imported so far.
    #[serde(default)]
    pub files: u64,
    /// Bytes imported so far.
    #[serde(default)]
    pub bytes: u64,
    /// Files, directories and links of the source, when they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_files: Option<u64>,
    /// Bytes of the source, when they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// When the import that is running or was the last began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
}
