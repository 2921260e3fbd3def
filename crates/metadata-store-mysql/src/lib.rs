//! The metadata database on MySQL or a database that speaks its protocol; proved on MariaDB.
//!
//! Many servers may work on one database. What keeps them apart is the lock on a namespace's row
//! ([`Transaction::lock_namespace`](metadata_store::Transaction::lock_namespace)): whoever changes a
//! namespace holds it, at READ COMMITTED, so that all it reads afterwards is what the last holder left.
//!
//! The adapter is a crate of its own so that whoever needs only the port, or SQLite, does not build a
//! database driver and its TLS.

mod buffer;
mod cells;
mod fault;
mod flush;
mod options;
mod pool;
mod prefetch;
#[cfg(feature = "private-server")]
pub mod private_server;
mod reading;
mod schema;
mod session;
mod store;
mod text;
mod writing;

pub use options::{BadOptions, MysqlOptions, Pauses, Tls};
pub use store::{MysqlStore, OpenError};
