//! Volumes that live as long as their pod: a fork that is made when the pod's volume is published and deleted when it
//! is unpublished.

use std::collections::BTreeMap;

use storage_engine::{Durability, ForkRequest, Point, Quota, Settings, TimelineInfo};

use super::capability::Capability;
use super::driver::{Driver, present};
use super::error::{Code, CsiError, Result};
use super::limits::Parameters;
use super::names::{EPHEMERAL, engine_name};

/// Attribute by which the kubelet says that a volume is of this kind.
const MARK: &str = "csi.storage.k8s.io/ephemeral";
/// Attribute with the namespace of the pod.
const NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
/// The attributes that name what is forked; exactly one is needed.
const SOURCES: [&str; 3] = ["bucket", "snapshot", "fork"];

/// Whether the attributes of a volume are those of an ephemeral one.
pub fn is_ephemeral(attributes: &BTreeMap<String, String>) -> bool {
    attributes.get(MARK).is_some_and(|value| value == "true")
}

impl Driver {
    /// Makes the fork of an ephemeral volume and mounts it at the pod's path, or finds it there.
    /// Cost: one commit with its sync, and a mount.
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
        let name = engine_name(EPHEMERAL, volume)?;
        let _held = self.locks.take(volume)?;
        let timeline = match present(self.engine.timeline_named(&name))? {
            Some(timeline) => timeline,
            None => self.fork_ephemeral(name, attributes)?,
        };
        let mounted = self.mount_at(
            &timeline,
            &target,
            read_only || capability.reads_only(),
            capability.group,
        );
        if mounted.is_err() && self.mount_of(timeline.id).is_none() {
            // Nothing refers to a fork that nobody could write to yet; the next try makes a new one.
            self.engine.delete_timeline(timeline.id)?;
        }
        mounted
    }

    fn fork_ephemeral(
        &self,
        name: String,
        attributes: &BTreeMap<String, String>,
    ) -> Result<TimelineInfo> {
        let source = self.named_source(attributes)?;
        let rest = attributes
            .iter()
            .filter(|(name, _)| !SOURCES.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let limits = Parameters::mutable(&rest)?;
        if let Point::Now(timeline) = source {
            self.mounts.sync_timeline(timeline)?;
        }
        Ok(self.engine.fork(ForkRequest {
            id: None,
            name,
            source,
            settings: Settings {
                quota: Quota {
                    bytes: limits.bytes,
                    inodes: limits.inodes,
                },
                retain: limits.retain.unwrap_or_default(),
                ..Settings::default()
            },
            durability: Durability::Local,
        })?)
    }

    fn named_source(&self, attributes: &BTreeMap<String, String>) -> Result<Point> {
        let mut named = SOURCES
            .iter()
            .filter_map(|kind| Some((*kind, attributes.get(*kind)?)));
        let (Some((kind, object)), None) = (named.next(), named.next()) else {
            return Err(CsiError::invalid(format!(
                "the volume attributes must have exactly one of {}",
                SOURCES.join(", ")
            )));
        };
        let namespace = attributes.get(NAMESPACE).ok_or_else(|| {
            CsiError::new(
                Code::FailedPrecondition,
                format!(
                    "the attribute {NAMESPACE} is missing: is podInfoOnMount set on the CSIDriver?"
                ),
            )
        })?;
        if object.contains('/') || namespace.contains('/') {
            return Err(CsiError::invalid(format!(
                "{kind}: {object:?} is no name of an object"
            )));
        }
        let engine_name = format!("{kind}/{namespace}/{object}");
        let missing = || {
            CsiError::not_found(format!(
                "there is no {kind} {object} in namespace {namespace} on this node"
            ))
        };
        Ok(match kind {
            "snapshot" => Point::Snapshot(
                present(self.engine.snapshot_named(&engine_name))?
                    .ok_or_else(missing)?
                    .id,
            ),
            _ => Point::Now(
                present(self.engine.timeline_named(&engine_name))?
                    .ok_or_else(missing)?
                    .id,
            ),
        })
    }

    /// The timeline of an ephemeral volume, if there is one of that id.
    pub(super) fn ephemeral(&self, volume: &str) -> Result<Option<TimelineInfo>> {
        match engine_name(EPHEMERAL, volume) {
            Ok(name) => present(self.engine.timeline_named(&name)),
            Err(_) => Ok(None),
        }
    }

    /// Unmounts and deletes an ephemeral volume; nothing when there is none of that id.
    pub(super) fn drop_ephemeral(&self, volume: &str) -> Result<()> {
        let Some(timeline) = self.ephemeral(volume)? else {
            return Ok(());
        };
        if let Some(mount) = self.mount_of(timeline.id) {
            self.mounts.unmount(&mount.id, true)?;
        }
        Ok(self.engine.delete_timeline(timeline.id)?)
    }
}
