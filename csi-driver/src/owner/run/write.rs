//! `put` and `rm`.

use std::io::{self, Read};

use storage_engine::{
    Attr, Caller, ErrorKind, Ino, NewNode, NodeKind, RenameMode, Volume, WriteOptions,
};

use super::volume_options;
use super::walk::{split_last, text, walk};
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

/// Writes the whole input into a file that nobody sees, then gives it its name: readers see the old content
/// or the new one, and a put that is cut off leaves nothing behind.
pub(super) fn put(
    context: &Context,
    name: &Name,
    wish: &PutWish,
    input: &mut dyn Read,
    output: &mut dyn Output,
) -> Outcome {
    let Some((directory, last)) = name.path.as_deref().and_then(split_last) else {
        return Err(Failure::usage(format!(
            "put needs a file: {}:/some/path",
            name.name
        )));
    };
    let path = name.path_or_root();
    if path.ends_with(b"/") {
        return Err(Failure::usage(format!(
            "put needs a file, and {} ends with a slash",
            text(path)
        )));
    }
    let (timeline, volume) = writable(context, name, "put")?;
    let caller = Caller {
        uid: wish.uid,
        gid: wish.gid,
        ..Caller::default()
    };
    let parent = make_directories(&volume, &caller, &directory)?;
    let before = present(volume.lookup(parent, &last))?;
    if before
        .as_ref()
        .is_some_and(|attr| attr.kind == NodeKind::Directory)
    {
        return Err(Failure::new(
            "IsADirectory",
            format!("{name} is a directory"),
        ));
    }
    let old = before.as_ref().map(|attr| attr.ino);
    let replaced = before.filter(|attr| attr.kind == NodeKind::File);
    let mode = wish
        .mode
        .or(replaced.as_ref().map(|attr| attr.mode))
        .unwrap_or(0o644);
    let owner = match &replaced {
        Some(attr) => Caller {
            uid: attr.uid,
            gid: attr.gid,
            ..Caller::default()
        },
        None => caller,
    };
    let file = volume.create_unlinked(&owner, parent, mode)?;
    let written = fill(&volume, &owner, file.ino, input).and_then(|size| {
        give_name(&volume, &owner, file.ino, parent, &last)?;
        Ok(size)
    });
    let size = match written {
        Ok(size) => size,
        Err(failure) => {
            let _ = volume.reap(file.ino);
            return Err(failure.during(format_args!("put {name}")));
        }
    };
    if let Some(old) = old {
        reap(
            context.host.mounts(volume.timeline()).is_empty(),
            &volume,
            old,
        )?;
    }
    volume.fsync(file.ino)?;
    context.host.settle(volume.timeline());
    output.begin(&PutAnswer {
        timeline,
        path: PathText::from(path),
        size,
        replaced: replaced.is_some(),
    })
}

fn fill(volume: &Volume, caller: &Caller, ino: Ino, input: &mut dyn Read) -> Outcome<u64> {
    let mut buffer = vec![0; DATA];
    let mut size = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(host("read the input", &e)),
            }
        }
        let mut at = 0;
        while at < filled {
            let n = volume.write(
                caller,
                ino,
                size,
                &buffer[at..filled],
                WriteOptions::default(),
            )?;
            if n == 0 {
                return Err(Failure::new("Io", "nothing more could be written"));
            }
            (at, size) = (at + n, size + n as u64);
        }
        if filled < buffer.len() {
            return Ok(size);
        }
    }
}

/// Names an unlinked file, in the place of what has the name now.
fn give_name(volume: &Volume, caller: &Caller, ino: Ino, parent: Ino, name: &[u8]) -> Outcome {
    match volume.link(caller, ino, parent, name) {
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e.into()),
    }
    let passing = format!(".anabranch-put-{}-{}", std::process::id(), ino.0);
    volume.link(caller, ino, parent, passing.as_bytes())?;
    if let Err(error) = volume.rename(
        caller,
        parent,
        passing.as_bytes(),
        parent,
        name,
        RenameMode::Replace,
    ) {
        let _ = volume.unlink(caller, parent, passing.as_bytes());
        return Err(error.into());
    }
    Ok(())
}

fn make_directories(volume: &Volume, caller: &Caller, path: &[u8]) -> Outcome<Ino> {
    match walk(volume, path, true) {
        Ok(attr) if attr.kind == NodeKind::Directory => return Ok(attr.ino),
        Ok(_) => {
            return Err(Failure::new(
                "NotADirectory",
                format!("{} is not a directory", text(path)),
            ));
        }
        Err(failure) if failure.reason == "NotFound" => {}
        Err(failure) => return Err(failure),
    }
    let Some((above, last)) = split_last(path) else {
        return Ok(Ino::ROOT);
    };
    let parent = make_directories(volume, caller, &above)?;
    let new = NewNode {
        kind: NodeKind::Directory,
        mode: 0o755,
        rdev: 0,
        target: b"",
    };
    match volume.create(caller, parent, &last, &new) {
        Ok(attr) => Ok(attr.ino),
        // Somebody else made it meanwhile, or it is a link that leads nowhere.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(walk(volume, path, true)?.ino),
        Err(e) => Err(e.into()),
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
            remove_tree(alone, &volume, parent.ino, &last, attr.ino)?
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
    parent: Ino,
    name: &[u8],
    directory: Ino,
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

/// Removes everything from a timeline that nobody has mounted.
pub(crate) fn empty(volume: &Volume) -> Outcome {
    let caller = Caller::default();
    loop {
        let batch = volume.read_dir(Ino::ROOT, 0, BATCH)?;
        if batch.is_empty() {
            return Ok(());
        }
        for entry in batch {
            if entry.kind == NodeKind::Directory {
                remove_tree(true, volume, Ino::ROOT, &entry.name, entry.ino)?;
            } else {
                volume.unlink(&caller, Ino::ROOT, &entry.name)?;
                reap(true, volume, entry.ino)?;
            }
        }
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

fn present(result: storage_engine::Result<Attr>) -> Outcome<Option<Attr>> {
    crate::owner::name::present(result)
}
