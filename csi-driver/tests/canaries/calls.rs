//! Every call of the interface that has a text, twice: as it is meant, with canaries where nothing depends on them, and with
//! canaries everywhere.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use csi_driver::grpc::v1::{
    self, controller_client::ControllerClient, group_controller_client::GroupControllerClient,
    node_client::NodeClient,
};
use k8s_openapi::api::core::v1::Pod;
use tonic::transport::{Channel, Endpoint};

use crate::marks::{Marks, Sort};
use crate::mounting::Place;

/// What was answered.
#[derive(Default)]
pub struct Answers {
    /// Every answer and error, as its receiver would print it.
    pub text: String,
    pub calls: usize,
    pub succeeded: usize,
}

/// What a call is filled with.
struct Fill<'a> {
    marks: &'a mut Marks,
    call: &'static str,
    /// Canaries in place of what is meant.
    hostile: bool,
}

type Map = HashMap<String, String>;

impl Fill<'_> {
    fn text(&mut self, field: &str, meant: &str) -> String {
        let mark = self.marks.text(&format!("{}.{field}", self.call));
        if self.hostile { mark } else { meant.to_owned() }
    }

    /// A path below the kubelet's directory: canaries as its last part.
    fn path(&mut self, field: &str, meant: &str) -> String {
        let mark = self.marks.text(&format!("{}.{field}", self.call));
        if self.hostile {
            format!("{meant}{mark}")
        } else {
            meant.to_owned()
        }
    }

    fn secrets(&mut self) -> Map {
        self.marks.secrets(self.call)
    }

    /// A map that nothing is read from.
    fn ignored(&mut self, field: &str) -> Map {
        let field = format!("{}.{field}", self.call);
        self.marks.map(Sort::Text, &field)
    }

    /// A map whose unknown names are refused.
    fn parameters(&mut self, field: &str) -> Map {
        if self.hostile {
            self.ignored(field)
        } else {
            Map::new()
        }
    }

    fn capability(&mut self) -> Option<v1::VolumeCapability> {
        use v1::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
        let mount = MountVolume {
            fs_type: self
                .marks
                .text(&format!("{}.volume_capability.fs_type", self.call)),
            mount_flags: if self.hostile {
                vec![self.text("volume_capability.mount_flags", "")]
            } else {
                vec!["noatime".into()]
            },
            volume_mount_group: self.text("volume_capability.volume_mount_group", "1000"),
        };
        Some(v1::VolumeCapability {
            access_mode: Some(AccessMode {
                mode: Mode::SingleNodeWriter as i32,
            }),
            access_type: Some(AccessType::Mount(mount)),
        })
    }

    fn topology(&mut self) -> v1::Topology {
        let mut segments = self.ignored("topology");
        let node = self.text("topology.node", "n1");
        segments.insert("topology.csi.anabranch.dev/node".into(), node);
        v1::Topology { segments }
    }
}

impl Answers {
    fn note<T: Debug>(
        &mut self,
        call: &str,
        answer: Result<tonic::Response<T>, tonic::Status>,
    ) -> Option<T> {
        self.calls += 1;
        self.text.push_str(&format!("{call}: {answer:?}\n"));
        let answer = answer.ok()?.into_inner();
        self.succeeded += 1;
        Some(answer)
    }
}

struct Clients {
    controller: ControllerClient<Channel>,
    groups: GroupControllerClient<Channel>,
    node: NodeClient<Channel>,
}

async fn connect(place: &Place) -> Clients {
    let endpoint = format!("unix://{}", place.path("csi.sock").display());
    let began = Instant::now();
    let channel = loop {
        let endpoint = Endpoint::from_shared(endpoint.clone()).unwrap();
        match endpoint.connect().await {
            Ok(channel) => break channel,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(60), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    Clients {
        controller: ControllerClient::new(channel.clone()),
        groups: GroupControllerClient::new(channel.clone()),
        node: NodeClient::new(channel),
    }
}

/// Both rounds. The one with canaries everywhere comes first, and must succeed in nothing that leaves something.
pub async fn run(place: &Place, pod: &Pod, marks: &mut Marks) -> Answers {
    let mut clients = connect(place).await;
    let mut answers = Answers::default();
    for hostile in [true, false] {
        volumes(&mut clients, place, marks, &mut answers, hostile).await;
        inline(&mut clients, place, pod, marks, &mut answers, hostile).await;
    }
    assert!(answers.succeeded >= 20, "{}", answers.text);
    answers
}

async fn volumes(
    clients: &mut Clients,
    place: &Place,
    marks: &mut Marks,
    answers: &mut Answers,
    hostile: bool,
) {
    let staging = place
        .path("kubelet/plugins/p/globalmount")
        .display()
        .to_string();
    let target = place.path("kubelet/pods/p/mount").display().to_string();
    let range = Some(v1::CapacityRange {
        required_bytes: 1 << 20,
        limit_bytes: 0,
    });
    macro_rules! call {
        ($client:ident . $method:ident, $name:literal, |$fill:ident| $request:expr) => {{
            #[allow(unused_mut)]
            let mut $fill = Fill {
                marks: &mut *marks,
                call: $name,
                hostile,
            };
            let request = $request;
            answers.note($name, clients.$client.$method(request).await)
        }};
    }
    let made = call!(controller.create_volume, "CreateVolume", |c| {
        v1::CreateVolumeRequest {
            name: c.text("name", "pvc-1"),
            capacity_range: range,
            volume_capabilities: c.capability().into_iter().collect(),
            parameters: c.parameters("parameters"),
            secrets: c.secrets(),
            volume_content_source: None,
            accessibility_requirements: Some(v1::TopologyRequirement {
                requisite: vec![c.topology()],
                preferred: vec![c.topology()],
            }),
            mutable_parameters: c.parameters("mutable_parameters"),
        }
    });
    let volume = made
        .and_then(|made| made.volume)
        .map_or_else(|| "vol-none".to_owned(), |volume| volume.volume_id);
    for source in ["snapshot_id", "volume_id"] {
        use v1::volume_content_source::{SnapshotSource, Type, VolumeSource};
        let _ = call!(controller.create_volume, "CreateVolume of a source", |c| {
            let id = c.marks.text(&format!("CreateVolume.{source}"));
            v1::CreateVolumeRequest {
                name: "pvc-2".into(),
                volume_capabilities: c.capability().into_iter().collect(),
                secrets: c.secrets(),
                volume_content_source: Some(v1::VolumeContentSource {
                    r#type: Some(if source == "volume_id" {
                        Type::Volume(VolumeSource { volume_id: id })
                    } else {
                        Type::Snapshot(SnapshotSource { snapshot_id: id })
                    }),
                }),
                ..Default::default()
            }
        });
    }
    call!(
        controller.validate_volume_capabilities,
        "ValidateVolumeCapabilities",
        |c| v1::ValidateVolumeCapabilitiesRequest {
            volume_id: c.text("volume_id", &volume),
            volume_context: if c.hostile {
                c.ignored("volume_context")
            } else {
                Map::new()
            },
            volume_capabilities: c.capability().into_iter().collect(),
            parameters: c.parameters("parameters"),
            secrets: c.secrets(),
            mutable_parameters: c.parameters("mutable_parameters"),
        }
    );
    call!(
        controller.controller_publish_volume,
        "ControllerPublishVolume",
        |c| v1::ControllerPublishVolumeRequest {
            volume_id: c.text("volume_id", &volume),
            node_id: c.text("node_id", "n1"),
            volume_capability: c.capability(),
            readonly: false,
            secrets: c.secrets(),
            volume_context: c.ignored("volume_context"),
        }
    );
    call!(
        controller.controller_unpublish_volume,
        "ControllerUnpublishVolume",
        |c| v1::ControllerUnpublishVolumeRequest {
            volume_id: c.text("volume_id", &volume),
            node_id: c.text("node_id", "n1"),
            secrets: c.secrets(),
        }
    );
    call!(controller.list_volumes, "ListVolumes", |c| {
        v1::ListVolumesRequest {
            max_entries: 10,
            starting_token: c.text("starting_token", ""),
        }
    });
    call!(
        controller.controller_get_volume,
        "ControllerGetVolume",
        |c| v1::ControllerGetVolumeRequest {
            volume_id: c.text("volume_id", &volume)
        }
    );
    call!(
        controller.controller_modify_volume,
        "ControllerModifyVolume",
        |c| v1::ControllerModifyVolumeRequest {
            volume_id: c.text("volume_id", &volume),
            secrets: c.secrets(),
            mutable_parameters: c.parameters("mutable_parameters"),
        }
    );
    call!(controller.get_capacity, "GetCapacity", |c| {
        v1::GetCapacityRequest {
            volume_capabilities: c.capability().into_iter().collect(),
            parameters: c.ignored("parameters"),
            accessible_topology: Some(c.topology()),
        }
    });
    let made = call!(controller.create_snapshot, "CreateSnapshot", |c| {
        v1::CreateSnapshotRequest {
            source_volume_id: c.text("source_volume_id", &volume),
            name: c.text("name", "snapshot-1"),
            secrets: c.secrets(),
            parameters: c.ignored("parameters"),
        }
    });
    let snapshot = made
        .and_then(|made| made.snapshot)
        .map_or_else(|| "snap-none".to_owned(), |snapshot| snapshot.snapshot_id);
    call!(controller.list_snapshots, "ListSnapshots", |c| {
        v1::ListSnapshotsRequest {
            max_entries: 10,
            starting_token: c.text("starting_token", ""),
            source_volume_id: c.text("source_volume_id", &volume),
            snapshot_id: c.text("snapshot_id", &snapshot),
            secrets: c.secrets(),
        }
    });
    call!(controller.get_snapshot, "GetSnapshot", |c| {
        v1::GetSnapshotRequest {
            snapshot_id: c.text("snapshot_id", &snapshot),
            secrets: c.secrets(),
        }
    });
    call!(controller.delete_snapshot, "DeleteSnapshot", |c| {
        v1::DeleteSnapshotRequest {
            snapshot_id: c.text("snapshot_id", &snapshot),
            secrets: c.secrets(),
        }
    });
    call!(
        controller.controller_expand_volume,
        "ControllerExpandVolume",
        |c| v1::ControllerExpandVolumeRequest {
            volume_id: c.text("volume_id", &volume),
            capacity_range: range,
            secrets: c.secrets(),
            volume_capability: c.capability(),
        }
    );
    let made = call!(
        groups.create_volume_group_snapshot,
        "CreateVolumeGroupSnapshot",
        |c| v1::CreateVolumeGroupSnapshotRequest {
            name: c.text("name", "group-1"),
            source_volume_ids: vec![c.text("source_volume_ids", &volume)],
            secrets: c.secrets(),
            parameters: c.ignored("parameters"),
        }
    );
    let group = made.and_then(|made| made.group_snapshot);
    let group_id = group.as_ref().map_or_else(
        || "group-none".to_owned(),
        |group| group.group_snapshot_id.clone(),
    );
    let members: Vec<String> = group
        .into_iter()
        .flat_map(|group| group.snapshots)
        .map(|snapshot| snapshot.snapshot_id)
        .collect();
    call!(
        groups.get_volume_group_snapshot,
        "GetVolumeGroupSnapshot",
        |c| v1::GetVolumeGroupSnapshotRequest {
            group_snapshot_id: c.text("group_snapshot_id", &group_id),
            snapshot_ids: if c.hostile {
                vec![c.text("snapshot_ids", "")]
            } else {
                members.clone()
            },
            secrets: c.secrets(),
        }
    );
    call!(
        groups.delete_volume_group_snapshot,
        "DeleteVolumeGroupSnapshot",
        |c| v1::DeleteVolumeGroupSnapshotRequest {
            group_snapshot_id: c.text("group_snapshot_id", &group_id),
            snapshot_ids: if c.hostile {
                vec![c.text("snapshot_ids", "")]
            } else {
                members.clone()
            },
            secrets: c.secrets(),
        }
    );
    // As the kubelet asks: one capability for all, since a mount of another group is refused.
    let mut fill = Fill {
        marks: &mut *marks,
        call: "Node",
        hostile,
    };
    let capability = fill.capability();
    call!(node.node_stage_volume, "NodeStageVolume", |c| {
        v1::NodeStageVolumeRequest {
            volume_id: c.text("volume_id", &volume),
            publish_context: c.ignored("publish_context"),
            staging_target_path: c.path("staging_target_path", &staging),
            volume_capability: capability.clone(),
            secrets: c.secrets(),
            volume_context: c.ignored("volume_context"),
        }
    });
    call!(node.node_publish_volume, "NodePublishVolume", |c| {
        v1::NodePublishVolumeRequest {
            volume_id: c.text("volume_id", &volume),
            publish_context: c.ignored("publish_context"),
            staging_target_path: c.path("staging_target_path", &staging),
            target_path: c.path("target_path", &target),
            volume_capability: capability.clone(),
            readonly: false,
            secrets: c.secrets(),
            volume_context: c.ignored("volume_context"),
        }
    });
    call!(node.node_get_volume_stats, "NodeGetVolumeStats", |c| {
        v1::NodeGetVolumeStatsRequest {
            volume_id: c.text("volume_id", &volume),
            volume_path: c.path("volume_path", &target),
            staging_target_path: c.path("staging_target_path", &staging),
        }
    });
    call!(node.node_expand_volume, "NodeExpandVolume", |c| {
        v1::NodeExpandVolumeRequest {
            volume_id: c.text("volume_id", &volume),
            volume_path: c.path("volume_path", &target),
            capacity_range: range,
            staging_target_path: c.path("staging_target_path", &staging),
            volume_capability: capability.clone(),
            secrets: c.secrets(),
        }
    });
    call!(node.node_unpublish_volume, "NodeUnpublishVolume", |c| {
        v1::NodeUnpublishVolumeRequest {
            volume_id: c.text("volume_id", &volume),
            target_path: c.path("target_path", &target),
        }
    });
    call!(node.node_unstage_volume, "NodeUnstageVolume", |c| {
        v1::NodeUnstageVolumeRequest {
            volume_id: c.text("volume_id", &volume),
            staging_target_path: c.path("staging_target_path", &staging),
        }
    });
    call!(controller.delete_volume, "DeleteVolume", |c| {
        v1::DeleteVolumeRequest {
            volume_id: c.text("volume_id", &volume),
            secrets: c.secrets(),
        }
    });
}

/// An inline volume of a pod, which becomes an object.
async fn inline(
    clients: &mut Clients,
    place: &Place,
    pod: &Pod,
    marks: &mut Marks,
    answers: &mut Answers,
    hostile: bool,
) {
    let target = place.path("kubelet/pods/p/inline").display().to_string();
    let mut fill = Fill {
        marks,
        call: "NodePublishVolume inline",
        hostile,
    };
    let mut context: Map = [
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("csi.storage.k8s.io/pod.namespace", "team"),
        ("csi.storage.k8s.io/pod.name", "agent"),
        (
            "csi.storage.k8s.io/pod.uid",
            pod.metadata.uid.as_deref().unwrap(),
        ),
        ("snapshot", "v1"),
        ("bytes", "1Mi"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    // As a service account token would be, where the driver asked for one.
    let mark = fill
        .marks
        .mark(Sort::Secret, "csi.storage.k8s.io/serviceAccount.tokens");
    context.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), mark);
    context.extend(fill.parameters("volume_context"));
    if hostile {
        let bytes = fill.text("volume_context.bytes", "");
        context.insert("bytes".into(), bytes);
    }
    let volume_id = fill.text("volume_id", "csi-inline-volume");
    let request = v1::NodePublishVolumeRequest {
        volume_id: volume_id.clone(),
        publish_context: fill.ignored("publish_context"),
        target_path: fill.path("target_path", &target),
        volume_capability: fill.capability(),
        secrets: fill.secrets(),
        volume_context: context,
        ..Default::default()
    };
    let target_path = request.target_path.clone();
    answers.note(
        "NodePublishVolume inline",
        clients.node.node_publish_volume(request).await,
    );
    let request = v1::NodeUnpublishVolumeRequest {
        volume_id,
        target_path,
    };
    answers.note(
        "NodeUnpublishVolume inline",
        clients.node.node_unpublish_volume(request).await,
    );
}
