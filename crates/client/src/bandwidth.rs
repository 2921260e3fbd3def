//! The limits on what the client sends and receives: one token bucket per direction.

use serde::{Deserialize, Serialize};
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How much may pass at once after a pause; also what keeps short requests free of waiting.
const BURST: Duration = Duration::from_millis(250);
/// The slowest limit that can be set: below it, requests would run into their time-outs.
pub const MIN_BYTES_PER_SECOND: u64 = 1024;

/// Bytes per second in each direction; `None`: unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<u64>,
}

/// Both directions' buckets.
#[derive(Debug, Default)]
pub struct Bandwidth {
    pub upload: Bucket,
    pub download: Bucket,
}

impl Bandwidth {
    /// Buckets with these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let bandwidth = Self::default();
        bandwidth.set(limits);
        bandwidth
    }

    /// Changes the limits; transfers under way follow at once.
    pub fn set(&self, limits: Limits) {
        self.upload.set_rate(limits.upload);
        self.download.set_rate(limits.download);
    }
}

/// A token bucket that may go into debt: whoever takes bytes waits until they are paid for.
#[derive(Debug, Default)]
pub struct Bucket {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rate: Option<u64>,
    /// The moment up to which the bytes taken so far fill the line.
    paid_until: Option<Instant>,
}

impl Bucket {
    /// Sets the rate in bytes per second.
    pub fn set_rate(&self, rate: Option<u64>) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.rate = rate.map(|rate| rate.max(MIN_BYTES_PER_SECOND));
        state.paid_until = None;
    }

    /// Returns when `bytes` may pass.
    pub async fn take(&self, bytes: usize) {
        if let Some(until) = self.charge(bytes, Instant::now()) {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Books the bytes; gives the moment to wait for, if there is one.
    fn charge(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let rate = state.rate?;
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let start = state.paid_until.map_or(earliest, |paid| paid.max(earliest));
        #[expect(clippy::cast_precision_loss, reason = "a rounding of less than a byte per petabyte")]
        let until = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
        state.paid_until = Some(until);
        (until > now).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_nothing_waits() {
        assert_eq!(Bucket::default().charge(1 << 30, Instant::now()), None);
    }

    #[test]
    fn a_steady_flow_takes_its_time() {
        let (bucket, now) = (Bucket::default(), Instant::now());
        bucket.set_rate(Some(100_000));
        let last = (0..100).filter_map(|_| bucket.charge(10_000, now)).last().expect("over the burst");
        assert_eq!(last - now, Duration::from_secs(10) - BURST);
    }

    #[test]
    fn an_idle_line_saves_up_no_more_than_the_burst() {
        let (bucket, start) = (Bucket::default(), Instant::now());
        bucket.set_rate(Some(100_000));
        bucket.charge(1, start);
        let later = start + Duration::from_secs(3600);
        assert_eq!(bucket.charge(100_000, later), Some(later + Duration::from_secs(1) - BURST));
    }

    #[test]
    fn lifting_the_limit_frees_the_line_at_once() {
        let (bucket, now) = (Bucket::default(), Instant::now());
        bucket.set_rate(Some(1024));
        bucket.charge(1 << 20, now);
        bucket.set_rate(None);
        assert_eq!(bucket.charge(1 << 20, now), None);
    }
}
