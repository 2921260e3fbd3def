//! The synced folder on disk: what the engine's jobs do there, and what changes there on their own.
//!
//! - [`fs`]: the few primitive operations on a synced folder, as a trait; each is one step that another
//!   program, an error or a crash can come before or after.
//! - [`disk`]: those operations on Linux.
//! - [`jobs`]: the engine's jobs, made of the primitives: scans, hashing, and changes that never
//!   replace or remove what was not expected.
//! - [`hashed`]: which files need not be hashed a second time to be sent.
//! - [`room`]: whether the disk takes what is to be downloaded.
//! - [`temps`]: blocks on their way between temporary files, local files and the network.
//! - [`watcher`]: hints that something changed.
//!
//! Deliberately not here: what to do about anything. That is the engine's.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod disk;
pub mod fs;
pub mod hashed;
pub mod jobs;
pub mod room;
pub mod temps;
pub mod watcher;

mod aside;
