//! `anabranch restore`.

use std::ffi::OsString;

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::RestoreAnswer;
use csi_driver::owner::{Command, Event, Outcome};

use crate::screen::{line, print};
use crate::session::{Format, Session};

/// Points a bucket or a fork at an earlier state, at a cost that does not depend on how much there is.
#[derive(Args)]
pub struct Restore {
    /// The bucket or fork.
    name: OsString,
    /// The state it gets: a snapshot, or a bucket or fork at an instant (base@-10m).
    to: OsString,
    #[command(flatten)]
    format: Format,
}

impl Restore {
    pub fn run(&self, session: &Session) -> Outcome {
        let command = Command::Restore {
            name: session.name(&self.name)?,
            to: session.name(&self.to)?,
        };
        session.show(&command, self.format, &mut |event| {
            let Event::Begin(fields) = event else {
                return Ok(());
            };
            let answer: RestoreAnswer = typed(fields.into())?;
            let name = answer.timeline.short();
            line(&format!("{name} is now as {}", answer.restored_to.short()))?;
            let before = answer.kept.map_or_else(
                || format!("{name}@{}", answer.before),
                |snapshot| snapshot.short(),
            );
            print(&format!("  what was there before: {before}\n"))
        })
    }
}
