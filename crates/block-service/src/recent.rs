//! What is kept in memory for a while because it will most likely be wanted again.

use model::BlockHash;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What a value costs beside its own bytes: its block twice, and its places in the collections.
const OVERHEAD: usize = 256;

/// Values by block, the oldest of which go when there is no more room.
pub(crate) struct Recent<T> {
    room: usize,
    kept: Mutex<Kept<T>>,
}

struct Kept<T> {
    values: BTreeMap<BlockHash, One<T>>,
    /// By number, the oldest first.
    order: BTreeMap<u64, BlockHash>,
    next: u64,
    bytes: usize,
}

struct One<T> {
    value: T,
    bytes: usize,
    number: u64,
}

impl<T: Clone> Recent<T> {
    pub(crate) fn new(room: usize) -> Self {
        let kept = Kept { values: BTreeMap::new(), order: BTreeMap::new(), next: 0, bytes: 0 };
        Self { room, kept: Mutex::new(kept) }
    }

    /// Keeps a value of about `bytes` bytes in the place of an older one, if there is any room for it at all. It is no part of
    /// something larger.
    pub(crate) fn keep(&self, block: BlockHash, value: T, bytes: usize) {
        let bytes = bytes + OVERHEAD;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > self.room {
            return;
        }
        let number = kept.next;
        kept.next += 1;
        kept.bytes += bytes;
        kept.remove(&block);
        kept.values.insert(block, One { value, bytes, number });
        kept.order.insert(number, block);
        while kept.bytes > self.room {
            let Some((_, oldest)) = kept.order.pop_first() else { break };
            kept.remove(&oldest);
        }
    }

    /// Keeps nothing of the block any longer.
    pub(crate) fn forget(&self, block: &BlockHash) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(block);
    }

    pub(crate) fn get(&self, block: &BlockHash) -> Option<T> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.values.get(block).map(|one| one.value.clone())
    }
}

impl<T> Kept<T> {
    fn remove(&mut self, block: &BlockHash) {
        if let Some(one) = self.values.remove(block) {
            self.bytes -= one.bytes;
            self.order.remove(&one.number);
        }
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
    fn the_newest_of_a_block_counts_and_leaves_nothing_behind() {
        let recent = Recent::new(3 * (OVERHEAD + 4));
        let [again, other] = [BlockHash([1; 32]), BlockHash([2; 32])];
        recent.keep(other, 7, 4);
        for number in 0..1000 {
            recent.keep(again, number, number % 5);
        }
        assert_eq!((recent.get(&again), recent.get(&other)), (Some(999), Some(7)));
        let kept = recent.kept.lock().expect("not poisoned");
        assert_eq!((kept.bytes, kept.values.len(), kept.order.len()), (2 * (OVERHEAD + 4), 2, 2));
        drop(kept);
        recent.forget(&again);
        recent.forget(&again);
        assert_eq!((recent.get(&again), recent.get(&other)), (None, Some(7)));
        let kept = recent.kept.lock().expect("not poisoned");
        assert_eq!((kept.bytes, kept.values.len(), kept.order.len()), (OVERHEAD + 4, 1, 1));
    }

    #[test]
    fn what_never_fits_pushes_nothing_out() {
        let recent = Recent::new(OVERHEAD + 10);
        recent.keep(BlockHash([1; 32]), 1, 10);
        recent.keep(BlockHash([2; 32]), 2, 11);
        assert_eq!((recent.get(&BlockHash([1; 32])), recent.get(&BlockHash([2; 32]))), (Some(1), None));
    }
}
