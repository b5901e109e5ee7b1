//! Tests of the custom resources from outside: generated files, examples, rules against CEL, manifests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod arbitrary;
mod examples;
mod files;
mod manifests;
mod rules;
