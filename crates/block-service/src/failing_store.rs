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
