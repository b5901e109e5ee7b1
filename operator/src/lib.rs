//! Decides: what has to be done so that the store becomes what the objects say. Pure functions, without clock, store or
//! API server; `anabranch play` and the controllers of a cluster are the same plans with another hand.
//!
//! # How plan, apply and status fit together
//!
//! For each object, again and again, whenever something changed (the object, what is observed, the status of an object in
//! [`Plan::waits`]) or [`Plan::next`] has come:
//!
//! 1. **observe**: report what the engine holds, what is being imported and what is mounted ([`Observed`]), and what the
//!    other objects are ([`Peers`]);
//! 2. **plan**: [`plan`] compares the object with it and answers with the object's new status and a list of [`Action`]s;
//! 3. **write the status**, durably, *before* any action: an expiry must be known before the data goes, or a crash between
//!    the two would make the data anew;
//! 4. **apply** the actions in their order; at the first that fails, stop and note it ([`Failures::note`]);
//! 5. begin again. A plan without actions whose state is ready (or stalled, expired) has nothing to do.
//!
//! When a plan says [`Plan::released`], the object is being deleted and the store holds nothing of it any more: remove the
//! [finalizer](crds::names::FINALIZER) (in play: forget the object).
//!
//! # What may be relied on
//!
//! - A process may die between any two actions: the next plan starts from what is there. Nothing that exists is made twice,
//!   and what was half done is finished.
//! - Only what carries the labels of an object (kind, namespace and name, see [`owner`]) is ever changed or deleted. What
//!   else has its name makes the object stalled, with a remedy.
//! - In a cluster, data of an earlier object of the same name is neither shown nor freed by itself: the object is stalled
//!   (`NameTaken`) until somebody says which.
//! - Data that an object had and that is no longer in the store is not silently made anew: the object is stalled
//!   (`DataLost`) until somebody decides.
//! - Objects are deleted in any order: nothing here waits for a child.
//! - An object whose lifetime has ended keeps standing with the condition `Expired`, and is not made again while it stands.
//!
//! # What is assumed
//!
//! - `metadata.uid` is another one for an object that was deleted and made again, and `metadata.generation` rises with every
//!   change of the spec: the ids of new timelines are derived from both, because the engine never uses an id twice.
//! - One hand applies the plans of one object; the engine refuses a second owner of a store.
//! - The finalizer is on every object before its first plan is applied.
//! - An import may be started again after it was cut off, and then completes the same content.

pub mod action;
pub mod admission;
pub mod bucket;
pub mod claim;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod decide;
mod earlier;
pub mod failure;
pub mod fork;
pub mod grants;
pub mod id;
pub mod lifetime;
pub mod observed;
pub mod owner;
pub mod peers;
pub mod placement;
mod plan;
pub mod request;
pub mod snapshot;
pub mod source;
mod summary;

pub use action::{Action, Point, Settings};
pub use failure::{Failure, FailureKind, Failures};
pub use id::Id;
pub use observed::{Import, ImportState, Mount, Observed, Origin, Snapshot, Timeline};
pub use peers::{Peer, Peers};
pub use plan::{Options, Plan, Wait, World, plan};
