//! `get`: the objects with their status, measured at this moment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crds::conditions::{self, Reason, State};
use crds::quantity::human;
use crds::{
    Bucket, BucketFork, BucketSnapshot, Epoch, ForkSource, Lifetime, Mount, Object, SnapshotSource,
    Summary, Usage,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use operator::Peers;
use storage_engine::{Engine, SnapshotInfo, TimelineId, TimelineInfo};

use super::labels;
use super::objects::{Objects, kind_of, time_now};
use super::observe::{measure as usage_of, observe};
use super::reconcile::present;
use crate::owner::name::{Kind, split_engine_name};
use crate::owner::report::State as Where;
use crate::owner::{Context, Failure, Outcome, Output};

/// Says the objects of a kind, of manifests and made by command, in the order of their names.
///
/// # Errors
/// `NotFound` for a name that does not exist.
pub fn get(
    context: &Context,
    kind: Kind,
    name: Option<&str>,
    namespace: Option<&str>,
    output: &mut dyn Output,
) -> Outcome {
    let objects = Objects::load(&context.data)?;
    let mut found: Vec<Object> = objects
        .iter()
        .filter(|(key, _)| key.kind == kind_of(kind))
        .map(|(_, object)| object.clone())
        .collect();
    found.extend(by_command(context, kind)?);
    found.retain(|object| {
        let key = object.key();
        namespace.is_none_or(|wanted| key.namespace == wanted)
            && name.is_none_or(|wanted| key.name == wanted)
    });
    found.sort_by_key(Object::key);
    if let Some(name) = name
        && found.is_empty()
    {
        // One fork of a set is asked for by its own name, too.
        let set = name
            .rsplit_once('-')
            .map(|(set, _)| set.to_owned())
            .filter(|_| kind == Kind::Fork);
        let hint = match set.filter(|set| {
            objects
                .iter()
                .any(|(key, _)| key.name == *set && key.kind == crds::Kind::Fork)
        }) {
            Some(set) => format!("It is part of a set: `anabranch get forks {set} -o yaml`."),
            None => format!("`anabranch get {kind}s` lists what there is."),
        };
        return Err(Failure::not_found(format!("{kind}/{name} does not exist")).then(hint));
    }
    output.begin(&serde_json::json!({}))?;
    // Bytes and mounts as they are now; the state as the owner wrote it.
    let observed = observe(
        &context.engine,
        &*context.host,
        BTreeMap::default(),
        operator::Failures::default(),
        true,
    )?;
    let peers = Peers::of(objects.iter().map(|(_, object)| object));
    let now = Epoch(context.engine.now()).timestamp();
    for object in found {
        // What was made by command has no manifest, and no plan.
        let mut shown = match object.metadata().uid {
            Some(_) => present(&object, &observed, &peers, now),
            None => object.clone(),
        };
        keep_conditions(&object, &mut shown);
        measure(context, &mut shown);
        output.row(&shown)?;
    }
    Ok(())
}

/// The state is the owner's to say: a look at the store alone does not know of failures and running imports.
fn keep_conditions(object: &Object, shown: &mut Object) {
    match (object, shown) {
        (Object::Bucket(a), Object::Bucket(b)) => {
            if let (Some(a), Some(b)) = (&a.status, &mut b.status) {
                (b.conditions, b.import, b.observed_generation) = (
                    a.conditions.clone(),
                    a.import.clone(),
                    a.observed_generation,
                );
            }
        }
        (Object::Snapshot(a), Object::Snapshot(b)) => {
            if let (Some(a), Some(b)) = (&a.status, &mut b.status) {
                (b.conditions, b.ready_to_use) = (a.conditions.clone(), a.ready_to_use);
                (b.observed_generation, b.expired_time) =
                    (a.observed_generation, a.expired_time.clone());
            }
        }
        (Object::Fork(a), Object::Fork(b)) => {
            if let (Some(a), Some(b)) = (&a.status, &mut b.status) {
                (b.conditions, b.ready_count) = (a.conditions.clone(), a.ready_count);
                (b.observed_generation, b.expired_time) =
                    (a.observed_generation, a.expired_time.clone());
            }
        }
        _ => {}
    }
}

/// What was made by command, as the object that would have made it.
fn by_command(context: &Context, kind: Kind) -> Outcome<Vec<Object>> {
    let engine = &context.engine;
    let is_of = |name: &str| {
        split_engine_name(name)
            .filter(|(own, ..)| *own == kind)
            .map(|(_, ns, n)| (ns.to_owned(), n.to_owned()))
    };
    let mut all = Vec::new();
    if kind == Kind::Snapshot {
        for info in engine.snapshots()? {
            if let Some((namespace, name)) = is_of(&info.name)
                && !info.labels.contains_key(crds::names::LABEL_OWNER)
            {
                all.push(Object::Snapshot(Box::new(snapshot_object(
                    engine, &info, namespace, &name,
                ))));
            }
        }
        return Ok(all);
    }
    for info in engine.timelines() {
        let Some((namespace, name)) = is_of(&info.name) else {
            continue;
        };
        if info.settings.labels.contains_key(crds::names::LABEL_OWNER) {
            continue;
        }
        all.push(match kind {
            Kind::Bucket => Object::Bucket(Box::new(bucket_object(&info, namespace, &name))),
            _ => Object::Fork(Box::new(fork_object(engine, &info, namespace, &name))),
        });
    }
    Ok(all)
}

fn snapshot_object(
    engine: &Engine,
    info: &SnapshotInfo,
    namespace: String,
    name: &str,
) -> BucketSnapshot {
    let mut object = BucketSnapshot::new(name, crds::SnapshotSpec::default());
    object.metadata.namespace = Some(namespace);
    object.metadata.creation_timestamp = Some(time(Epoch(info.created.0)));
    let of = Where::point(engine, storage_engine::Point::Now(info.timeline)).of;
    object.spec.source = match of.kind {
        Some(Kind::Bucket) => SnapshotSource {
            bucket: Some(of.name),
            ..SnapshotSource::default()
        },
        _ => SnapshotSource {
            fork: Some(of.name),
            ..SnapshotSource::default()
        },
    };
    object.spec.lifetime = lifetime(labels::expires(&info.labels));
    let status = object.status.get_or_insert_default();
    status.ready_to_use = true;
    status.snapshot = Some(info.id.to_string());
    status.timeline = Some(info.timeline.to_string());
    status.epoch = Some(Epoch(info.epoch.0));
    status.time = Some(time(Epoch(info.epoch.0)));
    status.creation_time = Some(time(Epoch(info.created.0)));
    status.digest = Some(info.digest.clone());
    status.bytes = Some(info.logical_bytes);
    status.inodes = Some(info.inodes);
    status.expire_time = labels::expires(&info.labels).map(|at| time(Epoch(at.0)));
    made_by_command().write(&mut status.conditions, None, time(Epoch(info.created.0)));
    object
}

fn bucket_object(info: &TimelineInfo, namespace: String, name: &str) -> Bucket {
    let mut object = Bucket::new(name, crds::BucketSpec::default());
    object.metadata.namespace = Some(namespace);
    object.metadata.creation_timestamp = Some(time(Epoch(info.created.0)));
    let status = object.status.get_or_insert_default();
    status.timeline = Some(info.id.to_string());
    status.time = Some(time(Epoch(info.created.0)));
    let state = State::Ready(
        Reason::Available,
        "it has no manifest; its data was kept or made otherwise".to_owned(),
    );
    state.write(&mut status.conditions, None, time(Epoch(info.created.0)));
    object
}

fn fork_object(engine: &Engine, info: &TimelineInfo, namespace: String, name: &str) -> BucketFork {
    let mut object = BucketFork::new(name, crds::ForkSpec::default());
    object.metadata.namespace = Some(namespace);
    object.metadata.creation_timestamp = Some(time(Epoch(info.created.0)));
    object.spec.lifetime = lifetime(labels::expires(&info.settings.labels));
    object.spec.read_only = info.settings.read_only.then_some(true);
    let quota = &info.settings.quota;
    if quota.bytes.is_some() || quota.inodes.is_some() {
        object.spec.quota = Some(crds::Quota {
            bytes: quota.bytes.map(crds::Bytes),
            inodes: quota.inodes,
        });
    }
    if let Some(origin) = info.origins.first() {
        let point = match origin.snapshot {
            Some(id) if engine.snapshot_info(id).is_ok() => storage_engine::Point::Snapshot(id),
            _ => storage_engine::Point::At(origin.parent, origin.cutoff),
        };
        let from = Where::point(engine, point);
        let at = from.epoch.map(|epoch| crds::At::from(Epoch(epoch.0)));
        object.spec.source = match from.of.kind {
            Some(Kind::Snapshot) => ForkSource {
                snapshot: Some(from.of.name),
                ..ForkSource::default()
            },
            Some(Kind::Bucket) => ForkSource {
                bucket: Some(from.of.name),
                at,
                ..ForkSource::default()
            },
            _ => ForkSource {
                fork: Some(from.of.name),
                at,
                ..ForkSource::default()
            },
        };
        let status = object.status.get_or_insert_default();
        status.epoch = Some(Epoch(origin.cutoff.0));
        status.time = Some(time(Epoch(origin.cutoff.0)));
    }
    let status = object.status.get_or_insert_default();
    (status.count, status.ready_count) = (1, 1);
    status.timeline = Some(info.id.to_string());
    status.creation_time = Some(time(Epoch(info.created.0)));
    status.expire_time = labels::expires(&info.settings.labels).map(|at| time(Epoch(at.0)));
    made_by_command().write(&mut status.conditions, None, time(Epoch(info.created.0)));
    object
}

fn made_by_command() -> State {
    State::Ready(Reason::Available, "made by command".to_owned())
}

fn lifetime(expires: Option<storage_engine::Epoch>) -> Lifetime {
    match expires {
        Some(at) => Lifetime {
            expire_time: Some(time(Epoch(at.0))),
            ..Lifetime::default()
        },
        None => Lifetime::no_expiry(),
    }
}

/// Puts into the status what is measured: usage, mounts, and the summary for people.
fn measure(context: &Context, object: &mut Object) {
    let deleted = object.metadata().deletion_timestamp.is_some();
    match object {
        Object::Bucket(bucket) => {
            let source = bucket
                .spec
                .source
                .as_ref()
                .map(crds::ImportSource::describe);
            let status = bucket.status.get_or_insert_default();
            let mut summary = summary(&status.conditions, deleted);
            summary.source = source;
            if let Some(id) = parse(status.timeline.as_deref()) {
                status.usage = usage(context, &[id]);
                status.mounts = mounts(context, id, None);
            }
            sizes(&mut summary, status.usage.as_ref());
            summary.mounted = mounted(&status.mounts);
            status.summary = Some(summary);
        }
        Object::Snapshot(snapshot) => {
            let source = &snapshot.spec.source;
            let source = match (&source.bucket, &source.fork) {
                (Some(bucket), _) => format!("bucket/{bucket}"),
                (None, fork) => format!("fork/{}", fork.clone().unwrap_or_default()),
            };
            let forever = snapshot.spec.lifetime.no_expiry == Some(true);
            let status = snapshot.status.get_or_insert_default();
            let mut summary = summary(&status.conditions, deleted);
            summary.source = Some(source);
            summary.size = status.bytes.map(human);
            summary.expires = expires(
                status.expired_time.is_some(),
                status.expire_time.as_ref(),
                forever,
            );
            status.summary = Some(summary);
        }
        Object::Fork(fork) => {
            let source = fork_source(&fork.spec.source);
            let forever = fork.spec.lifetime.no_expiry == Some(true);
            let status = fork.status.get_or_insert_default();
            let mut summary = summary(&status.conditions, deleted);
            summary.source = Some(source);
            status.mounts.clear();
            let mut ids: BTreeSet<TimelineId> =
                parse(status.timeline.as_deref()).into_iter().collect();
            if let Some(id) = parse(status.timeline.as_deref()) {
                status.mounts = mounts(context, id, None);
            }
            for item in &mut status.items {
                let Some(id) = parse(item.timeline.as_deref()) else {
                    continue;
                };
                ids.insert(id);
                if let Some(usage) = usage(context, &[id]) {
                    (item.divergent_bytes, item.shared_bytes) =
                        (Some(usage.divergent_bytes), Some(usage.shared_bytes));
                }
                let own = mounts(context, id, Some(&item.name));
                item.mounted = own.first().map(|mount| mount.path.clone());
                status.mounts.extend(own);
            }
            let ids: Vec<TimelineId> = ids.into_iter().collect();
            status.usage = usage(context, &ids);
            sizes(&mut summary, status.usage.as_ref());
            summary.mounted = mounted(&status.mounts);
            summary.forks = Some(format!("{}/{}", status.ready_count, status.count));
            summary.expires = expires(
                status.expired_time.is_some(),
                status.expire_time.as_ref(),
                forever,
            );
            status.summary = Some(summary);
        }
    }
}

/// The column STATUS and its message, from the condition that matters.
fn summary(
    all: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
    deleted: bool,
) -> Summary {
    let matters = [
        conditions::EXPIRED,
        conditions::STALLED,
        conditions::RECONCILING,
        conditions::READY,
    ]
    .into_iter()
    .find_map(|type_| conditions::find(all, type_));
    let state = match matters {
        Some(condition) if deleted && condition.type_ == conditions::STALLED => {
            condition.reason.clone()
        }
        _ if deleted => "Deleting".to_owned(),
        None => "Pending".to_owned(),
        Some(condition) if condition.type_ == conditions::EXPIRED => conditions::EXPIRED.to_owned(),
        Some(condition)
            if condition.type_ == conditions::READY && condition.reason == "Available" =>
        {
            conditions::READY.to_owned()
        }
        Some(condition) => condition.reason.clone(),
    };
    Summary {
        state: Some(state),
        message: matters.map(|condition| condition.message.clone()),
        ..Summary::default()
    }
}

fn sizes(summary: &mut Summary, usage: Option<&Usage>) {
    if let Some(usage) = usage {
        summary.size = Some(human(usage.logical_bytes));
        summary.divergent = Some(human(usage.divergent_bytes));
        summary.shared = Some(human(usage.shared_bytes));
    }
}

fn usage(context: &Context, ids: &[TimelineId]) -> Option<Usage> {
    let mut all: Option<Usage> = None;
    for id in ids {
        let Some(own) = usage_of(&context.engine, &*context.host, *id) else {
            continue;
        };
        let sum = all.get_or_insert_default();
        sum.logical_bytes += own.logical_bytes;
        sum.divergent_bytes += own.divergent_bytes;
        sum.shared_bytes += own.shared_bytes;
        sum.inodes += own.inodes;
    }
    all
}

fn time(epoch: Epoch) -> Time {
    Time(epoch.timestamp())
}

fn mounts(context: &Context, id: TimelineId, item: Option<&str>) -> Vec<Mount> {
    let read_only = context
        .engine
        .timeline(id)
        .is_ok_and(|info| info.settings.read_only);
    let paths: Vec<PathBuf> = context.host.mounts(id);
    paths
        .into_iter()
        .map(|path| Mount {
            item: item.map(str::to_owned),
            path: path.display().to_string(),
            read_only,
            ..Mount::default()
        })
        .collect()
}

fn mounted(mounts: &[Mount]) -> Option<String> {
    match mounts {
        [] => None,
        [one] => Some(one.path.clone()),
        all => Some(format!("{} places", all.len())),
    }
}

fn expires(
    expired: bool,
    at: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
    forever: bool,
) -> Option<String> {
    if expired {
        return Some("expired".to_owned());
    }
    match at {
        Some(at) => {
            let left = at.0.as_second().saturating_sub(time_now().0.as_second());
            let left = std::time::Duration::from_secs(u64::try_from(left).unwrap_or(0));
            Some(format!("in {}", crate::owner::instant::brief(left)))
        }
        None => forever.then(|| "never".to_owned()),
    }
}

/// The source of a fork in one line.
fn fork_source(source: &ForkSource) -> String {
    let (word, name) = match (&source.bucket, &source.snapshot, &source.fork) {
        (Some(name), ..) => ("bucket", name.clone()),
        (_, Some(name), _) => ("snapshot", name.clone()),
        (.., name) => ("fork", name.clone().unwrap_or_default()),
    };
    match &source.at {
        Some(at) => format!("{word}/{name}@{at}"),
        None => format!("{word}/{name}"),
    }
}

fn parse(id: Option<&str>) -> Option<TimelineId> {
    id?.parse().ok()
}
