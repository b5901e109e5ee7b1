//! `log` and `diff`.

use storage_engine::{DiffKind, Engine, Origin, Point, TimelineInfo};

use super::browse::kind_word;
use super::versions;
use crate::owner::context::Context;
use crate::owner::failure::{Failure, Outcome};
use crate::owner::instant::rfc3339;
use crate::owner::name::{Found, Name};
use crate::owner::output::Output;
use crate::owner::report::{
    About, DiffAbout, DiffRow, DiffTotals, Difference, Happening, LogRow, PathText, Reference,
    State,
};

pub(super) fn log(
    context: &Context,
    name: &Name,
    limit: Option<usize>,
    output: &mut dyn Output,
) -> Outcome {
    let found = name.resolve(&context.engine)?;
    context.sync(found.point())?;
    let rows = match &name.path {
        Some(_) => versions::rows(context, name, &found, limit)?,
        None => {
            let mut rows = timeline_rows(context, &found)?;
            rows.sort_by_key(|row| std::cmp::Reverse(row.epoch));
            rows.truncate(limit.unwrap_or(usize::MAX));
            rows
        }
    };
    output.begin(&About {
        state: State::found(&found),
        path: name.path.as_deref().map(PathText::from),
    })?;
    for row in rows {
        output.row(&row)?;
    }
    Ok(())
}

fn timeline_rows(context: &Context, found: &Found) -> Outcome<Vec<LogRow>> {
    let engine = &context.engine;
    let (info, until) = match found {
        Found::Timeline(info, at) => (info.clone(), *at),
        Found::Snapshot(snapshot) => (engine.timeline(snapshot.timeline)?, Some(snapshot.epoch)),
    };
    let mut rows = own_rows(engine, &info);
    for snapshot in engine.snapshots()? {
        if snapshot.timeline == info.id {
            let other = Some(State::at(
                Reference::snapshot(&snapshot),
                Some(snapshot.epoch),
            ));
            rows.push(row(snapshot.epoch, Happening::Snapshot, other));
        }
    }
    for other in engine.timelines() {
        if other.id != info.id
            && let Some(origin) = &other.origin
            && origin.parent == info.id
        {
            rows.push(row(
                origin.cutoff,
                Happening::Fork,
                Some(State::at(Reference::timeline(&other), None)),
            ));
        }
    }
    rows.retain(|row| until.is_none_or(|until| row.epoch <= until));
    Ok(rows)
}

/// How it began, and what it was restored to.
fn own_rows(engine: &Engine, info: &TimelineInfo) -> Vec<LogRow> {
    let mut rows = vec![match &info.origin {
        Some(origin) => row(
            info.created,
            Happening::ForkedFrom,
            Some(origin_state(engine, origin)),
        ),
        None => row(info.created, Happening::Created, None),
    }];
    for origin in restores(info) {
        rows.push(row(
            origin.since,
            Happening::RestoredTo,
            Some(origin_state(engine, origin)),
        ));
    }
    rows
}

/// The origins that a restore made: all but the one that a fork started with.
pub(super) fn restores(info: &TimelineInfo) -> &[Origin] {
    let own = usize::from(info.origin.is_some());
    info.origins.get(own..).unwrap_or_default()
}

/// The state that an origin names: the snapshot where there is one.
pub(super) fn origin_state(engine: &Engine, origin: &Origin) -> State {
    match origin.snapshot {
        Some(id) if engine.snapshot_info(id).is_ok() => State::point(engine, Point::Snapshot(id)),
        _ => State::point(engine, Point::At(origin.parent, origin.cutoff)),
    }
}

fn row(epoch: storage_engine::Epoch, event: Happening, other: Option<State>) -> LogRow {
    LogRow {
        epoch,
        time: rfc3339(epoch),
        event,
        other,
        size: None,
        path: None,
    }
}

/// What differs between two states; of one alone, since it was forked or restored.
pub(super) fn diff(
    context: &Context,
    from: Option<&Name>,
    to: &Name,
    path: Option<&[u8]>,
    output: &mut dyn Output,
) -> Outcome {
    let engine = &context.engine;
    let newer = to.resolve(engine)?;
    let (older, older_state) = match from {
        Some(name) => {
            let found = name.resolve(engine)?;
            (found.point(), State::found(&found))
        }
        None => {
            let point = origin_of(&newer)?;
            (point, State::point(engine, point))
        }
    };
    context.sync(older)?;
    context.sync(newer.point())?;
    let diff = engine.diff(older, newer.point())?;
    output.begin(&DiffAbout {
        from: older_state,
        to: State::found(&newer),
    })?;
    let mut totals = DiffTotals::default();
    for entry in &diff.entries {
        let from = match &entry.kind {
            DiffKind::Renamed { from } => Some(from.as_slice()),
            _ => None,
        };
        let inside = path
            .is_none_or(|top| below(&entry.path, top) || from.is_some_and(|from| below(from, top)));
        if !inside {
            continue;
        }
        let (difference, size) = match entry.kind {
            DiffKind::Added => (Difference::Added, entry.size_after),
            DiffKind::Removed => (Difference::Removed, entry.size_before),
            DiffKind::Changed => (Difference::Changed, entry.size_after),
            DiffKind::Renamed { .. } => (Difference::Renamed, entry.size_after),
        };
        match difference {
            Difference::Added => {
                (totals.added, totals.added_bytes) = (totals.added + 1, totals.added_bytes + size)
            }
            Difference::Removed => {
                (totals.removed, totals.removed_bytes) =
                    (totals.removed + 1, totals.removed_bytes + size)
            }
            Difference::Changed => totals.changed += 1,
            Difference::Renamed => totals.renamed += 1,
        }
        if matches!(difference, Difference::Changed | Difference::Renamed) {
            totals.changed_bytes += entry.changed_bytes;
        }
        output.row(&DiffRow {
            difference,
            path: rooted(&entry.path),
            from: from.map(rooted),
            kind: kind_word(entry.node).to_owned(),
            size,
            changed_bytes: entry.changed_bytes,
        })?;
    }
    output.end(&totals)
}

/// Where a timeline's present state began.
fn origin_of(found: &Found) -> Outcome<Point> {
    let none = |what: &str| {
        Failure::usage(format!(
            "{} {what}, so there is nothing to compare it with",
            found.name()
        ))
        .then("Name two states: `anabranch diff OLDER NEWER`.")
    };
    match found {
        Found::Timeline(info, None) => match info.origins.last() {
            Some(Origin {
                snapshot: Some(id), ..
            }) => Ok(Point::Snapshot(*id)),
            Some(origin) => Ok(Point::At(origin.parent, origin.cutoff)),
            None => Err(none("was not forked")),
        },
        Found::Timeline(..) => Err(none("is meant at an instant")),
        Found::Snapshot(_) => Err(none("is a snapshot")),
    }
}

fn below(path: &[u8], top: &[u8]) -> bool {
    let (path, top) = (
        path.strip_prefix(b"/").unwrap_or(path),
        top.strip_prefix(b"/").unwrap_or(top),
    );
    let top = top.strip_suffix(b"/").unwrap_or(top);
    path == top
        || path
            .strip_prefix(top)
            .is_some_and(|rest| rest.starts_with(b"/"))
        || top.is_empty()
}

fn rooted(path: &[u8]) -> PathText {
    if path.starts_with(b"/") {
        PathText::from(path)
    } else {
        PathText::from([b"/", path].concat().as_slice())
    }
}
