//! How often things fail.

use super::{Checked, violation};
use std::collections::BTreeMap;

/// How long failures are counted.
const PACE_MS: u64 = 60_000;
/// Failures of one thing in that time from which on it is a hot loop.
const MOST_TRIES: u32 = 90;

/// A minute of tries that failed.
#[derive(Debug, Default)]
pub(super) struct Pace {
    began: u64,
    tries: BTreeMap<String, u32>,
}

impl Pace {
    /// Notes that something was tried in vain. What is tried more often than once a second is a hot loop
    /// (I17); restarts and news from others are allowed for.
    pub(super) fn failed(&mut self, now: u64, what: &str) -> Checked<()> {
        if now >= self.began + PACE_MS {
            (self.began, self.tries) = (now, BTreeMap::new());
        }
        let times = self.tries.entry(what.to_owned()).or_default();
        *times += 1;
        if *times > MOST_TRIES {
            return Err(violation(format!("I17: {what} failed {times} times within {PACE_MS} ms")));
        }
        Ok(())
    }
}
