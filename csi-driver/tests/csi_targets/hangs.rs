//! Paths on a file system that does not answer.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use csi_driver::csi::Code;
use csi_driver::fuse::device::Device;
use csi_driver::fuse::mount::PATH_DEADLINE;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::calls::{Outcome, ours_below, publish, publish_inline, stage};
use crate::csi_common::{Node, volume};
use crate::support::{can_mount, root_timeline, watchdog};

/// A call that can be made again.
type Retried<'a> = Box<dyn Fn() -> Outcome + Sync + 'a>;

/// A mount whose server never answers, not even its first request: every path into it hangs until this is dropped.
struct Hung {
    device: Option<Device>,
    point: PathBuf,
}

impl Hung {
    fn over(point: &Path) -> Hung {
        let device = Device::open().unwrap();
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_fd().as_raw_fd()
        );
        let data = std::ffi::CString::new(data).unwrap();
        rustix::mount::mount(
            "hung",
            point,
            "fuse.hung",
            MountFlags::empty(),
            data.as_c_str(),
        )
        .unwrap();
        Hung {
            device: Some(device),
            point: point.to_owned(),
        }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // Closing the device aborts the connection: whoever waits gets an error.
        drop(self.device.take());
        let _ = rustix::mount::unmount(&self.point, UnmountFlags::DETACH);
    }
}

#[test]
fn a_path_that_hangs_costs_its_own_volume_a_deadline_and_nobody_else_anything() {
    let name = "a_path_that_hangs_costs_its_own_volume_a_deadline_and_nobody_else_anything";
    if !can_mount(name) {
        return;
    }
    let _alive = watchdog(Duration::from_secs(200));
    let node = Node::new("csi-hangs");
    let driver = &node.driver;
    root_timeline(&node.engine, "bucket/team/base");
    let volumes: Vec<String> = ["to-publish", "to-unpublish", "to-unstage", "free"]
        .map(|name| volume(&node, name).id)
        .into();
    let dir = |path: &str| {
        fs::create_dir_all(node.kubelet.join(path)).unwrap();
        node.kubelet.join(path)
    };
    let hang_at = ["pods/a", "pods/b", "plugins/c", "pods/d", "pods/e"].map(dir);
    let staging = [
        node.path("plugins/0"),
        node.path("plugins/1"),
        node.path("plugins/c/2"),
        node.path("plugins/3"),
    ];
    for (id, staging) in volumes.iter().zip(&staging) {
        stage(driver, id, staging).unwrap();
    }
    let target = ["a", "b"].map(|pod| node.path(&format!("pods/{pod}/mount")));
    let inline = ["d", "e"].map(|pod| node.path(&format!("pods/{pod}/mount")));
    publish(driver, &volumes[1], &staging[1], &target[1]).unwrap();
    publish_inline(driver, "csi-old", &inline[1]).unwrap();
    fs::write(Path::new(&target[1]).join("file"), "kept").unwrap();

    let hung: Vec<Hung> = hang_at.iter().map(|path| Hung::over(path)).collect();
    let calls: [(&str, &str, Retried); 5] = [
        (
            "publish",
            &volumes[0],
            Box::new(|| publish(driver, &volumes[0], &staging[0], &target[0])),
        ),
        (
            "unpublish",
            &volumes[1],
            Box::new(|| driver.unpublish(&volumes[1], &target[1])),
        ),
        (
            "unstage",
            &volumes[2],
            Box::new(|| driver.unstage(&volumes[2], &staging[2])),
        ),
        (
            "publish inline",
            "csi-new",
            Box::new(|| publish_inline(driver, "csi-new", &inline[0])),
        ),
        (
            "unpublish inline",
            "csi-old",
            Box::new(|| driver.unpublish("csi-old", &inline[1])),
        ),
    ];
    let generous = PATH_DEADLINE + Duration::from_secs(20);
    let free = node.path("pods/free");
    std::thread::scope(|scope| {
        let running: Vec<_> = calls
            .iter()
            .map(|(name, _, call)| {
                scope.spawn(move || {
                    let begun = Instant::now();
                    (name, call(), begun.elapsed())
                })
            })
            .collect();
        // Nobody else waits meanwhile; figures come from the engine, and a hung path keeps none back.
        let begun = Instant::now();
        let mut rounds = 0;
        while begun.elapsed() < PATH_DEADLINE / 2 {
            publish(driver, &volumes[3], &staging[3], &free).unwrap();
            driver.stats(&volumes[3], &free).unwrap();
            driver.unpublish(&volumes[3], &free).unwrap();
            rounds += 1;
        }
        let asked = Instant::now();
        driver.stats(&volumes[1], &target[1]).unwrap();
        let stats = asked.elapsed();
        assert!(rounds >= 5, "{rounds} rounds on another volume");
        assert!(stats < generous, "{stats:?}");
        eprintln!(
            "meanwhile {rounds} publications of another volume, {:.1} ms each; stats at a hung path: {:.1} ms",
            begun.elapsed().as_secs_f64() * 1000.0 / f64::from(rounds),
            stats.as_secs_f64() * 1000.0
        );
        for call in running {
            let (name, outcome, took) = call.join().unwrap();
            let error = outcome.unwrap_err();
            eprintln!(
                "{name}: {:?} after {:.1} s: {error}",
                error.code,
                took.as_secs_f64()
            );
            assert_eq!(error.code, Code::DeadlineExceeded, "{name}: {error}");
            assert!(error.message.contains(&node.path("")), "{name}: {error}");
            assert!(took < generous, "{name}: {took:?}");
        }
    });
    // The hung calls have their volumes still.
    for (name, volume, call) in &calls {
        let begun = Instant::now();
        let error = call().unwrap_err();
        assert_eq!(error.code, Code::Aborted, "{name}: {error}");
        assert!(error.message.contains("earlier call"), "{name}: {error}");
        assert!(error.message.contains(volume), "{name}: {error}");
        assert!(begun.elapsed() < PATH_DEADLINE, "{name}");
    }
    drop(hung);
    for (name, _, call) in &calls {
        let begun = Instant::now();
        let outcome = loop {
            match call() {
                Err(error)
                    if error.code == Code::Aborted && begun.elapsed() < Duration::from_secs(30) =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => break other,
            }
        };
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
        let after = begun.elapsed().as_secs_f64() * 1000.0;
        eprintln!("{name}: done {after:.1} ms after the hang");
    }
    drop(calls);
    publish(driver, &volumes[1], &staging[1], &target[1]).unwrap();
    let kept = fs::read_to_string(Path::new(&target[1]).join("file")).unwrap();
    assert_eq!(kept, "kept");
    let mut left = ours_below(&node.kubelet);
    left.sort();
    let mut expected: Vec<PathBuf> = [
        &staging[0],
        &staging[1],
        &staging[3],
        &target[0],
        &target[1],
        &inline[0],
    ]
    .map(PathBuf::from)
    .into();
    expected.sort();
    assert_eq!(left, expected);
    for (id, target) in [
        (volumes[0].as_str(), &target[0]),
        (&volumes[1], &target[1]),
        ("csi-new", &inline[0]),
    ] {
        driver.unpublish(id, target).unwrap();
    }
    node.end();
}

/// The keeper goes on with an unmount that its caller has given up, and it may fail then: nobody may count on that mount.
#[test]
fn a_mount_whose_unmount_was_given_up_is_unmounted_before_it_is_staged_again() {
    let name = "a_mount_whose_unmount_was_given_up_is_unmounted_before_it_is_staged_again";
    if !can_mount(name) {
        return;
    }
    let _alive = watchdog(Duration::from_secs(120));
    let node = Node::new("csi-late");
    let driver = &node.driver;
    let id = volume(&node, "v").id;
    let [staging, target] = ["plugins/s", "pods/t"].map(|below| node.path(below));
    stage(driver, &id, &staging).unwrap();
    // In use, so that the unmount fails in the end.
    let open = fs::File::create(Path::new(&staging).join("file")).unwrap();
    let mount = node.mounts.list().remove(0).id;
    let begun = Instant::now();
    while !node.mounts.list()[0].unmounting {
        assert!(begun.elapsed() < Duration::from_secs(30));
        let given_up = node.mounts.unmount_within(Duration::ZERO, &mount, false);
        given_up.unwrap_err();
    }
    let error = publish(driver, &id, &staging, &target).unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition, "{error}");
    let error = driver.delete_volume(&id).unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition, "{error}");
    let error = stage(driver, &id, &staging).unwrap_err();
    assert_eq!(error.code, Code::Aborted, "{error}");
    assert!(ours_below(&node.kubelet).is_empty());
    drop(open);
    let begun = Instant::now();
    while let Err(error) = stage(driver, &id, &staging) {
        assert_eq!(error.code, Code::Aborted, "{error}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{error}");
        std::thread::sleep(Duration::from_millis(5));
    }
    publish(driver, &id, &staging, &target).unwrap();
    assert!(Path::new(&target).join("file").exists());
    driver.unpublish(&id, &target).unwrap();
    driver.unstage(&id, &staging).unwrap();
    assert!(ours_below(&node.kubelet).is_empty());
    node.end();
}
