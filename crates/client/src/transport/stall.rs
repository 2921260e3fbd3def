//! Gives up a call that shows no progress.
//!
//! A limit on the whole call would cut off slow lines; what matters is that something still moves. A call that
//! waits asks nobody whether the other side is still there, since that costs bytes. The notification stream does, and its end says
//! the same of all calls that have not moved since.

use super::{STALL_TIMEOUT, TransportError};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a call may stand still once the notification stream has broken after the call's last move.
const WITHOUT_STREAM: Duration = Duration::from_secs(5);

/// The notification stream, as far as calls are concerned.
#[derive(Debug, Default)]
pub(super) struct Stream {
    broke: Mutex<Option<Instant>>,
    told: Notify,
}

impl Stream {
    pub(super) fn broke(&self) {
        *self.broke.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.told.notify_waiters();
    }

    fn broke_at(&self) -> Option<Instant> {
        *self.broke.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a call last moved.
#[derive(Debug)]
pub(super) struct Progress {
    last: Mutex<Instant>,
    /// How many parts of the call wait on purpose, for the bandwidth limit.
    paused: AtomicU32,
    stream: Arc<Stream>,
}

/// While it lives, standing still is no stall.
pub(super) struct Pause<'a>(&'a Progress);

impl Progress {
    pub(super) fn start(stream: Arc<Stream>) -> Self {
        Self { last: Mutex::new(Instant::now()), paused: AtomicU32::new(0), stream }
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
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match self.stream.broke_at() {
            Some(broke) if broke >= last => (broke + WITHOUT_STREAM).min(last + STALL_TIMEOUT),
            Some(_) | None => last + STALL_TIMEOUT,
        }
    }

    /// Performs the call, or gives it up when it stands still.
    pub(super) async fn watch<T>(
        &self,
        call: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        let mut call = pin!(call);
        loop {
            // Before the stream is looked at, so that its end is not missed in between.
            let told = self.stream.told.notified();
            let deadline = self.deadline();
            if deadline <= Instant::now() {
                return Err(TransportError::Unreachable("nothing moved for too long".into()));
            }
            tokio::select! {
                result = &mut call => return result,
                () = tokio::time::sleep_until(deadline) => {}
                () = told => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    async fn given_up_after(progress: &Progress) -> Duration {
        let began = Instant::now();
        let call = progress.watch(pending::<Result<(), TransportError>>()).await;
        assert!(matches!(call, Err(TransportError::Unreachable(_))));
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_stands_still_is_given_up() {
        assert_eq!(given_up_after(&Progress::start(Arc::default())).await, STALL_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_given_up_sooner_when_the_stream_breaks_meanwhile_but_not_when_it_did_before() {
        let stream = Arc::new(Stream::default());
        stream.broke();
        tokio::time::advance(Duration::from_secs(1)).await;
        let progress = Progress::start(Arc::clone(&stream));
        let later = Duration::from_secs(7);
        let breaks = async {
            tokio::time::sleep(later).await;
            stream.broke();
        };
        let (after, ()) = tokio::join!(given_up_after(&progress), breaks);
        assert_eq!(after, later + WITHOUT_STREAM);
        let progress = Progress::start(Arc::clone(&stream));
        tokio::time::advance(Duration::from_millis(1)).await;
        progress.touch();
        assert_eq!(given_up_after(&progress).await, STALL_TIMEOUT);
    }
}
