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
        let volume = format!("anabranch-{timeline}");
        (
            volume.clone(),
            pair(fork, node, mode, &name, timeline, &volume),
        )
    });
    all.collect()
}

fn pair(
    fork: &BucketFork,
    node: &str,
    mode: &str,
    name: &str,
    timeline: &str,
    volume: &str,
) -> Pair {
    let namespace = fork.metadata.namespace.clone().unwrap_or_default();
    let fork_name = fork.metadata.name.clone().unwrap_or_default();
    let uid = fork.metadata.uid.clone().unwrap_or_default();
    let labels = BTreeMap::from([
        (names::LABEL_NAMESPACE.to_owned(), namespace.clone()),
        (names::LABEL_NAME.to_owned(), fork_name.clone()),
        (names::LABEL_OWNER.to_owned(), uid.clone()),
    ]);
    let quota = fork.spec.quota.as_ref().and_then(|quota| quota.bytes);
    let size = BTreeMap::from([(
        "storage".to_owned(),
        Quantity(quota.map_or(NOMINAL.to_owned(), |bytes| bytes.0.to_string())),
    )]);
    let modes = Some(vec![mode.to_owned()]);
    let node = NodeSelectorRequirement {
        key: names::TOPOLOGY_NODE.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    Pair {
        volume: PersistentVolume {
            metadata: ObjectMeta {
                name: Some(volume.to_owned()),
                labels: Some(labels.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(PersistentVolumeSpec {
                access_modes: modes.clone(),
                capacity: Some(size.clone()),
                claim_ref: Some(ObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("PersistentVolumeClaim".into()),
                    namespace: Some(namespace.clone()),
                    name: Some(name.to_owned()),
                    ..ObjectReference::default()
                }),
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
        },
        claim: PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace),
                labels: Some(labels),
                owner_references: Some(vec![OwnerReference {
                    api_version: names::API_VERSION.into(),
                    kind: names::KIND_FORK.into(),
                    name: fork_name,
                    uid,
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: Some(PersistentVolumeClaimSpec {
                access_modes: modes,
                resources: Some(VolumeResourceRequirements {
                    requests: Some(size),
                    limits: None,
                }),
                // Bound to this volume, and no other made for it.
                storage_class_name: Some(String::new()),
                volume_name: Some(volume.to_owned()),
                ..PersistentVolumeClaimSpec::default()
            }),
            status: None,
        },
    }
}
