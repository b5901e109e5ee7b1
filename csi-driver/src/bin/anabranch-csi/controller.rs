//! `anabranch-csi controller`.

use csi_driver::grpc;
use operator::cluster::signals;

use crate::failed;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where the sidecars find the driver.
    #[arg(long, value_name = "unix:///PATH")]
    csi_socket: String,
}

pub async fn run(arguments: Arguments) -> i32 {
    let mut end = signals::end();
    let client = match kube::Client::try_default().await {
        Ok(client) => client,
        Err(failure) => return failed("cannot reach the API server", &failure),
    };
    tracing::info!(socket = arguments.csi_socket, "serves");
    let stop = async move {
        // An error means that nobody can say any more when to end.
        let _ = end.wait_for(|end| *end).await;
    };
    match grpc::serve_central(client, &arguments.csi_socket, stop).await {
        Ok(()) => 0,
        Err(failure) => failed("cannot serve", &failure),
    }
}
