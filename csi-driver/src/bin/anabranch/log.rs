//! `anabranch log`.

use std::ffi::OsString;

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::{Happening, LogRow};
use csi_driver::owner::{Command, Event, Outcome};

use crate::screen::{Table, print, size};
use crate::session::{Format, Session};

/// Shows what happened to a timeline, or the versions of a file or directory in it, newest first.
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
        let mut rows: Vec<LogRow> = Vec::new();
        session.show(&command, self.format, &mut |event| {
            if let Event::Row(row) = event {
                rows.push(typed(row)?);
            }
            Ok(())
        })?;
        let paths = rows.iter().any(|row| row.path.is_some());
        let mut heads = vec!["TIME", "EPOCH", "EVENT"];
        if paths {
            heads.push("PATH");
        }
        let mut table = Table::new(&heads);
        for row in &rows {
            let mut cells = vec![row.time.clone(), row.epoch.to_string(), words(row)];
            if paths {
                cells.push(
                    row.path
                        .as_ref()
                        .map(|path| path.path.clone())
                        .unwrap_or_default(),
                );
            }
            table.row(cells);
        }
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
        Happening::Written if row.other.is_some() => {
            format!("written, {} (in {other})", size(row.size.unwrap_or(0)))
        }
        Happening::Written => format!("written, {}", size(row.size.unwrap_or(0))),
        Happening::Removed => "removed".to_owned(),
    }
}
