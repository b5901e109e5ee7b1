//! The one table from the engine's error kinds to errno.

use storage_engine::ErrorKind;

/// An errno, positive as in `errno.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// What a process sees for each kind of error. Kinds that say that the store itself is unwell are EIO; the log
/// says which.
pub fn errno_of(kind: ErrorKind) -> Errno {
    Errno(match kind {
        ErrorKind::NotFound => libc::ENOENT,
        ErrorKind::AlreadyExists | ErrorKind::Conflict => libc::EEXIST,
        ErrorKind::NotADirectory => libc::ENOTDIR,
        ErrorKind::IsADirectory => libc::EISDIR,
        ErrorKind::NotEmpty => libc::ENOTEMPTY,
        ErrorKind::InvalidArgument => libc::EINVAL,
        ErrorKind::NameTooLong => libc::ENAMETOOLONG,
        ErrorKind::TooManyLinks => libc::EMLINK,
        ErrorKind::NoAttribute => libc::ENODATA,
        ErrorKind::NoData => libc::ENXIO,
        ErrorKind::NotSupported => libc::EOPNOTSUPP,
        ErrorKind::PermissionDenied | ErrorKind::Protected => libc::EPERM,
        ErrorKind::ReadOnly => libc::EROFS,
        ErrorKind::QuotaExceeded => libc::EDQUOT,
        ErrorKind::NoSpace => libc::ENOSPC,
        ErrorKind::FileTooLarge => libc::EFBIG,
        ErrorKind::Range => libc::ERANGE,
        ErrorKind::Stale | ErrorKind::OutOfRetention => libc::ESTALE,
        ErrorKind::Busy | ErrorKind::Locked => libc::EBUSY,
        ErrorKind::UnsupportedFormat
        | ErrorKind::Corrupt
        | ErrorKind::Poisoned
        | ErrorKind::Fenced
        | ErrorKind::Unavailable
        | ErrorKind::OutcomeUnknown
        | ErrorKind::Io => libc::EIO,
    })
}

impl From<storage_engine::Error> for Errno {
    /// Translates and, where the process will only see "input/output error", logs the engine's sentence.
    fn from(error: storage_engine::Error) -> Errno {
        let errno = errno_of(error.kind());
        if errno.0 == libc::EIO {
            tracing::error!(kind = ?error.kind(), %error, "a request on a volume fails");
        }
        errno
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_a_program_acts_on_have_their_own_errno() {
        for (kind, errno) in [
            (ErrorKind::NotFound, libc::ENOENT),
            (ErrorKind::NoAttribute, libc::ENODATA),
            (ErrorKind::NoData, libc::ENXIO),
            (ErrorKind::QuotaExceeded, libc::EDQUOT),
            (ErrorKind::ReadOnly, libc::EROFS),
            (ErrorKind::Stale, libc::ESTALE),
            (ErrorKind::Corrupt, libc::EIO),
        ] {
            assert_eq!(errno_of(kind), Errno(errno), "{kind:?}");
        }
    }
}
