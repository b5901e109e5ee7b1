//! The transport to the kernel and the adapter to the engine; see `docs/decisions/` for why it is our own.
//!
//! Order of reading: [`abi`] (bytes), [`request`] and [`reply`] (types), [`device`] (the descriptor), [`negotiate`]
//! (modes), [`session`] (threads), [`adapter`] (the engine), [`mount`] (the kernel's side of a mount), [`place`] (where it is).

pub mod abi;
pub mod adapter;
pub mod attached;
pub mod backing;
pub mod convert;
pub mod deadline;
pub mod device;
pub mod errno;
pub mod known;
pub mod mount;
pub mod mountinfo;
pub mod negotiate;
pub mod place;
pub mod reply;
pub mod request;
mod resized;
pub mod session;
pub mod view;
mod wake;
