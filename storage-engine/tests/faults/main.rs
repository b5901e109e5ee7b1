//! The engine on a file system that fails: every call in turn, at random, and by losing power. What was
//! acknowledged must be there afterwards, the rest must be a prefix of what was done, and the store must be
//! sound. `ANABRANCH_SEED` and `ANABRANCH_CASES` repeat a run or make it longer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cuts;
mod disk;
mod fuse;
#[cfg(feature = "planted-bugs")]
mod mutants;
mod rng;
mod run;
mod sim;
mod world;

use run::{Case, End, cases, number, seed};
use sim::{FAULTS, Fault, Plan};

/// A workload in which nothing happens by itself, so that its calls can be counted.
fn counted(seed: u64, plan: Plan, end: End) -> Case {
    Case {
        seed,
        plan,
        end,
        lives: 1,
        steps: 28,
        flush: u64::MAX,
        reopen: true,
    }
}

/// Every call of a workload fails once in each way that it can, and then power is lost.
#[test]
fn every_call_fails_once_in_every_way() {
    let seed = seed();
    let calls = counted(seed, Plan::default(), End::PowerLoss)
        .run()
        .unwrap();
    println!("seed {seed}: {calls} calls, each fails in every way");
    let mut plans = Vec::new();
    for n in 0..calls {
        for fault in FAULTS {
            plans.push((n, fault));
        }
    }
    cases(plans.len() as u64, |at| {
        let (n, fault) = plans[at as usize];
        let plan = Plan {
            fail_at: Some((n, fault)),
            ..Plan::default()
        };
        counted(seed, plan, End::PowerLoss)
    });
}

/// Power is lost at every call of a workload.
#[test]
fn power_is_lost_at_every_call() {
    let seed = seed();
    let calls = counted(seed, Plan::default(), End::PowerLoss)
        .run()
        .unwrap();
    println!("seed {seed}: power is lost at each of {calls} calls");
    cases(calls, |n| {
        let plan = Plan {
            cut_at: Some(n),
            ..Plan::default()
        };
        counted(seed, plan, End::PowerLoss)
    });
}

/// Several lives of a store, each with faults at random and a sudden end.
#[test]
fn random_faults_lose_nothing_that_was_acknowledged() {
    let first = seed();
    let count = number("ANABRANCH_CASES").unwrap_or(1000);
    println!("seeds {first} to {}", first + count - 1);
    cases(count, |n| {
        let seed = first + n;
        Case {
            seed,
            plan: Plan {
                per_mille: [0, 3, 12][(seed % 3) as usize],
                ..Plan::default()
            },
            end: End::Random,
            lives: 2,
            steps: 50,
            flush: if seed.is_multiple_of(2) {
                world::FLUSH_OFTEN
            } else {
                u64::MAX
            },
            reopen: false,
        }
    });
}

/// A segment that cannot be made, and whose file cannot be removed then, is in nobody's way afterwards.
#[test]
fn what_is_left_of_a_segment_that_could_not_be_made_stops_no_commit() {
    let seed = seed();
    println!("seed {seed}");
    let mut made_later = 0;
    for fault in [Fault::Io, Fault::NoSpace] {
        for and_more in [1, 2] {
            made_later += run::failed_segment(seed, fault, and_more);
        }
    }
    assert!(
        made_later > 5,
        "only {made_later} segments could not be made"
    );
}

/// A sync of the log that fails is the end of this opening: nothing claims success after it.
#[test]
fn a_failed_sync_poisons_the_store_until_it_is_opened_again() {
    let seed = seed();
    println!("seed {seed}");
    for fault in [Fault::Io, Fault::NoSpace] {
        run::failed_sync(seed, fault);
    }
}
