//! `put` and `rm`.

use std::io::{self, Read};
use std::ops::ControlFlow;

use storage_engine::objects::{ObjectWriter, PutOptions};
use storage_engine::{Caller, Durability, ErrorKind, Ino, NodeKind, Volume};

use super::volume_options;
use super::walk::{canonical, split_last, text, walk};
use crate::owner::context::Context;
use crate::owner::failure::{Failure, Outcome, host};
use crate::owner::frame::DATA;
use crate::owner::name::{Kind, Name};
use crate::owner::output::Output;
use crate::owner::report::{PathText, PutAnswer, Reference, RemovedRow};

/// Directory entries read at a time.
const BATCH: usize = 1024;

/// How a new file is to be.
pub(super) struct PutWish {
    pub mode: Option<u32>,
    pub uid: u32,
    pub gid: u32,
}

/// Puts the whole input as one object: readers see the old content or the new one, and a put that is cut off, at
/// whatever point, leaves nothing behind, neither a file nor a directory.
pub(super) fn put(
    context: &Context,
    name: &Name,
    wish: &PutWish,
    input: &mut dyn Read,
    output: &mut dyn Output,
) -> Outcome {
    let written = name.path_or_root();
    if name.path.as_deref().and_then(split_last).is_none() {
        return Err(Failure::usage(format!(
            "put needs a file: {}:/some/path",
            name.name
        )));
    }
    if written.ends_with(b"/") {
        return Err(Failure::usage(format!(
            "put needs a file, and {} ends with a slash",
            text(written)
        )));
    }
    let (timeline, volume) = writable(context, name, "put")?;
    let (path, before) = canonical(&volume, written)?;
    if before == Some(NodeKind::Directory) {
        return Err(Failure::new(
            "IsADirectory",
            format!("{name} is a directory"),
        ));
    }
    let key = std::str::from_utf8(path.strip_prefix(b"/").unwrap_or(&path)).map_err(|_| {
        Failure::new(
            "InvalidArgument",
            format!("{}: put takes paths that are UTF-8", text(&path)),
        )
        .then("Write a file with another name through a mount.")
    })?;
    let replaced = before == Some(NodeKind::File);
    let options = PutOptions {
        mode: wish.mode,
        uid: (!replaced).then_some(wish.uid),
        gid: (!replaced).then_some(wish.gid),
        durability: Durability::Local,
        ..PutOptions::default()
    };
    let mut writer = volume.objects().put_stream(key, options)?;
    let size = fill(&mut writer, input)
        .and_then(|size| {
            writer.finish()?;
            Ok(size)
        })
        .map_err(|failure| failure.during(format_args!("put {name}")))?;
    context.host.settle(volume.timeline());
    output.begin(&PutAnswer {
        timeline,
        path: PathText::from(written),
        size,
        replaced,
    })
}

fn fill(writer: &mut ObjectWriter<'_>, input: &mut dyn Read) -> Outcome<u64> {
    let mut buffer = vec![0; DATA];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(writer.size()),
            Ok(n) => writer.add(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(host("read the input", &e)),
        }
    }
}

pub(super) fn rm(
    context: &Context,
    names: &[Name],
    recursive: bool,
    force: bool,
    output: &mut dyn Output,
) -> Outcome {
    for name in names {
        let Some(path) = &name.path else {
            let mut failure = Failure::usage(format!("rm removes files: {name}:/some/path"));
            if name.kind != Some(Kind::Bucket) {
                failure = failure.then(format!(
                    "To delete all of {name}: `anabranch delete {name}`."
                ));
            }
            return Err(failure);
        };
        let Some((directory, last)) = split_last(path) else {
            return Err(Failure::usage(format!(
                "the root of {} cannot be removed",
                name.name
            )));
        };
        let (timeline, volume) = writable(context, name, "rm")?;
        let alone = context.host.mounts(volume.timeline()).is_empty();
        let found = walk(&volume, &directory, true).and_then(|parent| {
            let attr = volume
                .lookup(parent.ino, &last)
                .map_err(|e| match e.kind() {
                    ErrorKind::NotFound => Failure::not_found(format!("{name} does not exist")),
                    _ => Failure::from(e),
                })?;
            Ok((parent, attr))
        });
        let (parent, attr) = match found {
            Ok(found) => found,
            Err(failure) if force && failure.reason == "NotFound" => continue,
            Err(failure) => return Err(failure),
        };
        let removed = if attr.kind == NodeKind::Directory {
            if !recursive {
                return Err(
                    Failure::new("IsADirectory", format!("{name} is a directory"))
                        .then("Add -r to remove it with everything in it."),
                );
            }
            let go_on = || ControlFlow::Continue(());
            remove_tree(alone, &volume, (parent.ino, &last), attr.ino, &go_on)?
        } else {
            volume.unlink(&Caller::default(), parent.ino, &last)?;
            reap(alone, &volume, attr.ino)?;
            1
        };
        volume.sync()?;
        context.host.settle(volume.timeline());
        output.row(&RemovedRow {
            timeline,
            path: PathText::from(path.as_slice()),
            removed,
        })?;
    }
    Ok(())
}

/// Removes a directory and everything below it, deepest first, with memory for one batch per level.
fn remove_tree(
    alone: bool,
    volume: &Volume,
    (parent, name): (Ino, &[u8]),
    directory: Ino,
    go_on: &dyn Fn() -> ControlFlow<()>,
) -> Outcome<u64> {
    let caller = Caller::default();
    let mut removed = 0;
    // (where the directory's name stands, its name, itself)
    let mut open = vec![(parent, name.to_vec(), directory)];
    while let Some((parent, name, directory)) = open.last().cloned() {
        let batch = volume.read_dir(directory, 0, BATCH)?;
        if batch.is_empty() {
            volume.rmdir(&caller, parent, &name)?;
            reap(alone, volume, directory)?;
            removed += 1;
            open.pop();
            continue;
        }
        for entry in batch {
            check(go_on)?;
            if entry.kind == NodeKind::Directory {
                open.push((directory, entry.name, entry.ino));
                break;
            }
            match volume.unlink(&caller, directory, &entry.name) {
                Ok(()) => {
                    removed += 1;
                    reap(alone, volume, entry.ino)?;
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(removed)
}

/// Removes everything from a timeline that nobody has mounted, unless it is told to stop.
pub(crate) fn empty(volume: &Volume, go_on: &dyn Fn() -> ControlFlow<()>) -> Outcome {
    let caller = Caller::default();
    loop {
        let batch = volume.read_dir(Ino::ROOT, 0, BATCH)?;
        if batch.is_empty() {
            return Ok(());
        }
        for entry in batch {
            if entry.kind == NodeKind::Directory {
                remove_tree(true, volume, (Ino::ROOT, &entry.name), entry.ino, go_on)?;
            } else {
                check(go_on)?;
                volume.unlink(&caller, Ino::ROOT, &entry.name)?;
                reap(true, volume, entry.ino)?;
            }
        }
    }
}

fn check(go_on: &dyn Fn() -> ControlFlow<()>) -> Outcome {
    match go_on() {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Failure::new("Unavailable", "it was stopped in the middle")),
    }
}

/// An inode whose last name went away goes too; where the timeline is mounted, a program may have it open, and
/// the kernel's forgetting removes it.
fn reap(alone: bool, volume: &Volume, ino: Ino) -> Outcome {
    if alone {
        match volume.reap(ino) {
            Err(e) if !matches!(e.kind(), ErrorKind::Stale | ErrorKind::NotFound) => {
                return Err(e.into());
            }
            _ => {}
        }
    }
    Ok(())
}

fn writable(context: &Context, name: &Name, what: &str) -> Outcome<(Reference, Volume)> {
    let info = name.resolve_timeline(&context.engine, what)?;
    context.host.sync(info.id)?;
    let volume = context
        .engine
        .volume(storage_engine::Point::Now(info.id), volume_options())?;
    if volume.read_only() {
        return Err(storage_engine::Error::new(
            ErrorKind::ReadOnly,
            format!("{} is read-only", Reference::timeline(&info).short()),
        )
        .into());
    }
    Ok((Reference::timeline(&info), volume))
}
