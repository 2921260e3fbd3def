//! The clean-up: removes blocks that nobody names any more.
//!
//! Mark and sweep with a grace between them. What is decided, and why nothing is lost, stands in the meta
//! service; this is the part that touches the store. It keeps nothing between two runs, so it may stop
//! anywhere, and several servers may run it at the same time on one store.

use api::ApiError;
use api::service::{CleanUpMode, MetaForCleanUp};
use block_store::{BlockStore, Compaction, StoreError};
use model::BlockHash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Blocks that are looked at together.
const MARK_BLOCKS: usize = 1000;
/// Blocks that are removed together.
const SWEEP_BLOCKS: usize = 128;
/// The longest between condemning blocks and asking the store to remove them. A process that was stopped in
/// between leaves them to somebody else: they may be stored again by then.
const SWEEP_PATIENCE: Duration = Duration::from_secs(120);

/// Removes what nobody names.
pub struct CleanUp {
    store: Arc<dyn BlockStore>,
    meta: Arc<dyn MetaForCleanUp>,
    /// Whether a run is to end at its next step.
    stopped: AtomicBool,
}

/// What a run has done, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CleanUpReport {
    /// Blocks in the store.
    pub blocks: u64,
    /// Nobody names them; seen for the first time.
    pub marked: u64,
    /// Nobody names them; the grace has not passed.
    pub waiting: u64,
    /// Removed, or to be removed by a run that acts.
    pub removed: u64,
    /// Bytes of those.
    pub removed_bytes: u64,
    /// Bytes that the store has given back by writing what is left elsewhere.
    pub compacted_bytes: u64,
    /// Small blocks that the store has put together.
    pub gathered: u64,
    /// Blocks that the store wanted to move and found damaged.
    pub damaged: u64,
}

/// Why a run ended early. What it had done stays done.
#[derive(Debug, thiserror::Error)]
pub enum CleanUpError {
    #[error("the block store failed")]
    Store(#[source] StoreError),
    #[error("the metadata database failed")]
    Meta(#[source] ApiError),
    #[error("this process stood still in the middle of a removal")]
    Late,
    #[error("the server stops")]
    Stopped,
}

impl CleanUp {
    /// The clean-up of a store.
    #[must_use]
    pub fn new(store: Arc<dyn BlockStore>, meta: Arc<dyn MetaForCleanUp>) -> Self {
        Self { store, meta, stopped: AtomicBool::new(false) }
    }

    /// Ends a run at its next step; there is no other one.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn go_on(&self) -> Result<(), CleanUpError> {
        if self.stopped.load(Ordering::Relaxed) { Err(CleanUpError::Stopped) } else { Ok(()) }
    }

    /// One run: marks what is unused now, removes what has been so for the grace, and lets the store give
    /// back the space.
    ///
    /// # Errors
    /// [`CleanUpError`].
    pub fn run(&self, mode: CleanUpMode) -> Result<CleanUpReport, CleanUpError> {
        let mut report = self.mark(mode)?;
        if mode == CleanUpMode::Act {
            report = CleanUpReport { removed: 0, removed_bytes: 0, ..report };
            self.sweep(&mut report)?;
            self.go_on()?;
            let Compaction { freed_bytes, gathered, damaged } = self.store.compact().map_err(CleanUpError::Store)?;
            report = CleanUpReport { compacted_bytes: freed_bytes, gathered, damaged, ..report };
        }
        Ok(report)
    }

    /// Looks at every block of the store, and marks those that nobody names.
    ///
    /// # Errors
    /// [`CleanUpError`].
    pub fn mark(&self, mode: CleanUpMode) -> Result<CleanUpReport, CleanUpError> {
        let mut report = CleanUpReport::default();
        let mut after = None;
        loop {
            self.go_on()?;
            let page = self.store.list(after, MARK_BLOCKS).map_err(CleanUpError::Store)?;
            let marked = self.meta.mark(&page, mode).map_err(CleanUpError::Meta)?;
            report.blocks += count(page.len());
            report.marked += marked.fresh;
            report.waiting += marked.waiting;
            report.removed += count(marked.due.len());
            report.removed_bytes += self.bytes(&marked.due)?;
            after = page.last().copied();
            if page.len() < MARK_BLOCKS {
                return Ok(report);
            }
        }
    }

    /// Removes what is due. The row goes before the bytes: from the moment that a block is condemned nobody
    /// can count on it.
    ///
    /// # Errors
    /// [`CleanUpError`].
    pub fn sweep(&self, report: &mut CleanUpReport) -> Result<(), CleanUpError> {
        loop {
            self.go_on()?;
            let since = Instant::now();
            let condemned = self.meta.condemn(SWEEP_BLOCKS).map_err(CleanUpError::Meta)?;
            let blocks = &condemned.blocks;
            if blocks.is_empty() {
                return Ok(());
            }
            let bytes = self.bytes(blocks)?;
            if since.elapsed() > SWEEP_PATIENCE {
                return Err(CleanUpError::Late);
            }
            self.store.remove(blocks).map_err(CleanUpError::Store)?;
            self.meta.removed(&condemned).map_err(CleanUpError::Meta)?;
            report.removed += count(blocks.len());
            report.removed_bytes += bytes;
        }
    }

    fn bytes(&self, blocks: &[BlockHash]) -> Result<u64, CleanUpError> {
        let lengths = self.store.lengths(blocks).map_err(CleanUpError::Store)?;
        Ok(lengths.into_iter().flatten().map(u64::from).sum())
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
