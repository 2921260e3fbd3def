//! Blocks that nobody names: what the clean-up of the block store asks and notes.
//!
//! Why no block is lost that somebody needs. Who is about to store a block says so first (`renew`), which
//! takes its mark away; from then until it is condemned at least the grace passes, and much less than that
//! lies between `renew` and the transaction that names the block (`limits::LONGEST_UPLOAD`). So the
//! transaction that condemns sees the name, and spares the block. Who uses a block without storing it needs
//! a row that names it or notes its upload; a block with such a row is never marked, and a transaction that
//! saw one that has just been forgotten ends long before the grace does. From the condemnation to the end of
//! the removal nobody gets past `renew`, so that a block which is stored again is stored after it was
//! removed.

use crate::failure::Failure;
use crate::service::{MetaService, before};
use api::service::{CleanUpMode, Condemned, Marked, MetaForCleanUp, MetaForVerify};
use api::{ApiError, ErrorCode};
use metadata_store::UnusedBlock;
use model::{BlockHash, Timestamp, limits};
use std::time::Duration;

/// How long a removal that has begun may last until another server ends it. The one that began it has given
/// up long before (`block_service::clean_up`), unless it was stopped.
const REMOVAL_LIFE: Duration = Duration::from_secs(15 * 60);
/// What an uploader waits whose block is just being removed.
const REMOVAL_RETRY_MS: u32 = 2_000;

impl MetaService {
    /// Takes the marks of blocks away that are about to be stored. Mostly there are none: then nothing is
    /// written.
    pub(crate) fn renew_blocks(&self, blocks: &[BlockHash]) -> Result<(), ApiError> {
        if blocks.is_empty() {
            return Ok(());
        }
        let marked = self.snapshot(|reading| Ok(reading.unused_blocks(blocks)?))?;
        let marked: Vec<BlockHash> = marked.into_iter().flatten().map(|block| block.hash).collect();
        if marked.is_empty() {
            return Ok(());
        }
        self.write(|tx, _| {
            let marked = tx.lock_unused(&marked)?;
            if marked.iter().flatten().any(|block| block.condemned.is_some()) {
                return Err(being_removed().into());
            }
            let hashes: Vec<BlockHash> = marked.into_iter().flatten().map(|block| block.hash).collect();
            Ok(tx.forget_unused(&hashes)?)
        })
    }

    /// What the clean-up thinks of a block that is marked.
    fn verdict(block: &UnusedBlock, in_use: bool, now: Timestamp) -> Verdict {
        let taken_up = block.condemned.is_some_and(|condemned| condemned >= before(now, REMOVAL_LIFE));
        match () {
            () if taken_up => Verdict::AnothersWork,
            () if in_use => Verdict::Spare,
            () if block.condemned.is_none() && block.since >= before(now, limits::UNUSED_BLOCK_GRACE) => Verdict::Wait,
            () => Verdict::Remove,
        }
    }
}

/// What is to become of a block that is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Somebody removes it already.
    AnothersWork,
    /// Somebody names it by now.
    Spare,
    Wait,
    Remove,
}

impl MetaForCleanUp for MetaService {
    fn mark(&self, blocks: &[BlockHash], mode: CleanUpMode) -> Result<Marked, ApiError> {
        let now = self.environment.now();
        let (in_use, marks) =
            self.snapshot(|reading| Ok((reading.blocks_in_use(blocks)?, reading.unused_blocks(blocks)?)))?;
        let mut found = Marked::default();
        let mut fresh = Vec::new();
        for ((hash, in_use), mark) in blocks.iter().zip(in_use).zip(marks) {
            match mark {
                None if in_use => {}
                None => fresh.push(*hash),
                Some(mark) => match Self::verdict(&mark, in_use, now) {
                    Verdict::Spare => {}
                    Verdict::Wait | Verdict::AnothersWork => found.waiting += 1,
                    Verdict::Remove => found.due.push(*hash),
                },
            }
        }
        found.fresh = u64::try_from(fresh.len()).unwrap_or(u64::MAX);
        if !fresh.is_empty() && mode == CleanUpMode::Act {
            // One that is named in this moment is marked too, and spared when the grace has passed.
            self.write(|tx, _| Ok(tx.mark_unused(&fresh, now)?))?;
        }
        Ok(found)
    }

    fn condemn(&self, limit: usize) -> Result<Condemned, ApiError> {
        loop {
            let now = self.environment.now();
            let (seen, blocks) = self.write(|tx, _| {
                let due = tx.unused_since(before(now, limits::UNUSED_BLOCK_GRACE), limit)?;
                let due: Vec<BlockHash> = due.into_iter().map(|block| block.hash).collect();
                let (marks, in_use) = (tx.lock_unused(&due)?, tx.blocks_in_use(&due)?);
                let (mut remove, mut spare) = (Vec::new(), Vec::new());
                for (mark, in_use) in marks.into_iter().zip(in_use) {
                    let Some(mark) = mark else { continue };
                    match Self::verdict(&mark, in_use, now) {
                        Verdict::Remove => remove.push(mark.hash),
                        Verdict::Spare => spare.push(mark),
                        Verdict::Wait | Verdict::AnothersWork => {}
                    }
                }
                for mark in spare.iter().filter(|mark| mark.condemned.is_some()) {
                    tracing::error!(block = %mark.hash, "a block is named whose removal had begun; verify the blocks");
                }
                tx.forget_unused(&spare.iter().map(|mark| mark.hash).collect::<Vec<_>>())?;
                tx.condemn_unused(&remove, now)?;
                Ok::<_, Failure>((spare.len(), remove))
            })?;
            // Where all were spared there may be others behind them.
            if !blocks.is_empty() || seen < limit {
                return Ok(Condemned { blocks, time: now });
            }
        }
    }

    fn removed(&self, condemned: &Condemned) -> Result<(), ApiError> {
        self.write(|tx, _| {
            // A word that comes late must not lift a removal that somebody else is in the middle of.
            let marks = tx.lock_unused(&condemned.blocks)?.into_iter().flatten();
            let ended = marks.filter(|mark| mark.condemned == Some(condemned.time)).map(|mark| mark.hash);
            Ok(tx.forget_unused(&ended.collect::<Vec<_>>())?)
        })
    }
}

impl MetaForVerify for MetaService {
    fn named(&self, after: Option<BlockHash>, limit: usize) -> Result<Vec<BlockHash>, ApiError> {
        self.snapshot(|reading| Ok(reading.all_named_blocks(after, limit)?))
    }

    fn in_use(&self, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
        self.snapshot(|reading| Ok(reading.blocks_in_use(blocks)?))
    }
}

fn being_removed() -> ApiError {
    let message = "a block of this upload is just being cleaned up, try again";
    ApiError { retry_after_ms: Some(REMOVAL_RETRY_MS), ..ApiError::new(ErrorCode::Unavailable, message) }
}
