//! The reconciler: compares what the journals name with what the store has, in both directions. It only
//! looks. A block that is missing or damaged heals when somebody who has it uploads it again; one that nobody
//! names is the clean-up's.

use api::ApiError;
use api::service::MetaForVerify;
use block_store::{BlockStore, StoreError};
use model::BlockHash;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Blocks that are asked about together.
const PAGE: usize = 1000;
/// Blocks that are read at the same time: a store that is far away answers many as fast as one.
const READERS: usize = 16;
/// Blocks of each kind that are named; the others are only counted.
const NAMED_FINDINGS: usize = 1000;

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blocks that journals name.
    pub named: u64,
    /// Bytes of those that are there and whole.
    pub bytes: u64,
    /// A journal names them, and the store does not have them.
    pub missing: Findings,
    /// A journal names them, and their bytes are others.
    pub damaged: Findings,
    /// Blocks in the store.
    pub stored: u64,
    /// The store has them, and nobody names them or has uploaded them lately.
    pub orphans: u64,
}

/// Blocks with something in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    pub count: u64,
    /// The first of them.
    pub blocks: Vec<BlockHash>,
}

impl Findings {
    fn add(&mut self, block: BlockHash) {
        self.count += 1;
        if self.blocks.len() < NAMED_FINDINGS {
            self.blocks.push(block);
        }
    }
}

impl VerifyReport {
    /// Whether every block is there and whole that anybody could ask for.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.missing.count == 0 && self.damaged.count == 0
    }
}

/// Why a comparison could not be ended. It says nothing about the blocks.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("the block store failed")]
    Store(#[source] StoreError),
    #[error("the metadata database failed")]
    Meta(#[source] ApiError),
}

/// Reads every block that a journal names, and looks for blocks that nobody names. `progress` hears now and
/// then how far it is.
///
/// # Errors
/// [`VerifyError`].
pub fn verify(
    store: &dyn BlockStore,
    meta: &dyn MetaForVerify,
    progress: &mut dyn FnMut(&VerifyReport),
) -> Result<VerifyReport, VerifyError> {
    let mut report = VerifyReport::default();
    let mut after = None;
    loop {
        let page = meta.named(after, PAGE).map_err(VerifyError::Meta)?;
        after = page.last().copied();
        let last = page.len() < PAGE;
        read_all(store, page, &mut report)?;
        progress(&report);
        if last {
            break;
        }
    }
    let mut after = None;
    loop {
        let page = store.list(after, PAGE).map_err(VerifyError::Store)?;
        let in_use = meta.in_use(&page).map_err(VerifyError::Meta)?;
        report.stored += page.len() as u64;
        report.orphans += in_use.iter().filter(|in_use| !**in_use).count() as u64;
        progress(&report);
        after = page.last().copied();
        if page.len() < PAGE {
            return Ok(report);
        }
    }
}

/// What became of reading one block.
enum Read {
    Whole(u64),
    Missing,
    Damaged,
}

fn read_all(store: &dyn BlockStore, blocks: Vec<BlockHash>, report: &mut VerifyReport) -> Result<(), VerifyError> {
    let left = Mutex::new(VecDeque::from(blocks));
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let reader = || {
        let mut found = Vec::new();
        while let Some(hash) = next() {
            let read = match store.get(&hash) {
                Ok(Some(bytes)) => Read::Whole(bytes.len() as u64),
                Ok(None) => Read::Missing,
                Err(StoreError::Corrupt { .. }) => Read::Damaged,
                Err(error) => return Err(VerifyError::Store(error)),
            };
            found.push((hash, read));
        }
        Ok(found)
    };
    let parts: Vec<Result<Vec<(BlockHash, Read)>, VerifyError>> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(reader)).collect();
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut found: Vec<(BlockHash, Read)> =
        parts.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    found.sort_unstable_by_key(|(hash, _)| *hash);
    for (hash, read) in found {
        report.named += 1;
        match read {
            Read::Whole(bytes) => report.bytes += bytes,
            Read::Missing => report.missing.add(hash),
            Read::Damaged => report.damaged.add(hash),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_store::{Block, MemoryBlockStore};
    use bytes::Bytes;

    /// A meta service whose journals name these blocks.
    struct Names(Vec<BlockHash>);

    impl MetaForVerify for Names {
        fn named(&self, after: Option<BlockHash>, limit: usize) -> Result<Vec<BlockHash>, ApiError> {
            Ok(self.0.iter().filter(|hash| Some(**hash) > after).take(limit).copied().collect())
        }
        fn in_use(&self, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
            Ok(blocks.iter().map(|block| self.0.contains(block)).collect())
        }
    }

    /// A store in which some blocks are damaged.
    struct Rotten(MemoryBlockStore, Vec<BlockHash>);

    impl BlockStore for Rotten {
        fn put(&self, _: &[Block]) -> Result<(), StoreError> {
            panic!("nothing is written")
        }
        fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, StoreError> {
            if self.1.contains(hash) { Err(StoreError::Corrupt { hash: *hash }) } else { self.0.get(hash) }
        }
        fn lengths(&self, hashes: &[BlockHash]) -> Result<Vec<Option<u32>>, StoreError> {
            self.0.lengths(hashes)
        }
        fn remove(&self, _: &[BlockHash]) -> Result<(), StoreError> {
            panic!("nothing is removed")
        }
        fn list(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, StoreError> {
            self.0.list(after, page)
        }
    }

    #[test]
    fn what_is_missing_damaged_or_named_by_nobody_is_found_and_nothing_is_changed() {
        let store = MemoryBlockStore::new();
        let blocks: Vec<Block> =
            (0..2500_u32).map(|n| Block::new(n.to_be_bytes().to_vec().into()).expect("a legal length")).collect();
        store.put(&blocks).expect("puts");
        let mut named: Vec<BlockHash> = blocks[..2400].iter().map(Block::hash).collect();
        let (missing, damaged) = (BlockHash([7; 32]), blocks[5].hash());
        named.push(missing);
        named.sort_unstable();
        let mut told = 0;
        let report = verify(&Rotten(store, vec![damaged]), &Names(named), &mut |_| told += 1).expect("looks");
        let finding = |hash| Findings { count: 1, blocks: vec![hash] };
        let expected = VerifyReport {
            named: 2401,
            bytes: 4 * 2399,
            missing: finding(missing),
            damaged: finding(damaged),
            stored: 2500,
            orphans: 100,
        };
        assert_eq!(report, expected);
        assert!(!report.is_sound() && told > 2);
    }
}
