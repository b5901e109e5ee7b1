//! A timeline or snapshot as a POSIX file tree.

mod attr;
mod chunk;
mod dir;
mod names;
mod node;
mod orphan;
pub(crate) mod place;
pub(crate) mod read;
mod rename;
mod space;
pub(crate) mod types;
mod volume;
mod write;
mod xattr;

pub(crate) use names::check as check_name;
pub(crate) use volume::View;
pub use volume::{Volume, VolumeOptions};
