//! How fast the way to the server is, as far as uploads have shown, and so how much effort what goes there is worth.

use bytes::Bytes;
use parcels::{Compressors, Effort};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Below this many bytes in a second the processor has time for everything.
const SLOW: u64 = 4_000_000;
/// From this many on it has none to spare.
const FAST: u64 = 20_000_000;
/// Bytes of an upload that go at once however slow the way is: into the buffers of the connection.
const BUFFERED: u64 = 512 * 1024;
/// With fewer bytes behind these an upload says nothing.
const TELLING: u64 = 256 * 1024;

/// Parcels that are compressed at once, of all uploads: more would take memory from each other, and a way that is faster
/// than two are needs none.
const COMPRESSING: usize = 2;

/// The way to the server.
pub(super) struct Link {
    /// As uploads have shown; 0: nothing yet.
    bytes_per_second: AtomicU64,
    compressors: Compressors,
    compressing: Semaphore,
    last_compressed: Mutex<Option<Instant>>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            bytes_per_second: AtomicU64::default(),
            compressors: Compressors::default(),
            compressing: Semaphore::new(COMPRESSING),
            last_compressed: Mutex::default(),
        }
    }
}

impl Link {
    /// An upload went up like this.
    pub(super) fn carried(&self, flow: &Flow) {
        let Flowing { bytes, took, .. } = *flow.flowing();
        if bytes < TELLING {
            return;
        }
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = bytes.saturating_mul(1_000) / millis;
        let known = self.bytes_per_second.load(Ordering::Relaxed);
        let now = if known == 0 { rate } else { u64::midpoint(known, rate) };
        self.bytes_per_second.store(now.max(1), Ordering::Relaxed);
    }

    /// Waits until one more may compress. It never closes.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.compressing.acquire().await.ok()
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

/// How an upload went up: only the time in which the way was waited for, not that in which the upload was made, or
/// in which the server dealt with it. Of many small files, this is most.
#[derive(Debug, Default)]
pub(super) struct Flow(Mutex<Flowing>);

#[derive(Debug, Default)]
struct Flowing {
    /// What was handed over so far.
    total: u64,
    /// When the last piece was, if nothing was asked for since.
    last: Option<(Instant, u64)>,
    /// What came behind the first [`BUFFERED`] bytes, and how long it took.
    bytes: u64,
    took: Duration,
}

impl Flow {
    /// The connection takes the next piece as soon as there is one.
    pub(super) fn is_asked_for(&self, now: Instant) {
        let mut flowing = self.flowing();
        let Some((since, bytes)) = flowing.last.take() else { return };
        if flowing.total > BUFFERED {
            flowing.bytes += bytes;
            flowing.took += now.saturating_duration_since(since);
        }
    }

    /// The next piece is there.
    pub(super) fn goes_on(&self, bytes: usize, now: Instant) {
        let (mut flowing, bytes) = (self.flowing(), bytes as u64);
        flowing.total = flowing.total.saturating_add(bytes);
        flowing.last = Some((now, bytes));
    }

    fn flowing(&self) -> MutexGuard<'_, Flowing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So much at this pace.
    fn flow(megabytes: u64, millis_each: u64) -> Flow {
        let flow = Flow::default();
        let mut now = Instant::now();
        for _ in 0..megabytes * 10 {
            flow.is_asked_for(now);
            // It takes its time to be made.
            now += Duration::from_secs(1);
            flow.goes_on(100_000, now);
            now += Duration::from_micros(millis_each * 100);
        }
        flow.is_asked_for(now);
        flow
    }

    #[test]
    fn the_slower_the_way_the_more_effort() {
        for (millis_each, effort) in [(1_000, Effort::Utmost), (100, Effort::Thorough), (10, Effort::Quick)] {
            let link = Link::default();
            link.carried(&flow(2, millis_each));
            assert_eq!(link.effort(), effort, "{millis_each}");
        }
        assert_eq!(Link::default().effort(), Effort::Thorough);
    }

    #[test]
    fn what_fits_into_buffers_says_nothing_and_a_change_shows_soon() {
        let link = Link::default();
        let short = Flow::default();
        short.goes_on(500_000, Instant::now());
        short.is_asked_for(Instant::now() + Duration::from_secs(1));
        link.carried(&short);
        assert_eq!(link.effort(), Effort::Thorough);
        link.carried(&flow(2, 10));
        for _ in 0..6 {
            link.carried(&flow(2, 1_000));
        }
        assert_eq!(link.effort(), Effort::Utmost);
    }

    #[test]
    fn no_time_at_all_is_no_division_by_it() {
        let link = Link::default();
        link.carried(&flow(2, 0));
        assert_eq!(link.effort(), Effort::Quick);
    }
}
