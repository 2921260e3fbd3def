//! When a request is tried again, and when not.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Retries that may happen at once before a failing server is left alone.
const BUDGET: u32 = 1000;
/// What one retry costs of it, and what one success gives back: a tenth of the requests may be retries for
/// ever, and while a server fails altogether its load does not grow.
const RETRY_COST: u32 = 10;

/// How long the adapter bears with a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// The longest that one attempt may take, its body included.
    pub(crate) attempt: Duration,
    /// Attempts at one request.
    pub(crate) attempts: u32,
    /// The longest pause after the first failure; it doubles with each further one.
    pub(crate) first_pause: Duration,
    /// The longest pause at all.
    pub(crate) longest_pause: Duration,
}

impl Default for Patience {
    /// Together at most five attempts of 20 seconds: a caller hears of a failure within two minutes.
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(20),
            attempts: 5,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
        }
    }
}

impl Patience {
    /// The pause after the `failed`th attempt, from 1: anything up to the longest, so that many callers do
    /// not come back together. `below(n)` is a random number below `n`.
    pub(crate) fn pause(&self, failed: u32, below: impl Fn(u64) -> u64) -> Duration {
        let doubled = self.first_pause.saturating_mul(1 << failed.saturating_sub(1).min(16));
        let longest = u64::try_from(doubled.min(self.longest_pause).as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(below(longest.max(1)))
    }
}

/// What all requests together may still spend on retries.
#[derive(Debug)]
pub(crate) struct RetryBudget(Mutex<u32>);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(Mutex::new(BUDGET))
    }
}

impl RetryBudget {
    /// Takes what a retry costs; `false` when it is not there.
    pub(crate) fn take(&self) -> bool {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = *left >= RETRY_COST;
        if enough {
            *left -= RETRY_COST;
        }
        enough
    }

    /// Notes a success.
    pub(crate) fn give(&self) {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *left = BUDGET.min(*left + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_are_anything_below_it() {
        let patience = Patience::default();
        let longest = |failed| patience.pause(failed, |n| n - 1).as_millis();
        assert_eq!([1, 2, 3, 7, 60].map(longest), [99, 199, 399, 4999, 4999]);
        assert_eq!(patience.pause(3, |_| 0), Duration::ZERO);
    }

    #[test]
    fn a_server_that_always_fails_is_not_asked_more_often_for_ever() {
        let budget = RetryBudget::default();
        let spent = (0..10_000).filter(|_| budget.take()).count();
        assert_eq!(spent, 100);
        (0..RETRY_COST).for_each(|_| budget.give());
        assert!(budget.take() && !budget.take());
    }
}
