//! What a command answers when it cannot do what it was asked: one sentence, and what to do next.

use serde::{Deserialize, Serialize};
use storage_engine::{Error, ErrorKind};

/// A command failed. Travels through the owner's socket as it is, so both ways of running a command
/// print the same words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// One word for programs: the engine's error kind (`NotFound`, `QuotaExceeded`, ...), or one of
    /// `Usage`, `Ambiguous`, `Differences`, `Damaged`, `Owner`, `Manifests`, `Stopped`.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
    /// What to do next, when there is something.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// Result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with this reason; `message` is one sentence.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
            next: None,
        }
    }

    /// The request does not make sense as it was written.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new("Usage", message)
    }

    /// Something that was named does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new("NotFound", message)
    }

    /// The owner of the store cannot be talked to.
    pub fn owner(message: impl Into<String>) -> Self {
        Self::new("Owner", message)
    }

    /// The same failure with a word on what to do next.
    #[must_use]
    pub fn then(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// The same failure, its sentence led by what was being done.
    #[must_use]
    pub fn during(mut self, what: impl std::fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The status with which the process ends: 1 for an error, 2 for a usage error, 3 when `diff
    /// --exit-code` found differences, 4 when `check` found damage.
    pub fn exit_code(&self) -> u8 {
        match self.reason.as_str() {
            "Usage" | "Ambiguous" => 2,
            "Differences" => 3,
            "Damaged" => 4,
            _ => 1,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let next = match error.kind() {
            ErrorKind::Locked => Some("Stop that process, or wait until it has ended."),
            ErrorKind::NoSpace => Some(
                "Free space under the data directory and try again; nothing that was committed is lost.",
            ),
            ErrorKind::QuotaExceeded => {
                Some("Raise the quota in its manifest, or remove something from this timeline.")
            }
            ErrorKind::ReadOnly => Some("Write to a fork instead: `anabranch fork SOURCE NAME`."),
            ErrorKind::Protected => Some("Take the protection away in its manifest first."),
            ErrorKind::UnsupportedFormat => {
                Some("Use the version of anabranch that wrote this store, or a newer one.")
            }
            ErrorKind::Corrupt => Some("Run `anabranch check` to see everything that is affected."),
            ErrorKind::Poisoned => {
                Some("Stop the owner and start it again: the store recovers what was durable.")
            }
            ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::NotEmpty
            | ErrorKind::InvalidArgument
            | ErrorKind::NameTooLong
            | ErrorKind::TooManyLinks
            | ErrorKind::NoAttribute
            | ErrorKind::NoData
            | ErrorKind::NotSupported
            | ErrorKind::PermissionDenied
            | ErrorKind::FileTooLarge
            | ErrorKind::Range
            | ErrorKind::Stale
            | ErrorKind::Conflict
            | ErrorKind::OutOfRetention
            | ErrorKind::Fenced
            | ErrorKind::Unavailable
            | ErrorKind::OutcomeUnknown
            | ErrorKind::Busy
            | ErrorKind::Io => None,
        };
        Self {
            reason: format!("{:?}", error.kind()),
            message: error.to_string(),
            next: next.map(str::to_owned),
        }
    }
}

/// A file operation outside the store failed.
pub(crate) fn host(what: impl std::fmt::Display, error: &std::io::Error) -> Failure {
    let reason = if error.kind() == std::io::ErrorKind::StorageFull {
        "NoSpace"
    } else {
        "Io"
    };
    Failure::new(reason, format!("cannot {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_socket_word_for_word() {
        let failure =
            Failure::from(Error::new(ErrorKind::NoSpace, "the disk is full")).during("put base:/x");
        let back: Failure =
            serde_json::from_str(&serde_json::to_string(&failure).unwrap()).unwrap();
        assert_eq!(back, failure);
        assert_eq!(back.to_string(), "put base:/x: the disk is full");
        assert!(back.next.unwrap().starts_with("Free space"));
        assert_eq!(Failure::usage("no").exit_code(), 2);
    }
}
