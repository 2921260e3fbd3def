//! Leaves a server alone that does not answer, so that not every call waits for it.

use std::time::{Duration, Instant};

/// Failures in a row after which a server is left alone.
const FAILURES: u32 = 3;
/// How long it is left alone at first; each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How long at the most: then one call tries it again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Whether a server is asked.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    /// While it is left alone: until when, and how long the pause is.
    pause: Option<(Instant, Duration)>,
}

impl Breaker {
    /// Whether to ask the server now. When a pause has passed one caller may, and the others go on leaving
    /// it alone until that one has its answer.
    pub(super) fn may_ask(&mut self, now: Instant) -> bool {
        match &mut self.pause {
            None => true,
            Some((until, _)) if now < *until => false,
            Some((until, length)) => {
                *until = now + *length;
                true
            }
        }
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES {
            let length = self.pause.map_or(FIRST_PAUSE, |(_, length)| LONGEST_PAUSE.min(length * 2));
            self.pause = Some((now + length, length));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_is_left_alone_longer_and_longer_and_one_call_tries_it() {
        let mut breaker = Breaker::default();
        let mut now = Instant::now();
        for _ in 0..FAILURES {
            assert!(breaker.may_ask(now));
            breaker.failed(now);
        }
        for pause_ms in [250, 500, 1000, 2000, 4000, 5000, 5000] {
            assert!(!breaker.may_ask(now + Duration::from_millis(pause_ms - 1)));
            now += Duration::from_millis(pause_ms);
            assert!(breaker.may_ask(now), "after {pause_ms} ms");
            assert!(!breaker.may_ask(now), "only one");
            breaker.failed(now);
        }
        breaker.succeeded();
        assert!(breaker.may_ask(now));
        breaker.failed(now);
        assert!(breaker.may_ask(now), "one failure is none");
    }
}
