//! Putting objects.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use crate::blobs::{Started, Writing, Written};
use crate::commit::Txn;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::files::place::{Content, Placing};
use crate::files::types::Caller;
use crate::fs::File;
use crate::ids::{FileId, Ino};
use crate::index::records::{Inode, MAX_FILE_BYTES, SUM_BYTES, sums_of};

use super::Objects;
use super::key::Key;
use super::state::{
    CONTENT_TYPE, METADATA, State, etag_of_bytes, etag_of_marker, etag_of_sealed, is_foreign,
};
use super::types::{Condition, Put, PutOptions};

/// An object of at least so many bytes is a file of its own, which readers can be given directly.
pub const SEALED_BYTES: usize = 256 << 10;
/// Bytes that an object's metadata may have, names and values together.
pub const MAX_METADATA: usize = 16 << 10;
/// Longest name of an extended attribute.
const XATTR_NAME_MAX: usize = 255;
/// Bytes collected before they are written to a file: whole checksum blocks.
const BUFFER_BYTES: usize = 1 << 20;
const _: () = assert!(BUFFER_BYTES.is_multiple_of(SUM_BYTES as usize));
const _: () = assert!(SEALED_BYTES <= BUFFER_BYTES);
/// The quota is looked at whenever so many bytes have come in, and in the commit.
const QUOTA_STEP: u64 = 64 << 20;

impl<'a> Objects<'a> {
    /// Puts an object, in place of the one that is there. A key with a slash at its end makes a directory
    /// and takes no bytes. Cost: the bytes once, a commit, a read for each component, a sync if durable
    /// (three from 256 KiB on).
    ///
    /// # Errors
    /// `InvalidArgument` (the key, the metadata), `NotADirectory` (a part of the key is a file),
    /// `IsADirectory` (the key is one), `AlreadyExists` (a symbolic link or special file is there, or the
    /// condition), `Conflict` and `NotFound` (the condition), `QuotaExceeded`, `NoSpace`, `ReadOnly`.
    pub fn put(&self, key: &str, bytes: &[u8], options: &PutOptions) -> Result<Put> {
        let mut writer = self.put_stream(key, options.clone())?;
        if bytes.len() < SEALED_BYTES {
            return writer.place_bytes(bytes);
        }
        writer.add(bytes)?;
        writer.finish()
    }

    /// Starts to put an object whose bytes come bit by bit; nothing of it is visible, or stays, unless
    /// [`ObjectWriter::finish`] is called. Cost: 1 MiB of memory, and 4 bytes for each 16 KiB.
    ///
    /// # Errors
    /// As for [`put`](Self::put); what can be known before the bytes is said at once.
    pub fn put_stream(&self, key: &str, options: PutOptions) -> Result<ObjectWriter<'a>> {
        Key::parse(key)?;
        let xattrs = xattrs_of(&options)?;
        if self.volume.read_only() {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "the timeline, or this state of it, is read-only",
            ));
        }
        Ok(ObjectWriter {
            objects: *self,
            key: key.to_owned(),
            xattrs,
            options,
            buffer: Vec::new(),
            sealing: None,
            broken: None,
        })
    }
}

/// An object on its way in. Dropped without [`finish`](Self::finish), it never was.
pub struct ObjectWriter<'a> {
    objects: Objects<'a>,
    key: String,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    options: PutOptions,
    buffer: Vec<u8>,
    sealing: Option<Sealing>,
    /// What failed: nothing more is taken then.
    broken: Option<Error>,
}

/// A file of its own that the bytes go into.
struct Sealing {
    id: FileId,
    file: Arc<dyn File>,
    path: PathBuf,
    _writing: Writing,
    written: u64,
    content: Written,
    quota_seen: u64,
    sums: Vec<u32>,
}

impl ObjectWriter<'_> {
    /// Bytes taken so far.
    pub fn size(&self) -> u64 {
        self.sealing.as_ref().map_or(0, |s| s.written) + self.buffer.len() as u64
    }

    /// Makes the object visible, all at once. See [`Objects::put`] for errors; after one of them nothing
    /// has changed.
    pub fn finish(mut self) -> Result<Put> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        if self.sealing.is_none() && self.buffer.len() < SEALED_BYTES {
            let bytes = std::mem::take(&mut self.buffer);
            return self.place_bytes(&bytes);
        }
        self.flush_buffer()?;
        let Some(sealing) = &self.sealing else {
            return Err(Error::new(ErrorKind::Io, "the object has no file"));
        };
        let volume = self.objects.volume;
        let inner = volume.inner();
        inner
            .files
            .seal_object(&*sealing.file, &sealing.path, sealing.content)?;
        let key = Key::parse(&self.key)?;
        let content = Content::Sealed {
            id: sealing.id,
            size: sealing.written,
            sums: &sealing.sums,
        };
        let condition = self.options.condition.clone();
        let placed = volume.place_file(&self.placing(&key), content, &|txn, old| {
            check(&condition, &self.key, txn, old)
        });
        let placed = match placed {
            Ok(placed) => placed,
            Err(e) => {
                // If the engine failed in the middle, the log may hold the commit, and with it the file.
                if inner.check_open().is_err() {
                    self.sealing = None;
                }
                return Err(e);
            }
        };
        let put = Put {
            etag: etag_of_sealed(sealing.written, sealing.id),
            version: placed.epoch,
            size: sealing.written,
        };
        let path = sealing.path.clone();
        self.sealing = None;
        inner.files.protect(&path);
        inner.wait(placed.position, self.options.durability)?;
        Ok(put)
    }

    /// Takes bytes. The same as its `Write`, with the error as it is.
    ///
    /// # Errors
    /// `FileTooLarge`, `NoSpace`, `QuotaExceeded`, `InvalidArgument` (bytes for a directory); from then on the same.
    pub fn add(&mut self, mut bytes: &[u8]) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        if !bytes.is_empty() && self.key.ends_with('/') {
            return Err(self.no_bytes());
        }
        if self.size() + bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(Error::new(
                ErrorKind::FileTooLarge,
                format!("an object may have {MAX_FILE_BYTES} bytes"),
            ));
        }
        while !bytes.is_empty() {
            let n = bytes.len().min(BUFFER_BYTES - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.buffer.len() == BUFFER_BYTES
                && let Err(e) = self.flush_buffer()
            {
                self.broken = Some(e.clone());
                return Err(e);
            }
        }
        Ok(())
    }

    fn flush_buffer(&mut self) -> Result<()> {
        let inner = self.objects.volume.inner();
        inner.check_open()?;
        if self.sealing.is_none() {
            let Started {
                id,
                file,
                path,
                writing,
            } = inner.files.create_object(&*inner.ids)?;
            self.sealing = Some(Sealing {
                id,
                file,
                path,
                _writing: writing,
                written: 0,
                content: Written::default(),
                quota_seen: 0,
                sums: Vec::new(),
            });
        }
        let Some(sealing) = &mut self.sealing else {
            return Ok(());
        };
        sealing
            .file
            .write_all_at(&self.buffer, sealing.written)
            .context("write", &sealing.path)?;
        sealing.sums.extend(sums_of(&self.buffer));
        sealing.content.add(&self.buffer);
        sealing.written += self.buffer.len() as u64;
        self.buffer.clear();
        if sealing.written - sealing.quota_seen >= QUOTA_STEP {
            sealing.quota_seen = sealing.written;
            let mut txn = self.objects.volume.begin(&Caller::default())?;
            txn.count_own(sealing.written);
            txn.check_quota()?;
        }
        Ok(())
    }

    /// Puts bytes that go into the log, or none at all.
    fn place_bytes(&self, bytes: &[u8]) -> Result<Put> {
        let volume = self.objects.volume;
        let key = Key::parse(&self.key)?;
        let allow = |txn: &Txn<'_>, old: Option<(Ino, &Inode)>| {
            check(&self.options.condition, &self.key, txn, old)
        };
        let placing = self.placing(&key);
        let (placed, etag) = if key.marker {
            if !bytes.is_empty() {
                return Err(self.no_bytes());
            }
            let placed = volume.place_directory(&placing, &is_foreign, &allow)?;
            (placed, etag_of_marker())
        } else {
            let placed = volume.place_file(&placing, Content::Bytes(bytes), &allow)?;
            let (segment, start) = placed.data;
            (placed, etag_of_bytes(bytes, segment, start))
        };
        volume
            .inner()
            .wait(placed.position, self.options.durability)?;
        Ok(Put {
            etag,
            version: placed.epoch,
            size: bytes.len() as u64,
        })
    }

    fn placing<'k>(&'k self, key: &'k Key<'_>) -> Placing<'k> {
        Placing {
            path: &key.path,
            mode: self.options.mode,
            uid: self.options.uid,
            gid: self.options.gid,
            xattrs: &self.xattrs,
        }
    }

    fn no_bytes(&self) -> Error {
        Error::invalid(format!(
            "{:?} ends with a slash, which makes it a directory: it cannot have bytes",
            self.key
        ))
    }
}

impl Write for ObjectWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    /// Does nothing: what is not finished does not exist.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ObjectWriter<'_> {
    fn drop(&mut self) {
        let Some(sealing) = self.sealing.take() else {
            return;
        };
        self.objects.volume.inner().files.discard(&sealing.path);
    }
}

/// Whether the object that is there now meets a condition.
pub(super) fn check(
    condition: &Condition,
    key: &str,
    txn: &Txn<'_>,
    old: Option<(Ino, &Inode)>,
) -> Result<()> {
    match (condition, old) {
        (Condition::Any, _) | (Condition::Absent, None) => Ok(()),
        (Condition::Absent, Some(_)) => Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("{key:?} exists already"),
        )),
        (Condition::Etag(_), None) => Err(Error::not_found(format!("{key:?}"))),
        (Condition::Etag(wanted), Some((ino, inode))) => {
            let (index, hops) = txn.stored();
            let etag = State { index, hops }.etag(ino, inode)?;
            if etag == *wanted {
                return Ok(());
            }
            Err(Error::new(
                ErrorKind::Conflict,
                format!("{key:?} has the tag {etag}, not {wanted}"),
            ))
        }
    }
}

/// The attributes that hold an object's metadata.
fn xattrs_of(options: &PutOptions) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut xattrs = BTreeMap::new();
    let mut total = 0;
    if let Some(content_type) = &options.content_type {
        total += content_type.len();
        xattrs.insert(CONTENT_TYPE.to_vec(), content_type.clone().into_bytes());
    }
    for (name, value) in &options.metadata {
        let longest = XATTR_NAME_MAX - METADATA.len();
        if name.is_empty() || name.len() > longest || name.contains('\0') {
            return Err(Error::invalid(format!(
                "{name:?} cannot name metadata: 1 to {longest} bytes, none of them zero, are needed"
            )));
        }
        total += name.len() + value.len();
        xattrs.insert(
            [METADATA, name.as_bytes()].concat(),
            value.clone().into_bytes(),
        );
    }
    if total > MAX_METADATA {
        return Err(Error::invalid(format!(
            "the metadata has {total} bytes and may have {MAX_METADATA}"
        )));
    }
    Ok(xattrs)
}
