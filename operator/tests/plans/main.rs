//! Plans from outside: what is done and said for each observed state, and that any interruption converges.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod converge;
mod earlier;
mod endings;
mod table;
mod world;
