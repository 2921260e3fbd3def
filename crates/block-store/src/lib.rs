//! The port to wherever blocks are kept, and its adapters.
//!
//! A block store keeps immutable bytes under their SHA-256, each once, whoever sent them. It knows no
//! accounts and no permissions: who may read a block is the meta service's word, asked by the block
//! service. The port is synchronous, so that a simulation can drive it; async callers move the calls to
//! a blocking thread.

mod block;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod disk;
mod error;
mod memory;
mod recent;

pub use block::{Block, BlockError};
pub use direct_io::PageCache;
pub use disk::{Counters, DiskBlockReader, DiskBlockStore, DiskOptions};
pub use error::StoreError;
pub use memory::MemoryBlockStore;
pub use recent::RecentBlocks;

use bytes::Bytes;
use model::BlockHash;
use std::sync::Arc;

/// Keeps blocks. Every adapter passes the same contract suite.
pub trait BlockStore: Send + Sync {
    /// Keeps blocks; when it returns they are all durable. A block that is there already is left alone,
    /// costs no space, and takes as long as a new one; a block that was found damaged is healed. Blocks may
    /// also be kept in memory as they are: none is a part of something larger.
    ///
    /// # Errors
    /// [`StoreError`]; then some of the blocks may be kept, each of them whole.
    fn put(&self, blocks: &[Block]) -> Result<(), StoreError>;

    /// The bytes of a block, checked against its name; `None` when the store does not have it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] instead of wrong bytes.
    fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, StoreError>;

    /// As [`BlockStore::get`] for several blocks, which a store that is far away reads at the same time.
    ///
    /// # Errors
    /// As [`BlockStore::get`], for any of them.
    fn get_all(&self, hashes: &[BlockHash]) -> Result<Vec<Option<Bytes>>, StoreError> {
        hashes.iter().map(|hash| self.get(hash)).collect()
    }

    /// For each block its length in bytes; `None` when the store does not have it or knows it damaged.
    ///
    /// # Errors
    /// [`StoreError`]; an answer is always about all the blocks.
    fn lengths(&self, hashes: &[BlockHash]) -> Result<Vec<Option<u32>>, StoreError>;

    /// Forgets blocks, for the clean-up alone. Those that are not there are no error.
    ///
    /// # Errors
    /// [`StoreError`]; then some of the blocks may be gone.
    fn remove(&self, hashes: &[BlockHash]) -> Result<(), StoreError>;

    /// Up to `page` names of blocks, rising, behind `after`; fewer only at the end. Damaged blocks are
    /// among them.
    ///
    /// # Errors
    /// [`StoreError`].
    fn list(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, StoreError>;

    /// Gives back space that removed blocks still take up, and puts together what would better lie
    /// together. For stores where removing a block does the first already, and which have no second, there is
    /// nothing to do.
    ///
    /// # Errors
    /// [`StoreError`]; then some of it may be done.
    fn compact(&self) -> Result<Compaction, StoreError> {
        Ok(Compaction::default())
    }

    /// Finds blocks again that are stored where the store's index, kept elsewhere, does not know them: after an
    /// older copy of it was restored. How many. For stores that find all by themselves there is nothing to do.
    ///
    /// # Errors
    /// [`StoreError`]; then some of them may be found.
    fn reindex(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}

/// What a compaction has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Bytes that were given back.
    pub freed_bytes: u64,
    /// Blocks that lay alone, or among few, and lie among many now.
    pub gathered: u64,
    /// Blocks that were to be moved and are damaged. They are known as such until they are uploaded again.
    pub damaged: u64,
}

impl<S: BlockStore + ?Sized> BlockStore for Arc<S> {
    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        (**self).put(blocks)
    }

    fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, StoreError> {
        (**self).get(hash)
    }

    fn get_all(&self, hashes: &[BlockHash]) -> Result<Vec<Option<Bytes>>, StoreError> {
        (**self).get_all(hashes)
    }

    fn lengths(&self, hashes: &[BlockHash]) -> Result<Vec<Option<u32>>, StoreError> {
        (**self).lengths(hashes)
    }

    fn remove(&self, hashes: &[BlockHash]) -> Result<(), StoreError> {
        (**self).remove(hashes)
    }

    fn list(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, StoreError> {
        (**self).list(after, page)
    }

    fn compact(&self) -> Result<Compaction, StoreError> {
        (**self).compact()
    }

    fn reindex(&self) -> Result<u64, StoreError> {
        (**self).reindex()
    }
}
