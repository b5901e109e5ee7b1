//! `anabranch check`.

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::CheckEnd;
use csi_driver::owner::{Command, Event, Outcome};

use crate::screen::line;
use crate::session::{Format, Session};

/// Verifies the whole store: every extent present and intact, every count equal to a recount, the chain of
/// the log unbroken.
#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    format: Format,
}

impl Check {
    pub fn run(&self, session: &Session) -> Outcome {
        session.show(&Command::Check, self.format, &mut |event| {
            let Event::End(fields) = event else {
                return Ok(());
            };
            let end: CheckEnd = typed(fields.into())?;
            line(&end.text)
        })
    }
}
