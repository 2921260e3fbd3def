//! A number of bytes that all requests share.

use crate::limits;
use api::{ApiError, ErrorCode};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes behind one permit of the semaphore.
const UNIT: u64 = 1024;

/// Bytes that may be in memory at once; given in order of asking.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    units: Arc<Semaphore>,
    total: u32,
}

/// A share of a budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        let total = units(bytes);
        Self { units: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Waits for room for `bytes`, not for ever. Nobody who waits here holds a share of the same budget.
    pub(crate) async fn take(&self, bytes: u64) -> Result<Share, ApiError> {
        let wanted = units(bytes).min(self.total);
        let share = tokio::time::timeout(limits::BUDGET_WAIT, self.units.clone().acquire_many_owned(wanted)).await;
        match share {
            Ok(Ok(permit)) => Ok(Share(permit)),
            // The semaphore is never closed; an error can only be the time.
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }

    /// Room for `bytes`, if there is some at once.
    pub(crate) fn take_now(&self, bytes: u64) -> Result<Share, ApiError> {
        let wanted = units(bytes).min(self.total);
        self.units.clone().try_acquire_many_owned(wanted).map(Share).map_err(|_| busy())
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

fn busy() -> ApiError {
    ApiError {
        code: ErrorCode::Busy,
        message: "too many blocks are on their way at once".into(),
        retry_after_ms: Some(limits::BUSY_RETRY_MS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_waits_and_is_then_busy() {
        let budget = Budget::new(10 * UNIT);
        let first = budget.take(8 * UNIT).await.expect("fits");
        assert_eq!(budget.take(3 * UNIT).await.expect_err("does not fit").code, ErrorCode::Busy);
        drop(first);
        budget.take(u64::MAX).await.expect("more than all there is means all there is");
    }
}
