//! Hostile ids, names and paths in every call of the interface, over the wire.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod csi_common;
mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use csi_common::{Node, volume};
use csi_driver::grpc::v1::{
    self, controller_client::ControllerClient, group_controller_client::GroupControllerClient,
    node_client::NodeClient,
};
use support::{can_mount, watchdog};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

/// At least 200 of them: traversals, encodings, controls, wrong lengths, near misses of a real id.
fn hostile(real: &str) -> Vec<String> {
    let mut all: Vec<String> = [
        "",
        ".",
        "..",
        "/",
        "//",
        "../..",
        "../../etc/passwd",
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "~",
        "$HOME",
        "$(reboot)",
        "`reboot`",
        "; reboot",
        "| cat",
        "&& true",
        "%00",
        "%2e%2e%2f",
        "..%2f..%2f",
        "..\\..\\",
        "C:\\",
        "\0",
        "a\0b",
        "\n",
        "a\nb",
        "\r\n\r\n",
        "\t",
        "\u{1b}[2J",
        "\u{202e}",
        "\u{feff}",
        "ä",
        "\u{0}\u{0}",
        "'",
        "\"",
        "' or 1=1 --",
        "{}",
        "[]",
        "null",
        "true",
        "-1",
        "0",
        "1e309",
        "NaN",
        "vol-",
        "snap-",
        "group-",
        "vol",
        "volume/x",
        "bucket/default/base",
        "fork/default/x",
        "ephemeral/x",
        "file:///etc/passwd",
        "unix:///x",
        "http://127.0.0.1/",
        "${jndi:ldap://x}",
        "<script>",
        "%s%s%s%n",
        "*",
        "?",
        "[a-z]",
        "!",
        "#",
    ]
    .map(String::from)
    .into();
    for length in [
        1, 31, 32, 33, 127, 128, 129, 255, 256, 257, 1024, 4096, 65536,
    ] {
        all.push("a".repeat(length));
        all.push(format!("vol-{}", "0".repeat(length)));
        all.push("../".repeat(length / 3));
        all.push("\u{1f4a9}".repeat(length / 4));
    }
    // One character of a real id changed at each place, and whole ids with something around them.
    for at in 0..real.len() {
        for with in ["g", "/", "\0", "A"] {
            let mut text = real.to_owned();
            text.replace_range(at..=at, with);
            if text != real {
                all.push(text);
            }
        }
    }
    for around in [" ", "/", "\n", "\0", ".", "%20"] {
        all.push(format!("{around}{real}"));
        all.push(format!("{real}{around}"));
    }
    all.push(real.to_uppercase());
    all
}

fn refused<T: std::fmt::Debug>(call: &str, id: &str, outcome: Result<tonic::Response<T>, Status>) {
    let shown: String = id.chars().take(60).collect();
    match outcome {
        // Deleting what is not there is done, and what is not there is listed as nothing.
        Ok(_) => assert!(
            call.starts_with("Delete") || call.starts_with("List") || call.starts_with("NodeUn"),
            "{call} took {shown:?}"
        ),
        Err(status) => assert!(
            matches!(
                status.code(),
                Code::InvalidArgument | Code::NotFound | Code::Aborted | Code::FailedPrecondition
            ),
            "{call} of {shown:?}: {:?} {:.200}",
            status.code(),
            status.message()
        ),
    }
}

fn mount_capability() -> Option<v1::VolumeCapability> {
    use v1::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
    Some(v1::VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter as i32,
        }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    })
}

/// Every file below the kubelet's directory and beside the store, to see that nothing came or went.
fn all_files(below: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(below).unwrap() {
        let entry = entry.unwrap();
        into.push(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            all_files(&entry.path(), into);
        }
    }
    into.sort();
}

#[test]
fn hostile_ids_and_paths_are_refused_by_every_call_without_effect() {
    let name = "hostile_ids_and_paths_are_refused_by_every_call_without_effect";
    if !can_mount(name) {
        return;
    }
    let _alive = watchdog(Duration::from_secs(300));
    let mut node = Node::new("csi-hostile");
    let endpoint = node.serve();
    let real = volume(&node, "v").id;
    let snapshot = node.driver.create_snapshot("s", &real).unwrap().id;
    let ids = hostile(&real);
    assert!(ids.len() >= 200, "{}", ids.len());
    let (staging, target) = (node.path("plugins/s"), node.path("pods/t"));
    let before = (
        node.engine.timelines(),
        node.engine.snapshots().unwrap(),
        csi_driver::fuse::mount::mounted().unwrap().len(),
    );
    let mut files = Vec::new();
    all_files(&node.kubelet, &mut files);
    let calls = node.runtime().block_on(async {
        let channel = Endpoint::from_shared(endpoint)
            .unwrap()
            .connect()
            .await
            .unwrap();
        let mut controller = ControllerClient::new(channel.clone());
        let mut groups = GroupControllerClient::new(channel.clone());
        let mut nodes = NodeClient::new(channel);
        let mut calls = 0u32;
        for id in &ids {
            macro_rules! call {
                ($client:ident . $method:ident ( $name:literal, $request:expr )) => {
                    refused($name, id, $client.$method($request).await);
                    calls += 1;
                };
            }
            let volume_id = || id.clone();
            call!(controller.delete_volume(
                "DeleteVolume",
                v1::DeleteVolumeRequest {
                    volume_id: volume_id(),
                    ..Default::default()
                }
            ));
            call!(controller.controller_get_volume(
                "ControllerGetVolume",
                v1::ControllerGetVolumeRequest {
                    volume_id: volume_id()
                }
            ));
            call!(controller.validate_volume_capabilities(
                "ValidateVolumeCapabilities",
                v1::ValidateVolumeCapabilitiesRequest {
                    volume_id: volume_id(),
                    volume_capabilities: mount_capability().into_iter().collect(),
                    ..Default::default()
                }
            ));
            call!(controller.controller_expand_volume(
                "ControllerExpandVolume",
                v1::ControllerExpandVolumeRequest {
                    volume_id: volume_id(),
                    capacity_range: Some(v1::CapacityRange {
                        required_bytes: 1 << 31,
                        limit_bytes: 0
                    }),
                    ..Default::default()
                }
            ));
            call!(controller.controller_modify_volume(
                "ControllerModifyVolume",
                v1::ControllerModifyVolumeRequest {
                    volume_id: volume_id(),
                    ..Default::default()
                }
            ));
            call!(controller.create_snapshot(
                "CreateSnapshot",
                v1::CreateSnapshotRequest {
                    source_volume_id: volume_id(),
                    name: "hostile".into(),
                    ..Default::default()
                }
            ));
            call!(controller.delete_snapshot(
                "DeleteSnapshot",
                v1::DeleteSnapshotRequest {
                    snapshot_id: volume_id(),
                    ..Default::default()
                }
            ));
            call!(controller.get_snapshot(
                "GetSnapshot",
                v1::GetSnapshotRequest {
                    snapshot_id: volume_id(),
                    ..Default::default()
                }
            ));
            if !id.is_empty() {
                call!(controller.list_snapshots(
                    "ListSnapshots",
                    v1::ListSnapshotsRequest {
                        snapshot_id: volume_id(),
                        ..Default::default()
                    }
                ));
                call!(controller.list_volumes(
                    "ListVolumes",
                    v1::ListVolumesRequest {
                        starting_token: volume_id(),
                        ..Default::default()
                    }
                ));
            }
            for source in [
                v1::volume_content_source::Type::Volume(v1::volume_content_source::VolumeSource {
                    volume_id: volume_id(),
                }),
                v1::volume_content_source::Type::Snapshot(
                    v1::volume_content_source::SnapshotSource {
                        snapshot_id: volume_id(),
                    },
                ),
            ] {
                call!(controller.create_volume(
                    "CreateVolume",
                    v1::CreateVolumeRequest {
                        name: "hostile".into(),
                        volume_capabilities: mount_capability().into_iter().collect(),
                        volume_content_source: Some(v1::VolumeContentSource {
                            r#type: Some(source)
                        }),
                        ..Default::default()
                    }
                ));
            }
            call!(groups.create_volume_group_snapshot(
                "CreateVolumeGroupSnapshot",
                v1::CreateVolumeGroupSnapshotRequest {
                    name: "hostile".into(),
                    source_volume_ids: vec![volume_id()],
                    ..Default::default()
                }
            ));
            call!(groups.delete_volume_group_snapshot(
                "DeleteVolumeGroupSnapshot",
                v1::DeleteVolumeGroupSnapshotRequest {
                    group_snapshot_id: volume_id(),
                    ..Default::default()
                }
            ));
            call!(groups.get_volume_group_snapshot(
                "GetVolumeGroupSnapshot",
                v1::GetVolumeGroupSnapshotRequest {
                    group_snapshot_id: volume_id(),
                    ..Default::default()
                }
            ));
            call!(nodes.node_stage_volume(
                "NodeStageVolume",
                v1::NodeStageVolumeRequest {
                    volume_id: volume_id(),
                    staging_target_path: staging.clone(),
                    volume_capability: mount_capability(),
                    ..Default::default()
                }
            ));
            call!(nodes.node_unstage_volume(
                "NodeUnstageVolume",
                v1::NodeUnstageVolumeRequest {
                    volume_id: volume_id(),
                    staging_target_path: staging.clone()
                }
            ));
            call!(nodes.node_publish_volume(
                "NodePublishVolume",
                v1::NodePublishVolumeRequest {
                    volume_id: volume_id(),
                    staging_target_path: staging.clone(),
                    target_path: target.clone(),
                    volume_capability: mount_capability(),
                    ..Default::default()
                }
            ));
            call!(nodes.node_unpublish_volume(
                "NodeUnpublishVolume",
                v1::NodeUnpublishVolumeRequest {
                    volume_id: volume_id(),
                    target_path: target.clone()
                }
            ));
            call!(nodes.node_get_volume_stats(
                "NodeGetVolumeStats",
                v1::NodeGetVolumeStatsRequest {
                    volume_id: volume_id(),
                    volume_path: target.clone(),
                    ..Default::default()
                }
            ));
            // As paths, with a real volume.
            if !Path::new(id).is_absolute() || !Path::new(id).starts_with(&node.kubelet) {
                call!(nodes.node_stage_volume(
                    "NodeStageVolume",
                    v1::NodeStageVolumeRequest {
                        volume_id: real.clone(),
                        staging_target_path: volume_id(),
                        volume_capability: mount_capability(),
                        ..Default::default()
                    }
                ));
                refused(
                    "a path of NodeUnstageVolume",
                    id,
                    nodes
                        .node_unstage_volume(v1::NodeUnstageVolumeRequest {
                            volume_id: real.clone(),
                            staging_target_path: volume_id(),
                        })
                        .await,
                );
                refused(
                    "a path of NodeUnpublishVolume",
                    id,
                    nodes
                        .node_unpublish_volume(v1::NodeUnpublishVolumeRequest {
                            volume_id: real.clone(),
                            target_path: volume_id(),
                        })
                        .await,
                );
                call!(nodes.node_publish_volume(
                    "NodePublishVolume",
                    v1::NodePublishVolumeRequest {
                        volume_id: real.clone(),
                        staging_target_path: staging.clone(),
                        target_path: volume_id(),
                        volume_capability: mount_capability(),
                        ..Default::default()
                    }
                ));
                call!(nodes.node_get_volume_stats(
                    "NodeGetVolumeStats",
                    v1::NodeGetVolumeStatsRequest {
                        volume_id: real.clone(),
                        volume_path: volume_id(),
                        ..Default::default()
                    }
                ));
                calls += 2;
            }
        }
        calls
    });
    eprintln!("{} hostile ids, {calls} calls", ids.len());
    let after = (
        node.engine.timelines(),
        node.engine.snapshots().unwrap(),
        csi_driver::fuse::mount::mounted().unwrap().len(),
    );
    assert_eq!(before, after);
    let mut left = Vec::new();
    all_files(&node.kubelet, &mut left);
    assert_eq!(files, left, "no file came or went");
    node.driver.delete_snapshot(&snapshot).unwrap();
    node.end();
}
