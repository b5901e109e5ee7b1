//! Walking a tree of directories in the order of keys.
//!
//! A directory `a` stands among names as `a`, but its keys start with `a/`, and names like `a.b` or
//! `a-b` come between the two, because some characters sort before the slash. So a directory that is
//! met waits until everything that sorts before its keys is out. Those that wait at one level are
//! prefixes of each other, and therefore form a stack.

use crate::error::Result;

/// A tree to walk. A name can stand for a file, for a directory, or (over time) for both.
pub(super) trait Tree {
    type File;
    type Dir;
    type Cursor;

    /// Entries of a directory in byte order, from the first name at or after `from`.
    fn open(&self, dir: &Self::Dir, from: &[u8]) -> Result<Self::Cursor>;
    /// The next entry.
    fn next(&self, cursor: &mut Self::Cursor) -> Result<Option<Entry<Self::File, Self::Dir>>>;
    /// One entry.
    fn find(&self, dir: &Self::Dir, name: &[u8]) -> Result<Option<Entry<Self::File, Self::Dir>>>;
    /// The directory as a key itself, if it is one.
    fn marker(&self, dir: &Self::Dir) -> Result<Option<Self::File>>;
}

/// What a name stands for.
pub(super) struct Entry<F, D> {
    pub name: Vec<u8>,
    pub file: Option<F>,
    pub dir: Option<D>,
}

/// One directory on the way.
struct Level<T: Tree> {
    /// Key of the directory, with a slash at its end; empty for the root.
    path: Vec<u8>,
    dir: T::Dir,
    cursor: T::Cursor,
    head: Option<Entry<T::File, T::Dir>>,
    ended: bool,
    marker: Option<T::File>,
    /// Directories met whose keys are still to come, the next one last.
    waiting: Vec<(Vec<u8>, T::Dir)>,
}

/// Gives the keys that start with a prefix, from a lower bound on. Cost: what it passes; to start, a
/// look-up for each component of the bound and for each character in it that sorts before the slash.
pub(super) struct Walker<'t, T: Tree> {
    tree: &'t T,
    prefix: Vec<u8>,
    levels: Vec<Level<T>>,
}

impl<'t, T: Tree> Walker<'t, T> {
    /// Starts at the first key at or after `from`.
    pub fn new(tree: &'t T, root: T::Dir, prefix: &[u8], from: &[u8]) -> Result<Self> {
        let from = from.max(prefix).to_vec();
        let mut walker = Self {
            tree,
            prefix: prefix.to_vec(),
            levels: Vec::new(),
        };
        walker.enter(Vec::new(), root, &from)?;
        Ok(walker)
    }

    /// Opens a directory at the first of its keys at or after `from` (relative), and those on the way.
    fn enter(&mut self, path: Vec<u8>, dir: T::Dir, from: &[u8]) -> Result<()> {
        let (mut path, mut dir, mut from) = (path, dir, from.to_vec());
        loop {
            let slash = from.iter().position(|b| *b == b'/');
            let first = &from[..slash.unwrap_or(from.len())];
            // Directories whose names begin the first component: their keys may sort behind it.
            let mut waiting = Vec::new();
            for n in 1..first.len() {
                if first[n] < b'/'
                    && let Some(Entry { dir: Some(d), .. }) = self.tree.find(&dir, &first[..n])?
                {
                    waiting.push((first[..n].to_vec(), d));
                }
            }
            let start = &from[..slash.map_or(from.len(), |s| s + 1)];
            let level = Level {
                cursor: self.tree.open(&dir, start)?,
                head: None,
                ended: false,
                marker: if from.is_empty() && !path.is_empty() {
                    self.tree.marker(&dir)?
                } else {
                    None
                },
                waiting,
                path: path.clone(),
                dir,
            };
            let below = match slash {
                Some(s) => self
                    .tree
                    .find(&level.dir, &from[..s])?
                    .and_then(|e| e.dir)
                    .map(|d| (d, s)),
                None => None,
            };
            self.levels.push(level);
            let Some((d, s)) = below else { return Ok(()) };
            path.extend_from_slice(&from[..=s]);
            (dir, from) = (d, from[s + 1..].to_vec());
        }
    }

    /// The next key.
    pub fn next(&mut self) -> Result<Option<(String, T::File)>> {
        loop {
            let Some(level) = self.levels.last_mut() else {
                return Ok(None);
            };
            if let Some(file) = level.marker.take() {
                let key = level.path.clone();
                if let Some(found) = self.show(key, file)? {
                    return Ok(Some(found));
                }
                continue;
            }
            if level.head.is_none() && !level.ended {
                level.head = self.tree.next(&mut level.cursor)?;
                level.ended = level.head.is_none();
            }
            let waits = level.waiting.last().map(|(name, _)| name);
            let descend = match (&level.head, waits) {
                (None, None) => {
                    self.levels.pop();
                    continue;
                }
                (None, Some(_)) => true,
                (Some(_), None) => false,
                (Some(head), Some(name)) => is_behind(&head.name, name),
            };
            if descend {
                let Some((name, dir)) = level.waiting.pop() else {
                    continue;
                };
                let mut path = level.path.clone();
                path.extend_from_slice(&name);
                path.push(b'/');
                if path.len() > super::key::MAX_KEY {
                    continue;
                }
                if path.starts_with(&self.prefix) || self.prefix.starts_with(&path) {
                    self.enter(path, dir, &[])?;
                } else if path > self.prefix {
                    self.levels.clear();
                }
                continue;
            }
            let Some(entry) = level.head.take() else {
                continue;
            };
            // Names that are no text are no keys, nor is what is below them.
            if std::str::from_utf8(&entry.name).is_err() {
                continue;
            }
            if let Some(dir) = entry.dir {
                level.waiting.push((entry.name.clone(), dir));
            }
            if let Some(file) = entry.file {
                let mut key = level.path.clone();
                key.extend_from_slice(&entry.name);
                if let Some(found) = self.show(key, file)? {
                    return Ok(Some(found));
                }
            }
        }
    }

    fn show(&mut self, key: Vec<u8>, file: T::File) -> Result<Option<(String, T::File)>> {
        if !key.starts_with(&self.prefix) {
            if key > self.prefix {
                self.levels.clear();
            }
            return Ok(None);
        }
        // A path longer than any key is a file only.
        if key.len() > super::key::MAX_KEY {
            return Ok(None);
        }
        Ok(String::from_utf8(key).ok().map(|key| (key, file)))
    }

    /// Passes over all keys that start with `common`, which the last key does.
    pub fn skip(&mut self, common: &[u8]) -> Result<()> {
        while self
            .levels
            .last()
            .is_some_and(|l| l.path.starts_with(common))
        {
            self.levels.pop();
        }
        let Some(level) = self.levels.last_mut() else {
            return Ok(());
        };
        let rest = common.get(level.path.len()..).unwrap_or_default();
        level.waiting.retain(|(name, _)| {
            !name.starts_with(rest) && rest.strip_suffix(b"/") != Some(name.as_slice())
        });
        // A directory as a whole is passed when it is left; a part of a level is passed by a seek.
        if rest.is_empty() || rest.ends_with(b"/") {
            return Ok(());
        }
        match successor(rest) {
            Some(next) => {
                level.cursor = self.tree.open(&level.dir, &next)?;
                level.head = None;
                level.ended = false;
            }
            None => {
                level.head = None;
                level.ended = true;
            }
        }
        Ok(())
    }
}

/// Whether a name, and so whatever follows it, sorts behind all keys of the directory `dir`.
fn is_behind(name: &[u8], dir: &[u8]) -> bool {
    match name.strip_prefix(dir) {
        Some(rest) => rest.first().is_some_and(|b| *b > b'/'),
        None => name > dir,
    }
}

/// The smallest bytes above everything that starts with `prefix`.
pub(super) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}
