//! Small blocks that came alone, put together later.
//!
//! An object is removed here that holds a block which somebody needs, so it must be certain that the block is
//! elsewhere and stays there. The index is told first that the blocks are about to get another place, as an upload
//! tells it (`keep`): from then on, for much longer than this takes, no clean-up removes them. Then they are packed, and
//! an object goes only after its block was read from a pack. Several servers may gather the same blocks; then one
//! of them notes the place of each.

use crate::pack::PACK_BYTES;
use crate::pack::SMALL_BLOCK;
use crate::seen::Where;
use crate::store::{Found, S3BlockStore, block_at, path};
use api::service::InsteadOf;
use block_store::{Block, StoreError};
use model::{BlockHash, limits};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Fewer stay as they are: a pack of few would not be worth its object.
const LEAST_BLOCKS: usize = 256;
/// Unless they have so many bytes.
const LEAST_BYTES: u64 = PACK_BYTES as u64;
/// The most in one run; there are more runs.
const MOST_BLOCKS: usize = 16 * 1024;
/// Objects that are listed together.
const PAGE: usize = 1000;
/// The longest from `keep` to the removal of objects. A process that stood still for longer leaves them to the next run.
const PATIENCE: Duration = Duration::from_secs(120);

impl S3BlockStore {
    /// Puts small blocks together that have objects of their own; how many of these are gone.
    pub(crate) fn gather(&self) -> Result<u64, StoreError> {
        let found = self.small_objects()?;
        if found.len() < LEAST_BLOCKS && found.iter().map(|(_, bytes)| bytes).sum::<u64>() < LEAST_BYTES {
            return Ok(0);
        }
        let (mut group, mut length, mut gathered) = (Vec::new(), 0, 0);
        for (hash, bytes) in found {
            if length + bytes > LEAST_BYTES || group.len() == limits::PACK_BLOCKS {
                gathered += self.gather_group(&std::mem::take(&mut group))?;
                length = 0;
            }
            length += bytes;
            group.push(hash);
        }
        Ok(gathered + self.gather_group(&group)?)
    }

    fn small_objects(&self) -> Result<Vec<(BlockHash, u64)>, StoreError> {
        self.bucket.wait(|requests| async move {
            let folder = requests.path(&["blocks"]);
            let (mut from, mut found) = (folder.clone(), Vec::new());
            loop {
                let listed = requests.list(&folder, &from, PAGE).await?;
                let small = listed.iter().filter(|listed| listed.bytes < SMALL_BLOCK as u64);
                found.extend(small.filter_map(|listed| Some((block_at(&requests, &listed.path)?, listed.bytes))));
                match listed.last() {
                    Some(last) if last.path > from && listed.len() == PAGE && found.len() < MOST_BLOCKS => {
                        from = last.path.clone();
                    }
                    Some(_) | None => break,
                }
            }
            found.truncate(MOST_BLOCKS);
            Ok(found)
        })
    }

    fn gather_group(&self, hashes: &[BlockHash]) -> Result<u64, StoreError> {
        let since = Instant::now();
        if let Err(error) = self.index.keep(hashes) {
            // One of them is just being removed, most likely; the others have time.
            tracing::info!(%error, blocks = hashes.len(), "small blocks are put together another time");
            return Ok(0);
        }
        let places = self.ask_index(hashes)?;
        let alone = places.iter().filter(|(_, place)| **place == Where::Object).map(|(hash, place)| (*hash, *place));
        let read = self.read_at(&alone.collect())?;
        let blocks: Vec<Block> = read.into_values().filter_map(whole).collect();
        if !blocks.is_empty() {
            let pack = self.new_pack(&blocks);
            self.put_pack(&pack)?;
            self.note(pack.id, &pack.blocks, InsteadOf::Nothing)?;
        }
        // What is removed was read, from the place at which everybody finds it.
        let places: BTreeMap<BlockHash, Where> =
            self.ask_index(hashes)?.into_iter().filter(|(_, place)| *place != Where::Object).collect();
        let found = self.read_at(&places)?;
        let packed = found.iter().filter(|(_, found)| matches!(found, Found::Whole(_))).map(|(hash, _)| hash);
        let objects: Vec<_> = packed.map(|hash| path(&self.bucket.requests, hash)).collect();
        if since.elapsed() > PATIENCE {
            return Ok(0);
        }
        let gathered = objects.len() as u64;
        self.delete(objects)?;
        places.values().for_each(|place| self.note_place(place));
        Ok(gathered)
    }
}

fn whole(found: Found) -> Option<Block> {
    match found {
        Found::Whole(bytes) => Block::new(bytes).ok(),
        Found::Absent | Found::Wrong => None,
    }
}
