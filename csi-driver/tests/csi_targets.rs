//! Where the driver mounts: paths that are swapped for links meanwhile, mounts of others, and paths that hang.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod csi_common;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use csi_common::{Node, volume, writer};
use csi_driver::csi::{Code, CsiError, Driver, Publish, Stage};
use csi_driver::fuse::device::Device;
use csi_driver::fuse::mount::{self, PATH_DEADLINE, TYPE, mounted};
use rustix::mount::{MountFlags, UnmountFlags};
use support::{can_mount, root_timeline, watchdog};

type Outcome = Result<(), CsiError>;
/// A call that can be made again.
type Retried<'a> = Box<dyn Fn() -> Outcome + Sync + 'a>;

fn stage(driver: &Driver, id: &str, staging: &str) -> Outcome {
    driver.stage(&Stage {
        volume: id.into(),
        staging: staging.into(),
        capability: Some(writer()),
    })
}

fn publish(driver: &Driver, id: &str, staging: &str, target: &str) -> Outcome {
    driver.publish(&Publish {
        volume: id.into(),
        staging: staging.into(),
        target: target.into(),
        capability: Some(writer()),
        read_only: false,
    })
}

fn publish_inline(driver: &Driver, id: &str, target: &str) -> Outcome {
    let attributes: BTreeMap<String, String> = [
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("csi.storage.k8s.io/pod.namespace", "team"),
        ("bucket", "base"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    driver.publish_ephemeral(id, target, Some(&writer()), false, &attributes)
}

/// Our mounts below a directory.
fn ours_below(directory: &Path) -> Vec<PathBuf> {
    mounted()
        .unwrap()
        .into_iter()
        .filter(|line| line.kind == TYPE && line.point.starts_with(directory))
        .map(|line| line.point)
        .collect()
}

fn exchange(one: &Path, other: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok()
}

/// Exchanges two names over and over, and counts how often it succeeded while a call was running.
struct Swapper {
    stop: Arc<AtomicBool>,
    calling: Arc<AtomicBool>,
    swapped: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Swapper {
    fn start(one: PathBuf, other: PathBuf) -> Swapper {
        let stop = Arc::new(AtomicBool::new(false));
        let calling = Arc::new(AtomicBool::new(false));
        let swapped = Arc::new(AtomicU64::new(0));
        let (own_stop, own_calling, own_swapped) = (stop.clone(), calling.clone(), swapped.clone());
        let thread = std::thread::spawn(move || {
            while !own_stop.load(Ordering::SeqCst) {
                let before = own_calling.load(Ordering::SeqCst);
                let done = exchange(&one, &other);
                if before && done && own_calling.load(Ordering::SeqCst) {
                    own_swapped.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Swapper {
            stop,
            calling,
            swapped,
            thread,
        }
    }

    fn during(&self, call: impl FnOnce() -> Outcome) -> Outcome {
        self.calling.store(true, Ordering::SeqCst);
        let outcome = call();
        self.calling.store(false, Ordering::SeqCst);
        outcome
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.swapped.load(Ordering::SeqCst)
    }
}

/// How calls of one kind ended.
#[derive(Debug, Default)]
struct Tally {
    done: u32,
    refused: BTreeMap<&'static str, u32>,
}

impl Tally {
    fn count(&mut self, call: &str, outcome: &Outcome) {
        let refused = match outcome {
            Ok(()) => {
                self.done += 1;
                return;
            }
            Err(error) => match error.code {
                Code::InvalidArgument => "link",
                Code::NotFound => "not found",
                Code::FailedPrecondition => "moved",
                Code::Aborted => "moved before",
                Code::Unavailable => "lost by the keeper",
                other => panic!("{call}: {other:?}: {error}"),
            },
        };
        *self.refused.entry(refused).or_default() += 1;
    }
}

/// Somebody swaps a directory on the way to every path for a link to another place, over and over.
#[test]
fn ten_thousand_swaps_of_the_paths_touch_nothing_outside() {
    let name = "ten_thousand_swaps_of_the_paths_touch_nothing_outside";
    if !can_mount(name) {
        return;
    }
    let _alive = watchdog(Duration::from_secs(300));
    let swaps: u64 = std::env::var("ANABRANCH_SWAPS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(10_000);
    let node = Node::new("csi-swaps");
    let driver = &node.driver;
    root_timeline(&node.engine, "bucket/team/base");
    let (bound, staged) = (volume(&node, "bound").id, volume(&node, "staged").id);
    let outside = tempfile::tempdir().unwrap();
    for folder in ["mount", "stage", "inline"] {
        fs::create_dir(outside.path().join(folder)).unwrap();
    }
    fs::write(outside.path().join("precious"), "precious").unwrap();
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    let device_outside = device(outside.path());
    let untouched = || {
        for folder in ["mount", "stage", "inline"] {
            let path = outside.path().join(folder);
            assert_eq!(
                device(&path),
                device_outside,
                "something is mounted at {folder}"
            );
            assert_eq!(fs::read_dir(path).unwrap().count(), 0);
        }
        let precious = fs::read_to_string(outside.path().join("precious")).unwrap();
        assert_eq!(precious, "precious");
    };

    let (pod, link) = (
        node.kubelet.join("pods/pod"),
        node.kubelet.join("pods/link"),
    );
    fs::create_dir(&pod).unwrap();
    symlink(outside.path(), &link).unwrap();
    let at_rest = node.path("plugins/bound");
    stage(driver, &bound, &at_rest).unwrap();
    let [target, staging, inline] =
        ["mount", "stage", "inline"].map(|last| node.path(&format!("pods/pod/{last}")));
    let from_swapped = node.path("pods/from-swapped");

    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    let swapper = Swapper::start(pod.clone(), link.clone());
    let begun = Instant::now();
    let mut rounds = 0u32;
    while rounds < 1500 || swapper.swapped.load(Ordering::SeqCst) < swaps {
        assert!(begun.elapsed() < Duration::from_secs(200), "{tallies:?}");
        rounds += 1;
        let mut call = |name: &'static str, outcome: &dyn Fn() -> Outcome| {
            let outcome = swapper.during(outcome);
            tallies.entry(name).or_default().count(name, &outcome);
            outcome.is_ok()
        };
        call("publish", &|| publish(driver, &bound, &at_rest, &target));
        call("unpublish", &|| driver.unpublish(&bound, &target));
        call("stage", &|| stage(driver, &staged, &staging));
        if call("publish from there", &|| {
            publish(driver, &staged, &staging, &from_swapped)
        }) {
            let line = mount::mounted_at(Path::new(&from_swapped)).unwrap();
            let line = line.expect("a publication is mounted");
            assert_eq!(line.kind, TYPE, "{line:?}");
            driver.unpublish(&staged, &from_swapped).unwrap();
        }
        call("unstage", &|| driver.unstage(&staged, &staging));
        // Making a fork each time costs more than the rest together.
        if rounds.is_multiple_of(4) {
            call("publish inline", &|| {
                publish_inline(driver, "csi-1", &inline)
            });
            call("unpublish inline", &|| driver.unpublish("csi-1", &inline));
        }
        untouched();
    }
    let swapped = swapper.end();
    eprintln!(
        "{rounds} rounds under {swapped} swaps that succeeded while a call ran, in {:.1} s:",
        begun.elapsed().as_secs_f64()
    );
    for (call, tally) in &tallies {
        eprintln!(
            "  {call}: {} done, refused: {:?}",
            tally.done, tally.refused
        );
        assert!(tally.done > 0, "{call}");
    }
    assert!(swapped >= swaps);
    for call in ["publish", "stage", "publish inline"] {
        assert!(!tallies[call].refused.is_empty(), "{call} met no swap");
    }
    untouched();

    // When it has ended, everything can be done and undone, and nothing is left.
    if fs::symlink_metadata(&pod).unwrap().is_symlink() {
        assert!(exchange(&pod, &link));
    }
    driver.unpublish("csi-1", &inline).unwrap();
    driver.unpublish(&bound, &target).unwrap();
    driver.unstage(&staged, &staging).unwrap();
    publish_inline(driver, "csi-1", &inline).unwrap();
    publish(driver, &bound, &at_rest, &target).unwrap();
    stage(driver, &staged, &staging).unwrap();
    driver.unpublish("csi-1", &inline).unwrap();
    driver.unpublish(&bound, &target).unwrap();
    driver.unstage(&staged, &staging).unwrap();
    assert_eq!(ours_below(&node.kubelet), [PathBuf::from(&at_rest)]);
    assert!(ours_below(outside.path()).is_empty());
    untouched();
    node.end();
}

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
