//! Every call that changes something, with the driver killed in the middle: the same call again does what is left to do,
//! once. `ANABRANCH_KILLS` says how often each one is killed, at moments spread over the time that it takes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod caller;
#[path = "../csi_common/mod.rs"]
mod csi_common;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use caller::{CALLS, Call, Caller};
use csi_common::Node;
use support::{Place, Server, can_mount, open_engine, root_timeline, watchdog};

const SERVE: &str = "ANABRANCH_TEST_SERVE_CSI";

fn kills() -> u32 {
    std::env::var("ANABRANCH_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(8)
}

/// The serving process: this very program, started by the test below.
#[test]
fn serving_process() {
    let Some(root) = std::env::var_os(SERVE) else {
        return;
    };
    let mut node = Node::at(PathBuf::from(root));
    if node.engine.timeline_named("bucket/default/base").is_err() {
        root_timeline(&node.engine, "bucket/default/base");
    }
    node.serve();
    println!("SERVING");
    // Until it is killed, or the test is gone.
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).unwrap() > 0 {
        if line.trim() == "end" {
            node.end();
            return;
        }
    }
}

fn start(root: &Path) -> Server {
    let _ = fs::remove_file(root.join("csi.sock"));
    Server::start(SERVE, root)
}

#[test]
fn a_call_that_was_cut_off_by_a_kill_is_finished_by_the_same_call() {
    let name = "a_call_that_was_cut_off_by_a_kill_is_finished_by_the_same_call";
    if !can_mount(name) {
        return;
    }
    let _alive = watchdog(Duration::from_secs(550));
    let place = Place::new("csi-kills");
    let root = place.root.clone();
    for below in ["kubelet/pods", "kubelet/plugins"] {
        fs::create_dir_all(root.join(below)).unwrap();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut server = start(&root);
    let (mut all, mut cut) = (0, 0);
    for call in CALLS {
        let (mut unanswered, mut effects) = (0, 0);
        // How long it takes undisturbed.
        let mut caller = runtime.block_on(Caller::connect(&root));
        runtime.block_on(caller.prepare(call));
        let begun = Instant::now();
        let answer = runtime.block_on(caller.send(call)).unwrap();
        let alone = begun.elapsed();
        runtime.block_on(async {
            caller.check(call, &answer).await;
            if call == Call::CreateVolumeGroupSnapshot {
                caller.group = answer;
            }
            caller.clear().await;
        });
        for kill in 0..kills() {
            let mut caller = runtime.block_on(Caller::connect(&root));
            runtime.block_on(caller.prepare(call));
            let before = runtime.block_on(caller.effects(call));
            let sent = runtime.spawn({
                let caller = caller.clone();
                async move { caller.send(call).await }
            });
            std::thread::sleep(alone * (2 * kill + 1) / (2 * kills()));
            server.kill();
            let first = runtime.block_on(sent).unwrap();
            server = start(&root);
            let reconnected = runtime.block_on(Caller::connect(&root));
            caller.channel = reconnected.channel;
            if first.is_err() {
                unanswered += 1;
                effects += u32::from(runtime.block_on(caller.effects(call)) != before);
            }
            let answer = runtime.block_on(caller.insist(call));
            if let Ok(first) = first {
                assert_eq!(first, answer, "{call:?}: another answer after a kill");
            }
            runtime.block_on(async {
                caller.check(call, &answer).await;
                if call == Call::CreateVolumeGroupSnapshot {
                    caller.group = answer;
                }
                caller.clear().await;
            });
        }
        eprintln!(
            "  {call:?} ({:.1} ms): {} kills, {unanswered} before the answer, of which {effects} after an effect",
            alone.as_secs_f64() * 1e3,
            kills()
        );
        (all, cut) = (all + kills(), cut + unanswered);
    }
    eprintln!("{all} kills, {cut} in the middle of a call; each was finished by the same call");
    assert!(cut > 0, "no call was cut off");
    server.end();
    let engine = open_engine(&root);
    let report = engine.check(|_| {}).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}
