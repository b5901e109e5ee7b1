//! Mounts for the pods of this node.

use tonic::{Request, Response};

use super::convert::{Answer, capability, condition, map, range, run, signed, topology};
use super::v1::{self, node_server};
use crate::csi::{Driver, Publish, Stage, is_ephemeral};

/// The node service.
pub(super) struct Node(pub Driver);

#[tonic::async_trait]
impl node_server::Node for Node {
    async fn node_stage_volume(
        &self,
        request: Request<v1::NodeStageVolumeRequest>,
    ) -> Answer<v1::NodeStageVolumeResponse> {
        let request = request.into_inner();
        let stage = Stage {
            volume: request.volume_id,
            staging: request.staging_target_path,
            capability: request.volume_capability.map(capability).transpose()?,
        };
        run(&self.0, "NodeStageVolume", move |driver| {
            driver.stage(&stage)
        })
        .await?;
        Ok(Response::new(v1::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<v1::NodeUnstageVolumeRequest>,
    ) -> Answer<v1::NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        run(&self.0, "NodeUnstageVolume", move |driver| {
            driver.unstage(&request.volume_id, &request.staging_target_path)
        })
        .await?;
        Ok(Response::new(v1::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<v1::NodePublishVolumeRequest>,
    ) -> Answer<v1::NodePublishVolumeResponse> {
        let request = request.into_inner();
        let publish = Publish {
            volume: request.volume_id,
            staging: request.staging_target_path,
            target: request.target_path,
            capability: request.volume_capability.map(capability).transpose()?,
            read_only: request.readonly,
        };
        let attributes = map(request.volume_context);
        run(&self.0, "NodePublishVolume", move |driver| {
            if is_ephemeral(&attributes) {
                let capability = publish.capability.as_ref();
                let (volume, target) = (&publish.volume, &publish.target);
                driver.publish_ephemeral(volume, target, capability, publish.read_only, &attributes)
            } else {
                driver.publish(&publish)
            }
        })
        .await?;
        Ok(Response::new(v1::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<v1::NodeUnpublishVolumeRequest>,
    ) -> Answer<v1::NodeUnpublishVolumeResponse> {
        let request = request.into_inner();
        run(&self.0, "NodeUnpublishVolume", move |driver| {
            driver.unpublish(&request.volume_id, &request.target_path)
        })
        .await?;
        Ok(Response::new(v1::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<v1::NodeGetVolumeStatsRequest>,
    ) -> Answer<v1::NodeGetVolumeStatsResponse> {
        use v1::volume_usage::Unit;
        let request = request.into_inner();
        let stats = run(&self.0, "NodeGetVolumeStats", move |driver| {
            driver.stats(&request.volume_id, &request.volume_path)
        })
        .await?;
        let usage = |[total, used, available]: [u64; 3], unit: Unit| v1::VolumeUsage {
            total: signed(total),
            used: signed(used),
            available: signed(available),
            unit: unit as i32,
        };
        Ok(Response::new(v1::NodeGetVolumeStatsResponse {
            usage: vec![
                usage(stats.bytes, Unit::Bytes),
                usage(stats.inodes, Unit::Inodes),
            ],
            volume_condition: Some(condition(stats.abnormal)),
        }))
    }

    async fn node_expand_volume(
        &self,
        request: Request<v1::NodeExpandVolumeRequest>,
    ) -> Answer<v1::NodeExpandVolumeResponse> {
        let request = request.into_inner();
        let asked = range(request.capacity_range)?;
        let (id, path) = (request.volume_id, request.volume_path);
        let bytes = run(&self.0, "NodeExpandVolume", move |driver| {
            driver.expand_on_node(&id, &path, asked)
        })
        .await?;
        Ok(Response::new(v1::NodeExpandVolumeResponse {
            capacity_bytes: signed(bytes),
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<v1::NodeGetCapabilitiesRequest>,
    ) -> Answer<v1::NodeGetCapabilitiesResponse> {
        use v1::node_service_capability::{Rpc, Type, rpc};
        let all = [
            rpc::Type::StageUnstageVolume,
            rpc::Type::GetVolumeStats,
            rpc::Type::ExpandVolume,
            rpc::Type::VolumeCondition,
            rpc::Type::SingleNodeMultiWriter,
            rpc::Type::VolumeMountGroup,
        ];
        Ok(Response::new(v1::NodeGetCapabilitiesResponse {
            capabilities: all
                .into_iter()
                .map(|kind| v1::NodeServiceCapability {
                    r#type: Some(Type::Rpc(Rpc {
                        r#type: kind as i32,
                    })),
                })
                .collect(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<v1::NodeGetInfoRequest>,
    ) -> Answer<v1::NodeGetInfoResponse> {
        Ok(Response::new(v1::NodeGetInfoResponse {
            node_id: self.0.node().to_owned(),
            max_volumes_per_node: 0,
            accessible_topology: Some(topology(self.0.node())),
        }))
    }
}
