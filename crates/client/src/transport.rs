//! Calls to the server: HTTP/1.1, postcard bodies, a bearer token.
//!
//! Nothing is concluded from an answer that did not come from a Syncline server: a reply of another
//! content type is [`TransportError::NotSyncline`], whatever its status. Redirects are refused: a token
//! goes to the server that the user named and nowhere else.

mod along;
mod blocks;
mod deltas;
mod link;
mod resume;
mod shift;
mod stall;
mod upload;

pub use blocks::{BlockFiles, FolderBlocks};

use crate::bandwidth::{Bandwidth, Limits};
use along::Along;
use api::{ApiError, ErrorCode, Token};
use bytes::Bytes;
use deltas::KnownSums;
use futures_util::future::BoxFuture;
use link::Link;
use model::{NamespaceId, limits};
use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Body, Client, ClientBuilder, RequestBuilder, Response, Url};
use resume::{Interrupted, Places};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use stall::Progress;
use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use sync_engine::Tuning;
use sync_engine::io::{Reply, Request, RequestError};

/// How long a connection may take to open.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call may show no progress, in either direction, before it is given up.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the notification stream may take to open. A balancer may let it wait for 10 s, and then an edge asks a meta
/// service. Who takes longer hangs, though its system goes on to say that it is there: a frozen balancer takes
/// connections and what is sent on them.
const STREAM_OPENS: Duration = Duration::from_secs(20);
/// How long the notification stream may be quiet before the other side is asked whether it is there. A balancer that
/// took over another's address answers at once that it knows of none: so often is how soon a stream that has lost its
/// balancer begins anew. More than half of [`limits::SSE_KEEP_ALIVE`], so that an idle device asks once between two signs of
/// life.
const ASK_AFTER: Duration = Duration::from_secs(11);
/// How long the other side has to answer each time.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How often it is asked before the stream counts as broken.
const ASKED_AT_MOST: u32 = 3;
/// How long what was sent in a call may stay unacknowledged. Calls ask nothing while they wait, and nothing while their
/// connections are not in use; a stream that breaks tells them enough ([`stall::Stream`]).
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);
/// How long an unused connection is kept.
const POOL_IDLE: Duration = Duration::from_secs(90);
/// How many of them: those of a burst of transfers would each be closed with four packets of their own.
const POOL_SIZE: usize = 2;
/// Bytes for which there is room at once when an answer's length is not announced, as with contents that come along.
const UNANNOUNCED: usize = 8 * 1024 * 1024;
/// Memory for contents and for compression that was not used for so long is given back at the next sign of life.
const UNUSED: Duration = Duration::from_secs(5);
/// No advice to wait counts for more than this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// Characters of a foreign answer's description that are passed on.
const DESCRIPTION_CHARS: usize = 120;

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection, a time-out, or a body that broke off: whether the server acted is unknown.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The connection was refused because of TLS: certificate, name or protocol.
    #[error("no secure connection to the server can be made: {0}")]
    Tls(String),
    /// Something answered that is not a Syncline server.
    #[error("the answer did not come from a Syncline server: {0}")]
    NotSyncline(String),
    /// The server's own word.
    #[error(transparent)]
    Refused(#[from] ApiError),
}

impl TransportError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable(_) => "check the address, and that the server runs; then try again".into(),
            Self::Tls(_) => {
                "check that the address begins with the right one of http:// and https://, and that the server's \
                 certificate is valid for this name and its issuer trusted by this system"
                    .into()
            }
            Self::NotSyncline(_) => {
                "check the address; behind a proxy, check that it passes /sync on to the Syncline server".into()
            }
            Self::Refused(error) => return refusal_hint(error.code),
        })
    }
}

fn refusal_hint(code: ErrorCode) -> Option<String> {
    let hint = match code {
        ErrorCode::WrongCredentials => "check the e-mail address and the password, and try again",
        ErrorCode::Unlinked => "run `syncline unlink` and `syncline link` to link it again; your files stay",
        ErrorCode::Busy | ErrorCode::Unavailable => "try again in a moment",
        ErrorCode::NoSpace => "free some space on the server",
        ErrorCode::UnsupportedVersion => "install the version of syncline that the server has",
        ErrorCode::BadRequest
        | ErrorCode::Forbidden
        | ErrorCode::NotFound
        | ErrorCode::AlreadyExists
        | ErrorCode::EpochChanged => return None,
    };
    Some(hint.into())
}

impl From<TransportError> for RequestError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Unreachable(reason) | TransportError::Tls(reason) => Self::Unreachable(reason),
            TransportError::NotSyncline(reason) => Self::NotSyncline(reason),
            TransportError::Refused(error) => Self::Refused(error),
        }
    }
}

/// A server's address: `http` or `https`, a host, perhaps a port and a path in front of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl(Url);

/// A text that is no server's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a server's address")]
pub struct BadServerUrl {
    text: String,
}

impl BadServerUrl {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> String {
        "an address looks like https://sync.example.org or http://192.168.1.5:8400".into()
    }
}

impl FromStr for ServerUrl {
    type Err = BadServerUrl;

    fn from_str(text: &str) -> Result<Self, BadServerUrl> {
        let bad = || BadServerUrl { text: text.to_owned() };
        let url = Url::parse(text.trim()).map_err(|_| bad())?;
        let plain = url.username().is_empty() && url.password().is_none();
        let complete = url.has_host() && url.query().is_none() && url.fragment().is_none();
        if !(matches!(url.scheme(), "http" | "https") && plain && complete) {
            return Err(bad());
        }
        Ok(Self(url))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// Takes calls to a server and brings its answers: HTTP in the program, a network of its own in a simulation.
pub trait Carrier: Send + Sync {
    /// Posts the body of a call.
    fn post<'a>(&'a self, call: &'a str, body: Body) -> BoxFuture<'a, Result<Response, TransportError>>;
}

/// HTTP, on connections that are kept.
struct Http {
    /// For calls.
    client: Client,
    /// For calls on connections that ask by themselves whether the other side is there; made when it is needed.
    asking: OnceLock<Client>,
    /// For the notification stream, whose connection is there for days.
    listener: Client,
    server: ServerUrl,
    token: Option<Token>,
}

/// How calls reach the server.
#[derive(Clone)]
enum Way {
    Http(Arc<Http>),
    Carried(Arc<dyn Carrier>),
}

/// Calls to one server.
#[derive(Clone)]
pub struct Transport {
    way: Way,
    bandwidth: Arc<Bandwidth>,
    /// Of this and all clones of it.
    thrift: Arc<RwLock<Thrift>>,
    known_sums: Arc<KnownSums>,
    interrupted: Arc<Interrupted>,
    places: Arc<Places>,
    link: Arc<Link>,
    along: Arc<Along>,
    stream: Arc<stall::Stream>,
    /// The account's root namespace, once it is known.
    root: Option<NamespaceId>,
}

/// What saves bytes or time, and can be left off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thrift {
    /// Whether blocks travel as what has changed of others.
    pub delta: bool,
    /// Whether uploads are compressed.
    pub compress: bool,
    /// Whether blocks that local files have are copied and not fetched.
    pub reuse: bool,
    /// Whether the upload of a large file is announced, and what others announce fetched before its commit.
    pub prefetch: bool,
    /// Whether a file is read as soon as its writer has closed it, where that is safe.
    pub early_reading: bool,
    /// Whether a file that keeps changing is not sent for each of its changes.
    pub pacing: bool,
    /// Whether small contents come along with the changes.
    pub small_contents: bool,
    /// Whether blocks of a file that is in the state in which it was hashed are sent without being hashed again, and
    /// small files as they were read then.
    pub hash_once: bool,
    /// Whether a new block is compared with the old blocks beside its place, too.
    pub neighbours: bool,
    /// Whether only the notification stream asks whether the other side is there, and not each connection that is kept.
    pub quiet: bool,
    /// Whether an edit of a file names only the blocks that the version before lacks.
    pub kept_blocks: bool,
    /// Whether small new files travel together without the names of their blocks.
    pub bundles: bool,
    /// Whether what an edit has moved is made at the server of what it has, unasked.
    pub shifts: bool,
    /// Whether large downloads are written past the page cache.
    pub direct_writes: bool,
}

impl Thrift {
    /// The part of it that the engine performs.
    #[must_use]
    pub fn tuning(self) -> Tuning {
        Tuning {
            prefetch: self.prefetch,
            read_closed_at_once: self.early_reading,
            pacing: self.pacing,
            kept_blocks: if self.kept_blocks { Tuning::default().kept_blocks } else { u64::MAX },
            move_from: if self.shifts && self.delta { Tuning::default().move_from } else { u32::MAX },
            near_blocks: if self.neighbours { Tuning::default().near_blocks } else { 0 },
            contents_with_news: self.bundles && self.small_contents,
            hashed_ahead: if self.hash_once { Tuning::default().hashed_ahead } else { u64::MAX },
            ..Tuning::default()
        }
    }
}

impl Default for Thrift {
    fn default() -> Self {
        Self {
            delta: true,
            compress: true,
            reuse: true,
            prefetch: true,
            early_reading: true,
            pacing: true,
            small_contents: true,
            hash_once: true,
            neighbours: true,
            quiet: true,
            kept_blocks: true,
            bundles: true,
            shifts: true,
            direct_writes: true,
        }
    }
}

impl Transport {
    /// Calls to `server`, in the name of the device that `token` belongs to.
    ///
    /// # Errors
    /// [`TransportError::Tls`] when the system's certificates cannot be used.
    pub fn new(server: ServerUrl, token: Option<Token>, bandwidth: Arc<Bandwidth>) -> Result<Self, TransportError> {
        let client = common().tcp_keepalive(None).tcp_user_timeout(UNACKNOWLEDGED);
        let (client, listener) = (build(client)?, build(asking(ASK_AFTER))?);
        let http = Http { client, asking: OnceLock::new(), listener, server, token };
        Ok(Self::on(Way::Http(Arc::new(http)), bandwidth))
    }

    /// The same calls, taken by somebody else, without threads. There is no notification stream then.
    #[must_use]
    pub fn carried_by(carrier: Arc<dyn Carrier>) -> Self {
        Self::on(Way::Carried(carrier), Arc::new(Bandwidth::new(Limits::default())))
    }

    fn on(way: Way, bandwidth: Arc<Bandwidth>) -> Self {
        Self {
            way,
            bandwidth,
            thrift: Arc::default(),
            known_sums: Arc::default(),
            interrupted: Arc::default(),
            places: Arc::default(),
            link: Arc::default(),
            along: Arc::default(),
            stream: Arc::default(),
            root: None,
        }
    }

    /// The same calls, with or without what saves bytes.
    #[must_use]
    pub fn with_thrift(self, thrift: Thrift) -> Self {
        self.set_thrift(thrift);
        self
    }

    /// From now on, with or without what saves bytes.
    pub fn set_thrift(&self, thrift: Thrift) {
        *self.thrift.write().unwrap_or_else(PoisonError::into_inner) = thrift;
    }

    fn thrift(&self) -> Thrift {
        *self.thrift.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same calls, of an account with this root namespace: its uploads go on where they broke off.
    #[must_use]
    pub fn with_root(self, root: NamespaceId) -> Self {
        Self { root: Some(root), ..self }
    }

    /// One call with a message each way.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn call<Q: Serialize, A: DeserializeOwned>(&self, name: &str, request: &Q) -> Result<A, TransportError> {
        self.call_with(name, api::encode(request).into()).await
    }

    /// The same with a body that is made already.
    async fn call_with<A: DeserializeOwned>(&self, name: &str, body: Bytes) -> Result<A, TransportError> {
        let progress = self.progress();
        progress
            .watch(async {
                let response = self.post(name, body.into()).await?;
                progress.touch();
                self.message(response, &progress).await
            })
            .await
    }

    /// Performs an engine's request.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn perform(&self, request: Request, files: Arc<dyn BlockFiles>) -> Result<Reply, TransportError> {
        match request {
            Request::Server => self.call("server", &()).await.map(Reply::Server),
            Request::Changes(request) => self.changes(request).await,
            Request::News(request) => self.news(request).await,
            Request::Missing(request) => self.call("missing", &request).await.map(Reply::Missing),
            Request::Commit(commit) => self.commit(commit).await,
            Request::Changeset { blocks, former, commit } => self.changeset(blocks, former, commit, files).await,
            Request::Shift { blocks, before, by } => self.shift(blocks, before, by, files).await,
            Request::Fetch { namespace, blocks, bases } => self.fetch("blocks", namespace, blocks, bases, files).await,
            Request::Prefetch { namespace, blocks } => {
                self.fetch("prefetch", namespace, blocks, Vec::new(), files).await
            }
            Request::Announce(request) => self.call("announce", &request).await.map(|()| Reply::Announced),
            Request::Coming(request) => self.call("coming", &request).await.map(Reply::Coming),
        }
    }

    /// Opens the stream of notifications.
    pub(crate) async fn open_events(&self) -> Result<Response, (TransportError, Option<Duration>)> {
        let Way::Http(http) = &self.way else {
            return Err((TransportError::Unreachable("only HTTP has a stream".into()), None));
        };
        let request = http.authorized(http.listener.get(http.url("events")));
        let request = request.header(reqwest::header::ACCEPT, EVENT_STREAM);
        // One that was asked for and not opened says what one that breaks says: calls that went the same way may wait for
        // the same.
        let opened = tokio::time::timeout(STREAM_OPENS, request.send()).await.map_err(|_| {
            self.stream_broke();
            (TransportError::Unreachable("the notification stream was not opened in time".into()), None)
        })?;
        let response = opened.map_err(|error| {
            if !error.is_connect() {
                self.stream_broke();
            }
            (connection_error(&error), None)
        })?;
        let progress = self.progress();
        if response.status().is_success() && has_type(response.headers(), EVENT_STREAM) {
            return Ok(response);
        }
        let wait = retry_after(response.headers());
        match progress.watch(self.message::<()>(response, &progress)).await {
            Err(error) => Err((error, wait)),
            Ok(()) => Err((TransportError::NotSyncline("it sent no event stream".into()), wait)),
        }
    }

    /// The notification stream has broken: calls that wait on the same way may wait in vain.
    pub(crate) fn stream_broke(&self) {
        self.stream.broke();
    }

    /// The notification stream has brought something, a sign of life at least.
    pub(crate) fn stream_lives(&self) {
        self.along.release(UNUSED);
        self.link.release(UNUSED);
    }

    fn progress(&self) -> Progress {
        Progress::start(Arc::clone(&self.stream))
    }

    async fn post(&self, name: &str, body: Body) -> Result<Response, TransportError> {
        match &self.way {
            Way::Http(http) => http.post(name, body, self.thrift().quiet).await,
            Way::Carried(carrier) => carrier.post(name, body).await,
        }
    }

    /// Reads a whole reply: the message, or the server's error.
    async fn message<A: DeserializeOwned>(&self, response: Response, progress: &Progress) -> Result<A, TransportError> {
        let response = self.accept(response, progress).await?;
        let body = self.whole_body(response, progress).await?;
        api::decode(&body).map_err(|error| TransportError::NotSyncline(error.to_string()))
    }

    /// Passes on a reply that is a success of ours; anything else becomes its error.
    async fn accept(&self, response: Response, progress: &Progress) -> Result<Response, TransportError> {
        if !has_type(response.headers(), api::CONTENT_TYPE) {
            return Err(TransportError::NotSyncline(describe_foreign(&response)));
        }
        if response.status().is_success() {
            return Ok(response);
        }
        let advice = retry_after(response.headers());
        let body = self.whole_body(response, progress).await?;
        let mut error: ApiError = api::decode(&body).map_err(|error| TransportError::NotSyncline(error.to_string()))?;
        let wait = error.retry_after().or(advice).map(|wait| wait.min(RETRY_AFTER_MAX));
        error.retry_after_ms = wait.and_then(|wait| u32::try_from(wait.as_millis()).ok());
        Err(TransportError::Refused(error))
    }

    async fn whole_body(&self, response: Response, progress: &Progress) -> Result<Vec<u8>, TransportError> {
        self.whole_body_in(Vec::new(), response, progress).await
    }

    /// The same in memory that was used before.
    async fn whole_body_in(
        &self,
        mut body: Vec<u8>,
        mut response: Response,
        progress: &Progress,
    ) -> Result<Vec<u8>, TransportError> {
        // What the server announces is only an announcement. Room that is not used takes no memory.
        let announced = response.content_length().map_or(UNANNOUNCED, |len| usize::try_from(len).unwrap_or(usize::MAX));
        body.reserve(announced.min(limits::MESSAGE_BYTES));
        while let Some(piece) = self.piece(&mut response, progress).await? {
            if body.len() + piece.len() > limits::MESSAGE_BYTES {
                return Err(TransportError::NotSyncline("its answer is too long".into()));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// The next bytes of a body, at the pace that the download limit allows.
    async fn piece(&self, response: &mut Response, progress: &Progress) -> Result<Option<Bytes>, TransportError> {
        let piece = response.chunk().await.map_err(|error| connection_error(&error))?;
        progress.touch();
        if let Some(piece) = &piece {
            let _waiting = progress.pause();
            self.bandwidth.download.take(piece.len()).await;
        }
        Ok(piece)
    }
}

impl Way {
    /// Does work that blocks: on a thread beside everything else, or in a simulation, where nothing is beside anything,
    /// at once.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TransportError> {
        match self {
            Self::Http(_) => {
                let done = tokio::task::spawn_blocking(work).await;
                done.map_err(|_| TransportError::Unreachable("the transfer was stopped".into()))
            }
            Self::Carried(_) => Ok(work()),
        }
    }
}

impl Http {
    fn url(&self, name: &str) -> String {
        format!("{}{}/{name}", self.server, api::PREFIX)
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token.to_bearer()),
            None => request,
        }
    }

    fn caller(&self, quiet: bool) -> Result<&Client, TransportError> {
        if quiet {
            return Ok(&self.client);
        }
        if let Some(client) = self.asking.get() {
            return Ok(client);
        }
        // Of two that are made at once, one is kept.
        let made = build(asking(ASK_AGAIN))?;
        Ok(self.asking.get_or_init(|| made))
    }

    async fn post(&self, name: &str, body: Body, quiet: bool) -> Result<Response, TransportError> {
        // No headers that say what is known anyhow: a small change costs little more than these.
        let request = self.authorized(self.caller(quiet)?.post(self.url(name)).body(body));
        request.send().await.map_err(|error| connection_error(&error))
    }
}

fn common() -> ClientBuilder {
    Client::builder()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_SIZE)
        .tcp_nodelay(true)
}

/// Connections that ask whether the other side is there when it has said nothing for `after`.
fn asking(after: Duration) -> ClientBuilder {
    common().tcp_keepalive(after).tcp_keepalive_interval(ASK_AGAIN).tcp_keepalive_retries(ASKED_AT_MOST)
}

fn build(builder: ClientBuilder) -> Result<Client, TransportError> {
    builder.build().map_err(|error| TransportError::Tls(innermost(&error)))
}

/// The content type of a stream of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

fn has_type(headers: &HeaderMap, wanted: &str) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(wanted)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// What answered, for a person who has to find out.
fn describe_foreign(response: &Response) -> String {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let what = match header(LOCATION) {
        Some(target) if response.status().is_redirection() => format!("it redirects to {target}"),
        _ => format!("it answered {} with {}", response.status(), header(CONTENT_TYPE).unwrap_or("no content type")),
    };
    what.chars().filter(|c| !c.is_control()).take(DESCRIPTION_CHARS).collect()
}

/// Tells TLS and foreign protocols from plain failures to connect. The layers below give the difference
/// only in words.
fn connection_error(error: &reqwest::Error) -> TransportError {
    let reason = innermost(error);
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if says(&["certificate", "received fatal alert", "received corrupt message", "peer is incompatible", "tls "]) {
        return TransportError::Tls(reason);
    }
    if says(&["invalid HTTP", "invalid content-length", "message head is too large"]) {
        return TransportError::NotSyncline(reason);
    }
    TransportError::Unreachable(reason)
}

/// The cause that says most: the last of the chain.
fn innermost(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".into();
    }
    let mut last: &dyn Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests;
