//! What each command does, once for both ways of running it.

mod browse;
mod collect;
mod history;
mod timelines;
mod tree;
mod usage;
mod versions;
mod walk;
mod write;

pub(crate) use write::empty;

use std::io::Read;

use storage_engine::VolumeOptions;

use super::command::Command;
use super::context::Context;
use super::failure::Outcome;
use super::output::Output;

/// The origin of changes made by commands: observers (mounts) are told about them.
const ORIGIN: u64 = u64::from_be_bytes(*b"commands");

/// Runs a command on a store. `input` is what follows the command. Every effect is durable when this
/// returns.
pub fn run(
    command: &Command,
    context: &Context,
    input: &mut dyn Read,
    output: &mut dyn Output,
) -> Outcome {
    match command {
        Command::Get {
            kind,
            name,
            namespace,
        } => crate::agent::get::get(
            context,
            *kind,
            name.as_deref(),
            namespace.as_deref(),
            output,
        ),
        Command::Snapshot {
            source,
            name,
            expires,
        } => timelines::snapshot(context, source, name, *expires, output),
        Command::Fork {
            source,
            names,
            read_only,
            quota_bytes,
            quota_inodes,
            expires,
        } => {
            let wish = timelines::ForkWish {
                source,
                names,
                read_only: *read_only,
                quota: storage_engine::Quota {
                    bytes: *quota_bytes,
                    inodes: *quota_inodes,
                },
                expires: *expires,
            };
            timelines::fork(context, &wish, output)
        }
        Command::Delete { name } => timelines::delete(context, name, output),
        Command::Diff { from, to, path } => {
            history::diff(context, from.as_ref(), to, path.as_deref(), output)
        }
        Command::Log { name, limit } => history::log(context, name, *limit, output),
        Command::Ls { name, recursive } => browse::ls(context, name, *recursive, output),
        Command::Cat {
            name,
            start,
            length,
        } => browse::cat(context, name, *start, *length, output),
        Command::Put {
            name,
            mode,
            uid,
            gid,
        } => write::put(
            context,
            name,
            &write::PutWish {
                mode: *mode,
                uid: *uid,
                gid: *gid,
            },
            input,
            output,
        ),
        Command::Rm {
            names,
            recursive,
            force,
        } => write::rm(context, names, *recursive, *force, output),
        Command::Restore { name, to } => timelines::restore(context, name, to, output),
        Command::Check => usage::check(context, output),
        Command::Verify { name, digest } => usage::verify(context, name, digest.as_deref(), output),
        Command::Scrub { rate } => usage::scrub(context, *rate, output),
        Command::Gc { dry_run, full } => collect::gc(context, *dry_run, *full, output),
        Command::Du { names, namespace } => usage::du(context, names, namespace.as_deref(), output),
        Command::Tree { name, namespace } => {
            tree::tree(context, name.as_ref(), namespace.as_deref(), output)
        }
        Command::Stop { .. } => context.host.stop(),
    }
}

fn volume_options() -> VolumeOptions {
    VolumeOptions { origin: ORIGIN }
}
