//! The append-only history: segments of hash-chained frames.

pub(crate) mod compacted;
pub(crate) mod durable;
pub(crate) mod frame;
pub(crate) mod reader;
pub(crate) mod segment;
pub(crate) mod writer;
