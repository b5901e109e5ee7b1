//! Does what the plans of the crate `operator` decide, on the engine of this node.
//!
//! [`Agent::pass`] is observe, plan, write the status, apply, as that crate asks for: every action is one call
//! that can be made again, and ids in the engine are derived from the object, so a pass after a kill at any
//! point goes on where the last one was.

mod act;
pub mod get;
mod import;
#[cfg(feature = "cluster")]
pub mod inline;
pub mod labels;
#[cfg(feature = "cluster")]
mod look;
#[cfg(feature = "cluster")]
pub mod modify;
#[cfg(feature = "cluster")]
pub mod node;
pub mod objects;
mod observe;
mod reconcile;
pub mod retention;
mod roots;
#[cfg(feature = "cluster")]
pub mod scrub;

pub use reconcile::{Agent, Pass};
