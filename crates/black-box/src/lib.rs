//! The whole product from outside: real processes, a real disk, a real network.
//!
//! This crate knows Syncline by its command line alone. Each module is a campaign, and each campaign ends
//! with one line that says its result:
//!
//! - [`acceptance`]: big trees, changed on both sides at once, with processes killed in the middle
//! - [`mysteries`]: random histories of three devices, explained by a model, or not
//! - [`crash_points`]: one fault at each system call of each small workload
//! - [`fsx`]: random writes into one file, watched from the other side
//! - [`disks`]: disks that are full, and disks whose power fails
//! - [`cluster`]: a whole installation of many processes, of which any may go, in a network of its own
//!
//! `docs/testing.md` tells how to run them and how to read a failure.

#![expect(clippy::print_stdout, reason = "a campaign tells the person who runs it how far it is")]

pub mod acceptance;
pub mod cluster;
#[cfg(target_arch = "x86_64")]
pub mod crash_points;
pub mod disks;
pub mod fsx;
mod ledger;
pub mod mysteries;
pub mod program;
pub mod proxy;
pub mod site;
#[cfg(target_arch = "x86_64")]
pub mod tracer;
pub mod tree;
pub mod unison;
