//! The conformance suite of the interface, kubernetes-csi's csi-sanity, against the driver on its socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod csi_common;
mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use csi_common::Node;
use support::{can_mount, find_tool, watchdog};

const NAME: &str = "csi_sanity_passes";

/// Specs that are left out, with a reason each: `pattern # reason`.
fn exceptions() -> Vec<String> {
    include_str!("csi-sanity.exceptions")
        .lines()
        .map(|line| {
            line.split(" # ")
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        })
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

#[test]
fn csi_sanity_passes() {
    if !can_mount(NAME) {
        return;
    }
    let Some(program) = find_tool("csi-test", "csi-sanity") else {
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "{NAME}: CI must have csi-sanity (e2e/setup sanity)"
        );
        eprintln!("NOT RUN: {NAME}: needs csi-sanity (e2e/setup sanity)");
        return;
    };
    let _alive = watchdog(Duration::from_secs(540));
    let mut node = Node::new("csi-sanity");
    let endpoint = node.serve();
    let parameters = node.place.path("mutable.yaml");
    fs::write(&parameters, "inodes: \"100000\"\n").unwrap();
    let mut command = Command::new(&program);
    command
        .arg(format!("--csi.endpoint={endpoint}"))
        .arg(format!("--csi.mountdir={}", node.path("pods/target")))
        .arg(format!("--csi.stagingdir={}", node.path("plugins/staging")))
        .arg(format!("--csi.testvolumesize={}", 10 << 20))
        .arg(format!("--csi.testvolumeexpandsize={}", 20 << 20))
        .arg(format!(
            "--csi.testvolumemutableparameters={}",
            parameters.display()
        ))
        .arg("--ginkgo.no-color");
    for exception in exceptions() {
        command.arg(format!("--ginkgo.skip={exception}"));
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let summary: Vec<&str> = text
        .lines()
        .filter(|line| {
            line.contains("Passed") || line.contains("[Fail]") || line.starts_with("Ran ")
        })
        .collect();
    eprintln!("{}", summary.join("\n"));
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let passed: u32 = text
        .lines()
        .find_map(|line| {
            let before = line
                .split(" Passed")
                .next()
                .filter(|_| line.contains(" Passed"))?;
            before.rsplit(' ').next()?.parse().ok()
        })
        .unwrap();
    assert!(passed >= 60, "only {passed} specs ran");
    // Everything the suite made it has taken away again.
    assert!(node.driver.list_volumes(0, "").unwrap().entries.is_empty());
    assert!(node.mounts.list().is_empty());
    node.end();
}
