//! What blocks that have only moved cost: a few bytes each.

use crate::codec::DecodeError;
use crate::messages::{Bases, BlockHeader, ChangesReply, SmallContent};
use model::block::block_len;
use model::{BLOCK_SIZE, BlockHash, Body, Change, limits};
use serde::{Deserialize, Serialize};

/// The first bytes of a block's hash, where both sides know which blocks may be meant. With the wrong one of two that
/// begin alike the bytes that come of it are not the block, whose whole hash decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HashStart(pub [u8; 4]);

impl HashStart {
    /// Of this block.
    #[must_use]
    pub const fn of(block: &BlockHash) -> Self {
        let [a, b, c, d, ..] = block.0;
        Self([a, b, c, d])
    }

    /// Whether the block may be meant.
    #[must_use]
    pub fn is_of(&self, block: &BlockHash) -> bool {
        *self == Self::of(block)
    }
}

/// A changeset of no blocks but of what its sender takes them for: an older version's, moved. Nothing follows it. Who
/// receives it makes the blocks, and stores those whose hashes begin as they should under the names that they really
/// have; the others are unmade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shift {
    pub bases: Bases,
    /// Bytes of the blocks, which follow each other in a file.
    pub size: u64,
    pub blocks: Vec<HashStart>,
    /// What makes all of them, one behind the other, of the bases one behind the other (`delta::split`).
    pub script: Vec<u8>,
}

impl Shift {
    /// The lengths of its blocks, checked before memory is spent on any.
    ///
    /// # Errors
    /// [`DecodeError::BlockTooLong`] for blocks that do not have this size or are too many, and for a script that is
    /// too long to say that they moved.
    pub fn lens(&self) -> Result<Vec<u32>, DecodeError> {
        let count = self.blocks.len();
        if count > limits::SHIFT_BLOCKS
            || self.script.len() > limits::SHIFT_SCRIPT_BYTES
            || count == 0
            || self.size.div_ceil(BLOCK_SIZE) != count as u64
        {
            return Err(DecodeError::BlockTooLong);
        }
        let len = |index| u32::try_from(block_len(self.size, index)).unwrap_or(0);
        Ok((0..count as u64).map(len).collect())
    }
}

impl SmallContent {
    /// The blocks that it makes; `None` if the reply does not name them, or they are too many.
    #[must_use]
    pub fn blocks(&self, changes: &ChangesReply) -> Option<Vec<BlockHeader>> {
        let mut entries = changes.namespaces.iter().flat_map(|page| &page.entries);
        let (Change::Create { body, .. } | Change::Edit { body }) = &entries.nth(self.entry as usize)?.change else {
            return None;
        };
        let Body::File { blocks, size, .. } = body else { return None };
        if self.count as usize > limits::SHIFT_BLOCKS {
            return None;
        }
        let header = |number: u32| {
            let len = u32::try_from(block_len(*size, number.into())).ok()?;
            Some(BlockHeader { hash: *blocks.0.get(number as usize)?, len })
        };
        (self.first..self.first.checked_add(self.count)?).map(header).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NamespaceChanges;
    use model::{Blocklist, JournalEntry, Mtime, NamespaceId, NodeId, Position, Timestamp};

    fn shift(blocks: usize, size: u64) -> Shift {
        let bases = Bases { namespace: NamespaceId([1; 16]), blocks: vec![BlockHash([2; 32])] };
        Shift { bases, size, blocks: vec![HashStart([3; 4]); blocks], script: vec![9, 0, 0] }
    }

    #[test]
    fn a_shifts_blocks_are_as_long_as_its_size_says() {
        let len = BLOCK_SIZE as u32;
        assert_eq!(shift(2, BLOCK_SIZE + 1).lens(), Ok(vec![len, 1]));
        assert_eq!(shift(2, 2 * BLOCK_SIZE).lens(), Ok(vec![len, len]));
        let most = limits::SHIFT_BLOCKS;
        assert!(shift(most, most as u64 * BLOCK_SIZE).lens().is_ok());
        for (blocks, size) in [
            (0, 0),
            (2, BLOCK_SIZE),
            (2, 2 * BLOCK_SIZE + 1),
            (1, u64::MAX),
            (most + 1, (most + 1) as u64 * BLOCK_SIZE),
        ] {
            assert_eq!(shift(blocks, size).lens(), Err(DecodeError::BlockTooLong), "{blocks} of {size}");
        }
        let long = Shift { script: vec![0; limits::SHIFT_SCRIPT_BYTES + 1], ..shift(1, 1) };
        assert_eq!(long.lens(), Err(DecodeError::BlockTooLong));
    }

    #[test]
    fn a_shift_names_a_block_in_four_bytes() {
        // Golden: what travels.
        let bytes = crate::encode(&shift(2, 300));
        let expected = [&[1; 16][..], &[1], &[2; 32], &[0xac, 2], &[2], &[3; 8], &[3, 9, 0, 0]].concat();
        assert_eq!(bytes, expected);
        assert!(HashStart([2; 4]).is_of(&BlockHash([2; 32])));
        assert!(!HashStart([2, 2, 2, 3]).is_of(&BlockHash([2; 32])));
    }

    #[test]
    fn what_comes_along_is_named_by_the_entry_that_changed() {
        let list = Blocklist(vec![BlockHash([5; 32]), BlockHash([6; 32])]);
        let body = Body::File { blocks: list, size: BLOCK_SIZE + 7, executable: false, mtime: Mtime(0) };
        let entry = |change| JournalEntry {
            position: Position(1),
            node: NodeId([1; 16]),
            change,
            device: None,
            time: Timestamp(0),
        };
        let entries = vec![entry(Change::Delete), entry(Change::Edit { body })];
        let page = NamespaceChanges { namespace: NamespaceId([1; 16]), role: None, entries, head: Position(1) };
        let empty = NamespaceChanges { entries: Vec::new(), ..page.clone() };
        let changes = ChangesReply { namespaces: vec![empty, page] };
        let blocks = |entry, first, count| {
            SmallContent { entry, first, count, form: 0, bases: Vec::new(), bytes: Vec::new() }.blocks(&changes)
        };
        let headers = [(5, BLOCK_SIZE as u32), (6, 7)].map(|(n, len)| BlockHeader { hash: BlockHash([n; 32]), len });
        assert_eq!(blocks(1, 0, 2), Some(headers.into()));
        assert_eq!(blocks(1, 1, 1), Some(headers[1..].into()));
        for (entry, first, count) in [(0, 0, 1), (2, 0, 1), (1, 1, 2), (1, u32::MAX, 2), (1, 0, u32::MAX)] {
            assert_eq!(blocks(entry, first, count), None);
        }
    }
}
