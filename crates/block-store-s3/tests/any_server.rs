//! The store against an S3 server of one's own choice: Ceph, Garage, AWS. Ignored, since nothing here starts one;
//! CONTRIBUTING.md tells how to run it.

use api::service::{Announce, PackIndex};
use block_store::BlockStore;
use block_store::contract::{self, block};
use block_store_s3::{Credentials, S3BlockStore, S3Options};
use meta_service::{Environment, MetaService};
use metadata_store::SqliteStore;
use model::{AccountId, DeviceId, InstanceId, NamespaceId, Position, Timestamp};
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The URL of a place in a bucket, as the server's settings take it.
const BUCKET: &str = "SYNCLINE_TEST_BUCKET";
/// The file with what requests are signed with.
const CREDENTIALS: &str = "SYNCLINE_TEST_BUCKET_CREDENTIALS";
const INSTANCE: InstanceId = InstanceId([1; 16]);
/// One more than a server lists in one answer, and some.
const MORE_THAN_A_PAGE: u64 = 1_100;

fn setting(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

fn credentials() -> Credentials {
    let file = setting(CREDENTIALS);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("cannot read {file}: {error}"));
    Credentials::from_text(&text).expect("the file holds credentials")
}

/// A place in the bucket that nothing has used yet.
#[expect(clippy::disallowed_methods, reason = "the bucket outlives the test, and no two runs may share a place")]
fn empty_place(name: &str, packs: &str) -> S3Options {
    let url = setting(BUCKET);
    let (place, settings) = url.split_once('?').unwrap_or((&url, ""));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right").as_nanos();
    let url = format!("{}/{name}-{now}?{settings}&packs={packs}", place.trim_end_matches('/'));
    S3Options::from_url(&url).expect("the URL names a bucket")
}

fn below(n: u64) -> u64 {
    static DRAWN: AtomicU64 = AtomicU64::new(7);
    DRAWN.fetch_add(0x9e37_79b9, Ordering::Relaxed) % n
}

fn open(place: &S3Options, index: Arc<dyn PackIndex>) -> S3BlockStore {
    S3BlockStore::open(place, credentials(), INSTANCE, index, below).expect("opens")
}

/// The meta service over a database of its own.
fn index() -> Arc<dyn PackIndex> {
    let environment = Environment::new(|| Timestamp(1_800_000_000_000), |bytes| bytes.fill(7));
    let database = Arc::new(SqliteStore::in_memory().expect("opens"));
    Arc::new(MetaService::new(database, Arc::new(Nobody), environment).expect("starts"))
}

/// Nobody follows a journal.
struct Nobody;

impl Announce for Nobody {
    fn reached(&self, _: NamespaceId, _: Position) {}
    fn memberships_changed(&self, _: AccountId) {}
    fn unlinked(&self, _: DeviceId) {}
}

#[test]
#[ignore = "needs a server"]
fn the_contract_holds() {
    for packs in ["on", "off"] {
        contract::check(&open(&empty_place("contract", packs), index()));
    }
}

#[test]
#[ignore = "needs a server"]
fn small_blocks_are_packed_compacted_and_found_again() {
    let place = empty_place("packed", "on");
    let known = index();
    let (store, other) = (open(&place, known.clone()), open(&place, known));
    let blocks: Vec<_> = (0..40).map(|seed| block(seed, 5_000)).collect();
    let hashes: Vec<_> = blocks.iter().map(block_store::Block::hash).collect();
    let left = |store: &S3BlockStore| {
        let found = store.get_all(&hashes[30..]).expect("answers");
        found.iter().zip(&blocks[30..]).all(|(found, block)| found.as_ref() == Some(block.bytes()))
    };
    store.put(&blocks).expect("puts");
    assert!(left(&other));
    store.remove(&hashes[..30]).expect("removes");
    assert!(store.compact().expect("compacts").freed_bytes > 30 * 5_000);
    assert!(left(&store) && left(&other));
    let ignorant = open(&place, index());
    assert!(!left(&ignorant));
    assert_eq!(ignorant.reindex().expect("finds"), 10);
    assert!(left(&ignorant));
}

#[test]
#[ignore = "needs a server"]
fn two_servers_of_one_installation_share_a_place_and_put_the_same_at_once() {
    let (place, index) = (empty_place("shared", "on"), index());
    let (one, other) = (open(&place, index.clone()), open(&place, index));
    let blocks: Vec<_> = (0..30).map(|seed| block(seed, 200_000)).collect();
    std::thread::scope(|scope| {
        for store in [&one, &other, &one, &other] {
            scope.spawn(|| store.put(&blocks).expect("puts"));
        }
    });
    for store in [&one, &other] {
        assert_eq!(store.list(None, 100).expect("lists").len(), blocks.len());
        for block in &blocks {
            assert_eq!(store.get(&block.hash()).expect("answers").as_ref(), Some(block.bytes()));
        }
    }
}

#[test]
#[ignore = "needs a server"]
fn more_blocks_than_one_answer_lists_are_all_listed() {
    let store = open(&empty_place("listed", "off"), index());
    let blocks: Vec<_> = (0..MORE_THAN_A_PAGE).map(|seed| block(seed, 20)).collect();
    store.put(&blocks).expect("puts");
    let expected: BTreeSet<_> = blocks.iter().map(block_store::Block::hash).collect();
    let mut found = Vec::new();
    loop {
        let page = store.list(found.last().copied(), 300).expect("lists");
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
}

#[test]
#[ignore = "needs a server"]
fn a_place_of_another_installation_and_wrong_credentials_are_refused() {
    let place = empty_place("refused", "on");
    open(&place, index()).put(&[block(1, 10)]).expect("puts");
    let foreign = S3BlockStore::open(&place, credentials(), InstanceId([2; 16]), index(), |_| 0);
    assert!(matches!(foreign.err(), Some(block_store::StoreError::OtherInstance { found: INSTANCE, .. })));
    let wrong = Credentials::new("nobody".into(), "a secret of nobody's".into(), None);
    let refused = S3BlockStore::open(&place, wrong, INSTANCE, index(), |_| 0);
    assert!(matches!(refused.err(), Some(block_store::StoreError::Remote { .. })));
}
