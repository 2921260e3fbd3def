//! A server's process: makes the stores, the services and the routes of its role, and runs them. By default
//! it has all roles.
//!
//! This is the only crate that knows which adapters there are, the system's clock and its source of
//! randomness. The services do not know each other; they meet here.
//!
//! ```text
//! data directory
//!   reserve        room that a start on a full disk gives back
//!   server.lock    held by the one server that runs on it
//!   meta.sqlite    the metadata database, unless it is a MySQL server's; `open` uses it beside a running server
//!   blocks/        the block store, unless that is a bucket
//!   unfinished/    what has come of uploads that are under way
//! ```

mod administration;
mod config;
mod connections;
mod data_dir;
mod error;
mod health;
mod metrics;
mod observe;
mod roles;
mod router;
mod run;
mod stall_guard;
mod telemetry;
mod world;

pub use administration::{AdministrationError, clean_up, find_blocks, verify};
pub use api::service::CleanUpMode;
pub use block_service::Thrift as ServerThrift;
pub use block_service::{CleanUpReport, VerifyReport};
pub use block_store_s3::Credentials;
pub use config::{
    Blocks, CacheKind, CleanUpTimes, Config, ConfigError, DEFAULT_LISTEN, Metadata, Overrides, ProcessRole, Secret,
    ServiceSettings, TelemetrySettings,
};
pub use error::ServerError;
pub use meta_service::Devices;
pub use run::{open, open_existing, run, runtime};
pub use telemetry::Telemetry;

/// The layer of a log that lets calls to other services carry the request's id.
#[must_use]
pub fn request_ids() -> service_calls::RequestIds {
    service_calls::RequestIds
}
