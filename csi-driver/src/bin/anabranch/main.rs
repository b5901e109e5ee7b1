//! `anabranch`: plays manifests on this machine, and works on the timelines of a store.

mod cat;
mod check;
mod delete;
mod diff;
mod du;
mod exit;
mod fork;
mod gc;
mod get;
mod log;
mod ls;
mod play;
mod progress;
mod put;
mod restore;
mod rm;
mod screen;
mod scrub;
mod session;
mod snapshot;
mod stop;
mod tree;
mod verify;

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use csi_driver::owner::Failure;

use session::Session;

/// Timelines of a dataset: fork it, write into the forks, compare and restore.
#[derive(Parser)]
#[command(
    name = "anabranch",
    version,
    about,
    max_term_width = 100,
    after_help = "\
Names: base, bucket/base, fork/agent-0, snapshot/base-v1; with @TIME or @EPOCH or @-10m for a past instant, \
and :/path for a file in it.\n\
Exit status: 0 done, 1 error, 2 usage, 3 differences (diff --exit-code), 4 damage found (check, scrub, verify)."
)]
struct Cli {
    /// The data directory of the store.
    #[arg(
        long,
        global = true,
        env = "ANABRANCH_DATA",
        default_value = "anabranch-data",
        value_name = "DIR"
    )]
    data: PathBuf,
    /// The namespace of names that do not say one.
    #[arg(
        short,
        long,
        global = true,
        env = "ANABRANCH_NAMESPACE",
        default_value = "default",
        value_name = "NAMESPACE"
    )]
    namespace: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make real what manifests ask for, mount the forks, and follow the manifests.
    Play(play::Play),
    /// List objects with their status.
    Get(get::Get),
    /// Draw the timelines with their snapshots.
    Tree(tree::Tree),
    /// Show the history of a timeline, or the versions of a file in it.
    Log(log::Log),
    /// Show what differs between two states.
    Diff(diff::Diff),
    /// Count bytes and inodes of timelines.
    Du(du::Du),
    /// Pin the state of a bucket or a fork under a name.
    Snapshot(snapshot::Snapshot),
    /// Start one or several timelines from a state.
    Fork(fork::Fork),
    /// Point a bucket or a fork at an earlier state; what was there stays as history.
    Restore(restore::Restore),
    /// Delete a fork or a snapshot that was made by command.
    Delete(delete::Delete),
    /// List files.
    Ls(ls::Ls),
    /// Write a file to the standard output.
    Cat(cat::Cat),
    /// Put a file into a timeline.
    Put(put::Put),
    /// Remove files.
    Rm(rm::Rm),
    /// Verify the whole store.
    Check(check::Check),
    /// Read everything that is stored, and name what is damaged.
    Scrub(scrub::Scrub),
    /// Prove that the history up to a snapshot is what was written.
    Verify(verify::Verify),
    /// Give back the space of what nothing needs any more, and show what is kept why.
    Gc(gc::Gc),
    /// End the `anabranch play` that owns the store.
    Stop(stop::Stop),
}

fn main() {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("ANABRANCH_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let session = Session::new(cli.data, cli.namespace);
    let outcome = match &cli.command {
        Command::Play(command) => command.run(&session),
        Command::Get(command) => command.run(&session),
        Command::Tree(command) => command.run(&session),
        Command::Log(command) => command.run(&session),
        Command::Diff(command) => command.run(&session),
        Command::Du(command) => command.run(&session),
        Command::Snapshot(command) => command.run(&session),
        Command::Fork(command) => command.run(&session),
        Command::Restore(command) => command.run(&session),
        Command::Delete(command) => command.run(&session),
        Command::Ls(command) => command.run(&session),
        Command::Cat(command) => command.run(&session),
        Command::Put(command) => command.run(&session),
        Command::Rm(command) => command.run(&session),
        Command::Check(command) => command.run(&session),
        Command::Scrub(command) => command.run(&session),
        Command::Verify(command) => command.run(&session),
        Command::Gc(command) => command.run(&session),
        Command::Stop(command) => command.run(&session),
    };
    let status = match outcome {
        Ok(()) => 0,
        Err(failure) => fail(&failure),
    };
    exit::now(status)
}

/// Says what went wrong and what to do next, and chooses the exit status.
fn fail(failure: &Failure) -> u8 {
    match failure.reason.as_str() {
        // The reader of our output has seen enough: as quiet as a program that SIGPIPE ends.
        "Pipe" => return 141,
        "Differences" => {}
        _ => {
            eprintln!("anabranch: {failure}");
            if let Some(next) = &failure.next {
                eprintln!("  {next}");
            }
        }
    }
    failure.exit_code()
}
