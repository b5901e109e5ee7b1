//! `anabranch delete`.

use std::ffi::OsString;

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::DeleteAnswer;
use csi_driver::owner::{Command, Event, Outcome};

use crate::screen::line;
use crate::session::{Format, Session};

/// Deletes a fork or a snapshot that was made by command; what a manifest declares is deleted there.
#[derive(Args)]
pub struct Delete {
    /// What to delete: fork/mine, snapshot/before.
    name: OsString,
    #[command(flatten)]
    format: Format,
}

impl Delete {
    pub fn run(&self, session: &Session) -> Outcome {
        let command = Command::Delete {
            name: session.name(&self.name)?,
        };
        session.show(&command, self.format, &mut |event| {
            let Event::Begin(fields) = event else {
                return Ok(());
            };
            let answer: DeleteAnswer = typed(fields.into())?;
            line(&format!("{} deleted", answer.deleted.short()))
        })
    }
}
