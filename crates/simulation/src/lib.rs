//! Everything under one seed: real clients, real services, and a world that fails in every way that a
//! seed can name.
//!
//! One seed is one whole history. Devices run the real engine and the real file operations over a
//! [`disk`] in memory; a network that loses, delays, doubles and cuts what it carries leads to the real
//! services in [`server`]; what it carries are the bytes of the client's own transport; users act in the middle of everything ([`workload`], [`user`]). Time is virtual
//! and all of it runs in one thread, so a seed means the same history every time. What users wrote is
//! remembered in the [`ghost`] state; [`world`] checks the invariants of the specification after every
//! step, and the rest of them whenever everything has come to rest.
//!
//! [`campaign::run`] runs many seeds, makes a failing history small and stores it.

pub mod campaign;
pub mod chance;
mod courier;
pub mod database;
pub mod disk;
pub mod failing;
pub mod ghost;
pub mod history;
pub mod journal;
pub mod rows;
pub mod server;
pub mod user;
pub mod wire;
pub mod workload;
pub mod world;

pub use campaign::{Options, Report, run};
