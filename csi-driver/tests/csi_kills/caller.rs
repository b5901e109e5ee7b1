//! The calls that change something, what each needs, and what has to be there when it was done.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use csi_driver::fuse::mount::mounted;
use csi_driver::grpc::v1::{
    self, controller_client::ControllerClient, group_controller_client::GroupControllerClient,
    node_client::NodeClient,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    CreateVolume,
    CreateVolumeOfVolume,
    CreateVolumeOfSnapshot,
    DeleteVolume,
    ControllerExpandVolume,
    ControllerModifyVolume,
    CreateSnapshot,
    DeleteSnapshot,
    CreateVolumeGroupSnapshot,
    DeleteVolumeGroupSnapshot,
    NodeStageVolume,
    NodePublishVolume,
    NodeExpandVolume,
    NodeUnpublishVolume,
    NodeUnstageVolume,
    NodePublishInline,
    NodeUnpublishInline,
}
use Call::*;

pub const CALLS: [Call; 17] = [
    CreateVolume,
    CreateVolumeOfVolume,
    CreateVolumeOfSnapshot,
    DeleteVolume,
    ControllerExpandVolume,
    ControllerModifyVolume,
    CreateSnapshot,
    DeleteSnapshot,
    CreateVolumeGroupSnapshot,
    DeleteVolumeGroupSnapshot,
    NodeStageVolume,
    NodePublishVolume,
    NodeExpandVolume,
    NodeUnpublishVolume,
    NodeUnstageVolume,
    NodePublishInline,
    NodeUnpublishInline,
];

const GI: i64 = 1 << 30;
const INLINE: &str = "csi-inline";

fn capability() -> v1::VolumeCapability {
    use v1::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
    v1::VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter as i32,
        }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

fn bytes(required_bytes: i64) -> Option<v1::CapacityRange> {
    Some(v1::CapacityRange {
        required_bytes,
        limit_bytes: 0,
    })
}

/// The calls, and what they are about. Ids are learnt from the answers.
#[derive(Clone)]
pub struct Caller {
    root: PathBuf,
    pub channel: Channel,
    pub volume: String,
    /// A second one, for groups.
    pub other: String,
    pub snapshot: String,
    pub group: String,
}

impl Caller {
    pub async fn connect(root: &Path) -> Caller {
        let endpoint = format!("unix://{}", root.join("csi.sock").display());
        Caller {
            root: root.to_owned(),
            channel: Endpoint::from_shared(endpoint)
                .unwrap()
                .connect()
                .await
                .unwrap(),
            volume: String::new(),
            other: String::new(),
            snapshot: String::new(),
            group: String::new(),
        }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.join("kubelet").join(below)
    }

    fn text(&self, below: &str) -> String {
        self.path(below).to_str().unwrap().to_owned()
    }

    /// Makes a call; the id of what it made, or nothing.
    pub async fn send(&self, call: Call) -> Result<String, Status> {
        let mut c = ControllerClient::new(self.channel.clone());
        let mut g = GroupControllerClient::new(self.channel.clone());
        let mut n = NodeClient::new(self.channel.clone());
        let nothing = |()| String::new();
        match call {
            CreateVolume => self.create("made", None).await,
            CreateVolumeOfVolume => {
                use v1::volume_content_source::{Type, VolumeSource};
                let volume_id = self.volume.clone();
                self.create("made", Some(Type::Volume(VolumeSource { volume_id })))
                    .await
            }
            CreateVolumeOfSnapshot => {
                use v1::volume_content_source::{SnapshotSource, Type};
                let snapshot_id = self.snapshot.clone();
                self.create("made", Some(Type::Snapshot(SnapshotSource { snapshot_id })))
                    .await
            }
            DeleteVolume => {
                let request = v1::DeleteVolumeRequest {
                    volume_id: self.volume.clone(),
                    ..Default::default()
                };
                c.delete_volume(request).await.map(drop).map(nothing)
            }
            ControllerExpandVolume => {
                let request = v1::ControllerExpandVolumeRequest {
                    volume_id: self.volume.clone(),
                    capacity_range: bytes(2 * GI),
                    ..Default::default()
                };
                c.controller_expand_volume(request)
                    .await
                    .map(drop)
                    .map(nothing)
            }
            ControllerModifyVolume => {
                let request = v1::ControllerModifyVolumeRequest {
                    volume_id: self.volume.clone(),
                    mutable_parameters: [("bytes".to_owned(), "2Gi".to_owned())].into(),
                    ..Default::default()
                };
                c.controller_modify_volume(request)
                    .await
                    .map(drop)
                    .map(nothing)
            }
            CreateSnapshot => {
                let request = v1::CreateSnapshotRequest {
                    source_volume_id: self.volume.clone(),
                    name: "s".into(),
                    ..Default::default()
                };
                let made = c.create_snapshot(request).await?.into_inner();
                Ok(made.snapshot.unwrap().snapshot_id)
            }
            DeleteSnapshot => {
                let request = v1::DeleteSnapshotRequest {
                    snapshot_id: self.snapshot.clone(),
                    ..Default::default()
                };
                c.delete_snapshot(request).await.map(drop).map(nothing)
            }
            CreateVolumeGroupSnapshot => {
                let request = v1::CreateVolumeGroupSnapshotRequest {
                    name: "g".into(),
                    source_volume_ids: vec![self.volume.clone(), self.other.clone()],
                    ..Default::default()
                };
                let made = g.create_volume_group_snapshot(request).await?.into_inner();
                let group = made.group_snapshot.unwrap();
                assert_eq!(group.snapshots.len(), 2);
                Ok(group.group_snapshot_id)
            }
            DeleteVolumeGroupSnapshot => {
                let request = v1::DeleteVolumeGroupSnapshotRequest {
                    group_snapshot_id: self.group.clone(),
                    ..Default::default()
                };
                g.delete_volume_group_snapshot(request)
                    .await
                    .map(drop)
                    .map(nothing)
            }
            NodeStageVolume => {
                let request = v1::NodeStageVolumeRequest {
                    volume_id: self.volume.clone(),
                    staging_target_path: self.text("plugins/s"),
                    volume_capability: Some(capability()),
                    ..Default::default()
                };
                n.node_stage_volume(request).await.map(drop).map(nothing)
            }
            NodePublishVolume => {
                let request = v1::NodePublishVolumeRequest {
                    volume_id: self.volume.clone(),
                    staging_target_path: self.text("plugins/s"),
                    target_path: self.text("pods/t"),
                    volume_capability: Some(capability()),
                    ..Default::default()
                };
                n.node_publish_volume(request).await.map(drop).map(nothing)
            }
            NodeExpandVolume => {
                let request = v1::NodeExpandVolumeRequest {
                    volume_id: self.volume.clone(),
                    volume_path: self.text("pods/t"),
                    capacity_range: bytes(2 * GI),
                    ..Default::default()
                };
                n.node_expand_volume(request).await.map(drop).map(nothing)
            }
            NodeUnpublishVolume => self.unpublish(&self.volume, "pods/t").await.map(nothing),
            NodeUnpublishInline => self.unpublish(INLINE, "pods/inline").await.map(nothing),
            NodeUnstageVolume => {
                let request = v1::NodeUnstageVolumeRequest {
                    volume_id: self.volume.clone(),
                    staging_target_path: self.text("plugins/s"),
                };
                n.node_unstage_volume(request).await.map(drop).map(nothing)
            }
            NodePublishInline => {
                let context: HashMap<String, String> = [
                    ("csi.storage.k8s.io/ephemeral", "true"),
                    ("csi.storage.k8s.io/pod.namespace", "default"),
                    ("csi.storage.k8s.io/pod.name", "pod"),
                    ("csi.storage.k8s.io/pod.uid", "uid"),
                    ("bucket", "base"),
                ]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
                let request = v1::NodePublishVolumeRequest {
                    volume_id: INLINE.into(),
                    target_path: self.text("pods/inline"),
                    volume_capability: Some(capability()),
                    volume_context: context,
                    ..Default::default()
                };
                n.node_publish_volume(request).await.map(drop).map(nothing)
            }
        }
    }

    async fn create(
        &self,
        name: &str,
        source: Option<v1::volume_content_source::Type>,
    ) -> Result<String, Status> {
        let request = v1::CreateVolumeRequest {
            name: name.into(),
            capacity_range: bytes(GI),
            volume_capabilities: vec![capability()],
            volume_content_source: source
                .map(|kind| v1::VolumeContentSource { r#type: Some(kind) }),
            ..Default::default()
        };
        let made = ControllerClient::new(self.channel.clone())
            .create_volume(request)
            .await?;
        Ok(made.into_inner().volume.unwrap().volume_id)
    }

    async fn unpublish(&self, volume: &str, target: &str) -> Result<(), Status> {
        let request = v1::NodeUnpublishVolumeRequest {
            volume_id: volume.into(),
            target_path: self.text(target),
        };
        NodeClient::new(self.channel.clone())
            .node_unpublish_volume(request)
            .await
            .map(drop)
    }

    async fn delete(&self, id: &str) {
        let request = v1::DeleteVolumeRequest {
            volume_id: id.into(),
            ..Default::default()
        };
        ControllerClient::new(self.channel.clone())
            .delete_volume(request)
            .await
            .unwrap();
    }

    /// Makes what a call needs to be there, with a file of a content in the volume.
    pub async fn prepare(&mut self, call: Call) {
        self.volume = self.create("v", None).await.unwrap();
        self.send(NodeStageVolume).await.unwrap();
        fs::write(self.path("plugins/s/file"), "content").unwrap();
        let staged = matches!(
            call,
            NodePublishVolume | NodeExpandVolume | NodeUnpublishVolume | NodeUnstageVolume
        );
        if !staged {
            self.send(NodeUnstageVolume).await.unwrap();
        }
        match call {
            CreateVolumeGroupSnapshot => self.other = self.create("other", None).await.unwrap(),
            CreateVolumeOfSnapshot | DeleteSnapshot => {
                self.snapshot = self.send(CreateSnapshot).await.unwrap();
            }
            DeleteVolumeGroupSnapshot => {
                self.other = self.create("other", None).await.unwrap();
                self.group = self.send(CreateVolumeGroupSnapshot).await.unwrap();
            }
            NodeUnpublishVolume | NodeExpandVolume => {
                self.send(NodePublishVolume).await.map(drop).unwrap();
            }
            NodeUnpublishInline => drop(self.send(NodePublishInline).await.unwrap()),
            _ => {}
        }
    }

    async fn capacity(&self, id: &str) -> i64 {
        let request = v1::ControllerGetVolumeRequest {
            volume_id: id.into(),
        };
        let mut c = ControllerClient::new(self.channel.clone());
        let found = c.controller_get_volume(request).await.unwrap().into_inner();
        found.volume.unwrap().capacity_bytes
    }

    async fn volumes(&self) -> Vec<String> {
        let mut c = ControllerClient::new(self.channel.clone());
        let listed = c
            .list_volumes(v1::ListVolumesRequest::default())
            .await
            .unwrap()
            .into_inner();
        listed
            .entries
            .into_iter()
            .map(|e| e.volume.unwrap().volume_id)
            .collect()
    }

    async fn snapshots(&self) -> Vec<String> {
        let mut c = ControllerClient::new(self.channel.clone());
        let listed = c
            .list_snapshots(v1::ListSnapshotsRequest::default())
            .await
            .unwrap()
            .into_inner();
        listed
            .entries
            .into_iter()
            .map(|e| e.snapshot.unwrap().snapshot_id)
            .collect()
    }

    /// Checks that a call was done, and done once.
    pub async fn check(&self, call: Call, answer: &str) {
        let at = |below: &str| {
            let path = self.path(below);
            mounted()
                .unwrap()
                .iter()
                .filter(|m| m.point == path)
                .count()
        };
        let volumes = self.volumes().await;
        let has = |id: &str| volumes.iter().filter(|v| *v == id).count();
        match call {
            CreateVolume => assert_eq!((volumes.len(), has(answer)), (2, 1)),
            CreateVolumeOfVolume | CreateVolumeOfSnapshot => {
                assert_eq!((volumes.len(), has(answer)), (2, 1));
                let made = Caller {
                    volume: answer.to_owned(),
                    ..self.clone()
                };
                made.send(NodeStageVolume).await.unwrap();
                let read = fs::read_to_string(self.path("plugins/s/file")).unwrap();
                assert_eq!(read, "content");
                made.send(NodeUnstageVolume).await.unwrap();
            }
            DeleteVolume => assert_eq!(volumes.len(), 0),
            ControllerExpandVolume | ControllerModifyVolume | NodeExpandVolume => {
                assert_eq!(self.capacity(&self.volume).await, 2 * GI);
            }
            CreateSnapshot => assert_eq!(self.snapshots().await, [answer]),
            DeleteSnapshot | DeleteVolumeGroupSnapshot => {
                assert_eq!(self.snapshots().await.len(), 0);
            }
            CreateVolumeGroupSnapshot => assert_eq!(self.snapshots().await.len(), 2),
            NodeStageVolume => assert_eq!(at("plugins/s"), 1),
            NodePublishVolume => {
                assert_eq!((at("plugins/s"), at("pods/t")), (1, 1));
                fs::write(self.path("pods/t/other"), "more").unwrap();
                assert_eq!(
                    fs::read_to_string(self.path("plugins/s/other")).unwrap(),
                    "more"
                );
            }
            NodeUnpublishVolume => {
                assert_eq!((at("plugins/s"), at("pods/t")), (1, 0));
                assert!(!self.path("pods/t").exists());
            }
            NodeUnstageVolume => assert_eq!(at("plugins/s"), 0),
            NodePublishInline => {
                assert_eq!(at("pods/inline"), 1);
                fs::write(self.path("pods/inline/f"), "own").unwrap();
            }
            NodeUnpublishInline => {
                assert_eq!(at("pods/inline"), 0);
                assert!(!self.path("pods/inline").exists());
            }
        }
    }

    /// Takes everything away, and checks that nothing is left.
    pub async fn clear(&mut self) {
        self.unpublish(INLINE, "pods/inline").await.unwrap();
        self.unpublish(&self.volume, "pods/t").await.unwrap();
        self.send(NodeUnstageVolume).await.unwrap();
        if self.group.is_empty() {
            for id in self.snapshots().await {
                let snapshot = Caller {
                    snapshot: id,
                    ..self.clone()
                };
                snapshot.send(DeleteSnapshot).await.unwrap();
            }
        } else {
            self.send(DeleteVolumeGroupSnapshot).await.unwrap();
        }
        for id in self.volumes().await {
            self.delete(&id).await;
        }
        assert_eq!(self.snapshots().await.len(), 0);
        let left = mounted().unwrap();
        assert_eq!(
            left.iter()
                .filter(|m| m.point.starts_with(&self.root))
                .count(),
            0
        );
        for below in ["plugins", "pods"] {
            let left: Vec<_> = fs::read_dir(self.path(below))
                .unwrap()
                .flatten()
                .map(|e| e.file_name())
                .collect();
            // The kubelet makes and removes the staging directory.
            assert!(left.iter().all(|name| name == "s"), "{below}: {left:?}");
        }
    }

    /// Makes a call until it is not refused for the moment.
    pub async fn insist(&self, call: Call) -> String {
        let begun = Instant::now();
        loop {
            match self.send(call).await {
                Ok(answer) => return answer,
                Err(status) if matches!(status.code(), Code::Aborted | Code::Unavailable) => {
                    assert!(
                        begun.elapsed() < Duration::from_secs(20),
                        "{call:?}: {status}"
                    );
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(status) => panic!("{call:?} again, after a kill: {status}"),
            }
        }
    }

    /// What can be seen of a call's effects: volumes, snapshots, size and mounts.
    pub async fn effects(&self, call: Call) -> (Vec<String>, Vec<String>, i64, Vec<PathBuf>) {
        let volumes = self.volumes().await;
        let size = match call {
            DeleteVolume => 0,
            _ => self.capacity(&self.volume).await,
        };
        let mut mounts: Vec<PathBuf> = mounted().unwrap().into_iter().map(|m| m.point).collect();
        mounts.retain(|point| point.starts_with(&self.root));
        (volumes, self.snapshots().await, size, mounts)
    }
}
