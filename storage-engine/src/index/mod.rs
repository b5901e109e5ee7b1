//! The index: which version of which record a lineage sees.

pub(crate) mod dead;
pub(crate) mod extents;
pub(crate) mod keys;
pub(crate) mod lineage;
pub(crate) mod recent;
pub(crate) mod records;
