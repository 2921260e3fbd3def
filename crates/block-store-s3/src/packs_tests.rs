//! Packs: what shares one, what becomes of those that are partly or wholly unused, and what an index that fails,
//! lags, or is an older copy can do to them.

use crate::S3BlockStore;
use crate::leaving;
use crate::private_server::{Fault, Faults, PrivateServer};
use crate::tests::{index, index_over, open_beside, open_without_packs};
use api::service::{NewPlace, PackIndex, PackState};
use api::{ApiError, ErrorCode};
use block_store::contract::{self, block};
use block_store::{Block, BlockStore, Compaction, StoreError};
use metadata_store::SqliteStore;
use model::{BlockHash, PackId, PackedBlock};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

fn blocks(seeds: std::ops::Range<u64>, len: usize) -> Vec<Block> {
    seeds.map(|seed| block(seed, len)).collect()
}

fn hashes(blocks: &[Block]) -> Vec<BlockHash> {
    blocks.iter().map(Block::hash).collect()
}

fn reads_all(store: &S3BlockStore, blocks: &[Block]) -> bool {
    let read = store.get_all(&hashes(blocks)).expect("answers");
    read.iter().zip(blocks).all(|(read, block)| read.as_ref() == Some(block.bytes()))
}

fn has(store: &S3BlockStore, block: &Block) -> bool {
    store.get(&block.hash()).expect("answers").is_some()
}

/// Compacts; the bytes that were given back.
fn freed(store: &S3BlockStore) -> u64 {
    store.compact().expect("compacts").freed_bytes
}

/// The files below a folder of the bucket.
fn files(server: &PrivateServer, folder: &str) -> Vec<PathBuf> {
    let below = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("reads").path());
    let mut found: Vec<PathBuf> = below(server.objects().join(folder)).flat_map(below).collect();
    found.sort();
    found
}

/// An index with something in front of some of its calls.
struct Watched {
    inner: Arc<dyn PackIndex>,
    /// Done once, before the next note.
    before_note: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// Done once, behind the next answer to where blocks are.
    after_find: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// Calls that fail.
    keep_fails: bool,
    note_fails: bool,
    end_fails: bool,
}

impl Watched {
    /// One with nothing in front.
    fn over(inner: &Arc<dyn PackIndex>) -> Self {
        let (before_note, after_find) = (Mutex::default(), Mutex::default());
        Self { inner: inner.clone(), before_note, after_find, keep_fails: false, note_fails: false, end_fails: false }
    }

    fn failing_keeps(inner: &Arc<dyn PackIndex>) -> Arc<Self> {
        Arc::new(Self { keep_fails: true, ..Self::over(inner) })
    }

    fn failing_notes(inner: &Arc<dyn PackIndex>) -> Arc<Self> {
        Arc::new(Self { note_fails: true, ..Self::over(inner) })
    }

    fn failing_ends(inner: &Arc<dyn PackIndex>) -> Arc<Self> {
        Arc::new(Self { end_fails: true, ..Self::over(inner) })
    }

    fn before_note(inner: &Arc<dyn PackIndex>, work: impl FnOnce() + Send + 'static) -> Arc<Self> {
        let before_note = Mutex::new(Some(Box::new(work) as Box<dyn FnOnce() + Send>));
        Arc::new(Self { before_note, ..Self::over(inner) })
    }

    fn after_find(inner: &Arc<dyn PackIndex>, work: impl FnOnce() + Send + 'static) -> Arc<Self> {
        let after_find = Mutex::new(Some(Box::new(work) as Box<dyn FnOnce() + Send>));
        Arc::new(Self { after_find, ..Self::over(inner) })
    }
}

fn down() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "down on purpose")
}

impl PackIndex for Watched {
    fn keep(&self, blocks: &[BlockHash]) -> Result<(), ApiError> {
        if self.keep_fails { Err(down()) } else { self.inner.keep(blocks) }
    }
    fn find_packed(&self, blocks: &[BlockHash]) -> Result<Vec<Option<PackedBlock>>, ApiError> {
        let found = self.inner.find_packed(blocks);
        let work = self.after_find.lock().expect("not poisoned").take();
        work.into_iter().for_each(|work| work());
        found
    }
    fn note_packed(&self, pack: PackId, blocks: &[NewPlace]) -> Result<(), ApiError> {
        let work = self.before_note.lock().expect("not poisoned").take();
        work.into_iter().for_each(|work| work());
        if self.note_fails { Err(down()) } else { self.inner.note_packed(pack, blocks) }
    }
    fn forget_packed(&self, blocks: &[BlockHash]) -> Result<Vec<PackId>, ApiError> {
        self.inner.forget_packed(blocks)
    }
    fn list_packed(&self, after: Option<BlockHash>, limit: usize) -> Result<Vec<BlockHash>, ApiError> {
        self.inner.list_packed(after, limit)
    }
    fn packs(&self, packs: &[PackId]) -> Result<Vec<PackState>, ApiError> {
        self.inner.packs(packs)
    }
    fn places_in(&self, pack: PackId) -> Result<Vec<PackedBlock>, ApiError> {
        self.inner.places_in(pack)
    }
    fn end_pack(&self, pack: PackId) -> Result<bool, ApiError> {
        if self.end_fails { Err(down()) } else { self.inner.end_pack(pack) }
    }
}

#[test]
fn small_blocks_that_come_together_share_an_object_and_a_request() {
    let (server, index) = (PrivateServer::start(), index());
    let (store, other) = (open_beside(&server, "", index.clone()), open_beside(&server, "", index));
    let blocks = blocks(0..100, 4096);
    let before = server.requests();
    store.put(&blocks).expect("puts");
    assert_eq!(server.requests() - before, 1);
    assert_eq!((files(&server, "packs").len(), files(&server, "blocks").len()), (1, 0));
    let before = server.requests();
    assert!(reads_all(&other, &blocks));
    assert_eq!(server.requests() - before, 1);
    assert_eq!(other.lengths(&hashes(&blocks)).expect("answers"), vec![Some(4096); 100]);
}

#[test]
fn a_small_block_alone_and_large_blocks_are_objects_of_their_own() {
    let (server, index) = (PrivateServer::start(), index());
    let store = open_beside(&server, "", index);
    let all = [block(1, 10), block(2, 300_000), block(3, 300_000)];
    store.put(&all).expect("puts");
    assert_eq!((files(&server, "packs").len(), files(&server, "blocks").len()), (0, 3));
    assert!(reads_all(&store, &all));
}

#[test]
fn what_was_packed_is_read_listed_and_removed_with_packing_switched_off() {
    let (server, index) = (PrivateServer::start(), index());
    let packing = open_beside(&server, "", index.clone());
    let (together, alone) = (blocks(0..3, 100), blocks(3..6, 100));
    packing.put(&together).expect("puts");
    let plain = open_without_packs(&server, index);
    plain.put(&alone).expect("puts");
    assert_eq!((files(&server, "packs").len(), files(&server, "blocks").len()), (1, 3));
    let all = [together.clone(), alone].concat();
    let mut expected = hashes(&all);
    expected.sort();
    for store in [&packing, &plain] {
        assert!(reads_all(store, &all));
        assert_eq!(store.list(None, 100).expect("lists"), expected);
        assert_eq!(store.list(Some(expected[1]), 2).expect("lists"), expected[2..4]);
    }
    plain.remove(&hashes(&together)).expect("removes");
    assert!(files(&server, "packs").is_empty());
    assert!(together.iter().all(|block| !has(&packing, block)));
}

#[test]
fn a_bucket_with_packs_is_refused_by_a_program_that_knows_none() {
    let (server, index) = (PrivateServer::start(), index());
    let first_line = || {
        let text = fs::read_to_string(server.objects().join("instance")).expect("reads");
        text.lines().next().expect("has a line").to_owned()
    };
    drop(open_without_packs(&server, index.clone()));
    assert_eq!(first_line(), "syncline block store 1");
    drop(open_beside(&server, "", index.clone()));
    assert_eq!(first_line(), "syncline block store 2");
    drop(open_without_packs(&server, index));
    assert_eq!(first_line(), "syncline block store 2", "what is packed is not unpacked");
}

#[test]
fn damage_in_a_pack_is_told_and_healed() {
    let (server, index) = (PrivateServer::start(), index());
    let store = open_beside(&server, "", index.clone());
    contract::check_healing(&store, |hash| {
        let place = index.find_packed(&[*hash]).expect("answers").pop().flatten().expect("it is packed");
        let path = files(&server, "packs").pop().expect("there is one");
        let mut bytes = fs::read(&path).expect("reads");
        bytes[place.offset as usize + 100] ^= 1;
        fs::write(path, bytes).expect("writes");
    });
    let other = open_beside(&server, "", index);
    assert!(has(&other, &block(7, 5000)), "who finds the damaged copy first finds the whole one too");
}

#[test]
fn no_place_is_noted_in_a_pack_that_is_not_there() {
    let (server, index) = (PrivateServer::start(), index());
    let store = open_beside(&server, "", index.clone());
    server.set_faults(Faults { per_mille: 1000, kinds: &[Fault::Status(503)], seed: 1 });
    assert!(matches!(store.put(&blocks(0..3, 100)), Err(StoreError::Remote { .. })));
    assert_eq!(index.list_packed(None, 10).expect("answers"), []);
}

#[test]
fn blocks_of_an_upload_that_broke_off_before_its_places_were_noted_are_found_and_can_be_removed() {
    let (server, index) = (PrivateServer::start(), index());
    let broken = open_beside(&server, "", Watched::failing_notes(&index));
    let blocks = blocks(0..3, 100);
    assert!(broken.put(&blocks).is_err(), "what has no place is not acknowledged");
    let store = open_beside(&server, "", index);
    assert!(!has(&store, &blocks[0]));
    assert_eq!(freed(&store), 0);
    assert_eq!(store.list(None, 10).expect("lists").len(), 3, "the clean-up hears of them");
    assert!(reads_all(&store, &blocks));
    store.remove(&hashes(&blocks)).expect("removes");
    assert!(files(&server, "packs").is_empty());
}

#[test]
fn a_pack_goes_with_the_last_of_its_blocks_and_not_before() {
    let (server, index) = (PrivateServer::start(), index());
    let (store, other) = (open_beside(&server, "", index.clone()), open_beside(&server, "", index));
    let blocks = blocks(0..3, 100);
    store.put(&blocks).expect("puts");
    other.remove(&hashes(&blocks[..2])).expect("removes");
    assert!(!has(&other, &blocks[0]) && has(&other, &blocks[2]));
    assert!(reads_all(&store, &blocks[2..]));
    other.remove(&hashes(&blocks[2..])).expect("removes");
    assert!(files(&server, "packs").is_empty());
    assert!(blocks.iter().all(|block| !has(&store, block)), "also for whoever remembers the places");
}

#[test]
fn a_removed_block_that_is_uploaded_again_is_found_also_by_who_remembers_its_old_place() {
    let (server, index) = (PrivateServer::start(), index());
    let (store, other) = (open_beside(&server, "", index.clone()), open_beside(&server, "", index));
    let blocks = blocks(0..3, 100);
    store.put(&blocks).expect("puts");
    assert!(reads_all(&other, &blocks));
    store.remove(&hashes(&blocks)).expect("removes");
    for again in [&blocks[..], &blocks[..1]] {
        store.put(again).expect("puts again");
        assert!(reads_all(&other, again), "{} blocks", again.len());
        store.remove(&hashes(again)).expect("removes");
    }
}

#[test]
fn what_is_left_in_packs_that_are_mostly_unused_moves_together_and_stays_readable() {
    for len in [10, 50_000] {
        let (server, index) = (PrivateServer::start(), index());
        let (store, other) = (open_beside(&server, "", index.clone()), open_beside(&server, "", index));
        let all = blocks(0..40, len);
        all.chunks(20).for_each(|chunk| store.put(chunk).expect("puts"));
        assert!(reads_all(&other, &all));
        let split =
            |first: bool| all.iter().enumerate().filter(move |(n, _)| (n % 20 < 12) == first).map(|(_, b)| b.clone());
        let (gone, left): (Vec<Block>, Vec<Block>) = (split(true).collect(), split(false).collect());
        store.remove(&hashes(&gone)).expect("removes");
        assert!(freed(&store) as usize > gone.len() * len);
        assert_eq!(files(&server, "packs").len(), 1, "blocks of {len} bytes");
        for reader in [&store, &other] {
            assert!(reads_all(reader, &left));
        }
        let before = files(&server, "packs");
        assert_eq!(freed(&store), 0, "there is nothing more to give back");
        assert_eq!(files(&server, "packs"), before);
    }
}

/// A pack of ten blocks of which three are left.
fn mostly_unused(server: &PrivateServer, index: &Arc<dyn PackIndex>) -> (Vec<Block>, Vec<Block>) {
    let store = open_beside(server, "", index.clone());
    let all = blocks(0..10, 1000);
    store.put(&all).expect("puts");
    store.remove(&hashes(&all[3..])).expect("removes");
    (all[..3].to_vec(), all[3..].to_vec())
}

#[test]
fn a_block_that_is_removed_while_its_pack_is_compacted_does_not_come_back() {
    let (server, index) = (PrivateServer::start(), index());
    let (left, _) = mostly_unused(&server, &index);
    let (other, gone) = (open_beside(&server, "", index.clone()), left[0].hash());
    let watched = Watched::before_note(&index, move || other.remove(&[gone]).expect("removes"));
    let store = open_beside(&server, "", watched);
    store.compact().expect("compacts");
    assert!(!has(&store, &left[0]) && reads_all(&store, &left[1..]));
    assert_eq!(store.list(None, 10).expect("lists").len(), 2);
}

#[test]
fn a_block_that_is_uploaded_anew_while_its_pack_is_compacted_keeps_its_new_place() {
    let (server, index) = (PrivateServer::start(), index());
    let (left, _) = mostly_unused(&server, &index);
    let (other, again) = (open_beside(&server, "", index.clone()), vec![left[0].clone(), block(99, 1000)]);
    let uploaded = again.clone();
    let watched = Watched::before_note(&index, move || other.put(&uploaded).expect("puts"));
    let store = open_beside(&server, "", watched);
    store.compact().expect("compacts");
    let place = |block: &Block| index.find_packed(&[block.hash()]).expect("answers").pop().flatten().expect("has one");
    assert_eq!(place(&again[0]).pack, place(&again[1]).pack, "the upload's, and not the compaction's");
    assert!(reads_all(&store, &left) && reads_all(&store, &again));
}

#[test]
fn a_pack_in_which_a_block_is_found_again_while_it_is_compacted_stays() {
    let (server, index) = (PrivateServer::start(), index());
    let (left, unused) = mostly_unused(&server, &index);
    let other = open_beside(&server, "", index.clone());
    let watched = Watched::before_note(&index, move || assert_eq!(other.reindex().expect("finds"), 7));
    let store = open_beside(&server, "", watched);
    store.compact().expect("compacts");
    assert!(reads_all(&store, &left) && reads_all(&store, &unused));
}

#[test]
fn a_compaction_that_breaks_off_loses_nothing_and_is_taken_up_by_the_next() {
    for breaks in [Watched::failing_notes, Watched::failing_ends] {
        let (server, index) = (PrivateServer::start(), index());
        let (left, _) = mostly_unused(&server, &index);
        let broken = open_beside(&server, "", breaks(&index));
        assert!(broken.compact().is_err());
        assert_eq!(files(&server, "packs").len(), 2, "the old one and the new one");
        let store = open_beside(&server, "", index);
        assert!(reads_all(&store, &left));
        for _ in 0..2 {
            store.compact().expect("compacts");
        }
        assert_eq!(files(&server, "packs").len(), 1);
        assert!(reads_all(&store, &left) && reads_all(&broken, &left));
    }
}

#[test]
fn two_servers_that_compact_at_once_and_one_that_reads_all_the_while_lose_nothing() {
    let (server, index) = (PrivateServer::start(), index());
    let stores: Vec<S3BlockStore> = (0..3).map(|_| open_beside(&server, "", index.clone())).collect();
    let all = blocks(0..400, 2000);
    all.chunks(20).for_each(|chunk| stores[0].put(chunk).expect("puts"));
    assert!(reads_all(&stores[2], &all));
    let mut left = all;
    while left.len() > 30 {
        let gone: Vec<Block> = left.iter().step_by(2).cloned().collect();
        left.retain(|block| !gone.contains(block));
        std::thread::scope(|scope| {
            for (n, store) in stores[..2].iter().enumerate() {
                let (half, other_half) = gone.split_at(gone.len() / 2);
                let part = if n == 0 { half } else { other_half };
                scope.spawn(move || {
                    store.remove(&hashes(part)).expect("removes");
                    store.compact().expect("compacts");
                });
            }
            for _ in 0..10 {
                assert!(reads_all(&stores[2], &left));
            }
        });
    }
    let fresh = open_beside(&server, "", index);
    fresh.compact().expect("compacts");
    assert!(reads_all(&fresh, &left));
    assert_eq!(fresh.list(None, 1000).expect("lists").len(), left.len());
}

/// An index as it was before more blocks came and packs were compacted.
fn older_index(server: &PrivateServer, folder: &std::path::Path) -> (Arc<dyn PackIndex>, Vec<Block>) {
    let (now, then) = (folder.join("now"), folder.join("then"));
    let database = SqliteStore::open(&now).expect("opens");
    let index = index_over(SqliteStore::open(&now).expect("opens"));
    let store = open_beside(server, "", index.clone());
    let all = blocks(0..10, 1000);
    store.put(&all).expect("puts");
    database.copy_to(&then).expect("copies");
    store.remove(&hashes(&all[3..])).expect("removes");
    store.compact().expect("compacts");
    let later = blocks(20..25, 1000);
    store.put(&later).expect("puts");
    (index_over(SqliteStore::open(&then).expect("opens")), [&all[..3], &later].concat())
}

#[test]
fn an_older_index_finds_again_what_came_and_what_moved_since() {
    let compact = |store: &S3BlockStore| store.compact().map(|_| 0);
    for find_again in [BlockStore::reindex as fn(&S3BlockStore) -> Result<u64, StoreError>, compact] {
        let (server, folder) = (PrivateServer::start(), tempfile::tempdir().expect("is made"));
        let (index, blocks) = older_index(&server, folder.path());
        let store = open_beside(&server, "", index);
        assert!(!reads_all(&store, &blocks));
        find_again(&store).expect("finds");
        assert!(reads_all(&store, &blocks), "also the ordinary clean-up removes nothing");
        store.compact().expect("compacts");
        assert!(reads_all(&store, &blocks));
    }
}

#[test]
fn what_looks_like_a_pack_and_cannot_be_read_is_left_alone() {
    let (server, index) = (PrivateServer::start(), index());
    let broken = open_beside(&server, "", Watched::failing_notes(&index));
    assert!(broken.put(&blocks(0..3, 100)).is_err());
    let path = files(&server, "packs").pop().expect("there is one");
    let mut bytes = fs::read(&path).expect("reads");
    bytes[30] ^= 1;
    fs::write(&path, &bytes).expect("writes");
    fs::write(path.with_file_name("readme"), "no pack").expect("writes");
    let store = open_beside(&server, "", index);
    assert_eq!((freed(&store), store.reindex().expect("looks")), (0, 0));
    assert_eq!(fs::read(&path).expect("reads"), bytes);
}

/// Small blocks that came one by one.
fn put_alone(store: &S3BlockStore, blocks: &[Block]) {
    std::thread::scope(|scope| {
        for part in blocks.chunks(blocks.len().div_ceil(8)) {
            scope.spawn(|| part.iter().for_each(|block| store.put(std::slice::from_ref(block)).expect("puts")));
        }
    });
}

#[test]
fn many_small_blocks_that_came_alone_are_put_together_and_few_are_not() {
    let (server, index) = (PrivateServer::start(), index());
    let (store, other) = (open_beside(&server, "", index.clone()), open_beside(&server, "", index));
    let all = blocks(0..300, 50);
    put_alone(&store, &all[..200]);
    store.compact().expect("compacts");
    assert_eq!((files(&server, "packs").len(), files(&server, "blocks").len()), (0, 200));
    put_alone(&store, &all[200..]);
    let large = block(999, 300_000);
    store.put(std::slice::from_ref(&large)).expect("puts");
    assert!(reads_all(&other, &all), "and remembers where they are");
    store.compact().expect("compacts");
    assert_eq!((files(&server, "packs").len(), files(&server, "blocks").len()), (1, 1), "the large one stays alone");
    for reader in [&store, &other] {
        assert!(reads_all(reader, &all) && has(reader, &large));
    }
    assert_eq!(other.list(None, 1000).expect("lists").len(), 301);
    other.remove(&hashes(&all)).expect("removes");
    assert_eq!((files(&server, "packs").len(), files(&server, "blocks").len()), (0, 1));
}

#[test]
fn small_blocks_stay_alone_where_packing_is_switched_off() {
    let (server, index) = (PrivateServer::start(), index());
    let store = open_without_packs(&server, index);
    put_alone(&store, &blocks(0..300, 50));
    store.compact().expect("compacts");
    assert_eq!((files(&server, "packs").len(), files(&server, "blocks").len()), (0, 300));
}

#[test]
fn a_gathering_that_breaks_off_loses_nothing_and_is_taken_up_by_the_next() {
    let (server, index) = (PrivateServer::start(), index());
    let (store, all) = (open_beside(&server, "", index.clone()), blocks(0..300, 50));
    put_alone(&store, &all);
    let refused = open_beside(&server, "", Watched::failing_keeps(&index));
    refused.compact().expect("a block that is just being removed is no failure");
    assert_eq!((files(&server, "packs").len(), files(&server, "blocks").len()), (0, 300));
    assert!(open_beside(&server, "", Watched::failing_notes(&index)).compact().is_err());
    assert_eq!((files(&server, "packs").len(), files(&server, "blocks").len()), (1, 300));
    assert!(reads_all(&store, &all));
    store.compact().expect("compacts");
    assert_eq!(files(&server, "blocks").len(), 0);
    assert!(reads_all(&store, &all));
}

#[test]
fn a_block_that_is_uploaded_again_while_it_is_gathered_stays_readable() {
    let (server, index) = (PrivateServer::start(), index());
    let (store, all) = (open_beside(&server, "", index.clone()), blocks(0..300, 50));
    put_alone(&store, &all);
    let other = open_beside(&server, "", index.clone());
    let again = all.clone();
    let watched = Watched::before_note(&index, move || {
        other.put(&again[..1]).expect("puts one alone");
        other.put(&again[1..3]).expect("puts two together");
    });
    open_beside(&server, "", watched).compact().expect("compacts");
    assert!(reads_all(&store, &all));
    store.compact().expect("compacts");
    assert!(reads_all(&store, &all));
}

#[test]
fn a_block_that_is_gathered_between_the_question_where_it_is_and_the_look_is_found() {
    let (server, index) = (PrivateServer::start(), index());
    let all = blocks(0..300, 50);
    let look = |look: &dyn Fn(&S3BlockStore)| {
        put_alone(&open_without_packs(&server, index.clone()), &all);
        let gatherer = open_beside(&server, "", index.clone());
        let watched = Watched::after_find(&index, move || {
            gatherer.compact().expect("gathers");
        });
        look(&open_beside(&server, "", watched));
        assert_eq!(files(&server, "blocks").len(), 0, "they were gathered meanwhile");
        open_beside(&server, "", index.clone()).remove(&hashes(&all)).expect("removes");
    };
    look(&|reader| assert!(reads_all(reader, &all[..1])));
    look(&|reader| assert_eq!(reader.lengths(&hashes(&all[..1])).expect("answers"), [Some(50)]));
}

#[test]
fn an_object_stays_whose_block_cannot_be_read_from_its_pack() {
    let (server, index) = (PrivateServer::start(), index());
    let (store, all) = (open_beside(&server, "", index.clone()), blocks(0..300, 50));
    store.put(&all).expect("puts");
    put_alone(&open_without_packs(&server, index.clone()), &all);
    let place = index.find_packed(&[all[7].hash()]).expect("answers").pop().flatten().expect("it is packed");
    let pack = files(&server, "packs").pop().expect("there is one");
    let mut bytes = fs::read(&pack).expect("reads");
    bytes[place.offset as usize] ^= 1;
    fs::write(pack, bytes).expect("writes");
    store.compact().expect("compacts");
    assert_eq!(files(&server, "blocks").len(), 1, "the only whole copy");
    assert!(reads_all(&open_beside(&server, "", index), &all));
}

/// Damages a block in its pack by what is done to the pack's bytes from the block's offset on.
fn damage(server: &PrivateServer, index: &Arc<dyn PackIndex>, block: &Block, damage: impl FnOnce(&mut Vec<u8>, usize)) {
    let place = index.find_packed(&[block.hash()]).expect("answers").pop().flatten().expect("it is packed");
    let name = place.pack.to_string();
    let path = files(server, "packs").into_iter().find(|path| path.ends_with(&name)).expect("it is there");
    let mut bytes = fs::read(&path).expect("reads");
    damage(&mut bytes, place.offset as usize);
    fs::write(path, bytes).expect("writes");
}

fn is_damaged(store: &S3BlockStore, block: &Block) -> bool {
    matches!(store.get(&block.hash()), Err(StoreError::Corrupt { .. }))
}

#[test]
fn a_damaged_block_keeps_no_pack_and_stays_known_as_damaged_until_it_is_uploaded() {
    let (server, index) = (PrivateServer::start(), index());
    let (left, gone) = mostly_unused(&server, &index);
    damage(&server, &index, &left[2], |bytes, at| bytes[at] ^= 1);
    let store = open_beside(&server, "", index.clone());
    let before = files(&server, "packs");
    let done = store.compact().expect("compacts");
    assert_eq!(done.damaged, 1);
    assert!(done.freed_bytes as usize > gone.len() * 1000, "{done:?}");
    assert!(files(&server, "packs").len() == 1 && files(&server, "packs") != before);
    for reader in [&store, &open_beside(&server, "", index)] {
        assert!(reads_all(reader, &left[..2]) && is_damaged(reader, &left[2]));
    }
    assert_eq!(store.compact().expect("compacts"), Compaction::default(), "nothing is left to do");
    store.put(&left[2..]).expect("puts");
    assert!(reads_all(&store, &left));
}

/// A part of an object that begins behind its end cannot be asked for.
#[test]
fn of_a_pack_that_was_cut_what_lies_before_the_cut_is_whole_and_the_rest_damaged_before_and_after_it_moves() {
    for cut in [-1, 0, 10] {
        let (server, index) = (PrivateServer::start(), index());
        let store = open_beside(&server, "", index.clone());
        let mut all = blocks(0..10, 1000);
        store.put(&all).expect("puts");
        let offset =
            |block: &Block| index.find_packed(&[block.hash()]).expect("answers").pop().flatten().map(|p| p.offset);
        all.sort_by_key(offset);
        let (whole, lost) = (all.remove(0), all.remove(6));
        store.remove(&hashes(&all)).expect("removes");
        damage(&server, &index, &lost, |bytes, at| bytes.truncate(at.checked_add_signed(cut).expect("fits")));
        let fresh = || open_beside(&server, "", index.clone());
        assert!(has(&fresh(), &whole) && is_damaged(&fresh(), &lost), "cut at {cut}");
        assert_eq!(store.compact().expect("compacts").damaged, 1);
        assert!(has(&fresh(), &whole) && is_damaged(&fresh(), &lost), "cut at {cut}");
    }
}

#[test]
fn a_damaged_block_with_a_whole_copy_of_its_own_is_whole_in_its_next_pack() {
    let (server, index) = (PrivateServer::start(), index());
    let (left, _) = mostly_unused(&server, &index);
    open_without_packs(&server, index.clone()).put(&left[..1]).expect("puts");
    let object = files(&server, "blocks").pop().expect("there is one");
    let place = index.find_packed(&[left[0].hash()]).expect("answers").pop().flatten();
    assert!(place.is_some(), "an object of its own takes no place away");
    damage(&server, &index, &left[0], |bytes, at| bytes[at] ^= 1);
    let store = open_beside(&server, "", index.clone());
    assert_eq!(store.compact().expect("compacts").damaged, 0);
    fs::remove_file(object).expect("removes");
    assert!(reads_all(&open_beside(&server, "", index), &left));
}

/// The pack's second half comes neither with it nor by itself, and not in the same way.
#[test]
fn bytes_that_are_damaged_on_their_way_are_not_taken_for_what_lies_there() {
    let (server, index) = (PrivateServer::start(), index());
    let (left, _) = mostly_unused(&server, &index);
    let store = open_beside(&server, "", index.clone());
    let pack = index.find_packed(&[left[0].hash()]).expect("answers").pop().flatten().expect("it is packed").pack;
    let places = index.places_in(pack).expect("answers");
    server.set_faults(Faults { per_mille: 1000, kinds: &[Fault::ShortBody], seed: 3 });
    let read = store.bucket.wait(|requests| leaving::read_all(requests, pack, places)).expect("reads");
    assert!(read.is_none(), "{read:?}");
    server.set_faults(Faults::NONE);
    assert_eq!(store.compact().expect("compacts").damaged, 0);
    assert!(reads_all(&store, &left));
}

/// Small blocks in packs of so many.
fn put_in_packs_of(store: &S3BlockStore, blocks: &[Block], size: usize) {
    std::thread::scope(|scope| {
        for part in blocks.chunks(blocks.len().div_ceil(8)) {
            scope.spawn(move || part.chunks(size).for_each(|pack| store.put(pack).expect("puts")));
        }
    });
}

#[test]
fn many_packs_of_few_blocks_are_put_together_once_and_few_are_not() {
    let (server, index) = (PrivateServer::start(), index());
    let (store, other) = (open_beside(&server, "", index.clone()), open_beside(&server, "", index.clone()));
    let all = blocks(0..320, 50);
    put_in_packs_of(&store, &all[..160], 2);
    assert_eq!(store.compact().expect("compacts"), Compaction::default());
    assert_eq!(files(&server, "packs").len(), 80);
    put_in_packs_of(&store, &all[160..], 2);
    assert!(reads_all(&other, &all), "and remembers where they are");
    let plain = open_without_packs(&server, index.clone());
    assert_eq!(plain.compact().expect("compacts"), Compaction::default());
    let done = store.compact().expect("compacts");
    assert_eq!((done.gathered, done.damaged), (320, 0));
    let together = files(&server, "packs");
    assert_eq!(together.len(), 1);
    for reader in [&store, &other] {
        assert!(reads_all(reader, &all));
    }
    put_in_packs_of(&store, &blocks(1000..1100, 50), 2);
    assert_eq!(store.compact().expect("compacts"), Compaction::default(), "what is not small is not moved again");
    assert!(files(&server, "packs").contains(&together[0]));
}

#[test]
fn small_packs_with_many_bytes_make_packs_within_the_bounds() {
    let (server, index) = (PrivateServer::start(), index());
    let store = open_beside(&server, "", index);
    let all = blocks(0..40, 200_000);
    put_in_packs_of(&store, &all, 2);
    store.compact().expect("compacts");
    assert_eq!(files(&server, "packs").len(), 2);
    assert!(files(&server, "packs").iter().all(|pack| fs::metadata(pack).expect("is there").len() < 5 * 1024 * 1024));
    assert!(reads_all(&store, &all));
}

#[test]
fn two_servers_that_put_small_packs_together_at_once_lose_nothing() {
    let (server, index) = (PrivateServer::start(), index());
    let stores: Vec<S3BlockStore> = (0..3).map(|_| open_beside(&server, "", index.clone())).collect();
    let all = blocks(0..400, 50);
    put_in_packs_of(&stores[0], &all, 2);
    std::thread::scope(|scope| {
        for store in &stores[..2] {
            scope.spawn(move || store.compact().expect("compacts"));
        }
        for _ in 0..10 {
            assert!(reads_all(&stores[2], &all));
        }
    });
    stores[0].compact().expect("compacts");
    assert!(reads_all(&stores[2], &all));
    assert_eq!(stores[2].list(None, 1000).expect("lists").len(), 400);
}
