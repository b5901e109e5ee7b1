//! Drives the built binaries as a user would: starts `anabranch play` on manifests, waits for its mounts, runs
//! ordinary programs in them, and stops it again.
//!
//! [`binaries`] finds what was built, [`program`] runs programs with a time limit, [`play`] is one running
//! `anabranch play`, and [`arena`] a folder to test in, on a fork. The tests in `e2e/tests` and the benchmarks stand
//! on them.

pub mod arena;
pub mod binaries;
pub mod cluster;
pub mod node;
pub mod play;
pub mod program;

/// What went wrong, in a sentence for whoever reads the test's output.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Failure>;

/// True in continuous integration, where a test that cannot run is a failure.
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}
