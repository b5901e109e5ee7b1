//! Does: FUSE volumes, the keeper, the node agent and the command line.
