//! What cannot run on every node: the resizer asks one driver for all volumes. It has no store, and needs none: the node of a
//! volume sets the quota when the kubelet asks it to (NodeExpandVolume), and changes other attributes when the volume's
//! object asks it to ([`crate::agent::modify`]).

use tonic::{Request, Response};

use super::convert::{Answer, map, range, signed};
use super::v1::{self, controller_server, identity_server};
use crate::agent::modify;
use crate::csi::{CsiError, DRIVER_NAME, VolumeId};

/// The identity service of the central driver.
pub(super) struct CentralIdentity;

/// The controller service of the central driver.
pub(super) struct CentralController(pub kube::Client);

#[tonic::async_trait]
impl identity_server::Identity for CentralIdentity {
    async fn get_plugin_info(
        &self,
        _: Request<v1::GetPluginInfoRequest>,
    ) -> Answer<v1::GetPluginInfoResponse> {
        Ok(Response::new(v1::GetPluginInfoResponse {
            name: DRIVER_NAME.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: Default::default(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<v1::GetPluginCapabilitiesRequest>,
    ) -> Answer<v1::GetPluginCapabilitiesResponse> {
        use v1::plugin_capability::{Service, Type, VolumeExpansion, service, volume_expansion};
        let all = [
            Type::Service(Service {
                r#type: service::Type::ControllerService as i32,
            }),
            Type::VolumeExpansion(VolumeExpansion {
                r#type: volume_expansion::Type::Online as i32,
            }),
        ];
        Ok(Response::new(v1::GetPluginCapabilitiesResponse {
            capabilities: all
                .into_iter()
                .map(|kind| v1::PluginCapability { r#type: Some(kind) })
                .collect(),
        }))
    }

    async fn probe(&self, _: Request<v1::ProbeRequest>) -> Answer<v1::ProbeResponse> {
        Ok(Response::new(v1::ProbeResponse { ready: Some(true) }))
    }
}

#[tonic::async_trait]
impl controller_server::Controller for CentralController {
    async fn controller_get_capabilities(
        &self,
        _: Request<v1::ControllerGetCapabilitiesRequest>,
    ) -> Answer<v1::ControllerGetCapabilitiesResponse> {
        use v1::controller_service_capability::{Rpc, Type, rpc};
        Ok(Response::new(v1::ControllerGetCapabilitiesResponse {
            capabilities: [rpc::Type::ExpandVolume, rpc::Type::ModifyVolume]
                .into_iter()
                .map(|kind| v1::ControllerServiceCapability {
                    r#type: Some(Type::Rpc(Rpc {
                        r#type: kind as i32,
                    })),
                })
                .collect(),
        }))
    }

    /// Says that the node is to do it. Sizes that cannot be are refused here, before anybody counts on them.
    async fn controller_expand_volume(
        &self,
        request: Request<v1::ControllerExpandVolumeRequest>,
    ) -> Answer<v1::ControllerExpandVolumeResponse> {
        let request = request.into_inner();
        let asked = range(request.capacity_range)?;
        if request.volume_id.is_empty() {
            return Err(CsiError::invalid("the volume id is missing").into());
        }
        if VolumeId::parse(&request.volume_id).is_none() {
            let why = format!("{:?} is no volume of this driver", request.volume_id);
            return Err(CsiError::not_found(why).into());
        }
        if asked.required == 0 {
            return Err(CsiError::invalid("the required size is missing").into());
        }
        Ok(Response::new(v1::ControllerExpandVolumeResponse {
            capacity_bytes: signed(asked.required),
            node_expansion_required: true,
        }))
    }

    async fn controller_modify_volume(
        &self,
        request: Request<v1::ControllerModifyVolumeRequest>,
    ) -> Answer<v1::ControllerModifyVolumeResponse> {
        let request = request.into_inner();
        let attributes = map(request.mutable_parameters);
        modify::ask(&self.0, &request.volume_id, &attributes).await?;
        Ok(Response::new(v1::ControllerModifyVolumeResponse {}))
    }
}
