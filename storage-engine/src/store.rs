//! The data directory: its identity, format version and lock.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::clock::IdSource;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::fs::{Access, FileSystem};
use crate::planted::{Bug, planted};

/// Newest format of a store that this version reads and writes.
pub const FORMAT: u32 = 3;

/// `store.json`: what a data directory is.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StoreFile {
    pub format: u32,
    pub store_id: String,
    /// Writer term: one more with every opening.
    pub term: u32,
    /// Checksum of the others; missing in a file that an older version wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<String>,
}

impl StoreFile {
    /// With its checksum.
    pub fn new(format: u32, store_id: String, term: u32) -> Self {
        let sum = Some(sum(format, &store_id, term));
        Self {
            format,
            store_id,
            term,
            sum,
        }
    }
}

/// CRC-32C in hexadecimal of the members in decimal, as they stand, with a space between them.
fn sum(format: u32, store_id: &str, term: u32) -> String {
    let text = format!("{format} {store_id} {term}");
    format!("{:08x}", crc32c::crc32c(text.as_bytes()))
}

/// `store.json`, as an opening finds it.
pub(crate) struct Found {
    pub store: StoreFile,
    /// It was damaged or missing, and its copy was taken in its place.
    pub restored: bool,
}

/// Paths below a data directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub root: PathBuf,
    /// Through which everything there is read and written.
    pub fs: Arc<dyn FileSystem>,
}

impl Layout {
    pub fn store_json(&self) -> PathBuf {
        self.root.join("store.json")
    }
    /// What `store.json` said when the store was made, or came to its format: in its place if that is damaged.
    pub fn store_copy(&self) -> PathBuf {
        self.root.join("store.copy")
    }
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }
    pub fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }
    /// Marks that object files may be there that nothing refers to yet.
    pub fn writing(&self) -> PathBuf {
        self.root.join("writing")
    }
    pub fn index(&self) -> PathBuf {
        self.root.join("index")
    }
    /// Space that is kept for deletions on a full disk.
    pub fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    /// Gives some of the reserve back if the disk is full, so that the store can be opened at all.
    pub fn make_room(&self) -> Result<()> {
        /// More than the small files that an opening writes.
        const OPENING_BYTES: u64 = 2 << 20;
        let path = self.reserve();
        if room(&self.root).is_none_or(|room| room >= OPENING_BYTES) || !self.fs.exists(&path) {
            return Ok(());
        }
        let file = self.fs.open(&path, Access::Write).context("open", &path)?;
        let len = file.metadata().context("stat", &path)?.len;
        let left = len.saturating_sub(OPENING_BYTES).max(len / 2);
        file.set_len(left).context("shorten", &path)
    }

    /// Makes the data directory itself, with all above it that is missing, durably.
    pub fn create_root(&self) -> Result<()> {
        // Of a directory that is there, an earlier try may not have come to its end.
        let new = !self.fs.exists(&self.store_json());
        let mut missing: Vec<&Path> = self
            .root
            .ancestors()
            .take_while(|dir| !dir.as_os_str().is_empty() && !self.fs.exists(dir))
            .collect();
        self.fs
            .create_dir_all(&self.root)
            .context("create", &self.root)?;
        let there = missing.is_empty();
        if there && new {
            missing.push(&self.root);
        }
        while let Some(dir) = missing.pop() {
            let above = match dir.parent() {
                Some(above) if above.as_os_str().is_empty() => Path::new("."),
                Some(above) => above,
                None => continue,
            };
            match self.fs.sync_dir(above) {
                // Somebody else has made the directory in a place of theirs.
                Err(e) if there && e.kind() == std::io::ErrorKind::PermissionDenied => {}
                done => done.context("sync the directory", above)?,
            }
        }
        Ok(())
    }

    /// Makes the entries of a directory durable.
    pub fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.fs.sync_dir(dir).context("sync the directory", dir)
    }
}

/// Bytes that may still be written to the disk that a directory is on; `None` if it does not say.
pub(crate) fn room(dir: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(dir).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize.max(1)))
}

/// The lock of a data directory, held as long as this lives.
pub(crate) struct Lock {
    _file: File,
}

/// Takes the lock; fails at once, naming the owner, if another process holds it.
pub(crate) fn lock(layout: &Layout) -> Result<Lock> {
    let path = layout.lock();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .context("open", &path)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut owner = String::new();
        let _ = file.read_to_string(&mut owner);
        let owner = owner.trim();
        let by = if owner.is_empty() {
            "another process".to_owned()
        } else {
            format!("process {owner}")
        };
        return Err(Error::new(
            ErrorKind::Locked,
            format!(
                "{} is in use by {by}: stop it, or work through it",
                layout.root.display()
            ),
        ));
    }
    file.set_len(0).context("truncate", &path)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
        .context("write", &path)?;
    Ok(Lock { _file: file })
}

/// Reads `store.json`, or makes a new store there if `create` allows it, and starts a new writer term.
pub(crate) fn open(layout: &Layout, create: bool, ids: &dyn IdSource) -> Result<Found> {
    let path = layout.store_json();
    let copy = layout
        .fs
        .read(&layout.store_copy())
        .ok()
        .and_then(|bytes| parse(&layout.store_copy(), &bytes).ok())
        .filter(|copy| copy.sum.is_some());
    let mut restored = false;
    let mut take_copy = |why: &str| {
        if copy.is_some() {
            tracing::warn!(file = %path.display(), why, "taking its copy, store.copy, in its place");
            restored = true;
        }
        copy.clone()
    };
    let store = match layout.fs.read(&path) {
        Ok(bytes) => match parse(&path, &bytes) {
            Err(e) if e.kind() == ErrorKind::Corrupt => take_copy(&e.to_string()).ok_or(e)?,
            parsed => parsed?,
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if let Some(store) = take_copy("it is missing") {
                return start_term(layout, store, copy.as_ref(), restored);
            }
            // A directory with a log or an index but no identity is damaged, not new.
            for leftover in [layout.log(), layout.index()] {
                if layout.fs.exists(&leftover) {
                    return Err(Error::corrupt(format!(
                        "{} exists but {} does not: restore it from a backup",
                        leftover.display(),
                        path.display()
                    )));
                }
            }
            if !create {
                return Err(Error::not_found(format!(
                    "a store in {}",
                    layout.root.display()
                )));
            }
            let id = ids.next().context("make an id for", &path)?;
            StoreFile::new(FORMAT, hex::encode(id), 0)
        }
        Err(e) => return Err(Error::io("read", &path, &e)),
    };
    start_term(layout, store, copy.as_ref(), restored)
}

/// Writes what this opening makes of `store.json`.
fn start_term(
    layout: &Layout,
    store: StoreFile,
    copy: Option<&StoreFile>,
    restored: bool,
) -> Result<Found> {
    let path = layout.store_json();
    let term = store
        .term
        .checked_add(1)
        .ok_or_else(|| Error::corrupt("the writer term is used up"))?;
    // From here on what an older version does not know may be written.
    let store = StoreFile::new(FORMAT, store.store_id, term);
    let text = serde_json::to_vec_pretty(&store).map_err(|e| {
        Error::new(
            ErrorKind::Io,
            format!("cannot encode {}: {e}", path.display()),
        )
    })?;
    replace_file(layout, &path, &text)?;
    if copy.is_none_or(|c| (c.format, &c.store_id) != (store.format, &store.store_id)) {
        // Not synced: a torn one does not match its checksum, and the next opening writes it again.
        let path = layout.store_copy();
        let written = layout
            .fs
            .open(&path, Access::Replace)
            .and_then(|file| file.write_all_at(&text, 0));
        if let Err(error) = written {
            tracing::warn!(file = %path.display(), %error, "cannot write the copy of store.json");
        }
    }
    for dir in [layout.log(), layout.objects(), layout.index()] {
        layout.fs.create_dir_all(&dir).context("create", &dir)?;
    }
    layout.sync_dir(&layout.root)?;
    Ok(Found { store, restored })
}

pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<StoreFile> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let bad = |e: serde_json::Error| Error::corrupt(format!("{} is damaged: {e}", path.display()));
    let Format { format } = serde_json::from_slice(bytes).map_err(bad)?;
    // Of a newer format, too, as far as it has the members that this one has.
    if let Ok(store) = serde_json::from_slice::<StoreFile>(bytes)
        && let Some(said) = &store.sum
        && *said != sum(store.format, &store.store_id, store.term)
    {
        return Err(Error::corrupt(format!(
            "{} is damaged: it does not match its checksum",
            path.display()
        )));
    }
    if format > FORMAT {
        return Err(Error::new(
            ErrorKind::UnsupportedFormat,
            format!(
                "{} says that the store has format {format}; this version knows formats up to {FORMAT}: \
                 use the version that wrote it, or a newer one",
                path.display()
            ),
        ));
    }
    let store: StoreFile = serde_json::from_slice(bytes).map_err(bad)?;
    store_id(&store)?;
    Ok(store)
}

/// The store id as bytes.
pub(crate) fn store_id(store: &StoreFile) -> Result<[u8; 16]> {
    let mut id = [0; 16];
    hex::decode_to_slice(&store.store_id, &mut id).map_err(|_| {
        Error::corrupt("store.json holds a store id that is not 32 hexadecimal digits")
    })?;
    Ok(id)
}

/// Writes a file so that after a crash it holds either the old content or the new one.
pub(crate) fn replace_file(layout: &Layout, path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    let file = layout
        .fs
        .open(&temporary, Access::Replace)
        .context("create", &temporary)?;
    file.write_all_at(content, 0).context("write", &temporary)?;
    if !planted(Bug::RenameBeforeSync) {
        file.sync_all().context("sync", &temporary)?;
    }
    layout
        .fs
        .rename(&temporary, path)
        .context("replace", path)?;
    match path.parent() {
        Some(parent) => layout.sync_dir(parent),
        None => Ok(()),
    }
}
