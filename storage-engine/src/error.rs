//! Errors: few public kinds, each of which says what the caller can do; the message is the sentence a
//! person reads.

use std::fmt;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What went wrong, as far as a caller has to decide on it. The list is closed on purpose: where kinds are
/// translated (errno, conditions, advice), a new one fails to compile until somebody has decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    /// No such timeline, snapshot, file or key. Remedy: name one that exists.
    NotFound,
    /// The name is taken. Remedy: choose another, or use what is there.
    AlreadyExists,
    /// A path component is not a directory.
    NotADirectory,
    /// The operation does not apply to a directory.
    IsADirectory,
    /// The directory has entries.
    NotEmpty,
    /// The request makes no sense as it is. Never retried.
    InvalidArgument,
    /// A name is longer than 255 bytes, or a timeline's name longer than 1,024.
    NameTooLong,
    /// A file has as many links as it can have.
    TooManyLinks,
    /// No extended attribute of that name.
    NoAttribute,
    /// No data (or hole) at or after the offset.
    NoData,
    /// The operation is not offered.
    NotSupported,
    /// Not permitted, whoever asks (for example a hard link to a directory).
    PermissionDenied,
    /// The timeline, or the view of it, is read-only.
    ReadOnly,
    /// The timeline's own quota is used up. Remedy: raise it or delete something in this timeline.
    QuotaExceeded,
    /// The disk under the data directory is full. Remedy: free space; nothing is lost.
    NoSpace,
    /// A file would become larger than the largest possible.
    FileTooLarge,
    /// A value does not fit.
    Range,
    /// The inode is gone.
    Stale,
    /// Something else exists under the same name or id.
    Conflict,
    /// Protected against deletion.
    Protected,
    /// The instant asked for is outside retention; the message names the earliest one still there.
    OutOfRetention,
    /// Another process owns the data directory. Remedy: go through it, or stop it.
    Locked,
    /// The store was written in a format that this version does not know.
    UnsupportedFormat,
    /// Stored bytes are not what was written. The message names file, offset and what is affected.
    Corrupt,
    /// A write or sync of the log failed: nothing more is accepted until the store is opened again.
    Poisoned,
    /// Another writer took over.
    Fenced,
    /// Try again later.
    Unavailable,
    /// The operation may or may not have happened; the same request may be made again.
    OutcomeUnknown,
    /// In use.
    Busy,
    /// The operating system refused a file operation.
    Io,
}

impl ErrorKind {
    /// The kind whose name ([`Debug`](fmt::Debug)) this is.
    pub fn named(name: &str) -> Option<Self> {
        let name: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
            serde::de::IntoDeserializer::into_deserializer(name);
        Self::deserialize(name).ok()
    }
}

/// An error of the engine.
#[derive(thiserror::Error, Debug, Clone)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Result of an engine operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind; `message` is a sentence for a person.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn not_found(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, format!("{what} does not exist"))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// An operating system error met while doing `what` on `path`.
    pub(crate) fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::NOSPC.raw_os_error() => ErrorKind::NoSpace,
            Some(code) if code == rustix::io::Errno::DQUOT.raw_os_error() => ErrorKind::NoSpace,
            _ if error.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Self::new(kind, format!("cannot {what} {}: {error}", path.display()))
    }
}

/// Adds the context of a failed file operation.
pub(crate) trait IoContext<T> {
    fn context(self, what: &str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, what: &str, path: &Path) -> Result<T> {
        self.map_err(|e| Error::io(what, path, &e))
    }
}

impl<T> IoContext<T> for std::result::Result<T, rustix::io::Errno> {
    fn context(self, what: &str, path: &Path) -> Result<T> {
        self.map_err(|e| Error::io(what, path, &e.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_its_name() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::OutOfRetention,
            ErrorKind::Io,
        ] {
            assert_eq!(ErrorKind::named(&format!("{kind:?}")), Some(kind));
        }
        assert_eq!(ErrorKind::named("Damaged"), None);
    }
}
