//! How fast the way to the server is, as far as uploads have shown, and so how much effort what goes there is worth.

use bytes::Bytes;
use parcels::{Compressors, Effort};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Below this many bytes in a second the processor has time for everything.
const SLOW: u64 = 4_000_000;
/// From this many on it has none to spare.
const FAST: u64 = 20_000_000;
/// Shorter uploads say more about round trips than about the way's width, in bytes.
const TELLING: u64 = 256 * 1024;

/// The way to the server.
#[derive(Default)]
pub(super) struct Link {
    /// As uploads have shown; 0: nothing yet.
    bytes_per_second: AtomicU64,
    compressors: Compressors,
    last_compressed: Mutex<Option<Instant>>,
}

impl Link {
    /// So many bytes went up, and were answered for, in this time.
    pub(super) fn carried(&self, bytes: u64, took: Duration) {
        if bytes < TELLING {
            return;
        }
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = bytes.saturating_mul(1_000) / millis;
        let known = self.bytes_per_second.load(Ordering::Relaxed);
        let now = if known == 0 { rate } else { u64::midpoint(known, rate) };
        self.bytes_per_second.store(now.max(1), Ordering::Relaxed);
    }

    /// The compressed form of these parts together; `None` when it is not worth it.
    pub(super) fn compress(&self, parts: &[Bytes]) -> Option<Vec<u8>> {
        let compressed = self.compressors.compress(self.effort(), parts);
        *self.last_compressed() = Some(Instant::now());
        compressed
    }

    /// Gives memory back that was not used for so long.
    pub(super) fn release(&self, unused_for: Duration) {
        if self.last_compressed().is_none_or(|last| last.elapsed() >= unused_for) {
            self.compressors.release();
        }
    }

    fn last_compressed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last_compressed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much time compression may take on this way.
    fn effort(&self) -> Effort {
        match self.bytes_per_second.load(Ordering::Relaxed) {
            // The first uploads are to show it.
            0 | SLOW..FAST => Effort::Thorough,
            ..SLOW => Effort::Utmost,
            FAST.. => Effort::Quick,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_the_way_the_more_effort() {
        for (megabytes, effort) in [(1, Effort::Utmost), (10, Effort::Thorough), (100, Effort::Quick)] {
            let link = Link::default();
            link.carried(megabytes * 1_000_000, Duration::from_secs(1));
            assert_eq!(link.effort(), effort, "{megabytes}");
        }
        assert_eq!(Link::default().effort(), Effort::Thorough);
    }

    #[test]
    fn small_uploads_say_nothing_and_a_change_shows_soon() {
        let link = Link::default();
        link.carried(1_000, Duration::from_secs(1));
        assert_eq!(link.effort(), Effort::Thorough);
        link.carried(100_000_000, Duration::from_secs(1));
        for _ in 0..6 {
            link.carried(1_000_000, Duration::from_secs(1));
        }
        assert_eq!(link.effort(), Effort::Utmost);
    }

    #[test]
    fn no_time_at_all_is_no_division_by_it() {
        let link = Link::default();
        link.carried(u64::MAX, Duration::ZERO);
        assert_eq!(link.effort(), Effort::Quick);
    }
}
