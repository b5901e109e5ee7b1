//! Claims that ask for a volume by `dataSourceRef` to one of our kinds. Pure.
//!
//! A fork needs no populating, so there is no second claim and no pod that copies, as with the populators that fill an
//! empty volume: the claim gets a BucketFork that it owns, and the fork a PersistentVolume that is bound to the claim.

use std::collections::BTreeMap;

use crds::lifetime::{Lifetime, Quota};
use crds::{BucketFork, Bytes, ForkSource, ForkSpec, Kind, ObjectKey, names};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::claim::volume;

/// Access mode of claims that only read.
const READS: &str = "ReadOnlyMany";
/// Digits of the claim's uid in the name of its fork.
const NAME_DIGITS: usize = 8;

/// A claim that asks for a fork.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Namespace of the claim, and of its fork.
    pub namespace: String,
    /// Name of the claim.
    pub claim: String,
    /// Its uid.
    pub uid: String,
    /// What is forked, or why nothing can be.
    pub source: Result<ForkSource, String>,
    /// As the claim has them.
    pub modes: Vec<String>,
    /// The storage class that the claim names.
    pub class: Option<String>,
    /// The size that is asked for, in bytes.
    pub bytes: Option<u64>,
    /// Whether it has a volume, or is being deleted: then nothing is made for it any more.
    pub settled: bool,
}

impl Request {
    /// What a claim asks of us; nothing unless its `dataSourceRef` names one of our kinds.
    pub fn read(claim: &PersistentVolumeClaim) -> Option<Request> {
        let spec = claim.spec.as_ref()?;
        let reference = spec.data_source_ref.as_ref()?;
        if reference.api_group.as_deref() != Some(names::GROUP) {
            return None;
        }
        let metadata = &claim.metadata;
        let name = Some(reference.name.clone());
        let mut source = ForkSource {
            namespace: reference
                .namespace
                .clone()
                .filter(|namespace| Some(namespace) != metadata.namespace.as_ref()),
            ..ForkSource::default()
        };
        let source = match reference.kind.as_str() {
            names::KIND_BUCKET => {
                source.bucket = name;
                Ok(source)
            }
            names::KIND_SNAPSHOT => {
                source.snapshot = name;
                Ok(source)
            }
            names::KIND_FORK => {
                source.fork = name;
                Ok(source)
            }
            other => Err(format!(
                "dataSourceRef: {} has no kind {other}; these are: {}",
                names::GROUP,
                names::KINDS.join(", ")
            )),
        };
        let source = match spec.volume_mode.as_deref() {
            Some("Block") => Err("volumeMode: a fork is a file system, not a block device".into()),
            _ => source,
        };
        let size = spec
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref()?.get("storage"));
        Some(Request {
            namespace: metadata.namespace.clone()?,
            claim: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
            source,
            modes: spec.access_modes.clone().unwrap_or_default(),
            class: spec.storage_class_name.clone(),
            bytes: size.and_then(|size| Some(size.0.parse::<Bytes>().ok()?.0)),
            settled: metadata.deletion_timestamp.is_some() || spec.volume_name.is_some(),
        })
    }

    /// The fork of the claim: `<claim>-<digits of its uid>`, so that a claim made again has another.
    pub fn key(&self) -> ObjectKey {
        let digits: String = self
            .uid
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(NAME_DIGITS)
            .collect();
        let room = names::NAME_MAX - NAME_DIGITS - 1;
        let plain = |c: char| if c == '.' { '-' } else { c };
        let claim: String = self.claim.chars().map(plain).take(room).collect();
        let name = format!("{}-{digits}", claim.trim_end_matches('-'));
        ObjectKey::new(Kind::Fork, &self.namespace, &name)
    }

    /// The fork as it is made.
    ///
    /// # Errors
    /// Why there can be none: a sentence for a person.
    pub fn fork(&self) -> Result<BucketFork, String> {
        let spec = ForkSpec {
            source: self.source.clone()?,
            lifetime: Lifetime::no_expiry(),
            quota: self.quota(),
            read_only: self.modes.iter().all(|mode| mode == READS).then_some(true),
            ..ForkSpec::default()
        };
        let mut fork = BucketFork::new(&self.key().name, spec);
        fork.metadata.namespace = Some(self.namespace.clone());
        fork.metadata.labels = Some(BTreeMap::from([(
            names::LABEL_CLAIM.to_owned(),
            self.uid.clone(),
        )]));
        fork.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "PersistentVolumeClaim".into(),
            name: self.claim.clone(),
            uid: self.uid.clone(),
            ..OwnerReference::default()
        }]);
        Ok(fork)
    }

    /// The size of the claim as the quota of its fork.
    pub fn quota(&self) -> Option<Quota> {
        self.bytes.map(|bytes| Quota {
            bytes: Some(Bytes(bytes)),
            inodes: None,
        })
    }

    /// Whether a fork is this claim's.
    pub fn owns(&self, fork: &BucketFork) -> bool {
        fork.metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(names::LABEL_CLAIM))
            == Some(&self.uid)
    }

    /// The volume for the claim, when its fork is there. It is bound to this claim, and to no other of its name.
    pub fn volume(&self, fork: &BucketFork) -> Option<PersistentVolume> {
        if !self.owns(fork) || fork.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let status = fork.status.as_ref()?;
        let (node, timeline) = (status.node.as_ref()?, status.timeline.as_ref()?);
        let claim = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.claim.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        };
        let mut volume = volume(fork, node, &self.modes, timeline, self.bytes, claim);
        if let Some(spec) = &mut volume.spec {
            spec.storage_class_name = self.class.clone();
        }
        Some(volume)
    }

    /// The claim, for events.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.claim.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }
}
