//! A block whose name is known to be true.

use bytes::Bytes;
use model::{BLOCK_SIZE, BlockHash};

/// A block's bytes under their own SHA-256. The hash is computed here and nowhere taken on trust, so
/// that no store ever keeps bytes under a wrong name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    hash: BlockHash,
    bytes: Bytes,
}

/// Why bytes are not a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("a block has 1 to {BLOCK_SIZE} bytes, not {0}")]
    Length(usize),
    #[error("the bytes sent as block {expected} are another block")]
    WrongHash { expected: BlockHash },
}

impl Block {
    /// The block made of these bytes.
    ///
    /// # Errors
    /// [`BlockError::Length`] for no bytes and for too many.
    pub fn new(bytes: Bytes) -> Result<Self, BlockError> {
        Self::named(BlockHash::of(&bytes), bytes)
    }

    /// [`Self::new`] for several, in less time than one after the other.
    ///
    /// # Errors
    /// [`BlockError::Length`], for each by itself.
    pub fn new_each(bytes: impl IntoIterator<Item = Bytes>) -> Vec<Result<Self, BlockError>> {
        let bytes: Vec<Bytes> = bytes.into_iter().collect();
        let hashes = BlockHash::of_each(&bytes.iter().map(|bytes| &**bytes).collect::<Vec<_>>());
        bytes.into_iter().zip(hashes).map(|(bytes, hash)| Self::named(hash, bytes)).collect()
    }

    /// The block made of these bytes, if it is the one that a peer says it is.
    ///
    /// # Errors
    /// [`BlockError`].
    pub fn expect(expected: BlockHash, bytes: Bytes) -> Result<Self, BlockError> {
        Self::new(bytes)?.if_it_is(expected)
    }

    /// The blocks made of these bytes, in less time than one after the other.
    ///
    /// # Errors
    /// [`BlockError::Length`], for each by itself.
    pub fn each(blocks: Vec<Bytes>) -> Vec<Result<Self, BlockError>> {
        let hashes = BlockHash::of_each(&blocks.iter().map(|bytes| &**bytes).collect::<Vec<_>>());
        blocks.into_iter().zip(hashes).map(|(bytes, hash)| Self::named(hash, bytes)).collect()
    }

    /// [`Self::expect`] for several, in less time than one after the other.
    ///
    /// # Errors
    /// [`BlockError`], for each by itself.
    pub fn expect_each(expected: impl IntoIterator<Item = (BlockHash, Bytes)>) -> Vec<Result<Self, BlockError>> {
        let (names, bytes): (Vec<BlockHash>, Vec<Bytes>) = expected.into_iter().unzip();
        Self::each(bytes).into_iter().zip(names).map(|(block, name)| block?.if_it_is(name)).collect()
    }

    /// Bytes whose hash was computed just now.
    fn named(hash: BlockHash, bytes: Bytes) -> Result<Self, BlockError> {
        if bytes.is_empty() || bytes.len() as u64 > BLOCK_SIZE {
            return Err(BlockError::Length(bytes.len()));
        }
        Ok(Self { hash, bytes })
    }

    fn if_it_is(self, expected: BlockHash) -> Result<Self, BlockError> {
        if self.hash == expected { Ok(self) } else { Err(BlockError::WrongHash { expected }) }
    }

    /// The block's name.
    #[must_use]
    pub const fn hash(&self) -> BlockHash {
        self.hash
    }

    /// The block's content.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The block's length in bytes.
    #[must_use]
    pub fn len(&self) -> u32 {
        // At most BLOCK_SIZE, which the constructor saw to.
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    /// Always false: a block has at least one byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_under_a_wrong_name_are_no_block() {
        let expected = BlockHash::of(b"one");
        assert!(Block::expect(expected, Bytes::from_static(b"one")).is_ok());
        assert_eq!(
            Block::expect(expected, Bytes::from_static(b"two")),
            Err(BlockError::WrongHash { expected }),
            "another block"
        );
        let several = [b"one", b"two", b"one"].map(|bytes| (expected, Bytes::from_static(bytes)));
        let found: Vec<bool> = Block::expect_each(several).iter().map(Result::is_ok).collect();
        assert_eq!(found, [true, false, true]);
    }

    #[test]
    fn a_block_is_neither_empty_nor_longer_than_the_block_size() {
        let largest = usize::try_from(BLOCK_SIZE).expect("fits");
        assert_eq!(Block::new(Bytes::new()), Err(BlockError::Length(0)));
        assert!(Block::new(vec![0; largest].into()).is_ok());
        assert_eq!(Block::new(vec![0; largest + 1].into()), Err(BlockError::Length(largest + 1)));
    }
}
