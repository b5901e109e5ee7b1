//! The whole control plane against a real API server: the operator, and the node agent as the program that it is, with the
//! engine in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    dead_code
)]

mod agent;
mod central;
#[path = "../csi_hostile/ids.rs"]
mod hostile;
mod life;
#[path = "../support/mod.rs"]
mod mounting;
mod outage;
mod remade;
mod scale;
#[path = "../../../operator/tests/cluster/support.rs"]
mod support;
mod volumes;
