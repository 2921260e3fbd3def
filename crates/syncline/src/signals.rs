//! Waits for the signals that ask a program to end.

use client::Failure;
use std::future::Future;
use tokio::signal::unix::{SignalKind, signal};

/// Completes at the first SIGINT, SIGTERM or SIGHUP.
pub(crate) fn shutdown() -> Result<impl Future<Output = ()>, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::from_error(&error, None));
    let (mut interrupt, mut terminate, mut hangup) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
