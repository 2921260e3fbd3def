//! The meaning of sync: three trees, a planner, and a state machine that takes events and returns
//! actions. No clock, no randomness, no I/O: time, ids and answers are passed in.
//!
//! - [`tree`]: the local, remote and synced tree, held together by node id.
//! - [`io`]: what the engine asks its driver to do, and what the driver reports back.

pub mod engine;
pub mod io;
pub mod observe;
mod packed;
pub mod plan;
mod sorted;
pub mod status;
mod table;
pub mod tree;
pub mod trees;
pub mod verdict;

pub use engine::{Engine, Tuning};
