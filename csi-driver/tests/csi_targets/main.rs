//! Where the driver mounts: paths that are swapped for links meanwhile, mounts of others, and paths that hang.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod calls;
#[path = "../csi_common/mod.rs"]
mod csi_common;
mod hangs;
mod others;
#[path = "../support/mod.rs"]
mod support;
mod swaps;
