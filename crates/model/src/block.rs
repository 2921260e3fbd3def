//! Blocks and the content hash.

use crate::ids::hex_newtype;
use crate::limits;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// The size of every block of a file but its last: 4 MiB.
pub const BLOCK_SIZE: u64 = 4 * 1024 * 1024;

hex_newtype!(
    /// The SHA-256 of a block's plain bytes: the block's name everywhere.
    BlockHash, 32
);
hex_newtype!(
    /// The SHA-256 of a file's concatenated raw block hashes: Dropbox's published `content_hash`.
    ContentHash, 32
);

impl BlockHash {
    /// The name of the block that holds `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The names of several blocks, in less time than one after the other.
    #[must_use]
    pub fn of_each(blocks: &[&[u8]]) -> Vec<Self> {
        sha256_lanes::digests(blocks).into_iter().map(Self).collect()
    }

    /// The same of blocks that lie in pieces.
    #[must_use]
    pub fn of_pieces(blocks: &[Vec<&[u8]>]) -> Vec<Self> {
        sha256_lanes::digests_of_pieces(blocks).into_iter().map(Self).collect()
    }
}

/// The beginnings of a block in multiples of [`limits::BEGINNING_BYTES`], the shortest first, without the block
/// itself: their lengths and hashes.
#[must_use]
pub fn beginnings(block: &[u8]) -> Vec<(usize, BlockHash)> {
    let mut hasher = Sha256::new();
    let mut found = Vec::new();
    for end in (limits::BEGINNING_BYTES..block.len()).step_by(limits::BEGINNING_BYTES) {
        hasher.update(&block[end - limits::BEGINNING_BYTES..end]);
        found.push((end, BlockHash(hasher.clone().finalize().into())));
    }
    found
}

/// A file's block hashes in order; empty for an empty file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Blocklist(pub Vec<BlockHash>);

impl Blocklist {
    /// The content hash of a file with these blocks.
    #[must_use]
    pub fn content_hash(&self) -> ContentHash {
        content_hash(&self.0)
    }

    /// Whether a file of `size` bytes has this many blocks.
    #[must_use]
    pub fn fits(&self, size: u64) -> bool {
        size.div_ceil(BLOCK_SIZE) == self.0.len() as u64
    }
}

/// The length in bytes of block `index` of a file of `size` bytes; 0 behind the end.
#[must_use]
pub fn block_len(size: u64, index: u64) -> u64 {
    size.saturating_sub(index.saturating_mul(BLOCK_SIZE)).min(BLOCK_SIZE)
}

impl ContentHash {
    /// The content hash of so many zeros.
    #[must_use]
    pub fn of_zeros(size: u64) -> Self {
        let zeros = vec![0; usize::try_from(size.min(BLOCK_SIZE)).unwrap_or(usize::MAX)];
        let of_zeros = |len: u64| BlockHash::of(&zeros[..usize::try_from(len).unwrap_or(usize::MAX)]);
        let whole = usize::try_from(size / BLOCK_SIZE).unwrap_or(usize::MAX);
        let mut blocks = if whole == 0 { Vec::new() } else { vec![of_zeros(BLOCK_SIZE); whole] };
        let rest = block_len(size, size / BLOCK_SIZE);
        if rest > 0 {
            blocks.push(of_zeros(rest));
        }
        content_hash(&blocks)
    }
}

/// SHA-256 over the concatenated raw block hashes.
#[must_use]
pub fn content_hash(blocks: &[BlockHash]) -> ContentHash {
    let mut hasher = Sha256::new();
    for block in blocks {
        hasher.update(block.0);
    }
    ContentHash(hasher.finalize().into())
}

/// Cuts a stream of bytes into blocks and names them.
#[derive(Debug, Default)]
pub struct BlockHasher {
    current: Sha256,
    filled: u64,
    size: u64,
    blocks: Vec<BlockHash>,
}

impl BlockHasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(BLOCK_SIZE - self.filled).unwrap_or(usize::MAX);
            let (head, rest) = bytes.split_at(room.min(bytes.len()));
            self.current.update(head);
            self.filled += head.len() as u64;
            self.size += head.len() as u64;
            bytes = rest;
            if self.filled == BLOCK_SIZE {
                self.cut();
            }
        }
    }

    /// The blocklist and the number of bytes seen.
    #[must_use]
    pub fn finish(mut self) -> (Blocklist, u64) {
        if self.filled > 0 {
            self.cut();
        }
        (Blocklist(self.blocks), self.size)
    }

    fn cut(&mut self) {
        let done = std::mem::take(&mut self.current);
        self.blocks.push(BlockHash(done.finalize().into()));
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_hash_of_zeros_is_that_of_a_file_of_zeros() {
        for size in [0, 1, 5_000, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE] {
            let mut hasher = BlockHasher::new();
            hasher.update(&vec![0; usize::try_from(size).expect("fits")]);
            assert_eq!(ContentHash::of_zeros(size), hasher.finish().0.content_hash(), "{size}");
        }
    }

    fn hash_of(bytes: impl Iterator<Item = u8>) -> String {
        let bytes: Vec<u8> = bytes.collect();
        let mut hasher = BlockHasher::new();
        for piece in bytes.chunks(1_000_003) {
            hasher.update(piece);
        }
        let (blocks, size) = hasher.finish();
        assert_eq!(size, bytes.len() as u64);
        assert!(blocks.fits(size));
        blocks.content_hash().to_string()
    }

    /// Dropbox's published vectors and four more around the block boundary.
    #[test]
    fn the_content_hash_is_dropboxs() {
        const MIB: usize = 1024 * 1024;
        let zeros = |n: usize| hash_of(std::iter::repeat_n(0, n));
        assert_eq!(zeros(0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(zeros(1), "1406e05881e299367766d313e26c05564ec91bf721d31726bd6e46e60689539a");
        assert_eq!(zeros(4 * MIB - 1), "839e2d868a885f260431d186466f0f3c189ee0eee5cc444b54e717740ad7f1c3");
        assert_eq!(zeros(4 * MIB), "c7e946d101855255d919ef0c70718633adf77d3dfb3adeeecf5d0cb4e951be58");
        assert_eq!(zeros(4 * MIB + 1), "14a4d47f23a30177885d9820122f17d2d3a55fe63f7f5c27b95f689e0b2accd6");
        assert_eq!(zeros(10 * MIB), "cfbbdae2c77066b55ee0bca512cfca2299904017a44f1dc362f4cc4e3924925d");
        assert_eq!(hash_of("hello".bytes()), "9595c9df90075148eb06860365df33584b75bff782a510c6cd4883a419833d50");
        let counting = (0..9_711_423_u32).map(|i| u8::try_from(i % 251).expect("below 251"));
        assert_eq!(hash_of(counting), "c2548ae69e493dad26831aa86c34eaba870021782fadfe084c1116b3e421f79d");
    }

    #[test]
    fn a_blocks_length_follows_from_the_files_size() {
        assert_eq!(block_len(0, 0), 0);
        assert_eq!(block_len(BLOCK_SIZE + 1, 0), BLOCK_SIZE);
        assert_eq!(block_len(BLOCK_SIZE + 1, 1), 1);
        assert_eq!(block_len(BLOCK_SIZE + 1, 2), 0);
    }
}
