//! The server of a history: the real services over stores in memory.

use crate::chance::Chance;
use crate::courier;
use crate::disk::lock;
use crate::failing::{FailingBlocks, FailingMetadata, Weather};
use crate::journal::{Gain, Journals};
use crate::wire::{Answered, Sent};
use api::service::{Announce, CleanUpMode, Identity, MetaForNotification};
use api::{ApiError, BlockHeader, ErrorCode, LinkRequest, RemoveMemberRequest, SentCommit, ShareRequest, Token, codec};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use block_service::{BlockService, CleanUp, CleanUpError, CleanUpReport};
use block_store::{BlockStore, MemoryBlockStore};
use bytes::BytesMut;
use cache::lying::LyingCache;
use futures_util::stream;
use http_body_util::BodyExt;
use meta_service::{Environment, MetaService, PasswordCost};
use metadata_store::{Chunking, JournalCache, MetadataStore, PageLimit, SqliteStore, StoreError};
use model::{AccountId, BlockHash, Epoch, InstanceId, NamespaceId, NodeId, Role, Timestamp};
use notification_service::{Follow, Hub, News, Subscription};
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Entries read at a time when the journals are checked.
const PAGE: PageLimit = PageLimit { entries: 10_000, blocks: 1_000_000 };
const PASSWORD: &str = "correct horse";

/// A device as the server knows it.
#[derive(Debug, Clone)]
pub struct Linked {
    pub token: Token,
    pub identity: Identity,
    pub root: NamespaceId,
    pub instance: InstanceId,
    pub epoch: Epoch,
}

/// A database kept aside, as a backup is.
struct Backup {
    /// Removed with the server.
    directory: tempfile::TempDir,
    files: u32,
}

/// The services of one server, and what is kept about them for the checks.
pub struct Server {
    store: Arc<SqliteStore>,
    blocks: Arc<MemoryBlockStore>,
    hub: Arc<Hub>,
    meta: Arc<MetaService>,
    /// The block service's calls.
    block: Router,
    clean_up: Arc<Cleaning>,
    clock: Arc<AtomicI64>,
    /// Added to the world's time, in milliseconds.
    pub clock_offset_ms: i64,
    pub weather: Arc<Weather>,
    chance: Arc<Mutex<Chance>>,
    /// Stays when the server is restarted, restored or emptied, and lies: it changes no answer.
    cache: JournalCache,
    backup: Option<Backup>,
    pub journals: Journals,
    pub up: bool,
    namespaces: Vec<NamespaceId>,
}

fn failed(error: impl std::fmt::Display) -> String {
    format!("the simulated server failed: {error}")
}

impl Server {
    /// An empty server.
    ///
    /// # Errors
    /// When SQLite cannot be opened.
    pub fn new(seed: u64) -> Result<Self, String> {
        let clock = Arc::new(AtomicI64::new(0));
        let chance = Arc::new(Mutex::new(Chance::keyed(seed, &[0x5e])));
        let store = Arc::new(SqliteStore::in_memory().map_err(failed)?);
        let blocks = Arc::new(MemoryBlockStore::new());
        let weather = Weather::new(Chance::keyed(seed, &[0x5f]));
        // What was added later must not draw from the streams of what was there.
        let clean_up = Arc::new(Cleaning::new(Weather::new(Chance::keyed(seed, &[0x60]))));
        let lies = Mutex::new(Chance::keyed(seed, &[0x61]));
        let cache =
            JournalCache::new(Arc::new(LyingCache::new(move |below| lock(&lies).below(below))), Chunking::FINEST);
        let (hub, meta, block) = services(&store, &blocks, &clock, &chance, &weather, &clean_up, &cache)?;
        Ok(Self {
            cache,
            store,
            blocks,
            hub,
            meta,
            block,
            clean_up,
            clock,
            clock_offset_ms: 0,
            weather,
            chance,
            backup: None,
            journals: Journals::default(),
            up: true,
            namespaces: Vec::new(),
        })
    }

    /// Sets the clock, in milliseconds since 1970.
    pub fn set_clock(&self, ms: i64) {
        self.clock.store(ms.saturating_add(self.clock_offset_ms), Ordering::Relaxed);
    }

    /// Adds an account.
    ///
    /// # Errors
    /// The service's.
    pub fn add_account(&self, email: &str) -> Result<AccountId, String> {
        self.meta.add_user(email, PASSWORD).map_err(failed)
    }

    /// Links a device.
    ///
    /// # Errors
    /// The service's.
    pub fn link(&mut self, email: &str, device_name: &str) -> Result<Linked, String> {
        let request =
            LinkRequest { email: email.to_owned(), password: PASSWORD.to_owned(), device_name: device_name.to_owned() };
        let reply = self.meta.link(&request).map_err(failed)?;
        let identity = Identity { account: reply.account, device: reply.device };
        self.follow_namespace(reply.root);
        let (root, instance, epoch) = (reply.root, reply.instance, reply.epoch);
        Ok(Linked { token: reply.token, identity, root, instance, epoch })
    }

    /// Whether the device is linked to what is here now.
    #[must_use]
    pub fn knows(&self, device: &Linked) -> bool {
        self.meta.authenticate(&device.token).is_ok()
    }

    /// Shares a folder of the device's account.
    ///
    /// # Errors
    /// The service's.
    pub fn share(&mut self, who: &Linked, node: NodeId, email: &str, role: Role) -> Result<NamespaceId, ApiError> {
        let request = ShareRequest { namespace: who.root, node, email: email.to_owned(), role };
        let namespace = self.meta.share(who.identity, &request)?.namespace;
        self.follow_namespace(namespace);
        Ok(namespace)
    }

    /// Ends a membership of a shared folder.
    ///
    /// # Errors
    /// The service's.
    pub fn remove_member(&self, owner: &Linked, namespace: NamespaceId, email: &str) -> Result<(), ApiError> {
        let request = RemoveMemberRequest { namespace, email: email.to_owned() };
        self.meta.remove_member(owner.identity, &request)
    }

    fn follow_namespace(&mut self, namespace: NamespaceId) {
        if !self.namespaces.contains(&namespace) {
            self.namespaces.push(namespace);
        }
    }

    /// The folders that an account sees: its root and the shared ones that it is a member of.
    ///
    /// # Errors
    /// The store's.
    pub fn memberships(&self, account: AccountId) -> Result<Vec<(NamespaceId, Role)>, String> {
        let store: &dyn MetadataStore = &*self.store;
        store.snapshot(|reading| reading.memberships(account)).map_err(|error: StoreError| failed(error))
    }

    /// Answers a call: the block service through its HTTP layer, the meta service as its HTTP layer would have it do.
    ///
    /// # Errors
    /// When the block service cannot be called, or fails in a way that is its own fault.
    pub fn answer(&self, token: &Token, sent: &Sent) -> Result<Answered, String> {
        match sent.call.as_str() {
            "changeset" | "blocks" | "prefetch" | "sums" | "news" | "bundle" => self.post(token, sent),
            _ if !sent.whole => Ok(Answered::of::<()>(Err(malformed()))),
            call => Ok(match self.meta.identify(token) {
                Ok(who) => self.ask_meta(who, call, &sent.body),
                Err(error) => Answered::of::<()>(Err(error)),
            }),
        }
    }

    fn ask_meta(&self, who: Identity, call: &str, body: &[u8]) -> Answered {
        let meta = &self.meta;
        match call {
            "server" => Answered::of(meta.server()),
            "changes" => Answered::of(read(body).and_then(|request| meta.changes(who, &request))),
            "missing" => Answered::of(read(body).and_then(|request| meta.missing(who, &request))),
            "commit" => Answered::of(read(body).and_then(|commit: SentCommit| meta.commit(who, commit))),
            "announce" => Answered::of(read(body).and_then(|request| meta.announce(who, request))),
            "coming" => Answered::of(read(body).and_then(|request| meta.coming(who, &request))),
            _ => Answered::of::<()>(Err(ApiError::new(ErrorCode::NotFound, "there is no such call"))),
        }
    }

    fn post(&self, token: &Token, sent: &Sent) -> Result<Answered, String> {
        let body = sent.body.clone();
        let body = if sent.whole { Body::from(body) } else { Body::from_stream(stream::iter(courier::broken(body))) };
        let request = Request::post(format!("{}/{}", api::PREFIX, sent.call))
            .header(header::AUTHORIZATION, format!("Bearer {}", token.to_hex()))
            .body(body)
            .map_err(failed)?;
        let (router, call) = (self.block.clone(), sent.call.as_str());
        courier::run(async move {
            let response = router.oneshot(request).await.map_err(failed)?;
            let status = response.status().as_u16();
            let mut body = response.into_body();
            let (mut bytes, mut whole) = (BytesMut::new(), true);
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => bytes.extend(frame.into_data().ok()),
                    Err(_) => whole = false,
                }
            }
            let answered = Answered { status, content_type: api::CONTENT_TYPE, body: bytes.freeze(), whole };
            match answered.means(call) {
                Err(error) if error.message.starts_with("the server failed") => {
                    Err(format!("panic: {}", error.message))
                }
                _ => Ok(answered),
            }
        })?
    }

    /// Opens a notification stream.
    ///
    /// # Errors
    /// The service's.
    pub fn open_stream(&self, token: &Token) -> Result<Subscription, ApiError> {
        let who = self.meta.identify(token)?;
        let subscription = self.hub.open(who);
        self.read_heads(&subscription, who)?;
        Ok(subscription)
    }

    /// What a stream has to say now, as [`notification_service::Events`] would write it out.
    pub fn news(&self, subscription: &Subscription, who: Identity) -> Option<News> {
        match subscription.take()? {
            News::MembershipsChanged => {
                self.read_heads(subscription, who).ok()?;
                self.news(subscription, who)
            }
            news @ (News::Reached(_) | News::Coming(_) | News::Ended(_)) => Some(news),
        }
    }

    fn read_heads(&self, subscription: &Subscription, who: Identity) -> Result<(), ApiError> {
        loop {
            subscription.before_reading_heads();
            if subscription.follow(&MetaForNotification::heads(&*self.meta, who.account)?) == Follow::Complete {
                return Ok(());
            }
        }
    }

    /// Reads what the journals gained and checks it.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check_journals(&mut self) -> Result<Gain, String> {
        let store: &dyn MetadataStore = &*self.store;
        let mut all = Gain::default();
        for namespace in &self.namespaces {
            let after = self.journals.head(*namespace);
            let read = store.snapshot(|reading| {
                let Some(row) = reading.namespace(*namespace)? else { return Ok(None) };
                let epoch = reading.server()?.map_or(Epoch(0), |server| server.epoch);
                let records = if row.head > after { reading.journal(*namespace, after, PAGE)? } else { Vec::new() };
                Ok(Some((epoch, row.head, records)))
            });
            let Some((epoch, head, records)) = read.map_err(|error: StoreError| failed(error))? else { continue };
            let entries: Vec<_> = records.into_iter().map(|record| record.entry).collect();
            let blocks = &self.blocks;
            let has_block = |hash: &BlockHash| matches!(blocks.get(hash), Ok(Some(_)));
            let gain = self.journals.take(*namespace, epoch, head, &entries, &has_block)?;
            all.contents.extend(gain.contents);
            all.moved.extend(gain.moved);
        }
        Ok(all)
    }

    /// Checks that the stored trees are what the journals fold to (I8).
    ///
    /// # Errors
    /// The first difference.
    pub fn check_nodes(&self) -> Result<(), String> {
        let store: &dyn MetadataStore = &*self.store;
        for namespace in &self.namespaces {
            let fold = self.journals.fold(*namespace);
            for (id, folded) in fold.nodes() {
                let stored = store.snapshot(|reading| reading.node(*namespace, *id));
                let stored = stored.map_err(|error: StoreError| failed(error))?;
                let same = stored.as_ref().is_some_and(|stored| {
                    stored.is_live()
                        && (stored.parent, &stored.name, &stored.body) == (folded.parent, &folded.name, &folded.body)
                });
                if !same {
                    return Err(format!("I8: the journal says {folded:?} of {id:?}, the tree says {stored:?}"));
                }
            }
            let live = store.snapshot(|reading| Ok(reading.namespace(*namespace)?.map(|row| row.live_nodes)));
            let live = live.map_err(|error: StoreError| failed(error))?;
            if live.is_some_and(|live| live != fold.nodes().len() as u64) {
                return Err(format!("I8: {namespace:?} counts {live:?} nodes, its journal {}", fold.nodes().len()));
            }
        }
        Ok(())
    }

    /// Lets a day and an hour pass for the clean-up alone: whatever it marked may go, and uploads that nobody
    /// committed are forgotten.
    pub fn pass_a_day(&self) {
        self.clean_up.pass_a_day();
    }

    /// Runs the clean-up of blocks. In the calm it meets no failing store.
    ///
    /// # Errors
    /// Its own; what it had done then stays done.
    pub fn clean_up(&self, store_error: u32) -> Result<CleanUpReport, CleanUpError> {
        self.clean_up.weather.set_rate(store_error);
        self.clean_up.run()
    }

    /// Ends what a run that was broken off has begun, as its next one does after a while.
    ///
    /// # Errors
    /// As [`Server::clean_up`].
    pub fn end_clean_up(&self) -> Result<(), CleanUpError> {
        self.clean_up.armed.store(false, Ordering::Relaxed);
        if !self.clean_up.broken_off.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.clean_up.ahead.fetch_add(WHILE_MS, Ordering::Relaxed);
        self.clean_up(0)?;
        self.clean_up.broken_off.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The clean-up runs in the middle of the next upload: its blocks are stored, and nobody names them.
    pub fn clean_up_during_upload(&self) {
        self.clean_up.armed.store(true, Ordering::Relaxed);
    }

    /// Checks that the store has every block that a journal names (I11).
    ///
    /// # Errors
    /// The first that it lacks.
    pub fn check_blocks(&self) -> Result<(), String> {
        match self.journals.named().find(|block| !matches!(self.blocks.get(block), Ok(Some(_)))) {
            None => Ok(()),
            Some(block) => Err(format!("I11: {block:?} is named by a journal and is not stored any more")),
        }
    }

    /// The bytes of a stored content's blocks.
    #[must_use]
    pub fn holds_blocks(&self, headers: &[BlockHeader]) -> bool {
        headers.iter().all(|header| matches!(self.blocks.get(&header.hash), Ok(Some(_))))
    }

    /// Whether the block is stored.
    pub(crate) fn holds(&self, block: &BlockHash) -> bool {
        matches!(self.blocks.get(block), Ok(Some(_)))
    }

    /// New processes over the same stores; every stream ends.
    ///
    /// # Errors
    /// The services'.
    pub fn restart(&mut self) -> Result<(), String> {
        (self.hub, self.meta, self.block) =
            services(&self.store, &self.blocks, &self.clock, &self.chance, &self.weather, &self.clean_up, &self.cache)?;
        Ok(())
    }

    /// Keeps the database aside.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn save(&mut self) -> Result<(), String> {
        let backup = match self.backup.take() {
            Some(backup) => Backup { files: backup.files + 1, ..backup },
            None => Backup { directory: tempfile::tempdir().map_err(failed)?, files: 0 },
        };
        self.store.copy_to(&backup.directory.path().join(backup.files.to_string())).map_err(failed)?;
        self.backup = Some(backup);
        Ok(())
    }

    /// Puts the database back that was kept aside last, and raises the epoch. `false`: there is none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn restore(&mut self) -> Result<bool, String> {
        let Some(backup) = &mut self.backup else { return Ok(false) };
        let kept = backup.directory.path().join(backup.files.to_string());
        backup.files += 1;
        let path = backup.directory.path().join(format!("{}-restored", backup.files));
        std::fs::copy(&kept, &path).map_err(failed)?;
        std::fs::rename(&kept, backup.directory.path().join(backup.files.to_string())).map_err(failed)?;
        self.store = Arc::new(SqliteStore::open(&path).map_err(failed)?);
        self.journals.forget();
        self.restart()?;
        self.meta.bump_epoch().map_err(failed)?;
        Ok(true)
    }

    /// An empty server at the same address, as after a reinstallation: another instance, the same
    /// e-mail addresses, no devices.
    ///
    /// # Errors
    /// The store's.
    pub fn empty(&mut self) -> Result<(), String> {
        let old: &dyn MetadataStore = &*self.store;
        let accounts = old.snapshot(|reading| reading.accounts()).map_err(|error: StoreError| failed(error))?;
        self.store = Arc::new(SqliteStore::in_memory().map_err(failed)?);
        self.blocks = Arc::new(MemoryBlockStore::new());
        self.backup = None;
        self.namespaces.clear();
        self.journals.forget();
        self.restart()?;
        accounts.iter().try_for_each(|account| self.add_account(&account.email).map(drop))
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    codec::decode(body).map_err(|_| malformed())
}

fn malformed() -> ApiError {
    ApiError::new(ErrorCode::BadRequest, "the message is malformed")
}

type Services = (Arc<Hub>, Arc<MetaService>, Router);

fn services(
    store: &Arc<SqliteStore>,
    blocks: &Arc<MemoryBlockStore>,
    clock: &Arc<AtomicI64>,
    chance: &Arc<Mutex<Chance>>,
    weather: &Arc<Weather>,
    clean_up: &Arc<Cleaning>,
    cache: &JournalCache,
) -> Result<Services, String> {
    let hub = Hub::new();
    clean_up.renew(store, blocks, clock)?;
    let (clock, chance) = (clock.clone(), chance.clone());
    let environment =
        Environment::new(move || Timestamp(clock.load(Ordering::Relaxed)), move |bytes| lock(&chance).fill(bytes));
    let environment = environment.with_password_cost(PasswordCost::Cheapest);
    let announce: Arc<dyn Announce> = hub.clone();
    let metadata = Arc::new(FailingMetadata { inner: store.clone(), weather: weather.clone() });
    let meta = MetaService::new(metadata, announce, environment).map_err(failed)?;
    let meta = Arc::new(meta.with_journal_cache(cache.clone()));
    let during_put = Some(clean_up.clone());
    let blocks = Arc::new(FailingBlocks { inner: blocks.clone(), weather: weather.clone(), during_put });
    let block = Arc::new(BlockService::new(blocks, meta.clone()).in_place());
    Ok((hub, meta, block_service::routes(block, None, TaskTracker::new())))
}

/// The clean-up of a server. It runs on the same stores, in weather of its own, and its clock runs ahead.
pub(crate) struct Cleaning {
    pub(crate) weather: Arc<Weather>,
    /// Milliseconds that its clock is ahead.
    ahead: Arc<AtomicI64>,
    /// Whether it runs when the next blocks have been stored.
    armed: AtomicBool,
    /// Whether a run ended early: blocks may be condemned that are there still.
    broken_off: AtomicBool,
    parts: Mutex<Option<(Arc<CleanUp>, Arc<MetaService>)>>,
}

/// After which a removal is taken up that somebody has begun.
const WHILE_MS: i64 = 20 * 60_000;
/// More than a grace.
const DAY_MS: i64 = 25 * 3_600_000;

impl Cleaning {
    fn new(weather: Arc<Weather>) -> Self {
        let (armed, broken_off) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { weather, ahead: Arc::new(AtomicI64::new(0)), armed, broken_off, parts: Mutex::new(None) }
    }

    /// Begins anew on these stores.
    fn renew(
        &self,
        store: &Arc<SqliteStore>,
        blocks: &Arc<MemoryBlockStore>,
        clock: &Arc<AtomicI64>,
    ) -> Result<(), String> {
        let (clock, ahead) = (clock.clone(), self.ahead.clone());
        let now = move || Timestamp(clock.load(Ordering::Relaxed) + ahead.load(Ordering::Relaxed));
        let environment = Environment::new(now, |bytes| bytes.fill(1)).with_password_cost(PasswordCost::Cheapest);
        let metadata = Arc::new(FailingMetadata { inner: store.clone(), weather: self.weather.clone() });
        self.weather.set_rate(0);
        let meta = Arc::new(MetaService::new(metadata, Hub::new(), environment).map_err(failed)?);
        let blocks = FailingBlocks { inner: blocks.clone(), weather: self.weather.clone(), during_put: None };
        let clean_up = Arc::new(CleanUp::new(Arc::new(blocks), meta.clone()));
        *lock(&self.parts) = Some((clean_up, meta));
        Ok(())
    }

    fn pass_a_day(&self) {
        self.ahead.fetch_add(DAY_MS, Ordering::Relaxed);
    }

    fn run(&self) -> Result<CleanUpReport, CleanUpError> {
        let Some((clean_up, meta)) = lock(&self.parts).clone() else { return Ok(CleanUpReport::default()) };
        let report = meta.clean_up().map_err(CleanUpError::Meta).and_then(|_| clean_up.run(CleanUpMode::Act));
        // A later run that ends well leaves alone what an earlier one has begun a moment ago.
        self.broken_off.fetch_or(report.is_err(), Ordering::Relaxed);
        report
    }

    /// Blocks have just been stored.
    pub(crate) fn stored(&self) {
        if self.armed.swap(false, Ordering::Relaxed) {
            // A run that meets a failing store is as good a test as one that does not.
            drop(self.run());
        }
    }
}
