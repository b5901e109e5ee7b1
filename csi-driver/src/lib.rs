//! Does: FUSE volumes, the keeper, the node agent and the command line.

pub mod agent;
#[cfg(feature = "cluster")]
pub mod csi;
pub mod fuse;
#[cfg(feature = "cluster")]
pub mod grpc;
pub mod keeper;
pub mod mounts;
pub mod owner;
