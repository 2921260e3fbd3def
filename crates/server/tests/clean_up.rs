//! The clean-up of blocks against uploads and commits, on the real services: nothing goes that anybody
//! needs, and what nobody needs goes. On SQLite and on a real MariaDB, with blocks in memory and in a bucket whose
//! small ones share objects.

use api::service::{CleanUpMode, Identity, MetaForBlocks, MetaForCleanUp, MetaForVerify};
use api::{ApiError, BlockHeader, BlocksRequest, ChangesetHead, ErrorCode, LinkRequest};
use block_service::{BlockService, CleanUp, CleanUpReport, Parcel};
use block_store::{BlockStore, MemoryBlockStore, contract};
use block_store_s3::S3BlockStore;
use block_store_s3::private_server::PrivateServer as Bucket;
use bytes::Bytes;
use meta_service::{Environment, MetaService, PasswordCost};
use metadata_store::{MetadataStore, SqliteStore};
use metadata_store_mysql::private_server::PrivateServer;
use metadata_store_mysql::{MysqlStore, Pauses};
use model::{
    BlockHash, Blocklist, Body, Commit, CommitKey, CommitOutcome, Mtime, Name, NamespaceId, NodeId, Operation,
    Position, Timestamp, limits,
};
use notification_service::Hub;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};

const HOUR: i64 = 3_600_000;
/// More than a grace, and more than an upload's note lives.
const DAY: i64 = 25 * HOUR;

/// One installation: a database, a block store, an account, and as many servers as are asked for.
struct World {
    metadata: Arc<dyn MetadataStore>,
    blocks: Blocks,
    clock: Arc<AtomicI64>,
    draws: Arc<AtomicU8>,
}

/// What all stores draw from.
static DRAWN: AtomicU64 = AtomicU64::new(0);

/// Where its blocks are.
#[derive(Clone)]
enum Blocks {
    InMemory(Arc<MemoryBlockStore>),
    InBucket(Arc<Bucket>),
}

impl Blocks {
    fn in_memory() -> Self {
        Self::InMemory(Arc::new(MemoryBlockStore::new()))
    }

    fn in_bucket() -> Self {
        Self::InBucket(Arc::new(Bucket::start()))
    }

    /// As one server process opens it.
    fn open(&self, meta: &Arc<MetaService>) -> Arc<dyn BlockStore> {
        match self {
            Self::InMemory(store) => store.clone(),
            Self::InBucket(bucket) => {
                let instance = meta.server().expect("answers").instance;
                let below = |n: u64| DRAWN.fetch_add(0x9e37_79b9, Ordering::SeqCst) % n;
                let (options, credentials) = (bucket.options(""), Bucket::credentials());
                Arc::new(S3BlockStore::open(&options, credentials, instance, meta.clone(), below).expect("opens"))
            }
        }
    }
}

/// One server process.
struct Server {
    store: Arc<dyn BlockStore>,
    meta: Arc<MetaService>,
    service: BlockService,
    clean_up: CleanUp,
}

impl World {
    fn new(metadata: Arc<dyn MetadataStore>, blocks: Blocks) -> Self {
        let clock = Arc::new(AtomicI64::new(1_800_000_000_000));
        Self { metadata, blocks, clock, draws: Arc::default() }
    }

    fn server(&self) -> Server {
        let (clock, draws) = (self.clock.clone(), self.draws.clone());
        let environment = Environment::new(
            move || Timestamp(clock.load(Ordering::SeqCst)),
            move |bytes| bytes.fill_with(|| draws.fetch_add(1, Ordering::SeqCst)),
        );
        let environment = environment.with_password_cost(PasswordCost::Cheapest);
        let meta = Arc::new(MetaService::new(self.metadata.clone(), Hub::new(), environment).expect("starts"));
        let store = self.blocks.open(&meta);
        let service = BlockService::new(store.clone(), meta.clone());
        let clean_up = CleanUp::new(store.clone(), meta.clone());
        Server { store, meta, service, clean_up }
    }

    fn pass(&self, ms: i64) {
        self.clock.fetch_add(ms, Ordering::SeqCst);
    }

    fn has(&self, bytes: &[u8]) -> bool {
        self.server().store.get(&BlockHash::of(bytes)).expect("answers").is_some()
    }
}

impl Server {
    fn device(&self) -> (Identity, NamespaceId) {
        if self.meta.list_users().expect("answers").is_empty() {
            self.meta.add_user("a@x", "correct horse").expect("adds");
        }
        let request =
            LinkRequest { email: "a@x".into(), password: "correct horse".into(), device_name: "laptop".into() };
        let link = self.meta.link(&request).expect("links");
        (Identity { account: link.account, device: link.device }, link.root)
    }

    /// Uploads blocks that no commit follows.
    fn upload(&self, who: Identity, blocks: &[&'static [u8]]) -> Result<(), ApiError> {
        let head = ChangesetHead { blocks: headers(blocks), bases: None, commit: None };
        self.service.changeset(who, head, bytes(blocks)).map(drop)
    }

    /// What the server does by itself once in a while.
    fn clean_up(&self) -> CleanUpReport {
        self.meta.clean_up().expect("forgets uploads");
        self.clean_up.run(CleanUpMode::Act).expect("cleans up")
    }

    fn mark(&self) -> CleanUpReport {
        self.meta.clean_up().expect("forgets uploads");
        self.clean_up.mark(CleanUpMode::Act).expect("marks")
    }

    fn sweep(&self) -> u64 {
        let mut report = CleanUpReport::default();
        self.clean_up.sweep(&mut report).expect("sweeps");
        report.removed
    }

    fn reads(&self, who: Identity, namespace: NamespaceId, block: &'static [u8]) -> bool {
        let request = BlocksRequest { namespace, blocks: vec![BlockHash::of(block)], bases: Vec::new() };
        self.service.blocks(who, &request).is_ok_and(|(_, found)| found == [Bytes::from_static(block)])
    }
}

fn headers(blocks: &[&'static [u8]]) -> Vec<BlockHeader> {
    let header =
        |block: &&[u8]| BlockHeader { hash: BlockHash::of(block), len: block.len().try_into().expect("short") };
    blocks.iter().map(header).collect()
}

fn bytes(blocks: &[&'static [u8]]) -> Vec<Bytes> {
    blocks.iter().map(|block| Bytes::from_static(block)).collect()
}

/// The commit of a new file with one block.
fn file(namespace: NamespaceId, n: u8, block: &[u8]) -> Commit {
    let body = Body::File {
        blocks: Blocklist(vec![BlockHash::of(block)]),
        size: block.len() as u64,
        executable: false,
        mtime: Mtime(0),
    };
    let name = Name::parse(&format!("file {n}")).expect("legal");
    let operation = Operation::Create { node: NodeId([n; 16]), parent: namespace.root(), name, body };
    let (key, epoch) = (CommitKey([n; 16]), model::Epoch(1));
    Commit { namespace, epoch, key, seen: Position::START, operations: vec![operation] }
}

fn changeset(namespace: NamespaceId, n: u8, block: &'static [u8]) -> ChangesetHead {
    ChangesetHead { blocks: headers(&[block]), bases: None, commit: Some(file(namespace, n, block).into()) }
}

/// A rule: panics if it does not hold.
type Rule = fn(&World);

const RULES: &[(&str, Rule)] = &[
    ("what nobody committed goes after the grace and no sooner", uncommitted_blocks_go),
    ("a look changes nothing and says what would be done", a_look_changes_nothing),
    ("what a journal names stays, whatever became of the file", named_blocks_stay),
    ("scenario 51: an upload that is under way loses nothing", an_unfinished_upload),
    ("scenario 52: a block that is committed between mark and sweep stays", committed_between_mark_and_sweep),
    ("scenario 52: a block that is stored between mark and sweep stays until its commit", stored_before_the_sweep),
    ("blocks that share an object are spared one by one", some_blocks_of_an_upload_stored_again),
    ("a block that is being removed cannot be stored until it is gone", nothing_overtakes_a_removal),
    ("a removal that was broken off is ended by another run", a_broken_removal_is_ended),
    ("a late word that a removal has ended does not end another's", a_late_word_ends_no_other_removal),
    ("of two clean-ups at once each block is removed by one", two_clean_ups),
];

fn check(new: &dyn Fn() -> Arc<dyn MetadataStore>, blocks: fn() -> Blocks) {
    for (rule, check) in RULES {
        let world = World::new(new(), blocks());
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&world)));
        assert!(result.is_ok(), "the rule `{rule}` does not hold");
    }
}

fn in_memory() -> Arc<dyn MetadataStore> {
    Arc::new(SqliteStore::in_memory().expect("opens"))
}

/// Each time another database of the server.
fn new_databases(server: &PrivateServer) -> impl Fn() -> Arc<dyn MetadataStore> {
    let databases = AtomicU8::new(0);
    move || {
        let name = format!("syncline_clean_up_{}", databases.fetch_add(1, Ordering::SeqCst));
        let options = server.new_database(&name);
        let pauses = Pauses::new(std::thread::sleep, |n| n / 2);
        Arc::new(MysqlStore::open(&options, Some(PrivateServer::PASSWORD), pauses).expect("opens"))
    }
}

#[test]
fn the_clean_up_takes_nothing_that_is_needed_on_sqlite() {
    check(&in_memory, Blocks::in_memory);
}

#[test]
fn the_clean_up_takes_nothing_that_is_needed_on_mariadb() {
    check(&new_databases(&PrivateServer::start()), Blocks::in_memory);
}

#[test]
fn the_clean_up_takes_nothing_that_is_needed_from_a_bucket_on_sqlite() {
    check(&in_memory, Blocks::in_bucket);
}

#[test]
fn the_clean_up_takes_nothing_that_is_needed_from_a_bucket_on_mariadb() {
    check(&new_databases(&PrivateServer::start()), Blocks::in_bucket);
}

#[test]
fn a_bucket_keeps_the_contract_of_block_stores_with_its_index_on_sqlite_and_on_mariadb() {
    let server = PrivateServer::start();
    for metadata in [in_memory(), new_databases(&server)()] {
        contract::check(&*World::new(metadata, Blocks::in_bucket()).server().store);
    }
}

fn uncommitted_blocks_go(world: &World) {
    let server = world.server();
    let (who, _) = server.device();
    server.upload(who, &[b"draft", b"other draft"]).expect("uploads");
    assert_eq!(server.clean_up(), CleanUpReport { blocks: 2, ..CleanUpReport::default() }, "its note is there still");
    world.pass(DAY);
    assert_eq!(server.clean_up().marked, 2);
    world.pass(23 * HOUR);
    assert_eq!(server.clean_up(), CleanUpReport { blocks: 2, waiting: 2, ..CleanUpReport::default() });
    world.pass(2 * HOUR);
    let swept = CleanUpReport { blocks: 2, removed: 2, removed_bytes: 16, ..CleanUpReport::default() };
    assert_eq!(server.clean_up(), swept);
    assert_eq!(server.clean_up(), CleanUpReport::default());
    server.upload(who, &[b"draft"]).expect("can come back");
    assert!(world.has(b"draft"));
}

fn a_look_changes_nothing(world: &World) {
    let server = world.server();
    let (who, _) = server.device();
    server.upload(who, &[b"draft"]).expect("uploads");
    world.pass(DAY);
    server.meta.clean_up().expect("forgets uploads");
    let look = || server.clean_up.run(CleanUpMode::Look).expect("looks");
    for _ in 0..2 {
        assert_eq!(look(), CleanUpReport { blocks: 1, marked: 1, ..CleanUpReport::default() });
        world.pass(DAY);
    }
    server.mark();
    world.pass(DAY);
    assert_eq!(look(), CleanUpReport { blocks: 1, removed: 1, removed_bytes: 5, ..CleanUpReport::default() });
    assert!(world.has(b"draft"));
}

fn named_blocks_stay(world: &World) {
    let server = world.server();
    let (who, root) = server.device();
    server.service.changeset(who, changeset(root, 1, b"kept"), bytes(&[b"kept"])).expect("commits");
    let delete = Operation::Delete { node: NodeId([1; 16]), base_content: Position(1), base_location: Position(1) };
    let deletion = Commit { key: CommitKey([2; 16]), operations: vec![delete], ..file(root, 1, b"kept") };
    assert!(matches!(server.meta.commit(who, deletion), Ok(CommitOutcome::Accepted { .. })));
    for _ in 0..3 {
        world.pass(DAY);
        assert_eq!(server.clean_up(), CleanUpReport { blocks: 1, ..CleanUpReport::default() });
    }
    assert!(server.reads(who, root, b"kept"), "it can be restored");
}

fn an_unfinished_upload(world: &World) {
    let server = world.server();
    let (who, root) = server.device();
    let mut upload = server.service.begin(who, changeset(root, 1, b"slow")).expect("begins");
    server.service.store_next(&mut upload, vec![Parcel::plain(Bytes::from_static(b"slow"))]).expect("stores");
    server.clean_up();
    world.pass(i64::try_from(limits::LONGEST_UPLOAD.as_millis()).expect("fits"));
    server.clean_up();
    assert!(matches!(server.service.finish(&upload).expect("ends").outcome, Some(CommitOutcome::Accepted { .. })));
    world.pass(DAY);
    server.clean_up();
    assert!(server.reads(who, root, b"slow"));
}

/// Marks a block that nobody names, and lets the grace pass.
fn marked(world: &World, server: &Server, who: Identity, block: &'static [u8]) {
    server.upload(who, &[block]).expect("uploads");
    world.pass(DAY);
    assert_eq!(server.mark().marked, 1);
    world.pass(DAY);
}

fn committed_between_mark_and_sweep(world: &World) {
    let (server, other) = (world.server(), world.server());
    let (who, root) = server.device();
    marked(world, &server, who, b"again");
    other.service.changeset(who, changeset(root, 1, b"again"), bytes(&[b"again"])).expect("commits");
    assert_eq!(server.sweep(), 0);
    world.pass(DAY);
    assert_eq!(server.clean_up().removed, 0);
    assert!(other.reads(who, root, b"again"));
}

fn stored_before_the_sweep(world: &World) {
    let (server, other) = (world.server(), world.server());
    let (who, root) = server.device();
    marked(world, &server, who, b"again");
    let mut upload = other.service.begin(who, changeset(root, 1, b"again")).expect("begins");
    other.service.store_next(&mut upload, vec![Parcel::plain(Bytes::from_static(b"again"))]).expect("stores");
    assert_eq!(server.sweep(), 0, "who stores a block takes its mark away");
    server.clean_up();
    other.service.finish(&upload).expect("commits");
    assert!(other.reads(who, root, b"again"));
}

fn some_blocks_of_an_upload_stored_again(world: &World) {
    let (server, other) = (world.server(), world.server());
    let (who, root) = server.device();
    let all: [&'static [u8]; 5] = [b"one", b"two", b"three", b"four", b"five"];
    server.upload(who, &all).expect("uploads");
    world.pass(DAY);
    assert_eq!(server.mark().marked, 5);
    world.pass(DAY);
    for (n, block) in (1..).zip(&all[..2]) {
        other.service.changeset(who, changeset(root, n, block), bytes(&[block])).expect("commits");
    }
    assert_eq!(server.clean_up().removed, 3);
    for _ in 0..2 {
        world.pass(DAY);
        assert_eq!(other.clean_up().removed, 0);
        assert!(all[..2].iter().all(|block| server.reads(who, root, block) && other.reads(who, root, block)));
        assert!(!all[2..].iter().any(|block| world.has(block)));
    }
}

fn nothing_overtakes_a_removal(world: &World) {
    let (server, other) = (world.server(), world.server());
    let (who, root) = server.device();
    marked(world, &server, who, b"going");
    let condemned = server.meta.condemn(10).expect("condemns");
    assert_eq!(condemned.blocks, [BlockHash::of(b"going")]);
    let upload = || other.service.changeset(who, changeset(root, 1, b"going"), bytes(&[b"going"]));
    let refused = upload().expect_err("is refused");
    assert!(refused.code.is_transient() && refused.retry_after_ms.is_some(), "{refused:?}");
    assert_eq!(MetaForBlocks::missing(&*other.meta, who, &condemned.blocks).expect("answers"), [true]);
    server.store.remove(&condemned.blocks).expect("removes");
    assert_eq!(upload().expect_err("is refused").code, ErrorCode::Unavailable);
    server.meta.removed(&condemned).expect("forgets");
    assert!(matches!(upload().expect("commits").outcome, Some(CommitOutcome::Accepted { .. })));
    assert!(other.reads(who, root, b"going"));
}

fn a_broken_removal_is_ended(world: &World) {
    let (server, other) = (world.server(), world.server());
    let (who, _) = server.device();
    marked(world, &server, who, b"going");
    assert_eq!(server.meta.condemn(10).expect("condemns").blocks.len(), 1);
    assert_eq!(other.sweep(), 0, "somebody is at it");
    world.pass(HOUR);
    assert_eq!(other.sweep(), 1);
    assert!(!world.has(b"going"));
    other.upload(who, &[b"going"]).expect("can come back");
}

fn a_late_word_ends_no_other_removal(world: &World) {
    let (server, other) = (world.server(), world.server());
    let (who, root) = server.device();
    marked(world, &server, who, b"going");
    let slow = server.meta.condemn(10).expect("condemns");
    world.pass(HOUR);
    let quick = other.meta.condemn(10).expect("takes it up");
    assert_eq!(slow.blocks, quick.blocks);
    server.meta.removed(&slow).expect("answers");
    let upload = || other.service.changeset(who, changeset(root, 1, b"going"), bytes(&[b"going"]));
    assert_eq!(upload().expect_err("the other one removes it").code, ErrorCode::Unavailable);
    server.store.remove(&quick.blocks).expect("removes");
    other.meta.removed(&quick).expect("forgets");
    assert!(matches!(upload().expect("commits").outcome, Some(CommitOutcome::Accepted { .. })));
    assert!(other.reads(who, root, b"going"));
}

fn two_clean_ups(world: &World) {
    let (server, other) = (world.server(), world.server());
    let (who, _) = server.device();
    let blocks: Vec<&'static [u8]> = (0..=255_u8).map(|n| &*Vec::leak(vec![n; 3])).collect();
    for chunk in blocks.chunks(64) {
        server.upload(who, chunk).expect("uploads");
    }
    world.pass(DAY);
    server.mark();
    world.pass(DAY);
    let removed: u64 = std::thread::scope(|scope| {
        let runs = [&server, &other].map(|server| scope.spawn(|| server.sweep()));
        runs.into_iter().map(|run| run.join().expect("no panic")).sum()
    });
    assert_eq!(removed, 256);
    assert_eq!(server.store.list(None, 1).expect("lists"), []);
}

/// Devices go on uploading and committing the same few blocks while clean-ups run: whatever is committed is
/// there.
#[test]
fn clean_ups_and_uploads_at_the_same_time_lose_nothing() {
    for blocks in [Blocks::in_memory(), Blocks::in_bucket()] {
        clean_up_and_upload(&World::new(in_memory(), blocks));
    }
}

fn clean_up_and_upload(world: &World) {
    let server = world.server();
    let (who, root) = server.device();
    let contents: [&'static [u8]; 4] = [b"a", b"b", b"c", b"d"];
    let ended = AtomicU8::new(0);
    std::thread::scope(|scope| {
        let uploads = scope.spawn(|| {
            for n in 0..120_u8 {
                let block = contents[usize::from(n) % 4];
                let done = if n % 5 == 0 {
                    let head = changeset(root, n + 1, block);
                    server.service.changeset(who, head, bytes(&[block])).map(drop)
                } else {
                    // Two that share an object, where that is done.
                    server.upload(who, &[block, contents[usize::from(n + 1) % 4]])
                };
                assert!(done.is_ok() || done.is_err_and(|error| error.code.is_transient()));
                ended.fetch_add(1, Ordering::SeqCst);
            }
        });
        let mut seen = 0;
        while !uploads.is_finished() {
            // At most one such jump falls into one upload, which is less than the grace.
            let now = ended.load(Ordering::SeqCst);
            if now != seen {
                world.pass(13 * HOUR);
                seen = now;
            }
            server.clean_up();
        }
    });
    for hash in server.meta.named(None, 100).expect("answers") {
        assert!(server.store.get(&hash).expect("answers").is_some(), "{hash} is named");
    }
}
