//! The object interface against a sorted map, and against the files that it shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod conditions;
mod files;
mod history;
mod map;
