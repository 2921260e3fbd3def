//! An edge: holds clients' streams, and listens to hubs for the namespaces that they follow.
//!
//! For each hub there is one link. It follows at the hub what is the hub's own of all that the edge's streams
//! follow, and whenever the hub has taken that down, the streams concerned are due for a review: the meta
//! service is asked what they follow and where its heads are, for many streams at once. So nothing is missed
//! between asking and following; and after a hub was away, all streams are reviewed. What is lost
//! nevertheless, clients find with their next poll.

use crate::hub::{Due, Hub, Interest, Subscription};
use api::service::{Announce, Identity, MetaForNotification};
use api::{ApiError, ErrorCode, Token, codec};
use bytes::Bytes;
use model::NamespaceId;
use reqwest::Response;
use service_calls::wire::{self, Announcement, Follow, RelayFrame, RelayId};
use service_calls::{CallError, Links, RemoteMeta, hubs_of};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

/// Reviews at the same time.
const REVIEWERS: usize = 4;
/// How often all streams are reviewed though nothing is known to be missed: a meta service that was killed
/// between a commit and its announcement has told nobody.
const REVIEW_INTERVAL: Duration = Duration::from_secs(300);
/// Streams whose devices are being identified at the same time.
const OPENING: usize = 128;
/// How long a stream waits for its turn to be identified.
const OPENING_PATIENCE: Duration = Duration::from_secs(10);
/// The first window of the pauses after a failure; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// The largest window.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long changes of what is followed gather before the hub is told of them together.
const SETTLE: Duration = Duration::from_millis(5);

/// The meta service as an edge needs it.
pub trait MetaForEdge: MetaForNotification {
    /// As `authenticate`, without a thread that waits. When all devices come back at once, threads would each keep memory
    /// of their own for what one call takes.
    fn identify<'a>(&'a self, token: &'a Token) -> Identified<'a>;
}

/// What [`MetaForEdge::identify`] gives.
pub type Identified<'a> = Pin<Box<dyn Future<Output = Result<Identity, ApiError>> + Send + 'a>>;

impl MetaForEdge for RemoteMeta {
    fn identify<'a>(&'a self, token: &'a Token) -> Identified<'a> {
        Box::pin(self.identify(token))
    }
}

/// The streams of this process and where it hears for them.
pub struct Edge {
    hub: Arc<Hub>,
    meta: Arc<dyn MetaForEdge>,
    links: Links,
    hubs: Vec<String>,
    /// Hubs that are listened to at the moment.
    linked: AtomicUsize,
    opening: Semaphore,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the hub refuses the stream")]
    Refused,
    #[error("the hub was silent for too long")]
    Silent,
    #[error("the hub ended the stream")]
    Ended,
    #[error("the stream broke")]
    Broken(#[source] reqwest::Error),
    #[error("the hub says something that is no frame")]
    Malformed,
}

impl Edge {
    /// An edge that listens to these hubs, named as the meta services name them. [`Edge::run`] does the work.
    #[must_use]
    pub fn new(meta: Arc<dyn MetaForEdge>, links: Links, hubs: Vec<String>) -> Arc<Self> {
        let (hub, opening) = (Hub::with_reviews(), Semaphore::new(OPENING));
        Arc::new(Self { hub, meta, links, hubs, linked: AtomicUsize::new(0), opening })
    }

    /// The streams.
    #[must_use]
    pub const fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// How many hubs are listened to at the moment.
    #[must_use]
    pub fn linked(&self) -> usize {
        self.linked.load(Ordering::Relaxed)
    }

    /// Listens and reviews. Never ends.
    pub async fn run(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        for index in 0..self.hubs.len() {
            let interest = Arc::new(Interest::default());
            self.hub.register(interest.clone());
            let edge = self.clone();
            tasks.spawn(async move { edge.stay_linked(index, &interest).await });
        }
        for _ in 0..REVIEWERS {
            let edge = self.clone();
            tasks.spawn(async move { edge.review().await });
        }
        // A stream that begins is due by itself.
        let mut turns = interval_at(Instant::now() + REVIEW_INTERVAL, REVIEW_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            self.hub.review_all();
        }
    }

    /// Opens a device's subscription, whose first heads come with its review.
    ///
    /// # Errors
    /// `Unlinked`, `Busy`, `Unavailable`.
    pub async fn open(&self, token: Token) -> Result<Subscription, ApiError> {
        let busy = || ApiError::new(ErrorCode::Busy, "too many streams are being opened, try again");
        let turn = timeout(OPENING_PATIENCE, self.opening.acquire()).await.map_err(|_| busy())?.map_err(|_| busy())?;
        let who = self.meta.identify(&token).await?;
        drop(turn);
        // That the device was not unlinked meanwhile, the review makes sure of.
        Ok(self.hub.open(who))
    }

    async fn review(&self) {
        let mut failures = 0;
        loop {
            let due = self.hub.due(wire::REVIEWED).await;
            let meta = self.meta.clone();
            let devices: Vec<_> = due.iter().map(|due| due.who).collect();
            let found = tokio::task::spawn_blocking(move || meta.review(&devices)).await;
            match found {
                Ok(Ok(found)) => {
                    failures = 0;
                    for (due, heads) in due.into_iter().zip(found) {
                        self.hub.reviewed(due, heads.as_deref());
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, streams = due.len(), "streams could not be reviewed");
                    self.put_off(due, &mut failures).await;
                }
                Err(panic) => {
                    tracing::error!(%panic, "a review failed");
                    self.put_off(due, &mut failures).await;
                }
            }
        }
    }

    async fn put_off(&self, due: Vec<Due>, failures: &mut u32) {
        self.hub.not_reviewed(due);
        *failures += 1;
        self.pause(*failures).await;
    }

    async fn stay_linked(&self, index: usize, interest: &Interest) {
        let mut failures = 0;
        let mut again = false;
        loop {
            let (linked, error) = self.link(index, interest, again).await;
            again |= linked;
            failures = if linked { 1 } else { failures + 1_u32 };
            if failures == 1 {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(hub = self.hubs[index], error, "a hub is not listened to");
            }
            self.pause(failures).await;
        }
    }

    /// Listens to a hub until that is no longer possible. Whether it was, and why it is not.
    async fn link(&self, index: usize, interest: &Interest, again: bool) -> (bool, LinkError) {
        let mut frames = match self.connect(index).await {
            Ok(frames) => frames,
            Err(error) => return (false, error),
        };
        self.linked.fetch_add(1, Ordering::Relaxed);
        tracing::info!(hub = self.hubs[index], "a hub is listened to");
        let relay = frames.relay;
        let ended = tokio::select! {
            ended = self.hear(&mut frames) => ended,
            ended = self.keep_following(index, interest, relay, again) => ended,
        };
        self.linked.fetch_sub(1, Ordering::Relaxed);
        (true, ended)
    }

    async fn connect(&self, index: usize) -> Result<Frames, LinkError> {
        let call = wire::RELAY;
        let response = timeout(call.patience, self.links.post(&self.hubs[index], call, call.patience, Bytes::new()));
        let response = response.await.map_err(|_| LinkError::Silent)??;
        if !response.status().is_success() {
            return Err(LinkError::Refused);
        }
        let mut frames = Frames { response, bytes: Vec::new(), relay: RelayId([0; 16]) };
        match frames.next().await? {
            RelayFrame::Welcome(relay) => frames.relay = relay,
            RelayFrame::News(_) | RelayFrame::Beat => return Err(LinkError::Malformed),
        }
        Ok(frames)
    }

    async fn hear(&self, frames: &mut Frames) -> LinkError {
        loop {
            match frames.next().await {
                Ok(RelayFrame::News(news)) => self.pass_on(&news),
                Ok(RelayFrame::Beat) => {}
                Ok(RelayFrame::Welcome(_)) => return LinkError::Malformed,
                Err(error) => return error,
            }
        }
    }

    fn pass_on(&self, news: &Announcement) {
        news.notifications().for_each(|one| self.hub.reached(one.namespace, one.position));
        news.coming.iter().for_each(|&(namespace, device)| self.hub.coming(namespace, device));
        news.memberships.iter().for_each(|account| self.hub.memberships_changed(*account));
        news.unlinked.iter().for_each(|device| self.hub.unlinked(*device));
    }

    async fn keep_following(&self, index: usize, interest: &Interest, relay: RelayId, again: bool) -> LinkError {
        let all = self.hub.followed(interest);
        if let Err(error) = self.follow(index, relay, all, Vec::new()).await {
            return error.into();
        }
        if again {
            self.hub.review_all();
        }
        loop {
            let (add, remove) = interest.changed().await;
            if let Err(error) = self.follow(index, relay, add, remove).await {
                return error.into();
            }
            // What comes together is told together.
            sleep(SETTLE).await;
        }
    }

    /// Tells the hub what is its own of this; then the streams that follow what is new are due.
    async fn follow(
        &self,
        index: usize,
        relay: RelayId,
        mut add: Vec<NamespaceId>,
        mut remove: Vec<NamespaceId>,
    ) -> Result<(), CallError> {
        let is_its = |namespace: &NamespaceId| hubs_of(*namespace, &self.hubs).contains(&index);
        add.retain(is_its);
        remove.retain(is_its);
        let mut removals = remove.chunks(wire::NAMESPACES);
        let mut additions = add.chunks(wire::NAMESPACES);
        loop {
            let (add, remove) = (additions.next(), removals.next());
            if add.is_none() && remove.is_none() {
                return Ok(());
            }
            let (add, remove) = (add.unwrap_or_default().to_vec(), remove.unwrap_or_default().to_vec());
            let follow = Follow { relay, add, remove };
            self.links.call::<_, ()>(&self.hubs[index], wire::FOLLOW, &follow).await?;
            self.hub.review_followers(&follow.add);
        }
    }

    async fn pause(&self, failures: u32) {
        let window = PAUSE.saturating_mul(1 << failures.min(8)).min(LONGEST_PAUSE);
        sleep(PAUSE / 2 + self.links.within(window)).await;
    }
}

/// What a hub says.
struct Frames {
    response: Response,
    bytes: Vec<u8>,
    relay: RelayId,
}

impl Frames {
    async fn next(&mut self) -> Result<RelayFrame, LinkError> {
        loop {
            if let Some(frame) = take_frame(&mut self.bytes)? {
                return Ok(frame);
            }
            let chunk = timeout(wire::RELAY_SILENCE, self.response.chunk()).await.map_err(|_| LinkError::Silent)?;
            let chunk = chunk.map_err(LinkError::Broken)?.ok_or(LinkError::Ended)?;
            self.bytes.extend_from_slice(&chunk);
        }
    }
}

/// The first whole frame of these bytes, which it leaves.
fn take_frame(bytes: &mut Vec<u8>) -> Result<Option<RelayFrame>, LinkError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let len = codec::head_len(*prefix).map_err(|_| LinkError::Malformed)?;
    if len > wire::RELAY_FRAME_BYTES {
        return Err(LinkError::Malformed);
    }
    let Some(frame) = rest.get(..len) else { return Ok(None) };
    let frame = codec::decode(frame).map_err(|_| LinkError::Malformed)?;
    bytes.drain(..4 + len);
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Position;

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let news = Announcement { reached: vec![(NamespaceId([1; 16]), Position(7))], ..Announcement::default() };
        let sent = [RelayFrame::Welcome(RelayId([2; 16])), RelayFrame::Beat, RelayFrame::News(news)];
        let bytes: Vec<u8> = sent.iter().flat_map(codec::encode_head).collect();
        let (mut arrived, mut heard) = (Vec::new(), Vec::new());
        for byte in bytes {
            arrived.push(byte);
            heard.extend(take_frame(&mut arrived).expect("well formed"));
        }
        assert_eq!((heard.as_slice(), arrived.len()), (sent.as_slice(), 0));
    }

    #[test]
    fn bytes_that_are_no_frame_end_the_link() {
        let long = u32::try_from(wire::RELAY_FRAME_BYTES + 1).expect("short").to_le_bytes();
        assert!(matches!(take_frame(&mut long.to_vec()), Err(LinkError::Malformed)));
        assert!(matches!(take_frame(&mut vec![1, 0, 0, 0, 9]), Err(LinkError::Malformed)));
    }
}
