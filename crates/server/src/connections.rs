//! Accepting connections and serving them until the server stops.

use crate::ServerError;
use crate::metrics::{Metrics, Side};
use crate::stall_guard::StallGuard;
use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use notification_service::Edge;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use service_calls::{Caller, ServiceTls};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::server::TlsStream;

/// Connections that wait to be accepted; each that finds no room costs its client a second.
const BACKLOG: u32 = 4096;
/// Connections at once, if the limit on open files allows as many.
const CONNECTIONS: u64 = 100_000;
/// Open files that are kept for databases and packs.
const FILES_KEPT: u64 = 1024;
/// The pause after a connection that could not be accepted, for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a client may take for a request's head, idle time before it included: longer than
/// clients keep idle connections, so that they and not the server close them.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a peer may take nothing, or acknowledge nothing, before its connection ends.
const WRITE_STALL: Duration = Duration::from_secs(60);
/// How long a caller may take for the handshake of TLS; less than [`DRAIN`], so that one who says nothing holds up
/// no stop.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often the log tells that handshakes failed: a caller that is refused comes again and again.
const REFUSALS_TOLD: Duration = Duration::from_secs(10);
/// The first byte of whoever speaks TLS.
const TLS_HANDSHAKE: u8 = 22;
/// What others are told.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
    this address takes encrypted calls only\n";
/// What is read of a request that is not answered: to close with something unread would take the answer away.
const UNANSWERED_BYTES: usize = 4096;
/// How long requests may take to end when the server stops.
const DRAIN: Duration = Duration::from_secs(10);

/// A bound socket. Its address can be taken again at once after a restart.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ServerError::AddressInUse { address },
        _ => ServerError::Listen { address, source },
    })
}

/// What connections are for.
#[derive(Clone)]
pub(crate) enum Purpose {
    /// HTTP calls.
    Calls(Router),
    /// HTTP calls over TLS. A request tells its [`Caller`].
    EncryptedCalls(Router, ServiceTls),
    /// Nothing but notification streams, very many of them.
    Streams(Arc<Edge>),
}

/// Serves connections until `shutdown`; then calls `farewell`, accepts no more, and lets those that are
/// there end within [`DRAIN`].
pub(crate) async fn serve(
    listener: TcpListener,
    purpose: Purpose,
    count: (Side, Arc<Metrics>),
    shutdown: impl Future<Output = ()>,
    farewell: impl FnOnce(),
) {
    let mut connections = Connections::new(purpose, count);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = connections.accept(&listener) => {}
        }
    }
    drop(listener);
    farewell();
    connections.drain().await;
}

struct Connections {
    purpose: Purpose,
    count: (Side, Arc<Metrics>),
    http: http1::Builder,
    room: Arc<Semaphore>,
    graceful: GracefulShutdown,
    refusals: Arc<Refusals>,
    /// The connections' tasks, which end with this.
    tasks: JoinSet<()>,
}

impl Connections {
    fn new(purpose: Purpose, count: (Side, Arc<Metrics>)) -> Self {
        let mut http = http1::Builder::new();
        // Nobody reads the date, and it is a tenth of a small answer.
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).auto_date_header(false);
        let room = usize::try_from(connection_limit()).unwrap_or(Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(room));
        let (graceful, refusals, tasks) = (GracefulShutdown::new(), Arc::default(), JoinSet::new());
        Self { purpose, count, http, room, graceful, refusals, tasks }
    }

    /// Waits for a connection and begins to serve it.
    async fn accept(&mut self, listener: &TcpListener) {
        while self.tasks.try_join_next().is_some() {}
        // The semaphore is never closed.
        let Ok(room) = self.room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => self.begin(stream, peer, room),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, peer: SocketAddr, room: OwnedSemaphorePermit) {
        if let Err(error) = tune(&stream) {
            tracing::debug!(%peer, %error, "a connection's options could not be set");
        }
        let (side, metrics) = &self.count;
        let counted = metrics.connection(*side);
        match self.purpose.clone() {
            Purpose::Calls(router) => {
                let (http, watcher) = (self.http.clone(), self.graceful.watcher());
                self.tasks.spawn(async move {
                    serve_calls(guarded(stream), peer, Caller::Unknown, &http, router, watcher).await;
                    drop((room, counted));
                });
            }
            Purpose::EncryptedCalls(router, tls) => {
                let (http, watcher, refusals) = (self.http.clone(), self.graceful.watcher(), self.refusals.clone());
                self.tasks.spawn(async move {
                    match timeout(HANDSHAKE, shake_hands(stream, &tls)).await {
                        Ok(Ok(Some((stream, caller)))) => {
                            serve_calls(stream, peer, caller, &http, router, watcher).await;
                        }
                        Ok(Ok(None)) => {}
                        Ok(Err(error)) => refusals.tell(peer, &error),
                        Err(_) => tracing::debug!(%peer, "a caller did not end its handshake"),
                    }
                    drop((room, counted));
                });
            }
            Purpose::Streams(edge) => {
                self.tasks.spawn(async move {
                    notification_service::serve_connection(edge, stream).await;
                    drop((room, counted));
                });
            }
        }
    }

    /// Lets requests end; what has not ended in time is cut off.
    async fn drain(self) {
        let Self { graceful, mut tasks, .. } = self;
        let ended = async {
            graceful.shutdown().await;
            while tasks.join_next().await.is_some() {}
        };
        if timeout(DRAIN, ended).await.is_err() {
            tracing::warn!(connections = tasks.len(), "connections did not end in time and are cut off");
        }
        tasks.shutdown().await;
    }
}

/// The encrypted connection with a caller; `None` if it has hung up, or has been told that it must speak TLS.
async fn shake_hands(
    mut stream: TcpStream,
    tls: &ServiceTls,
) -> io::Result<Option<(TlsStream<StallGuard<TcpStream>>, Caller)>> {
    let mut first = [0];
    match (stream.peek(&mut first).await?, first) {
        (0, _) => Ok(None),
        (_, [TLS_HANDSHAKE]) => tls.accept(guarded(stream)).await.map(Some),
        (_, _) => {
            let _as_much_as_there_is = stream.read(&mut [0; UNANSWERED_BYTES]).await?;
            stream.write_all(SPEAK_TLS).await?;
            stream.shutdown().await?;
            Err(io::Error::new(io::ErrorKind::InvalidData, "the caller does not speak TLS"))
        }
    }
}

const fn guarded(stream: TcpStream) -> StallGuard<TcpStream> {
    StallGuard::new(stream, WRITE_STALL)
}

/// Callers whose handshake failed, which the log tells now and then.
#[derive(Default)]
struct Refusals {
    state: Mutex<RefusalsState>,
}

#[derive(Default)]
struct RefusalsState {
    told: Option<Instant>,
    untold: u64,
}

impl Refusals {
    fn tell(&self, peer: SocketAddr, error: &io::Error) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.told.is_some_and(|told| now.duration_since(told) < REFUSALS_TOLD) {
            state.untold += 1;
            return;
        }
        let more = std::mem::take(&mut state.untold);
        state.told = Some(now);
        drop(state);
        tracing::warn!(%peer, more, %error, "a caller is refused");
    }
}

async fn serve_calls<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: SocketAddr,
    caller: Caller,
    http: &http1::Builder,
    router: Router,
    watcher: Watcher,
) {
    let router = TowerToHyperService::new(router);
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller);
        router.call(request)
    });
    let connection = http.serve_connection(TokioIo::new(stream), answer);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%peer, %error, "a connection ended with an error");
    }
}

/// Small answers go out at once; a peer that has vanished is noticed although nothing is awaited
/// from it.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let millis = u32::try_from(WRITE_STALL.as_millis()).unwrap_or(u32::MAX);
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, millis)?)
}

/// As many connections as files can be open, after asking for as many files as this process may have.
fn connection_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let files = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit on open files could not be raised");
            limit.current
        }
    };
    // Where very few files are allowed, half of them still serve connections.
    let files = files.unwrap_or(u64::MAX);
    files.saturating_sub(FILES_KEPT).max(files / 2).min(CONNECTIONS)
}
