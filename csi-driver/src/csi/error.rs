//! Errors of the interface's operations: a code that tells the caller whether to try again, and a sentence.

use storage_engine::ErrorKind;

use crate::fuse::mount::MountError;
use crate::mounts::MountsError;

/// The codes of gRPC that we answer; what each makes a sidecar or the kubelet do stands beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request makes no sense: not repeated as it is.
    InvalidArgument,
    /// The volume, snapshot or path is not there.
    NotFound,
    /// Something else has the name.
    AlreadyExists,
    /// Another operation on the same volume is under way, or a listing has to begin anew: repeated.
    Aborted,
    /// In use, protected, or not staged: repeated, after the caller has seen to it.
    FailedPrecondition,
    /// No space, or not on this node: the provisioner looks for another node.
    ResourceExhausted,
    /// The size is not possible.
    OutOfRange,
    /// Not offered.
    Unimplemented,
    /// For a moment: repeated.
    Unavailable,
    /// A path or mount did not answer in time: repeated.
    DeadlineExceeded,
    /// Stored bytes are not what was written.
    DataLoss,
    /// Anything else: repeated.
    Internal,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CsiError {
    /// What the caller is to do.
    pub code: Code,
    /// A sentence for a person.
    pub message: String,
}

/// Outcome of an operation.
pub type Result<T> = std::result::Result<T, CsiError>;

impl CsiError {
    /// An error.
    pub fn new(code: Code, message: impl Into<String>) -> CsiError {
        CsiError {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> CsiError {
        CsiError::new(Code::InvalidArgument, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> CsiError {
        CsiError::new(Code::NotFound, message)
    }
}

impl From<ErrorKind> for Code {
    fn from(kind: ErrorKind) -> Code {
        match kind {
            ErrorKind::NotFound | ErrorKind::Stale => Code::NotFound,
            ErrorKind::AlreadyExists | ErrorKind::Conflict => Code::AlreadyExists,
            ErrorKind::InvalidArgument
            | ErrorKind::NameTooLong
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::NoAttribute
            | ErrorKind::NoData => Code::InvalidArgument,
            ErrorKind::NotSupported => Code::Unimplemented,
            ErrorKind::OutOfRetention | ErrorKind::Range | ErrorKind::FileTooLarge => {
                Code::OutOfRange
            }
            ErrorKind::QuotaExceeded | ErrorKind::NoSpace | ErrorKind::TooManyLinks => {
                Code::ResourceExhausted
            }
            ErrorKind::Protected
            | ErrorKind::ReadOnly
            | ErrorKind::Busy
            | ErrorKind::NotEmpty
            | ErrorKind::PermissionDenied
            | ErrorKind::UnsupportedFormat => Code::FailedPrecondition,
            ErrorKind::Unavailable
            | ErrorKind::Fenced
            | ErrorKind::Locked
            | ErrorKind::Poisoned
            | ErrorKind::OutcomeUnknown => Code::Unavailable,
            ErrorKind::Corrupt => Code::DataLoss,
            ErrorKind::Io => Code::Internal,
        }
    }
}

impl From<storage_engine::Error> for CsiError {
    fn from(error: storage_engine::Error) -> CsiError {
        CsiError::new(error.kind().into(), error.to_string())
    }
}

impl From<MountError> for CsiError {
    fn from(error: MountError) -> CsiError {
        let code = match &error {
            MountError::Mounted { .. }
            | MountError::Nested { .. }
            | MountError::NotEmpty(_)
            | MountError::NotMounted(_)
            | MountError::Foreign { .. }
            | MountError::Moved { .. } => Code::FailedPrecondition,
            MountError::NotADirectory(_) | MountError::BadPath { .. } | MountError::Link(_) => {
                Code::InvalidArgument
            }
            MountError::NoParent(_) => Code::NotFound,
            MountError::Deadline { .. } => Code::DeadlineExceeded,
            MountError::System { error, .. } => match error.raw_os_error() {
                Some(libc::ENOENT) => Code::NotFound,
                Some(libc::ENAMETOOLONG) => Code::InvalidArgument,
                Some(libc::ENOSPC) => Code::ResourceExhausted,
                Some(libc::EBUSY | libc::ENOTEMPTY) => Code::FailedPrecondition,
                _ => Code::Internal,
            },
        };
        CsiError::new(code, error.to_string())
    }
}

impl From<MountsError> for CsiError {
    fn from(error: MountsError) -> CsiError {
        let code = match error {
            MountsError::Engine(error) => return error.into(),
            MountsError::Point(error) => return error.into(),
            MountsError::Keeper(error) if error.errno() == Some(libc::ETIMEDOUT) => {
                return CsiError::new(Code::DeadlineExceeded, error.to_string());
            }
            MountsError::Keeper(_) => Code::Unavailable,
            MountsError::Exists { .. } => Code::Aborted,
            MountsError::Written { .. } | MountsError::Busy { .. } | MountsError::Moved { .. } => {
                Code::FailedPrecondition
            }
            MountsError::NotMounted { .. } => Code::NotFound,
            MountsError::Record { .. } | MountsError::Serve { .. } => Code::Internal,
        };
        CsiError::new(code, error.to_string())
    }
}
