//! How often passwords may be tried: per account and for all together.
//!
//! An e-mail address without an account is counted like any other, so that the limit tells nothing.

use api::{ApiError, ErrorCode};
use model::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Tries for one account before it must wait.
const ACCOUNT_BURST: f64 = 10.0;
/// Milliseconds until one more try is granted to an account.
const ACCOUNT_REFILL_MS: f64 = 30_000.0;
/// Tries for all accounts together.
const GLOBAL_BURST: f64 = 200.0;
/// Milliseconds until one more try is granted to all together: about what two cores can check.
const GLOBAL_REFILL_MS: f64 = 50.0;
/// Accounts that are remembered. Forgetting would grant new tries, so a full memory counts as busy.
const REMEMBERED: usize = 10_000;

/// The buckets from which tries are taken.
#[derive(Default)]
pub(crate) struct LoginLimit {
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    all: Bucket,
    accounts: BTreeMap<String, Bucket>,
}

/// Tries taken, and when that was last counted. They come back with time.
#[derive(Default, Clone, Copy)]
struct Bucket {
    taken: f64,
    at: Timestamp,
}

impl LoginLimit {
    /// Takes one try, or says how long to wait.
    pub(crate) fn admit(&self, email: &str, now: Timestamp) -> Result<(), ApiError> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let email = email.to_lowercase();
        if !buckets.accounts.contains_key(&email) && buckets.accounts.len() >= REMEMBERED {
            buckets.accounts.retain(|_, bucket| bucket.drained(now, ACCOUNT_REFILL_MS) > 0.0);
            if buckets.accounts.len() >= REMEMBERED {
                return Err(busy(ACCOUNT_REFILL_MS));
            }
        }
        // The account's own limit first: a locked account must not use up everyone's tries.
        let account = buckets.accounts.entry(email).or_default();
        account.take(now, ACCOUNT_BURST, ACCOUNT_REFILL_MS)?;
        buckets.all.take(now, GLOBAL_BURST, GLOBAL_REFILL_MS)
    }

    /// Gives an account's tries back after the right password.
    pub(crate) fn succeeded(&self, email: &str) {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).accounts.remove(&email.to_lowercase());
    }
}

impl Bucket {
    /// What is still taken at `now`. A clock that goes back gives nothing back.
    fn drained(&self, now: Timestamp, refill_ms: f64) -> f64 {
        let elapsed = now.0.saturating_sub(self.at.0).max(0);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds between two tries")]
        let returned = elapsed as f64 / refill_ms;
        (self.taken - returned).max(0.0)
    }

    fn take(&mut self, now: Timestamp, burst: f64, refill_ms: f64) -> Result<(), ApiError> {
        let taken = self.drained(now, refill_ms);
        if taken + 1.0 > burst {
            return Err(busy((taken + 1.0 - burst) * refill_ms));
        }
        *self = Self { taken: taken + 1.0, at: self.at.max(now) };
        Ok(())
    }
}

fn busy(wait_ms: f64) -> ApiError {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most some minutes")]
    let retry_after_ms = Some(wait_ms.ceil() as u32);
    ApiError { retry_after_ms, ..ApiError::new(ErrorCode::Busy, "too many tries to sign in, wait a little") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_was_tried_too_often_waits_and_others_do_not() {
        let limit = LoginLimit::default();
        for _ in 0..10 {
            assert!(limit.admit("A@x", Timestamp(0)).is_ok());
        }
        let error = limit.admit("a@X", Timestamp(0)).expect_err("an eleventh try");
        assert_eq!((error.code, error.retry_after_ms), (ErrorCode::Busy, Some(30_000)));
        assert!(limit.admit("b@x", Timestamp(0)).is_ok());
        assert!(limit.admit("a@x", Timestamp(29_999)).is_err());
        assert!(limit.admit("a@x", Timestamp(30_000)).is_ok());
        assert!(limit.admit("a@x", Timestamp(30_001)).is_err());
    }

    #[test]
    fn all_accounts_together_have_a_limit_too() {
        let limit = LoginLimit::default();
        let refused = (0..300).filter(|n| limit.admit(&format!("{n}@x"), Timestamp(0)).is_err()).count();
        assert_eq!(refused, 100);
        assert!(limit.admit("late@x", Timestamp(50)).is_ok());
    }

    #[test]
    fn a_clock_that_goes_back_grants_nothing() {
        let limit = LoginLimit::default();
        for _ in 0..10 {
            assert!(limit.admit("a@x", Timestamp(1_000_000)).is_ok());
        }
        assert!(limit.admit("a@x", Timestamp(0)).is_err());
    }

    #[test]
    fn the_right_password_clears_the_account() {
        let limit = LoginLimit::default();
        for _ in 0..10 {
            assert!(limit.admit("a@x", Timestamp(0)).is_ok());
        }
        limit.succeeded("A@x");
        assert!(limit.admit("a@x", Timestamp(0)).is_ok());
    }
}
