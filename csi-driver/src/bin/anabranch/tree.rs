//! `anabranch tree`.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::Args;
use csi_driver::owner::name::Kind;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::{TreeRow, TreeSnapshot};
use csi_driver::owner::{Command, Event, Outcome};
use storage_engine::Epoch;

use crate::screen::{Table, print, size};
use crate::session::{Format, Session};

/// Draws the timelines with their snapshots: a fork stands under what it came from.
#[derive(Args)]
pub struct Tree {
    /// Only the lineage that this one belongs to.
    name: Option<OsString>,
    /// Those of every namespace.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    #[command(flatten)]
    format: Format,
}

impl Tree {
    pub fn run(&self, session: &Session) -> Outcome {
        let name = self
            .name
            .as_deref()
            .map(|name| session.name(name))
            .transpose()?;
        let namespace = (!self.all_namespaces).then(|| session.namespace().to_owned());
        let mut rows: Vec<TreeRow> = Vec::new();
        session.show(
            &Command::Tree { name, namespace },
            self.format,
            &mut |event| {
                if let Event::Row(row) = event {
                    rows.push(typed(row)?);
                }
                Ok(())
            },
        )?;
        if rows.is_empty() {
            Ok(())
        } else {
            print(&draw(&rows))
        }
    }
}

/// What stands under a timeline, in the order of time.
enum Child<'a> {
    Snapshot(&'a TreeSnapshot),
    Fork(&'a TreeRow),
    Restore(&'a csi_driver::owner::report::RestoreText),
}

struct Drawing<'a> {
    by_parent: BTreeMap<&'a str, Vec<&'a TreeRow>>,
    by_snapshot: BTreeMap<&'a str, Vec<&'a TreeRow>>,
    table: Table,
}

/// The tree as text.
fn draw(rows: &[TreeRow]) -> String {
    let snapshots: BTreeMap<&str, ()> = rows
        .iter()
        .flat_map(|row| &row.snapshots)
        .map(|snapshot| (snapshot.snapshot.id.as_str(), ()))
        .collect();
    let timelines: BTreeMap<&str, ()> = rows
        .iter()
        .map(|row| (row.timeline.id.as_str(), ()))
        .collect();
    let mut drawing = Drawing {
        by_parent: BTreeMap::new(),
        by_snapshot: BTreeMap::new(),
        table: Table::new(&["TIMELINE", ">SIZE", ">OWN", "AT", "MOUNTED"]),
    };
    let mut roots = Vec::new();
    for row in rows {
        let Some(origin) = &row.origin else {
            roots.push(row);
            continue;
        };
        match origin
            .snapshot
            .as_deref()
            .filter(|id| snapshots.contains_key(id))
        {
            Some(snapshot) => drawing.by_snapshot.entry(snapshot).or_default().push(row),
            None if timelines.contains_key(origin.parent.as_str()) => {
                drawing
                    .by_parent
                    .entry(origin.parent.as_str())
                    .or_default()
                    .push(row);
            }
            None => roots.push(row),
        }
    }
    for root in roots {
        drawing.timeline(root, "", "");
    }
    drawing.table.text()
}

impl<'a> Drawing<'a> {
    /// A timeline's own line, led by `lead`, and everything under it, led by `below`.
    fn timeline(&mut self, row: &'a TreeRow, lead: &str, below: &str) {
        let mut name = format!("{lead}{}", row.timeline.short());
        if row.deleted {
            name.push_str(" (deleted)");
        } else if row.read_only {
            name.push_str(" (read-only)");
        }
        let since = match &row.origin {
            Some(origin) => time(origin.epoch),
            None => row.created.map(time).unwrap_or_default(),
        };
        let bytes = |bytes: u64| {
            if row.deleted {
                String::new()
            } else {
                size(bytes)
            }
        };
        self.table.row([
            name,
            bytes(row.logical_bytes),
            bytes(row.divergent_bytes),
            since,
            row.mounts.join(", "),
        ]);
        let mut children: Vec<(Epoch, u8, Child<'a>)> = Vec::new();
        children.extend(
            row.snapshots
                .iter()
                .map(|s| (s.epoch, 0, Child::Snapshot(s))),
        );
        children.extend(row.restores.iter().map(|r| (r.epoch, 1, Child::Restore(r))));
        for fork in self
            .by_parent
            .remove(row.timeline.id.as_str())
            .unwrap_or_default()
        {
            children.push((
                fork.origin.as_ref().map_or(Epoch(0), |o| o.epoch),
                2,
                Child::Fork(fork),
            ));
        }
        // Stable: forks of one cutoff stay in the order of their names.
        children.sort_by_key(|(epoch, order, _)| (*epoch, *order));
        let last = children.len().saturating_sub(1);
        for (at, (_, _, child)) in children.into_iter().enumerate() {
            let (lead, below) = branch(below, at == last);
            match child {
                Child::Snapshot(snapshot) => self.snapshot(snapshot, &lead, &below),
                Child::Fork(fork) => self.timeline(fork, &lead, &below),
                Child::Restore(restore) => self.table.row([
                    format!("{lead}↺ restored to {}", restore.to.short()),
                    String::new(),
                    String::new(),
                    time(restore.epoch),
                    String::new(),
                ]),
            }
        }
    }

    fn snapshot(&mut self, snapshot: &'a TreeSnapshot, lead: &str, below: &str) {
        let name = match snapshot.snapshot.kind {
            Some(Kind::Snapshot) => snapshot.snapshot.short(),
            _ => snapshot.snapshot.name.clone(),
        };
        let cells = [
            format!("{lead}● {name}"),
            size(snapshot.logical_bytes),
            String::new(),
            time(snapshot.epoch),
            String::new(),
        ];
        self.table.row(cells);
        let forks = self
            .by_snapshot
            .remove(snapshot.snapshot.id.as_str())
            .unwrap_or_default();
        let last = forks.len().saturating_sub(1);
        for (at, fork) in forks.into_iter().enumerate() {
            let (lead, below) = branch(below, at == last);
            self.timeline(fork, &lead, &below);
        }
    }
}

/// The lines that lead to a child and to what is under it.
fn branch(below: &str, last: bool) -> (String, String) {
    if last {
        (format!("{below}└─ "), format!("{below}   "))
    } else {
        (format!("{below}├─ "), format!("{below}│  "))
    }
}

fn time(epoch: Epoch) -> String {
    csi_driver::owner::instant::readable(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use csi_driver::owner::report::{OriginText, Reference, RestoreText, State};

    fn row(name: &str, id: &str, origin: Option<(&str, u64, Option<&str>)>) -> TreeRow {
        TreeRow {
            timeline: Reference::new(name, id),
            deleted: false,
            created: Some(Epoch(1_000_000_000)),
            origin: origin.map(|(parent, epoch, snapshot)| OriginText {
                parent: parent.into(),
                epoch: Epoch(epoch * 1_000_000_000),
                time: String::new(),
                snapshot: snapshot.map(str::to_owned),
            }),
            restores: Vec::new(),
            snapshots: Vec::new(),
            read_only: false,
            divergent_bytes: 0,
            logical_bytes: 0,
            mounts: Vec::new(),
        }
    }

    #[test]
    fn forks_stand_under_their_snapshots_and_restores_are_shown() {
        let mut base = row("bucket/default/base", "b", None);
        base.snapshots.push(TreeSnapshot {
            snapshot: Reference::new("snapshot/default/v1", "s"),
            epoch: Epoch(2_000_000_000),
            time: String::new(),
            logical_bytes: 0,
        });
        base.restores.push(RestoreText {
            epoch: Epoch(4_000_000_000),
            time: String::new(),
            to: State::at(Reference::new("snapshot/default/v1", "s"), None),
        });
        let mut gone = row("fork/default/gone", "g", Some(("b", 3, None)));
        gone.deleted = true;
        let rows = [
            base,
            row("fork/default/a-0", "a0", Some(("b", 2, Some("s")))),
            row("fork/default/a-1", "a1", Some(("b", 2, Some("s")))),
            gone,
            row(
                "fork/default/child",
                "c",
                Some(("g", 4, Some("no-longer-there"))),
            ),
        ];
        let text = draw(&rows);
        let names: Vec<&str> = text
            .lines()
            .map(|line| line.split("   ").next().unwrap_or(""))
            .map(str::trim_end)
            .collect();
        let first: Vec<String> = text
            .lines()
            .map(|line| {
                line.chars()
                    .take_while(|c| *c != '0')
                    .collect::<String>()
                    .trim_end()
                    .to_owned()
            })
            .collect();
        assert!(first[1].starts_with("bucket/base"), "{text}");
        assert!(text.contains("├─ ● snapshot/v1"), "{text}");
        assert!(text.contains("│  ├─ fork/a-0"), "{text}");
        assert!(text.contains("│  └─ fork/a-1"), "{text}");
        assert!(text.contains("├─ fork/gone (deleted)"), "{text}");
        assert!(text.contains("│  └─ fork/child"), "{text}");
        assert!(text.contains("└─ ↺ restored to snapshot/v1"), "{text}");
        assert_eq!(names.len(), 8, "{text}");
    }
}
