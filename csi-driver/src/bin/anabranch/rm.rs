//! `anabranch rm`.

use std::ffi::OsString;

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::RemovedRow;
use csi_driver::owner::{Command, Event, Outcome};

use crate::screen::{count, line};
use crate::session::{Format, Session};

/// Removes files from a timeline.
#[derive(Args)]
pub struct Rm {
    /// Which: base:/some/file.
    #[arg(required = true)]
    names: Vec<OsString>,
    /// Directories too, with everything in them.
    #[arg(short, long)]
    recursive: bool,
    /// What does not exist is no error.
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    format: Format,
}

impl Rm {
    pub fn run(&self, session: &Session) -> Outcome {
        let names = self
            .names
            .iter()
            .map(|name| session.name(name))
            .collect::<Outcome<Vec<_>>>()?;
        let command = Command::Rm {
            names,
            recursive: self.recursive,
            force: self.force,
        };
        session.show(&command, self.format, &mut |event| {
            let Event::Row(row) = event else {
                return Ok(());
            };
            let row: RemovedRow = typed(row)?;
            let removed = count(row.removed, "removed", "removed");
            line(&format!(
                "{}:{} {removed}",
                row.timeline.short(),
                row.path.path
            ))
        })
    }
}
