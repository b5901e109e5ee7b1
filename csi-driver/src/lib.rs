//! Does: FUSE volumes, the keeper, the node agent and the command line.

pub mod agent;
pub mod fuse;
pub mod keeper;
pub mod mounts;
pub mod owner;
