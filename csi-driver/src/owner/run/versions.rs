//! `log` of a path: the versions that its files had.
//!
//! What is known of the past: within `history.retain` of a timeline every change, told apart by epochs; before
//! that the instants that a snapshot or a fork holds; and of what was inherited, the same of the ancestors up to
//! the instant of the fork.

use std::collections::BTreeMap;

use storage_engine::objects::{ObjectVersion, VersionsRequest};
use storage_engine::{Engine, Epoch, ErrorKind, NodeKind, Point, TimelineId, Volume};

use super::volume_options;
use super::walk::{canonical, text};
use crate::owner::context::Context;
use crate::owner::failure::{Failure, Outcome};
use crate::owner::instant::rfc3339;
use crate::owner::name::{Found, Name};
use crate::owner::report::{Happening, LogRow, PathText, State};

/// Versions listed at a time.
const PAGE: usize = 256;

/// The versions of the file at the path of `name`, or of all files at or below it, newest first.
///
/// Cost: all versions of these files that are kept, and each of these files once for each snapshot and fork that
/// is older than the retention, in every timeline of the lineage.
pub(super) fn rows(
    context: &Context,
    name: &Name,
    found: &Found,
    limit: Option<usize>,
) -> Outcome<Vec<LogRow>> {
    let engine = &context.engine;
    let volume = engine.volume(found.point(), volume_options())?;
    let (path, kind) = canonical(&volume, name.path_or_root())?;
    let key = std::str::from_utf8(&path)
        .map_err(|_| {
            Failure::new(
                "InvalidArgument",
                format!(
                    "{}: only of paths that are UTF-8 versions are told",
                    text(&path)
                ),
            )
        })?
        .trim_start_matches('/');
    let mut files: BTreeMap<String, Vec<Version>> = BTreeMap::new();
    for stretch in stretches(engine, found)? {
        add(engine, &stretch, key, &mut files)?;
    }
    let below = files.keys().any(|file| file != key);
    let mut rows: Vec<LogRow> = Vec::new();
    for (file, versions) in files {
        rows.extend(versions.into_iter().map(|version| LogRow {
            epoch: version.epoch,
            time: rfc3339(version.epoch),
            event: match version.content {
                Some(_) => Happening::Written,
                None => Happening::Removed,
            },
            size: version.content.map(|content| content.size),
            other: version.seen,
            path: below.then(|| PathText::from(format!("/{file}").as_bytes())),
        }));
    }
    if rows.is_empty() && kind.is_none() {
        return Err(Failure::not_found(format!(
            "{name} does not exist, and nothing that is kept of the past has it"
        ))
        .then("`anabranch log` of the timeline shows how far back it goes."));
    }
    if rows.is_empty() && kind != Some(NodeKind::Directory) {
        return Err(Failure::new(
            "InvalidArgument",
            format!("{name} is no regular file, so it has no versions"),
        ));
    }
    // Those of one epoch stay in their order.
    rows.reverse();
    rows.sort_by_key(|row| std::cmp::Reverse(row.epoch));
    rows.truncate(limit.unwrap_or(usize::MAX));
    Ok(rows)
}

/// The part of a timeline's history that the state at hand comes from.
struct Stretch {
    timeline: TimelineId,
    until: Epoch,
    /// It is an ancestor's, or the name is that of a snapshot: a version is read there.
    other: bool,
}

/// From the oldest ancestor on. An ancestor that is deleted is among them: forks hold states of it.
fn stretches(engine: &Engine, found: &Found) -> Outcome<Vec<Stretch>> {
    let (mut id, mut until, mut other) = match found {
        Found::Timeline(info, at) => (info.id, at.unwrap_or(Epoch::MAX), false),
        Found::Snapshot(snapshot) => (snapshot.timeline, snapshot.epoch, true),
    };
    let deleted = engine.deleted_timelines();
    let mut all = Vec::new();
    loop {
        all.push(Stretch {
            timeline: id,
            until,
            other,
        });
        let origin = match engine.timeline(id) {
            Ok(info) => info.origin,
            Err(_) => deleted
                .iter()
                .find(|info| info.id == id)
                .and_then(|info| info.origin.clone()),
        };
        match origin {
            Some(origin) => (id, until, other) = (origin.parent, origin.cutoff, true),
            None => break,
        }
    }
    all.reverse();
    Ok(all)
}

/// A version of a file.
#[derive(Clone, Debug, PartialEq)]
struct Version {
    epoch: Epoch,
    content: Option<Content>,
    /// Where it is read, when that is not the timeline at hand at this epoch.
    seen: Option<State>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    etag: String,
    size: u64,
}

/// Adds what happened in a stretch behind what is there.
fn add(
    engine: &Engine,
    stretch: &Stretch,
    key: &str,
    files: &mut BTreeMap<String, Vec<Version>>,
) -> Outcome {
    let point = Point::Now(stretch.timeline);
    let now = there(engine.volume(point, volume_options()))?;
    let retained = match &now {
        Some(volume) => list(volume, key)?,
        None => Vec::new(),
    };
    // The oldest instant from which on every change is told.
    let from = match engine.timeline(stretch.timeline) {
        Ok(info) => {
            let retain = u64::try_from(info.settings.retain.as_nanos()).unwrap_or(u64::MAX);
            info.created.max(Epoch(engine.now().saturating_sub(retain)))
        }
        Err(_) => Epoch::MAX,
    };
    for (at, point) in pins(engine, stretch)? {
        if at >= from {
            continue;
        }
        let Some(volume) = there(engine.volume(point, volume_options()))? else {
            continue;
        };
        let seen = State::point(engine, point);
        let mut there: BTreeMap<String, (Epoch, Content)> = list(&volume, key)?
            .into_iter()
            .filter(|version| !version.deleted)
            .map(|v| (v.key.clone(), (v.version, content(&v))))
            .collect();
        for (file, versions) in files.iter_mut() {
            if !there.contains_key(file) {
                put(versions, at, None, Some(&seen));
            }
        }
        for (file, (epoch, content)) in std::mem::take(&mut there) {
            put(
                files.entry(file).or_default(),
                epoch,
                Some(content),
                Some(&seen),
            );
        }
    }
    for version in retained.into_iter().rev() {
        if version.version > stretch.until {
            continue;
        }
        let seen = (stretch.other && !version.deleted)
            .then(|| State::point(engine, Point::At(stretch.timeline, version.version)));
        put(
            files.entry(version.key.clone()).or_default(),
            version.version,
            (!version.deleted).then(|| content(&version)),
            seen.as_ref(),
        );
    }
    files.retain(|_, versions| !versions.is_empty());
    Ok(())
}

fn content(version: &ObjectVersion) -> Content {
    Content {
        etag: version.etag.clone(),
        size: version.size,
    }
}

/// Adds a version, unless the newest one is the same: then it was only seen again.
fn put(versions: &mut Vec<Version>, epoch: Epoch, content: Option<Content>, seen: Option<&State>) {
    let before = versions.last().and_then(|version| version.content.as_ref());
    if before == content.as_ref() {
        return;
    }
    // Seen at several instants, it may have begun before the one seen before it ended.
    let epoch = versions.last().map_or(epoch, |last| epoch.max(last.epoch));
    versions.push(Version {
        epoch,
        content,
        seen: seen.cloned(),
    });
}

/// The instants of a timeline that snapshots and forks hold, oldest first.
fn pins(engine: &Engine, stretch: &Stretch) -> Outcome<Vec<(Epoch, Point)>> {
    let mut pins: BTreeMap<Epoch, Point> = BTreeMap::new();
    let timelines = engine.timelines();
    for origin in timelines.iter().filter_map(|info| info.origin.as_ref()) {
        if origin.parent == stretch.timeline {
            pins.insert(origin.cutoff, Point::At(origin.parent, origin.cutoff));
        }
    }
    for snapshot in engine.snapshots()? {
        if snapshot.timeline == stretch.timeline {
            pins.insert(snapshot.epoch, Point::Snapshot(snapshot.id));
        }
    }
    pins.retain(|at, _| *at <= stretch.until);
    Ok(pins.into_iter().collect())
}

/// The versions at a key and below it, of one key the newest first.
fn list(volume: &Volume, key: &str) -> Outcome<Vec<ObjectVersion>> {
    let mut all = Vec::new();
    if key.is_empty() {
        pages(volume, "", &mut all, |_| true)?;
        return Ok(all);
    }
    // What has this key sorts before everything else that starts with it.
    pages(volume, key, &mut all, |other| other == key)?;
    pages(volume, &format!("{key}/"), &mut all, |_| true)?;
    Ok(all)
}

fn pages(
    volume: &Volume,
    prefix: &str,
    all: &mut Vec<ObjectVersion>,
    wanted: impl Fn(&str) -> bool,
) -> Outcome {
    let mut request = VersionsRequest {
        prefix: prefix.to_owned(),
        max: PAGE,
        ..VersionsRequest::default()
    };
    loop {
        let page = volume.objects().list_versions(&request)?;
        for version in page.versions {
            if !wanted(&version.key) {
                return Ok(());
            }
            all.push(version);
        }
        match page.next {
            Some(next) => request.token = Some(next),
            None => return Ok(()),
        }
    }
}

/// `None` of what is deleted or no longer kept.
fn there(volume: storage_engine::Result<Volume>) -> Outcome<Option<Volume>> {
    match volume {
        Ok(volume) => Ok(Some(volume)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::Stale | ErrorKind::OutOfRetention
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(etag: &str) -> Option<Content> {
        Some(Content {
            etag: etag.to_owned(),
            size: 1,
        })
    }

    #[test]
    fn what_is_seen_again_is_no_new_version() {
        let mut versions = Vec::new();
        for (epoch, state) in [
            (1, None),
            (2, content("a")),
            (2, content("a")),
            (5, None),
            (6, None),
            (4, content("a")),
            (7, content("b")),
        ] {
            put(&mut versions, Epoch(epoch), state, None);
        }
        let told: Vec<_> = versions
            .iter()
            .map(|v| (v.epoch.0, v.content.as_ref().map(|c| c.etag.as_str())))
            .collect();
        assert_eq!(
            told,
            [(2, Some("a")), (5, None), (5, Some("a")), (7, Some("b"))]
        );
    }
}
