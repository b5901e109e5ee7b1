//! Whose a timeline or snapshot is: its name in the engine, and its labels.

use std::collections::BTreeMap;

use crds::{Kind, ObjectKey, names};

/// The name in the engine of what belongs to an object: `bucket/<namespace>/<name>`, `snapshot/...`, `fork/...`, and
/// `fork/<namespace>/<name>-<index>` in a set.
pub fn engine_name(kind: Kind, namespace: &str, name: &str, index: Option<u32>) -> String {
    let word = match kind {
        Kind::Bucket => "bucket",
        Kind::Snapshot => "snapshot",
        Kind::Fork => "fork",
    };
    match index {
        Some(index) => format!("{word}/{namespace}/{name}-{index}"),
        None => format!("{word}/{namespace}/{name}"),
    }
}

/// The labels of what belongs to an object and was made from this source.
pub fn labels(
    key: &ObjectKey,
    uid: &str,
    index: Option<u32>,
    source: &str,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (names::LABEL_OWNER.to_owned(), uid.to_owned()),
        (names::LABEL_KIND.to_owned(), key.kind.as_str().to_owned()),
        (names::LABEL_NAMESPACE.to_owned(), key.namespace.clone()),
        (names::LABEL_NAME.to_owned(), key.name.clone()),
        (names::LABEL_SOURCE.to_owned(), source.to_owned()),
    ]);
    if let Some(index) = index {
        labels.insert(names::LABEL_INDEX.to_owned(), index.to_string());
    }
    labels
}

/// The object that labels name. Its uid may be another one than that of the object that has the name now: after a restore
/// of the objects from a backup, or when a bucket's data was retained, the data is taken over.
pub fn key_of(labels: &BTreeMap<String, String>) -> Option<ObjectKey> {
    let kind = labels.get(names::LABEL_KIND)?.parse().ok()?;
    Some(ObjectKey::new(
        kind,
        labels.get(names::LABEL_NAMESPACE)?,
        labels.get(names::LABEL_NAME)?,
    ))
}

/// The index of a fork of a set.
pub fn index_of(labels: &BTreeMap<String, String>) -> Option<u32> {
    labels.get(names::LABEL_INDEX)?.parse().ok()
}

/// What it was made from; empty when that is unknown.
pub fn source_of(labels: &BTreeMap<String, String>) -> &str {
    labels
        .get(names::LABEL_SOURCE)
        .map(String::as_str)
        .unwrap_or_default()
}

/// Whether it is data of a Bucket that is gone, kept by its deletion policy.
pub fn is_retained(labels: &BTreeMap<String, String>) -> bool {
    labels
        .get(names::LABEL_RETAINED)
        .is_some_and(|retained| retained == "true")
}

/// The labels that something has, with ours brought to what they should be; labels of others stay.
pub(crate) fn merged(
    found: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    const OURS: [&str; 8] = [
        names::LABEL_OWNER,
        names::LABEL_KIND,
        names::LABEL_NAMESPACE,
        names::LABEL_NAME,
        names::LABEL_INDEX,
        names::LABEL_SOURCE,
        names::LABEL_IMPORT,
        names::LABEL_RETAINED,
    ];
    let others = found
        .iter()
        .filter(|(label, _)| !OURS.contains(&label.as_str()));
    others
        .chain(wanted)
        .map(|(label, value)| (label.clone(), value.clone()))
        .collect()
}
