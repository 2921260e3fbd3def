//! The daemon beside the user's folder: it drives the sync engine with the real disk, database, server
//! and clock.

pub mod backoff;
pub mod bandwidth;
pub mod clock;
pub mod database;
pub mod events;
pub mod home;
pub mod transport;
