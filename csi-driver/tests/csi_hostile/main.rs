//! Hostile ids, names, tokens, paths and attributes in every field of every call of the interface, over the wire.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod calls;
#[path = "../csi_common/mod.rs"]
mod csi_common;
mod ids;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use calls::{Answer, Clients, Expect, FIELDS, Real};
use csi_common::{Node, volume};
use csi_driver::csi::{GroupId, SnapshotRef, VolumeId};
use csi_driver::fuse::mount::mounted;
use storage_engine::{Durability, Point, SnapshotRequest};
use support::{can_mount, root_timeline, watchdog};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

/// Whether the outcome is one of those that a field allows.
fn allowed(expect: Expect, text: &str, outcome: &Result<Answer, Status>) -> bool {
    let refused = |status: &Status| matches!(status.code(), Code::InvalidArgument | Code::NotFound);
    match (expect, outcome) {
        (Expect::Refused, Err(status)) => {
            // What the kubelet should have filled in.
            refused(status) || (text.is_empty() && status.code() == Code::FailedPrecondition)
        }
        (Expect::NothingThere, Ok(Answer::Done)) => true,
        (Expect::NothingThere, Err(status)) => refused(status),
        (Expect::Unlisted | Expect::NoRoom, Ok(Answer::Number(0))) => true,
        (Expect::NoRoom, Err(status)) => {
            refused(status) || status.code() == Code::ResourceExhausted
        }
        // Where a page ended may be gone by now: any id of the right form is a place in the listing.
        (Expect::NoToken, Ok(Answer::Number(_))) => {
            VolumeId::parse(text).is_some() || SnapshotRef::parse(text).is_some()
        }
        (Expect::NoToken, Err(status)) => status.code() == Code::Aborted,
        (Expect::Made, Ok(Answer::Id(id))) => {
            VolumeId::parse(id).is_some()
                || SnapshotRef::parse(id).is_some()
                || GroupId::parse(id).is_some()
        }
        (Expect::Published, Ok(Answer::Done)) => true,
        (Expect::Made | Expect::Published, Err(status)) => refused(status),
        _ => false,
    }
}

/// Fields in which nothing is a valid value.
fn may_be_empty(call: &str) -> bool {
    const OPTIONAL: &[&str] = &[
        "ListVolumes.starting_token",
        "ListSnapshots.snapshot_id",
        "ListSnapshots.source_volume_id",
        "ListSnapshots.starting_token",
        "CreateVolume.fs_type",
        "CreateVolume.volume_mount_group",
        "NodeStageVolume.volume_mount_group",
    ];
    OPTIONAL.contains(&call)
}

/// Everything in the test's folder but the insides of the store and of the keeper: kind, mode, owner and content.
fn everything(below: &Path, into: &mut BTreeMap<PathBuf, (u32, u32, Vec<u8>)>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        let about = fs::symlink_metadata(&path).unwrap();
        let content = if about.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        into.insert(path.clone(), (about.mode(), about.uid(), content));
        let own = path.ends_with("data") || path.ends_with("keeper");
        if about.is_dir() && !own {
            everything(&path, into);
        }
    }
}

#[test]
fn hostile_texts_in_every_field_of_every_call_are_refused_without_effect() {
    let name = "hostile_texts_in_every_field_of_every_call_are_refused_without_effect";
    if !can_mount(name) {
        return;
    }
    let _alive = watchdog(Duration::from_secs(300));
    let mut node = Node::new("csi-hostile");
    let endpoint = node.serve();
    let source = volume(&node, "v");
    let VolumeId(timeline) = VolumeId::parse(&source.id).unwrap();
    let base = root_timeline(&node.engine, "bucket/default/base");
    // Of objects, which no caller of this interface may touch.
    node.engine
        .snapshot(SnapshotRequest {
            id: None,
            name: "snapshot/default/v1".into(),
            source: Point::Now(base),
            labels: BTreeMap::new(),
            durability: Durability::Local,
        })
        .unwrap();
    let group = node
        .driver
        .create_group("g", std::slice::from_ref(&source.id))
        .unwrap();
    let real = Real {
        snapshot: node.driver.create_snapshot("s", &source.id).unwrap().id,
        volume: source.id,
        group: group.id,
        staging: node.path("plugins/s"),
        target: node.path("pods/t"),
    };
    let texts = ids::hostile(&[&real.volume, &real.snapshot, &real.group]);
    assert!(texts.len() >= 200, "{}", texts.len());

    // Beside the state directory, and where a path that climbs out of it arrives.
    let sentinel = node.place.path("beside");
    fs::create_dir_all(sentinel.join("below")).unwrap();
    fs::write(sentinel.join("below/file"), "untouched").unwrap();
    std::os::unix::fs::symlink("/etc", sentinel.join("link")).unwrap();
    let state = || {
        let mut files = BTreeMap::new();
        everything(&node.place.root, &mut files);
        let mounts: BTreeSet<PathBuf> = mounted().unwrap().into_iter().map(|m| m.point).collect();
        (
            node.engine.timelines(),
            node.engine.snapshots().unwrap(),
            node.engine.usage(timeline).unwrap(),
            mounts,
            files,
        )
    };
    let before = state();
    // Of each call: fields, texts, and those that were refused.
    let mut figures: BTreeMap<&str, (u32, u32, u32)> = BTreeMap::new();
    node.runtime().block_on(async {
        let channel = Endpoint::from_shared(endpoint)
            .unwrap()
            .connect()
            .await
            .unwrap();
        let mut clients = Clients::new(channel);
        for (call, expect) in FIELDS {
            let figure = figures.entry(call.split_once('.').unwrap().0).or_default();
            figure.0 += 1;
            let mut made = BTreeSet::new();
            for text in &texts {
                if text.is_empty() && may_be_empty(call) {
                    continue;
                }
                let outcome = clients.send(call, text, &real).await;
                let shown: String = text.chars().take(60).collect();
                assert!(
                    allowed(*expect, text, &outcome),
                    "{call} of {shown:?}: {expect:?} was expected, and this came: {outcome:.400?}"
                );
                figure.1 += 1;
                match outcome {
                    Ok(answer) if matches!(expect, Expect::Made | Expect::Published) => {
                        if let Answer::Id(id) = &answer {
                            assert!(made.insert(id.clone()), "{call} of {shown:?}: {id} again");
                        }
                        clients.undo(call, text, answer, &real).await;
                    }
                    Ok(_) => {}
                    Err(_) => figure.2 += 1,
                }
            }
        }
    });
    let calls: u32 = figures.values().map(|(_, calls, _)| calls).sum();
    eprintln!(
        "{} hostile texts, {} fields of {} calls, {calls} requests:",
        texts.len(),
        FIELDS.len(),
        figures.len()
    );
    for (rpc, (fields, calls, refused)) in &figures {
        eprintln!("  {rpc}: {fields} fields, {calls} requests, {refused} refused");
    }
    let after = state();
    assert_eq!(before.0, after.0, "no timeline came, went or changed");
    assert_eq!(before.1, after.1, "no snapshot came or went");
    assert_eq!(before.2, after.2, "nothing was written");
    assert_eq!(before.3, after.3, "nothing stays mounted");
    assert_eq!(before.4, after.4, "no file came, went or changed");
    node.end();
}
