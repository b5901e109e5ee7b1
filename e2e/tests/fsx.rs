//! fsx on a fork: random reads, writes, mappings and truncates of one file, each read checked against a model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use e2e::arena::{Arena, can_run};
use e2e::{binaries, program};

/// Fixed seeds, and one of this run's own; `FSX_SEED` replaces that one, to repeat a failure.
fn seeds() -> Vec<u64> {
    let fresh = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64
        % 1_000_000_007;
    let own = std::env::var("FSX_SEED")
        .ok()
        .map_or(fresh, |seed| seed.parse().expect("FSX_SEED is a number"));
    vec![1, 7, 4242, own]
}

fn run(configuration: &str, operations: u32) {
    let name = format!("fsx with {configuration}");
    if !can_run(&name, &[], false).unwrap() {
        return;
    }
    let suite = binaries::suite("fsx");
    if suite.is_none() && !e2e::in_ci() {
        println!("{name}: not run, it is not built (`e2e/setup test`)");
        return;
    }
    let suite = suite.expect("fsx is built by e2e/setup test");
    let configuration = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("suites")
        .join(configuration);
    let arena = Arena::new("fsx").unwrap();
    let artifacts = arena.elsewhere().unwrap();
    for seed in seeds() {
        let mut command = Command::new(&suite);
        command.arg("-f").arg(&configuration).args([
            "-N",
            &operations.to_string(),
            "-S",
            &seed.to_string(),
        ]);
        command
            .arg("-P")
            .arg(&artifacts)
            .arg(arena.path().join(format!("file-{seed}")));
        let ended = program::succeed_for(Duration::from_secs(120), &mut command);
        let ended = ended.unwrap_or_else(|failure| panic!("{name}, FSX_SEED={seed}: {failure}"));
        println!(
            "{name}: seed {seed}, {operations} operations, {:.1} s",
            ended.took.as_secs_f64()
        );
    }
    arena.finish().unwrap();
}

#[test]
fn reads_writes_mappings_and_truncates_give_back_what_was_written() {
    run("fsx-plain.toml", 10_000);
}

#[test]
fn holes_allocation_and_copies_give_back_what_was_written() {
    run("fsx-everything.toml", 10_000);
}
