//! Volumes that live as long as their pod: a fork that is made when the pod's volume is published and dropped when it
//! is unpublished.

use std::collections::BTreeMap;

use storage_engine::{Quota, TimelineInfo};

use super::capability::Capability;
use super::driver::{Driver, present};
use super::error::{Code, CsiError, Result};
use super::forks::{EphemeralFork, Pod, SourceKind};
use super::ids::VolumeId;
use super::limits::Parameters;
use super::names::{EPHEMERAL, engine_name};
use crate::mounts::MountInfo;

/// Attribute by which the kubelet says that a volume is of this kind.
const MARK: &str = "csi.storage.k8s.io/ephemeral";
/// Attributes with the pod's namespace, name and uid.
const NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const NAME: &str = "csi.storage.k8s.io/pod.name";
const UID: &str = "csi.storage.k8s.io/pod.uid";

/// Whether the attributes of a volume are those of an ephemeral one.
pub fn is_ephemeral(attributes: &BTreeMap<String, String>) -> bool {
    attributes.get(MARK).is_some_and(|value| value == "true")
}

impl Driver {
    /// Makes the fork of an ephemeral volume and mounts it at the pod's path, or finds it there.
    /// Cost: that of [`EphemeralForks::make`](super::EphemeralForks::make), and a mount.
    ///
    /// # Errors
    /// `InvalidArgument` naming the attribute, `NotFound` for the source, as a publication otherwise.
    pub fn publish_ephemeral(
        &self,
        volume: &str,
        target: &str,
        capability: Option<&Capability>,
        read_only: bool,
        attributes: &BTreeMap<String, String>,
    ) -> Result<()> {
        let target = self.targets.parse(target)?;
        let capability =
            capability.ok_or_else(|| CsiError::invalid("the volume capability is missing"))?;
        capability.check()?;
        let label = engine_name(EPHEMERAL, volume)?;
        // Taken back by its id alone, it would be taken for a volume that outlives its pod.
        if VolumeId::parse(volume).is_some() {
            return Err(CsiError::invalid(format!(
                "{volume} has the form of a volume that was created; an ephemeral volume needs another id"
            )));
        }
        let fork = requested(volume, attributes)?;
        let (_held, target) = self.hold(volume, target)?;
        let timeline = match self.ephemeral(volume)? {
            Some(timeline) => timeline,
            None => self.forks.make(&fork)?,
        };
        let mounted = self.mount_at(
            &timeline,
            &target,
            read_only || capability.reads_only(),
            capability.group,
            &label,
        );
        // One that cannot be mounted now may have been before, and hold what was written then: it goes when it is unpublished.
        self.mounted(&timeline);
        mounted
    }

    /// The mount of an ephemeral volume, if there is one of that id.
    fn ephemeral_mount(&self, volume: &str) -> Option<MountInfo> {
        let label = engine_name(EPHEMERAL, volume).ok()?;
        let mut all = self.mounts.list().into_iter();
        all.find(|mount| mount.label == label && !mount.detached)
    }

    /// The timeline of an ephemeral volume that is mounted.
    pub(super) fn ephemeral(&self, volume: &str) -> Result<Option<TimelineInfo>> {
        match self.ephemeral_mount(volume) {
            Some(mount) => present(self.engine.timeline(mount.timeline)),
            None => Ok(None),
        }
    }

    /// Unmounts and drops an ephemeral volume; nothing when there is none of that id.
    pub(super) fn drop_ephemeral(&self, volume: &str) -> Result<()> {
        if VolumeId::parse(volume).is_some() {
            return Ok(());
        }
        if let Some(mount) = self.ephemeral_mount(volume) {
            self.mounts.unmount(&mount.id, true)?;
        }
        self.forks.free(volume)
    }
}

/// Reads what an ephemeral volume is to be.
fn requested(volume: &str, attributes: &BTreeMap<String, String>) -> Result<EphemeralFork> {
    let mut named = SourceKind::ALL
        .into_iter()
        .filter_map(|kind| Some((kind, attributes.get(kind.as_str())?)));
    let (Some((kind, object)), None) = (named.next(), named.next()) else {
        return Err(CsiError::invalid(format!(
            "the volume attributes must have exactly one of {}",
            SourceKind::ALL.map(SourceKind::as_str).join(", ")
        )));
    };
    let pod = Pod {
        namespace: attributes.get(NAMESPACE).cloned().unwrap_or_default(),
        name: attributes.get(NAME).cloned().unwrap_or_default(),
        uid: attributes.get(UID).cloned().unwrap_or_default(),
    };
    if pod.namespace.is_empty() {
        return Err(CsiError::new(
            Code::FailedPrecondition,
            format!(
                "the attribute {NAMESPACE} is missing: is podInfoOnMount set on the CSIDriver?"
            ),
        ));
    }
    let plain = |text: &str| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        !text.is_empty() && text.bytes().all(allowed)
    };
    if !plain(object) || !plain(&pod.namespace) {
        return Err(CsiError::invalid(format!(
            "{}: {object:?} in namespace {:?} is no name of an object",
            kind.as_str(),
            pod.namespace
        )));
    }
    let rest = attributes
        .iter()
        .filter(|(name, _)| SourceKind::ALL.iter().all(|kind| kind.as_str() != *name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let limits = Parameters::ephemeral(&rest)?;
    Ok(EphemeralFork {
        volume: volume.to_owned(),
        pod,
        source: (kind, object.clone()),
        quota: Quota {
            bytes: limits.bytes,
            inodes: limits.inodes,
        },
        verified_reads: limits.verified_reads,
    })
}
