//! The transport to the kernel and the adapter to the engine; see `docs/decisions/` for why it is our own.
//!
//! Order of reading: [`abi`] (bytes), [`request`] and [`reply`] (types), [`device`] (the descriptor), [`negotiate`]
//! (modes), [`session`] (threads), [`adapter`] (the engine), [`mount`] (mount(2) and what surrounds it).

pub mod abi;
pub mod adapter;
pub mod backing;
pub mod convert;
pub mod device;
pub mod errno;
pub mod known;
pub mod mount;
pub mod negotiate;
pub mod reply;
pub mod request;
mod resized;
pub mod session;
pub mod view;
mod wake;
