//! Damage on purpose, in every kind of file: it is refused at opening, named when it is read, or found by
//! the check; what is read is right or an error, and nothing panics.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kinds;
mod populated;
mod random;
mod repair;
mod store;
