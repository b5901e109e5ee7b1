//! `anabranch snapshot`.

use std::ffi::OsString;

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::SnapshotAnswer;
use csi_driver::owner::{Command, Event, Outcome};

use crate::screen::{count, line, size};
use crate::session::{Format, Lifetime, Session};

/// Pins the state of a bucket or a fork, at a cost that does not depend on how much there is.
#[derive(Args)]
pub struct Snapshot {
    /// A bucket or a fork, also at an instant: base, fork/agent-0, base@-10m.
    source: OsString,
    /// The snapshot's name; made from the source and the time when it is left out.
    name: Option<String>,
    #[command(flatten)]
    lifetime: Lifetime,
    #[command(flatten)]
    format: Format,
}

impl Snapshot {
    pub fn run(&self, session: &Session) -> Outcome {
        let source = session.name(&self.source)?;
        let name = self.name.clone().unwrap_or_else(|| {
            let time: String = csi_driver::owner::instant::rfc3339(session.now())
                .chars()
                .take(19)
                .filter(char::is_ascii_digit)
                .collect();
            format!("{}-{time}", source.name)
        });
        let command = Command::Snapshot {
            source,
            name,
            expires: session.expiry(&self.lifetime)?,
        };
        session.show(&command, self.format, &mut |event| {
            let Event::Begin(fields) = event else {
                return Ok(());
            };
            let answer: SnapshotAnswer = typed(fields.into())?;
            line(&format!(
                "{} of {} at {} (epoch {}): {}, {}",
                answer.snapshot.short(),
                answer.source.short(),
                answer.time,
                answer.epoch,
                count(answer.inodes, "inode", "inodes"),
                size(answer.logical_bytes)
            ))
        })
    }
}
