//! `ls` and `cat`.

use std::collections::VecDeque;

use storage_engine::{Attr, DirEntry, Epoch, NodeKind, Time, Volume};

use super::volume_options;
use super::walk::{join, text, walk};
use crate::owner::context::Context;
use crate::owner::failure::{Failure, Outcome};
use crate::owner::frame::DATA;
use crate::owner::instant::rfc3339;
use crate::owner::name::Name;
use crate::owner::output::{Event, Output};
use crate::owner::report::{About, FileRow, PathText, State};

/// Directory entries read at a time.
const BATCH: usize = 1024;

pub(super) fn ls(
    context: &Context,
    name: &Name,
    recursive: bool,
    output: &mut dyn Output,
) -> Outcome {
    let found = name.resolve(&context.engine)?;
    context.sync(found.point())?;
    let volume = context.engine.volume(found.point(), volume_options())?;
    let path = name.path_or_root();
    // As in ls(1): a link to a directory shows what is in the directory only when it ends with a slash.
    let attr = walk(&volume, path, path.ends_with(b"/")).map_err(|f| f.during(found.name()))?;
    output.begin(&About {
        state: State::found(&found),
        path: name.path.as_deref().map(PathText::from),
    })?;
    if attr.kind != NodeKind::Directory {
        return output.row(&row(&volume, path, &attr)?);
    }
    let mut open = vec![Directory::new(attr.ino, path.to_vec())];
    while let Some(directory) = open.last_mut() {
        let Some(entry) = directory.next(&volume)? else {
            open.pop();
            continue;
        };
        let path = join(&directory.path, &entry.name);
        // Removed since the directory was read: nothing to show any more.
        let attr = match volume.attr(entry.ino) {
            Ok(attr) => attr,
            Err(e)
                if matches!(
                    e.kind(),
                    storage_engine::ErrorKind::Stale | storage_engine::ErrorKind::NotFound
                ) =>
            {
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        output.row(&row(&volume, &path, &attr)?)?;
        if recursive && attr.kind == NodeKind::Directory {
            open.push(Directory::new(attr.ino, path));
        }
    }
    Ok(())
}

/// A directory that is being read, a batch at a time: memory does not grow with its size.
struct Directory {
    ino: storage_engine::Ino,
    path: Vec<u8>,
    batch: VecDeque<DirEntry>,
    after: u64,
    ended: bool,
}

impl Directory {
    fn new(ino: storage_engine::Ino, path: Vec<u8>) -> Self {
        Self {
            ino,
            path,
            batch: VecDeque::new(),
            after: 0,
            ended: false,
        }
    }

    fn next(&mut self, volume: &Volume) -> Outcome<Option<DirEntry>> {
        if self.batch.is_empty() && !self.ended {
            self.batch = volume.read_dir(self.ino, self.after, BATCH)?.into();
            match self.batch.back() {
                Some(last) => self.after = last.cookie,
                None => self.ended = true,
            }
        }
        Ok(self.batch.pop_front())
    }
}

fn row(volume: &Volume, path: &[u8], attr: &Attr) -> Outcome<FileRow> {
    let target = match attr.kind {
        NodeKind::Symlink => Some(text(&volume.read_link(attr.ino)?)),
        _ => None,
    };
    Ok(FileRow {
        path: PathText::from(path),
        kind: kind_word(attr.kind).to_owned(),
        size: attr.size,
        mode: format!("{:04o}", attr.mode),
        links: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        modified: rfc3339(epoch_of(attr.mtime)),
        inode: attr.ino.0,
        target,
    })
}

/// The word for a kind of node in answers.
pub(super) fn kind_word(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::File => "file",
        NodeKind::Directory => "directory",
        NodeKind::Symlink => "symlink",
        NodeKind::CharDevice => "charDevice",
        NodeKind::BlockDevice => "blockDevice",
        NodeKind::Fifo => "fifo",
        NodeKind::Socket => "socket",
    }
}

/// Times before 1970 are shown as 1970: an epoch has no sign.
fn epoch_of(time: Time) -> Epoch {
    Epoch(
        u64::try_from(time.secs)
            .unwrap_or(0)
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::from(time.nanos)),
    )
}

pub(super) fn cat(
    context: &Context,
    name: &Name,
    start: u64,
    length: Option<u64>,
    output: &mut dyn Output,
) -> Outcome {
    let Some(path) = &name.path else {
        return Err(Failure::usage(format!(
            "cat needs a file: {name}:/some/path"
        )));
    };
    let found = name.resolve(&context.engine)?;
    context.sync(found.point())?;
    let volume = context.engine.volume(found.point(), volume_options())?;
    let attr = walk(&volume, path, true).map_err(|f| f.during(found.name()))?;
    match attr.kind {
        NodeKind::File => {}
        NodeKind::Directory => {
            return Err(
                Failure::new("IsADirectory", format!("{name} is a directory"))
                    .then(format!("List it: `anabranch ls {name}`.")),
            );
        }
        kind => {
            return Err(Failure::new(
                "InvalidArgument",
                format!("{name} is a {}, which has no content", kind_word(kind)),
            ));
        }
    }
    if start > attr.size {
        return Err(Failure::new(
            "Range",
            format!(
                "{name} has {} bytes, so nothing starts at {start}",
                attr.size
            ),
        ));
    }
    let mut at = start;
    let end = length.map_or(u64::MAX, |length| start.saturating_add(length));
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(DATA).min(DATA);
        let bytes = volume.read(attr.ino, at, want)?;
        if bytes.is_empty() {
            break;
        }
        at += bytes.len() as u64;
        output.event(Event::Bytes(bytes))?;
    }
    Ok(())
}
