//! Tells the kernel that a timeline shows another state as a whole: a restore.

use std::collections::HashSet;
use std::io;

use storage_engine::{Ino, NodeKind, Point, Touched, Volume, VolumeOptions};

use super::notifier::Target;

/// So many changes are always told one by one: it takes some milliseconds.
const FEW: usize = 2000;
/// The most that are told one by one, where the other way would be to walk through the whole state before.
const MANY: usize = 1_000_000;

/// Drops what may differ between the two states, at the cost of that: everything else stays cached. Where that is
/// more than what the kernel knows, or cannot be told, everything that the kernel knows is dropped.
pub(super) fn tell(target: &Target, from: Point, to: Point) -> io::Result<()> {
    let known = target.adapter.known().all();
    let most = if target.taken_over || !target.negotiated.epochs() {
        MANY
    } else {
        known.len().max(FEW)
    };
    match target.adapter.volume().engine().touched(from, to, most) {
        Ok(Some(touched)) => changes(target, &touched),
        Ok(None) => everything(target, from, known),
        Err(error) => {
            tracing::warn!(mount = %target.name, %error, "what a restore changed is not known; everything cached is dropped");
            everything(target, from, known)
        }
    }
}

fn changes(target: &Target, touched: &Touched) -> io::Result<()> {
    for (parent, name) in &touched.names {
        target.device.invalidate_entry(parent.0, name)?;
    }
    let nodes: Vec<u64> = touched.inodes.iter().map(|ino| ino.0).collect();
    drop_nodes(target, &nodes)
}

/// Attributes and pages go; and since with the write-back cache the kernel trusts its own length, so do the inodes,
/// unless a process has them open.
fn drop_nodes(target: &Target, nodes: &[u64]) -> io::Result<()> {
    for node in nodes {
        target.device.invalidate_inode(*node, 0)?;
    }
    if target.negotiated.prunes() {
        target.device.prune(nodes)
    } else {
        Ok(())
    }
}

/// Every name is looked up again, and everything about every inode that the kernel may know is dropped. Cost: one
/// notification for each.
fn everything(target: &Target, from: Point, known: Vec<u64>) -> io::Result<()> {
    let mut nodes: HashSet<u64> = known.into_iter().collect();
    nodes.insert(Ino::ROOT.0);
    let epochs = target.negotiated.epochs();
    if epochs {
        target.device.increment_epoch()?;
    }
    // What a predecessor told the kernel is not known here, but it was in the state before.
    if (target.taken_over || !epochs)
        && let Ok(before) = target.adapter.volume().engine().volume(
            from,
            VolumeOptions {
                origin: target.connection,
            },
        )
    {
        walk(target, &before, &mut nodes, !epochs)?;
    }
    let nodes: Vec<u64> = nodes.into_iter().collect();
    drop_nodes(target, &nodes)
}

/// Adds every inode of a state, and drops its names where the kernel has no epochs.
fn walk(target: &Target, before: &Volume, nodes: &mut HashSet<u64>, names: bool) -> io::Result<()> {
    const PAGE: usize = 1024;
    let mut folders = vec![Ino::ROOT];
    while let Some(folder) = folders.pop() {
        let mut after = 0;
        while let Ok(entries) = before.read_dir(folder, after, PAGE) {
            let Some(last) = entries.last() else { break };
            after = last.cookie;
            for entry in entries {
                nodes.insert(entry.ino.0);
                if entry.kind == NodeKind::Directory {
                    folders.push(entry.ino);
                }
                if names {
                    target.device.invalidate_entry(folder.0, &entry.name)?;
                }
            }
        }
    }
    Ok(())
}
