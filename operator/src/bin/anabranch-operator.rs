//! The operator of a cluster: places, expires, protects, makes claims. Opens no store.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use operator::cluster::controller::{self, Settings};
use operator::cluster::http::{self, Health};
use operator::cluster::leader::Candidate;
use operator::cluster::metrics::Metrics;
use operator::cluster::signals;
use operator::cluster::uninstall::uninstall;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Parser)]
#[command(
    name = "anabranch-operator",
    version,
    about = "The operator of Anabranch in a Kubernetes cluster."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Namespace of the operator: of its leader lease, and of the leases of the node agents.
    #[arg(long, env = "POD_NAMESPACE", default_value = "anabranch-system")]
    namespace: String,
    /// Who this is in the leader lease: the name of the pod.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// How long a leader lease lasts without a renewal, in seconds.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=3600))]
    lease_seconds: u64,
    /// How long the deletion of an object waits for a node that does not answer, in seconds.
    #[arg(long, default_value_t = 600)]
    silent_node_seconds: u64,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: std::net::SocketAddr,
    /// Form of the log.
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Json,
    Text,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ends the operator and takes our finalizer off every object, so that nothing is left stuck after an uninstall. The data
    /// stays on the nodes.
    Uninstall {
        /// How long an operator may take to end before its lease is taken from it, in seconds.
        #[arg(long, default_value_t = 60)]
        operator_seconds: u64,
        /// When to give up, in seconds.
        #[arg(long, default_value_t = 540)]
        within_seconds: u64,
    },
}

/// Name of the leader lease.
const LEASE: &str = "anabranch-operator";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter =
        EnvFilter::try_from_env("ANABRANCH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => log.init(),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(failure) => return failed("cannot start", &failure),
    };
    let code = runtime.block_on(run(arguments));
    // Watches never end by themselves.
    runtime.shutdown_background();
    code
}

async fn run(arguments: Arguments) -> ExitCode {
    let client = match kube::Client::try_default().await {
        Ok(client) => client,
        Err(failure) => return failed("cannot reach the API server", &failure),
    };
    if let Some(Command::Uninstall {
        operator_seconds,
        within_seconds,
    }) = arguments.command
    {
        let candidate = Candidate {
            leases: kube::Api::namespaced(client.clone(), &arguments.namespace),
            name: LEASE.to_owned(),
            identity: format!("uninstall-{}", jiff::Timestamp::now().as_nanosecond()),
            lasts: Duration::from_secs(arguments.lease_seconds),
        };
        let patience = Duration::from_secs(operator_seconds);
        let all = uninstall(client, &arguments.namespace, &candidate, patience);
        return match tokio::time::timeout(Duration::from_secs(within_seconds), all).await {
            Ok(Ok(released)) => {
                tracing::info!(released, "took the finalizer off every object");
                ExitCode::SUCCESS
            }
            Ok(Err(failure)) => failed("cannot take the finalizers off", &failure),
            Err(late) => failed("could not take all finalizers off in time", &late),
        };
    }
    let listener = match tokio::net::TcpListener::bind(arguments.listen).await {
        Ok(listener) => listener,
        Err(failure) => return failed("cannot listen for /metrics", &failure),
    };
    let identity = arguments
        .identity
        .unwrap_or_else(|| format!("anabranch-operator-{}", std::process::id()));
    let settings = Settings {
        namespace: arguments.namespace,
        lease: LEASE.to_owned(),
        identity,
        lease_lasts: Duration::from_secs(arguments.lease_seconds),
        patience: Duration::from_secs(arguments.silent_node_seconds),
    };
    let (metrics, health) = (Metrics::new("operator"), Arc::new(Health::default()));
    tokio::spawn(http::serve(listener, health.clone(), metrics.clone()));
    let end = signals::end();
    controller::run(client, settings, metrics, health, end.clone()).await;
    // It also ends when it leads no more, and is to be started anew then.
    if *end.borrow() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn failed(what: &str, failure: &dyn std::error::Error) -> ExitCode {
    tracing::error!(failure = %failure, "{what}");
    ExitCode::FAILURE
}
