//! Listing directories.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::Ino;
use crate::index::keys::{RecordKey, dirents_of};
use crate::index::records::Record;

use super::types::{DirEntry, NodeKind};
use super::volume::{View, Volume};

/// So many places where a listing was cut off are remembered; the rest are found again by a scan.
const MAX_RESUME: usize = 4096;

/// The place of a name in listings: 63 bits of its hash, above the numbers of `.` and `..`. It depends
/// on nothing but the name, so a listing goes on after a takeover, and when the entry is gone.
pub(crate) fn cookie_of(name: &[u8]) -> u64 {
    const FIRST: u64 = 16;
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&blake3::hash(name).as_bytes()[..8]);
    (u64::from_be_bytes(bytes) >> 1).max(FIRST)
}

impl Volume {
    /// Entries of a directory behind the one with cookie `after` (0: from the start), at most `max`, in
    /// the byte order of their names, without `.` and `..`. Entries that come or go meanwhile may or may
    /// not be listed; the others are, once. Cost: the entries listed (and, for a cookie not seen lately,
    /// the directory's).
    ///
    /// # Errors
    /// `NotADirectory`, `Stale`.
    pub fn read_dir(&self, ino: Ino, after: u64, max: usize) -> Result<Vec<DirEntry>> {
        let view = self.view()?;
        if view.inode(ino)?.kind != NodeKind::Directory {
            return Err(Error::new(
                ErrorKind::NotADirectory,
                format!("inode {ino} is not a directory"),
            ));
        }
        let mut start = dirents_of(ino);
        if after != 0 {
            let known = self.resume.lock().get(&(ino, after)).cloned();
            let name = match known {
                Some(name) => Some(name),
                None => view.name_of_cookie(ino, after)?,
            };
            // A cookie that no name ever had was not ours: nothing follows it.
            let Some(name) = name else {
                return Ok(Vec::new());
            };
            start = RecordKey::Dirent(ino, name).encode();
            // Behind every version of this name: the versions of a name start with its terminating zero.
            if let Some(last) = start.last_mut() {
                *last = 1;
            }
        }
        let mut scan = view.scan(&dirents_of(ino), &start);
        let mut out = Vec::new();
        while out.len() < max {
            let Some((key, seen)) = scan.next()? else {
                break;
            };
            let (RecordKey::Dirent(_, name), Record::Dirent { ino, kind }) = (key, seen.record)
            else {
                return Err(Error::corrupt("a dirent record holds something else"));
            };
            let cookie = cookie_of(&name);
            out.push(DirEntry {
                name,
                ino,
                kind,
                cookie,
            });
        }
        if out.len() == max {
            let mut resume = self.resume.lock();
            if resume.len() + out.len() > MAX_RESUME {
                resume.clear();
            }
            // The reader may have room for fewer than it asked for: every one may be the last it took.
            resume.extend(
                out.iter()
                    .take(MAX_RESUME)
                    .map(|e| ((ino, e.cookie), e.name.clone())),
            );
        }
        Ok(out)
    }
}

impl View<'_> {
    /// The name with this cookie, whether it exists or has been removed.
    fn name_of_cookie(&self, ino: Ino, cookie: u64) -> Result<Option<Vec<u8>>> {
        let prefix = dirents_of(ino);
        let mut scan = self.scan(&prefix, &prefix);
        while let Some((key, ..)) = scan.next_row()? {
            if let RecordKey::Dirent(_, name) = RecordKey::decode(&key)?
                && cookie_of(&name) == cookie
            {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }
}
