//! Bringing an existing tree into an empty timeline, many files to a commit.
//!
//! An import is not atomic: after a crash in the middle the timeline holds a part of the tree. Callers
//! mark a timeline as complete when the import has returned, and drop one that has no such mark.

mod builder;
mod directory;
mod source;
mod tar;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use crate::error::{Error, ErrorKind, Result};
use crate::files::Volume;
use crate::ids::Ino;

/// How far an import is, and at the end what was imported.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportProgress {
    /// Files, directories and others so far.
    pub entries: u64,
    /// Bytes of file data so far.
    pub bytes: u64,
    /// How far the source is read: of an archive, the offset in its file (compressed, if it is); of a directory the
    /// same as `bytes`.
    pub source: u64,
}

pub use self::source::Source;

/// Imports a directory: contents, modes, owners, times, extended attributes, hard links, holes, special
/// files. The timeline's root takes the attributes of the directory itself. Calls `progress` after every few files
/// and some megabytes of a large one. Durable when it returns. While the source is read no lock is held; each commit
/// (some megabytes in the log) keeps others waiting for its own time only.
///
/// Links within the directory are imported and never followed, also where somebody changes the tree meanwhile.
///
/// `progress` stops the import by saying `Break`: the error is `Unavailable`, and what was committed so far stays, as
/// after a crash.
///
/// # Errors
/// `NotEmpty` if the timeline has anything in it; `InvalidArgument` if the store itself stands below the
/// directory; any error of reading the source names its path. Cost: the tree's bytes and entries once.
pub fn import_directory(
    volume: &Volume,
    source: &Source,
    progress: &mut dyn FnMut(&ImportProgress) -> ControlFlow<()>,
) -> Result<ImportProgress> {
    require_empty(volume)?;
    directory::import(volume, source, progress)
}

/// Imports a tar archive (plain or gzip; ustar, GNU and pax). Paths that lead out of it are refused; a
/// later entry replaces an earlier one of the same path. Durable when it returns. `progress` as there.
///
/// # Errors
/// As [`import_directory`]; `InvalidArgument` for what is no such archive or holds an unsafe path.
/// Cost: the archive's bytes and entries once.
pub fn import_tar(
    volume: &Volume,
    archive: &Source,
    progress: &mut dyn FnMut(&ImportProgress) -> ControlFlow<()>,
) -> Result<ImportProgress> {
    require_empty(volume)?;
    tar::import(volume, archive, progress)
}

fn require_empty(volume: &Volume) -> Result<()> {
    if volume.read_dir(Ino::ROOT, 0, 1)?.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NotEmpty,
        "the timeline has files already: import into a new one",
    ))
}
