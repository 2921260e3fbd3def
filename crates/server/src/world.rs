//! The system's clock and its randomness: the one place that asks for them.

use meta_service::Environment;
use model::Timestamp;
use rand::Rng;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use std::time::{SystemTime, UNIX_EPOCH};

/// The real world, as the meta service takes it.
pub(crate) fn environment() -> Environment {
    Environment::new(now, random)
}

/// A random number below `n`, which is not 0.
pub(crate) fn below(n: u64) -> u64 {
    let mut bytes = [0; 8];
    random(&mut bytes);
    u64::from_le_bytes(bytes) % n.max(1)
}

#[expect(clippy::disallowed_methods, reason = "this is the clock that the rest of the server is given")]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A system without randomness cannot make secrets; to panic is better than to make weak ones.
fn random(bytes: &mut [u8]) {
    UnwrapErr(SysRng).fill_bytes(bytes);
}
