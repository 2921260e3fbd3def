//! How fast the way to the server is, as far as uploads have shown, and so how much effort what goes there is worth.

use bytes::Bytes;
use parcels::{Compressors, Effort};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// From this many nanoseconds for a kilobyte on the processor has time for everything: 4 MB/s.
const SLOW: u64 = 250_000;
/// Up to this many it has none to spare: 20 MB/s.
const FAST: u64 = 50_000;
/// A connection that takes so long to ask for more has nowhere to put it: less is the processor's.
const WAIT: Duration = Duration::from_millis(1);
/// With fewer bytes between its waits an upload says nothing.
const TELLING: u64 = 256 * 1024;
/// So many bytes without any wait are more than what a connection takes before it sends.
const UNHINDERED: u64 = 1024 * 1024;
/// Parcels that are compressed at once, of all uploads: more would take memory from each other, and a way that is faster
/// than two are needs none.
const COMPRESSING: usize = 2;

/// The way to the server.
#[derive(Default)]
pub(super) struct Link {
    /// What uploads have shown, in nanoseconds for a kilobyte; 0: nothing yet.
    pace: AtomicU64,
    compressors: Compressors,
    turns: Turns,
    last_compressed: Mutex<Option<Instant>>,
}

/// Lets [`COMPRESSING`] threads work at once.
#[derive(Default)]
struct Turns {
    working: Mutex<usize>,
    one_is_done: Condvar,
}

impl Turns {
    fn take(&self) -> Turn<'_> {
        let working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.one_is_done.wait_while(working, |working| *working >= COMPRESSING);
        *wait.unwrap_or_else(PoisonError::into_inner) += 1;
        Turn(self)
    }
}

/// Ends when it is dropped. It belongs to a thread and not to a task, which may not be polled for as long as its
/// connection is stuck.
struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.working.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.one_is_done.notify_one();
    }
}

impl Link {
    /// An upload went up like this.
    pub(super) fn carried(&self, flow: &Flow) {
        let Some(pace) = flow.pace() else { return };
        let known = self.pace.load(Ordering::Relaxed);
        // Of times and not of rates: one slow upload says more than one that was quick to fit into buffers.
        let now = if known == 0 { pace } else { u64::midpoint(known, pace) };
        self.pace.store(now.max(1), Ordering::Relaxed);
    }

    /// The compressed form of these parts together; `None` when it is not worth it.
    pub(super) fn compress(&self, parts: &[Bytes]) -> Option<Vec<u8>> {
        let turn = self.turns.take();
        let compressed = self.compressors.compress(self.effort(), parts);
        drop(turn);
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
        match self.pace.load(Ordering::Relaxed) {
            SLOW.. => Effort::Utmost,
            1..=FAST => Effort::Quick,
            // Between these; and the first uploads are to show it.
            _ => Effort::Thorough,
        }
    }
}

/// How an upload went up: only the time in which its connection did not ask for more, not that in which the upload was
/// made, or in which the server dealt with all of it. Of many small files, this is most.
///
/// A connection asks for pieces until its buffers are full, and again when they are empty. So nothing counts until it has
/// waited once; from then on, what it takes in between two waits is what went out during the second one. The bandwidth limit, which
/// holds pieces back, is a part of the way.
#[derive(Debug, Default)]
pub(super) struct Flow(Mutex<Flowing>);

#[derive(Debug, Default)]
struct Flowing {
    /// What was handed over so far.
    total: u64,
    /// When the last piece was, and how long it is, if nothing was asked for since.
    last: Option<(Instant, u64)>,
    has_waited: bool,
    /// Since the last wait.
    lump: (u64, Duration),
    /// What counts, and how long it took.
    counted: (u64, Duration),
}

impl Flow {
    /// The connection takes the next piece as soon as there is one.
    pub(super) fn is_asked_for(&self, now: Instant) {
        let mut flowing = self.flowing();
        let Some((since, bytes)) = flowing.last.take() else { return };
        let waited = now.saturating_duration_since(since);
        flowing.lump.0 += bytes;
        flowing.lump.1 += waited;
        if waited < WAIT {
            return;
        }
        let (bytes, took) = std::mem::take(&mut flowing.lump);
        if flowing.has_waited {
            flowing.counted.0 += bytes;
            flowing.counted.1 += took;
        }
        flowing.has_waited = true;
    }

    /// The next piece is there.
    pub(super) fn goes_on(&self, bytes: usize, now: Instant) {
        let (mut flowing, bytes) = (self.flowing(), bytes as u64);
        flowing.total += bytes;
        flowing.last = Some((now, bytes));
    }

    /// In nanoseconds for a kilobyte; `None`: it says nothing.
    fn pace(&self) -> Option<u64> {
        let Flowing { total, has_waited, counted: (bytes, took), .. } = *self.flowing();
        if bytes >= TELLING {
            return u64::try_from(took.as_nanos() * 1_000 / u128::from(bytes)).ok();
        }
        (!has_waited && total >= UNHINDERED).then_some(FAST)
    }

    fn flowing(&self) -> MutexGuard<'_, Flowing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 64 * 1024;

    /// As many pieces to a connection that takes seven at once and then carries them at this pace.
    fn flow(pieces: u64, megabytes_per_second: u64) -> Flow {
        let flow = Flow::default();
        let mut now = Instant::now();
        for number in 0..pieces {
            flow.is_asked_for(now);
            // It takes its time to be made.
            now += Duration::from_secs(1);
            flow.goes_on(PIECE as usize, now);
            if number % 7 == 6 {
                now += Duration::from_micros(7 * PIECE / megabytes_per_second);
            }
        }
        flow.is_asked_for(now);
        flow
    }

    fn effort_after(flows: &[Flow]) -> Effort {
        let link = Link::default();
        flows.iter().for_each(|flow| link.carried(flow));
        link.effort()
    }

    #[test]
    fn the_slower_the_way_the_more_effort() {
        for (rate, effort) in [(1, Effort::Utmost), (3, Effort::Utmost), (10, Effort::Thorough), (100, Effort::Quick)] {
            for pieces in 14..40 {
                assert_eq!(effort_after(&[flow(pieces, rate)]), effort, "{pieces} pieces at {rate} MB/s");
            }
        }
        assert_eq!(effort_after(&[]), Effort::Thorough);
    }

    #[test]
    fn what_fits_into_buffers_says_nothing() {
        for pieces in 0..14 {
            assert_eq!(effort_after(&[flow(pieces, 1)]), Effort::Thorough, "{pieces} pieces");
        }
    }

    #[test]
    fn a_slow_upload_shows_at_once_and_one_that_does_not_wait_is_doubted() {
        let unhindered = || flow(40, 1_000_000);
        assert_eq!(effort_after(&[unhindered()]), Effort::Quick);
        let slow = [flow(40, 100), flow(40, 100), flow(40, 1)];
        assert_eq!(effort_after(&slow), Effort::Utmost);
        assert_eq!(effort_after(&[flow(40, 1), unhindered()]), Effort::Utmost);
        let gone_home = [flow(40, 1), unhindered(), unhindered(), unhindered(), unhindered()];
        assert_eq!(effort_after(&gone_home), Effort::Thorough);
    }

    #[test]
    fn two_compress_at_once_and_the_next_follows_one_of_them() {
        let turns = Turns::default();
        let (first, _second) = (turns.take(), turns.take());
        let (begins, begun) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _turn = turns.take();
                begins.send(()).expect("is waited for");
            });
            assert_eq!(*turns.working.lock().expect("not poisoned"), COMPRESSING);
            assert!(begun.try_recv().is_err());
            drop(first);
            begun.recv().expect("begins");
        });
    }
}
