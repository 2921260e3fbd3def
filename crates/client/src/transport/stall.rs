//! Gives up a call that shows no progress.
//!
//! A limit on the whole call would cut off slow lines; what matters is that something still moves.

use super::{STALL_TIMEOUT, TransportError};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// When a call last moved.
#[derive(Debug)]
pub(super) struct Progress {
    last: Mutex<Instant>,
    /// How many parts of the call wait on purpose, for the bandwidth limit.
    paused: AtomicU32,
}

/// While it lives, standing still is no stall.
pub(super) struct Pause<'a>(&'a Progress);

impl Progress {
    pub(super) fn start() -> Self {
        Self { last: Mutex::new(Instant::now()), paused: AtomicU32::new(0) }
    }

    /// Notes that something moved.
    pub(super) fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(super) fn pause(&self) -> Pause<'_> {
        self.paused.fetch_add(1, Ordering::Relaxed);
        Pause(self)
    }

    fn deadline(&self) -> Instant {
        if self.paused.load(Ordering::Relaxed) > 0 {
            self.touch();
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) + STALL_TIMEOUT
    }

    /// Performs the call, or gives it up when it stands still.
    pub(super) async fn watch<T>(
        &self,
        call: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        let mut call = pin!(call);
        loop {
            let deadline = self.deadline();
            if deadline <= Instant::now() {
                let seconds = STALL_TIMEOUT.as_secs();
                return Err(TransportError::Unreachable(format!("nothing moved for {seconds} seconds")));
            }
            tokio::select! {
                result = &mut call => return result,
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.paused.fetch_sub(1, Ordering::Relaxed);
    }
}
