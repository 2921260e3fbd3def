//! The cache as its users see it: the port, an adapter in the process's own memory, and one for memcached.
//!
//! A cache may forget anything at any time, may be unreachable, and may answer with what was true yesterday.
//! So it is asked for nothing that its user could not check: a key names the version of what it holds, or
//! the value says it, and the user compares. Nothing here fails: a cache that does not answer knows nothing.
//!
//! Who misses a value gets a [`Lease`] with which it may be filled in. The lease is void as soon as somebody
//! invalidates the key, so that a reader who was slow cannot put back what a writer has just taken away; and
//! only the first one to miss gets it, so that a crowd does not fill in the same value many times.
//!
//! The port is synchronous, and its calls end within milliseconds, whatever became of a server.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod counts;
mod in_process;
#[cfg(any(test, feature = "lying"))]
pub mod lying;
pub mod memcached;
#[cfg(feature = "private-server")]
pub mod private_server;

pub use counts::Counts;
pub use in_process::InProcessCache;
pub use memcached::{BadServers, MemcachedCache, Servers};

use std::sync::Arc;
use std::time::Duration;

/// Bytes of a key: what memcached takes.
pub const KEY_BYTES: usize = 250;
/// Bytes of a value: memcached takes a megabyte, and counts its own bookkeeping with it.
pub const VALUE_BYTES: usize = 1_000_000;
/// How long a lease holds. Who has read nothing by then has lost it, and another may fill the value in.
pub const LEASE_LIFE: Duration = Duration::from_secs(5);

/// A cache: bytes under keys, which may be gone at any time.
pub trait Cache: Send + Sync {
    /// What is there under each key.
    fn get(&self, keys: &[String]) -> Vec<Found>;

    /// Fills a value in that was missing, for as long as `life` at the most. Does nothing if the lease is
    /// void, or the value empty or longer than [`VALUE_BYTES`].
    fn fill(&self, key: &str, lease: Lease, value: &[u8], life: Duration);

    /// Forgets a value, and makes the lease for it void.
    fn invalidate(&self, key: &str);

    /// What has happened so far.
    fn counts(&self) -> &Counts;
}

/// What a cache has under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Value(Arc<[u8]>),
    /// Nothing, and whoever asked may fill it in.
    Missing(Lease),
    /// Nothing: somebody else fills it in, or the cache cannot be reached.
    Nothing,
}

/// The right to fill in a value that was missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    token: u64,
    /// Which run of which server gave the token; another one gives the same numbers again.
    run: u64,
}

/// Whether an adapter takes a key: every byte of it can be seen.
fn is_key(key: &str) -> bool {
    !key.is_empty() && key.len() <= KEY_BYTES && key.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether an adapter takes a value. An empty one would look like a lease.
const fn is_value(value: &[u8]) -> bool {
    !value.is_empty() && value.len() <= VALUE_BYTES
}
