use crate::private_server::{Fault, Faults, PrivateServer};
use crate::retry::Patience;
use crate::{Credentials, S3BlockStore, S3Options};
use api::service::{Announce, PackIndex};
use block_store::contract::{self, block};
use block_store::{Block, BlockStore, StoreError};
use meta_service::{Environment, MetaService};
use metadata_store::SqliteStore;
use model::{AccountId, BlockHash, DeviceId, InstanceId, NamespaceId, Position, Timestamp};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const INSTANCE: InstanceId = InstanceId([1; 16]);

/// Waits little, so that a test of a server that stalls ends soon. The attempts are many, since on a busy
/// machine a sound answer may come late too.
const HASTY: Patience = Patience {
    attempt: Duration::from_millis(1000),
    attempts: 12,
    first_pause: Duration::from_millis(5),
    longest_pause: Duration::from_millis(50),
};

/// What all stores of the tests draw from.
static DRAWN: AtomicU64 = AtomicU64::new(7);

fn below(n: u64) -> u64 {
    DRAWN.fetch_add(0x9e37_79b9, Ordering::Relaxed) % n
}

fn try_open(options: &S3Options, credentials: Credentials, instance: InstanceId) -> Result<S3BlockStore, StoreError> {
    S3BlockStore::open_with(options, credentials, instance, index(), HASTY, below)
}

fn open(server: &PrivateServer, prefix: &str) -> S3BlockStore {
    open_beside(server, prefix, index())
}

/// A store of a server that shares its metadata database with others.
pub(crate) fn open_beside(server: &PrivateServer, prefix: &str, index: Arc<dyn PackIndex>) -> S3BlockStore {
    let options = server.options(prefix);
    S3BlockStore::open_with(&options, PrivateServer::credentials(), INSTANCE, index, HASTY, below).expect("opens")
}

/// An open store that puts no small blocks together.
pub(crate) fn open_without_packs(server: &PrivateServer, index: Arc<dyn PackIndex>) -> S3BlockStore {
    let options = S3Options::from_url(&format!("{}&packs=off", server.url(""))).expect("is valid");
    S3BlockStore::open_with(&options, PrivateServer::credentials(), INSTANCE, index, HASTY, below).expect("opens")
}

/// The meta service over a database of its own.
pub(crate) fn index() -> Arc<dyn PackIndex> {
    index_over(SqliteStore::in_memory().expect("opens"))
}

pub(crate) fn index_over(database: SqliteStore) -> Arc<dyn PackIndex> {
    let environment = Environment::new(|| Timestamp(1_800_000_000_000), |bytes| bytes.fill(7));
    Arc::new(MetaService::new(Arc::new(database), Arc::new(Nobody), environment).expect("starts"))
}

/// Nobody follows a journal.
struct Nobody;

impl Announce for Nobody {
    fn reached(&self, _: NamespaceId, _: Position) {}
    fn memberships_changed(&self, _: AccountId) {}
    fn unlinked(&self, _: DeviceId) {}
}

fn object(server: &PrivateServer, prefix: &str, hash: &BlockHash) -> std::path::PathBuf {
    let name = hash.to_string();
    server.objects().join(prefix).join("blocks").join(&name[..2]).join(name)
}

#[test]
fn the_contract_holds() {
    let server = PrivateServer::start();
    contract::check(&open(&server, ""));
    contract::check(&open(&server, "some/prefix"));
}

#[test]
fn the_contract_holds_without_packs() {
    let server = PrivateServer::start();
    contract::check(&open_without_packs(&server, index()));
    assert!(!server.objects().join("packs").exists());
}

#[test]
fn a_damaged_block_is_told_and_healed() {
    let server = PrivateServer::start();
    let store = open_without_packs(&server, index());
    contract::check_healing(&store, |hash| {
        let path = object(&server, "", hash);
        let mut bytes = fs::read(&path).expect("the object is there");
        bytes[100] ^= 1;
        fs::write(&path, bytes).expect("writes");
    });
}

#[test]
fn the_contract_holds_while_one_request_in_five_fails() {
    let server = PrivateServer::start();
    for (store, seed) in [(open(&server, "packing"), 42), (open_without_packs(&server, index()), 43)] {
        server.set_faults(Faults { per_mille: 200, kinds: Faults::ALL_KINDS, seed });
        contract::check(&store);
        server.set_faults(Faults::NONE);
    }
}

#[test]
fn every_kind_of_fault_is_outlasted_and_nothing_is_lost() {
    std::thread::scope(|scope| {
        for (seed, kind) in (1..).zip(Faults::ALL_KINDS) {
            scope.spawn(move || outlast(std::slice::from_ref(kind), seed));
        }
    });
}

fn outlast(kinds: &'static [Fault], seed: u64) {
    let server = PrivateServer::start();
    let store = open_without_packs(&server, index());
    let packing = open(&server, "packing");
    server.set_faults(Faults { per_mille: 250, kinds, seed });
    let blocks: Vec<_> = (0..20).map(|i| block(seed * 100 + i, 3000)).collect();
    store.put(&blocks).expect("puts");
    for group in blocks.chunks(4) {
        packing.put(group).expect("puts");
        let read = packing.get_all(&group.iter().map(Block::hash).collect::<Vec<_>>()).expect("answers");
        assert!(read.iter().zip(group).all(|(read, block)| read.as_ref() == Some(block.bytes())), "{kinds:?}");
    }
    for block in &blocks {
        let read = store.get(&block.hash()).expect("answers");
        assert_eq!(read.as_ref(), Some(block.bytes()), "{kinds:?}");
    }
    server.set_faults(Faults::NONE);
    assert_eq!(store.list(None, 100).expect("lists").len(), blocks.len());
}

#[test]
fn a_server_that_never_answers_is_an_error_and_no_absence() {
    let server = PrivateServer::start();
    let hasty = Patience { attempt: Duration::from_millis(100), attempts: 2, ..HASTY };
    let store =
        S3BlockStore::open_with(&server.options(""), PrivateServer::credentials(), INSTANCE, index(), hasty, |_| 0);
    let store = store.expect("opens");
    for kind in [&[Fault::Stall], &[Fault::Status(503)]] {
        server.set_faults(Faults { per_mille: 1000, kinds: kind, seed: 1 });
        let hash = BlockHash([9; 32]);
        assert!(matches!(store.put(&[block(1, 10)]), Err(StoreError::Remote { .. })));
        assert!(matches!(store.get(&hash), Err(StoreError::Remote { .. })));
        assert!(matches!(store.lengths(&[hash]), Err(StoreError::Remote { .. })));
        assert!(matches!(store.list(None, 1), Err(StoreError::Remote { .. })));
    }
}

/// A gateway was stopped with a request to remove a block, another one removed it, the block was stored again, and the
/// first one went on.
#[test]
fn a_removal_is_not_done_as_long_as_an_earlier_request_may_still_be_carried_out() {
    let server = PrivateServer::start();
    let store = open_without_packs(&server, index());
    let block = block(1, 10);
    store.put(std::slice::from_ref(&block)).expect("puts");
    server.set_faults(Faults { per_mille: 1000, kinds: &[Fault::StallRemoval], seed: 1 });
    let removed = std::thread::scope(|scope| {
        let removal = scope.spawn(|| store.remove(&[block.hash()]));
        while server.stalled() == 0 {
            std::thread::yield_now();
        }
        server.set_faults(Faults::NONE);
        removal.join().expect("ends")
    });
    assert!(matches!(removed, Err(StoreError::Remote { what: "be sure of a removal from", .. })), "{removed:?}");
    assert_eq!(store.get(&block.hash()).expect("answers"), None, "it is gone all the same");
    store.remove(&[block.hash()]).expect("now it is sure");

    // A server that says that it did not do it will not do it later.
    server.set_faults(Faults { per_mille: 500, kinds: &[Fault::Status(503)], seed: 3 });
    let blocks: Vec<_> = (0..20).map(|i| contract::block(i, 10)).collect();
    store.put(&blocks).expect("puts");
    store.remove(&blocks.iter().map(Block::hash).collect::<Vec<_>>()).expect("removes");
}

/// None of them ended in its time, and so they were sent again, all of them, until they were given up.
#[test]
fn what_a_slow_link_carries_one_after_the_other_is_stored() {
    let server = PrivateServer::start();
    let store = open_without_packs(&server, index());
    let blocks: Vec<_> = (0..10).map(|i| block(i, 300_000)).collect();
    // A quarter of a second for each, of the one second that it has.
    server.set_bandwidth(1_200_000);
    store.put(&blocks).expect("puts");
    server.set_bandwidth(0);
    assert_eq!(store.list(None, 100).expect("lists").len(), blocks.len());
}

#[test]
fn a_bucket_of_another_server_is_refused() {
    let server = PrivateServer::start();
    open(&server, "ours").put(&[block(1, 10)]).expect("puts");
    let foreign = try_open(&server.options("ours"), PrivateServer::credentials(), InstanceId([2; 16]));
    let is_refused = |error| matches!(error, Some(StoreError::OtherInstance { found: INSTANCE, .. }));
    assert!(is_refused(foreign.err()));
    try_open(&server.options("theirs"), PrivateServer::credentials(), InstanceId([2; 16])).expect("has its own place");
}

#[test]
fn nothing_is_removed_from_a_bucket_that_became_anothers() {
    let server = PrivateServer::start();
    let store = open(&server, "");
    store.put(&[block(1, 10)]).expect("puts");
    let instance = format!("syncline block store 1\n{}\n", InstanceId([2; 16]));
    fs::write(server.objects().join("instance"), instance).expect("writes");
    assert!(matches!(store.remove(&[block(1, 10).hash()]), Err(StoreError::OtherInstance { .. })));
    assert!(object(&server, "", &block(1, 10).hash()).exists());
}

#[test]
fn blocks_that_belong_to_nobody_are_not_taken() {
    let server = PrivateServer::start();
    open(&server, "").put(&[block(1, 10)]).expect("puts");
    let instance = server.objects().join("instance");
    fs::remove_file(&instance).expect("removes");
    let opened = try_open(&server.options(""), PrivateServer::credentials(), INSTANCE);
    assert!(matches!(opened.err(), Some(StoreError::UnknownInstance { .. })));
    fs::write(&instance, "syncline block store 3\n").expect("writes");
    let opened = try_open(&server.options(""), PrivateServer::credentials(), INSTANCE);
    assert!(matches!(opened.err(), Some(StoreError::UnknownFormat { found: 3, .. })));
}

#[test]
fn a_missing_bucket_and_wrong_credentials_are_refused_at_once() {
    let server = PrivateServer::start();
    let elsewhere = S3Options::from_url(&format!("s3://nowhere?endpoint={}", server.endpoint())).expect("is valid");
    let opened = try_open(&elsewhere, PrivateServer::credentials(), INSTANCE);
    assert!(matches!(opened.err(), Some(StoreError::Remote { .. })));
    let wrong = Credentials::new(PrivateServer::KEY_ID.into(), "another secret".into(), None);
    let opened = try_open(&server.options(""), wrong, INSTANCE);
    assert!(matches!(opened.err(), Some(StoreError::Remote { .. })));
}

#[test]
fn two_servers_of_one_installation_share_a_bucket() {
    let server = PrivateServer::start();
    let index = index();
    let (one, other) = (open_beside(&server, "", index.clone()), open_beside(&server, "", index));
    std::thread::scope(|scope| {
        for store in [&one, &other, &one, &other] {
            scope.spawn(|| store.put(&(0..30).map(|i| block(i, 2000)).collect::<Vec<_>>()).expect("puts"));
        }
    });
    assert_eq!(one.list(None, 100).expect("lists").len(), 30);
    assert!((0..30).all(|i| other.get(&block(i, 2000).hash()).expect("answers").is_some()));
}

#[test]
fn objects_of_others_among_the_blocks_are_not_listed() {
    let server = PrivateServer::start();
    let store = open_without_packs(&server, index());
    store.put(&[block(1, 10), block(2, 10)]).expect("puts");
    for name in ["blocks/00/readme", "blocks/zz/zz", "blocks/ab"] {
        let path = server.objects().join(name);
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            fs::create_dir_all(folder).expect("makes a folder");
        }
        fs::write(path, "no block").ok();
    }
    let mut expected = vec![block(1, 10).hash(), block(2, 10).hash()];
    expected.sort();
    assert_eq!(store.list(None, 2).expect("lists"), expected);
    assert_eq!(store.list(None, 100).expect("lists"), expected);
    assert_eq!(store.list(Some(expected[0]), 100).expect("lists"), expected[1..]);
}
