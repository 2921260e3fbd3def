//! Small blocks that were uploaded a moment ago: a device that hears of the file that they were uploaded for lacks them, as
//! a rule. What was there before is the content of something that it has, and need not be sent.

use model::{BlockHash, NodeId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Blocks, the oldest of which go when there is no more room.
pub(crate) struct FreshBlocks {
    room: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// The file that each block was uploaded for: the first that was told of, and nobody knows it before.
    files: BTreeMap<BlockHash, Option<NodeId>>,
    /// The oldest first.
    order: VecDeque<BlockHash>,
}

impl FreshBlocks {
    pub(crate) fn new(room: usize) -> Self {
        Self { room, kept: Mutex::default() }
    }

    /// These came just now.
    pub(crate) fn came(&self, blocks: impl Iterator<Item = BlockHash>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for block in blocks {
            if kept.files.insert(block, None).is_none() {
                kept.order.push_back(block);
            }
        }
        while kept.order.len() > self.room {
            let Some(oldest) = kept.order.pop_front() else { break };
            kept.files.remove(&oldest);
        }
    }

    /// Whether the block came for this file, a moment ago. One that is told of again, such as a copy, is no reason to send
    /// it again.
    pub(crate) fn is_of(&self, block: &BlockHash, file: NodeId) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.files.get_mut(block).is_some_and(|of| *of.get_or_insert(file) == file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn block(n: u8) -> BlockHash {
        BlockHash([n; 32])
    }

    #[test]
    fn a_block_is_fresh_for_the_first_file_that_is_told_of() {
        let fresh = FreshBlocks::new(10);
        let (one, copy) = (NodeId([1; 16]), NodeId([2; 16]));
        assert!(!fresh.is_of(&block(7), one), "it never came");
        fresh.came([block(7)].into_iter());
        assert!(fresh.is_of(&block(7), one) && !fresh.is_of(&block(7), copy));
        assert!(fresh.is_of(&block(7), one), "for every device that hears of it");
    }

    #[test]
    fn the_oldest_make_room_for_the_newest() {
        let fresh = FreshBlocks::new(2);
        fresh.came((1..=3).map(block));
        fresh.came([block(3)].into_iter());
        let known: Vec<u8> = (1..=3).filter(|n| fresh.is_of(&block(*n), NodeId([1; 16]))).collect();
        assert_eq!(known, [2, 3]);
    }
}
