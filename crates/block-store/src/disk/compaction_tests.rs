//! Compaction: the space comes back, and nothing else goes.

use super::tests::Home;
use super::*;
use crate::contract::{block, check};
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Small packs, so that a few blocks fill several.
const SMALL: DiskOptions = DiskOptions { pack_bytes: 256 * 1024, page_cache: PageCache::Past };
const BLOCKS: u64 = 1000;

/// A thousand small blocks over several packs, of which one in ten is still wanted.
fn mostly_removed(home: &Home) -> DiskBlockStore {
    let store = home.try_open(SMALL).expect("opens");
    for batch in (0..BLOCKS).collect::<Vec<_>>().chunks(50) {
        store.put(&batch.iter().map(|seed| block(*seed, 1000)).collect::<Vec<_>>()).expect("puts");
    }
    let unwanted: Vec<BlockHash> =
        (0..BLOCKS).filter(|seed| !seed.is_multiple_of(10)).map(|seed| block(seed, 1000).hash()).collect();
    store.remove(&unwanted).expect("removes");
    store
}

fn has_what_is_wanted(store: &DiskBlockStore) {
    for seed in 0..BLOCKS {
        let block = block(seed, 1000);
        let expected = seed.is_multiple_of(10).then(|| block.bytes().clone());
        assert_eq!(store.get(&block.hash()).expect("answers"), expected, "block {seed}");
    }
}

/// Bytes that the packs take up on the disk.
fn taken_up(home: &Home) -> u64 {
    let packs = fs::read_dir(home.packs()).expect("lists");
    let size = |entry: std::io::Result<fs::DirEntry>| entry.expect("lists").metadata().expect("exists");
    packs.map(size).map(|metadata| metadata.len().min(metadata.blocks() * 512)).sum()
}

#[test]
fn the_space_of_removed_blocks_comes_back_however_small_they_were() {
    let home = Home::new();
    let store = mostly_removed(&home);
    let before = taken_up(&home);
    let given_back = store.compact().expect("compacts").freed_bytes;
    let after = taken_up(&home);
    // What lies in the pack that grows stays, and the records of the removals are there too.
    assert!(given_back > 0 && after < before / 2, "{before} bytes became {after}, {given_back} given back");
    has_what_is_wanted(&store);
    store.compact().expect("empties the pack that grew before");
    assert_eq!(store.compact().expect("compacts"), Compaction::default(), "there is nothing left to do");
    drop(store);
    has_what_is_wanted(&home.try_open(SMALL).expect("opens"));
}

#[test]
fn a_pack_without_blocks_is_removed() {
    let home = Home::new();
    let store = home.try_open(DiskOptions { pack_bytes: 1, ..DiskOptions::default() }).expect("opens");
    let hashes: Vec<BlockHash> = (0..4).map(|seed| block(seed, 500).hash()).collect();
    (0..4).for_each(|seed| store.put(&[block(seed, 500)]).expect("puts"));
    store.remove(&hashes[..3]).expect("removes");
    store.compact().expect("compacts");
    assert!(!home.pack(1).exists() && !home.pack(3).exists() && home.pack(4).exists());
    assert_eq!(store.list(None, 10).expect("lists"), hashes[3..]);
}

#[test]
fn the_contract_holds_after_a_compaction() {
    let home = Home::new();
    let store = home.try_open(DiskOptions { pack_bytes: 1, ..DiskOptions::default() }).expect("opens");
    store.put(&[block(100, 10)]).expect("puts");
    store.remove(&[block(100, 10).hash()]).expect("removes");
    store.compact().expect("compacts");
    check(&store);
    store.compact().expect("compacts");
    assert_eq!(store.get(&block(5, 4 * 1024 * 1024).hash()).expect("answers").map(|bytes| bytes.len()), Some(4 << 20));
}

#[test]
fn an_index_that_is_rebuilt_after_a_compaction_has_every_block() {
    let home = Home::new();
    let store = mostly_removed(&home);
    store.compact().expect("compacts");
    store.put(&[block(3, 1000)]).expect("one that was removed can come back");
    drop(store);
    home.lose_index();
    let store = home.try_open(SMALL).expect("opens");
    for seed in (0..BLOCKS).filter(|seed| seed.is_multiple_of(10) || *seed == 3) {
        assert!(store.get(&block(seed, 1000).hash()).expect("answers").is_some(), "block {seed}");
    }
}

#[test]
fn a_crash_in_a_compaction_loses_nothing() {
    let home = Home::new();
    drop(mostly_removed(&home));
    let kept = tempfile::tempdir().expect("a directory");
    let packs: Vec<u32> = (1..20).filter(|number| home.pack(*number).exists()).collect();
    for pack in &packs {
        fs::copy(home.pack(*pack), kept.path().join(pack.to_string())).expect("copies");
    }
    let store = home.try_open(SMALL).expect("opens");
    store.compact().expect("compacts");
    drop(store);
    let removed: Vec<u32> = packs.into_iter().filter(|pack| !home.pack(*pack).exists()).collect();
    assert!(!removed.is_empty());
    // The index has forgotten a pack, and the machine stopped before the file went.
    for pack in &removed {
        fs::copy(kept.path().join(pack.to_string()), home.pack(*pack)).expect("copies");
    }
    let wanted = |store: &DiskBlockStore| {
        for seed in (0..BLOCKS).step_by(10) {
            assert!(store.get(&block(seed, 1000).hash()).expect("answers").is_some(), "block {seed}");
        }
    };
    wanted(&home.try_open(SMALL).expect("opens"));
    // The file went, and the index that comes back is one that still knew it.
    home.lose_index();
    drop(home.try_open(SMALL).expect("opens"));
    removed.iter().for_each(|pack| fs::remove_file(home.pack(*pack)).expect("removes"));
    wanted(&home.try_open(SMALL).expect("opens"));
}

#[test]
fn a_pack_with_a_damaged_block_is_left_as_it_is() {
    let home = Home::new();
    let store = home.try_open(DiskOptions { pack_bytes: 2000, ..DiskOptions::default() }).expect("opens");
    let blocks: Vec<_> = (0..3).map(|seed| block(seed, 900)).collect();
    blocks.iter().for_each(|block| store.put(std::slice::from_ref(block)).expect("puts"));
    store.remove(&[blocks[0].hash()]).expect("removes");
    home.damage(&blocks[1].hash());
    assert!(matches!(store.get(&blocks[1].hash()), Err(StoreError::Corrupt { .. })));
    store.compact().expect("compacts");
    assert!(home.pack(1).exists());
    assert!(matches!(store.get(&blocks[1].hash()), Err(StoreError::Corrupt { .. })));
    store.put(&[blocks[1].clone()]).expect("heals");
    store.compact().expect("compacts");
    assert!(!home.pack(1).exists());
    assert_eq!(store.get(&blocks[1].hash()).expect("answers").as_ref(), Some(blocks[1].bytes()));
}

/// Perhaps somebody can still make something of its bytes.
#[test]
fn a_pack_in_which_a_compaction_finds_damage_stays() {
    let home = Home::new();
    let store = mostly_removed(&home);
    let damaged = block(0, 1000);
    home.damage(&damaged.hash());
    store.compact().expect("compacts");
    assert!(home.pack(1).exists() && !home.pack(2).exists());
    assert!(matches!(store.get(&damaged.hash()), Err(StoreError::Corrupt { .. })));
    store.put(&[damaged]).expect("heals");
    store.compact().expect("compacts");
    assert!(!home.pack(1).exists());
    has_what_is_wanted(&store);
}

#[test]
fn blocks_are_read_and_written_while_packs_are_compacted() {
    let home = Home::new();
    let store = mostly_removed(&home);
    std::thread::scope(|scope| {
        let compactions = scope.spawn(|| {
            for _ in 0..3 {
                store.compact().expect("compacts");
            }
        });
        let mut seed = BLOCKS;
        while !compactions.is_finished() {
            store.put(&[block(seed, 1000)]).expect("puts");
            let read = store.get(&block((seed * 10) % BLOCKS, 1000).hash()).expect("answers");
            assert!(read.is_some());
            assert!(store.get(&block(seed, 1000).hash()).expect("answers").is_some());
            seed += 1;
        }
    });
}

#[test]
fn another_process_can_read_a_store_that_is_open_while_it_is_compacted() {
    let home = Home::new();
    let store = mostly_removed(&home);
    let reader = DiskBlockReader::open(home.path(), tests::INSTANCE).expect("opens");
    let wanted = || (0..BLOCKS).step_by(10).all(|seed| matches!(reader.get(&block(seed, 1000).hash()), Ok(Some(_))));
    assert!(wanted());
    store.compact().expect("compacts");
    assert!(wanted());
    assert_eq!(reader.list(None, 1000).expect("lists").len(), 100);
    assert!(matches!(reader.put(&[block(1, 1)]), Err(StoreError::Locked { .. })));
    assert!(matches!(reader.remove(&[block(0, 1000).hash()]), Err(StoreError::Locked { .. })));
    let other = DiskBlockReader::open(home.path(), InstanceId([9; 16]));
    assert!(matches!(other.err(), Some(StoreError::OtherInstance { .. })));
}
