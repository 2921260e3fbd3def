//! Packs: objects that hold many small blocks. What goes into them, and their bytes; pure.
//!
//! ```text
//! header   8 "SYNCPKS3"   4 format (1)   4 number of blocks   4 CRC-32C of the header before it and the index
//! index    for each block: 32 hash   4 offset from the pack's begin   4 length
//! data     the blocks, one behind the other, to the object's end
//! ```
//!
//! Integers are little-endian. The index stands in front, where one request finds it whatever the pack's length:
//! where the metadata database does not know a pack, the bucket alone says what is in it.

use block_store::Block;
use bytes::{Bytes, BytesMut};
use model::{BlockHash, PackId, PackedBlock, limits};
use std::collections::BTreeMap;
use std::ops::Range;

/// Shorter blocks are put together. A longer one takes longer to carry than to ask for.
pub(crate) const SMALL_BLOCK: usize = 256 * 1024;
/// Bytes of blocks in one pack: as many as a whole block has, which is as long as other objects are.
pub(crate) const PACK_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that are read in vain between two blocks, if that spares a request.
const GAP: u32 = 64 * 1024;

const MAGIC: &[u8; 8] = b"SYNCPKS3";
const FORMAT: u32 = 1;
const HEADER: usize = 20;
const ENTRY: usize = 40;
/// The longest header and index.
pub(crate) const FRONT: usize = HEADER + ENTRY * limits::PACK_BLOCKS;

/// A pack's bytes with what is in them.
#[derive(Debug)]
pub(crate) struct Pack {
    pub(crate) id: PackId,
    pub(crate) blocks: Vec<PackedBlock>,
    pub(crate) bytes: Bytes,
}

/// Blocks by the object that they get.
#[derive(Debug, Default)]
pub(crate) struct Division {
    /// Those that share one.
    pub(crate) together: Vec<Vec<Block>>,
    /// Those that get one of their own.
    pub(crate) alone: Vec<Block>,
}

/// Why bytes are no front of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPack {
    #[error("it does not begin like a pack, or ends too early")]
    Foreign,
    #[error("it is of format {0}, which this program does not know")]
    Format(u32),
    #[error("its index is damaged")]
    Damaged,
}

/// Divides the blocks of one call. One small block alone gains nothing by a pack.
pub(crate) fn divide(blocks: Vec<Block>) -> Division {
    let mut division = Division::default();
    let (mut pack, mut bytes) = (Vec::new(), 0);
    for block in blocks {
        if block.bytes().len() >= SMALL_BLOCK {
            division.alone.push(block);
            continue;
        }
        if bytes + block.bytes().len() > PACK_BYTES || pack.len() == limits::PACK_BLOCKS {
            division.together.push(std::mem::take(&mut pack));
            bytes = 0;
        }
        bytes += block.bytes().len();
        pack.push(block);
    }
    if pack.len() > 1 {
        division.together.push(pack);
    } else {
        division.alone.extend(pack);
    }
    division
}

impl Pack {
    /// Puts blocks together. `draw` is 16 random bytes: the id is made of them and of the blocks, so that it is
    /// another one each time.
    pub(crate) fn new(draw: [u8; 16], blocks: &[Block]) -> Self {
        let content: Vec<_> = blocks.iter().map(|block| (block.hash(), block.bytes().clone())).collect();
        Self::of(draw, &content)
    }

    /// As [`Pack::new`], also of bytes that are not those of their block's name.
    pub(crate) fn of(draw: [u8; 16], content: &[(BlockHash, Bytes)]) -> Self {
        let front = HEADER + ENTRY * content.len();
        let mut index = Vec::with_capacity(ENTRY * content.len());
        let mut places = Vec::with_capacity(content.len());
        let mut offset = number(front);
        for (hash, bytes) in content {
            let len = number(bytes.len());
            index.extend_from_slice(hash.as_bytes());
            index.extend_from_slice(&offset.to_le_bytes());
            index.extend_from_slice(&len.to_le_bytes());
            places.push((*hash, offset, len));
            offset += len;
        }
        let mut header = [&MAGIC[..], &FORMAT.to_le_bytes(), &number(content.len()).to_le_bytes()].concat();
        header.extend_from_slice(&checksum(&header, &index).to_le_bytes());
        let mut bytes = BytesMut::with_capacity(offset as usize);
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&index);
        content.iter().for_each(|(_, content)| bytes.extend_from_slice(content));
        let named = BlockHash::of(&[&draw[..], &index].concat());
        let id = PackId(*named.as_bytes().first_chunk().unwrap_or(&draw));
        let place = |(hash, offset, len)| PackedBlock { hash, pack: id, offset, len };
        Self { id, blocks: places.into_iter().map(place).collect(), bytes: bytes.freeze() }
    }

    /// What an object of so many bytes has in it, by its first [`FRONT`] ones.
    pub(crate) fn read_index(id: PackId, front: &[u8], object: u64) -> Result<Vec<PackedBlock>, NoPack> {
        let (header, rest) = front.split_first_chunk::<HEADER>().ok_or(NoPack::Foreign)?;
        let word = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        if header[..8] != MAGIC[..] {
            return Err(NoPack::Foreign);
        }
        if word(8) != FORMAT {
            return Err(NoPack::Format(word(8)));
        }
        let count = word(12) as usize;
        if count > limits::PACK_BLOCKS {
            return Err(NoPack::Damaged);
        }
        let index = rest.get(..ENTRY * count).ok_or(NoPack::Foreign)?;
        if checksum(&header[..16], index) != word(16) {
            return Err(NoPack::Damaged);
        }
        let mut next = (HEADER + index.len()) as u64;
        let mut blocks = Vec::with_capacity(count);
        for entry in index.chunks_exact(ENTRY) {
            let word = |at: usize| entry[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            let hash = BlockHash::try_from(&entry[..32]).map_err(|_| NoPack::Damaged)?;
            let block = PackedBlock { hash, pack: id, offset: word(32), len: word(36) };
            if u64::from(block.offset) != next {
                return Err(NoPack::Damaged);
            }
            next += u64::from(block.len);
            blocks.push(block);
        }
        if next == object { Ok(blocks) } else { Err(NoPack::Foreign) }
    }
}

/// A part of a pack that one request reads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) pack: PackId,
    pub(crate) range: Range<u64>,
    /// The blocks in it that are wanted.
    pub(crate) blocks: Vec<PackedBlock>,
}

impl Stretch {
    /// The wanted blocks, cut out of the stretch's bytes; `None` for one that is not there as it should be.
    pub(crate) fn cut(self, bytes: &Bytes) -> Vec<(PackedBlock, Option<Bytes>)> {
        let cut = |block: PackedBlock| {
            let from = (u64::from(block.offset) - self.range.start) as usize;
            let whole = bytes.len() >= from + block.len as usize;
            let found = whole.then(|| bytes.slice(from..from + block.len as usize));
            (block, found.filter(|bytes| BlockHash::of(bytes) == block.hash))
        };
        self.blocks.iter().copied().map(cut).collect()
    }
}

/// The fewest requests that read blocks: neighbours go together.
pub(crate) fn stretches(mut blocks: Vec<PackedBlock>) -> Vec<Stretch> {
    blocks.sort_unstable_by_key(|block| (block.pack, block.offset));
    let mut stretches: BTreeMap<(PackId, u64), Stretch> = BTreeMap::new();
    for block in blocks {
        let (begin, end) = (u64::from(block.offset), u64::from(block.offset) + u64::from(block.len));
        if let Some(mut last) = stretches.last_entry() {
            let last = last.get_mut();
            if last.pack == block.pack && begin <= last.range.end + u64::from(GAP) {
                last.range.end = last.range.end.max(end);
                last.blocks.push(block);
                continue;
            }
        }
        stretches.insert((block.pack, begin), Stretch { pack: block.pack, range: begin..end, blocks: vec![block] });
    }
    stretches.into_values().collect()
}

/// How long a pack of so many blocks is that have so many bytes. What compaction writes is as long as this, so that it
/// never has to be written again because of its index.
pub(crate) fn length(blocks: u64, bytes: u64) -> u64 {
    HEADER as u64 + ENTRY as u64 * blocks + bytes
}

fn checksum(header: &[u8], index: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(&[header, index].concat())
}

/// A length within a pack, which is far below the range.
fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_store::contract::block;

    fn blocks() -> Vec<Block> {
        vec![block(1, 10), block(2, 3000), block(3, 1)]
    }

    fn read(pack: &Pack) -> Result<Vec<PackedBlock>, NoPack> {
        Pack::read_index(pack.id, &pack.bytes[..pack.bytes.len().min(FRONT)], pack.bytes.len() as u64)
    }

    #[test]
    fn a_pack_says_itself_what_is_in_it() {
        let pack = Pack::new([7; 16], &blocks());
        assert_eq!(read(&pack).expect("is a pack"), pack.blocks);
        for (block, place) in blocks().iter().zip(&pack.blocks) {
            let from = place.offset as usize;
            assert_eq!(&pack.bytes[from..from + place.len as usize], block.bytes());
        }
    }

    #[test]
    fn format_1_stays_readable() {
        let pack = Pack::new([7; 16], &[Block::new(Bytes::from_static(b"golden")).expect("is a block")]);
        let hex: String = pack.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = concat!(
            "53594e43504b53330100000001000000f7493d12",
            "dd56de4137951d9c92681b03416ec15f886b4482a27e3a517d32f085244cbe5d",
            "3c00000006000000676f6c64656e"
        );
        assert_eq!(hex, golden);
    }

    #[test]
    fn damage_anywhere_in_front_and_a_cut_are_noticed() {
        let pack = Pack::new([7; 16], &blocks());
        for at in 0..HEADER + 3 * ENTRY {
            let mut bytes = pack.bytes.to_vec();
            bytes[at] ^= 1;
            assert!(Pack::read_index(pack.id, &bytes, bytes.len() as u64).is_err(), "byte {at}");
        }
        for cut in 0..pack.bytes.len() {
            assert!(Pack::read_index(pack.id, &pack.bytes[..cut], cut as u64).is_err(), "{cut} bytes");
        }
    }

    #[test]
    fn two_packs_of_the_same_blocks_have_two_ids() {
        assert_ne!(Pack::new([1; 16], &blocks()).id, Pack::new([2; 16], &blocks()).id);
    }

    #[test]
    fn small_blocks_share_packs_within_their_bounds_and_others_do_not() {
        let large = block(9, SMALL_BLOCK);
        let alone = divide(vec![block(1, 10), large.clone()]);
        assert!(alone.together.is_empty() && alone.alone == [large.clone(), block(1, 10)]);
        let lengths = |division: Division| division.together.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(divide((0..2500).map(|n| block(n, 20)).collect())), [1024, 1024, 452]);
        let quarters = divide((0..40).map(|n| block(n, SMALL_BLOCK - 1)).collect());
        assert_eq!(quarters.together.iter().map(Vec::len).collect::<Vec<_>>(), [16, 16, 8]);
    }

    #[test]
    fn neighbours_are_read_together_and_what_is_far_apart_is_not() {
        let place = |pack: u8, offset: u32| PackedBlock {
            hash: BlockHash([pack; 32]),
            pack: PackId([pack; 16]),
            offset,
            len: 100,
        };
        let far = 200 + GAP + 1;
        let found = stretches(vec![place(2, 0), place(1, far), place(1, 100), place(1, 0)]);
        let expected = [
            Stretch { pack: PackId([1; 16]), range: 0..200, blocks: vec![place(1, 0), place(1, 100)] },
            Stretch { pack: PackId([1; 16]), range: u64::from(far)..u64::from(far) + 100, blocks: vec![place(1, far)] },
            Stretch { pack: PackId([2; 16]), range: 0..100, blocks: vec![place(2, 0)] },
        ];
        assert_eq!(found, expected);
        assert_eq!(stretches(vec![place(1, 200 + GAP), place(1, 100)]).len(), 1, "a gap costs less than a request");
    }
}
