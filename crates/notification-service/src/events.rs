//! `GET events`: a subscription as a stream of server-sent events.
//!
//! ```text
//! retry: 2000
//!
//! event: head
//! data: 0f…a3 17
//!
//! : (a comment every SSE_KEEP_ALIVE, or another `retry:`)
//! ```

use crate::hub::{Ending, Follow, Hub, News, Subscription};
use api::service::MetaForNotification;
use api::{ApiError, CONTENT_TYPE, Coming, ErrorCode, Notification, PREFIX, Token, codec};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use model::{AccountId, NamespaceId, limits};
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Reconnects per second that one server admits without falling behind.
const RECONNECTS_PER_SECOND: usize = 5000;
/// The least time over which reconnects are spread.
const SHORTEST_SPREAD: Duration = Duration::from_secs(2);
/// Times that heads are read again when very much is announced meanwhile; then a poll must find it.
const HEAD_READS: usize = 3;

/// What the streams of this process need.
pub struct Events {
    hub: Arc<Hub>,
    meta: Arc<dyn MetaForNotification>,
}

impl Events {
    /// Streams of what the hub hears.
    #[must_use]
    pub fn new(hub: Arc<Hub>, meta: Arc<dyn MetaForNotification>) -> Arc<Self> {
        Arc::new(Self { hub, meta })
    }

    /// Opens a device's subscription and reads its first heads. Blocks.
    ///
    /// # Errors
    /// `Unlinked`, `Unavailable`.
    pub fn open(&self, token: &Token) -> Result<(Subscription, AccountId), ApiError> {
        let who = self.meta.authenticate(token)?;
        let subscription = self.hub.open(who);
        // Again, because a device that was unlinked before the hub knew of its stream would keep it.
        self.meta.authenticate(token)?;
        self.read_heads(who.account, &subscription)?;
        Ok((subscription, who.account))
    }

    /// Lets the subscription follow what the account follows now.
    fn read_heads(&self, account: AccountId, subscription: &Subscription) -> Result<(), ApiError> {
        for _ in 0..HEAD_READS {
            subscription.before_reading_heads();
            if subscription.follow(&self.meta.heads(account)?) == Follow::Complete {
                break;
            }
        }
        Ok(())
    }

    /// Over how long clients whose connections end are to spread their return: the time that this many
    /// need at the admitted rate, and half as much again. Each draws its own moment within it.
    fn retry(&self) -> Duration {
        spread(self.hub.streams())
    }
}

/// Over how long this many clients whose connections end are to spread their return.
pub(crate) fn spread(streams: usize) -> Duration {
    let spread = Duration::from_millis(streams as u64 * 1500 / RECONNECTS_PER_SECOND as u64);
    spread.max(SHORTEST_SPREAD)
}

/// `GET {PREFIX}/events`.
pub fn routes(events: Arc<Events>) -> Router {
    Router::new().route(&format!("{PREFIX}/events"), get(open_stream)).with_state(events)
}

async fn open_stream(State(events): State<Arc<Events>>, headers: HeaderMap) -> Response {
    let opened = match bearer_token(&headers) {
        Ok(token) => blocking(&events, move |events| events.open(&token)).await,
        Err(error) => Err(error),
    };
    match opened {
        Ok((subscription, account)) => stream_response(EventStream::new(events, subscription, account)),
        Err(error) => refusal(&error),
    }
}

fn stream_response(stream: EventStream) -> Response {
    let frames = stream::unfold(stream, |mut stream| async {
        let frame = stream.next_frame().await?;
        Some((Ok::<_, Infallible>(frame), stream))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would hold the events back otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// One connection.
struct EventStream {
    events: Arc<Events>,
    subscription: Arc<Subscription>,
    account: AccountId,
    phase: Phase,
    /// Over how long the client was told to spread its return.
    told: Duration,
    next_keep_alive: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was written yet.
    Greeting,
    Open,
    /// The goodbye was written.
    Ended,
}

impl EventStream {
    fn new(events: Arc<Events>, subscription: Subscription, account: AccountId) -> Self {
        let next_keep_alive = Instant::now() + limits::SSE_KEEP_ALIVE;
        let (subscription, told) = (Arc::new(subscription), events.retry());
        Self { events, subscription, account, phase: Phase::Greeting, told, next_keep_alive }
    }

    /// What is written next; `None` behind the end. Waits for news no longer than the keep-alive.
    async fn next_frame(&mut self) -> Option<Bytes> {
        match self.phase {
            Phase::Greeting => {
                self.phase = Phase::Open;
                Some(retry_frame(self.told))
            }
            Phase::Open => Some(self.news_frame().await),
            Phase::Ended => None,
        }
    }

    async fn news_frame(&mut self) -> Bytes {
        loop {
            let news = tokio::select! {
                news = self.subscription.news() => news,
                () = sleep_until(self.next_keep_alive) => {
                    self.next_keep_alive = Instant::now() + limits::SSE_KEEP_ALIVE;
                    return keep_alive_frame(&mut self.told, self.events.retry());
                }
            };
            match news {
                News::Reached(notifications) => return head_frame(&notifications),
                News::Coming(namespaces) => return coming_frame(&namespaces),
                News::Ended(ending) => return self.goodbye(ending),
                News::MembershipsChanged => self.reread_heads().await,
            }
        }
    }

    /// Follows what the account follows now. When that cannot be read, the old stays, and the next
    /// change or poll makes up for it.
    async fn reread_heads(&mut self) {
        let (account, subscription) = (self.account, self.subscription.clone());
        if let Err(error) = blocking(&self.events, move |events| events.read_heads(account, &subscription)).await {
            tracing::warn!(%account, %error, "a stream could not read its new namespaces");
        }
    }

    fn goodbye(&mut self, ending: Ending) -> Bytes {
        self.phase = Phase::Ended;
        match ending {
            Ending::Shutdown => retry_frame(self.events.retry()),
            // The next request of an unlinked device tells it why; a displaced one may come back.
            Ending::Unlinked | Ending::Displaced => Bytes::from_static(b":\n\n"),
        }
    }
}

/// What is written so that both sides know that the other is there: a comment, or over how long the client is to
/// spread its return if that is by a quarter longer than it was told, or half as long. Those who came first after a
/// start were told of a spread for few.
pub(crate) fn keep_alive_frame(told: &mut Duration, spread: Duration) -> Bytes {
    if spread * 4 < *told * 5 && spread * 2 > *told {
        return Bytes::from_static(b":\n\n");
    }
    *told = spread;
    retry_frame(spread)
}

pub(crate) fn retry_frame(retry: Duration) -> Bytes {
    format!("retry: {}\n\n", retry.as_millis()).into()
}

pub(crate) fn head_frame(notifications: &[Notification]) -> Bytes {
    let mut frame = String::new();
    for notification in notifications {
        // Writing to a string cannot fail.
        write!(frame, "event: head\ndata: {notification}\n\n").ok();
    }
    frame.into()
}

pub(crate) fn coming_frame(namespaces: &[NamespaceId]) -> Bytes {
    let frames = namespaces.iter().map(|namespace| format!("event: coming\ndata: {}\n\n", Coming(*namespace)));
    frames.collect::<String>().into()
}

fn bearer_token(headers: &HeaderMap) -> Result<Token, ApiError> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    value
        .and_then(Token::from_authorization)
        .ok_or_else(|| ApiError::new(ErrorCode::Unlinked, "the request has no device token"))
}

async fn blocking<T: Send + 'static>(
    events: &Arc<Events>,
    work: impl FnOnce(&Events) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let events = events.clone();
    tokio::task::spawn_blocking(move || work(&events)).await.unwrap_or_else(|panic| {
        tracing::error!(%panic, "a request of the notification service failed");
        Err(ApiError::new(ErrorCode::Unavailable, "the server failed at this request"))
    })
}

fn refusal(error: &ApiError) -> Response {
    let mut response = Response::new(Body::from(codec::encode(error)));
    *response.status_mut() =
        StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    if let Some(wait) = error.retry_after_ms {
        response.headers_mut().insert(header::RETRY_AFTER, wait.div_ceil(1000).into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_hears_again_over_how_long_to_spread_when_there_are_many_more_or_many_fewer() {
        let mut told = spread(0);
        assert_eq!(keep_alive_frame(&mut told, spread(7_000)), ":\n\n");
        assert_eq!(keep_alive_frame(&mut told, spread(15_000)), "retry: 4500\n\n");
        assert_eq!(keep_alive_frame(&mut told, spread(15_000)), ":\n\n");
        assert_eq!(keep_alive_frame(&mut told, spread(18_000)), ":\n\n");
        assert_eq!(keep_alive_frame(&mut told, spread(100)), "retry: 2000\n\n");
    }

    #[test]
    fn a_refusal_says_in_its_head_too_when_to_try_again() {
        let busy = ApiError { retry_after_ms: Some(1500), ..ApiError::new(ErrorCode::Busy, "busy") };
        assert_eq!(refusal(&busy).headers()[header::RETRY_AFTER], "2");
    }

    use api::service::{Announce, Followed, Identity};
    use http_body_util::BodyExt;
    use model::{DeviceId, Position};
    use std::sync::Mutex;

    const WHO: Identity = Identity { account: AccountId([1; 16]), device: DeviceId([2; 16]) };
    const ONE: NamespaceId = NamespaceId([0x11; 16]);
    const TWO: NamespaceId = NamespaceId([0x22; 16]);

    /// A meta service with one device, whose account follows what the test says.
    struct Meta(Mutex<Vec<(NamespaceId, Position)>>);

    impl MetaForNotification for Meta {
        fn authenticate(&self, token: &Token) -> Result<Identity, ApiError> {
            if token.0 == [7; 32] { Ok(WHO) } else { Err(ApiError::new(ErrorCode::Unlinked, "not linked")) }
        }

        fn heads(&self, _: AccountId) -> Result<Followed, ApiError> {
            Ok(self.0.lock().expect("not poisoned").clone())
        }

        fn review(&self, devices: &[Identity]) -> Result<Vec<Option<Followed>>, ApiError> {
            devices.iter().map(|who| self.heads(who.account).map(Some)).collect()
        }
    }

    struct Connection {
        hub: Arc<Hub>,
        meta: Arc<Meta>,
        body: Body,
    }

    impl Connection {
        async fn open() -> Self {
            let (hub, meta) = (Hub::new(), Arc::new(Meta(Mutex::new(vec![(ONE, Position(3))]))));
            let events = Events::new(hub.clone(), meta.clone());
            let mut headers = HeaderMap::new();
            let bearer = format!("Bearer {}", Token([7; 32]).to_hex());
            headers.insert(header::AUTHORIZATION, bearer.parse().expect("is a header"));
            let response = open_stream(State(events), headers).await;
            assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
            let mut connection = Self { hub, meta, body: response.into_body() };
            assert_eq!(connection.read().await, "retry: 2000\n\n");
            assert_eq!(connection.read().await, format!("event: head\ndata: {ONE} 3\n\n"));
            connection
        }

        /// The next frame; empty at the end.
        async fn read(&mut self) -> String {
            let Some(frame) = self.body.frame().await else { return String::new() };
            let data = frame.expect("no error").into_data().expect("is data");
            String::from_utf8(data.to_vec()).expect("is text")
        }
    }

    #[tokio::test]
    async fn a_stream_begins_with_its_heads_and_goes_on_with_announcements() {
        let mut connection = Connection::open().await;
        connection.hub.reached(ONE, Position(4));
        connection.hub.reached(ONE, Position(5));
        assert_eq!(connection.read().await, format!("event: head\ndata: {ONE} 5\n\n"));
    }

    #[tokio::test]
    async fn a_stream_tells_of_uploads_of_other_devices_and_not_of_its_own() {
        let mut connection = Connection::open().await;
        connection.hub.coming(ONE, WHO.device);
        connection.hub.coming(TWO, DeviceId([9; 16]));
        connection.hub.reached(ONE, Position(4));
        connection.hub.coming(ONE, DeviceId([9; 16]));
        connection.hub.coming(ONE, DeviceId([9; 16]));
        assert_eq!(connection.read().await, format!("event: head\ndata: {ONE} 4\n\n"));
        assert_eq!(connection.read().await, format!("event: coming\ndata: coming {ONE}\n\n"));
        connection.hub.reached(ONE, Position(5));
        assert_eq!(connection.read().await, format!("event: head\ndata: {ONE} 5\n\n"), "nothing is told twice");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_kept_alive() {
        let mut connection = Connection::open().await;
        let before = Instant::now();
        assert_eq!(connection.read().await, ":\n\n");
        assert_eq!(before.elapsed(), limits::SSE_KEEP_ALIVE);
    }

    #[tokio::test]
    async fn a_new_membership_is_followed_without_a_new_connection() {
        let mut connection = Connection::open().await;
        *connection.meta.0.lock().expect("not poisoned") = vec![(TWO, Position(9))];
        connection.hub.memberships_changed(WHO.account);
        assert_eq!(connection.read().await, format!("event: head\ndata: {TWO} 9\n\n"));
    }

    #[tokio::test]
    async fn an_unlinked_devices_stream_ends() {
        let mut connection = Connection::open().await;
        connection.hub.unlinked(WHO.device);
        assert_eq!(connection.read().await, ":\n\n");
        assert_eq!(connection.read().await, "");
    }

    #[tokio::test]
    async fn a_shutdown_says_when_to_come_back() {
        let mut connection = Connection::open().await;
        connection.hub.shut_down();
        assert_eq!(connection.read().await, "retry: 2000\n\n");
        assert_eq!(connection.read().await, "");
        drop(connection.body);
        assert_eq!(connection.hub.streams(), 0);
    }

    #[tokio::test]
    async fn without_a_valid_token_there_is_no_stream() {
        let events = Events::new(Hub::new(), Arc::new(Meta(Mutex::default())));
        let response = open_stream(State(events), HeaderMap::new()).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let bytes = response.into_body().collect().await.expect("no error").to_bytes();
        assert_eq!(codec::decode::<ApiError>(&bytes).expect("is an error").code, ErrorCode::Unlinked);
    }
}
