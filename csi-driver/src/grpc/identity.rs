//! Who we are and whether we can serve.

use tonic::{Request, Response};

use super::convert::{Answer, run};
use super::v1::{self, identity_server};
use crate::csi::{DRIVER_NAME, Driver};

/// The identity service.
pub(super) struct Identity(pub Driver);

#[tonic::async_trait]
impl identity_server::Identity for Identity {
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
        use v1::plugin_capability::{
            self, Service, Type, VolumeExpansion, service, volume_expansion,
        };
        let service = |kind: service::Type| {
            Type::Service(Service {
                r#type: kind as i32,
            })
        };
        let expansion = Type::VolumeExpansion(VolumeExpansion {
            r#type: volume_expansion::Type::Online as i32,
        });
        let all: [plugin_capability::Type; 4] = [
            service(service::Type::ControllerService),
            service(service::Type::VolumeAccessibilityConstraints),
            service(service::Type::GroupControllerService),
            expansion,
        ];
        Ok(Response::new(v1::GetPluginCapabilitiesResponse {
            capabilities: all
                .into_iter()
                .map(|kind| v1::PluginCapability { r#type: Some(kind) })
                .collect(),
        }))
    }

    async fn probe(&self, _: Request<v1::ProbeRequest>) -> Answer<v1::ProbeResponse> {
        let ready = run(&self.0, "Probe", |driver| Ok(driver.ready())).await?;
        Ok(Response::new(v1::ProbeResponse { ready: Some(ready) }))
    }
}
