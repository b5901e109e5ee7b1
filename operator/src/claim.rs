//! The PersistentVolumes and claims that a fork asks for (`claim:`). Pure.

use std::collections::BTreeMap;

use crds::{BucketFork, names};
use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeSpec, VolumeNodeAffinity, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// What a claim says that it holds when the fork has no quota. Kubernetes wants a number; nothing is held to it.
const NOMINAL: &str = "1Gi";

/// A volume and its claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The volume.
    pub volume: PersistentVolume,
    /// The claim.
    pub claim: PersistentVolumeClaim,
}

/// What should be there for a fork, by name of the volume: nothing unless it asks for claims, and is there.
pub fn pairs(fork: &BucketFork) -> BTreeMap<String, Pair> {
    let (Some(claim), Some(status)) = (&fork.spec.claim, &fork.status) else {
        return BTreeMap::new();
    };
    let Some(node) = &status.node else {
        return BTreeMap::new();
    };
    if fork.metadata.deletion_timestamp.is_some() || status.expired_time.is_some() {
        return BTreeMap::new();
    }
    let mode = claim.access_mode.unwrap_or_default().as_str();
    let single = status
        .timeline
        .iter()
        .map(|timeline| (fork.metadata.name.clone().unwrap_or_default(), timeline));
    let items = status
        .items
        .iter()
        .filter_map(|item| Some((item.name.clone(), item.timeline.as_ref()?)));
    let all = single.chain(items).map(|(name, timeline)| {
        (
            volume_name(timeline),
            pair(fork, node, mode, &name, timeline),
        )
    });
    all.collect()
}

/// The volume of a timeline, for one claim.
pub(crate) fn volume(
    fork: &BucketFork,
    node: &str,
    modes: &[String],
    timeline: &str,
    bytes: Option<u64>,
    claim: ObjectReference,
) -> PersistentVolume {
    let node = NodeSelectorRequirement {
        key: names::TOPOLOGY_NODE.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume_name(timeline)),
            labels: Some(labels(fork)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: Some(modes.to_vec()),
            capacity: Some(size(bytes)),
            claim_ref: Some(claim),
            csi: Some(CSIPersistentVolumeSource {
                driver: names::DRIVER.to_owned(),
                volume_handle: format!("{}{timeline}", names::VOLUME_ID_PREFIX),
                ..CSIPersistentVolumeSource::default()
            }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector {
                    node_selector_terms: vec![NodeSelectorTerm {
                        match_expressions: Some(vec![node]),
                        ..NodeSelectorTerm::default()
                    }],
                }),
            }),
            // The data's life is the fork's, whatever becomes of the claim.
            persistent_volume_reclaim_policy: Some("Retain".into()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// Name of the volume of a timeline.
pub(crate) fn volume_name(timeline: &str) -> String {
    format!("anabranch-{timeline}")
}

/// Labels that say which fork something was made for.
fn labels(fork: &BucketFork) -> BTreeMap<String, String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    BTreeMap::from([
        (
            names::LABEL_NAMESPACE.to_owned(),
            text(&fork.metadata.namespace),
        ),
        (names::LABEL_NAME.to_owned(), text(&fork.metadata.name)),
        (names::LABEL_OWNER.to_owned(), text(&fork.metadata.uid)),
    ])
}

fn size(bytes: Option<u64>) -> BTreeMap<String, Quantity> {
    let bytes = bytes.map_or(NOMINAL.to_owned(), |bytes| crds::Bytes(bytes).to_string());
    BTreeMap::from([("storage".to_owned(), Quantity(bytes))])
}

fn pair(fork: &BucketFork, node: &str, mode: &str, name: &str, timeline: &str) -> Pair {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let namespace = text(&fork.metadata.namespace);
    let quota = fork.spec.quota.as_ref().and_then(|quota| quota.bytes);
    let bytes = quota.map(|bytes| bytes.0);
    let modes = vec![mode.to_owned()];
    let reference = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        namespace: Some(namespace.clone()),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    };
    Pair {
        volume: volume(fork, node, &modes, timeline, bytes, reference),
        claim: PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace),
                labels: Some(labels(fork)),
                owner_references: Some(vec![OwnerReference {
                    api_version: names::API_VERSION.into(),
                    kind: names::KIND_FORK.into(),
                    name: text(&fork.metadata.name),
                    uid: text(&fork.metadata.uid),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: Some(PersistentVolumeClaimSpec {
                access_modes: Some(modes),
                resources: Some(VolumeResourceRequirements {
                    requests: Some(size(bytes)),
                    limits: None,
                }),
                // Bound to this volume, and no other made for it.
                storage_class_name: Some(String::new()),
                volume_name: Some(volume_name(timeline)),
                ..PersistentVolumeClaimSpec::default()
            }),
            status: None,
        },
    }
}
