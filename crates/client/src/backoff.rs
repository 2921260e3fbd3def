//! When to try a connection again: full jitter over an exponential, as computed in docs/protocol.md.
//!
//! Pure: time and chance are passed in. A herd of clients that lose a server in one moment spreads over
//! the window that the server named (`retry:`), and from then on over a doubling one.

use std::time::Duration;

/// The window of the first retry.
pub const BASE: Duration = Duration::from_secs(1);
/// No window grows beyond this.
pub const CAP: Duration = Duration::from_secs(120);
/// A connection that lasted this long ends the series of failures.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// The window of the first reconnect when the server named none.
pub const DEFAULT_FIRST_WINDOW: Duration = Duration::from_secs(3);

/// The delays of one series of connection attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    /// Failures since the last healthy connection.
    failures: u32,
    /// The window over which the server wants the first reconnects spread; moved by `retry:`.
    first_window: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { failures: 0, first_window: DEFAULT_FIRST_WINDOW }
    }
}

impl Backoff {
    /// Takes the window that the server named for the next reconnect.
    pub fn set_first_window(&mut self, window: Duration) {
        self.first_window = window.min(CAP);
    }

    /// Notes that a connection ended that had lasted for `lasted`, and gives the delay before the next.
    pub fn after_connection(&mut self, lasted: Duration, chance: f64) -> Duration {
        if lasted >= HEALTHY_AFTER {
            self.failures = 0;
        }
        self.next_delay(chance)
    }

    /// Notes a failed attempt, and gives the delay before the next: at least what the server asked for.
    pub fn after_failure(&mut self, at_least: Option<Duration>, chance: f64) -> Duration {
        let floor = at_least.unwrap_or_default().min(CAP);
        floor + self.next_delay(chance)
    }

    /// A delay from the current window; `chance` is uniform in 0 to 1.
    fn next_delay(&mut self, chance: f64) -> Duration {
        let window = match self.failures {
            0 => self.first_window.max(BASE),
            n => BASE.saturating_mul(2_u32.saturating_pow(n)).min(CAP),
        };
        self.failures = self.failures.saturating_add(1);
        window.mul_f64(chance.clamp(0.0, 1.0))
    }
}

/// A poll interval with its jitter of up to as much again; `chance` is uniform in 0 to 1.
#[must_use]
pub fn jittered_interval(interval: Duration, chance: f64) -> Duration {
    interval + interval.mul_f64(chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_double_up_to_the_cap() {
        let mut backoff = Backoff::default();
        backoff.set_first_window(BASE);
        let seconds: Vec<u64> = (0..10).map(|_| backoff.after_failure(None, 1.0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 120, 120, 120]);
    }

    #[test]
    fn the_first_reconnect_is_spread_over_the_servers_window() {
        let mut backoff = Backoff::default();
        backoff.set_first_window(Duration::from_secs(30));
        assert_eq!(backoff.after_connection(Duration::from_secs(3600), 0.5), Duration::from_secs(15));
    }

    #[test]
    fn jitter_is_full_so_the_shortest_delay_is_none() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            assert_eq!(backoff.after_failure(None, 0.0), Duration::ZERO);
        }
    }

    #[test]
    fn only_a_healthy_connection_resets_the_series() {
        let mut backoff = Backoff::default();
        for _ in 0..6 {
            backoff.after_failure(None, 1.0);
        }
        assert_eq!(backoff.after_connection(Duration::from_secs(59), 1.0), Duration::from_secs(64));
        assert_eq!(backoff.after_connection(HEALTHY_AFTER, 1.0), DEFAULT_FIRST_WINDOW);
    }

    #[test]
    fn retry_after_is_a_floor_and_is_bounded() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after_failure(Some(Duration::from_secs(7)), 0.0), Duration::from_secs(7));
        assert_eq!(backoff.after_failure(Some(Duration::from_secs(1 << 30)), 0.0), CAP);
    }

    #[test]
    fn a_hostile_window_does_not_silence_a_client() {
        let mut backoff = Backoff::default();
        backoff.set_first_window(Duration::MAX);
        assert_eq!(backoff.after_failure(None, 1.0), CAP);
    }
}
