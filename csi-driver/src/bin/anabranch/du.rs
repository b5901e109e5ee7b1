//! `anabranch du`.

use std::ffi::OsString;

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::{UsageRow, UsageTotals};
use csi_driver::owner::{Command, Event, Outcome};

use crate::screen::{Table, print, size};
use crate::session::{Format, Session};

/// Counts what timelines and snapshots hold, what they share, what is their own, and what deleting each of
/// them would free. The last of these costs what changed around their cutoffs.
#[derive(Args)]
pub struct Du {
    /// Buckets, forks and snapshots; all buckets and forks of the namespace without.
    names: Vec<OsString>,
    /// Those of every namespace.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Print bytes instead of rounded sizes.
    #[arg(short, long)]
    bytes: bool,
    #[command(flatten)]
    format: Format,
}

impl Du {
    pub fn run(&self, session: &Session) -> Outcome {
        let names = self
            .names
            .iter()
            .map(|name| session.name(name))
            .collect::<Outcome<Vec<_>>>()?;
        let namespace = (!self.all_namespaces).then(|| session.namespace().to_owned());
        let mut table = Table::new(&[
            "NAME",
            ">LOGICAL",
            ">SHARED",
            ">DIVERGENT",
            ">FREED IF DELETED",
            ">INODES",
        ]);
        let show = |bytes: u64| {
            if self.bytes {
                bytes.to_string()
            } else {
                size(bytes)
            }
        };
        let mut rows = 0;
        session.show(
            &Command::Du { names, namespace },
            self.format,
            &mut |event| {
                match event {
                    Event::Row(row) => {
                        let row: UsageRow = typed(row)?;
                        rows += 1;
                        table.row([
                            row.timeline.short(),
                            show(row.logical_bytes),
                            show(row.shared_bytes),
                            show(row.divergent_bytes),
                            show(row.freed_bytes),
                            row.inodes.to_string(),
                        ]);
                    }
                    Event::End(fields) if rows > 1 => {
                        let totals: UsageTotals = typed(fields.into())?;
                        table.row([
                            "total".to_owned(),
                            show(totals.logical_bytes),
                            String::new(),
                            show(totals.divergent_bytes),
                            String::new(),
                            String::new(),
                        ]);
                    }
                    _ => {}
                }
                Ok(())
            },
        )?;
        if table.is_empty() {
            Ok(())
        } else {
            print(&table.text())
        }
    }
}
