//! `anabranch log`.

use std::ffi::OsString;

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::{Happening, LogRow};
use csi_driver::owner::{Command, Event, Outcome};

use crate::screen::{Table, print, size};
use crate::session::{Format, Session};

/// Shows what happened to a timeline, or to one file of it, newest first.
#[derive(Args)]
pub struct Log {
    /// A bucket or a fork, or a file in it: base, base:/some/file.
    name: OsString,
    /// At most so many entries.
    #[arg(short = 'c', long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    format: Format,
}

impl Log {
    pub fn run(&self, session: &Session) -> Outcome {
        let command = Command::Log {
            name: session.name(&self.name)?,
            limit: self.limit,
        };
        let mut table = Table::new(&["TIME", "EPOCH", "EVENT"]);
        session.show(&command, self.format, &mut |event| {
            let Event::Row(row) = event else {
                return Ok(());
            };
            let row: LogRow = typed(row)?;
            table.row([row.time.clone(), row.epoch.to_string(), words(&row)]);
            Ok(())
        })?;
        if table.is_empty() {
            Ok(())
        } else {
            print(&table.text())
        }
    }
}

fn words(row: &LogRow) -> String {
    let other = row
        .other
        .as_ref()
        .map(|state| state.short())
        .unwrap_or_default();
    match row.event {
        Happening::Created => "created".to_owned(),
        Happening::ForkedFrom => format!("forked from {other}"),
        Happening::Snapshot => format!("snapshot taken: {}", other.trim_start_matches("snapshot/")),
        Happening::Fork => format!("forked: {other}"),
        Happening::RestoredTo => format!("restored to {other}"),
        Happening::Written => format!("written, {}", size(row.size.unwrap_or(0))),
        Happening::Removed => "removed".to_owned(),
    }
}
