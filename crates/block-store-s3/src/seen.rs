//! What is remembered of blocks that were seen in the bucket.

use model::{BlockHash, PackId, PackedBlock};
use std::collections::BTreeMap;

/// Blocks that are remembered, twice over; about 15 MB.
const BLOCKS: usize = 65_536;

/// Where a block was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// In an object of its own.
    Object,
    Pack {
        pack: PackId,
        offset: u32,
    },
}

/// Lengths of blocks and where they were, so that a download need not ask for each again. A length cannot
/// change, and a block that another server's clean-up removed is one that nobody may ask for. Where a block
/// was, it may be no longer: whoever does not find it there asks again.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    young: BTreeMap<BlockHash, (u32, At)>,
    /// The former `young`; what is not used before it is replaced again is forgotten.
    old: BTreeMap<BlockHash, (u32, At)>,
}

impl Seen {
    pub(crate) fn length(&self, hash: &BlockHash) -> Option<u32> {
        self.of(hash).map(|(len, _)| len)
    }

    /// Where a block was.
    pub(crate) fn place(&self, hash: &BlockHash) -> Option<Where> {
        self.of(hash).map(|(len, at)| match at {
            At::Object => Where::Object,
            At::Pack { pack, offset } => Where::Pack(PackedBlock { hash: *hash, pack, offset, len }),
        })
    }

    fn of(&self, hash: &BlockHash) -> Option<(u32, At)> {
        self.young.get(hash).or_else(|| self.old.get(hash)).copied()
    }

    pub(crate) fn note(&mut self, hash: BlockHash, len: u32, at: At) {
        if self.young.len() >= BLOCKS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, (len, at));
    }

    pub(crate) fn note_packed(&mut self, block: &PackedBlock) {
        self.note(block.hash, block.len, At::Pack { pack: block.pack, offset: block.offset });
    }

    pub(crate) fn forget(&mut self, hash: &BlockHash) {
        self.young.remove(hash);
        self.old.remove(hash);
    }
}

/// Where a block is to be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    Object,
    Pack(PackedBlock),
}
