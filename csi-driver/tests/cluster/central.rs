//! The central driver as a program: what it answers, and what it has a node do.

use std::process::{Child, Command, Stdio};

use csi_driver::csi::VolumeId;
use csi_driver::grpc::v1::{self, node_client::NodeClient};
use e2e::cluster::Parts;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, Patch};
use serde_json::json;

use crate::agent::Agent;
use crate::mounting::{Place, can_mount};
use crate::support::fixture;
use crate::volumes::{Keeper, connect, writer};

/// A program that serves the central driver. Killed when it is dropped.
struct Central(Child);

impl Drop for Central {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_central_driver_leaves_what_it_is_asked_to_the_node() {
    use v1::{controller_client::ControllerClient, identity_client::IdentityClient};
    const NAME: &str = "central";
    if !can_mount(NAME) {
        return;
    }
    let Some(f) = fixture(NAME, Parts::default()).await else {
        return;
    };
    let store = Place::new(NAME);
    std::fs::create_dir_all(store.path("kubelet")).unwrap();
    f.node("n1").await;
    let _keeper = Keeper::start(&store);
    let mut agent = Agent::with_volumes(&f.cluster, "n1", &store.root, &[]);
    agent.ready().await;
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("csi.sock");
    let endpoint = format!("unix://{}", socket.display());
    let child = Command::new(env!("CARGO_BIN_EXE_anabranch-csi"))
        .args(["controller", "--csi-socket", &endpoint])
        .env("KUBECONFIG", f.cluster.kubeconfig())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _central = Central(child);
    let channel = connect(&endpoint).await;
    let mut identity = IdentityClient::new(channel.clone());
    let info = identity
        .get_plugin_info(v1::GetPluginInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.name, "csi.anabranch.dev");
    assert!(!info.vendor_version.is_empty());
    let mut controller = ControllerClient::new(channel);
    let expand = |id: &str, required_bytes| v1::ControllerExpandVolumeRequest {
        volume_id: id.into(),
        capacity_range: Some(v1::CapacityRange {
            required_bytes,
            limit_bytes: 0,
        }),
        ..Default::default()
    };
    let id = format!("vol-{}", "ab".repeat(16));
    let answer = controller
        .controller_expand_volume(expand(&id, 1 << 30))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (answer.capacity_bytes, answer.node_expansion_required),
        (1 << 30, true)
    );
    for (bad, bytes, code) in [
        ("", 1, tonic::Code::InvalidArgument),
        ("vol-../../x", 1, tonic::Code::NotFound),
        (id.as_str(), 0, tonic::Code::InvalidArgument),
        (id.as_str(), -1, tonic::Code::InvalidArgument),
    ] {
        let refused = controller
            .controller_expand_volume(expand(bad, bytes))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), code, "{bad:?} {bytes}");
    }
    // A volume as the provisioner makes it on its node, and other attributes for it later.
    let socket = format!("unix://{}", store.path("csi.sock").display());
    let channel = connect(&socket).await;
    let create = v1::CreateVolumeRequest {
        name: "pvc-1".into(),
        capacity_range: Some(v1::CapacityRange {
            required_bytes: 1 << 30,
            limit_bytes: 0,
        }),
        volume_capabilities: writer().into_iter().collect(),
        ..Default::default()
    };
    let made = ControllerClient::new(channel.clone())
        .create_volume(create)
        .await
        .unwrap()
        .into_inner()
        .volume
        .unwrap();
    let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "topology.csi.anabranch.dev/node", "operator": "In", "values": ["n1"]}]}]}});
    f.apply(json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pvc-1"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "nodeAffinity": affinity,
        "csi": {"driver": "csi.anabranch.dev", "volumeHandle": made.volume_id}}}))
        .await
        .unwrap();
    let modify = |id: &str, attributes: &[(&str, &str)]| v1::ControllerModifyVolumeRequest {
        volume_id: id.into(),
        mutable_parameters: attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Default::default()
    };
    for attributes in [[("bytes", "3Gi")], [("bytes", "2Gi")]] {
        controller
            .controller_modify_volume(modify(&made.volume_id, &attributes))
            .await
            .unwrap();
        controller
            .controller_modify_volume(modify(&made.volume_id, &attributes))
            .await
            .unwrap();
    }
    // What was refused once is answered anew when it is asked for again.
    let refused = json!({"asked": json!({"bytes": "3Gi"}).to_string(), "refused": "not then"});
    let annotations = json!({"csi.anabranch.dev/attributes": json!({"bytes": "3Gi"}).to_string(),
        "csi.anabranch.dev/attributes-done": refused.to_string()});
    let body = json!({"metadata": {"annotations": annotations}});
    Api::<PersistentVolume>::all(f.client.clone())
        .patch("pvc-1", &Default::default(), &Patch::Merge(body))
        .await
        .unwrap();
    for bytes in ["3Gi", "2Gi"] {
        controller
            .controller_modify_volume(modify(&made.volume_id, &[("bytes", bytes)]))
            .await
            .unwrap();
    }
    let ask = v1::NodeExpandVolumeRequest {
        volume_id: made.volume_id.clone(),
        volume_path: "/anywhere".into(),
        ..Default::default()
    };
    let own = channel.clone();
    let size = NodeClient::new(channel)
        .node_expand_volume(ask)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(size.capacity_bytes, 2 << 30);
    for (bad, attributes, code) in [
        (
            made.volume_id.as_str(),
            ("colour", "red"),
            tonic::Code::InvalidArgument,
        ),
        (
            made.volume_id.as_str(),
            ("bytes", "-1"),
            tonic::Code::InvalidArgument,
        ),
        (id.as_str(), ("bytes", "1Gi"), tonic::Code::NotFound),
        ("../../x", ("bytes", "1Gi"), tonic::Code::NotFound),
    ] {
        let refused = controller
            .controller_modify_volume(modify(bad, &[attributes]))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), code, "{bad:?} {attributes:?}: {refused}");
    }
    let texts = crate::hostile::hostile(&[&made.volume_id]);
    assert!(texts.len() >= 200);
    let mut requests = 0;
    for text in &texts {
        let mut outcomes = vec![
            (controller
                .controller_modify_volume(modify(text, &[("bytes", "1Gi")]))
                .await)
                .map(drop),
            (controller
                .controller_modify_volume(modify(&made.volume_id, &[("bytes", text)]))
                .await)
                .map(drop),
            (controller
                .controller_modify_volume(modify(&made.volume_id, &[(text, "1")]))
                .await)
                .map(drop),
        ];
        // This one knows no volume: of an id of the right form, the node says that there is none.
        if VolumeId::parse(text).is_none() {
            outcomes.push(
                controller
                    .controller_expand_volume(expand(text, 1 << 30))
                    .await
                    .map(drop),
            );
        }
        requests += outcomes.len();
        for outcome in outcomes {
            let code = outcome.map_err(|status| status.code());
            assert!(
                matches!(
                    code,
                    Err(tonic::Code::InvalidArgument | tonic::Code::NotFound)
                ),
                "{text:.60?}: {code:?}"
            );
        }
    }
    let of = v1::ControllerGetVolumeRequest {
        volume_id: made.volume_id.clone(),
    };
    let still = ControllerClient::new(own)
        .controller_get_volume(of)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(still.volume.unwrap().capacity_bytes, 2 << 30);
    eprintln!(
        "{} hostile texts, {requests} requests, all refused",
        texts.len()
    );
    // What each node does for itself is not had here.
    let nobody = [
        controller
            .create_volume(v1::CreateVolumeRequest::default())
            .await
            .map(drop),
        controller
            .delete_volume(v1::DeleteVolumeRequest::default())
            .await
            .map(drop),
        controller
            .list_volumes(v1::ListVolumesRequest::default())
            .await
            .map(drop),
        controller
            .get_capacity(v1::GetCapacityRequest::default())
            .await
            .map(drop),
        controller
            .create_snapshot(v1::CreateSnapshotRequest::default())
            .await
            .map(drop),
        controller
            .delete_snapshot(v1::DeleteSnapshotRequest::default())
            .await
            .map(drop),
        controller
            .list_snapshots(v1::ListSnapshotsRequest::default())
            .await
            .map(drop),
        controller
            .get_snapshot(v1::GetSnapshotRequest::default())
            .await
            .map(drop),
        controller
            .controller_get_volume(v1::ControllerGetVolumeRequest::default())
            .await
            .map(drop),
        controller
            .controller_publish_volume(v1::ControllerPublishVolumeRequest::default())
            .await
            .map(drop),
        controller
            .controller_unpublish_volume(v1::ControllerUnpublishVolumeRequest::default())
            .await
            .map(drop),
        controller
            .validate_volume_capabilities(v1::ValidateVolumeCapabilitiesRequest::default())
            .await
            .map(drop),
    ];
    for outcome in nobody {
        assert_eq!(outcome.unwrap_err().code(), tonic::Code::Unimplemented);
    }
    agent.stop();
}
