//! Listing objects.

use crate::error::{Error, Result};
use crate::files::types::NodeKind;
use crate::ids::Ino;
use crate::index::keys::{RecordKey, dirents_of};
use crate::index::lineage::Scan;
use crate::index::records::Record;

use super::Objects;
use super::state::{State, size_of};
use super::types::{ListPage, ListRequest, ListedObject};
use super::walk::{Entry, Tree, Walker, successor};

/// Longest page.
pub(super) const MAX_PAGE: usize = 10_000;
/// A timeline is held still for so many items at a time: writers wait no longer than for these.
const SLICE: usize = 128;

impl Objects<'_> {
    /// Lists objects in the byte order of their keys, as S3 does. A page is put together from stretches
    /// of some hundred keys, each of which is one state of the timeline; keys that come or go meanwhile
    /// may or may not be in it, the others are, once. Tokens stay valid, whatever changes.
    /// Cost: what is listed (a few reads for each object, and its entity tag's), with a few reads for each
    /// common prefix however much is below it. What is no object on the way (empty directories, symbolic
    /// links, names that are not UTF-8) costs one read each.
    ///
    /// # Errors
    /// `InvalidArgument` for a token of another list, or an empty delimiter.
    pub fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let bounds = Bounds::new(
            &request.prefix,
            request.delimiter.as_deref(),
            request.start_after.as_deref(),
            request.token.as_deref(),
        )?;
        let max = request.max.min(MAX_PAGE);
        let mut page = ListPage::default();
        let mut last = bounds.after.clone();
        let mut count = 0;
        loop {
            let until = (count + SLICE).min(max);
            let more = self.with_state(|state| {
                let tree = Now { state };
                let Some(from) = bounds.from(last.as_deref()) else {
                    return Ok(false);
                };
                let mut walker = Walker::new(&tree, Ino::ROOT, bounds.prefix, &from)?;
                while let Some((key, ino)) = walker.next()? {
                    if count >= until {
                        return Ok(true);
                    }
                    if let Some(common) = bounds.common(&key) {
                        walker.skip(common.as_bytes())?;
                        page.common_prefixes.push(common.to_owned());
                        last = Some(common.to_owned());
                    } else {
                        // A name without an inode cannot be: both come and go in one commit.
                        let Some((inode, _)) = state.inode(ino)? else {
                            return Err(Error::corrupt(format!("{key:?} has no inode {ino}")));
                        };
                        page.objects.push(ListedObject {
                            size: size_of(&inode),
                            etag: state.etag(ino, &inode)?,
                            modified: inode.mtime,
                            key: key.clone(),
                        });
                        last = Some(key);
                    }
                    count += 1;
                }
                Ok(false)
            })?;
            if !more {
                return Ok(page);
            }
            if count >= max {
                page.next = match &last {
                    Some(last) if max > 0 => Some(bounds.token(last, None)),
                    _ => None,
                };
                return Ok(page);
            }
        }
    }
}

/// A state as a tree to walk.
struct Now<'a> {
    state: State<'a>,
}

/// A listing of a directory, and the first name wanted.
struct Cursor<'a> {
    scan: Scan<'a>,
    from: Vec<u8>,
}

impl<'a> Tree for Now<'a> {
    type File = Ino;
    type Dir = Ino;
    type Cursor = Cursor<'a>;

    fn open(&self, dir: &Ino, from: &[u8]) -> Result<Self::Cursor> {
        let prefix = dirents_of(*dir);
        let start = [prefix.as_slice(), from].concat();
        Ok(Cursor {
            scan: self.state.scan(&prefix, &start),
            from: from.to_vec(),
        })
    }

    fn next(&self, cursor: &mut Self::Cursor) -> Result<Option<Entry<Ino, Ino>>> {
        while let Some((key, seen)) = cursor.scan.next()? {
            let (RecordKey::Dirent(_, name), Record::Dirent { ino, kind }) = (key, seen.record)
            else {
                return Err(Error::corrupt("a dirent record holds something else"));
            };
            if name >= cursor.from
                && let Some(entry) = entry(name, ino, kind)
            {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn find(&self, dir: &Ino, name: &[u8]) -> Result<Option<Entry<Ino, Ino>>> {
        Ok(self
            .state
            .entry(*dir, name)?
            .and_then(|(ino, kind, _)| entry(name.to_vec(), ino, kind)))
    }

    fn marker(&self, dir: &Ino) -> Result<Option<Ino>> {
        match self.state.inode(*dir)? {
            Some((inode, _)) if self.state.is_marker(*dir, &inode)? => Ok(Some(*dir)),
            _ => Ok(None),
        }
    }
}

fn entry(name: Vec<u8>, ino: Ino, kind: NodeKind) -> Option<Entry<Ino, Ino>> {
    let (file, dir) = match kind {
        NodeKind::File => (Some(ino), None),
        NodeKind::Directory => (None, Some(ino)),
        _ => return None,
    };
    Some(Entry { name, file, dir })
}

/// Which keys a list is about.
pub(crate) struct Bounds<'a> {
    pub prefix: &'a [u8],
    prefix_len: usize,
    delimiter: Option<&'a str>,
    /// Only what sorts behind this.
    pub after: Option<String>,
    /// The token named a place within the versions of the key `after`.
    pub number: Option<u64>,
}

impl<'a> Bounds<'a> {
    pub fn new(
        prefix: &'a str,
        delimiter: Option<&'a str>,
        start_after: Option<&str>,
        token: Option<&str>,
    ) -> Result<Self> {
        if delimiter == Some("") {
            return Err(Error::invalid("a delimiter must not be empty"));
        }
        let mut bounds = Self {
            prefix: prefix.as_bytes(),
            prefix_len: prefix.len(),
            delimiter,
            after: start_after.map(str::to_owned),
            number: None,
        };
        if let Some(token) = token {
            let (after, number) = bounds.parse(token)?;
            bounds.after = Some(after);
            bounds.number = number;
        }
        Ok(bounds)
    }

    /// The common prefix that a key belongs to.
    pub fn common<'k>(&self, key: &'k str) -> Option<&'k str> {
        let delimiter = self.delimiter?;
        let rest = key.get(self.prefix_len..)?;
        let at = rest.find(delimiter)?;
        key.get(..self.prefix_len + at + delimiter.len())
    }

    /// The smallest bytes above `last` and, if it is or lies in a common prefix, above all of that; none
    /// if nothing can follow.
    pub fn from(&self, last: Option<&str>) -> Option<Vec<u8>> {
        let Some(last) = last else {
            return Some(Vec::new());
        };
        if last.as_bytes().starts_with(self.prefix)
            && let Some(common) = self.common(last)
        {
            return successor(common.as_bytes());
        }
        let mut from = last.as_bytes().to_vec();
        from.push(0);
        Some(from)
    }

    /// Names a place in this list: a form, a checksum of what the list is and of the place, the number of
    /// a version if there is one, and the last item.
    pub fn token(&self, last: &str, number: Option<u64>) -> String {
        let number = number.map_or(String::new(), |n| n.to_string());
        format!(
            "1.{:08x}.{number}.{}",
            self.sum(last, &number),
            hex::encode(last)
        )
    }

    fn parse(&self, token: &str) -> Result<(String, Option<u64>)> {
        let parsed = (|| {
            let mut parts = token.split('.');
            let (form, sum, number, last) =
                (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            if form != "1" || parts.next().is_some() {
                return None;
            }
            let last = String::from_utf8(hex::decode(last).ok()?).ok()?;
            if sum != format!("{:08x}", self.sum(&last, number)) {
                return None;
            }
            let number = if number.is_empty() {
                None
            } else {
                Some(number.parse().ok()?)
            };
            Some((last, number))
        })();
        parsed.ok_or_else(|| {
            Error::invalid("the continuation token does not belong to this list: start it again")
        })
    }

    fn sum(&self, last: &str, number: &str) -> u32 {
        let delimiter = self.delimiter.unwrap_or_default();
        [
            self.prefix,
            delimiter.as_bytes(),
            number.as_bytes(),
            last.as_bytes(),
        ]
        .iter()
        .fold(0, |sum, part| {
            let sum = crc32c::crc32c_append(sum, &(part.len() as u64).to_be_bytes());
            crc32c::crc32c_append(sum, part)
        })
    }
}
