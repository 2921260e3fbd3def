//! Small blocks that lie together in one object of a store.

use crate::block::BlockHash;
use crate::ids::hex_newtype;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

hex_newtype!(
    /// A pack of small blocks. No two packs ever have the same id, also if they hold the same blocks: what is
    /// decided about one that was removed concerns no later one.
    PackId, 16
);

/// Where a block lies that is in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedBlock {
    pub hash: BlockHash,
    pub pack: PackId,
    /// Bytes of the pack in front of it.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}
