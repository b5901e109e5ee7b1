//! `snapshot`, `fork`, `delete` and `restore`.

use std::collections::BTreeMap;

use storage_engine::{
    Durability, Epoch, ForkRequest, Point, Quota, Settings, SnapshotInfo, SnapshotRequest,
    TimelineInfo,
};

use crate::agent::labels;
use crate::owner::context::Context;
use crate::owner::failure::{Failure, Outcome};
use crate::owner::instant::{now, rfc3339};
use crate::owner::name::{Found, Kind, Name, split_engine_name};
use crate::owner::output::Output;
use crate::owner::report::{
    DeleteAnswer, ForkRow, Reference, RestoreAnswer, SnapshotAnswer, State,
};

pub(super) fn snapshot(
    context: &Context,
    source: &Name,
    name: &str,
    expires: Option<Epoch>,
    output: &mut dyn Output,
) -> Outcome {
    let found = source.resolve(&context.engine)?;
    no_path(source)?;
    valid(name)?;
    context.sync(found.point())?;
    let info = context.engine.snapshot(SnapshotRequest {
        id: None,
        name: Kind::Snapshot.engine_name(&source.namespace, name),
        source: found.point(),
        labels: command_labels(expires),
        durability: Durability::Local,
    })?;
    context.host.changed();
    output.begin(&SnapshotAnswer {
        snapshot: Reference::snapshot(&info),
        source: State::found(&found).of,
        epoch: info.epoch,
        time: rfc3339(info.epoch),
        digest: info.digest.clone(),
        logical_bytes: info.logical_bytes,
        inodes: info.inodes,
        expires: expires.map(rfc3339),
    })
}

/// What `fork` is asked for.
pub(super) struct ForkWish<'a> {
    pub source: &'a Name,
    pub names: &'a [String],
    pub read_only: bool,
    pub quota: Quota,
    pub expires: Option<Epoch>,
}

pub(super) fn fork(context: &Context, wish: &ForkWish<'_>, output: &mut dyn Output) -> Outcome {
    let found = wish.source.resolve(&context.engine)?;
    no_path(wish.source)?;
    context.sync(found.point())?;
    let retain = match &found {
        Found::Timeline(info, _) => info.settings.retain,
        Found::Snapshot(_) => std::time::Duration::ZERO,
    };
    let mut requests = Vec::with_capacity(wish.names.len());
    for name in wish.names {
        valid(name)?;
        requests.push(ForkRequest {
            id: None,
            name: Kind::Fork.engine_name(&wish.source.namespace, name),
            source: found.point(),
            settings: Settings {
                read_only: wish.read_only,
                quota: wish.quota,
                retain,
                labels: command_labels(wish.expires),
                ..Settings::default()
            },
            durability: Durability::Local,
        });
    }
    let forks = context.engine.fork_group(requests)?;
    context.host.changed();
    let source = State::found(&found).of;
    output.begin(&serde_json::json!({}))?;
    for info in &forks {
        let epoch = info
            .origin
            .as_ref()
            .map_or(info.created, |origin| origin.cutoff);
        output.row(&ForkRow {
            fork: Reference::timeline(info),
            source: source.clone(),
            epoch,
            time: rfc3339(epoch),
            expires: wish.expires.map(rfc3339),
        })?;
    }
    Ok(())
}

/// Deletes what was made by command. What a manifest asks for would come back, so it is deleted there; a
/// bucket, which others may come from, only when it was made by command too.
pub(super) fn delete(context: &Context, name: &Name, output: &mut dyn Output) -> Outcome {
    let found = name.resolve(&context.engine)?;
    no_path(name)?;
    let deleted = State::found(&found).of;
    let owned = match &found {
        Found::Timeline(info, _) => &info.settings.labels,
        Found::Snapshot(info) => &info.labels,
    };
    if owned.contains_key(crds::names::LABEL_OWNER) {
        return Err(Failure::new(
            "Conflict",
            format!("{} is kept by a manifest", deleted.short()),
        )
        .then("Remove its document from the manifest, and `anabranch play` deletes it."));
    }
    match &found {
        Found::Timeline(_, Some(_)) => {
            return Err(Failure::usage(
                "an instant cannot be deleted: leave the @ away",
            ));
        }
        Found::Timeline(info, None) => {
            if info.settings.protected {
                return Err(storage_engine::Error::new(
                    storage_engine::ErrorKind::Protected,
                    format!("{} is protected", deleted.short()),
                )
                .into());
            }
            context.host.release(info.id)?;
            context.engine.delete_timeline(info.id)?;
        }
        Found::Snapshot(info) => context.engine.delete_snapshot(info.id)?,
    }
    context.host.changed();
    output.begin(&DeleteAnswer { deleted })
}

pub(super) fn restore(
    context: &Context,
    name: &Name,
    to: &Name,
    output: &mut dyn Output,
) -> Outcome {
    let info = name.resolve_timeline(&context.engine, "restore")?;
    no_path(name)?;
    no_path(to)?;
    let target = to.resolve(&context.engine)?;
    if target.point() == Point::Now(info.id) {
        return Err(Failure::usage(format!(
            "{} is in that state already",
            Reference::timeline(&info).short()
        ))
        .then(format!(
            "Name a snapshot, or an instant: `anabranch restore {name} {name}@-10m`."
        )));
    }
    // What is in a mount's cache belongs to the state before.
    context.host.sync(info.id)?;
    context.sync(target.point())?;
    let kept = keep(context, &info)?;
    let after = context.engine.restore(info.id, target.point())?;
    context.host.settle(info.id);
    context.host.changed();
    // Without retention, the instant that the snapshot pins is the one that stays readable.
    let before = match &kept {
        Some(snapshot) => snapshot.epoch,
        None => after
            .origins
            .last()
            .map_or(after.created, |origin| origin.since),
    };
    output.begin(&RestoreAnswer {
        timeline: Reference::timeline(&after),
        restored_to: State::found(&target),
        before,
        before_time: rfc3339(before),
        kept: kept.as_ref().map(Reference::snapshot),
    })
}

/// Without retention, a past instant is readable only through a snapshot: a restore must not lose what it
/// replaces, so it makes one first.
fn keep(context: &Context, info: &TimelineInfo) -> Outcome<Option<SnapshotInfo>> {
    if !info.settings.retain.is_zero() {
        return Ok(None);
    }
    let Some((_, namespace, name)) = split_engine_name(&info.name) else {
        return Ok(None);
    };
    let time: String = rfc3339(now())
        .chars()
        .filter(char::is_ascii_digit)
        .take(17)
        .collect();
    let room = crds::names::NAME_MAX - "-before-".len() - time.len();
    let start = name
        .get(..room)
        .unwrap_or(name)
        .trim_end_matches(['-', '.']);
    let snapshot = context.engine.snapshot(SnapshotRequest {
        id: None,
        name: Kind::Snapshot.engine_name(namespace, &format!("{start}-before-{time}")),
        source: Point::Now(info.id),
        labels: command_labels(None),
        durability: Durability::Local,
    })?;
    Ok(Some(snapshot))
}

fn no_path(name: &Name) -> Outcome {
    match &name.path {
        None => Ok(()),
        Some(_) => Err(Failure::usage(format!(
            "{name}: a whole timeline is meant here, so leave the path away"
        ))),
    }
}

fn command_labels(expires: Option<Epoch>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([(labels::MADE_BY.to_owned(), labels::COMMAND.to_owned())]);
    if let Some(at) = expires {
        all.insert(labels::EXPIRES.to_owned(), at.to_string());
    }
    all
}

/// The names that a manifest could use too.
fn valid(name: &str) -> Outcome {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    if bytes.len() <= 253
        && bytes.iter().all(|b| allowed(*b))
        && edge(bytes.first())
        && edge(bytes.last())
    {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{name:?} cannot be a name: at most 253 lower-case letters, digits, - and ., with a letter or digit at both ends"
    )))
}
