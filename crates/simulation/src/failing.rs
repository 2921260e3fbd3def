//! Stores that fail now and then: before they did anything, or after they had done all of it.

use crate::chance::Chance;
use crate::disk::lock;
use crate::server::Cleaning;
use block_store::{Block, BlockStore, MemoryBlockStore};
use bytes::Bytes;
use metadata_store::{MetadataStore, Reading, SqliteStore, StoreError, Transaction};
use model::BlockHash;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

type BlockError = block_store::StoreError;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// Nothing was done.
    Before,
    /// All was done, and who asked does not learn it.
    After,
}

/// When the stores of one server fail.
#[derive(Debug)]
pub struct Weather {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Chance in 1,000 that a call fails; 0 while the weather is fair.
    rate: u32,
    chance: Chance,
    /// What happened since it was last asked.
    met: BTreeMap<&'static str, u64>,
}

impl Weather {
    /// Fair weather, until [`Weather::set_rate`].
    #[must_use]
    pub fn new(chance: Chance) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { rate: 0, chance, met: BTreeMap::new() }) })
    }

    /// Sets the chance in 1,000 that a call fails.
    pub fn set_rate(&self, rate: u32) {
        lock(&self.state).rate = rate;
    }

    /// What failed since the last call.
    pub fn take_met(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut lock(&self.state).met)
    }

    fn blow(&self, done: &'static str) -> Option<Blow> {
        let mut state = lock(&self.state);
        let rate = state.rate;
        if rate == 0 || !state.chance.happens(rate) {
            return None;
        }
        let blow = if state.chance.happens(500) { Blow::Before } else { Blow::After };
        *state.met.entry(if blow == Blow::Before { "store failed" } else { done }).or_default() += 1;
        Some(blow)
    }
}

/// The metadata store of a server in bad weather.
pub(crate) struct FailingMetadata {
    pub(crate) inner: Arc<SqliteStore>,
    pub(crate) weather: Arc<Weather>,
}

impl MetadataStore for FailingMetadata {
    fn transact(&self, work: &mut dyn FnMut(&dyn Transaction) -> Result<(), StoreError>) -> Result<(), StoreError> {
        match self.weather.blow("store failed after it had committed") {
            None => self.inner.transact(work),
            Some(Blow::Before) => Err(StoreError::Busy { subject: "a simulated transaction" }),
            Some(Blow::After) => {
                self.inner.transact(work)?;
                Err(StoreError::Io { subject: "the end of a simulated transaction", source: "connection lost".into() })
            }
        }
    }

    fn read(&self, work: &mut dyn FnMut(&dyn Reading) -> Result<(), StoreError>) -> Result<(), StoreError> {
        match self.weather.blow("store failed") {
            None => self.inner.read(work),
            Some(Blow::Before | Blow::After) => Err(StoreError::Busy { subject: "a simulated snapshot" }),
        }
    }
}

/// The block store of a server in bad weather.
pub(crate) struct FailingBlocks {
    pub(crate) inner: Arc<MemoryBlockStore>,
    pub(crate) weather: Arc<Weather>,
    /// A clean-up that may run when blocks have just been stored.
    pub(crate) during_put: Option<Arc<Cleaning>>,
}

impl FailingBlocks {
    fn unless_it_fails<T>(
        &self,
        act: impl FnOnce(&MemoryBlockStore) -> Result<T, BlockError>,
    ) -> Result<T, BlockError> {
        match self.weather.blow("store failed after it had kept blocks") {
            None => act(&self.inner),
            Some(Blow::Before) => Err(BlockError::NoSpace { path: "/simulated".into() }),
            Some(Blow::After) => {
                act(&self.inner)?;
                let source = Arc::new(std::io::Error::other("simulated"));
                Err(BlockError::Io { what: "sync", path: "/simulated".into(), source })
            }
        }
    }
}

impl BlockStore for FailingBlocks {
    fn put(&self, blocks: &[Block]) -> Result<(), BlockError> {
        self.unless_it_fails(|store| store.put(blocks))?;
        if let Some(clean_up) = &self.during_put {
            clean_up.stored();
        }
        Ok(())
    }

    fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, BlockError> {
        self.unless_it_fails(|store| store.get(hash))
    }

    fn lengths(&self, hashes: &[BlockHash]) -> Result<Vec<Option<u32>>, BlockError> {
        self.unless_it_fails(|store| store.lengths(hashes))
    }

    fn remove(&self, hashes: &[BlockHash]) -> Result<(), BlockError> {
        self.unless_it_fails(|store| store.remove(hashes))
    }

    fn list(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, BlockError> {
        self.unless_it_fails(|store| store.list(after, page))
    }
}
