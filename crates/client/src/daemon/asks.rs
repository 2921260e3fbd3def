//! What commands ask of the loop.

use crate::control::protocol::{
    ActivityReply, ExcludedReply, Failure, FileStatusReply, FlushReply, SettingsReply, StatusReply, WhyReply,
};
use crate::settings::Setting;
use crossbeam_channel::Sender;
use std::time::Duration;
use sync_engine::io::{Command, LocalPath};
use sync_engine::status::Location;
use tokio::sync::oneshot;

/// Where an answer goes.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, Failure>>;

/// A question or an order for the loop.
pub(crate) enum Ask {
    Status(Answer<StatusReply>),
    Activity {
        limit: usize,
        answer: Answer<ActivityReply>,
    },
    /// Answered when all is in sync, or when it is certain that waiting is of no use.
    Flush {
        timeout: Option<Duration>,
        answer: Answer<FlushReply>,
    },
    FileStatus {
        paths: Vec<LocalPath>,
        answer: Answer<FileStatusReply>,
    },
    Why {
        path: LocalPath,
        answer: Answer<WhyReply>,
    },
    Tell {
        command: Command,
        answer: Answer<()>,
    },
    Excluded(Answer<ExcludedReply>),
    Settings(Answer<SettingsReply>),
    Set {
        setting: Setting,
        answer: Answer<()>,
    },
    Locate {
        path: LocalPath,
        answer: Answer<Location>,
    },
    /// The loop ends after the answer.
    Stop(Answer<()>),
}

/// The loop's end of every command.
#[derive(Clone)]
pub(crate) struct Asks {
    queue: Sender<Ask>,
}

impl Asks {
    pub(super) const fn new(queue: Sender<Ask>) -> Self {
        Self { queue }
    }

    /// Puts a question and waits for the answer.
    pub(crate) async fn ask<T>(&self, ask: impl FnOnce(Answer<T>) -> Ask) -> Result<T, Failure> {
        let (sender, receiver) = oneshot::channel();
        self.queue.try_send(ask(sender)).map_err(|_| Failure::failed("the daemon is too busy or stopping"))?;
        receiver.await.unwrap_or_else(|_| Err(Failure::failed("the daemon is stopping")))
    }

    /// Ends the loop; returns when it has agreed.
    pub(crate) async fn stop(&self) {
        if let Err(error) = self.ask(Ask::Stop).await {
            tracing::debug!(%error, "the loop had ended already");
        }
    }
}
