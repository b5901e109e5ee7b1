//! Plans from outside: what is done and said for each observed state, and that any interruption converges.

mod converge;
mod table;
mod world;
