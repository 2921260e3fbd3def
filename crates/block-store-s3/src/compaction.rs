//! Packs that are mostly unused, and packs that the index does not know.
//!
//! A block leaves its pack when it is removed, uploaded anew, or moved here. What is in a pack and has no place
//! takes up space. When less than half of a pack is in use, what is left is written to a new one, the places are
//! moved, each only if it still is what it was, and the old pack is ended and removed. Several servers may do
//! that at once: then one of them moves each place, and nobody removes a pack in which a place is left.
//!
//! A pack that the index never heard of is from an upload that broke off, or the index is an older copy. Nobody
//! can tell here, so it is not removed: its blocks get places where they have none that leads anywhere, and the
//! ordinary clean-up finds out which of them anybody names.

use crate::bucket::Requests;
use crate::pack::{self, FRONT, PACK_BYTES, Pack, Stretch, stretches};
use crate::store::{CALL_REQUESTS, S3BlockStore, pack_at, pack_path};
use api::service::{InsteadOf, NewPlace, PackState};
use block_store::{Block, StoreError};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use model::{PackId, PackedBlock, limits};
use object_store::path::Path;
use std::collections::BTreeMap;

/// Packs that are looked at together.
const PAGE: usize = 1000;

/// A pack as it lies in the bucket.
#[derive(Debug, Clone, Copy)]
struct Lying {
    pack: PackId,
    bytes: u64,
}

/// Blocks on their way out of packs that are mostly unused.
#[derive(Default)]
struct Move {
    blocks: Vec<(PackId, Block)>,
    bytes: usize,
    from: Vec<Lying>,
}

impl Move {
    fn has_room_for(&self, blocks: usize, bytes: usize) -> bool {
        self.blocks.len() + blocks <= limits::PACK_BLOCKS && self.bytes + bytes <= PACK_BYTES
    }
}

impl S3BlockStore {
    /// Gives back what packs take up in vain; how many bytes.
    pub(crate) fn compact_packs(&self) -> Result<u64, StoreError> {
        self.check_owner()?;
        let (mut freed, mut moving) = (0, Move::default());
        self.for_each_page(&mut |page| {
            for (lying, state) in page {
                match state {
                    PackState::Ended => freed += self.remove_pack(lying)?,
                    PackState::Unknown => drop(self.adopt(lying)?),
                    PackState::Live { blocks: 0, .. } => freed += self.end(lying)?,
                    PackState::Live { blocks, bytes } if pack::length(blocks, bytes) * 2 < lying.bytes => {
                        self.take_out(lying, &mut moving, &mut freed)?;
                    }
                    PackState::Live { .. } => {}
                }
            }
            Ok(())
        })?;
        freed += self.settle(moving)?;
        Ok(freed)
    }

    /// Notes all places that can be found in the bucket and that no others lead to; how many.
    pub(crate) fn find_packs_again(&self) -> Result<u64, StoreError> {
        self.check_owner()?;
        let mut found = 0;
        self.for_each_page(&mut |page| {
            for (lying, state) in page {
                if state != PackState::Ended {
                    found += self.adopt(lying)?;
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn for_each_page(
        &self,
        each: &mut dyn FnMut(Vec<(Lying, PackState)>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut after: Option<Path> = None;
        loop {
            let from = after.clone();
            let listed = self.bucket.wait(|requests| async move {
                let folder = requests.path(&["packs"]);
                requests.list(&folder, &from.unwrap_or_else(|| folder.clone()), PAGE).await
            })?;
            let Some(last) = listed.last().map(|listed| listed.path.clone()) else { return Ok(()) };
            // A server that begins again would let this go on for ever.
            if after.as_ref().is_some_and(|after| last <= *after) {
                return Ok(());
            }
            after = Some(last);
            let requests = &self.bucket.requests;
            let lying = listed
                .iter()
                .filter_map(|listed| Some(Lying { pack: pack_at(requests, &listed.path)?, bytes: listed.bytes }));
            let lying: Vec<Lying> = lying.collect();
            let ids: Vec<PackId> = lying.iter().map(|lying| lying.pack).collect();
            let states = self.index.packs(&ids).map_err(|error| self.index_failed(error))?;
            each(lying.into_iter().zip(states).collect())?;
            if listed.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// Removes a pack that has ended; its bytes.
    fn remove_pack(&self, lying: Lying) -> Result<u64, StoreError> {
        self.delete(vec![pack_path(&self.bucket.requests, &lying.pack)])?;
        Ok(lying.bytes)
    }

    /// Ends and removes a pack if no place is left in it; the bytes that are free then.
    fn end(&self, lying: Lying) -> Result<u64, StoreError> {
        let ended = self.index.end_pack(lying.pack).map_err(|error| self.index_failed(error))?;
        if ended { self.remove_pack(lying) } else { Ok(0) }
    }

    /// Reads what is left in a pack. One with a damaged block stays as it is: whoever looks at it may find more.
    fn take_out(&self, lying: Lying, moving: &mut Move, freed: &mut u64) -> Result<(), StoreError> {
        let places = self.index.places_in(lying.pack).map_err(|error| self.index_failed(error))?;
        if places.is_empty() {
            *freed += self.end(lying)?;
            return Ok(());
        }
        let bytes = places.iter().map(|place| place.len as usize).sum();
        if !moving.has_room_for(places.len(), bytes) {
            *freed += self.settle(std::mem::take(moving))?;
        }
        let wanted = places.len();
        let read = self.bucket.wait(|requests| async move {
            let read = |stretch| {
                let requests = requests.clone();
                async move { read_stretch(&requests, stretch).await }
            };
            let read = stream::iter(stretches(places)).map(read).buffer_unordered(CALL_REQUESTS);
            read.try_collect::<Vec<_>>().await
        })?;
        let blocks: Vec<Block> = read.into_iter().flatten().flatten().collect();
        if blocks.len() < wanted {
            tracing::warn!(pack = %lying.pack, "a pack is left as it is, since a block in it could not be read");
            return Ok(());
        }
        moving.bytes += bytes;
        moving.blocks.extend(blocks.into_iter().map(|block| (lying.pack, block)));
        moving.from.push(lying);
        Ok(())
    }

    /// Writes blocks that were taken out to a new pack, moves their places, and removes what they came from; the
    /// bytes that are free then.
    fn settle(&self, moving: Move) -> Result<u64, StoreError> {
        if moving.from.is_empty() {
            return Ok(0);
        }
        let blocks: Vec<Block> = moving.blocks.iter().map(|(_, block)| block.clone()).collect();
        let pack = self.new_pack(&blocks);
        self.put_pack(&pack)?;
        let moved = |((from, _), block): (&(PackId, Block), &PackedBlock)| NewPlace {
            block: block.hash,
            offset: block.offset,
            len: block.len,
            instead_of: InsteadOf::Pack(*from),
        };
        let places: Vec<NewPlace> = moving.blocks.iter().zip(&pack.blocks).map(moved).collect();
        self.index.note_packed(pack.id, &places).map_err(|error| self.index_failed(error))?;
        let new = Lying { pack: pack.id, bytes: pack.bytes.len() as u64 };
        let mut freed = 0;
        for lying in moving.from {
            freed += self.end(lying)?;
        }
        // If all its blocks were removed meanwhile, the new one goes too.
        let vain = self.end(new)?;
        Ok(freed.saturating_sub(new.bytes - vain))
    }

    /// Gives blocks of a pack places in it, where they have none or one in a pack that is gone; how many.
    fn adopt(&self, lying: Lying) -> Result<u64, StoreError> {
        let Lying { pack, bytes } = lying;
        let front = self.bucket.wait(|requests| async move {
            let front = bytes.min(FRONT as u64);
            requests.get_range(&pack_path(&requests, &pack), 0..front).await
        })?;
        let Some(front) = front else { return Ok(0) };
        let blocks = match Pack::read_index(pack, &front, bytes) {
            Ok(blocks) => blocks,
            Err(error) => {
                tracing::warn!(%pack, %error, place = self.bucket.requests.place(), "an object is no pack that can be read");
                return Ok(0);
            }
        };
        let hashes: Vec<_> = blocks.iter().map(|block| block.hash).collect();
        let present = self.index.find_packed(&hashes).map_err(|error| self.index_failed(error))?;
        let (mut gone, mut places) = (BTreeMap::new(), Vec::new());
        for (block, present) in blocks.iter().zip(present) {
            let instead_of = match present {
                None => InsteadOf::Nothing,
                Some(present) if present.pack != pack && self.is_gone(present.pack, &mut gone)? => {
                    InsteadOf::Pack(present.pack)
                }
                Some(_) => continue,
            };
            places.push(NewPlace { block: block.hash, offset: block.offset, len: block.len, instead_of });
        }
        self.index.note_packed(pack, &places).map_err(|error| self.index_failed(error))?;
        if !places.is_empty() {
            let blocks = places.len();
            tracing::info!(%pack, blocks, "blocks were found in a pack that the index did not know");
        }
        Ok(places.len() as u64)
    }

    fn is_gone(&self, pack: PackId, known: &mut BTreeMap<PackId, bool>) -> Result<bool, StoreError> {
        if let Some(gone) = known.get(&pack) {
            return Ok(*gone);
        }
        let length = self.bucket.wait(|requests| async move { requests.length(&pack_path(&requests, &pack)).await })?;
        known.insert(pack, length.is_none());
        Ok(length.is_none())
    }
}

/// The blocks of a stretch that are whole. Bytes that came damaged are asked for once more: it may have been the
/// network.
async fn read_stretch(requests: &Requests, stretch: Stretch) -> Result<Vec<Option<Block>>, StoreError> {
    let path = pack_path(requests, &stretch.pack);
    let mut last = Vec::new();
    for _ in 0..2 {
        let bytes = requests.get_range(&path, stretch.range.clone()).await?.unwrap_or_default();
        let again = Stretch { blocks: stretch.blocks.clone(), range: stretch.range.clone(), ..stretch };
        last = again.cut(&bytes).into_iter().map(|(_, bytes)| block_of(bytes)).collect();
        if last.iter().all(Option::is_some) {
            break;
        }
    }
    Ok(last)
}

fn block_of(bytes: Option<Bytes>) -> Option<Block> {
    Block::new(bytes?).ok()
}
