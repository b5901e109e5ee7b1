//! The product on a real one-node Kubernetes: its chart, the stock sidecars, a kubelet, and pods on forks.
//!
//! `ANABRANCH_NODE=name,name` runs some of the scenarios, `ANABRANCH_NODE_HOLD=1` keeps the node when one has failed, until
//! the test is interrupted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod claims;
mod endings;
mod forks;
mod manifests;
mod outage;
mod pods;
mod prepare;

use std::time::{Duration, Instant};

use e2e::cluster::Failure;
use e2e::node::{self, Node};

type Scenario = (&'static str, fn(&Node) -> Result<(), Failure>);

const SCENARIOS: &[Scenario] = &[
    ("sets", forks::sets),
    ("empty", claims::empty),
    ("copies", claims::copies),
    ("sources", claims::sources),
    ("single", claims::single),
    ("inline", pods::inline),
    ("workloads", pods::sets),
    ("outage", outage::agents),
    ("endings", endings::in_use),
    // The last: the chart is gone after it.
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
    let mut failures = Vec::new();
    for (name, scenario) in SCENARIOS {
        if !asked.is_empty() && !asked.split(',').any(|one| one == *name) {
            println!("not run: {name} (ANABRANCH_NODE)");
            continue;
        }
        println!("{name}");
        let begun = Instant::now();
        let result = scenario(&node);
        let taken = begun.elapsed().as_secs_f64();
        match result {
            Ok(()) => println!("{name}: passed, {taken:.1} s"),
            Err(failure) => {
                println!("{name}: FAILED, {taken:.1} s: {failure}");
                failures.push(format!("{name}: {failure}"));
                if hold() {
                    break;
                }
                forget(&node);
            }
        }
    }
    if !failures.is_empty() {
        fail(&node, &failures);
    }
    println!("all after {:.1} s", since.elapsed().as_secs_f64());
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
