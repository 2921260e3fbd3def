//! The blocks of the last uploads, kept in memory in front of a store.
//!
//! What a device uploads, the others download a moment later. Such a block was checked when it came and is
//! immutable, so it is handed out without being read and checked again. Nothing depends on it: whether a
//! block is there is the store's word alone.

use crate::{Block, BlockStore, Compaction, StoreError};
use bytes::Bytes;
use model::BlockHash;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a kept block costs beside its bytes: its name twice, and the places in both collections.
const OVERHEAD: u64 = 160;

/// A store, with its newest blocks at hand.
#[derive(Debug)]
pub struct RecentBlocks<S> {
    store: S,
    /// Bytes that may be kept; with 0 nothing is.
    limit: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    blocks: BTreeMap<BlockHash, Bytes>,
    /// The names in the order in which they came.
    order: VecDeque<BlockHash>,
    bytes: u64,
}

impl<S> RecentBlocks<S> {
    /// A store that keeps its newest blocks in up to `limit` bytes of memory.
    #[must_use]
    pub const fn new(store: S, limit: u64) -> Self {
        Self { store, limit, kept: Mutex::new(Kept { blocks: BTreeMap::new(), order: VecDeque::new(), bytes: 0 }) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn add(&mut self, block: &Block, limit: u64) {
        let cost = u64::from(block.len()) + OVERHEAD;
        if cost > limit || self.blocks.contains_key(&block.hash()) {
            return;
        }
        self.blocks.insert(block.hash(), block.bytes().clone());
        self.order.push_back(block.hash());
        self.bytes += cost;
        while self.bytes > limit {
            let Some(oldest) = self.order.pop_front() else { return };
            self.release(&oldest);
        }
    }

    fn remove(&mut self, hashes: &[BlockHash]) {
        let before = self.blocks.len();
        hashes.iter().for_each(|hash| self.release(hash));
        if self.blocks.len() < before {
            self.order.retain(|hash| self.blocks.contains_key(hash));
        }
    }

    fn release(&mut self, hash: &BlockHash) {
        if let Some(bytes) = self.blocks.remove(hash) {
            self.bytes -= bytes.len() as u64 + OVERHEAD;
        }
    }
}

impl<S: BlockStore> BlockStore for RecentBlocks<S> {
    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.store.put(blocks)?;
        let mut kept = self.kept();
        blocks.iter().for_each(|block| kept.add(block, self.limit));
        Ok(())
    }

    fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, StoreError> {
        let recent = self.kept().blocks.get(hash).cloned();
        recent.map_or_else(|| self.store.get(hash), |bytes| Ok(Some(bytes)))
    }

    fn get_all(&self, hashes: &[BlockHash]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let mut found: Vec<Option<Bytes>> = {
            let kept = self.kept();
            hashes.iter().map(|hash| kept.blocks.get(hash).cloned()).collect()
        };
        let others: Vec<usize> = (0..hashes.len()).filter(|index| found[*index].is_none()).collect();
        let asked: Vec<BlockHash> = others.iter().map(|index| hashes[*index]).collect();
        for (index, bytes) in others.into_iter().zip(self.store.get_all(&asked)?) {
            found[index] = bytes;
        }
        Ok(found)
    }

    fn lengths(&self, hashes: &[BlockHash]) -> Result<Vec<Option<u32>>, StoreError> {
        self.store.lengths(hashes)
    }

    fn remove(&self, hashes: &[BlockHash]) -> Result<(), StoreError> {
        self.kept().remove(hashes);
        self.store.remove(hashes)
    }

    fn list(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, StoreError> {
        self.store.list(after, page)
    }

    fn compact(&self) -> Result<Compaction, StoreError> {
        self.store.compact()
    }

    fn reindex(&self) -> Result<u64, StoreError> {
        self.store.reindex()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryBlockStore, contract};

    const ROOMY: u64 = 1024 * 1024;

    fn block(bytes: &'static [u8]) -> Block {
        Block::new(Bytes::from_static(bytes)).expect("is a block")
    }

    #[test]
    fn the_contract_holds_with_room_without_and_with_little() {
        for limit in [ROOMY, 0, OVERHEAD + 6] {
            contract::check(&RecentBlocks::new(MemoryBlockStore::new(), limit));
        }
    }

    #[test]
    fn a_block_that_just_came_is_not_read_from_the_store() {
        for (limit, at_hand) in [(ROOMY, true), (0, false)] {
            let store = RecentBlocks::new(MemoryBlockStore::new(), limit);
            let block = block(b"fresh");
            store.put(std::slice::from_ref(&block)).expect("puts");
            store.store.damage(&block.hash());
            assert_eq!(store.get(&block.hash()).is_ok(), at_hand, "with a limit of {limit}");
        }
    }

    #[test]
    fn a_removed_block_is_gone_from_memory_too() {
        let store = RecentBlocks::new(MemoryBlockStore::new(), ROOMY);
        let block = block(b"gone");
        store.put(std::slice::from_ref(&block)).expect("puts");
        store.remove(&[block.hash()]).expect("removes");
        assert_eq!(store.get(&block.hash()).expect("answers"), None);
        let kept = store.kept();
        assert_eq!((kept.bytes, kept.order.len()), (0, 0));
    }

    #[test]
    fn the_oldest_blocks_make_room_and_the_limit_holds() {
        let limit = 3 * (OVERHEAD + 8);
        let store = RecentBlocks::new(MemoryBlockStore::new(), limit);
        let blocks: Vec<Block> =
            (0..100_u64).map(|n| Block::new(Bytes::copy_from_slice(&n.to_le_bytes())).expect("is a block")).collect();
        for block in &blocks {
            store.put(std::slice::from_ref(block)).expect("puts");
            assert!(store.kept().bytes <= limit && store.kept().order.len() <= 3);
        }
        let kept: Vec<bool> = blocks.iter().map(|block| store.kept().blocks.contains_key(&block.hash())).collect();
        assert!(kept[..97].iter().all(|kept| !kept) && kept[97..].iter().all(|kept| *kept));
    }
}
