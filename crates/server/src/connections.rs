//! Accepting connections and serving them until the server stops.

use crate::ServerError;
use crate::metrics::{Metrics, Side};
use crate::stall_guard::StallGuard;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use notification_service::Edge;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

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
        Self { purpose, count, http, room, graceful: GracefulShutdown::new(), tasks: JoinSet::new() }
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
                    serve_calls(stream, peer, &http, router, watcher).await;
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

async fn serve_calls(stream: TcpStream, peer: SocketAddr, http: &http1::Builder, router: Router, watcher: Watcher) {
    let stream = TokioIo::new(StallGuard::new(stream, WRITE_STALL));
    let connection = http.serve_connection(stream, TowerToHyperService::new(router));
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
