//! Where small blocks lie in the packs of the block store.
//!
//! Why no place leads nowhere that somebody needs. A place is noted in a pack that is durable and has not ended,
//! and a pack ends only while no place is in it; both are transactions that hold the pack's row. Whoever removes
//! a pack has ended it before. So a note that comes late, from a process that stood still or a connection that
//! hung, meets the end of its pack and is refused.

use crate::failure::{Failure, bad_request};
use crate::service::MetaService;
use api::service::{InsteadOf, NewPlace, PackIndex, PackState};
use api::{ApiError, ErrorCode};
use metadata_store::{Existing, PackRecord, Transaction};
use model::{BlockHash, PackId, PackedBlock, limits};
use std::collections::BTreeSet;

impl PackIndex for MetaService {
    fn keep(&self, blocks: &[BlockHash]) -> Result<(), ApiError> {
        self.renew_blocks(blocks)
    }

    fn find_packed(&self, blocks: &[BlockHash]) -> Result<Vec<Option<PackedBlock>>, ApiError> {
        self.snapshot(|reading| Ok(reading.packed_blocks(blocks)?))
    }

    fn note_packed(&self, pack: PackId, blocks: &[NewPlace]) -> Result<(), ApiError> {
        if blocks.len() > limits::PACK_BLOCKS {
            return Err(bad_request("more blocks than a pack can have"));
        }
        // In one order, so that two who note the same blocks wait for one another and do not embrace.
        let mut blocks = blocks.to_vec();
        blocks.sort_unstable_by_key(|place| place.block);
        blocks.dedup_by_key(|place| place.block);
        let noted = self.write_again(|tx, _| {
            if tx.lock_pack(pack)?.is_some() {
                return Err(ended().into());
            }
            note(tx, pack, &blocks)
        });
        Ok(noted?)
    }

    fn forget_packed(&self, blocks: &[BlockHash]) -> Result<Vec<PackId>, ApiError> {
        let now = self.environment.now();
        let ended = self.write_again(|tx, _| {
            let packs: BTreeSet<PackId> =
                tx.packed_blocks(blocks)?.into_iter().flatten().map(|block| block.pack).collect();
            let mut open = Vec::new();
            for pack in packs {
                if tx.lock_pack(pack)?.is_none() {
                    open.push(pack);
                }
            }
            tx.forget_packed(blocks)?;
            let mut ended = Vec::new();
            for pack in open {
                if tx.blocks_in_pack(pack)?.is_empty() {
                    tx.end_pack(pack, now)?;
                    ended.push(pack);
                }
            }
            Ok(ended)
        });
        Ok(ended?)
    }

    fn list_packed(&self, after: Option<BlockHash>, limit: usize) -> Result<Vec<BlockHash>, ApiError> {
        self.snapshot(|reading| Ok(reading.all_packed_blocks(after, limit)?))
    }

    fn packs(&self, packs: &[PackId]) -> Result<Vec<PackState>, ApiError> {
        let known = self.snapshot(|reading| Ok(reading.packs(packs)?))?;
        let state = |record| match record {
            None => PackState::Unknown,
            Some(PackRecord { ended: Some(_), .. }) => PackState::Ended,
            Some(PackRecord { ended: None, blocks, bytes }) => PackState::Live { blocks, bytes },
        };
        Ok(known.into_iter().map(state).collect())
    }

    fn places_in(&self, pack: PackId) -> Result<Vec<PackedBlock>, ApiError> {
        self.snapshot(|reading| Ok(reading.blocks_in_pack(pack)?))
    }

    fn end_pack(&self, pack: PackId) -> Result<bool, ApiError> {
        let now = self.environment.now();
        let ended = self.write_again(|tx, _| {
            if tx.lock_pack(pack)?.is_some() {
                return Ok(true);
            }
            let empty = tx.blocks_in_pack(pack)?.is_empty();
            if empty {
                tx.end_pack(pack, now)?;
            }
            Ok(empty)
        });
        Ok(ended?)
    }
}

/// Notes those of the places whose predecessors are as expected. The pack is locked.
fn note(tx: &dyn Transaction, pack: PackId, blocks: &[NewPlace]) -> Result<(), Failure> {
    let hashes: Vec<BlockHash> = blocks.iter().map(|place| place.block).collect();
    let present = tx.lock_packed(&hashes)?;
    let (mut replace, mut add) = (Vec::new(), Vec::new());
    for (place, present) in blocks.iter().zip(present) {
        let new = PackedBlock { hash: place.block, pack, offset: place.offset, len: place.len };
        match (place.instead_of, present) {
            (InsteadOf::Anything, _) => replace.push(new),
            (InsteadOf::Pack(old), Some(present)) if present.pack == old => replace.push(new),
            (InsteadOf::Nothing, None) => add.push(new),
            (InsteadOf::Nothing, Some(_)) | (InsteadOf::Pack(_), _) => {}
        }
    }
    tx.put_packed(&replace, Existing::Replace)?;
    Ok(tx.put_packed(&add, Existing::Keep)?)
}

fn ended() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the blocks took too long to be stored, try again")
}
