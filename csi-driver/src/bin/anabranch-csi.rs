//! What runs on every node of a cluster: the agent that makes the node's objects real.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use csi_driver::agent::node::{self, Settings};
use csi_driver::owner::Alone;
use operator::cluster::http::{self, Health};
use operator::cluster::metrics::Metrics;
use storage_engine::{Engine, GcSchedule, Options};
use tracing_subscriber::EnvFilter;

#[derive(Debug, Parser)]
#[command(
    name = "anabranch-csi",
    version,
    about = "The parts of Anabranch that run on the nodes of a cluster."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Form of the log.
    #[arg(long, value_enum, default_value_t = LogFormat::Json, global = true)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Json,
    Text,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The agent of this node: owns its store, and makes what the custom resources placed on it ask for.
    Node(NodeArguments),
}

#[derive(Debug, clap::Args)]
struct NodeArguments {
    /// Name of this node, as the API server has it.
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// Namespace of the operator.
    #[arg(long, env = "POD_NAMESPACE", default_value = "anabranch-system")]
    namespace: String,
    /// Name of this pod.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// The data directory of the store.
    #[arg(long)]
    data: PathBuf,
    /// A directory of this node below which sources of buckets may lie. Without one, none may.
    #[arg(long = "import-root")]
    import_roots: Vec<PathBuf>,
    /// How long the lease of this agent lasts without a renewal, in seconds.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(2..=3600))]
    lease_seconds: u64,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, default_value = "0.0.0.0:8081")]
    listen: std::net::SocketAddr,
}

fn main() {
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
    let status = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let Command::Node(arguments) = arguments.command;
            runtime.block_on(run(arguments))
        }
        Err(failure) => failed("cannot start", &failure),
    };
    // What is to last is durable by now. Watches never end by themselves, and `exit(3)` would destroy the global objects of
    // RocksDB while a thread may still let go of the store, which aborts the process.
    // SAFETY: it takes a number, and nothing comes after it.
    unsafe { libc::_exit(status) }
}

async fn run(arguments: NodeArguments) -> i32 {
    let data = arguments.data.clone();
    let open = || {
        let options = Options {
            gc: Some(GcSchedule::default()),
            ..Options::default()
        };
        Engine::open(data, options)
    };
    let engine = match tokio::task::spawn_blocking(open).await {
        Ok(Ok(engine)) => engine,
        Ok(Err(failure)) => return failed("cannot open the store", &failure),
        Err(failure) => return failed("cannot open the store", &failure),
    };
    let client = match kube::Client::try_default().await {
        Ok(client) => client,
        Err(failure) => return failed("cannot reach the API server", &failure),
    };
    let listener = match tokio::net::TcpListener::bind(arguments.listen).await {
        Ok(listener) => listener,
        Err(failure) => return failed("cannot listen for /metrics", &failure),
    };
    let settings = Settings {
        identity: arguments.identity.unwrap_or_else(|| arguments.node.clone()),
        node: arguments.node,
        namespace: arguments.namespace,
        lease_lasts: Duration::from_secs(arguments.lease_seconds),
        import_roots: arguments.import_roots,
    };
    let (metrics, health) = (Metrics::new("node"), Arc::new(Health::default()));
    tokio::spawn(http::serve(listener, health.clone(), metrics.clone()));
    let (stop, end) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        wait_for_signal().await;
        stop.send_replace(true);
    });
    let outcome = node::run(
        client,
        engine.clone(),
        Arc::new(Alone),
        settings,
        metrics,
        health,
        end,
    )
    .await;
    let closed = tokio::task::spawn_blocking(move || engine.close()).await;
    if let Err(failure) = outcome {
        return failed("cannot go on", &failure);
    }
    match closed {
        Ok(Ok(())) => 0,
        Ok(Err(failure)) => failed(
            "cannot close the store in order; the next start recovers it",
            &failure,
        ),
        Err(failure) => failed(
            "cannot close the store in order; the next start recovers it",
            &failure,
        ),
    }
}

async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without a handler a signal ends the process, and the store recovers at the next start.
        _ => std::future::pending().await,
    }
}

fn failed(what: &str, failure: &dyn std::error::Error) -> i32 {
    tracing::error!(failure = %failure, "{what}");
    1
}
