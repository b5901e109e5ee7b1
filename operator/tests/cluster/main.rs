//! The operator against a real API server. Agents of nodes are played by the tests: they renew leases and write statuses.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    dead_code
)]

mod chart;
mod consent;
mod election;
mod holding;
mod hostile;
mod killed;
mod placing;
mod proxy;
mod steady;
mod support;
mod watching;
