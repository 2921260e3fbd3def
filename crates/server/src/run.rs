//! Wiring the services, and the server's life from start to stop.

use crate::connections;
use crate::data_dir::DataDir;
use crate::router::router;
use crate::world;
use crate::{Config, Metadata, Secret, ServerError};
use api::ApiError;
use api::service::Announce;
use block_service::BlockService;
use block_store::RecentBlocks;
use meta_service::MetaService;
use metadata_store::MetadataStore;
use metadata_store_mysql::{MysqlStore, Pauses};
use notification_service::{Events, Hub};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::TaskTracker;

/// Threads for work that blocks, mostly by waiting for a write that they share: twice the calls that
/// the meta service runs at once, so that those never keep uploads waiting for a thread.
const BLOCKING_THREADS: usize = 256;
/// Bytes of memory for blocks that were just uploaded: more than is under way between one device and the
/// next while a large file streams through.
const RECENT_BLOCK_BYTES: u64 = 64 * 1024 * 1024;
/// How often rows without meaning are removed from the metadata database.
const CLEAN_UP_INTERVAL: Duration = Duration::from_secs(3600);
/// How long uploads whose connections are gone may take to be stored when the server stops.
const TASK_DRAIN: Duration = Duration::from_secs(10);

/// The runtime that a server runs well on.
///
/// # Errors
/// [`ServerError::Runtime`].
pub fn runtime() -> Result<Runtime, ServerError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().thread_name("syncline").max_blocking_threads(BLOCKING_THREADS);
    builder.build().map_err(|source| ServerError::Runtime { source })
}

/// The meta service of a configuration, for administration. Works beside a running server, whose
/// clients then hear of changes by their next poll.
///
/// # Errors
/// [`ServerError`].
pub fn open(config: &Config) -> Result<MetaService, ServerError> {
    let data_dir = DataDir::prepare(&config.data_dir)?;
    open_meta(&data_dir, &config.metadata, Hub::new())
}

/// Runs a server until `shutdown` completes. Tells `ready` on which address it listens, once it does.
///
/// # Errors
/// [`ServerError`]; only before `ready` is called.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServerError> {
    let data_dir = DataDir::prepare(&config.data_dir)?;
    let lock = data_dir.lock()?;
    let listener = connections::listen(config.listen)?;
    let address = listener.local_addr().map_err(|source| ServerError::Listen { address: config.listen, source })?;
    let (hub, tasks) = (Hub::new(), TaskTracker::new());
    // Nothing else runs yet that opening could hold up.
    let services = Services::open(&data_dir, &config, &hub)?;
    ready(address);
    tracing::info!(%address, data = %config.data_dir.display(), "the server is running");
    let router = services.router(&hub, &tasks);
    let clean_up = clean_up_regularly(services.meta.clone());
    let serving = connections::serve(listener, router, shutdown, || hub.shut_down());
    tokio::select! {
        () = serving => {}
        () = clean_up => {}
    }
    tasks.close();
    if timeout(TASK_DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "uploads were not stored in time");
    }
    drop((services, lock));
    tracing::info!("the server has stopped");
    Ok(())
}

/// The services of one process.
struct Services {
    meta: Arc<MetaService>,
    blocks: Arc<BlockService>,
}

impl Services {
    fn open(data_dir: &DataDir, config: &Config, hub: &Arc<Hub>) -> Result<Self, ServerError> {
        let metadata = &config.metadata;
        let meta = Arc::new(open_meta(data_dir, metadata, hub.clone())?);
        let instance = meta.server().map_err(|error| unusable(data_dir, metadata, error))?.instance;
        let store = Arc::new(RecentBlocks::new(data_dir.blocks(instance)?, RECENT_BLOCK_BYTES));
        let blocks = Arc::new(BlockService::new(store, meta.clone()).with_thrift(config.thrift));
        Ok(Self { meta, blocks })
    }

    fn router(&self, hub: &Arc<Hub>, tasks: &TaskTracker) -> axum::Router {
        let events = Events::new(hub.clone(), self.meta.clone());
        router(
            self.meta.clone(),
            [
                meta_service::routes(self.meta.clone()),
                block_service::routes(self.blocks.clone(), tasks.clone()),
                notification_service::routes(events),
            ],
        )
    }
}

fn open_meta(data_dir: &DataDir, metadata: &Metadata, announce: Arc<dyn Announce>) -> Result<MetaService, ServerError> {
    let store: Arc<dyn MetadataStore> = match metadata {
        Metadata::InDataDir => Arc::new(data_dir.metadata()?),
        Metadata::Mysql { options, password } => {
            let pauses = Pauses::new(std::thread::sleep, world::below);
            let opened = MysqlStore::open(options, password.as_ref().map(Secret::expose), pauses);
            Arc::new(opened.map_err(|source| ServerError::Database { source })?)
        }
    };
    MetaService::new(store, announce, world::environment()).map_err(|error| unusable(data_dir, metadata, error))
}

fn unusable(data_dir: &DataDir, metadata: &Metadata, error: ApiError) -> ServerError {
    let place = match metadata {
        Metadata::InDataDir => data_dir.metadata_path().display().to_string(),
        Metadata::Mysql { options, .. } => format!("at {}", options.place()),
    };
    ServerError::Metadata { place, source: error.into() }
}

/// Never ends. A failure is tried again at the next turn.
async fn clean_up_regularly(meta: Arc<MetaService>) {
    let mut turns = interval(CLEAN_UP_INTERVAL);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let meta = meta.clone();
        match tokio::task::spawn_blocking(move || meta.clean_up()).await {
            Ok(Ok(rows)) => tracing::debug!(rows, "rows without meaning were removed"),
            Ok(Err(error)) => tracing::warn!(%error, "rows without meaning could not be removed"),
            Err(panic) => tracing::error!(%panic, "the clean-up failed"),
        }
    }
}
