//! The daemon: one loop owns the engine and the database; everything else reports to it.
//!
//! ```text
//!  watcher ──┐                     ┌── workers   (threads: scans, hashes, changes on disk)
//!  events  ──┼─► Owner ── actions ─┤
//!  poll    ──┘   engine, database  └── network   (tasks: calls to the server)
//!                  ▲
//!  control ────────┘ asks
//! ```
//!
//! Stopping: the loop ends first and closes the database, then tasks are cancelled and drained. Work
//! that is cut off by that is derived again at the next start.

mod asks;
mod network;
mod owner;
mod proxy;
mod workers;

pub(crate) use asks::{Ask, Asks};
pub(crate) use proxy::Proxy;

use crate::bandwidth::Bandwidth;
use crate::clock::{Chance, Clock, NoRandomness};
use crate::control::server as control_server;
use crate::database::{Database, DatabaseError};
use crate::home::{Config, Home, HomeError, HomeLock};
use crate::transport::{BadServerUrl, Transport, TransportError};
use crossbeam_channel::{Sender, bounded};
use local_files::disk::Disk;
use local_files::hashed::HashedFiles;
use local_files::watcher::Watcher;
use network::Network;
use owner::{Owner, OwnerParts};
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use sync_engine::Engine;
use sync_engine::io::Event;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use workers::Workers;

/// Events that wait for the loop; a producer that finds it full waits.
const EVENT_QUEUE: usize = 1024;
/// Asks that wait for the loop; beyond it a command is told to come back.
const ASK_QUEUE: usize = 256;
/// How long cancelled tasks may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Why a daemon could not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("the configuration names no server that can be called")]
    Server(#[from] BadServerUrl),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    #[error("cannot open the control socket {path}")]
    Socket { path: PathBuf, source: io::Error },
    #[error("cannot watch the synced folder")]
    Watcher(#[source] io::Error),
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// A mistake in this program. Nothing is done any more, so that it can do no harm.
    #[error("this is a mistake in syncline: {0}")]
    Bug(String),
}

impl DaemonError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Home(error) => error.hint(),
            Self::Database(error) => error.hint(),
            Self::Transport(error) => error.hint(),
            Self::Server(error) => Some(error.hint()),
            Self::Bug(_) => Some("please report it, with the end of daemon.log; starting again is safe".into()),
            Self::Randomness(_) | Self::Socket { .. } | Self::Watcher(_) | Self::Thread(_) => None,
        }
    }

    /// Whether it was stopped for safety, until a person decides.
    #[must_use]
    pub const fn is_for_safety(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_unsafe_to_continue())
    }
}

/// A running daemon.
pub struct Daemon {
    home: Home,
    asks: Asks,
    ended: oneshot::Receiver<Result<(), DaemonError>>,
    cancelled: CancellationToken,
    tasks: TaskTracker,
    // The watcher ends when it is dropped.
    _watcher: Watcher,
    _lock: HomeLock,
}

impl Daemon {
    /// Starts a home's daemon on the current tokio runtime. Reads the database before it returns.
    ///
    /// # Errors
    /// [`DaemonError`]; then nothing was changed.
    pub async fn start(home: Home) -> Result<Self, DaemonError> {
        let config = home.load_config()?;
        let lock = home.lock()?;
        let bandwidth = Arc::new(Bandwidth::new(config.bandwidth));
        let transport = Transport::new(config.server.parse()?, Some(home.load_token()?), Arc::clone(&bandwidth))?;
        let transport = transport.with_thrift(config.thrift).with_root(config.namespace);
        let (database, mut engine) = open_database(&home, &config).await?;
        engine.tune(config.thrift.tuning());

        let (event_sender, events) = bounded(EVENT_QUEUE);
        let (ask_sender, ask_queue) = bounded(ASK_QUEUE);
        let asks = Asks::new(ask_sender);
        let (cancelled, tasks) = (CancellationToken::new(), TaskTracker::new());
        let disk = Arc::new(Disk::open(&config.folder, config.root_id));

        // The socket first: whoever sees it may count on an answer, and nothing runs yet if it fails.
        let proxy = Proxy::new(asks.clone(), transport.clone());
        let server = control_server::listen(&home, proxy, cancelled.clone(), tasks.clone())?;
        let hashed = Arc::new(HashedFiles::default());
        let network = Network::new(
            transport.clone(),
            Arc::clone(&disk),
            Arc::clone(&hashed),
            event_sender.clone(),
            tasks.clone(),
            cancelled.clone(),
        );
        network.set_thrift(config.thrift);
        let watcher = start_watcher(Arc::clone(&disk), event_sender.clone()).await?;
        let workers = Workers::start(&disk, &hashed, &watcher, config.thrift.reuse, &event_sender)
            .map_err(DaemonError::Thread)?;
        let parts = OwnerParts {
            engine,
            database,
            config,
            home: home.clone(),
            bandwidth,
            workers,
            network,
            clock: Clock::start(),
            chance: Chance::from_system()?,
            events,
            asks: ask_queue,
        };
        let (end_sender, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("syncline-owner".into());
        let owner = Owner::new(parts);
        thread
            .spawn(move || {
                let result = owner.run();
                // Nobody waits any more when the whole program is ending.
                drop(end_sender.send(result));
            })
            .map_err(DaemonError::Thread)?;

        tasks.spawn(server);
        tasks.spawn(network::follow_events(transport, Chance::from_system()?, event_sender.clone(), cancelled.clone()));
        tasks.spawn(network::poll(Chance::from_system()?, event_sender, cancelled.clone()));
        tracing::info!(home = %home.path().display(), "the daemon is running");
        Ok(Self { home, asks, ended, cancelled, tasks, _watcher: watcher, _lock: lock })
    }

    /// Runs until `shutdown` completes, someone asks for the end, or the daemon cannot go on.
    ///
    /// # Errors
    /// [`DaemonError`] in the last case.
    pub async fn run_until(mut self, shutdown: impl Future<Output = ()>) -> Result<(), DaemonError> {
        let early = tokio::select! {
            result = &mut self.ended => Some(result),
            () = shutdown => None,
        };
        let result = match early {
            Some(result) => result,
            None => {
                self.asks.stop().await;
                (&mut self.ended).await
            }
        };
        self.cancelled.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "some tasks did not end in time");
        }
        remove_socket(&self.home);
        tracing::info!("the daemon has stopped");
        result.unwrap_or_else(|_| Err(DaemonError::Bug("the engine's loop ended unexpectedly".into())))
    }
}

async fn open_database(home: &Home, config: &Config) -> Result<(Database, Engine), DaemonError> {
    let (path, device, name) = (home.database(), config.device, config.device_name.clone());
    let opened = tokio::task::spawn_blocking(move || {
        Ok(Database::open(&path, device, |state, rows| Engine::new(state, rows, name))?)
    });
    opened.await.unwrap_or_else(|_| Err(DaemonError::Bug("loading the database failed".into())))
}

/// Before the engine's first scan: what changes after it must be seen.
async fn start_watcher(disk: Arc<Disk>, events: Sender<Input>) -> Result<Watcher, DaemonError> {
    let started = tokio::task::spawn_blocking(move || workers::watch(&disk, &events));
    let started = started.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    started.map_err(DaemonError::Watcher)
}

fn remove_socket(home: &Home) {
    match std::fs::remove_file(home.socket()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "cannot remove the control socket");
        }
        _ => {}
    }
}

/// Hands an event to the loop, from a task: waits without holding up the runtime when the queue is full.
async fn report(events: &Sender<Input>, input: Input) {
    let Err(crossbeam_channel::TrySendError::Full(input)) = events.try_send(input) else { return };
    let events = events.clone();
    // The loop has ended when this fails; then nobody wants the event.
    drop(tokio::task::spawn_blocking(move || events.send(input)).await);
}

/// What reaches the loop from the outside.
#[derive(Debug)]
enum Input {
    Event(Event),
    /// Something that a person should know, and that does not stop anything.
    Warning(String),
    /// A worker found a mistake of this program.
    Bug(String),
}
