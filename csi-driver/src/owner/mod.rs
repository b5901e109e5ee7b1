//! The commands on a store, and the socket through which they reach the store's owner.
//!
//! A store has exactly one owning process. A command that finds none opens the store itself; one that finds
//! an owner sends it the same [`Command`] through `<data>/owner.sock`. Either way [`run`] does the work and
//! says the same [`Event`]s, so the answers are equal.

pub mod client;
pub mod command;
pub mod context;
pub mod failure;
pub mod frame;
pub mod instant;
pub mod name;
pub mod output;
pub mod report;
pub(crate) mod run;
pub mod server;

pub use client::Client;
pub use command::Command;
pub use context::{Alone, Context, Host};
pub use failure::{Failure, Outcome};
pub use output::{Event, Output, Progress};
pub use run::run;
pub use server::Server;
