//! The meta service: accounts, devices, namespaces and their journals.
//!
//! [`MetaService`] is synchronous and takes time and chance from its [`Environment`], so that a seeded
//! simulation runs it as it is. [`routes`] puts the client-facing calls that need no blocks on HTTP; the
//! other services speak to it through the traits of [`api::service`].
//!
//! Whether a commit is valid is decided by one pure function (`decide`); everything else here fetches
//! what it needs, and writes what it said.

mod accounts;
mod changes;
mod coming;
mod commit;
mod decide;
mod environment;
mod failure;
mod group;
mod history;
mod http;
mod login_limit;
mod packs;
mod password;
mod paths;
mod restore;
mod service;
mod sharing;
mod unused;
mod watermark;

pub use accounts::{AccountSummary, Devices};
pub use environment::{Environment, PasswordCost};
pub use http::routes;
pub use service::{CleanedUp, MetaService};

#[cfg(test)]
mod tests;
