//! The product on a real one-node Kubernetes: its chart, the stock sidecars, a kubelet, and pods on forks.
//!
//! `ANABRANCH_NODE=name,name` runs some of the scenarios, `ANABRANCH_NODE_HOLD=1` keeps the node when one has failed, until
//! the test is interrupted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attributes;
mod claims;
mod endings;
mod forks;
mod manifests;
mod outage;
mod pods;
mod prepare;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use e2e::cluster::Failure;
use e2e::node::{self, Node};

type Scenario = (&'static str, fn(&Node) -> Result<(), Failure>);

/// Each in a namespace of its own, three at a time.
const TOGETHER: &[Scenario] = &[
    ("workloads", pods::sets),
    ("sets", forks::sets),
    ("empty", claims::empty),
    ("copies", claims::copies),
    ("sources", claims::sources),
    ("attributes", attributes::classes),
    ("single", claims::single),
    ("inline", pods::inline),
];

/// One after another, after those: they touch the whole node. The chart is gone after the last.
const ALONE: &[Scenario] = &[
    ("outage", outage::agents),
    ("endings", endings::in_use),
    ("uninstall", endings::uninstall),
];

#[test]
fn pods_on_a_node() {
    if !node::inside() {
        if let Some(reason) = node::missing() {
            assert!(!e2e::in_ci(), "not run: the node suite: {reason}");
            println!("not run: the node suite: {reason}");
            return;
        }
        node::enter("pods_on_a_node").unwrap();
        return;
    }
    let since = Instant::now();
    let node = node::timed("the node starts", Node::start).unwrap();
    if let Err(failure) = prepare::install(&node) {
        fail(&node, &[format!("install: {failure}")]);
    }
    println!("installed after {:.1} s", since.elapsed().as_secs_f64());
    let asked = std::env::var("ANABRANCH_NODE").unwrap_or_default();
    let wanted = |scenario: &&Scenario| {
        let wanted = asked.is_empty() || asked.split(',').any(|name| name == scenario.0);
        if !wanted {
            println!("not run: {} (ANABRANCH_NODE)", scenario.0);
        }
        wanted
    };
    let together: Vec<_> = TOGETHER.iter().filter(wanted).collect();
    let mut failures = run(&node, &together, 3);
    for scenario in ALONE.iter().filter(wanted) {
        if failures.is_empty() || !hold() {
            failures.extend(run(&node, &[scenario], 1));
        }
    }
    if !failures.is_empty() {
        fail(&node, &failures);
    }
    println!("all after {:.1} s", since.elapsed().as_secs_f64());
}

/// Runs scenarios, so many at a time, and gives what failed.
fn run(node: &Node, scenarios: &[&Scenario], threads: usize) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((name, scenario)) =
                    scenarios.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let begun = Instant::now();
                    // A thread of its own, which has the scenario's name.
                    let result = std::thread::scope(|scope| {
                        let thread = std::thread::Builder::new().name((*name).to_owned());
                        let running = thread.spawn_scoped(scope, || scenario(node)).unwrap();
                        running.join().unwrap_or_else(|_| Err("it panicked".into()))
                    });
                    let taken = begun.elapsed().as_secs_f64();
                    match result {
                        Ok(()) => println!("{name}: passed, {taken:.1} s"),
                        Err(failure) => {
                            println!("{name}: FAILED, {taken:.1} s: {failure}");
                            failures.lock().unwrap().push(format!("{name}: {failure}"));
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    if !failures.is_empty() && !hold() {
        forget(node);
    }
    failures
}

/// Whether to keep the node as it is after a failure.
fn hold() -> bool {
    std::env::var_os("ANABRANCH_NODE_HOLD").is_some()
}

/// Takes away what a failed scenario has left, so that the next ones say something.
fn forget(node: &Node) {
    for name in node
        .kubectl(&["get", "namespaces", "-o", "name"])
        .unwrap_or_default()
        .lines()
    {
        let own = ["/default", "/kube-", "/anabranch-system"];
        if !own.iter().any(|own| name.contains(own)) {
            let _ = node.kubectl(&["delete", name, "--timeout=60s"]);
        }
    }
}

fn fail(node: &Node, failures: &[String]) -> ! {
    println!("{}", node.logs());
    for args in [
        &["get", "pods,pvc,pv,anabranch", "-A", "-o", "wide"][..],
        &["get", "events", "-A", "--sort-by=.lastTimestamp"],
    ] {
        println!(
            "{}",
            node.kubectl(args)
                .unwrap_or_else(|failure| failure.to_string())
        );
    }
    if hold() {
        println!("failed, and kept: {failures:#?}");
        println!("KUBECONFIG={}", node.file("admin.kubeconfig").display());
        std::thread::sleep(Duration::from_secs(86400));
    }
    panic!("{failures:#?}");
}
