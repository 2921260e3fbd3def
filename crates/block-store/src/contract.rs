//! What every block store must do, whatever it is made of.

use crate::{Block, BlockStore, StoreError};
use bytes::Bytes;
use model::{BLOCK_SIZE, BlockHash};

/// How often a store is asked to remove something until it is sure.
const REMOVALS: usize = 20;

/// A block that differs for each `seed`.
///
/// # Panics
/// For a length that no block has.
#[must_use]
pub fn block(seed: u64, len: usize) -> Block {
    let mut bytes = vec![0; len];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for piece in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        piece.copy_from_slice(&state.to_le_bytes()[..piece.len()]);
    }
    Block::new(bytes.into()).expect("a legal length")
}

/// Runs the whole suite against an empty store.
///
/// # Panics
/// At the first rule that does not hold.
pub fn check(store: &dyn BlockStore) {
    what_was_never_put_is_absent_and_no_error(store);
    what_was_put_is_read_back(store);
    putting_twice_is_harmless(store);
    a_batch_may_name_a_block_twice(store);
    the_largest_and_the_smallest_block_fit(store);
    an_empty_batch_is_nothing(store);
    every_block_is_listed_once_in_pages(store);
    what_was_removed_is_absent_and_can_come_back(store);
}

fn what_was_never_put_is_absent_and_no_error(store: &dyn BlockStore) {
    let hash = BlockHash([9; 32]);
    assert_eq!(store.get(&hash).expect("answers"), None);
    assert_eq!(store.lengths(&[hash]).expect("answers"), [None]);
    remove(store, &[hash]);
    assert_eq!(store.list(None, 10).expect("answers"), []);
}

fn what_was_put_is_read_back(store: &dyn BlockStore) {
    let blocks = [block(1, 10), block(2, 70_000), block(3, 1)];
    store.put(&blocks).expect("puts");
    for block in &blocks {
        assert_eq!(read(store, block.hash()).as_ref(), Some(block.bytes()));
    }
    let asked = [blocks[1].hash(), BlockHash([9; 32]), blocks[0].hash()];
    let expected = [Some(blocks[1].bytes().clone()), None, Some(blocks[0].bytes().clone())];
    assert_eq!(store.get_all(&asked).expect("answers"), expected);
    assert_eq!(store.lengths(&asked).expect("answers"), [Some(70_000), None, Some(10)]);
}

fn putting_twice_is_harmless(store: &dyn BlockStore) {
    let before = store.list(None, 100).expect("lists");
    store.put(&[block(1, 10), block(2, 70_000)]).expect("puts");
    assert_eq!(store.list(None, 100).expect("lists"), before);
    assert_eq!(read(store, block(2, 70_000).hash()).as_ref(), Some(block(2, 70_000).bytes()));
}

fn a_batch_may_name_a_block_twice(store: &dyn BlockStore) {
    store.put(&[block(4, 20), block(4, 20), block(1, 10)]).expect("puts");
    assert_eq!(read(store, block(4, 20).hash()).as_ref(), Some(block(4, 20).bytes()));
}

fn the_largest_and_the_smallest_block_fit(store: &dyn BlockStore) {
    let largest = block(5, usize::try_from(BLOCK_SIZE).expect("fits"));
    store.put(&[largest.clone(), block(6, 1)]).expect("puts");
    assert_eq!(read(store, largest.hash()).as_ref(), Some(largest.bytes()));
    assert_eq!(read(store, block(6, 1).hash()).as_ref(), Some(block(6, 1).bytes()));
}

fn an_empty_batch_is_nothing(store: &dyn BlockStore) {
    store.put(&[]).expect("puts nothing");
    store.remove(&[]).expect("removes nothing");
    assert_eq!(store.lengths(&[]).expect("answers"), []);
}

fn every_block_is_listed_once_in_pages(store: &dyn BlockStore) {
    let all = store.list(None, 100).expect("lists");
    let mut paged = Vec::new();
    loop {
        let page = store.list(paged.last().copied(), 2).expect("lists");
        paged.extend_from_slice(&page);
        if page.len() < 2 {
            break;
        }
    }
    assert_eq!(paged, all);
    assert!(all.is_sorted() && all.contains(&block(1, 10).hash()));
}

/// A store that is far away may not be sure, and is asked again.
fn remove(store: &dyn BlockStore, blocks: &[BlockHash]) {
    let is_sure = (0..REMOVALS).any(|_| store.remove(blocks).is_ok());
    assert!(is_sure, "removes");
}

fn what_was_removed_is_absent_and_can_come_back(store: &dyn BlockStore) {
    let (gone, stays) = (block(2, 70_000), block(4, 20));
    remove(store, &[gone.hash(), gone.hash()]);
    assert_eq!(read(store, gone.hash()), None);
    assert_eq!(store.lengths(&[gone.hash(), stays.hash()]).expect("answers"), [None, Some(20)]);
    assert!(!store.list(None, 100).expect("lists").contains(&gone.hash()));
    store.put(std::slice::from_ref(&gone)).expect("puts");
    assert_eq!(read(store, gone.hash()).as_ref(), Some(gone.bytes()));
}

/// A damaged block is an error and never wrong bytes, until the same block is put again.
///
/// # Panics
/// If the store does not hold to that.
pub fn check_healing(store: &dyn BlockStore, damage: impl FnOnce(&BlockHash)) {
    let (bad, good) = (block(7, 5000), block(8, 5000));
    store.put(&[bad.clone(), good.clone()]).expect("puts");
    damage(&bad.hash());
    for _ in 0..2 {
        assert!(matches!(store.get(&bad.hash()), Err(StoreError::Corrupt { hash }) if hash == bad.hash()));
    }
    assert_eq!(read(store, good.hash()).as_ref(), Some(good.bytes()));
    assert!(store.list(None, 10).expect("lists").contains(&bad.hash()));
    store.put(std::slice::from_ref(&bad)).expect("puts");
    assert_eq!(read(store, bad.hash()).as_ref(), Some(bad.bytes()));
}

fn read(store: &dyn BlockStore, hash: BlockHash) -> Option<Bytes> {
    store.get(&hash).expect("answers")
}
