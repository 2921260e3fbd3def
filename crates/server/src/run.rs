//! Wiring the services, and the server's life from start to stop.

use crate::connections;
use crate::data_dir::DataDir;
use crate::router::router;
use crate::world;
use crate::{Blocks, Config, Metadata, Secret, ServerError};
use api::ApiError;
use api::service::{Announce, CleanUpMode};
use block_service::{BlockService, CleanUp, CleanUpReport};
use block_store::{BlockStore, RecentBlocks, StoreError};
use block_store_s3::S3BlockStore;
use meta_service::MetaService;
use metadata_store::MetadataStore;
use metadata_store_mysql::{MysqlStore, Pauses};
use model::InstanceId;
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
/// How often blocks are cleaned up. A block goes a day or two after its last use anyway, and each run lists all
/// of them.
const BLOCKS_CLEAN_UP_INTERVAL: Duration = Duration::from_secs(6 * 3600);
/// When they are for the first time, and again after a run that failed: what that one had begun to remove is
/// taken up then.
const BLOCKS_CLEAN_UP_SOON: Duration = Duration::from_secs(20 * 60);
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
    let blocks_clean_up = clean_up_blocks_regularly(services.clean_up.clone());
    let serving = connections::serve(listener, router, shutdown, || hub.shut_down());
    tokio::select! {
        () = serving => {}
        () = clean_up => {}
        () = blocks_clean_up => {}
    }
    services.clean_up.stop();
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
    clean_up: Arc<CleanUp>,
}

impl Services {
    fn open(data_dir: &DataDir, config: &Config, hub: &Arc<Hub>) -> Result<Self, ServerError> {
        let meta = Arc::new(open_meta(data_dir, &config.metadata, hub.clone())?);
        let instance = meta.server().map_err(|error| unusable(data_dir, &config.metadata, error))?.instance;
        let store = open_blocks(data_dir, &config.blocks, instance, BlocksFor::Everything)?;
        let store = Arc::new(RecentBlocks::new(store, RECENT_BLOCK_BYTES));
        let clean_up = Arc::new(CleanUp::new(store.clone(), meta.clone()));
        let blocks = Arc::new(BlockService::new(store, meta.clone()).with_thrift(config.thrift));
        Ok(Self { meta, blocks, clean_up })
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

pub(crate) fn open_meta(
    data_dir: &DataDir,
    metadata: &Metadata,
    announce: Arc<dyn Announce>,
) -> Result<MetaService, ServerError> {
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

/// What blocks are opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlocksFor {
    Everything,
    /// Blocks on a disk are then opened beside a server that has them open.
    Looking,
}

pub(crate) fn open_blocks(
    data_dir: &DataDir,
    blocks: &Blocks,
    instance: InstanceId,
    purpose: BlocksFor,
) -> Result<Arc<dyn BlockStore>, ServerError> {
    let (options, credentials) = match blocks {
        Blocks::InDataDir => {
            return match data_dir.blocks(instance) {
                // Else it is opened in full: what its last process wrote at its end may have to be found again.
                Err(ServerError::AlreadyRunning { .. }) if purpose == BlocksFor::Looking => {
                    Ok(Arc::new(data_dir.blocks_to_look_at(instance)?))
                }
                opened => Ok(Arc::new(opened?)),
            };
        }
        Blocks::S3 { options, credentials } => (options, credentials.clone()),
    };
    let opened = S3BlockStore::open(options, credentials, instance, world::below);
    opened.map(|store| Arc::new(store) as Arc<dyn BlockStore>).map_err(|source| match source {
        StoreError::OtherInstance { .. } | StoreError::UnknownInstance { .. } => {
            ServerError::ForeignBlocks { path: options.place().into(), source }
        }
        StoreError::UnknownFormat { .. } => ServerError::NewerFormat { path: options.place().into() },
        StoreError::Corrupt { .. }
        | StoreError::Io { .. }
        | StoreError::Locked { .. }
        | StoreError::NoSpace { .. }
        | StoreError::Remote { .. } => ServerError::Bucket { place: options.place(), source },
    })
}

fn unusable(data_dir: &DataDir, metadata: &Metadata, error: ApiError) -> ServerError {
    let place = match metadata {
        Metadata::InDataDir => data_dir.metadata_path().display().to_string(),
        Metadata::Mysql { options, .. } => format!("at {}", options.place()),
    };
    ServerError::Metadata { place, source: error.into() }
}

/// Never ends.
async fn clean_up_blocks_regularly(clean_up: Arc<CleanUp>) {
    let mut pause = BLOCKS_CLEAN_UP_SOON;
    loop {
        tokio::time::sleep(pause).await;
        let clean_up = clean_up.clone();
        pause = BLOCKS_CLEAN_UP_SOON;
        match tokio::task::spawn_blocking(move || clean_up.run(CleanUpMode::Act)).await {
            Ok(Ok(report)) => {
                let CleanUpReport { blocks, marked, waiting, removed, removed_bytes, compacted_bytes } = report;
                tracing::info!(
                    blocks,
                    marked,
                    waiting,
                    removed,
                    removed_bytes,
                    compacted_bytes,
                    "blocks were cleaned up"
                );
                pause = BLOCKS_CLEAN_UP_INTERVAL;
            }
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "blocks could not be cleaned up");
            }
            Err(panic) => tracing::error!(%panic, "the clean-up of blocks failed"),
        }
    }
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
