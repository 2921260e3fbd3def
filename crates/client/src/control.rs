//! How the command line talks to the daemon: one JSON object per line over a Unix socket in the home.
//!
//! - [`protocol`]: the commands and their answers.
//! - [`client`]: asks the daemon.
//! - `server`: answers, on behalf of the daemon.

pub mod client;
pub mod protocol;
pub(crate) mod server;
mod socket;

pub use client::{Control, NotRunning};
pub use protocol::{Command, Failure, FailureKind};
