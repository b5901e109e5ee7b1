//! The server on a unix socket.

use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::Router;

use super::central::{CentralController, CentralIdentity};
use super::controller::Controller;
use super::group_controller::GroupController;
use super::identity::Identity;
use super::node::Node;
use super::v1::controller_server::ControllerServer;
use super::v1::group_controller_server::GroupControllerServer;
use super::v1::identity_server::IdentityServer;
use super::v1::node_server::NodeServer;
use crate::csi::Driver;

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The endpoint is no path of a unix socket.
    #[error("{0:?} is no endpoint; it is written unix:///path/of/the.sock")]
    Endpoint(String),
    /// Another process listens on it.
    #[error("another process listens on {}; is a driver running already?", .0.display())]
    InUse(PathBuf),
    /// There is something else at its place.
    #[error("{} is there and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("cannot listen on {}: {error}", .path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Serving ended with an error.
    #[error("serving the socket failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves the driver at `endpoint` (`unix:///path`) until `stop` is ready; calls under way are answered first.
///
/// # Errors
/// Why the socket cannot be made or served.
pub async fn serve(
    driver: Driver,
    endpoint: &str,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let router = Server::builder()
        .add_service(IdentityServer::new(Identity(driver.clone())))
        .add_service(ControllerServer::new(Controller(driver.clone())))
        .add_service(GroupControllerServer::new(GroupController(driver.clone())))
        .add_service(NodeServer::new(Node(driver)));
    serve_at(router, endpoint, stop).await
}

/// Serves the driver for what no node's can, the resizer, in the same way.
///
/// # Errors
/// As [`serve`].
pub async fn serve_central(
    client: kube::Client,
    endpoint: &str,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let router = Server::builder()
        .add_service(IdentityServer::new(CentralIdentity))
        .add_service(ControllerServer::new(CentralController(client)));
    serve_at(router, endpoint, stop).await
}

async fn serve_at(
    router: Router,
    endpoint: &str,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let path = endpoint
        .strip_prefix("unix://")
        .or_else(|| endpoint.strip_prefix("unix:"))
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .ok_or_else(|| ServeError::Endpoint(endpoint.to_owned()))?;
    let listener = listen(&path)?;
    let served = router
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await;
    let _ = std::fs::remove_file(&path);
    Ok(served?)
}

/// Listens, replacing the socket that a predecessor has left. Only root may connect.
fn listen(path: &Path) -> Result<UnixListener, ServeError> {
    let system = |error| ServeError::System {
        path: path.to_owned(),
        error,
    };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServeError::NotASocket(path.to_owned()));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(ServeError::InUse(path.to_owned()));
        }
        Ok(_) => std::fs::remove_file(path).map_err(system)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(system(error)),
    }
    let listener = UnixListener::bind(path).map_err(system)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(system)?;
    Ok(listener)
}
