//! Plain data of the object interface.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::engine::Durability;
use crate::files::types::Time;
use crate::ids::Epoch;

/// What has to be true for a change to be made; decided on the very state that it changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Condition {
    /// Nothing.
    #[default]
    Any,
    /// There is no such object (`If-None-Match: *`); otherwise the error is `AlreadyExists`.
    Absent,
    /// The object has this entity tag (`If-Match`); otherwise the error is `Conflict`, and `NotFound` if
    /// there is no object.
    Etag(String),
}

/// How an object is put.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PutOptions {
    /// Media type, kept in `user.mime_type`.
    pub content_type: Option<String>,
    /// The user's notes, each kept in `user.anabranch.meta.<name>`.
    pub metadata: BTreeMap<String, String>,
    /// Permission bits; `None`: as the object that is replaced, otherwise 0644 (0755 for a directory).
    pub mode: Option<u32>,
    /// Owner; `None`: as the object that is replaced, otherwise as the directory.
    pub uid: Option<u32>,
    /// Group; the same.
    pub gid: Option<u32>,
    /// What has to be true for it.
    pub condition: Condition,
    /// How sure it is when the call returns.
    pub durability: Durability,
}

/// What was put.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Put {
    /// Its entity tag.
    pub etag: String,
    /// Its version.
    pub version: Epoch,
    /// Its length in bytes.
    pub size: u64,
}

/// A part of an object's bytes, as an HTTP range names it. What reaches behind the end is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteRange {
    /// From an offset to the end.
    From(u64),
    /// From the first offset to the second, which is included.
    Inclusive(u64, u64),
    /// So many last bytes.
    Last(u64),
}

/// An object without its bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectInfo {
    /// Its key.
    pub key: String,
    /// Length in bytes.
    pub size: u64,
    /// Entity tag: strong, the same in all timelines that share the bytes, never an MD5 sum. Different
    /// bytes never have the same one; equal bytes that were written twice usually have different ones.
    pub etag: String,
    /// Last change of the bytes.
    pub modified: Time,
    /// The epoch at which this version began.
    pub version: Epoch,
    /// Media type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The user's notes.
    pub metadata: BTreeMap<String, String>,
}

/// What to list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListRequest {
    /// Keys that start with this; any text.
    pub prefix: String,
    /// Keys that have this behind the prefix are given as one common prefix, up to and with it.
    pub delimiter: Option<String>,
    /// Only what sorts behind this, keys and common prefixes alike. A token takes precedence.
    pub start_after: Option<String>,
    /// Where an earlier page of the same list ended.
    pub token: Option<String>,
    /// Length of the page, common prefixes counted; at most 10,000.
    pub max: usize,
}

impl Default for ListRequest {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            delimiter: None,
            start_after: None,
            token: None,
            max: 1000,
        }
    }
}

/// An object in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedObject {
    /// Its key.
    pub key: String,
    /// Length in bytes.
    pub size: u64,
    /// Entity tag: see [`ObjectInfo::etag`].
    pub etag: String,
    /// Last change of the bytes.
    pub modified: Time,
}

/// A page of a list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListPage {
    /// The objects, in the byte order of their keys.
    pub objects: Vec<ListedObject>,
    /// Common prefixes, in byte order.
    pub common_prefixes: Vec<String>,
    /// Names the next page; none on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which versions to list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionsRequest {
    /// Of keys that start with this.
    pub prefix: String,
    /// Keys that have this behind the prefix are given as one common prefix, up to and with it.
    pub delimiter: Option<String>,
    /// Only what sorts behind this, keys and common prefixes alike. A token takes precedence.
    pub start_after: Option<String>,
    /// Where an earlier page of the same list ended.
    pub token: Option<String>,
    /// Length of the page, common prefixes counted; at most 10,000.
    pub max: usize,
}

impl Default for VersionsRequest {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            delimiter: None,
            start_after: None,
            token: None,
            max: 1000,
        }
    }
}

/// One version of an object, or the mark that it was deleted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectVersion {
    /// The key.
    pub key: String,
    /// The epoch at which it began.
    pub version: Epoch,
    /// Nothing has come after it.
    pub latest: bool,
    /// The object was gone from then on; it has no length and no tag.
    pub deleted: bool,
    /// Length in bytes.
    pub size: u64,
    /// Entity tag: see [`ObjectInfo::etag`].
    pub etag: String,
    /// Last change of the bytes; of a deletion, its epoch.
    pub modified: Time,
}

/// A page of versions.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionsPage {
    /// In the byte order of keys; of one key the newest first.
    pub versions: Vec<ObjectVersion>,
    /// Common prefixes, in byte order.
    pub common_prefixes: Vec<String>,
    /// Names the next page; none on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
