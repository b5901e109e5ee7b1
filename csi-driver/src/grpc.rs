//! The wire of the container storage interface: generated types, translated from and to those of [`crate::csi`], and
//! the server on its socket. Nothing outside of this module sees generated code.

mod central;
mod controller;
mod convert;
mod group_controller;
mod identity;
mod node;
mod serve;

pub use self::serve::{ServeError, serve, serve_central};

/// Generated from `proto/csi.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("csi.v1");
}
