//! A store that fails under an upload leaves the old version, and the upload may be tried again.

use crate::BlockService;
use crate::service::tests::{ANN, Meta, bytes, head, wanted};
use block_store::{Block, BlockStore, MemoryBlockStore, StoreError};
use bytes::Bytes;
use model::{BlockHash, CommitOutcome};
use std::sync::{Arc, Mutex};

/// A store whose disk fails.
struct Failing {
    inner: MemoryBlockStore,
    /// Whether putting fails, and whether the blocks are kept all the same.
    mood: Mutex<Mood>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Works,
    KeepsNothing,
    KeepsAndFails,
}

impl BlockStore for Failing {
    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        let mood = *self.mood.lock().expect("not poisoned");
        if mood != Mood::KeepsNothing {
            self.inner.put(blocks)?;
        }
        match mood {
            Mood::Works => Ok(()),
            Mood::KeepsNothing | Mood::KeepsAndFails => Err(StoreError::NoSpace { path: "/blocks".into() }),
        }
    }
    fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(hash)
    }
    fn lengths(&self, hashes: &[BlockHash]) -> Result<Vec<Option<u32>>, StoreError> {
        self.inner.lengths(hashes)
    }
    fn remove(&self, hashes: &[BlockHash]) -> Result<(), StoreError> {
        self.inner.remove(hashes)
    }
    fn list(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, StoreError> {
        self.inner.list(after, page)
    }
}

/// A store that lists a block and cannot hand it out, as a bucket does of an object that was damaged.
struct Damaged {
    inner: MemoryBlockStore,
    block: BlockHash,
    /// `None`: the object is gone.
    as_length: Option<u32>,
}

impl BlockStore for Damaged {
    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.inner.put(blocks)
    }
    fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, StoreError> {
        match self.as_length {
            Some(_) if *hash == self.block => Err(StoreError::Corrupt { hash: *hash }),
            None if *hash == self.block => Ok(None),
            _ => self.inner.get(hash),
        }
    }
    fn lengths(&self, hashes: &[BlockHash]) -> Result<Vec<Option<u32>>, StoreError> {
        let told =
            |(hash, len): (&BlockHash, Option<u32>)| if *hash == self.block { self.as_length.or(len) } else { len };
        Ok(hashes.iter().zip(self.inner.lengths(hashes)?).map(told).collect())
    }
    fn remove(&self, hashes: &[BlockHash]) -> Result<(), StoreError> {
        self.inner.remove(hashes)
    }
    fn list(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, StoreError> {
        self.inner.list(after, page)
    }
}

/// The answer broke off at the same block each time, and what stood behind it never came.
#[test]
fn a_block_that_the_store_cannot_hand_out_keeps_no_other_from_coming() {
    for as_length in [Some(3), Some(2), Some(0), Some(u32::MAX), None] {
        let block = BlockHash::of(b"bad");
        let store = Damaged { inner: MemoryBlockStore::new(), block, as_length };
        let service = BlockService::new(Arc::new(store), Arc::new(Meta::default()));
        service.changeset(ANN, head(ANN, &[b"bad", b"good"]), bytes(&[b"bad", b"good"])).expect("commits");
        let ask = || service.blocks(ANN, &wanted(ANN, &[b"bad", b"good"]));
        let (head, read) = ask().or_else(|_| ask()).expect("the second time at the latest");
        assert_eq!((head.unavailable, read), (vec![block], bytes(&[b"good"])), "{as_length:?}");
        service.changeset(ANN, crate::service::tests::head(ANN, &[b"bad"]), bytes(&[b"bad"])).expect("comes again");
        let is_tried = service.offer(ANN, &wanted(ANN, &[b"bad"])).expect("answers").head.unavailable.is_empty();
        assert_eq!(is_tried, as_length.is_none_or(|len| (1..4_000_000).contains(&len)), "{as_length:?}");
    }
}

#[test]
fn a_store_that_fails_under_an_upload_leaves_the_old_version_and_the_upload_may_be_tried_again() {
    let store = Arc::new(Failing { inner: MemoryBlockStore::new(), mood: Mutex::new(Mood::Works) });
    let meta = Arc::new(Meta::default());
    let service = BlockService::new(store.clone(), meta.clone());
    service.changeset(ANN, head(ANN, &[b"old"]), bytes(&[b"old"])).expect("commits");
    for mood in [Mood::KeepsNothing, Mood::KeepsAndFails] {
        *store.mood.lock().expect("not poisoned") = mood;
        let failed = service.changeset(ANN, head(ANN, &[b"new"]), bytes(&[b"new"]));
        assert!(failed.is_err(), "nothing is acknowledged that may not be durable");
        assert_eq!(meta.committed.lock().expect("not poisoned").len(), 1, "nothing is committed");
        assert!(service.blocks(ANN, &wanted(ANN, &[b"old"])).is_ok_and(|(_, read)| read == bytes(&[b"old"])));
    }
    *store.mood.lock().expect("not poisoned") = Mood::Works;
    let again = service.changeset(ANN, head(ANN, &[b"new"]), bytes(&[b"new"])).expect("commits");
    assert!(matches!(again.outcome, Some(CommitOutcome::Accepted { .. })));
}
