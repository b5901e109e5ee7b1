//! The keeper in one pod answers the agent in another: neither sees the other's processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;
use std::time::{Duration, Instant};

use csi_driver::keeper::client::Client;

#[test]
fn a_keeper_answers_a_process_of_another_namespace() {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "CI must be root"
        );
        eprintln!("NOT RUN: a_keeper_answers_a_process_of_another_namespace: needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child"])
        .arg(env!("CARGO_BIN_EXE_anabranch-keeper"))
        .arg("--dir")
        .arg(folder.path())
        .spawn()
        .unwrap();
    let since = Instant::now();
    let answer = loop {
        match Client::connect(folder.path()) {
            Ok(client) => break client.list().map(|mounts| mounts.len()),
            Err(failure) if since.elapsed() > Duration::from_secs(20) => {
                keeper.kill().unwrap();
                panic!("{failure}");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    assert_eq!(answer.unwrap(), 0);
}
