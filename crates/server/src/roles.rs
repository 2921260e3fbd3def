//! The roles: what each of them is made of.
//!
//! | role | answers clients | answers other services | asks |
//! |---|---|---|---|
//! | all | everything | nothing | nobody |
//! | meta | all calls without blocks | who, what may be read, commits, heads | the metadata database; tells hubs |
//! | block | `changeset`, `blocks`, `prefetch`, `sums`, `news` | nothing | the meta service, the block store; cleans it up |
//! | notify-hub | nothing | announcements, edges | nobody |
//! | notify-edge | `events` | nothing | the meta service; listens to hubs |

use crate::connections::Purpose;
use crate::data_dir::DataDir;
use crate::health::{Need, client_health};
use crate::metrics::{CountedAnnounce, Metrics};
use crate::router::router;
use crate::world;
use crate::{Blocks, CacheKind, CleanUpTimes, Config, Metadata, ProcessRole, Secret, ServerError};
use api::ApiError;
use api::service::{Announce, CleanUpMode, MetaForStart, PackIndex};
use axum::Router;
use block_service::{BlockService, CleanUp, CleanUpReport, Unfinished};
use block_store::{BlockStore, DiskOptions, PageCache, RecentBlocks, StoreError};
use block_store_s3::S3BlockStore;
use cache::{Cache, InProcessCache, MemcachedCache};
use meta_service::MetaService;
use metadata_store::{Chunking, JournalCache, MetadataStore};
use metadata_store_mysql::{MysqlStore, Pauses};
use model::InstanceId;
use notification_service::{Edge, Events, Hub, Relay};
use service_calls::{Links, Publisher, RemoteMeta, ServiceTls, Upstream};
use std::fs::File;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::task::TaskTracker;

/// Bytes of memory for blocks that were just uploaded: more than is under way between one device and the
/// next while a large file streams through.
const RECENT_BLOCK_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of memory for what was read of journals: a few hundred thousand entries.
const JOURNAL_CACHE_BYTES: usize = 32 * 1024 * 1024;
/// How long the removal of rows without meaning leaves the metadata database to others, while there are more.
const CLEAN_UP_PAUSE: Duration = Duration::from_secs(1);
/// How often it begins.
const CLEAN_UP_INTERVAL: Duration = Duration::from_secs(3600);
/// How long a process waits at its start for a meta service: they may start together.
const META_PATIENCE: Duration = Duration::from_secs(60);
/// How often it asks until then.
const META_PAUSE: Duration = Duration::from_millis(500);

/// Work that never ends.
pub(crate) type Background = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A role's services and what they need.
pub(crate) struct Part {
    pub(crate) for_clients: Option<Purpose>,
    pub(crate) for_services: Router,
    pub(crate) need: Need,
    pub(crate) notification: Notification,
    /// Work that goes on for as long as the process does.
    pub(crate) background: Vec<Background>,
    /// What stops in the middle when the process does.
    pub(crate) clean_up: Option<Arc<CleanUp>>,
    /// Keeps other servers away from the data directory.
    pub(crate) lock: Option<File>,
}

/// What of the notification service is in this process.
pub(crate) enum Notification {
    None,
    Streams(Arc<Hub>),
    Relay(Arc<Relay>),
    Publisher(Arc<Publisher>),
}

impl Part {
    /// Opens what the configured role works with.
    ///
    /// # Errors
    /// [`ServerError`].
    pub(crate) async fn open(
        config: &Config,
        tasks: &TaskTracker,
        metrics: &Arc<Metrics>,
        tls: Option<&ServiceTls>,
    ) -> Result<Self, ServerError> {
        let links = links(config, tls)?;
        match config.role {
            ProcessRole::All => Self::all(config, tasks, metrics).await,
            ProcessRole::Meta => Self::meta(config, links, metrics),
            ProcessRole::Block => Self::block(config, links, tasks).await,
            ProcessRole::NotifyHub => Ok(Self::hub(metrics)),
            ProcessRole::NotifyEdge => Ok(Self::edge(config, links, metrics)),
        }
    }

    /// The functions that open block the thread; nothing else runs yet that this could hold up.
    async fn all(config: &Config, tasks: &TaskTracker, metrics: &Arc<Metrics>) -> Result<Self, ServerError> {
        let data_dir = DataDir::prepare(&config.data_dir)?;
        let lock = data_dir.lock()?;
        let hub = Hub::new();
        let announce = Arc::new(CountedAnnounce { inner: hub.clone(), metrics: metrics.clone() });
        let meta = Arc::new(with_cache(open_meta(&data_dir, &config.metadata, announce)?, &config.cache, metrics));
        let instance = meta.server().map_err(|error| unusable(&data_dir, &config.metadata, error))?.instance;
        let store = open_blocks(&data_dir, config, instance, meta.clone(), BlocksFor::Everything)?;
        let store = Arc::new(RecentBlocks::new(store, RECENT_BLOCK_BYTES));
        let clean_up = Arc::new(CleanUp::new(store.clone(), meta.clone()));
        let blocks = Arc::new(BlockService::new(store, meta.clone()).with_thrift(config.thrift));
        let unfinished = take_up_unfinished(&data_dir, config, &blocks).await?;
        data_dir.keep_reserve();
        let streams = hub.clone();
        metrics.gauge("syncline_streams", "Open notification streams", move || streams.streams() as u64);
        let need = Need::Database(meta.clone());
        let calls = router([
            meta_service::routes(meta.clone()),
            block_service::routes(blocks, unfinished, tasks.clone()),
            notification_service::routes(Events::new(hub.clone(), meta.clone())),
            client_health(need.clone()),
        ]);
        Ok(Self {
            for_clients: Some(Purpose::Calls(calls)),
            for_services: Router::new(),
            need,
            notification: Notification::Streams(hub),
            background: vec![
                Box::pin(clean_up_regularly(meta)),
                Box::pin(clean_up_blocks_regularly(clean_up.clone(), config.clean_up)),
            ],
            clean_up: Some(clean_up),
            lock: Some(lock),
        })
    }

    fn meta(config: &Config, links: Links, metrics: &Arc<Metrics>) -> Result<Self, ServerError> {
        let data_dir = DataDir::prepare(&config.data_dir)?;
        // A file takes one server; what a database is for is to be shared.
        let lock = matches!(config.metadata, Metadata::InDataDir).then(|| data_dir.lock()).transpose()?;
        let publisher = Publisher::new(links, config.services.hubs.clone());
        let announce = Arc::new(CountedAnnounce { inner: publisher.clone(), metrics: metrics.clone() });
        let meta = Arc::new(with_cache(open_meta(&data_dir, &config.metadata, announce)?, &config.cache, metrics));
        if lock.is_some() {
            data_dir.keep_reserve();
        }
        let (failed, dropped) = (publisher.clone(), publisher.clone());
        metrics.gauge("syncline_hub_calls_failed", "Calls to hubs that failed since the start", move || {
            failed.counts().failed.load(Ordering::Relaxed)
        });
        metrics.gauge("syncline_announcements_dropped", "Announcements without room since the start", move || {
            dropped.counts().dropped.load(Ordering::Relaxed)
        });
        let need = Need::Database(meta.clone());
        let calls = router([meta_service::routes(meta.clone()), client_health(need.clone())]);
        Ok(Self {
            for_clients: Some(Purpose::Calls(calls)),
            for_services: service_calls::meta_routes(meta.clone()),
            need,
            notification: Notification::Publisher(publisher.clone()),
            background: vec![Box::pin(clean_up_regularly(meta)), Box::pin(publisher.run())],
            clean_up: None,
            lock,
        })
    }

    async fn block(config: &Config, links: Links, tasks: &TaskTracker) -> Result<Self, ServerError> {
        let data_dir = DataDir::prepare(&config.data_dir)?;
        // Files take one process; what a bucket is for is to be shared.
        let lock = matches!(config.blocks, Blocks::InDataDir).then(|| data_dir.lock()).transpose()?;
        let (upstream, meta) = remote_meta(config, links);
        let instance = ask_which_server(meta.clone()).await?;
        let (settings, index, directory) = (config.clone(), meta.clone(), data_dir.clone());
        let opened = tokio::task::spawn_blocking(move || {
            open_blocks(&directory, &settings, instance, index, BlocksFor::Everything)
        });
        let opened = opened.await;
        let store = opened.map_err(|panic| ServerError::Runtime { source: std::io::Error::other(panic) })??;
        let store = Arc::new(RecentBlocks::new(store, RECENT_BLOCK_BYTES));
        let clean_up = Arc::new(CleanUp::new(store.clone(), meta.clone()));
        let blocks = Arc::new(BlockService::new(store, meta).with_thrift(config.thrift));
        let unfinished = take_up_unfinished(&data_dir, config, &blocks).await?;
        if lock.is_some() {
            data_dir.keep_reserve();
        }
        let need = Need::Meta(upstream.clone());
        let calls = router([block_service::routes(blocks, unfinished, tasks.clone()), client_health(need.clone())]);
        Ok(Self {
            for_clients: Some(Purpose::Calls(calls)),
            for_services: Router::new(),
            need,
            notification: Notification::None,
            background: vec![
                Box::pin(upstream.look_after()),
                Box::pin(clean_up_blocks_regularly(clean_up.clone(), config.clean_up)),
            ],
            clean_up: Some(clean_up),
            lock,
        })
    }

    fn hub(metrics: &Arc<Metrics>) -> Self {
        let relay = Relay::new(world::below);
        let (edges, announced) = (relay.clone(), relay.clone());
        metrics.gauge("syncline_edges", "Edges that listen to this hub", move || edges.edges() as u64);
        metrics.gauge("syncline_announced", "Positions announced here since the start", move || announced.announced());
        Self {
            for_clients: None,
            for_services: notification_service::hub_routes(relay.clone()),
            need: Need::Nothing,
            notification: Notification::Relay(relay),
            background: Vec::new(),
            clean_up: None,
            lock: None,
        }
    }

    fn edge(config: &Config, links: Links, metrics: &Arc<Metrics>) -> Self {
        let (upstream, meta) = remote_meta(config, links.clone());
        let edge = Edge::new(meta, links, config.services.hubs.clone());
        let (streams, linked) = (edge.clone(), edge.clone());
        metrics.gauge("syncline_streams", "Open notification streams", move || streams.hub().streams() as u64);
        metrics.gauge("syncline_hubs_linked", "Hubs that this edge listens to", move || linked.linked() as u64);
        Self {
            for_clients: Some(Purpose::Streams(edge.clone())),
            for_services: Router::new(),
            need: Need::MetaForNew(upstream.clone()),
            notification: Notification::Streams(edge.hub().clone()),
            background: vec![Box::pin(upstream.look_after()), Box::pin(edge.run())],
            clean_up: None,
            lock: None,
        }
    }
}

impl Notification {
    /// Ends what would not end by itself.
    pub(crate) fn say_farewell(&self) {
        match self {
            Self::Streams(hub) => hub.shut_down(),
            Self::Relay(relay) => relay.shut_down(),
            Self::Publisher(_) | Self::None => {}
        }
    }

    /// Waits until others have been told what there is to tell.
    pub(crate) async fn flush(&self) {
        match self {
            Self::Publisher(publisher) => publisher.flush().await,
            Self::Streams(_) | Self::Relay(_) | Self::None => {}
        }
    }
}

/// How this process calls others.
///
/// # Errors
/// [`ServerError::ServiceTls`].
fn links(config: &Config, tls: Option<&ServiceTls>) -> Result<Links, ServerError> {
    let links = Links::new(config.services.secret.clone(), world::below);
    match tls {
        Some(tls) => links.encrypted(tls.clone()).map_err(|source| ServerError::ServiceTls { source }),
        None => Ok(links),
    }
}

fn remote_meta(config: &Config, links: Links) -> (Arc<Upstream>, Arc<RemoteMeta>) {
    let upstream = Upstream::new(links, config.services.meta.clone());
    let meta = Arc::new(RemoteMeta::new(upstream.clone(), Handle::current()));
    (upstream, meta)
}

/// Waits for a meta service, and asks it which server this is: the blocks must be its own.
async fn ask_which_server(meta: Arc<RemoteMeta>) -> Result<InstanceId, ServerError> {
    let until = Instant::now() + META_PATIENCE;
    loop {
        let meta = meta.clone();
        let asked = tokio::task::spawn_blocking(move || meta.server()).await;
        match asked.map_err(|panic| ApiError::new(api::ErrorCode::Unavailable, panic.to_string())) {
            Ok(Ok(server)) => return Ok(server.instance),
            Ok(Err(source)) | Err(source) if !source.code.is_transient() || Instant::now() >= until => {
                return Err(ServerError::NoMeta { source });
            }
            Ok(Err(_)) | Err(_) => sleep(META_PAUSE).await,
        }
    }
}

/// The meta service over the configured database.
pub(crate) fn open_meta(
    data_dir: &DataDir,
    metadata: &Metadata,
    announce: Arc<dyn Announce>,
) -> Result<MetaService, ServerError> {
    let store = open_store(data_dir, metadata)?;
    MetaService::new(store, announce, world::environment()).map_err(|error| unusable(data_dir, metadata, error))
}

fn open_store(data_dir: &DataDir, metadata: &Metadata) -> Result<Arc<dyn MetadataStore>, ServerError> {
    Ok(match metadata {
        Metadata::InDataDir => Arc::new(data_dir.metadata()?),
        Metadata::Mysql { options, password } => {
            let pauses = Pauses::new(std::thread::sleep, world::below);
            let opened = MysqlStore::open(options, password.as_ref().map(Secret::expose), pauses);
            Arc::new(opened.map_err(|source| ServerError::Database { source })?)
        }
    })
}

/// The data directory and the meta service of a server that there is. Nothing is made: what is asked of a wrong place
/// must not be answered by an empty server there.
pub(crate) fn existing(config: &Config) -> Result<(DataDir, MetaService), ServerError> {
    let data_dir = match config.metadata {
        Metadata::InDataDir => DataDir::existing(&config.data_dir)?,
        Metadata::Mysql { .. } => DataDir::prepare(&config.data_dir)?,
    };
    let store = open_store(&data_dir, &config.metadata)?;
    let place = || place_of(&data_dir, &config.metadata);
    let identity = store.snapshot(|reading| reading.server());
    let identity = identity.map_err(|error| ServerError::Metadata { place: place(), source: error.into() })?;
    if identity.is_none() {
        return Err(ServerError::NoServer { place: place() });
    }
    let meta = MetaService::new(store, Hub::new(), world::environment());
    let meta = meta.map_err(|error| unusable(&data_dir, &config.metadata, error))?;
    Ok((data_dir, meta))
}

/// The same service with the configured cache, whose figures are shown.
fn with_cache(meta: MetaService, kind: &CacheKind, metrics: &Metrics) -> MetaService {
    let cache: Arc<dyn Cache> = match kind {
        CacheKind::Off => return meta,
        CacheKind::Memory => Arc::new(InProcessCache::new(JOURNAL_CACHE_BYTES)),
        CacheKind::Memcached(servers) => Arc::new(MemcachedCache::new(servers)),
    };
    let figure = |name, help, read: fn(&cache::Counts) -> &AtomicU64| {
        let cache = cache.clone();
        metrics.gauge(name, help, move || read(cache.counts()).load(Ordering::Relaxed));
    };
    figure("syncline_cache_hits", "Pieces of journals that the cache had, since the start", |counts| &counts.hits);
    figure("syncline_cache_misses", "Pieces of journals that it did not have", |counts| &counts.misses);
    figure("syncline_cache_fills", "Pieces of journals that were put into it", |counts| &counts.fills);
    figure("syncline_cache_refused", "Pieces of journals that came too late for it", |counts| &counts.refused);
    figure("syncline_cache_failures", "Questions that a cache server did not answer", |counts| &counts.failures);
    meta.with_journal_cache(JournalCache::new(cache, Chunking::STANDARD))
}

/// What blocks are opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlocksFor {
    Everything,
    /// Blocks on a disk are then opened beside a server that has them open.
    Looking,
}

/// The configured block store.
pub(crate) fn open_blocks(
    data_dir: &DataDir,
    config: &Config,
    instance: InstanceId,
    index: Arc<dyn PackIndex>,
    purpose: BlocksFor,
) -> Result<Arc<dyn BlockStore>, ServerError> {
    let (options, credentials) = match &config.blocks {
        Blocks::InDataDir => {
            let page_cache = PageCache::direct(config.thrift.direct_writes);
            let options = DiskOptions { page_cache, ..DiskOptions::default() };
            return match data_dir.blocks(instance, options) {
                // Else it is opened in full: what its last process wrote at its end may have to be found again.
                Err(ServerError::AlreadyRunning { .. }) if purpose == BlocksFor::Looking => {
                    Ok(Arc::new(data_dir.blocks_to_look_at(instance)?))
                }
                opened => Ok(Arc::new(opened?)),
            };
        }
        Blocks::S3 { options, credentials } => (options, credentials.clone()),
    };
    let options = match purpose {
        BlocksFor::Everything => options.clone(),
        BlocksFor::Looking => options.clone().without_packs(),
    };
    let opened = S3BlockStore::open(&options, credentials, instance, index, world::below);
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

/// Takes up the uploads that were under way when the last process here was killed; where they are kept from now on.
/// Only in a directory that this process has for itself.
async fn take_up_unfinished(
    data_dir: &DataDir,
    config: &Config,
    blocks: &Arc<BlockService>,
) -> Result<Option<Arc<Unfinished>>, ServerError> {
    if !matches!(config.blocks, Blocks::InDataDir) {
        return Ok(None);
    }
    let unfinished = data_dir.unfinished()?;
    unfinished.take_up(blocks).await;
    Ok(config.thrift.keep_unfinished.then(|| Arc::new(unfinished)))
}

fn unusable(data_dir: &DataDir, metadata: &Metadata, error: ApiError) -> ServerError {
    ServerError::Metadata { place: place_of(data_dir, metadata), source: error.into() }
}

/// Where the metadata database is, for messages.
fn place_of(data_dir: &DataDir, metadata: &Metadata) -> String {
    match metadata {
        Metadata::InDataDir => data_dir.metadata_path().display().to_string(),
        Metadata::Mysql { options, .. } => format!("at {}", options.place()),
    }
}

/// Never ends. A failure is tried again at the next turn.
async fn clean_up_regularly(meta: Arc<MetaService>) {
    let mut turns = interval(CLEAN_UP_INTERVAL);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        loop {
            let meta = meta.clone();
            match tokio::task::spawn_blocking(move || meta.clean_up()).await {
                Ok(Ok(done)) => {
                    tracing::debug!(rows = done.rows, "rows without meaning were removed");
                    if done.more {
                        sleep(CLEAN_UP_PAUSE).await;
                        continue;
                    }
                }
                Ok(Err(error)) => tracing::warn!(%error, "rows without meaning could not be removed"),
                Err(panic) => tracing::error!(%panic, "the clean-up failed"),
            }
            break;
        }
    }
}

/// Never ends. Processes that start together do not list all blocks at the same time.
async fn clean_up_blocks_regularly(clean_up: Arc<CleanUp>, times: CleanUpTimes) {
    let mut pause = times.first();
    loop {
        sleep(pause + pause.mul_f64(world::below(1000) as f64 / 1000.0)).await;
        let clean_up = clean_up.clone();
        // What a run that failed had begun to remove is taken up then.
        pause = times.first();
        match tokio::task::spawn_blocking(move || clean_up.run(CleanUpMode::Act)).await {
            Ok(Ok(report)) => {
                let CleanUpReport { blocks, marked, waiting, removed, removed_bytes, .. } = report;
                let CleanUpReport { compacted_bytes, gathered, damaged, .. } = report;
                tracing::info!(
                    blocks,
                    marked,
                    waiting,
                    removed,
                    removed_bytes,
                    compacted_bytes,
                    gathered,
                    damaged,
                    "blocks were cleaned up"
                );
                pause = times.every();
            }
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "blocks could not be cleaned up");
            }
            Err(panic) => tracing::error!(%panic, "the clean-up of blocks failed"),
        }
    }
}
