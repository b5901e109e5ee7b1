//! stress-ng and fio on a fork: many operations at once, and data verified after random asynchronous writes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;
use std::time::Duration;

use e2e::arena::{Arena, can_run};
use e2e::program;

/// What of the class is not about the file system under test (it has other file systems of its own, or the kernel's
/// tables), or needs what only a local disk has. Each of these is left out on ext4 too. `io` syncs every file system
/// that is mounted anywhere on the machine, and fails when one of them goes away meanwhile.
const LEFT_OUT: &str = "binderfs,bind-mount,eventfd,fanotify,inotify,io,ioprio,procfs,verity,xattr";

#[test]
fn every_file_system_stressor_runs_clean() {
    if !can_run("stress-ng", &["stress-ng"], true).unwrap() {
        return;
    }
    let arena = Arena::new("stress").unwrap();
    let mut command = Command::new("stress-ng");
    command.args([
        "--class",
        "filesystem",
        "--sequential",
        "1",
        "--timeout",
        "1",
        "--verify",
        "--verbose",
    ]);
    command
        .arg("--temp-path")
        .arg(arena.path())
        .args(["-x", LEFT_OUT])
        .current_dir(arena.path());
    let ended = program::run_for(Duration::from_secs(600), &mut command).unwrap();
    let complaints: Vec<&str> = ended
        .output
        .lines()
        .filter(|line| line.contains("fail:") || line.contains("error:"))
        .collect();
    assert!(
        ended.status.success() && complaints.is_empty(),
        "stress-ng ended with {}: {complaints:#?}\n{}",
        ended.status,
        program::tail(&ended.output)
    );
    println!("stress-ng: {:.0} s, no complaint", ended.took.as_secs_f64());
    arena.finish().unwrap();
}

fn fio(engine: &str, more: &[&str]) {
    if !can_run("fio", &["fio"], false).unwrap() {
        return;
    }
    let arena = Arena::new("fio").unwrap();
    let mut command = Command::new("fio");
    command.args([
        "--name=verify",
        "--rw=randwrite",
        "--bs=4k-64k",
        "--size=60m",
        "--iodepth=16",
        "--randrepeat=0",
    ]);
    command.args([
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--output-format=terse",
    ]);
    command
        .arg(format!("--ioengine={engine}"))
        .args(more)
        .arg(format!("--directory={}", arena.path().display()));
    command.current_dir(arena.elsewhere().unwrap()); // fio leaves a state file where it runs
    let ended = program::succeed_for(Duration::from_secs(120), &mut command).unwrap();
    // The fifth field of the terse format is the error of the job.
    let line = ended
        .output
        .lines()
        .find(|line| line.starts_with("3;"))
        .expect("fio prints its terse line");
    assert_eq!(line.split(';').nth(4), Some("0"), "{}", ended.output);
    println!(
        "fio, {engine}: {:.1} s, all blocks verified",
        ended.took.as_secs_f64()
    );
    arena.finish().unwrap();
}

#[test]
fn random_asynchronous_writes_verify() {
    fio("libaio", &[]);
}

#[test]
fn random_writes_through_a_shared_mapping_verify() {
    fio("mmap", &["--fsync=64"]);
}

#[test]
fn random_direct_writes_with_syncs_verify() {
    fio("psync", &["--direct=1", "--fdatasync=32", "--size=20m"]);
}
