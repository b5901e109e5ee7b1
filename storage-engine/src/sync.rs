//! The primitives of the parts that are tried in every order: `tests/interleavings` compiles those files
//! again, with primitives of the same shape that a scheduler controls.

pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(crate) use parking_lot::Mutex;
