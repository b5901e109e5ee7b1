//! Volumes through the interface's operations, on real mounts: what a pod sees.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod csi_common;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use csi_common::{Node, create, volume, writer};
use csi_driver::csi::{
    AccessMode, Capability, Code, Content, CreateVolume, Publish, Range, Stage, TOPOLOGY_KEY,
};
use support::{can_mount, root_timeline, watchdog};

fn stage(node: &Node, id: &str, capability: Capability) -> Result<(), Code> {
    let staging = node.path(&format!("plugins/{id}"));
    node.driver
        .stage(&Stage {
            volume: id.into(),
            staging,
            capability: Some(capability),
        })
        .map_err(|error| error.code)
}

fn publish(node: &Node, id: &str, pod: &str, capability: Capability) -> Result<String, Code> {
    let target = node.path(&format!("pods/{pod}"));
    node.driver
        .publish(&Publish {
            volume: id.into(),
            staging: node.path(&format!("plugins/{id}")),
            target: target.clone(),
            capability: Some(capability),
            read_only: false,
        })
        .map(|()| target)
        .map_err(|error| error.code)
}

fn with(access: AccessMode) -> Capability {
    Capability { access, ..writer() }
}

#[test]
fn a_volume_is_written_by_a_pod_snapshotted_forked_and_deleted_in_any_order() {
    let name = "a_volume_is_written_by_a_pod_snapshotted_forked_and_deleted_in_any_order";
    if !can_mount(name) {
        return;
    }
    let _alive = watchdog(Duration::from_secs(120));
    let node = Node::new("csi");
    let base = volume(&node, "pvc-base");
    assert_eq!(
        volume(&node, "pvc-base"),
        base,
        "the same name is the same volume"
    );
    stage(&node, &base.id, writer()).unwrap();
    stage(&node, &base.id, writer()).unwrap();
    let target = publish(&node, &base.id, "a", writer()).unwrap();
    assert_eq!(publish(&node, &base.id, "a", writer()).unwrap(), target);
    fs::write(Path::new(&target).join("file"), "one").unwrap();

    // What write(2) returned before is in the snapshot, without any fsync.
    let snapshot = node.driver.create_snapshot("snap-1", &base.id).unwrap();
    assert_eq!(
        node.driver.create_snapshot("snap-1", &base.id).unwrap(),
        snapshot
    );
    fs::write(Path::new(&target).join("file"), "two").unwrap();
    let from = |name: &str, content| {
        let request = CreateVolume {
            content: Some(content),
            ..create(name)
        };
        let made = node.driver.create_volume(&request).unwrap();
        assert_eq!(node.driver.create_volume(&request).unwrap(), made);
        stage(&node, &made.id, writer()).unwrap();
        let target = publish(&node, &made.id, name, writer()).unwrap();
        (made, target)
    };
    let (of_snapshot, at_snapshot) = from("pvc-2", Content::Snapshot(snapshot.id.clone()));
    let (_, at_volume) = from("pvc-3", Content::Volume(base.id.clone()));
    let read = |target: &str| fs::read_to_string(Path::new(target).join("file")).unwrap();
    assert_eq!(
        (read(&at_snapshot).as_str(), read(&at_volume).as_str()),
        ("one", "two")
    );
    fs::write(Path::new(&at_snapshot).join("file"), "three").unwrap();
    assert_eq!(
        (read(&target).as_str(), read(&at_volume).as_str()),
        ("two", "two")
    );

    // What is not here may be on another node, which the provisioner is to choose then.
    let elsewhere = |id: &str, here: bool| {
        let topology = BTreeMap::from([(TOPOLOGY_KEY.to_owned(), "node-1".to_owned())]);
        let request = CreateVolume {
            content: Some(Content::Snapshot(id.to_owned())),
            requisite: if here { Vec::new() } else { vec![topology] },
            ..create("pvc-elsewhere")
        };
        node.driver.create_volume(&request).unwrap_err().code
    };
    let absent = format!("snap-{}", "ab".repeat(16));
    assert_eq!(elsewhere(&absent, false), Code::ResourceExhausted);
    assert_eq!(elsewhere(&absent, true), Code::NotFound);
    assert_eq!(elsewhere("snap-none", false), Code::NotFound);

    // Another content under the same name is refused.
    let other = CreateVolume {
        content: Some(Content::Volume(base.id.clone())),
        ..create("pvc-2")
    };
    assert_eq!(
        node.driver.create_volume(&other).unwrap_err().code,
        Code::AlreadyExists
    );

    // In use: neither deleted nor staged elsewhere.
    assert_eq!(
        node.driver.delete_volume(&base.id).unwrap_err().code,
        Code::FailedPrecondition
    );
    node.driver.unpublish(&base.id, &target).unwrap();
    node.driver.unpublish(&base.id, &target).unwrap();
    assert!(!Path::new(&target).exists());
    let staging = node.path(&format!("plugins/{}", base.id));
    node.driver.unstage(&base.id, &staging).unwrap();
    node.driver.unstage(&base.id, &staging).unwrap();
    node.driver.delete_volume(&base.id).unwrap();
    node.driver.delete_volume(&base.id).unwrap();
    assert_eq!(read(&at_snapshot), "three");
    assert_eq!(read(&at_volume), "two");
    node.driver.delete_snapshot(&snapshot.id).unwrap();
    node.driver.delete_snapshot(&snapshot.id).unwrap();
    assert_eq!(read(&at_snapshot), "three");
    let left = node.driver.list_volumes(0, "").unwrap().entries;
    assert_eq!(left.len(), 2);
    assert!(left.iter().any(|volume| volume.id == of_snapshot.id));
    node.end();
}

#[test]
fn a_size_is_a_hard_limit_that_grows_while_the_volume_is_mounted() {
    if !can_mount("a_size_is_a_hard_limit_that_grows_while_the_volume_is_mounted") {
        return;
    }
    let _alive = watchdog(Duration::from_secs(120));
    let node = Node::new("csi-size");
    let made = node
        .driver
        .create_volume(&CreateVolume {
            range: Range::new(1 << 20, 0).unwrap(),
            ..create("small")
        })
        .unwrap();
    assert_eq!(made.capacity, 1 << 20);
    stage(&node, &made.id, writer()).unwrap();
    let target = publish(&node, &made.id, "a", writer()).unwrap();
    let write = || {
        let file = fs::File::create(Path::new(&target).join("big")).unwrap();
        std::io::Write::write_all(&mut &file, &[7; 3 << 20]).and_then(|()| file.sync_all())
    };
    let error = write().unwrap_err();
    assert!(
        [Some(libc::EDQUOT), Some(libc::ENOSPC)].contains(&error.raw_os_error()),
        "{error}"
    );
    // A program that does not sync learns it when it closes the file.
    let file = fs::File::create(Path::new(&target).join("big")).unwrap();
    let written = std::io::Write::write_all(&mut &file, &[7; 3 << 20]);
    // SAFETY: the descriptor is open, and nobody closes it again.
    let closed = unsafe { libc::close(std::os::fd::IntoRawFd::into_raw_fd(file)) };
    let error = std::io::Error::last_os_error();
    assert!(written.is_err() || closed != 0, "3 MiB into 1 MiB");
    assert!(
        written.is_err() || error.raw_os_error() == Some(libc::ENOSPC),
        "{error}"
    );
    fs::remove_file(Path::new(&target).join("big")).unwrap();
    let stats = node.driver.stats(&made.id, &target).unwrap();
    assert_eq!(stats.bytes[0], 1 << 20, "{stats:?}");

    assert_eq!(
        node.driver
            .expand(&made.id, Range::new(8 << 20, 0).unwrap())
            .unwrap(),
        8 << 20
    );
    assert_eq!(
        node.driver
            .expand(&made.id, Range::new(4 << 20, 0).unwrap())
            .unwrap(),
        8 << 20
    );
    let error = node
        .driver
        .expand(&made.id, Range::new(1, 4 << 20).unwrap())
        .unwrap_err();
    assert_eq!(error.code, Code::OutOfRange);
    write().unwrap();

    let mutable = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    node.driver
        .modify(&made.id, &mutable("inodes", "3"))
        .unwrap();
    fs::write(Path::new(&target).join("second"), "").unwrap();
    let error = fs::write(Path::new(&target).join("third"), "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{error}");
    assert!(
        node.driver
            .stats(&made.id, &target)
            .unwrap()
            .abnormal
            .is_some()
    );
    let error = node
        .driver
        .modify(&made.id, &mutable("colour", "red"))
        .unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    node.end();
}

#[test]
fn access_modes_hold_and_a_group_is_only_a_view() {
    if !can_mount("access_modes_hold_and_a_group_is_only_a_view") {
        return;
    }
    let _alive = watchdog(Duration::from_secs(120));
    let node = Node::new("csi-modes");
    let one = volume(&node, "one-writer");
    stage(&node, &one.id, with(AccessMode::SingleNodeSingleWriter)).unwrap();
    publish(
        &node,
        &one.id,
        "a",
        with(AccessMode::SingleNodeSingleWriter),
    )
    .unwrap();
    let second = publish(
        &node,
        &one.id,
        "b",
        with(AccessMode::SingleNodeSingleWriter),
    );
    assert_eq!(second.unwrap_err(), Code::FailedPrecondition);

    let many = volume(&node, "many-writers");
    let mode = with(AccessMode::MultiNodeMultiWriter);
    stage(&node, &many.id, mode.clone()).unwrap();
    let first = publish(&node, &many.id, "c", mode.clone()).unwrap();
    let second = publish(&node, &many.id, "d", mode.clone()).unwrap();
    fs::write(Path::new(&first).join("x"), "shared").unwrap();
    assert_eq!(
        fs::read_to_string(Path::new(&second).join("x")).unwrap(),
        "shared"
    );
    // One pod may be kept from writing while the others go on.
    let target = node.path("pods/reader");
    node.driver
        .publish(&Publish {
            volume: many.id.clone(),
            staging: node.path(&format!("plugins/{}", many.id)),
            target: target.clone(),
            capability: Some(mode),
            read_only: true,
        })
        .unwrap();
    let error = fs::write(Path::new(&target).join("y"), "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    fs::write(Path::new(&first).join("y"), "").unwrap();

    let own = volume(&node, "of-a-group");
    let grouped = Capability {
        group: Some(2000),
        ..writer()
    };
    stage(&node, &own.id, grouped.clone()).unwrap();
    let target = publish(&node, &own.id, "e", grouped).unwrap();
    let file = Path::new(&target).join("f");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let shown = fs::metadata(&file).unwrap();
    assert_eq!((shown.gid(), shown.mode() & 0o777), (2000, 0o660));
    assert_eq!(fs::metadata(&target).unwrap().gid(), 2000);
    // Without the view it is as it was written.
    node.driver.unpublish(&own.id, &target).unwrap();
    let staging = node.path(&format!("plugins/{}", own.id));
    node.driver.unstage(&own.id, &staging).unwrap();
    stage(&node, &own.id, writer()).unwrap();
    let target = publish(&node, &own.id, "e", writer()).unwrap();
    let plain = fs::metadata(Path::new(&target).join("f")).unwrap();
    assert_eq!((plain.gid(), plain.mode() & 0o777), (0, 0o600));
    node.end();
}

#[test]
fn an_ephemeral_volume_is_a_fork_that_goes_with_its_pod() {
    if !can_mount("an_ephemeral_volume_is_a_fork_that_goes_with_its_pod") {
        return;
    }
    let _alive = watchdog(Duration::from_secs(120));
    let node = Node::new("csi-ephemeral");
    let bucket = root_timeline(&node.engine, "bucket/team/base");
    let before = node.engine.timelines().len();
    let attributes = |more: &[(&str, &str)]| -> BTreeMap<String, String> {
        [
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.namespace", "team"),
        ]
        .iter()
        .chain(more)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
    };
    let target = node.path("pods/p");
    let ask = |more: &[(&str, &str)]| {
        node.driver
            .publish_ephemeral(
                "csi-123",
                &target,
                Some(&writer()),
                false,
                &attributes(more),
            )
            .map_err(|error| error.code)
    };
    assert_eq!(ask(&[]).unwrap_err(), Code::InvalidArgument);
    assert_eq!(
        ask(&[("bucket", "base"), ("fork", "x")]).unwrap_err(),
        Code::InvalidArgument
    );
    assert_eq!(
        ask(&[("bucket", "../other/base")]).unwrap_err(),
        Code::InvalidArgument
    );
    assert_eq!(ask(&[("bucket", "absent")]).unwrap_err(), Code::NotFound);
    assert_eq!(
        ask(&[("bucket", "base"), ("colour", "red")]).unwrap_err(),
        Code::InvalidArgument
    );
    assert_eq!(
        node.engine.timelines().len(),
        before,
        "a refusal leaves nothing"
    );
    ask(&[("bucket", "base"), ("bytes", "1Gi")]).unwrap();
    ask(&[("bucket", "base"), ("bytes", "1Gi")]).unwrap();
    fs::write(Path::new(&target).join("x"), "only here").unwrap();
    assert_eq!(
        node.driver.stats("csi-123", &target).unwrap().bytes[0],
        1 << 30
    );
    assert!(
        support::volume(&node.engine, storage_engine::Point::Now(bucket))
            .resolve(b"/x")
            .is_err()
    );
    node.driver.unpublish("csi-123", &target).unwrap();
    node.driver.unpublish("csi-123", &target).unwrap();
    assert!(!Path::new(&target).exists());
    assert_eq!(node.engine.timelines().len(), before);
    node.end();
}

#[test]
fn a_group_has_one_cutoff_and_goes_as_a_whole() {
    if !can_mount("a_group_has_one_cutoff_and_goes_as_a_whole") {
        return;
    }
    let node = Node::new("csi-group");
    let volumes: Vec<String> = ["a", "b", "c"].map(|name| volume(&node, name).id).into();
    let group = node.driver.create_group("g", &volumes).unwrap();
    assert_eq!(node.driver.create_group("g", &volumes).unwrap(), group);
    assert_eq!(group.members.len(), 3);
    assert!(
        group
            .members
            .iter()
            .all(|member| member.created == group.created)
    );
    let error = node.driver.create_group("g", &volumes[..2]).unwrap_err();
    assert_eq!(error.code, Code::AlreadyExists);
    let ids: Vec<String> = group
        .members
        .iter()
        .map(|member| member.id.clone())
        .collect();
    let error = node.driver.delete_snapshot(&ids[0]).unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition);
    let error = node.driver.delete_group(&group.id, &ids[..1]).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert_eq!(node.driver.get_group(&group.id, &ids).unwrap(), group);
    node.driver.delete_group(&group.id, &ids).unwrap();
    node.driver.delete_group(&group.id, &ids).unwrap();
    assert_eq!(
        node.driver.get_group(&group.id, &[]).unwrap_err().code,
        Code::NotFound
    );
    assert!(
        node.driver
            .list_snapshots(None, None, 0, "")
            .unwrap()
            .entries
            .is_empty()
    );
    node.end();
}
