//! Calls to the server, the notification stream and the poll behind it.

use super::{Input, report};
use crate::backoff::jittered_interval;
use crate::clock::Chance;
use crate::events::{StreamEvent, follow};
use crate::transport::{BlockFiles, FolderBlocks, Thrift, Transport};
use crossbeam_channel::Sender;
use local_files::disk::Disk;
use local_files::hashed::HashedFiles;
use model::limits;
use std::sync::Arc;
use sync_engine::io::{Event, Request, RequestId};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Calls under way at once: more than all the transfers that the engine starts together, so that no small
/// call waits for one of them. A transfer may hold `limits::BLOCK_BYTES_PER_REQUEST` in memory.
const CALLS: usize = 16;

/// The caller of the engine's requests.
pub(super) struct Network {
    transport: Transport,
    disk: Arc<Disk>,
    files: Arc<dyn BlockFiles>,
    hashed: Arc<HashedFiles>,
    events: Sender<Input>,
    tasks: TaskTracker,
    cancelled: CancellationToken,
    permits: Arc<Semaphore>,
    runtime: tokio::runtime::Handle,
}

impl Network {
    pub(super) fn new(
        transport: Transport,
        disk: Arc<Disk>,
        hashed: Arc<HashedFiles>,
        events: Sender<Input>,
        tasks: TaskTracker,
        cancelled: CancellationToken,
    ) -> Self {
        let files = Arc::new(FolderBlocks::new(Arc::clone(&disk) as _, Arc::clone(&hashed)));
        let (permits, runtime) = (Arc::new(Semaphore::new(CALLS)), tokio::runtime::Handle::current());
        Self { transport, disk, files, hashed, events, tasks, cancelled, permits, runtime }
    }

    /// From now on, with or without what saves bytes.
    pub(super) fn set_thrift(&self, thrift: Thrift) {
        self.disk.set_direct_writes(thrift.direct_writes);
        self.hashed.set_on(thrift.hash_once);
        self.transport.set_thrift(thrift);
    }

    /// Performs a request and reports its reply, unless the daemon stops before.
    pub(super) fn send(&self, id: RequestId, request: Request) {
        let (transport, files) = (self.transport.clone(), Arc::clone(&self.files));
        let (events, permits) = (self.events.clone(), Arc::clone(&self.permits));
        let call = async move {
            // The semaphore is never closed.
            let Ok(_permit) = permits.acquire().await else { return };
            let result = transport.perform(request, files).await;
            if let Err(error) = &result {
                tracing::debug!(?id, %error, "a call to the server failed");
            }
            report(&events, Input::Event(Event::Replied(id, result.map_err(Into::into)))).await;
        };
        let cancelled = self.cancelled.clone();
        self.tasks.spawn_on(
            async move {
                tokio::select! {
                    () = call => {}
                    () = cancelled.cancelled() => {}
                }
            },
            &self.runtime,
        );
    }
}

/// Passes on what the notification stream says. When the queue is full a notification is dropped: it is
/// a hint, and the loop is busy with the truth.
pub(super) async fn follow_events(
    transport: Transport,
    chance: Chance,
    events: Sender<Input>,
    cancelled: CancellationToken,
) {
    let tell = |event| {
        let event = match event {
            StreamEvent::Opened => Event::StreamOpened,
            StreamEvent::Notified(notification) => Event::Notified(notification),
            StreamEvent::Coming(namespace) => Event::Coming(namespace),
        };
        if events.try_send(Input::Event(event)).is_err() {
            tracing::debug!("a notification was dropped");
        }
    };
    follow(&transport, chance, tell, cancelled).await;
}

/// The slow poll behind the notifications.
pub(super) async fn poll(mut chance: Chance, events: Sender<Input>, cancelled: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(jittered_interval(limits::POLL_INTERVAL, chance.fraction())) => {}
            () = cancelled.cancelled() => return,
        }
        report(&events, Input::Event(Event::StreamOpened)).await;
    }
}
