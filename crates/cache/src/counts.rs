//! What a cache has done, for operators.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counted since the start of the process.
#[derive(Debug, Default)]
pub struct Counts {
    /// Values that were there.
    pub hits: AtomicU64,
    /// Values that were not.
    pub misses: AtomicU64,
    /// Values that were filled in.
    pub fills: AtomicU64,
    /// Values that were not taken: the lease was void by then.
    pub refused: AtomicU64,
    /// Calls that a server did not answer, or not as it should.
    pub failures: AtomicU64,
}

impl Counts {
    pub(crate) fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}
