//! Volumes and snapshots. With `--node-deployment` of the provisioner each node's driver is the controller of its own
//! volumes.

use tonic::{Request, Response, Status};

use super::convert::{
    Answer, capabilities, condition, content, map, range, run, signed, snapshot, volume,
};
use super::v1::{self, controller_server};
use crate::csi::{CreateVolume, Driver};

/// The controller service.
pub(super) struct Controller(pub Driver);

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[tonic::async_trait]
impl controller_server::Controller for Controller {
    async fn create_volume(
        &self,
        request: Request<v1::CreateVolumeRequest>,
    ) -> Answer<v1::CreateVolumeResponse> {
        let request = request.into_inner();
        let requisite = request
            .accessibility_requirements
            .map(|topologies| topologies.requisite)
            .unwrap_or_default();
        let create = CreateVolume {
            name: request.name,
            range: range(request.capacity_range)?,
            capabilities: capabilities(request.volume_capabilities)?,
            parameters: map(request.parameters),
            mutable: map(request.mutable_parameters),
            content: request.volume_content_source.map(content).transpose()?,
            requisite: requisite.into_iter().map(|t| map(t.segments)).collect(),
        };
        let made = run(&self.0, "CreateVolume", move |driver| {
            driver.create_volume(&create)
        })
        .await?;
        Ok(Response::new(v1::CreateVolumeResponse {
            volume: Some(volume(made).0),
        }))
    }

    async fn delete_volume(
        &self,
        request: Request<v1::DeleteVolumeRequest>,
    ) -> Answer<v1::DeleteVolumeResponse> {
        let id = request.into_inner().volume_id;
        run(&self.0, "DeleteVolume", move |driver| {
            driver.delete_volume(&id)
        })
        .await?;
        Ok(Response::new(v1::DeleteVolumeResponse {}))
    }

    async fn controller_publish_volume(
        &self,
        _: Request<v1::ControllerPublishVolumeRequest>,
    ) -> Answer<v1::ControllerPublishVolumeResponse> {
        Err(Status::unimplemented(
            "a volume is on its node: nothing is attached",
        ))
    }

    async fn controller_unpublish_volume(
        &self,
        _: Request<v1::ControllerUnpublishVolumeRequest>,
    ) -> Answer<v1::ControllerUnpublishVolumeResponse> {
        Err(Status::unimplemented(
            "a volume is on its node: nothing is attached",
        ))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<v1::ValidateVolumeCapabilitiesRequest>,
    ) -> Answer<v1::ValidateVolumeCapabilitiesResponse> {
        use v1::validate_volume_capabilities_response::Confirmed;
        let request = request.into_inner();
        let (id, asked) = (request.volume_id, request.volume_capabilities.clone());
        let why = run(&self.0, "ValidateVolumeCapabilities", move |driver| {
            driver.validate(&id, &capabilities(asked)?)
        })
        .await?;
        Ok(Response::new(match why {
            Some(message) => v1::ValidateVolumeCapabilitiesResponse {
                confirmed: None,
                message,
            },
            None => v1::ValidateVolumeCapabilitiesResponse {
                confirmed: Some(Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                }),
                message: String::new(),
            },
        }))
    }

    async fn list_volumes(
        &self,
        request: Request<v1::ListVolumesRequest>,
    ) -> Answer<v1::ListVolumesResponse> {
        use v1::list_volumes_response::{Entry, VolumeStatus};
        let request = request.into_inner();
        let page = run(&self.0, "ListVolumes", move |driver| {
            driver.list_volumes(request.max_entries, &request.starting_token)
        })
        .await?;
        let entries = page.entries.into_iter().map(volume);
        Ok(Response::new(v1::ListVolumesResponse {
            entries: entries
                .map(|(volume, condition)| Entry {
                    volume: Some(volume),
                    status: Some(VolumeStatus {
                        published_node_ids: Vec::new(),
                        volume_condition: Some(condition),
                    }),
                })
                .collect(),
            next_token: page.next,
        }))
    }

    async fn get_capacity(
        &self,
        request: Request<v1::GetCapacityRequest>,
    ) -> Answer<v1::GetCapacityResponse> {
        let request = request.into_inner();
        let topology = request.accessible_topology.map(|t| map(t.segments));
        let asked = capabilities(request.volume_capabilities)?;
        let available = run(&self.0, "GetCapacity", move |driver| {
            // What is not offered has no room anywhere.
            if asked.iter().any(|capability| capability.check().is_err()) {
                return Ok(0);
            }
            driver.available(topology.as_ref())
        })
        .await?;
        Ok(Response::new(v1::GetCapacityResponse {
            available_capacity: signed(available),
            maximum_volume_size: None,
            minimum_volume_size: None,
        }))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<v1::ControllerGetCapabilitiesRequest>,
    ) -> Answer<v1::ControllerGetCapabilitiesResponse> {
        use v1::controller_service_capability::{Rpc, Type, rpc};
        let all = [
            rpc::Type::CreateDeleteVolume,
            rpc::Type::ListVolumes,
            rpc::Type::GetVolume,
            rpc::Type::GetCapacity,
            rpc::Type::CreateDeleteSnapshot,
            rpc::Type::ListSnapshots,
            rpc::Type::GetSnapshot,
            rpc::Type::CloneVolume,
            rpc::Type::ExpandVolume,
            rpc::Type::ModifyVolume,
            rpc::Type::VolumeCondition,
            rpc::Type::SingleNodeMultiWriter,
        ];
        Ok(Response::new(v1::ControllerGetCapabilitiesResponse {
            capabilities: all
                .into_iter()
                .map(|kind| v1::ControllerServiceCapability {
                    r#type: Some(Type::Rpc(Rpc {
                        r#type: kind as i32,
                    })),
                })
                .collect(),
        }))
    }

    async fn create_snapshot(
        &self,
        request: Request<v1::CreateSnapshotRequest>,
    ) -> Answer<v1::CreateSnapshotResponse> {
        let request = request.into_inner();
        let made = run(&self.0, "CreateSnapshot", move |driver| {
            driver.create_snapshot(&request.name, &request.source_volume_id)
        })
        .await?;
        Ok(Response::new(v1::CreateSnapshotResponse {
            snapshot: Some(snapshot(made)),
        }))
    }

    async fn delete_snapshot(
        &self,
        request: Request<v1::DeleteSnapshotRequest>,
    ) -> Answer<v1::DeleteSnapshotResponse> {
        let id = request.into_inner().snapshot_id;
        run(&self.0, "DeleteSnapshot", move |driver| {
            driver.delete_snapshot(&id)
        })
        .await?;
        Ok(Response::new(v1::DeleteSnapshotResponse {}))
    }

    async fn list_snapshots(
        &self,
        request: Request<v1::ListSnapshotsRequest>,
    ) -> Answer<v1::ListSnapshotsResponse> {
        use v1::list_snapshots_response::Entry;
        let request = request.into_inner();
        let (id, source) = (given(request.snapshot_id), given(request.source_volume_id));
        let page = run(&self.0, "ListSnapshots", move |driver| {
            driver.list_snapshots(
                id.as_deref(),
                source.as_deref(),
                request.max_entries,
                &request.starting_token,
            )
        })
        .await?;
        Ok(Response::new(v1::ListSnapshotsResponse {
            entries: page
                .entries
                .into_iter()
                .map(|found| Entry {
                    snapshot: Some(snapshot(found)),
                })
                .collect(),
            next_token: page.next,
        }))
    }

    async fn get_snapshot(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Answer<v1::GetSnapshotResponse> {
        let id = request.into_inner().snapshot_id;
        let found = run(&self.0, "GetSnapshot", move |driver| {
            driver.get_snapshot(&id)
        })
        .await?;
        Ok(Response::new(v1::GetSnapshotResponse {
            snapshot: Some(snapshot(found)),
        }))
    }

    async fn controller_expand_volume(
        &self,
        request: Request<v1::ControllerExpandVolumeRequest>,
    ) -> Answer<v1::ControllerExpandVolumeResponse> {
        let request = request.into_inner();
        let asked = range(request.capacity_range)?;
        let id = request.volume_id;
        let bytes = run(&self.0, "ControllerExpandVolume", move |driver| {
            driver.expand(&id, asked)
        })
        .await?;
        Ok(Response::new(v1::ControllerExpandVolumeResponse {
            capacity_bytes: signed(bytes),
            // The quota is the engine's, and the mount shows it at once.
            node_expansion_required: false,
        }))
    }

    async fn controller_get_volume(
        &self,
        request: Request<v1::ControllerGetVolumeRequest>,
    ) -> Answer<v1::ControllerGetVolumeResponse> {
        use v1::controller_get_volume_response::VolumeStatus;
        let id = request.into_inner().volume_id;
        let found = run(&self.0, "ControllerGetVolume", move |driver| {
            driver.get_volume(&id)
        })
        .await?;
        let abnormal = found.abnormal.clone();
        Ok(Response::new(v1::ControllerGetVolumeResponse {
            volume: Some(volume(found).0),
            status: Some(VolumeStatus {
                published_node_ids: Vec::new(),
                volume_condition: Some(condition(abnormal)),
            }),
        }))
    }

    async fn controller_modify_volume(
        &self,
        request: Request<v1::ControllerModifyVolumeRequest>,
    ) -> Answer<v1::ControllerModifyVolumeResponse> {
        let request = request.into_inner();
        let (id, mutable) = (request.volume_id, map(request.mutable_parameters));
        run(&self.0, "ControllerModifyVolume", move |driver| {
            driver.modify(&id, &mutable)
        })
        .await?;
        Ok(Response::new(v1::ControllerModifyVolumeResponse {}))
    }
}
