//! `anabranch check`.

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::CheckEnd;
use csi_driver::owner::{Client, Command, Event, Failure, Outcome};
use storage_engine::{Engine, Options};

use crate::screen::{count, line};
use crate::session::{Format, Session};

/// Verifies the whole store: every extent present and intact, every count equal to a recount, the chain of
/// the log unbroken.
#[derive(Args)]
pub struct Check {
    /// First make the index anew from the log, as far as the log can be read, and say what could not be.
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    format: Format,
}

impl Check {
    pub fn run(&self, session: &Session) -> Outcome {
        if self.repair {
            repair(session)?;
        }
        session.show(&Command::Check, self.format, &mut |event| {
            let Event::End(fields) = event else {
                return Ok(());
            };
            let end: CheckEnd = typed(fields.into())?;
            line(&end.text)
        })
    }
}

/// Says on the standard error what it did: the answer of the command is that of the check behind it.
fn repair(session: &Session) -> Outcome {
    let data = session.data();
    if let Some(client) = Client::connect(data)? {
        return Err(Failure::new(
            "Locked",
            format!(
                "process {} owns the store in {}, and its index cannot be made anew meanwhile",
                client.owner(),
                data.display()
            ),
        )
        .then("Stop it first (`anabranch stop`, or end the agent's pod)."));
    }
    let options = Options {
        create: false,
        ..Options::default()
    };
    let repair = Engine::repair(data, options)?;
    eprintln!(
        "made the index anew from {} of the log",
        count(repair.frames, "commit", "commits")
    );
    for lost in &repair.lost {
        eprintln!(
            "  lost: {} at offset {} (positions {} to {}): {}",
            lost.path, lost.offset, lost.from, lost.to, lost.what
        );
    }
    Ok(())
}
