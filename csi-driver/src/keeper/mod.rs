//! Mounts outlive the process that serves them: a keeper process holds their `/dev/fuse` descriptors.
//!
//! While any descriptor of a connection is open, the kernel keeps the mount and lets requests wait. A serving process
//! that was killed is followed by another, which takes the descriptors from the keeper, lets the kernel send again
//! what was read but not answered, and goes on; programs on the mount see a pause.
//!
//! [`wire`] is the protocol, [`server`] the keeper, [`helper`] its child for everything that may wait on a mount,
//! [`barrier`] the sync of a mount, [`client`] the serving process's side.

pub mod barrier;
pub mod client;
pub mod helper;
mod peer;
pub mod server;
pub mod wire;
