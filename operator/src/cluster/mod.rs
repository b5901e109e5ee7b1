//! The operator in a cluster: follows the API server, decides with [`decide`](crate::decide::decide()), writes.
//!
//! [`watch`] keeps [`cache`] as the API server last said; what changes is put on the [`queue`], with those who wait for it;
//! [`controller`] takes from the queue and [`write`](mod@write)s. The same parts carry the node agent, which follows the objects of its
//! node only. Nothing polls: with nothing changing, nothing is sent but the renewals of leases.

pub mod cache;
pub mod claims;
pub mod controller;
pub mod events;
pub mod grants;
pub mod health;
pub mod http;
pub mod kinds;
pub mod leader;
pub mod lenient;
mod look;
pub mod metrics;
pub mod nodes;
pub mod queue;
pub mod requests;
pub mod signals;
pub mod uninstall;
pub mod watch;
pub mod write;
