//! The engine against a naive reference model: generated steps, reopening, kills, damaged logs, concurrent
//! timelines. Every random run prints its seed; `ANABRANCH_SEED`, `ANABRANCH_STEPS` and `ANABRANCH_CASES`
//! repeat one or make them longer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// One arm for each operation reads better than guards on the arms.
#![allow(clippy::collapsible_match, clippy::collapsible_if)]

mod compare;
mod concurrent;
mod content;
mod file_ops;
mod fs;
mod generate;
mod inode;
mod kill;
mod limits;
mod op;
mod rng;
mod run;
mod store_ops;
mod subject;
mod tail;
mod world;

use generate::Profile;

#[test]
fn names_and_links_are_as_in_the_model() {
    run::explore("names_and_links_are_as_in_the_model", Profile::Tree, 8);
}

#[test]
fn bytes_are_as_in_the_model() {
    run::explore("bytes_are_as_in_the_model", Profile::Data, 8);
}

#[test]
fn timelines_are_as_in_the_model() {
    run::explore("timelines_are_as_in_the_model", Profile::Lineage, 8);
}
