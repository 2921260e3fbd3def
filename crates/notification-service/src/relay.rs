//! A hub: hears from the meta service and passes on to each edge what that edge follows.
//!
//! It keeps nothing that would be missed: an edge that loses a hub asks the meta service for the heads when
//! it has the hub again, and meanwhile its namespaces' other hub is told.

use api::{ApiError, ErrorCode};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use futures_util::stream;
use model::{AccountId, DeviceId, NamespaceId, Position};
use service_calls::wire::{self, Announcement, Follow, RelayFrame, RelayId, SERVICE_PREFIX};
use service_calls::{Chance, answer_call, read_call};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Edges of one hub.
const EDGES: usize = 256;
/// Namespaces that one edge follows at one hub.
const FOLLOWED: usize = 1_000_000;
/// Accounts and devices each that wait for an edge. One that takes none of them for so long begins anew.
const WAITING: usize = 65_536;

/// The edges of a hub, and what each of them has yet to hear.
#[derive(Debug)]
pub struct Relay {
    state: Mutex<RelayState>,
    chance: Chance,
    announced: AtomicU64,
}

#[derive(Debug, Default)]
struct RelayState {
    edges: BTreeMap<RelayId, Edge>,
    followers: BTreeMap<NamespaceId, BTreeSet<RelayId>>,
    /// Set once: streams end.
    closed: bool,
}

#[derive(Debug, Default)]
struct Edge {
    follows: BTreeSet<NamespaceId>,
    reached: BTreeMap<NamespaceId, Position>,
    /// [`WAITING`] at most; the rest is forgotten.
    coming: BTreeSet<(NamespaceId, DeviceId)>,
    memberships: BTreeSet<AccountId>,
    unlinked: BTreeSet<DeviceId>,
    wake: Arc<Notify>,
    /// Too much waits for it.
    overrun: bool,
}

impl Relay {
    /// A hub without edges.
    #[must_use]
    pub fn new(chance: Chance) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), chance, announced: AtomicU64::new(0) })
    }

    /// How many edges listen.
    #[must_use]
    pub fn edges(&self) -> usize {
        self.state().edges.len()
    }

    /// How many positions were announced here since the start.
    #[must_use]
    pub fn announced(&self) -> u64 {
        self.announced.load(Ordering::Relaxed)
    }

    /// Ends the streams of all edges, which then follow elsewhere.
    pub fn shut_down(&self) {
        let mut state = self.state();
        state.closed = true;
        state.edges.values().for_each(|edge| edge.wake.notify_one());
    }

    fn open(self: &Arc<Self>) -> Result<Listener, ApiError> {
        let mut bits = [0; 16];
        bits[..8].copy_from_slice(&(self.chance)(u64::MAX).to_le_bytes());
        bits[8..].copy_from_slice(&(self.chance)(u64::MAX).to_le_bytes());
        let id = RelayId(bits);
        let mut state = self.state();
        if state.closed || state.edges.len() >= EDGES {
            return Err(ApiError::new(ErrorCode::Unavailable, "this hub takes no edges at the moment"));
        }
        let wake = state.edges.entry(id).or_default().wake.clone();
        Ok(Listener { relay: self.clone(), id, wake, beat: Instant::now(), greeted: false })
    }

    fn follow(&self, follow: &Follow) -> Result<(), ApiError> {
        self.state().follow(follow)
    }

    fn announce(&self, announcement: &Announcement) {
        self.announced.fetch_add(announcement.reached.len() as u64, Ordering::Relaxed);
        self.state().announce(announcement);
    }

    fn state(&self) -> MutexGuard<'_, RelayState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RelayState {
    fn follow(&mut self, follow: &Follow) -> Result<(), ApiError> {
        let unknown = || ApiError::new(ErrorCode::NotFound, "this hub does not know the stream");
        let edge = self.edges.get_mut(&follow.relay).ok_or_else(unknown)?;
        if edge.follows.len() + follow.add.len() > FOLLOWED {
            return Err(ApiError::new(ErrorCode::BadRequest, "an edge follows too many namespaces"));
        }
        for namespace in &follow.add {
            edge.follows.insert(*namespace);
            self.followers.entry(*namespace).or_default().insert(follow.relay);
        }
        for namespace in &follow.remove {
            edge.follows.remove(namespace);
            edge.reached.remove(namespace);
            forget(&mut self.followers, *namespace, follow.relay);
        }
        Ok(())
    }

    fn announce(&mut self, announcement: &Announcement) {
        for &(namespace, position) in &announcement.reached {
            for id in self.followers.get(&namespace).into_iter().flatten() {
                if let Some(edge) = self.edges.get_mut(id) {
                    let known = edge.reached.entry(namespace).or_insert(position);
                    *known = position.max(*known);
                    edge.wake.notify_one();
                }
            }
        }
        for &(namespace, device) in &announcement.coming {
            for id in self.followers.get(&namespace).into_iter().flatten() {
                if let Some(edge) = self.edges.get_mut(id).filter(|edge| edge.coming.len() < WAITING) {
                    edge.coming.insert((namespace, device));
                    edge.wake.notify_one();
                }
            }
        }
        if announcement.memberships.is_empty() && announcement.unlinked.is_empty() {
            return;
        }
        for edge in self.edges.values_mut() {
            edge.memberships.extend(&announcement.memberships);
            edge.unlinked.extend(&announcement.unlinked);
            edge.overrun |= edge.memberships.len() > WAITING || edge.unlinked.len() > WAITING;
            edge.wake.notify_one();
        }
    }

    fn close(&mut self, id: RelayId) {
        let Some(edge) = self.edges.remove(&id) else { return };
        for namespace in edge.follows {
            forget(&mut self.followers, namespace, id);
        }
    }
}

fn forget(followers: &mut BTreeMap<NamespaceId, BTreeSet<RelayId>>, namespace: NamespaceId, id: RelayId) {
    if let Some(ids) = followers.get_mut(&namespace) {
        ids.remove(&id);
        if ids.is_empty() {
            followers.remove(&namespace);
        }
    }
}

impl Edge {
    /// What it hears next, one frame at most.
    fn take(&mut self) -> Announcement {
        Announcement {
            reached: wire::take_positions(&mut self.reached),
            coming: wire::take_page(&mut self.coming),
            memberships: wire::take_page(&mut self.memberships),
            unlinked: wire::take_page(&mut self.unlinked),
        }
    }
}

/// An edge's stream, which ends with this.
struct Listener {
    relay: Arc<Relay>,
    id: RelayId,
    wake: Arc<Notify>,
    beat: Instant,
    greeted: bool,
}

impl Listener {
    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Option<RelayFrame> {
        if !self.greeted {
            self.greeted = true;
            self.beat = Instant::now() + wire::RELAY_BEAT;
            return Some(RelayFrame::Welcome(self.id));
        }
        loop {
            {
                let mut state = self.relay.state();
                let closed = state.closed;
                let edge = state.edges.get_mut(&self.id)?;
                if closed || edge.overrun {
                    return None;
                }
                let news = edge.take();
                if !news.is_empty() {
                    return Some(RelayFrame::News(news));
                }
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep_until(self.beat) => {
                    self.beat = Instant::now() + wire::RELAY_BEAT;
                    return Some(RelayFrame::Beat);
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.relay.state().close(self.id);
    }
}

/// The calls of a hub.
pub fn hub_routes(relay: Arc<Relay>) -> Router {
    let path = |call: wire::Call| format!("{SERVICE_PREFIX}/{}", call.name);
    Router::new()
        .route(&path(wire::ANNOUNCE), post(announce))
        .route(&path(wire::FOLLOW), post(follow))
        .route(&path(wire::RELAY), post(listen))
        .with_state(relay)
}

async fn announce(State(relay): State<Arc<Relay>>, request: Request) -> Response {
    answer_call(read_call(request).await.map(|announcement| relay.announce(&announcement)))
}

async fn follow(State(relay): State<Arc<Relay>>, request: Request) -> Response {
    answer_call(read_call(request).await.and_then(|follow| relay.follow(&follow)))
}

async fn listen(State(relay): State<Arc<Relay>>) -> Response {
    let listener = match relay.open() {
        Ok(listener) => listener,
        Err(error) => return answer_call::<()>(Err(error)),
    };
    let frames = stream::unfold(listener, |mut listener| async {
        let frame = listener.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(api::codec::encode_head(&frame))), listener))
    });
    let mut response = Response::new(Body::from_stream(frames));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(api::CONTENT_TYPE));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NamespaceId = NamespaceId([1; 16]);
    const TWO: NamespaceId = NamespaceId([2; 16]);

    fn relay() -> Arc<Relay> {
        use std::sync::atomic::AtomicU64;
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Relay::new(|_| NEXT.fetch_add(1, Ordering::Relaxed))
    }

    async fn edge(relay: &Arc<Relay>, add: &[NamespaceId]) -> Listener {
        let mut listener = relay.open().expect("opens");
        assert_eq!(listener.next().await, Some(RelayFrame::Welcome(listener.id)));
        relay.follow(&Follow { relay: listener.id, add: add.to_vec(), remove: Vec::new() }).expect("follows");
        listener
    }

    fn reached(what: &[(NamespaceId, u64)]) -> Announcement {
        let reached = what.iter().map(|(namespace, position)| (*namespace, Position(*position))).collect();
        Announcement { reached, ..Announcement::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn an_edge_hears_what_it_follows_and_nothing_else() {
        let relay = relay();
        let (mut one, mut two) = (edge(&relay, &[ONE]).await, edge(&relay, &[TWO]).await);
        relay.announce(&reached(&[(ONE, 5)]));
        assert_eq!(one.next().await, Some(RelayFrame::News(reached(&[(ONE, 5)]))));
        assert_eq!(two.next().await, Some(RelayFrame::Beat), "after nothing but time");
    }

    #[tokio::test]
    async fn a_slow_edge_costs_one_position_for_each_namespace() {
        let relay = relay();
        let mut edge = edge(&relay, &[ONE, TWO]).await;
        (0..1000).for_each(|position| relay.announce(&reached(&[(ONE, position), (TWO, 1000 - position)])));
        assert_eq!(edge.next().await, Some(RelayFrame::News(reached(&[(ONE, 999), (TWO, 1000)]))));
    }

    #[tokio::test]
    async fn all_edges_hear_of_accounts_and_devices() {
        let relay = relay();
        let (mut one, mut two) = (edge(&relay, &[]).await, edge(&relay, &[ONE]).await);
        let news = Announcement {
            memberships: vec![AccountId([3; 16])],
            unlinked: vec![DeviceId([4; 16])],
            ..Announcement::default()
        };
        relay.announce(&news);
        assert_eq!(one.next().await, Some(RelayFrame::News(news.clone())));
        assert_eq!(two.next().await, Some(RelayFrame::News(news)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_longer_followed_is_not_heard_and_an_edge_that_leaves_leaves_nothing() {
        let relay = relay();
        let mut edge = edge(&relay, &[ONE, TWO]).await;
        relay.follow(&Follow { relay: edge.id, add: Vec::new(), remove: vec![ONE] }).expect("follows");
        let coming = vec![(ONE, DeviceId([5; 16]))];
        relay.announce(&Announcement { coming, ..reached(&[(ONE, 1)]) });
        assert_eq!(edge.next().await, Some(RelayFrame::Beat));
        drop(edge);
        assert!(relay.state().followers.is_empty() && relay.edges() == 0);
    }

    #[tokio::test]
    async fn a_stream_that_is_not_there_follows_nothing() {
        let follow = Follow { relay: RelayId([9; 16]), add: vec![ONE], remove: Vec::new() };
        assert_eq!(relay().follow(&follow).expect_err("unknown").code, ErrorCode::NotFound);
    }

    #[tokio::test]
    async fn a_shutdown_ends_the_streams_and_takes_no_more() {
        let relay = relay();
        let mut edge = edge(&relay, &[]).await;
        relay.shut_down();
        assert_eq!(edge.next().await, None);
        assert!(relay.open().is_err());
    }

    #[tokio::test]
    async fn an_edge_for_which_too_much_waits_begins_anew() {
        let relay = relay();
        let mut edge = edge(&relay, &[]).await;
        for number in 0..=WAITING {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_le_bytes());
            relay.announce(&Announcement { memberships: vec![AccountId(id)], ..Announcement::default() });
        }
        assert_eq!(edge.next().await, None);
    }
}
