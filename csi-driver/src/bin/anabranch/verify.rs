//! `anabranch verify`.

use std::ffi::OsString;

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::{Command, Event, Outcome};
use serde::Deserialize;

use crate::screen::{count, line};
use crate::session::{Format, Session};

/// Proves by the chain of digests that the history up to a snapshot is what was written: reads the log up to it, and finds
/// every commit that was edited, removed or moved.
#[derive(Args)]
pub struct Verify {
    /// The snapshot.
    #[arg(value_name = "SNAPSHOT")]
    name: OsString,
    /// The digest as it was kept elsewhere (`status.digest` of a BucketSnapshot, or what `snapshot` printed). Without it,
    /// whoever can write the whole store anew is not found out.
    #[arg(long, value_name = "HEX")]
    digest: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// The answer.
#[derive(Deserialize)]
struct Verified {
    digest: String,
    segments: u64,
    #[serde(default)]
    compacted: u64,
    frames: u64,
}

impl Verify {
    pub fn run(&self, session: &Session) -> Outcome {
        let command = Command::Verify {
            name: session.name(&self.name)?,
            digest: self.digest.clone(),
        };
        session.show(&command, self.format, &mut |event| {
            let Event::Begin(fields) = event else {
                return Ok(());
            };
            let verified: Verified = typed(fields.into())?;
            let compacted = match verified.compacted {
                0 => String::new(),
                n => format!(" ({n} of them compacted by the collector, as the log says)"),
            };
            line(&format!(
                "{} in {}{compacted} are what was written, up to the digest {}",
                count(verified.frames, "commit", "commits"),
                count(verified.segments, "segment", "segments"),
                verified.digest
            ))
        })
    }
}
