//! `anabranch scrub`.

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::ScrubEnd;
use csi_driver::owner::{Command, Event, Outcome};

use crate::screen::line;
use crate::session::{Format, Session};

/// Reads everything that is stored (the log, object files, the index) and names what does not match its checksum. It keeps
/// nobody waiting, and compares nothing: `check` does that.
#[derive(Args)]
pub struct Scrub {
    /// MiB read each second, at most.
    #[arg(long, value_name = "MIB")]
    rate: Option<u64>,
    #[command(flatten)]
    format: Format,
}

impl Scrub {
    pub fn run(&self, session: &Session) -> Outcome {
        let rate = self.rate.map(|mib| mib.saturating_mul(1 << 20));
        session.show(&Command::Scrub { rate }, self.format, &mut |event| {
            let Event::End(fields) = event else {
                return Ok(());
            };
            let end: ScrubEnd = typed(fields.into())?;
            line(&end.text)
        })
    }
}
