//! Mounts that others have made, or left, where volumes are to be.

use std::fs;
use std::path::Path;
use std::time::Duration;

use csi_driver::csi::Code;
use csi_driver::fuse::device::Device;
use csi_driver::fuse::mount::{self, MountOptions};
use csi_driver::fuse::place::Place;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::calls::{Outcome, ours_below, publish, publish_inline, stage};
use crate::csi_common::{Node, volume};
use crate::support::{can_mount, root_timeline, watchdog};

/// A tmpfs of somebody else is neither mounted over nor taken away, and neither is another volume.
#[test]
fn mounts_of_others_stay_where_they_are() {
    if !can_mount("mounts_of_others_stay_where_they_are") {
        return;
    }
    let _alive = watchdog(Duration::from_secs(120));
    let node = Node::new("csi-foreign");
    let driver = &node.driver;
    root_timeline(&node.engine, "bucket/team/base");
    let (one, other) = (volume(&node, "one").id, volume(&node, "other").id);
    let [staging, of_other] = [&one, &other].map(|id| node.path(&format!("plugins/{id}")));
    let [target, taken] = ["own", "taken"].map(|name| node.path(&format!("pods/{name}")));
    stage(driver, &one, &staging).unwrap();
    stage(driver, &other, &of_other).unwrap();
    publish(driver, &one, &staging, &target).unwrap();

    fs::create_dir(&taken).unwrap();
    let none = rustix::mount::mount("tmpfs", &taken, "tmpfs", MountFlags::empty(), None);
    none.unwrap();
    fs::write(Path::new(&taken).join("precious"), "precious").unwrap();
    let refused = |what: &str, outcome: Outcome| {
        let error = outcome.unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition, "{what}: {error}");
        assert!(error.message.contains(&node.path("")), "{what}: {error}");
        error.message
    };
    refused("publish", publish(driver, &one, &staging, &taken));
    refused("publish inline", publish_inline(driver, "csi-1", &taken));
    refused("stage", stage(driver, &volume(&node, "third").id, &taken));
    let message = refused("unpublish", driver.unpublish(&one, &taken));
    assert!(message.contains("tmpfs"), "{message}");
    refused("unpublish inline", driver.unpublish("csi-1", &taken));
    refused("unstage", driver.unstage(&one, &taken));
    let precious = fs::read_to_string(Path::new(&taken).join("precious")).unwrap();
    assert_eq!(precious, "precious");
    rustix::mount::unmount(&taken, UnmountFlags::DETACH).unwrap();

    refused("another volume", driver.unpublish(&other, &target));
    refused("an inline volume", driver.unpublish("csi-1", &target));
    refused("no volume", driver.unpublish("vol-none", &target));
    refused("another staging", driver.unstage(&other, &staging));
    let error = driver.stats(&other, &target).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    driver.stats(&one, &target).unwrap();
    driver.unpublish(&one, &target).unwrap();
    driver.unpublish(&one, &taken).unwrap();
    assert!(!Path::new(&target).exists() && !Path::new(&taken).exists());
    node.end();
}

/// Mounts like the driver's, whose server is gone: the keeper was killed with the agent.
fn leave_dead(node: &Node, id: &str, path: &str) {
    let timeline = id.strip_prefix("vol-").unwrap();
    let device = Device::open().unwrap();
    let options = MountOptions {
        name: &format!("csi.{timeline}"),
        read_only: false,
    };
    let tree = mount::create(&device, options).unwrap();
    let place = Place::at(Path::new(path)).unwrap();
    place.attach(place.make().unwrap(), tree).unwrap().keep();
    drop(device);
    assert!(
        ours_below(&node.kubelet)
            .iter()
            .any(|point| point == Path::new(path))
    );
}

#[test]
fn what_a_killed_keeper_left_is_taken_away() {
    if !can_mount("what_a_killed_keeper_left_is_taken_away") {
        return;
    }
    let _alive = watchdog(Duration::from_secs(120));
    let node = Node::new("csi-left");
    let driver = &node.driver;
    root_timeline(&node.engine, "bucket/team/base");
    let (one, gone) = (volume(&node, "one").id, volume(&node, "gone").id);
    let [staging, target, inline] = ["plugins/s", "pods/t", "pods/i"].map(|below| node.path(below));
    for (id, path) in [(&one, &staging), (&one, &target), (&gone, &inline)] {
        leave_dead(&node, id, path);
    }
    driver.delete_volume(&gone).unwrap();
    let error = stage(driver, &one, &staging).unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition, "{error}");
    driver.unpublish(&one, &target).unwrap();
    driver.unpublish("csi-1", &inline).unwrap();
    driver.unstage(&one, &staging).unwrap();
    assert!(ours_below(&node.kubelet).is_empty());
    stage(driver, &one, &staging).unwrap();
    publish(driver, &one, &staging, &target).unwrap();
    publish_inline(driver, "csi-1", &inline).unwrap();
    driver.unpublish("csi-1", &inline).unwrap();
    driver.unpublish(&one, &target).unwrap();
    driver.unstage(&one, &staging).unwrap();
    assert!(ours_below(&node.kubelet).is_empty());
    node.end();
}
