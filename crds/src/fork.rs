//! Kind `BucketFork`: one writable timeline, or a set of them, started at a cutoff of another.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lifetime::{Lifetime, Quota};
use crate::rules;
use crate::status::{Mount, Summary, Usage};
use crate::time::{At, Epoch};

/// What a BucketFork should be.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "anabranch.dev",
    version = "v1alpha1",
    kind = "BucketFork",
    plural = "bucketforks",
    singular = "bucketfork",
    shortname = "afork",
    category = "anabranch",
    namespaced,
    status = "ForkStatus",
    selectable = ".status.node",
    scale(spec_replicas_path = ".spec.count", status_replicas_path = ".status.readyCount"),
    derive = "PartialEq",
    doc = "A writable timeline of its own, or a set of them, started from a bucket, a snapshot or another fork. Nothing is copied: it costs what is written into it.",
    validation = &rules::FORK_NAME,
    validation = &rules::FORK_NOT_OF_ITSELF,
    printcolumn(name = "Source", type_ = "string", json_path = ".status.summary.source",
        description = "What it was forked from."),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether every fork of it can be mounted."),
    printcolumn(name = "Forks", type_ = "string", json_path = ".status.summary.forks",
        description = "Forks that are ready, of those asked for."),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.summary.state",
        description = "What it is or waits for, in one word."),
    printcolumn(name = "Divergent", type_ = "string", json_path = ".status.summary.divergent",
        description = "Bytes that only it refers to: what deleting it would free."),
    printcolumn(name = "Mounted", type_ = "string", json_path = ".status.summary.mounted",
        description = "Where it is mounted."),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.summary.expires",
        description = "When its data is freed."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node", priority = 1,
        description = "The node that holds the data."),
    printcolumn(name = "Shared", type_ = "string", json_path = ".status.summary.shared", priority = 1,
        description = "Bytes that it shares with others."),
    printcolumn(name = "Forked-At", type_ = "string", json_path = ".status.time", priority = 1,
        description = "The instant of the source that it started from."),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.summary.message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = &rules::FORK_SOURCE_IMMUTABLE)]
#[x_kube(validation = &rules::FORK_COUNT_FORM)]
pub struct ForkSpec {
    /// What it is forked from. Cannot be changed later.
    pub source: ForkSource,
    /// A set of this many forks of one instant, named `<name>-0`, `<name>-1` and so on; without it there is one fork,
    /// named as the object. A smaller count later deletes the forks with the highest indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub count: Option<u32>,
    /// How long it is kept.
    pub lifetime: Lifetime,
    /// How much each fork may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// Whether writes are refused (EROFS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// Whether deletion and expiry are refused until this is false again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
    /// Whether every read is verified against its checksum, also where a read-only mount would let the kernel read large files
    /// by itself, which is faster. A mount that is there already goes on as it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_reads: Option<bool>,
    /// Makes a PersistentVolumeClaim of the same name for the fork, and for each fork of a set, that pods can name. It goes
    /// with the fork. It means nothing without a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
}

/// The claims that are made for forks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// How the claims can be mounted: `ReadWriteOnce` (the default; by all pods of the node that holds the fork) or
    /// `ReadWriteOncePod` (by one pod at a time).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
}

/// How a claim can be mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessMode {
    /// By all pods of one node.
    #[default]
    ReadWriteOnce,
    /// By one pod at a time.
    ReadWriteOncePod,
}

impl AccessMode {
    /// As it stands in a claim.
    pub fn as_str(self) -> &'static str {
        match self {
            AccessMode::ReadWriteOnce => "ReadWriteOnce",
            AccessMode::ReadWriteOncePod => "ReadWriteOncePod",
        }
    }
}

/// What a fork starts from: exactly one of `bucket`, `snapshot` and `fork`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = &rules::FORK_SOURCE_ONE_OF)]
#[x_kube(validation = &rules::FORK_SOURCE_NAMESPACE)]
#[x_kube(validation = &rules::AT_IS_A_TIME)]
pub struct ForkSource {
    /// Name of a Bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::object_name")]
    pub bucket: Option<String>,
    /// Name of a BucketSnapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::object_name")]
    pub snapshot: Option<String>,
    /// Name of a BucketFork, or of one fork of a set: `<name>-<index>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::object_name")]
    pub fork: Option<String>,
    /// Namespace of the bucket or snapshot, when it is not that of the fork. A ReferenceGrant (`gateway.networking.k8s.io`) in
    /// that namespace has to allow it; `anabranch play` asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::object_name")]
    pub namespace: Option<String>,
    /// A past instant of it, within its retained history, instead of now: an RFC 3339 time, or an epoch as a quoted number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<At>,
}

impl ForkSource {
    /// In one line, for people and to recognise the source: `snapshot/base-v1`, `bucket/base@2026-01-31T12:00:00Z`; with the
    /// namespace where one is named: `snapshot/datasets/base-v1`.
    pub fn describe(&self) -> String {
        let named = |name: &Option<String>| match (name, &self.namespace) {
            (Some(name), Some(namespace)) => Some(format!("{namespace}/{name}")),
            (name, _) => name.clone(),
        };
        let what = [
            ("bucket", &named(&self.bucket)),
            ("snapshot", &named(&self.snapshot)),
            ("fork", &named(&self.fork)),
        ];
        crate::status::describe_source(&what, self.at.as_ref())
    }
}

/// What a BucketFork is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForkStatus {
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
    /// The engine's id of the timeline (32 hexadecimal digits); absent for a set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<String>,
    /// The epoch of the source that it started from, in Unix nanoseconds; the same for every fork of a set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// The same as a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// When the fork, or the first of a set, was made; a `ttl` counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_time: Option<Time>,
    /// Forks that were asked for.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub count: u32,
    /// Forks that are ready.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub ready_count: u32,
    /// Each fork of a set, by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 1000))]
    pub items: Vec<ForkItem>,
    /// What it holds; for a set, all of its forks together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Where it is mounted; for a set, all of its forks together.
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

/// One fork of a set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForkItem {
    /// `<name of the set>-<index>`.
    pub name: String,
    /// Its place in the set, from 0.
    #[schemars(range(min = 0, max = 999))]
    pub index: u32,
    /// Whether it can be mounted.
    #[serde(default)]
    pub ready: bool,
    /// The engine's id of its timeline (32 hexadecimal digits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<String>,
    /// Bytes that only it refers to: what deleting it would free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergent_bytes: Option<u64>,
    /// Bytes that it shares with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_bytes: Option<u64>,
    /// Where it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted: Option<String>,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
