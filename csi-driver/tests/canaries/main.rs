//! What must not be told is not told: canaries in every text of every call and in our objects, at the highest level of
//! the logs of the agent (as the program that it is) and of the operator.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    dead_code
)]

mod calls;
mod marks;
#[path = "../support/mod.rs"]
mod mounting;
mod objects;
#[path = "../../../operator/tests/cluster/support.rs"]
mod support;

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crds::Kind;
use e2e::cluster::{Cluster, Parts};
use serde_json::json;

use crate::marks::{Marks, Sort, Tally};
use crate::mounting::{Place, can_mount, watchdog};
use crate::support::{NODE, Running, SYSTEM, fixture, key};

const TEST: &str = "canaries";

/// A program that is killed with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn keeper(place: &Place) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch-keeper"));
    command.arg("--dir").arg(place.path("keeper"));
    let log = File::create(place.path("keeper.log")).unwrap();
    Program(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap(),
    )
}

fn agent(cluster: &Cluster, place: &Place, root: &Path) -> Program {
    let path = |name: &str| place.path(name).to_str().unwrap().to_owned();
    let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch-csi"));
    command
        .args(["node", "--node=n1", "--listen=127.0.0.1:0"])
        .args(["--namespace", SYSTEM, "--lease-seconds=3"])
        .arg(format!("--data={}", path("data")))
        .arg(format!("--csi-socket=unix://{}", path("csi.sock")))
        .arg(format!("--kubelet-dir={}", path("kubelet")))
        .arg(format!("--keeper-dir={}", path("keeper")))
        .arg(format!("--import-root={}", root.display()))
        .env("KUBECONFIG", cluster.kubeconfig_of(NODE).unwrap())
        .env("ANABRANCH_LOG", "trace");
    let log = File::create(place.path("agent.log")).unwrap();
    Program(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap(),
    )
}

/// The texts of all files below a folder.
fn tally_files(folder: &Path, tally: &mut Tally) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => tally_files(&entry.path(), tally),
            kind if kind.is_file() => tally.add(&std::fs::read(entry.path()).unwrap()),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_ever_told() {
    if !can_mount(TEST) {
        return;
    }
    let _alive = watchdog(Duration::from_secs(300));
    // The operator runs in this process.
    let operator_log = marks::capture();
    let Some(f) = fixture(TEST, Parts { controllers: true }).await else {
        return;
    };
    let place = Place::new(TEST);
    for folder in ["kubelet/pods/p", "kubelet/plugins/p", "source"] {
        std::fs::create_dir_all(place.path(folder)).unwrap();
    }
    std::fs::write(place.path("source/file"), "content").unwrap();
    f.namespace("team").await;
    f.node("n1").await;
    let mut marks = Marks::default();
    let _operator = Running::start(&f.cluster, "one");
    let _keeper = keeper(&place);
    let agent = agent(&f.cluster, &place, &place.path("source"));

    let source = place.path("source");
    f.ours(
        "Bucket",
        "team",
        "base",
        json!({"source": {"directory": {"path": source}}}),
    )
    .await;
    let v1 = json!({"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}});
    f.ours("BucketSnapshot", "team", "v1", v1).await;
    f.reason(&key(Kind::Snapshot, "team", "v1"), "Available")
        .await;
    let mut told = objects::run(&f, &mut marks, &place).await;
    let pod = objects::pod(&f).await;
    let answers = calls::run(&place, &pod, &mut marks).await;
    told.push_str(&objects::all(&f).await);

    // In order, so that what an end logs is in the log, too.
    let began = Instant::now();
    let pid = agent.0.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    let mut agent = agent;
    while agent.0.try_wait().unwrap().is_none() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the agent does not end"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let agent_log = std::fs::read(place.path("agent.log")).unwrap();
    let operator_log = operator_log.lock().unwrap().clone();
    let keeper_log = std::fs::read(place.path("keeper.log")).unwrap();
    let mut store = Tally::default();
    tally_files(&place.path("data"), &mut store);
    let looked_at = [
        ("the agent's log", Tally::of(&agent_log)),
        ("the operator's log", Tally::of(&operator_log)),
        ("the keeper's log", Tally::of(&keeper_log)),
        (
            "answers and errors of calls",
            Tally::of(answers.text.as_bytes()),
        ),
        (
            "statuses and events in the API server",
            Tally::of(told.as_bytes()),
        ),
        ("the store", store),
    ];
    let count = |sort| marks.of(sort).count();
    println!(
        "{} canaries: {} in secrets, {} in annotations, {} in other texts; {} calls, of which {} succeeded",
        marks.len(),
        count(Sort::Secret),
        count(Sort::Annotation),
        count(Sort::Text),
        answers.calls,
        answers.succeeded
    );
    for (place, tally) in &looked_at {
        println!(
            "{place}: {} lines, {} of the canaries that are no secrets",
            tally.lines,
            marks.of(Sort::Text).filter(|mark| tally.has(*mark)).count()
        );
    }

    // It would have been seen: the level is the highest, and what may be told is told.
    for (log, level) in [(&agent_log, "TRACE"), (&operator_log, "TRACE")] {
        let text = String::from_utf8_lossy(log);
        assert!(text.lines().count() > 200, "{}", text.lines().count());
        assert!(
            text.contains(level) && text.contains("DEBUG"),
            "no {level} in the log"
        );
    }
    let text = String::from_utf8_lossy(&agent_log);
    assert!(
        text.contains("a call fails") && text.contains("serves"),
        "calls are not in the log"
    );
    assert!(marks.of(Sort::Secret).count() >= 70);
    assert!(
        marks.of(Sort::Text).any(|mark| looked_at[0].1.has(mark)),
        "a name that was refused is in no log: does this look at the right one?"
    );
    for (place, tally) in &looked_at {
        for mark in marks.of(Sort::Secret) {
            assert!(
                !tally.has(mark),
                "{place} has the secret of {}",
                marks.field(mark)
            );
        }
        // People's tools put whole manifests into annotations.
        for mark in marks.of(Sort::Annotation) {
            assert!(
                !tally.has(mark),
                "{place} has the annotation of {}",
                marks.field(mark)
            );
        }
    }
}
