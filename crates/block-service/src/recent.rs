//! What is kept in memory for a while because it will most likely be wanted again.

use model::BlockHash;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// What a value costs beside its own bytes: its block twice, and its places in the collections.
const OVERHEAD: usize = 256;

/// Values by block, the oldest of which go when there is no more room.
pub(crate) struct Recent<T> {
    room: usize,
    kept: Mutex<Kept<T>>,
}

struct Kept<T> {
    values: BTreeMap<BlockHash, (T, usize)>,
    /// The oldest first.
    order: VecDeque<BlockHash>,
    bytes: usize,
}

impl<T: Clone> Recent<T> {
    pub(crate) fn new(room: usize) -> Self {
        let kept = Kept { values: BTreeMap::new(), order: VecDeque::new(), bytes: 0 };
        Self { room, kept: Mutex::new(kept) }
    }

    /// Keeps a value of about `bytes` bytes, if there is any room for it at all. It is no part of something larger.
    pub(crate) fn keep(&self, block: BlockHash, value: T, bytes: usize) {
        let bytes = bytes + OVERHEAD;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > self.room || kept.values.contains_key(&block) {
            return;
        }
        kept.bytes += bytes;
        kept.values.insert(block, (value, bytes));
        kept.order.push_back(block);
        while kept.bytes > self.room {
            let Some(oldest) = kept.order.pop_front() else { break };
            if let Some((_, bytes)) = kept.values.remove(&oldest) {
                kept.bytes -= bytes;
            }
        }
    }

    pub(crate) fn get(&self, block: &BlockHash) -> Option<T> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.values.get(block).map(|(value, _)| value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room_for_the_newest() {
        let recent = Recent::new(2 * (OVERHEAD + 5));
        for number in 0..5 {
            recent.keep(BlockHash([number; 32]), number, 4);
        }
        let found: Vec<u8> = (0..5).filter_map(|number| recent.get(&BlockHash([number; 32]))).collect();
        assert_eq!(found, [3, 4]);
    }

    #[test]
    fn what_never_fits_pushes_nothing_out() {
        let recent = Recent::new(OVERHEAD + 10);
        recent.keep(BlockHash([1; 32]), 1, 10);
        recent.keep(BlockHash([2; 32]), 2, 11);
        assert_eq!((recent.get(&BlockHash([1; 32])), recent.get(&BlockHash([2; 32]))), (Some(1), None));
    }
}
