//! Snapshots of several volumes at once.

use tonic::{Request, Response};

use super::convert::{Answer, group, run};
use super::v1::{self, group_controller_server};
use crate::csi::Driver;

/// The group controller service.
pub(super) struct GroupController(pub Driver);

#[tonic::async_trait]
impl group_controller_server::GroupController for GroupController {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<v1::GroupControllerGetCapabilitiesRequest>,
    ) -> Answer<v1::GroupControllerGetCapabilitiesResponse> {
        use v1::group_controller_service_capability::{Rpc, Type, rpc};
        let kind = rpc::Type::CreateDeleteGetVolumeGroupSnapshot as i32;
        Ok(Response::new(v1::GroupControllerGetCapabilitiesResponse {
            capabilities: vec![v1::GroupControllerServiceCapability {
                r#type: Some(Type::Rpc(Rpc { r#type: kind })),
            }],
        }))
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<v1::CreateVolumeGroupSnapshotRequest>,
    ) -> Answer<v1::CreateVolumeGroupSnapshotResponse> {
        let request = request.into_inner();
        let made = run(&self.0, "CreateVolumeGroupSnapshot", move |driver| {
            driver.create_group(&request.name, &request.source_volume_ids)
        })
        .await?;
        Ok(Response::new(v1::CreateVolumeGroupSnapshotResponse {
            group_snapshot: Some(group(made)),
        }))
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<v1::DeleteVolumeGroupSnapshotRequest>,
    ) -> Answer<v1::DeleteVolumeGroupSnapshotResponse> {
        let request = request.into_inner();
        run(&self.0, "DeleteVolumeGroupSnapshot", move |driver| {
            driver.delete_group(&request.group_snapshot_id, &request.snapshot_ids)
        })
        .await?;
        Ok(Response::new(v1::DeleteVolumeGroupSnapshotResponse {}))
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<v1::GetVolumeGroupSnapshotRequest>,
    ) -> Answer<v1::GetVolumeGroupSnapshotResponse> {
        let request = request.into_inner();
        let found = run(&self.0, "GetVolumeGroupSnapshot", move |driver| {
            driver.get_group(&request.group_snapshot_id, &request.snapshot_ids)
        })
        .await?;
        Ok(Response::new(v1::GetVolumeGroupSnapshotResponse {
            group_snapshot: Some(group(found)),
        }))
    }
}
