//! `anabranch fork`.

use std::ffi::OsString;

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::ForkRow;
use csi_driver::owner::{Command, Event, Failure, Outcome};

use crate::screen::line;
use crate::session::{Format, Lifetime, Session};

/// Most forks that one command makes.
const MOST: u32 = 10_000;

/// Starts writable timelines from a state; nothing is copied.
#[derive(Args)]
pub struct Fork {
    /// A bucket, a snapshot or a fork, also at an instant: base, snapshot/base-v1, base@-10m.
    source: OsString,
    /// The fork's name.
    name: String,
    /// Make a set NAME-0, NAME-1 and so on, all at the same instant.
    #[arg(long, value_name = "N")]
    count: Option<u32>,
    /// Refuse every write.
    #[arg(long)]
    read_only: bool,
    /// Most bytes it may hold: 500M, 1Gi.
    #[arg(long, value_name = "BYTES")]
    quota_bytes: Option<String>,
    /// Most files, directories and links it may hold.
    #[arg(long, value_name = "N")]
    quota_inodes: Option<u64>,
    #[command(flatten)]
    lifetime: Lifetime,
    #[command(flatten)]
    format: Format,
}

impl Fork {
    pub fn run(&self, session: &Session) -> Outcome {
        let names = match self.count {
            None => vec![self.name.clone()],
            Some(count @ 1..=MOST) => (0..count)
                .map(|index| format!("{}-{index}", self.name))
                .collect(),
            Some(_) => {
                return Err(Failure::usage(format!(
                    "--count is a number from 1 to {MOST}"
                )));
            }
        };
        let quota_bytes = match &self.quota_bytes {
            Some(text) => Some(
                text.parse::<crds::Bytes>()
                    .map_err(|e| Failure::usage(e.to_string()))?
                    .0,
            ),
            None => None,
        };
        let command = Command::Fork {
            source: session.name(&self.source)?,
            names,
            read_only: self.read_only,
            quota_bytes,
            quota_inodes: self.quota_inodes,
            expires: session.expiry(&self.lifetime)?,
        };
        session.show(&command, self.format, &mut |event| {
            let Event::Row(row) = event else {
                return Ok(());
            };
            let row: ForkRow = typed(row)?;
            line(&format!(
                "{} from {} at {} (epoch {})",
                row.fork.short(),
                row.source.short(),
                row.time,
                row.epoch
            ))
        })
    }
}
