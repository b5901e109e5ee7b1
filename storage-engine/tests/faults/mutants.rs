//! Planted bugs: each must make one of the tests fail. One process for each, as the bug is named by its
//! environment.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const POISONS: &str = "a_failed_sync_poisons_the_store_until_it_is_opened_again";
const EVERY_CUT: &str = "power_is_lost_at_every_call";
const EVERY_CALL: &str = "every_call_fails_once_in_every_way";
const RANDOM: &str = "random_faults_lose_nothing_that_was_acknowledged";
const POWER_CUTS: &str = "cuts::power_cuts_under_the_whole_store_lose_nothing";

/// The bugs of `src/planted.rs` but those that are only in the order of threads, and the test that mostly finds
/// each, which is tried first.
const BUGS: [(&str, &str); 20] = [
    ("skipped-segment-sync", POISONS),
    ("skipped-sync-of-full-segment", EVERY_CUT),
    ("skipped-directory-sync", EVERY_CUT),
    ("skipped-object-sync", EVERY_CUT),
    ("skipped-object-directory-sync", EVERY_CUT),
    ("index-before-log", EVERY_CUT),
    ("recovered-without-sync", RANDOM),
    ("torn-tail-accepted", RANDOM),
    ("lost-deadlist", EVERY_CUT),
    ("wrong-horizon", RANDOM),
    ("double-free", EVERY_CUT),
    ("freed-too-much", RANDOM),
    ("reused-inode", EVERY_CUT),
    ("acknowledged-before-sync", EVERY_CUT),
    ("rename-before-sync", EVERY_CUT),
    ("position-ahead", EVERY_CUT),
    ("sync-retried", POISONS),
    ("short-write-accepted", EVERY_CALL),
    ("compacted-without-sync", RANDOM),
    ("removal-forgotten", RANDOM),
];

/// The tests, cheapest first.
const TESTS: [&str; 5] = [POISONS, EVERY_CUT, EVERY_CALL, RANDOM, POWER_CUTS];

/// Longest time that one test may take before it counts as hanging.
const LIMIT: Duration = Duration::from_secs(300);

/// Whether the test fails with this bug; without one, whether it fails at all.
fn fails(test: &str, bug: Option<&str>) -> bool {
    // The rarest bug shows in one of some 250 cases; a test ends with the first.
    let cases = if bug.is_some() { 4_000 } else { 400 };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--test-threads=1"])
        .env_remove("ANABRANCH_PLANTED_BUG")
        .env("RUST_BACKTRACE", "0")
        .env(
            "ANABRANCH_CASES",
            std::env::var("ANABRANCH_CASES").unwrap_or_else(|_| cases.to_string()),
        )
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(bug) = bug {
        command.env("ANABRANCH_PLANTED_BUG", bug);
    }
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return !status.success();
        }
        if start.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{test} with {bug:?} did not end within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_planted_bug_is_found() {
    let only = std::env::var("ANABRANCH_MUTANTS").unwrap_or_default();
    let bugs: Vec<(&str, &str)> = BUGS
        .into_iter()
        .filter(|(bug, _)| only.is_empty() || only.split(',').any(|o| o == *bug))
        .collect();
    assert!(!bugs.is_empty(), "no planted bug is named {only}");
    // How well each layer does by itself: for the documentation.
    let all = std::env::var_os("ANABRANCH_MUTANTS_ALL").is_some();
    let mut missed = Vec::new();
    for (bug, likely) in &bugs {
        let start = Instant::now();
        if all {
            let by: Vec<&str> = TESTS.into_iter().filter(|t| fails(t, Some(bug))).collect();
            println!("{bug}: caught by {by:?}");
        }
        let mut order = TESTS;
        order.sort_by_key(|test| test != likely);
        match order.into_iter().find(|test| fails(test, Some(bug))) {
            Some(test) => println!(
                "{bug}: caught by {test} in {:.1} s",
                start.elapsed().as_secs_f64()
            ),
            None => {
                println!("{bug}: NOT CAUGHT");
                missed.push(*bug);
            }
        }
    }
    println!(
        "{}/{} planted bugs caught",
        bugs.len() - missed.len(),
        bugs.len()
    );
    assert!(missed.is_empty(), "not caught: {missed:?}");
    // They are caught because of the bug: without one the same tests pass.
    if only.is_empty() {
        for test in TESTS {
            assert!(!fails(test, None), "{test} fails without any bug");
        }
    }
}
