//! Every field of every call that a caller fills with a text, as a table; and how to send one.

use csi_driver::grpc::v1::{
    self, controller_client::ControllerClient, group_controller_client::GroupControllerClient,
    node_client::NodeClient,
};
use tonic::Status;
use tonic::transport::Channel;

/// What has to come of a hostile text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// `InvalidArgument` or `NotFound`.
    Refused,
    /// Done, because there is no such thing; or refused.
    NothingThere,
    /// A listing without an entry.
    Unlisted,
    /// `Aborted`: no token of ours.
    NoToken,
    /// No room there, or refused.
    NoRoom,
    /// A thing of this name is made, under an id of ours; or refused. It is deleted again.
    Made,
    /// Mounted for a pod, which ends again; or refused.
    Published,
}
use Expect::*;

/// Call and field, and what is expected.
pub const FIELDS: &[(&str, Expect)] = &[
    ("CreateVolume.name", Made),
    ("CreateVolume.source_volume", Refused),
    ("CreateVolume.source_snapshot", Refused),
    ("CreateVolume.parameter", Refused),
    ("CreateVolume.inodes", Refused),
    ("CreateVolume.retain", Refused),
    ("CreateVolume.verifiedReads", Refused),
    ("CreateVolume.mutable_parameter", Refused),
    ("CreateVolume.mutable_bytes", Refused),
    // Ours is meant, whatever file system is named.
    ("CreateVolume.fs_type", Made),
    ("CreateVolume.mount_flag", Refused),
    ("CreateVolume.volume_mount_group", Refused),
    ("CreateVolume.topology", NoRoom),
    ("DeleteVolume.volume_id", NothingThere),
    ("ControllerGetVolume.volume_id", Refused),
    ("ValidateVolumeCapabilities.volume_id", Refused),
    ("ControllerExpandVolume.volume_id", Refused),
    ("ControllerModifyVolume.volume_id", Refused),
    ("ControllerModifyVolume.parameter", Refused),
    ("ListVolumes.starting_token", NoToken),
    ("GetCapacity.topology", NoRoom),
    ("GetCapacity.mount_flag", NoRoom),
    ("CreateSnapshot.name", Made),
    ("CreateSnapshot.source_volume_id", Refused),
    ("DeleteSnapshot.snapshot_id", NothingThere),
    ("GetSnapshot.snapshot_id", Refused),
    ("ListSnapshots.snapshot_id", Unlisted),
    ("ListSnapshots.source_volume_id", Unlisted),
    ("ListSnapshots.starting_token", NoToken),
    ("CreateVolumeGroupSnapshot.name", Made),
    ("CreateVolumeGroupSnapshot.source_volume_ids", Refused),
    ("DeleteVolumeGroupSnapshot.group_snapshot_id", NothingThere),
    ("DeleteVolumeGroupSnapshot.snapshot_ids", Refused),
    ("GetVolumeGroupSnapshot.group_snapshot_id", Refused),
    ("GetVolumeGroupSnapshot.snapshot_ids", Refused),
    ("NodeStageVolume.volume_id", Refused),
    ("NodeStageVolume.staging_target_path", Refused),
    ("NodeStageVolume.volume_mount_group", Refused),
    ("NodeUnstageVolume.volume_id", NothingThere),
    ("NodeUnstageVolume.staging_target_path", NothingThere),
    ("NodePublishVolume.volume_id", Refused),
    ("NodePublishVolume.staging_target_path", Refused),
    ("NodePublishVolume.target_path", Refused),
    ("NodeUnpublishVolume.volume_id", NothingThere),
    ("NodeUnpublishVolume.target_path", NothingThere),
    ("NodeGetVolumeStats.volume_id", Refused),
    ("NodeGetVolumeStats.volume_path", Refused),
    ("NodeExpandVolume.volume_id", Refused),
    ("NodePublishVolume.inline_volume_id", Published),
    ("NodePublishVolume.inline_target_path", Refused),
    ("NodePublishVolume.inline_bucket", Refused),
    ("NodePublishVolume.inline_snapshot", Refused),
    ("NodePublishVolume.inline_fork", Refused),
    ("NodePublishVolume.inline_namespace", Refused),
    ("NodePublishVolume.inline_pod", Published),
    ("NodePublishVolume.inline_uid", Published),
    ("NodePublishVolume.inline_bytes", Refused),
    ("NodePublishVolume.inline_inodes", Refused),
    ("NodePublishVolume.inline_verifiedReads", Refused),
    ("NodePublishVolume.inline_attribute", Refused),
];

/// What is really there.
pub struct Real {
    pub volume: String,
    pub snapshot: String,
    pub group: String,
    pub staging: String,
    pub target: String,
}

pub struct Clients {
    controller: ControllerClient<Channel>,
    groups: GroupControllerClient<Channel>,
    nodes: NodeClient<Channel>,
}

/// What a call that succeeded gave.
#[derive(Debug)]
pub enum Answer {
    Done,
    /// Entries of a listing, bytes of room, or the like.
    Number(i64),
    /// The id of what was made.
    Id(String),
}

fn mount(change: impl FnOnce(&mut v1::volume_capability::MountVolume)) -> v1::VolumeCapability {
    use v1::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
    let mut volume = MountVolume::default();
    change(&mut volume);
    v1::VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter as i32,
        }),
        access_type: Some(AccessType::Mount(volume)),
    }
}

fn plain() -> Option<v1::VolumeCapability> {
    Some(mount(|_| {}))
}

fn pair(name: &str, value: &str) -> std::collections::HashMap<String, String> {
    [(name.to_owned(), value.to_owned())].into()
}

impl Clients {
    pub fn new(channel: Channel) -> Clients {
        Clients {
            controller: ControllerClient::new(channel.clone()),
            groups: GroupControllerClient::new(channel.clone()),
            nodes: NodeClient::new(channel),
        }
    }

    /// Makes a call with a text in a field, and what is really there in the others.
    pub async fn send(&mut self, call: &str, text: &str, real: &Real) -> Result<Answer, Status> {
        let (rpc, field) = call.split_once('.').unwrap();
        match rpc {
            "CreateVolume" => self.create_volume(field, text).await,
            "NodePublishVolume" => self.publish(field, text, real).await,
            _ if rpc.starts_with("Node") => self.node(rpc, field, text, real).await,
            _ if rpc.contains("GroupSnapshot") => self.group(rpc, field, text, real).await,
            _ if rpc.contains("Snapshot") => self.snapshot(rpc, field, text, real).await,
            _ => self.volume(rpc, field, text, real).await,
        }
    }

    /// Takes back what a call made.
    pub async fn undo(&mut self, call: &str, text: &str, answer: Answer, real: &Real) {
        match (call, answer) {
            ("CreateVolume.name" | "CreateVolume.fs_type", Answer::Id(volume_id)) => {
                let request = v1::DeleteVolumeRequest {
                    volume_id,
                    ..Default::default()
                };
                self.controller.delete_volume(request).await.unwrap();
            }
            ("CreateSnapshot.name", Answer::Id(snapshot_id)) => {
                let request = v1::DeleteSnapshotRequest {
                    snapshot_id,
                    ..Default::default()
                };
                self.controller.delete_snapshot(request).await.unwrap();
            }
            ("CreateVolumeGroupSnapshot.name", Answer::Id(group_snapshot_id)) => {
                let request = v1::DeleteVolumeGroupSnapshotRequest {
                    group_snapshot_id,
                    ..Default::default()
                };
                self.groups
                    .delete_volume_group_snapshot(request)
                    .await
                    .unwrap();
            }
            ("NodePublishVolume.inline_volume_id", _) => self.unpublish(text, &real.target).await,
            (_, _) => self.unpublish("csi-inline", &real.target).await,
        }
    }

    async fn unpublish(&mut self, volume: &str, target: &str) {
        let request = v1::NodeUnpublishVolumeRequest {
            volume_id: volume.to_owned(),
            target_path: target.to_owned(),
        };
        self.nodes.node_unpublish_volume(request).await.unwrap();
    }

    async fn create_volume(&mut self, field: &str, text: &str) -> Result<Answer, Status> {
        use v1::volume_content_source::{SnapshotSource, Type, VolumeSource};
        let mut request = v1::CreateVolumeRequest {
            name: "hostile".into(),
            volume_capabilities: vec![mount(|_| {})],
            ..Default::default()
        };
        let source = |kind| Some(v1::VolumeContentSource { r#type: Some(kind) });
        match field {
            "name" => request.name = text.to_owned(),
            "source_volume" => {
                request.volume_content_source = source(Type::Volume(VolumeSource {
                    volume_id: text.to_owned(),
                }));
            }
            "source_snapshot" => {
                request.volume_content_source = source(Type::Snapshot(SnapshotSource {
                    snapshot_id: text.to_owned(),
                }));
            }
            "parameter" => request.parameters = pair(text, "1"),
            "inodes" | "retain" | "verifiedReads" => request.parameters = pair(field, text),
            "mutable_parameter" => request.mutable_parameters = pair(text, "1"),
            "mutable_bytes" => request.mutable_parameters = pair("bytes", text),
            "fs_type" => {
                request.volume_capabilities = vec![mount(|m| m.fs_type = text.to_owned())];
            }
            "mount_flag" => {
                request.volume_capabilities =
                    vec![mount(|m| m.mount_flags = vec![text.to_owned()])];
            }
            "volume_mount_group" => {
                request.volume_capabilities =
                    vec![mount(|m| m.volume_mount_group = text.to_owned())];
            }
            "topology" => {
                request.accessibility_requirements = Some(v1::TopologyRequirement {
                    requisite: vec![topology(text)],
                    preferred: Vec::new(),
                });
            }
            _ => unreachable!("{field}"),
        }
        let made = self.controller.create_volume(request).await?.into_inner();
        Ok(Answer::Id(made.volume.unwrap().volume_id))
    }

    async fn volume(
        &mut self,
        rpc: &str,
        field: &str,
        text: &str,
        real: &Real,
    ) -> Result<Answer, Status> {
        let id = match field {
            "volume_id" => text.to_owned(),
            _ => real.volume.clone(),
        };
        let c = &mut self.controller;
        match rpc {
            "DeleteVolume" => {
                let request = v1::DeleteVolumeRequest {
                    volume_id: id,
                    ..Default::default()
                };
                c.delete_volume(request).await.map(|_| Answer::Done)
            }
            "ControllerGetVolume" => {
                let request = v1::ControllerGetVolumeRequest { volume_id: id };
                c.controller_get_volume(request).await.map(|_| Answer::Done)
            }
            "ValidateVolumeCapabilities" => {
                let request = v1::ValidateVolumeCapabilitiesRequest {
                    volume_id: id,
                    volume_capabilities: vec![mount(|_| {})],
                    ..Default::default()
                };
                c.validate_volume_capabilities(request)
                    .await
                    .map(|_| Answer::Done)
            }
            "ControllerExpandVolume" => {
                let request = v1::ControllerExpandVolumeRequest {
                    volume_id: id,
                    capacity_range: Some(v1::CapacityRange {
                        required_bytes: 1 << 31,
                        limit_bytes: 0,
                    }),
                    ..Default::default()
                };
                c.controller_expand_volume(request)
                    .await
                    .map(|_| Answer::Done)
            }
            "ControllerModifyVolume" => {
                let request = v1::ControllerModifyVolumeRequest {
                    volume_id: id,
                    mutable_parameters: match field {
                        "parameter" => pair(text, "1"),
                        _ => pair("bytes", "1Gi"),
                    },
                    ..Default::default()
                };
                c.controller_modify_volume(request)
                    .await
                    .map(|_| Answer::Done)
            }
            "ListVolumes" => {
                let request = v1::ListVolumesRequest {
                    starting_token: text.to_owned(),
                    ..Default::default()
                };
                let listed = c.list_volumes(request).await?.into_inner();
                Ok(Answer::Number(listed.entries.len() as i64))
            }
            "GetCapacity" => {
                let mut request = v1::GetCapacityRequest::default();
                match field {
                    "topology" => request.accessible_topology = Some(topology(text)),
                    _ => {
                        request.volume_capabilities =
                            vec![mount(|m| m.mount_flags = vec![text.to_owned()])];
                    }
                }
                let room = c.get_capacity(request).await?.into_inner();
                Ok(Answer::Number(room.available_capacity))
            }
            _ => unreachable!("{rpc}"),
        }
    }

    async fn snapshot(
        &mut self,
        rpc: &str,
        field: &str,
        text: &str,
        real: &Real,
    ) -> Result<Answer, Status> {
        let text = text.to_owned();
        let c = &mut self.controller;
        match rpc {
            "CreateSnapshot" => {
                let mut request = v1::CreateSnapshotRequest {
                    source_volume_id: real.volume.clone(),
                    name: "hostile".into(),
                    ..Default::default()
                };
                match field {
                    "name" => request.name = text,
                    _ => request.source_volume_id = text,
                }
                let made = c.create_snapshot(request).await?.into_inner();
                Ok(Answer::Id(made.snapshot.unwrap().snapshot_id))
            }
            "DeleteSnapshot" => {
                let request = v1::DeleteSnapshotRequest {
                    snapshot_id: text,
                    ..Default::default()
                };
                c.delete_snapshot(request).await.map(|_| Answer::Done)
            }
            "GetSnapshot" => {
                let request = v1::GetSnapshotRequest {
                    snapshot_id: text,
                    ..Default::default()
                };
                c.get_snapshot(request).await.map(|_| Answer::Done)
            }
            "ListSnapshots" => {
                let mut request = v1::ListSnapshotsRequest::default();
                match field {
                    "snapshot_id" => request.snapshot_id = text,
                    "source_volume_id" => request.source_volume_id = text,
                    _ => request.starting_token = text,
                }
                let listed = c.list_snapshots(request).await?.into_inner();
                Ok(Answer::Number(listed.entries.len() as i64))
            }
            _ => unreachable!("{rpc}"),
        }
    }

    async fn group(
        &mut self,
        rpc: &str,
        field: &str,
        text: &str,
        real: &Real,
    ) -> Result<Answer, Status> {
        let text = text.to_owned();
        let c = &mut self.groups;
        let (group_snapshot_id, snapshot_ids) = match field {
            "snapshot_ids" => (real.group.clone(), vec![text.clone()]),
            _ => (text.clone(), Vec::new()),
        };
        match rpc {
            "CreateVolumeGroupSnapshot" => {
                let mut request = v1::CreateVolumeGroupSnapshotRequest {
                    name: "hostile".into(),
                    source_volume_ids: vec![real.volume.clone()],
                    ..Default::default()
                };
                match field {
                    "name" => request.name = text,
                    _ => request.source_volume_ids = vec![text],
                }
                let made = c.create_volume_group_snapshot(request).await?.into_inner();
                Ok(Answer::Id(made.group_snapshot.unwrap().group_snapshot_id))
            }
            "DeleteVolumeGroupSnapshot" => {
                let request = v1::DeleteVolumeGroupSnapshotRequest {
                    group_snapshot_id,
                    snapshot_ids,
                    ..Default::default()
                };
                c.delete_volume_group_snapshot(request)
                    .await
                    .map(|_| Answer::Done)
            }
            "GetVolumeGroupSnapshot" => {
                let request = v1::GetVolumeGroupSnapshotRequest {
                    group_snapshot_id,
                    snapshot_ids,
                    ..Default::default()
                };
                c.get_volume_group_snapshot(request)
                    .await
                    .map(|_| Answer::Done)
            }
            _ => unreachable!("{rpc}"),
        }
    }

    async fn publish(&mut self, field: &str, text: &str, real: &Real) -> Result<Answer, Status> {
        let text = text.to_owned();
        let mut request = v1::NodePublishVolumeRequest {
            volume_id: real.volume.clone(),
            staging_target_path: real.staging.clone(),
            target_path: real.target.clone(),
            volume_capability: plain(),
            ..Default::default()
        };
        if let Some(field) = field.strip_prefix("inline_") {
            request.volume_id = "csi-inline".into();
            request.staging_target_path.clear();
            request.volume_context = [
                ("csi.storage.k8s.io/ephemeral", "true"),
                ("csi.storage.k8s.io/pod.namespace", "default"),
                ("csi.storage.k8s.io/pod.name", "pod"),
                ("csi.storage.k8s.io/pod.uid", "uid"),
                ("bucket", "base"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
            let context = &mut request.volume_context;
            let kubelets = |name| format!("csi.storage.k8s.io/pod.{name}");
            match field {
                "volume_id" => request.volume_id = text,
                "target_path" => request.target_path = text,
                "namespace" => drop(context.insert(kubelets("namespace"), text)),
                "pod" => drop(context.insert(kubelets("name"), text)),
                "uid" => drop(context.insert(kubelets("uid"), text)),
                "attribute" => drop(context.insert(text, "1".into())),
                "bucket" => drop(context.insert("bucket".into(), text)),
                "snapshot" | "fork" => {
                    context.remove("bucket");
                    context.insert(field.into(), text);
                }
                _ => drop(context.insert(field.into(), text)),
            }
        } else {
            match field {
                "volume_id" => request.volume_id = text,
                "staging_target_path" => request.staging_target_path = text,
                "target_path" => request.target_path = text,
                _ => unreachable!("{field}"),
            }
        }
        self.nodes
            .node_publish_volume(request)
            .await
            .map(|_| Answer::Done)
    }

    async fn node(
        &mut self,
        rpc: &str,
        field: &str,
        text: &str,
        real: &Real,
    ) -> Result<Answer, Status> {
        let (mut id, mut path) = (real.volume.clone(), None);
        match field {
            "volume_id" => id = text.to_owned(),
            "volume_mount_group" => {}
            _ => path = Some(text.to_owned()),
        }
        let staging = path.clone().unwrap_or_else(|| real.staging.clone());
        let target = path.unwrap_or_else(|| real.target.clone());
        let c = &mut self.nodes;
        match rpc {
            "NodeStageVolume" => {
                let capability = match field {
                    "volume_mount_group" => Some(mount(|m| m.volume_mount_group = text.to_owned())),
                    _ => plain(),
                };
                let request = v1::NodeStageVolumeRequest {
                    volume_id: id,
                    staging_target_path: staging,
                    volume_capability: capability,
                    ..Default::default()
                };
                c.node_stage_volume(request).await.map(|_| Answer::Done)
            }
            "NodeUnstageVolume" => {
                let request = v1::NodeUnstageVolumeRequest {
                    volume_id: id,
                    staging_target_path: staging,
                };
                c.node_unstage_volume(request).await.map(|_| Answer::Done)
            }
            "NodeUnpublishVolume" => {
                let request = v1::NodeUnpublishVolumeRequest {
                    volume_id: id,
                    target_path: target,
                };
                c.node_unpublish_volume(request).await.map(|_| Answer::Done)
            }
            "NodeGetVolumeStats" => {
                let request = v1::NodeGetVolumeStatsRequest {
                    volume_id: id,
                    volume_path: target,
                    ..Default::default()
                };
                c.node_get_volume_stats(request).await.map(|_| Answer::Done)
            }
            "NodeExpandVolume" => {
                let request = v1::NodeExpandVolumeRequest {
                    volume_id: id,
                    volume_path: target,
                    ..Default::default()
                };
                c.node_expand_volume(request).await.map(|_| Answer::Done)
            }
            _ => unreachable!("{rpc}"),
        }
    }
}

fn topology(text: &str) -> v1::Topology {
    v1::Topology {
        segments: pair("topology.csi.anabranch.dev/node", text),
    }
}
