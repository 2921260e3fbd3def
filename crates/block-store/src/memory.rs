//! Blocks in memory, for tests and simulation.

use crate::{Block, BlockStore, StoreError};
use bytes::Bytes;
use model::BlockHash;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A block store that lasts as long as the process. Its order is that of the hashes, so that a
/// simulation runs alike each time.
#[derive(Debug, Default)]
pub struct MemoryBlockStore {
    blocks: Mutex<BTreeMap<BlockHash, Bytes>>,
}

impl MemoryBlockStore {
    /// A store without blocks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn blocks(&self) -> MutexGuard<'_, BTreeMap<BlockHash, Bytes>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn damage(&self, hash: &BlockHash) {
        self.blocks().insert(*hash, Bytes::from_static(b"damaged"));
    }
}

impl BlockStore for MemoryBlockStore {
    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        let mut kept = self.blocks();
        for block in blocks {
            let stored = kept.entry(block.hash()).or_insert_with(|| block.bytes().clone());
            if stored != block.bytes() {
                *stored = block.bytes().clone();
            }
        }
        Ok(())
    }

    fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, StoreError> {
        let Some(bytes) = self.blocks().get(hash).cloned() else { return Ok(None) };
        if BlockHash::of(&bytes) == *hash { Ok(Some(bytes)) } else { Err(StoreError::Corrupt { hash: *hash }) }
    }

    fn lengths(&self, hashes: &[BlockHash]) -> Result<Vec<Option<u32>>, StoreError> {
        let kept = self.blocks();
        Ok(hashes.iter().map(|hash| kept.get(hash).and_then(|bytes| u32::try_from(bytes.len()).ok())).collect())
    }

    fn remove(&self, hashes: &[BlockHash]) -> Result<(), StoreError> {
        let mut kept = self.blocks();
        hashes.iter().for_each(|hash| drop(kept.remove(hash)));
        Ok(())
    }

    fn list(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self.blocks().range((from, Bound::Unbounded)).take(page).map(|(hash, _)| *hash).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    #[test]
    fn the_contract_holds() {
        contract::check(&MemoryBlockStore::new());
    }

    #[test]
    fn a_damaged_block_is_told_and_healed() {
        let store = MemoryBlockStore::new();
        contract::check_healing(&store, |hash| store.damage(hash));
    }
}
