//! Parts of a status that the kinds have in common.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A source in one line: `bucket/base@2026-01-31T12:00:00Z`.
pub(crate) fn describe_source(what: &[(&str, &Option<String>)], at: Option<&crate::At>) -> String {
    let named = what
        .iter()
        .find_map(|(kind, name)| Some(format!("{kind}/{}", name.as_deref()?)))
        .unwrap_or_default();
    match at {
        Some(at) => format!("{named}@{at}"),
        None => named,
    }
}

/// What a timeline holds, in bytes and numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Bytes of all its files as programs see them.
    pub logical_bytes: u64,
    /// Bytes that only it refers to: what deleting it would free.
    pub divergent_bytes: u64,
    /// Bytes that it shares with others.
    pub shared_bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

/// One place where a timeline or snapshot is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Name of the fork of a set; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// The node; absent without a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The pod that has it: `<namespace>/<name>`, or `with uid <uid>`; absent when no pod has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The path on the node.
    pub path: String,
    /// Whether writes are refused.
    #[serde(default)]
    pub read_only: bool,
}

/// What the columns of `get` show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The source in one line: `snapshot/base-v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What it is or waits for, in one word: the reason of the condition that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The message of that condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Bytes of all files: `1.2Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Bytes that only it refers to: `12.3Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergent: Option<String>,
    /// Bytes that it shares with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<String>,
    /// Where it is mounted: the pod, the node, or without a cluster the path; or how many places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted: Option<String>,
    /// When it expires: a time, `never` or `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Forks that are ready, of those asked for: `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forks: Option<String>,
}
