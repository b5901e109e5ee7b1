//! `anabranch diff`.

use std::ffi::OsString;

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::{DiffRow, DiffTotals, Difference};
use csi_driver::owner::{Command, Event, Failure, Outcome};

use crate::screen::{clean, count, line, size};
use crate::session::{Format, Session};

/// Shows what differs between two states, at the cost of what differs and not of what there is.
#[derive(Args)]
pub struct Diff {
    /// The older state; or, alone, a fork, which is compared with what it was forked from.
    from: OsString,
    /// The newer state. A path after : narrows the answer: base fork/agent-0:/src.
    to: Option<OsString>,
    /// Print the totals only.
    #[arg(short, long)]
    summary: bool,
    /// End with status 3 when something differs.
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    format: Format,
}

impl Diff {
    pub fn run(&self, session: &Session) -> Outcome {
        let (from, mut to) = match &self.to {
            Some(to) => (Some(session.name(&self.from)?), session.name(to)?),
            None => (None, session.name(&self.from)?),
        };
        let path = to.path.take().filter(|path| path != b"/");
        let mut differs = false;
        let command = Command::Diff { from, to, path };
        let json = self.format.json();
        // The printer of JSON has the events, so what differs is counted on the way there.
        let mut text = |event: Event| -> Outcome {
            match event {
                Event::Row(row) if !self.summary => {
                    let row: DiffRow = typed(row)?;
                    line(&words(&row))
                }
                Event::End(fields) => {
                    let totals: DiffTotals = typed(fields.into())?;
                    differs = totals.added + totals.removed + totals.changed + totals.renamed > 0;
                    line(&sum(&totals))
                }
                _ => Ok(()),
            }
        };
        if json && self.exit_code {
            let mut tee = Tee {
                printer: crate::screen::JsonPrinter::new(std::io::stdout().lock()),
                differs: false,
            };
            session.execute(&command, &mut std::io::empty(), &mut tee)?;
            let found = tee.differs;
            tee.printer.finish()?;
            return verdict(found);
        }
        session.show(&command, self.format, &mut text)?;
        if self.exit_code {
            verdict(differs)
        } else {
            Ok(())
        }
    }
}

struct Tee<W> {
    printer: crate::screen::JsonPrinter<W>,
    differs: bool,
}

impl<W: std::io::Write> csi_driver::owner::Output for Tee<W> {
    fn event(&mut self, event: Event) -> Outcome {
        self.differs |= matches!(event, Event::Row(_));
        self.printer.event(event)
    }
}

fn verdict(differs: bool) -> Outcome {
    if differs {
        Err(Failure::new("Differences", "the two states differ"))
    } else {
        Ok(())
    }
}

fn words(row: &DiffRow) -> String {
    let path = clean(&row.path.path);
    match row.difference {
        Difference::Added => format!("+ {path}   {}", size(row.size)),
        Difference::Removed => format!("- {path}   {}", size(row.size)),
        Difference::Changed if row.changed_bytes > 0 => {
            format!("~ {path}   {} changed", size(row.changed_bytes))
        }
        Difference::Changed => format!("~ {path}   attributes"),
        Difference::Renamed => {
            let from = row
                .from
                .as_ref()
                .map(|from| clean(&from.path))
                .unwrap_or_default();
            let bytes = if row.changed_bytes > 0 {
                format!("   {} changed", size(row.changed_bytes))
            } else {
                String::new()
            };
            format!("> {from} -> {path}{bytes}")
        }
    }
}

fn sum(totals: &DiffTotals) -> String {
    if totals.added + totals.removed + totals.changed + totals.renamed == 0 {
        return "no differences".to_owned();
    }
    format!(
        "{} added ({}), {} removed ({}), {} changed ({}), {}",
        totals.added,
        size(totals.added_bytes),
        totals.removed,
        size(totals.removed_bytes),
        totals.changed,
        size(totals.changed_bytes),
        count(totals.renamed, "renamed", "renamed"),
    )
}
