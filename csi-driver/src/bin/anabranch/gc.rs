//! `anabranch gc`.

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::{GcEnd, GcRow};
use csi_driver::owner::{Command, Event, Outcome};

use crate::screen::{count, line, size};
use crate::session::{Format, Session};

/// Gives back the space of what no snapshot, fork, retention or reader needs any more, and shows what is
/// kept why. `anabranch play` does the same in the background.
#[derive(Args)]
pub struct Gc {
    /// Only tell what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Compact every segment of the log of which a twentieth comes back; otherwise half of it has to. It looks at every
    /// change that was ever made and is still stored.
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    format: Format,
}

impl Gc {
    pub fn run(&self, session: &Session) -> Outcome {
        let command = Command::Gc {
            dry_run: self.dry_run,
            full: self.full,
        };
        let dry_run = self.dry_run;
        session.show(&command, self.format, &mut |event| match event {
            Event::Row(fields) => {
                let row: GcRow = typed(fields)?;
                line(&format!("kept {:>10}  {}", size(row.bytes), row.text))
            }
            Event::End(fields) => {
                let end: GcEnd = typed(fields.into())?;
                line(&summary(dry_run, &end))
            }
            _ => Ok(()),
        })
    }
}

fn summary(dry_run: bool, end: &GcEnd) -> String {
    let mut text = format!(
        "{} {} in {}",
        if dry_run { "would give up" } else { "gave up" },
        size(end.bytes),
        count(end.timelines, "timeline", "timelines"),
    );
    if end.dropped_timelines > 0 {
        let dropped = count(
            end.dropped_timelines,
            "deleted timeline",
            "deleted timelines",
        );
        text.push_str(&format!(", {dropped} whole"));
    }
    if end.compacted > 0 {
        let segments = count(end.compacted, "segment", "segments");
        let verb = if dry_run {
            "would compact"
        } else {
            "compacted"
        };
        text.push_str(&format!("; {verb} {segments} of the log"));
    }
    if !dry_run {
        text.push_str(&format!(
            "; the file system got {} back",
            size(end.returned_bytes)
        ));
    }
    text.push_str(&format!("; {} are kept", size(end.kept_bytes)));
    text
}
