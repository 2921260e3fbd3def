//! The daemon beside the user's folder: it drives the sync engine with the real disk, database, server
//! and clock.
//!
//! - [`device`]: links and unlinks a [`home`], and does what needs no daemon.
//! - [`daemon`]: runs on a home: one loop owns the engine and the [`database`].
//! - [`control`]: how commands reach the daemon.
//! - [`transport`], [`events`]: calls to the server, and its notifications; [`backoff`] and
//!   [`bandwidth`] say when and how fast.
//! - [`folder`]: what can be a synced folder. [`settings`]: what a person can change. [`clock`]: time and
//!   chance.

pub mod backoff;
pub mod bandwidth;
pub mod clock;
pub mod control;
pub mod daemon;
pub mod database;
pub mod device;
pub mod events;
pub mod folder;
pub mod home;
pub mod settings;
pub mod transport;

pub use control::{Command, Control, Failure, FailureKind};
pub use daemon::{Daemon, DaemonError};
pub use device::{DeviceError, LinkOptions};
pub use home::{Config, Home, HomeError};
/// Paths and states as the engine says them, for those who show them.
pub use sync_engine::io::{Activity, ActivityKind, LocalPath};
pub use sync_engine::status::{FileStatus, Phase, Status};
