//! What runs on the nodes of a cluster: the agent of a node with its volumes, and the central part of the driver.

mod controller;
mod node;

use clap::{Parser, Subcommand, ValueEnum};
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
    /// The agent of this node: owns its store, makes what the custom resources placed on it ask for, and serves its volumes.
    Node(Box<node::Arguments>),
    /// What cannot run on every node: answers the resizer. Opens no store.
    Controller(controller::Arguments),
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
        Ok(runtime) => match arguments.command {
            Command::Node(arguments) => runtime.block_on(node::run(*arguments)),
            Command::Controller(arguments) => runtime.block_on(controller::run(arguments)),
        },
        Err(failure) => failed("cannot start", &failure),
    };
    // What is to last is durable by now. Watches never end by themselves, and `exit(3)` would destroy the global objects of
    // RocksDB while a thread may still let go of the store, which aborts the process.
    // SAFETY: it takes a number, and nothing comes after it.
    unsafe { libc::_exit(status) }
}

/// Logs why this process ends, and gives its exit status.
fn failed(what: &str, failure: &dyn std::error::Error) -> i32 {
    tracing::error!(failure = %failure, "{what}");
    1
}
