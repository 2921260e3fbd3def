//! Another service as this process calls it: instances that come and go, deadlines, second tries.

use crate::balancer::{Balancer, Ended};
use crate::request_id::{REQUEST_ID, RequestId};
use crate::secret::ServiceSecret;
use crate::tls::{BadTls, ServiceTls};
use crate::trace_context::{TRACE_PARENT, trace_parent};
use crate::wire::{self, Call, DEADLINE, Repeat, SERVICE_PREFIX};
use api::{ApiError, CONTENT_TYPE, ErrorCode, codec};
use bytes::Bytes;
use model::limits;
use reqwest::{Client, ClientBuilder, Response, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};

/// How often names are resolved again and every instance is asked whether it is there.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Times in a row that an instance may leave that question unanswered.
const SILENT_LOOKS: u32 = 2;
/// Instances of one service.
const INSTANCES: usize = 256;
/// How long making a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// Connections to one instance that are kept although nothing is asked.
const IDLE_CONNECTIONS: usize = 64;
/// Shorter than services keep idle connections, so that no call begins on one that just ends.
const IDLE_LIFE: Duration = Duration::from_secs(30);
/// Tries of one call.
const TRIES: u32 = 4;
/// The window of the pause before a second try; it doubles with each further one.
const PAUSE: Duration = Duration::from_millis(50);
/// The largest window.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A random number below the argument, which is not 0.
pub type Chance = fn(u64) -> u64;

/// What all calls to other services share.
#[derive(Debug, Clone)]
pub struct Links {
    client: Client,
    secret: Option<ServiceSecret>,
    tls: Option<ServiceTls>,
    chance: Chance,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The service answered with an error.
    #[error("{0}")]
    Refused(#[source] ApiError),
    #[error("no instance of the service is known")]
    NoInstance,
    #[error("cannot reach {address}")]
    Unreachable { address: String, source: reqwest::Error },
    #[error("the connection to {address} broke")]
    Broken { address: String, source: reqwest::Error },
    #[error("{address} did not answer within {patience:?}")]
    Silent { address: String, patience: Duration },
    #[error("{address} takes no calls of this process: its secret is another one, or it has seen no certificate")]
    Stranger { address: String },
    #[error("{address} answers with something else than a service's reply")]
    Foreign { address: String },
}

impl Links {
    /// Calls that carry this secret.
    #[must_use]
    pub fn new(secret: Option<ServiceSecret>, chance: Chance) -> Self {
        // Only a missing source of certificates lets this fail, and none is used.
        Self { client: plain().build().unwrap_or_default(), secret, tls: None, chance }
    }

    /// The same calls, encrypted.
    ///
    /// # Errors
    /// [`BadTls::Calls`].
    pub fn encrypted(self, tls: ServiceTls) -> Result<Self, BadTls> {
        let client = tls.prepare(plain()).build().map_err(|source| BadTls::Calls { source })?;
        Ok(Self { client, tls: Some(tls), ..self })
    }

    /// How calls reach the instance of a target (`host:port`) that has this address. Where they are encrypted they
    /// go by the name that the instance's certificate must have, which here stands for the one address.
    fn route(&self, target: &str, address: SocketAddr) -> Route {
        let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
        let pinned = match &self.tls {
            Some(tls) if host.trim_matches(['[', ']']).parse::<IpAddr>().is_err() => {
                tls.prepare(plain()).resolve(host, address).build().ok()
            }
            Some(_) | None => None,
        };
        match pinned {
            Some(client) => Route { links: Self { client, ..self.clone() }, authority: target.to_owned() },
            None => Route { links: self.clone(), authority: address.to_string() },
        }
    }

    /// A random moment within a window.
    #[must_use]
    pub fn within(&self, window: Duration) -> Duration {
        let micros = u64::try_from(window.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros((self.chance)(micros.saturating_add(1)))
    }

    /// One try of a call at one address.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call<Q: Serialize + Sync, R: DeserializeOwned>(
        &self,
        address: &str,
        call: Call,
        request: &Q,
    ) -> Result<R, CallError> {
        self.send(address, call, call.patience, codec::encode(request).into()).await
    }

    async fn send<R: DeserializeOwned>(
        &self,
        address: &str,
        call: Call,
        patience: Duration,
        body: Bytes,
    ) -> Result<R, CallError> {
        let exchange = async {
            let response = self.post(address, call, patience, body).await?;
            read(address, response).await
        };
        let silent = |_| CallError::Silent { address: address.to_owned(), patience };
        timeout(patience, exchange).await.map_err(silent)?
    }

    /// Sends a call and returns when the answer begins.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn post(
        &self,
        address: &str,
        call: Call,
        patience: Duration,
        body: Bytes,
    ) -> Result<Response, CallError> {
        let millis = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let id = RequestId::current().unwrap_or_else(|| RequestId::from_bits((self.chance)(u64::MAX)));
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut request = self
            .client
            .post(format!("{scheme}://{address}{SERVICE_PREFIX}/{}", call.name))
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .header(DEADLINE, millis)
            .header(REQUEST_ID, id.as_str());
        if let Some(parent) = trace_parent() {
            request = request.header(TRACE_PARENT, parent);
        }
        if let Some(secret) = &self.secret {
            request = request.header(header::AUTHORIZATION, secret.header());
        }
        let address = address.to_owned();
        request.body(body).send().await.map_err(|source| match source.is_connect() {
            true => CallError::Unreachable { address, source },
            false => CallError::Broken { address, source },
        })
    }
}

/// What all connections to other services have in common.
fn plain() -> ClientBuilder {
    Client::builder()
        .connect_timeout(CONNECT_PATIENCE)
        .pool_idle_timeout(IDLE_LIFE)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
}

/// The message in an answer of a service.
async fn read<R: DeserializeOwned>(address: &str, mut response: Response) -> Result<R, CallError> {
    let foreign = || CallError::Foreign { address: address.to_owned() };
    let content_type = response.headers().get(header::CONTENT_TYPE);
    if content_type.is_none_or(|value| value.as_bytes() != CONTENT_TYPE.as_bytes()) {
        return Err(match response.status() {
            StatusCode::UNAUTHORIZED => CallError::Stranger { address: address.to_owned() },
            _ => foreign(),
        });
    }
    let success = response.status().is_success();
    let mut bytes = Vec::new();
    let broken = |source| CallError::Broken { address: address.to_owned(), source };
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if bytes.len() + chunk.len() > limits::MESSAGE_BYTES {
            return Err(foreign());
        }
        bytes.extend_from_slice(&chunk);
    }
    match success {
        true => codec::decode(&bytes).map_err(|_| foreign()),
        false => Err(CallError::Refused(codec::decode(&bytes).map_err(|_| foreign())?)),
    }
}

/// A service with one instance or many, behind names or addresses.
#[derive(Debug)]
pub struct Upstream {
    links: Links,
    /// `host:port` each; a name may stand for many addresses, and for others tomorrow.
    targets: Vec<String>,
    balancer: Mutex<Balancer>,
    /// How the instances are called: one for each that the balancer has.
    routes: Mutex<BTreeMap<SocketAddr, Route>>,
    begun: Instant,
    /// How often each instance has been found dead, so that calls which wait for it stop waiting.
    deaths: watch::Sender<BTreeMap<SocketAddr, u64>>,
}

/// The way to one instance.
#[derive(Debug, Clone)]
struct Route {
    links: Links,
    /// The host and port of its URL.
    authority: String,
}

impl Upstream {
    /// The service behind these targets, none of which has been resolved yet ([`Upstream::look_after`]).
    #[must_use]
    pub fn new(links: Links, targets: Vec<String>) -> Arc<Self> {
        let (deaths, _) = watch::channel(BTreeMap::new());
        let (balancer, routes, begun) = (Mutex::default(), Mutex::default(), Instant::now());
        Arc::new(Self { links, targets, balancer, routes, begun, deaths })
    }

    /// Whether an instance is known that works as far as anybody has heard.
    #[must_use]
    pub fn any_works(&self) -> bool {
        self.balancer().any_works()
    }

    /// Calls an instance, and another one if that is no use and no harm. A call that ends without an
    /// answer is an `Unavailable` for the caller.
    ///
    /// # Errors
    /// What the service answers; `Unavailable`.
    pub async fn call<Q: Serialize + Sync, R: DeserializeOwned>(&self, call: Call, request: &Q) -> Result<R, ApiError> {
        let body = Bytes::from(codec::encode(request));
        let until = Instant::now() + call.deadline;
        let mut avoid = None;
        let mut tries = 1;
        loop {
            let error = match self.one_try(call, until, body.clone(), &mut avoid).await {
                Ok(reply) => return Ok(reply),
                Err(CallError::Refused(error)) => return Err(error),
                Err(error) => error,
            };
            let pause = self.links.within((PAUSE * (1 << (tries - 1))).min(LONGEST_PAUSE));
            if tries == TRIES || !may_repeat(call, &error) || Instant::now() + pause >= until {
                tracing::warn!(call = call.name, tries, error = &error as &dyn Error, "a service is silent");
                return Err(ApiError::new(ErrorCode::Unavailable, "a part of the server cannot be reached"));
            }
            tracing::debug!(call = call.name, tries, error = &error as &dyn Error, "calling again");
            tries += 1;
            sleep(pause).await;
        }
    }

    async fn one_try<R: DeserializeOwned>(
        &self,
        call: Call,
        until: Instant,
        body: Bytes,
        avoid: &mut Option<SocketAddr>,
    ) -> Result<R, CallError> {
        let address = self.begin(*avoid).await?;
        *avoid = Some(address);
        let mut turn = Turn { upstream: self, address, ended: Ended::GivenUp };
        let patience = call.patience.min(until.saturating_duration_since(Instant::now()));
        let Route { links, authority } = self.route(address);
        let mut deaths = self.deaths.subscribe();
        let before = deaths.borrow_and_update().get(&address).copied();
        let died = deaths.wait_for(|deaths| deaths.get(&address).copied() > before);
        let result = tokio::select! {
            result = links.send(&authority, call, patience, body) => result,
            // Whoever looks after the instances has found it dead; it would be silent for much longer.
            _ = died => Err(CallError::Silent { address: authority.clone(), patience: SILENT_LOOKS * wire::ALIVE.patience }),
        };
        turn.ended = match &result {
            Ok(_) | Err(CallError::Refused(_)) => Ended::Answered,
            Err(_) => Ended::Failed,
        };
        result
    }

    /// An instance for the next try. At a process's start none may be known yet.
    async fn begin(&self, avoid: Option<SocketAddr>) -> Result<SocketAddr, CallError> {
        let next = |upstream: &Self| upstream.balancer().begin(avoid);
        if let Some(address) = next(self) {
            return Ok(address);
        }
        self.resolve().await;
        next(self).ok_or(CallError::NoInstance)
    }

    /// Keeps the set of instances as the names say, and finds out which of them run. Never ends.
    pub async fn look_after(self: Arc<Self>) {
        let mut turns = interval(LOOK_INTERVAL);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut silent = BTreeMap::<SocketAddr, u32>::new();
        loop {
            turns.tick().await;
            self.resolve().await;
            let addresses = self.balancer().addresses();
            silent.retain(|address, _| addresses.contains(address));
            self.deaths.send_if_modified(|deaths| {
                deaths.retain(|address, _| addresses.contains(address));
                false
            });
            let mut looks = tokio::task::JoinSet::new();
            for address in addresses {
                let Route { links, authority } = self.route(address);
                looks.spawn(async move { (address, links.call::<(), ()>(&authority, wire::ALIVE, &()).await) });
            }
            while let Some(look) = looks.join_next().await {
                if let Ok((address, found)) = look {
                    self.note(address, found, silent.entry(address).or_default());
                }
            }
        }
    }

    fn note(&self, address: SocketAddr, found: Result<(), CallError>, silent: &mut u32) {
        let was_out = self.balancer().is_out(address);
        match found {
            // An instance that says that it stops, or takes no connections any more, is left out, but what it has begun it
            // ends.
            Err(error) if says_no(&error) => {
                self.balancer().report(address, Ended::Failed, self.now());
                *silent = 0;
            }
            Ok(()) => {
                self.balancer().report(address, Ended::Answered, self.now());
                *silent = 0;
            }
            // Also when there is no connection to ask on. To a host that has vanished none can be made, and who waits on one
            // that there was hears nothing of that.
            Err(_) => {
                *silent += 1;
                if *silent >= SILENT_LOOKS {
                    self.balancer().report(address, Ended::Failed, self.now());
                }
                // Once: what goes there after that knows what it does.
                if *silent == SILENT_LOOKS {
                    self.deaths.send_modify(|deaths| *deaths.entry(address).or_default() += 1);
                }
            }
        }
        match (was_out, self.balancer().is_out(address)) {
            (false, true) => tracing::warn!(%address, "an instance of another service is out"),
            (true, false) => tracing::info!(%address, "an instance of another service is back"),
            (true, true) | (false, false) => {}
        }
    }

    /// Names that cannot be resolved now keep nothing alive, unless none can.
    async fn resolve(&self) {
        let mut found = BTreeMap::new();
        for target in &self.targets {
            let until = Instant::now() + CONNECT_PATIENCE;
            match timeout_at(until, lookup_host(target.as_str())).await {
                // Of two names for one instance the first counts.
                Ok(Ok(addresses)) => addresses.for_each(|address| {
                    found.entry(address).or_insert(target.as_str());
                }),
                Ok(Err(error)) => tracing::debug!(target, %error, "a name cannot be resolved"),
                Err(_) => tracing::debug!(target, "a name is not resolved in time"),
            }
        }
        if found.is_empty() {
            return;
        }
        let found: BTreeMap<_, _> = found.into_iter().take(INSTANCES).collect();
        self.balancer().update(&found.keys().copied().collect());
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|address, _| found.contains_key(address));
        for (address, target) in found {
            routes.entry(address).or_insert_with(|| self.links.route(target, address));
        }
    }

    fn route(&self, address: SocketAddr) -> Route {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let plain = || Route { links: self.links.clone(), authority: address.to_string() };
        routes.get(&address).cloned().unwrap_or_else(plain)
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn balancer(&self) -> MutexGuard<'_, Balancer> {
        self.balancer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in flight; also one that is dropped in the middle ends.
struct Turn<'a> {
    upstream: &'a Upstream,
    address: SocketAddr,
    ended: Ended,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let now = self.upstream.now();
        self.upstream.balancer().end(self.address, self.ended, now);
    }
}

/// Whether somebody is there and says no.
fn says_no(error: &CallError) -> bool {
    match error {
        CallError::Refused(_) => true,
        CallError::Unreachable { source, .. } => {
            let mut cause: Option<&dyn Error> = Some(source);
            while let Some(error) = cause {
                if error
                    .downcast_ref::<io::Error>()
                    .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
                {
                    return true;
                }
                cause = error.source();
            }
            false
        }
        CallError::NoInstance
        | CallError::Broken { .. }
        | CallError::Silent { .. }
        | CallError::Stranger { .. }
        | CallError::Foreign { .. } => false,
    }
}

/// Whether the call can be sent again after this.
fn may_repeat(call: Call, error: &CallError) -> bool {
    match error {
        CallError::NoInstance | CallError::Unreachable { .. } => true,
        CallError::Broken { .. }
        | CallError::Silent { .. }
        | CallError::Stranger { .. }
        | CallError::Foreign { .. } => call.repeat == Repeat::Harmless,
        CallError::Refused(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpSocket, TcpStream};

    async fn asked(address: SocketAddr) -> CallError {
        let patient = Call { patience: 5 * CONNECT_PATIENCE, ..wire::ALIVE };
        let answer: Result<(), CallError> = Links::new(None, |_| 0).call(&address.to_string(), patient, &()).await;
        answer.expect_err("nobody answers")
    }

    #[tokio::test]
    async fn a_host_to_which_no_connection_can_be_made_is_silent_and_one_that_refuses_it_is_not() {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("bound");
        let listener = socket.listen(1).expect("listens");
        let address = listener.local_addr().expect("an address");
        // Nobody accepts: when the queue is full, what else comes is dropped without a word.
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) = timeout(CONNECT_PATIENCE / 4, TcpStream::connect(address)).await {
            waiting.push(stream);
        }
        let vanished = asked(address).await;
        assert!(matches!(vanished, CallError::Unreachable { .. }), "{vanished:?}");
        assert!(!says_no(&vanished), "{vanished:?}");
        drop((waiting, listener));
        let refused = asked(address).await;
        assert!(says_no(&refused), "{refused:?}");
    }
}
