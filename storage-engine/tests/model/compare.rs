//! Compares what the engine shows with the model, completely.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use storage_engine::{Attr, DirEntry, Engine, Ino, NodeKind, Result, Seek, Volume, VolumeOptions};

use crate::content::Content;
use crate::fs::{Body, Fs, Handle, ROOT};
use crate::op::At;
use crate::subject::{Subject, to_time};
use crate::world::World;

/// Looks the whole store over. Called at the end of every scenario; panics with what is wrong.
pub fn assert_store_sound(engine: &Engine) {
    let report = engine.check(|_| {}).expect("the store can be checked");
    assert!(report.errors == 0, "the store is not sound: {report:#?}");
}

/// Attributes that differ from the model's.
pub fn attr_fault(fs: &Fs, handle: Handle, ino: Ino, attr: &Attr) -> Option<String> {
    let Ok(node) = fs.node(handle) else {
        return Some(format!(
            "attributes of inode {handle}, which is gone: {attr:?}"
        ));
    };
    let mut wrong = String::new();
    let mut check = |what: &str, got: &dyn std::fmt::Debug, right: &dyn std::fmt::Debug| {
        let (got, right) = (format!("{got:?}"), format!("{right:?}"));
        if got != right {
            let _ = write!(wrong, " {what} {got}, right {right};");
        }
    };
    check("ino", &attr.ino, &ino);
    check("kind", &attr.kind, &node.kind);
    check(
        "mode",
        &format!("{:o}", attr.mode),
        &format!("{:o}", node.mode),
    );
    check("nlink", &attr.nlink, &node.nlink);
    check("uid", &attr.uid, &node.uid);
    check("gid", &attr.gid, &node.gid);
    check("rdev", &attr.rdev, &node.rdev);
    check("atime", &attr.atime, &to_time(node.atime));
    check("mtime", &attr.mtime, &to_time(node.mtime));
    check("ctime", &attr.ctime, &to_time(node.ctime));
    check("btime", &attr.btime, &to_time(node.btime));
    match &node.body {
        Body::File(content) => check("size", &attr.size, &content.size),
        Body::Symlink(target) => check("size", &attr.size, &target.len()),
        _ => {}
    }
    (!wrong.is_empty()).then(|| format!("inode {handle} ({}):{wrong}", attr.ino))
}

pub fn bytes_fault(right: &[u8], got: &[u8]) -> Option<String> {
    if right == got {
        return None;
    }
    let at = right
        .iter()
        .zip(got)
        .position(|(a, b)| a != b)
        .unwrap_or(right.len().min(got.len()));
    let wrong = right.iter().zip(got).filter(|(a, b)| a != b).count();
    Some(format!(
        "{} bytes, right {}; {wrong} differ, first at {at}: {:02x?}, right {:02x?}",
        got.len(),
        right.len(),
        &got[at.min(got.len())..got.len().min(at + 8)],
        &right[at.min(right.len())..right.len().min(at + 8)],
    ))
}

/// The whole directory, read in pages of this size.
pub fn read_dir(volume: &Volume, ino: Ino, page: usize) -> Result<Vec<DirEntry>> {
    let mut all: Vec<DirEntry> = Vec::new();
    let mut after = 0;
    loop {
        let entries = volume.read_dir(ino, after, page)?;
        let Some(last) = entries.last() else {
            return Ok(all);
        };
        assert!(
            entries.len() <= page,
            "{} entries in a page of {page}",
            entries.len()
        );
        after = last.cookie;
        all.extend(entries);
        assert!(all.len() < 100_000, "a directory without end");
    }
}

pub fn entries_fault(
    right: &[(Vec<u8>, Handle, NodeKind)],
    got: &[DirEntry],
    ino: impl Fn(Handle) -> Ino,
) -> Option<String> {
    let cookies: BTreeSet<u64> = got.iter().map(|entry| entry.cookie).collect();
    if cookies.len() < got.len()
        || cookies
            .iter()
            .any(|&cookie| cookie <= 2 || cookie >> 63 != 0)
    {
        return Some(format!("cookies {cookies:?} of {} entries", got.len()));
    }
    let mut got: Vec<_> = got
        .iter()
        .map(|entry| (entry.name.clone(), entry.ino, entry.kind))
        .collect();
    got.sort_by(|a, b| a.0.cmp(&b.0));
    let right: Vec<_> = right
        .iter()
        .map(|(name, handle, kind)| (name.clone(), ino(*handle), *kind))
        .collect();
    (got != right).then(|| format!("directory has {got:?}, right {right:?}"))
}

/// Compares one view with a state. Numbers of inodes that are not known yet are learned from the names, so a
/// store can be compared that another process wrote.
pub fn state_fault(volume: &Volume, fs: &Fs, inos: &mut BTreeMap<Handle, Ino>) -> Option<String> {
    match state_differs(volume, fs, inos) {
        Ok(fault) => fault,
        Err(error) => Some(format!(
            "error while comparing: {:?}: {error}",
            error.kind()
        )),
    }
}

fn state_differs(
    volume: &Volume,
    fs: &Fs,
    inos: &mut BTreeMap<Handle, Ino>,
) -> Result<Option<String>> {
    let mut todo = vec![(ROOT, Vec::new())];
    let mut seen = BTreeSet::from([ROOT]);
    while let Some((directory, path)) = todo.pop() {
        let Ok(entries) = fs.entries(directory) else {
            continue;
        };
        let ino = inos[&directory];
        let page = 1 + entries.len() % 5;
        let listed = read_dir(volume, ino, page)?;
        for (name, &handle) in entries {
            if !inos.contains_key(&handle)
                && let Some(entry) = listed.iter().find(|entry| entry.name == *name)
            {
                inos.insert(handle, entry.ino);
            }
        }
        let right: Vec<_> = entries
            .iter()
            .filter_map(|(name, &handle)| Some((name.clone(), handle, fs.node(handle).ok()?.kind)))
            .collect();
        let number = |handle| inos.get(&handle).copied().unwrap_or(Ino(0));
        if let Some(fault) = entries_fault(&right, &listed, number) {
            return Ok(Some(format!("/{}: {fault}", path.escape_ascii())));
        }
        if let Some(parent) = fs.parent(directory)
            && fs.node(directory).is_ok_and(|node| node.nlink > 0)
        {
            let up = volume.lookup(ino, b"..")?;
            if up.ino != number(parent) {
                return Ok(Some(format!(
                    "/{}: .. is {}, right {}",
                    path.escape_ascii(),
                    up.ino,
                    number(parent)
                )));
            }
        }
        for (name, &handle) in entries {
            let mut path = path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let attr = volume.lookup(ino, name)?;
            if let Some(fault) = attr_fault(fs, handle, number(handle), &attr) {
                return Ok(Some(format!("/{}: by name: {fault}", path.escape_ascii())));
            }
            let resolved = volume.resolve(&path)?.ino;
            if resolved != attr.ino {
                return Ok(Some(format!(
                    "/{} resolves to {resolved}, right {}",
                    path.escape_ascii(),
                    attr.ino
                )));
            }
            if seen.insert(handle) {
                let back = volume.resolve(&volume.path_of(attr.ino)?)?.ino;
                if back != attr.ino {
                    return Ok(Some(format!("path of {} leads to {back}", attr.ino)));
                }
                todo.push((handle, path));
            }
        }
    }
    for (&handle, node) in &fs.nodes {
        // Inodes without a name whose number nobody told us cannot be looked at.
        let Some(&ino) = inos.get(&handle) else {
            continue;
        };
        let attr = volume.attr(ino)?;
        if let Some(fault) = attr_fault(fs, handle, ino, &attr) {
            return Ok(Some(fault));
        }
        if let Some(fault) = node_differs(volume, &node.body, ino)? {
            return Ok(Some(format!("inode {handle} ({ino}): {fault}")));
        }
        let mut names = volume.xattrs(ino)?;
        names.sort();
        if names.iter().ne(node.xattrs.keys()) {
            return Ok(Some(format!(
                "inode {handle} ({ino}): xattrs {names:?}, right {:?}",
                node.xattrs.keys()
            )));
        }
        for (name, right) in &node.xattrs {
            if let Some(fault) = bytes_fault(right, &volume.xattr(ino, name)?) {
                return Ok(Some(format!(
                    "inode {handle} ({ino}): xattr {}: {fault}",
                    name.escape_ascii()
                )));
            }
        }
    }
    // What is gone must be gone (its number may live on: a restored state can bring another owner of it).
    let alive: BTreeSet<Ino> = fs
        .nodes
        .keys()
        .filter_map(|handle| inos.get(handle).copied())
        .collect();
    for handle in fs
        .born
        .iter()
        .filter(|handle| !fs.nodes.contains_key(handle))
    {
        if let Some(&ino) = inos.get(handle)
            && !alive.contains(&ino)
            && let Ok(attr) = volume.attr(ino)
        {
            return Ok(Some(format!(
                "inode {handle} is gone, but the engine has {attr:?}"
            )));
        }
    }
    Ok(None)
}

fn node_differs(volume: &Volume, body: &Body, ino: Ino) -> Result<Option<String>> {
    match body {
        Body::Symlink(target) => Ok(bytes_fault(target, &volume.read_link(ino)?)),
        Body::File(content) => content_differs(volume, content, ino),
        Body::Directory { .. } | Body::Special => Ok(None),
    }
}

/// Files up to this size are read whole.
const WHOLE: u64 = 1 << 20;

fn content_differs(volume: &Volume, content: &Content, ino: Ino) -> Result<Option<String>> {
    let mut ranges = vec![(
        content.size.saturating_sub(10),
        content.size.saturating_add(10),
    )];
    if content.size <= WHOLE {
        ranges.push((0, content.size));
    } else {
        ranges.extend(
            content
                .stretches()
                .iter()
                .map(|(from, to)| (from.saturating_sub(5), to + 5)),
        );
    }
    for (from, to) in ranges {
        let got = volume.read(ino, from, (to - from) as usize)?;
        if let Some(fault) = bytes_fault(&content.read(from, to - from), &got) {
            return Ok(Some(format!("bytes from {from} to {to}: {fault}")));
        }
    }
    // Data and holes must take turns and cover the file; nothing but zeros in holes, and zeros where the
    // engine has data that the model has not.
    let mut at = 0;
    for _ in 0..10_000 {
        if at >= content.size {
            break;
        }
        let data = match volume.seek(ino, at, Seek::Data) {
            Ok(data) => data,
            Err(error) if error.kind() == storage_engine::ErrorKind::NoData => content.size,
            Err(error) => return Err(error),
        };
        if data < at || data > content.size {
            return Ok(Some(format!(
                "data after {at} reported at {data}, size {}",
                content.size
            )));
        }
        if let Some(lost) = content.first_nonzero(at, data) {
            return Ok(Some(format!(
                "hole reported from {at} to {data}, but byte {lost} is not zero"
            )));
        }
        if data == content.size {
            break;
        }
        let hole = volume.seek(ino, data, Seek::Hole)?;
        if hole <= data || hole > content.size {
            return Ok(Some(format!(
                "hole after {data} reported at {hole}, size {}",
                content.size
            )));
        }
        if content.size > WHOLE {
            let len = (hole - data).min(WHOLE);
            if let Some(fault) = bytes_fault(
                &content.read(data, len),
                &volume.read(ino, data, len as usize)?,
            ) {
                return Ok(Some(format!("bytes from {data}: {fault}")));
            }
        }
        at = hole;
    }
    Ok(None)
}

impl Subject {
    /// Compares every timeline, every snapshot and the given ends of epochs.
    pub fn compare(&mut self, world: &World, epochs: impl Fn(usize) -> bool) -> Result<(), String> {
        self.compare_lists(world)?;
        let mut points: Vec<At> = world.timelines.keys().map(|&t| At::Now(t)).collect();
        points.extend(world.snapshots.keys().map(|&s| At::Snapshot(s)));
        for (i, close) in world.history.iter().enumerate() {
            if epochs(i) {
                points.extend(
                    close
                        .states
                        .keys()
                        .filter(|t| world.timelines.contains_key(t))
                        .map(|&t| At::Closed(t, close.step)),
                );
            }
        }
        for at in points {
            self.compare_point(world, at)
                .map_err(|fault| format!("{at:?}: {fault}"))?;
        }
        Ok(())
    }

    pub fn compare_point(&mut self, world: &World, at: At) -> Result<(), String> {
        let Some(state) = world.state(at) else {
            return Ok(());
        };
        let Some(point) = self.point(at) else {
            return Err("its epoch has no number".into());
        };
        let volume = match at {
            At::Now(t) => self.volume(crate::op::Place::Timeline(t)),
            _ => self
                .engine()
                .volume(point, VolumeOptions::default())
                .map(Arc::new),
        };
        if let (At::Closed(timeline, step), Err(e)) = (at, &volume)
            && e.kind() == storage_engine::ErrorKind::OutOfRetention
            && self
                .epochs
                .get(&step)
                .is_some_and(|epoch| world.may_be_gone(timeline, epoch.0))
        {
            return Ok(());
        }
        let volume = volume.map_err(|e| format!("cannot be read: {:?}: {e}", e.kind()))?;
        let read_only = match at {
            At::Now(t) => world.timelines.get(&t).is_some_and(|t| t.read_only),
            _ => true,
        };
        if volume.read_only() != read_only {
            return Err(format!("read-only is {}", !read_only));
        }
        state_fault(&volume, &state, &mut self.inos).map_or(Ok(()), Err)?;
        self.compare_usage(at, &volume, &state)
    }

    /// The running totals against a count.
    fn compare_usage(&self, at: At, volume: &Volume, state: &Fs) -> Result<(), String> {
        let (logical, inodes, allocated) = match at {
            At::Now(t) => {
                let usage = self
                    .engine()
                    .usage(self.timeline_id(t))
                    .map_err(|e| e.to_string())?;
                if usage.shared_bytes > usage.allocated_bytes {
                    return Err(format!("more is shared than allocated: {usage:?}"));
                }
                (
                    usage.logical_bytes,
                    usage.inodes,
                    Some(usage.allocated_bytes),
                )
            }
            At::Snapshot(s) => {
                let info = self
                    .engine()
                    .snapshot_info(self.snapshot_id(s))
                    .map_err(|e| e.to_string())?;
                (info.logical_bytes, info.inodes, None)
            }
            At::Closed(..) => return Ok(()),
        };
        let right: u64 = state
            .nodes
            .keys()
            .filter_map(|&handle| state.file_size(handle))
            .sum();
        if (logical, inodes) != (right, state.nodes.len() as u64) {
            return Err(format!(
                "{logical} bytes in {inodes} inodes, right: {right} in {}",
                state.nodes.len()
            ));
        }
        let numbers: Option<Vec<Ino>> = state
            .nodes
            .keys()
            .map(|handle| self.inos.get(handle).copied())
            .collect();
        if let (Some(allocated), Some(numbers)) = (allocated, numbers) {
            let counted: u64 = numbers
                .iter()
                .filter_map(|&ino| volume.attr(ino).ok())
                .map(|attr| attr.allocated)
                .sum();
            if counted != allocated {
                return Err(format!(
                    "{allocated} bytes allocated, the inodes say {counted}"
                ));
            }
        }
        Ok(())
    }

    fn compare_lists(&self, world: &World) -> Result<(), String> {
        let mut got: Vec<_> = self
            .engine()
            .timelines()
            .into_iter()
            .map(|t| (t.id, t.name))
            .collect();
        let mut right: Vec<_> = world
            .timelines
            .iter()
            .map(|(&id, t)| (self.timeline_id(id), t.name.clone()))
            .collect();
        got.sort();
        right.sort();
        if got != right {
            return Err(format!("timelines {got:?}, right {right:?}"));
        }
        for (id, name) in right {
            let found = self
                .engine()
                .timeline_named(&name)
                .map(|t| t.id)
                .map_err(|e| e.kind());
            if found != Ok(id) {
                return Err(format!("timeline {name} is {found:?}, right {id}"));
            }
        }
        let mut got: Vec<_> = self
            .engine()
            .snapshots()
            .map_err(|e| format!("snapshots: {e}"))?
            .into_iter()
            .map(|s| (s.id, s.name))
            .collect();
        let mut right: Vec<_> = world
            .snapshots
            .iter()
            .map(|(&id, s)| (self.snapshot_id(id), s.name.clone()))
            .collect();
        got.sort();
        right.sort();
        if got != right {
            return Err(format!("snapshots {got:?}, right {right:?}"));
        }
        Ok(())
    }
}
