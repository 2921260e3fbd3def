//! The old blocks that deltas copy from, and their sums.
//!
//! Whoever names a base learns something of it: its sums, or whether a delta over it leads where it
//! should. So a base counts only if the caller may read it in the namespace that is named, or has uploaded it
//! itself or may read it elsewhere (for an upload). One that may not be read, and one that is not there, are
//! answered alike.

use crate::service::{BlockService, bad_request, unavailable};
use api::service::Identity;
use api::{ApiError, Bases, SumsReply, SumsRequest};
use block_store::StoreError;
use bytes::Bytes;
use delta::{SUM_BYTES, sum_up, sums_to_bytes};
use model::{BlockHash, limits};

impl BlockService {
    /// The bases that the caller may read or has uploaded; `None` in the place of the others.
    pub(crate) fn permitted(&self, who: Identity, bases: &Bases) -> Result<Vec<Option<BlockHash>>, ApiError> {
        if bases.blocks.len() > limits::BASES_PER_REQUEST {
            return Err(bad_request("the request names too many bases"));
        }
        let mut counts = self.meta.readable(who, bases.namespace, &bases.blocks)?;
        // What the account has uploaded itself, such as the beginning of a block whose upload broke off.
        let others: Vec<usize> = (0..bases.blocks.len()).filter(|number| counts.get(*number) != Some(&true)).collect();
        if !others.is_empty() {
            let asked: Vec<BlockHash> = others.iter().map(|number| bases.blocks[*number]).collect();
            for (number, missing) in others.into_iter().zip(self.meta.missing(who, &asked)?) {
                if let Some(counts) = counts.get_mut(number) {
                    *counts = !missing;
                }
            }
        }
        Ok(bases.blocks.iter().zip(counts).map(|(hash, counts)| counts.then_some(*hash)).collect())
    }

    /// The bytes of a base that the caller may read. A base is read for its sums and then for a delta, and
    /// its neighbours' deltas copy from it too. `None` also for one that the disk has damaged: who sent a delta
    /// to it sends the block whole then, and need not wait until somebody repairs the base.
    pub(crate) fn base(&self, hash: &BlockHash) -> Result<Option<Bytes>, ApiError> {
        if let Some(bytes) = self.recent_bases.get(hash) {
            return Ok(Some(bytes));
        }
        let bytes = match self.store.get(hash) {
            Ok(bytes) => bytes,
            Err(error @ (StoreError::Corrupt { .. } | StoreError::Io { .. })) => {
                tracing::error!(%error, "a base of a delta cannot be read; the block is asked for whole");
                None
            }
            Err(error) => return Err(unavailable(&error)),
        };
        if let Some(bytes) = &bytes {
            self.recent_bases.keep(*hash, bytes.clone(), bytes.len());
        }
        Ok(bytes)
    }

    /// The sums of chunks of blocks.
    ///
    /// # Errors
    /// `BadRequest` for more work than one request may ask for; those of
    /// [`api::service::MetaForBlocks::readable`]; `Unavailable`.
    pub fn sums(&self, who: Identity, request: &SumsRequest) -> Result<SumsReply, ApiError> {
        let chunks = |len: u32| len.div_ceil(request.chunk.max(1)) as usize;
        let total: usize = request.stretches.iter().map(|stretch| chunks(stretch.len)).sum();
        if request.chunk < limits::SUMS_CHUNK_MIN
            || request.stretches.len() > limits::SUMS_STRETCHES
            || total > limits::SUMS_PER_REQUEST
        {
            return Err(bad_request("the request asks for too many sums"));
        }
        let blocks: Vec<BlockHash> = request.stretches.iter().map(|stretch| stretch.block).collect();
        let readable = self.meta.readable(who, request.namespace, &blocks)?;
        let sums = request.stretches.iter().zip(readable).map(|(stretch, readable)| {
            let Some(base) = (if readable { self.base(&stretch.block)? } else { None }) else { return Ok(Vec::new()) };
            let part = base.get(stretch.offset as usize..).and_then(|tail| tail.get(..stretch.len as usize));
            let sums = part.map(|part| sums_to_bytes(&sum_up(part, request.chunk as usize))).unwrap_or_default();
            debug_assert!(sums.is_empty() || sums.len() == chunks(stretch.len) * SUM_BYTES, "a sum for each chunk");
            Ok(sums)
        });
        Ok(SumsReply { sums: sums.collect::<Result<_, ApiError>>()? })
    }
}
