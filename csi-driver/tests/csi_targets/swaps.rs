//! Paths that are swapped for links while calls use them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use csi_driver::csi::Code;
use csi_driver::fuse::mount::{self, TYPE};

use crate::calls::{Outcome, ours_below, publish, publish_inline, stage};
use crate::csi_common::{Node, volume};
use crate::support::{can_mount, root_timeline, watchdog};

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
