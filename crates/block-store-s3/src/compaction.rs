//! Packs that are mostly unused, small ones, and those that the index does not know.
//!
//! A block leaves its pack when it is removed, uploaded anew, or moved here. What is in a pack and has no place
//! takes up space. When less than half of a pack is in use, what is left is written to a new one, the places are
//! moved, each only if it still is what it was, and the old pack is ended and removed. Several servers may do
//! that at once: then one of them moves each place, and nobody removes a pack in which a place is left.
//!
//! Packs that are small themselves, of uploads of few blocks each, are put together in the same way when they make a
//! pack that is not small: so each block is moved for this reason once.
//!
//! A pack that the index never heard of is from an upload that broke off, or the index is an older copy. Nobody
//! can tell here, so it is not removed: its blocks get places where they have none that leads anywhere, and the
//! ordinary clean-up finds out which of them anybody names.

use crate::leaving::{self, Leaving};
use crate::pack::{self, FRONT, PACK_BYTES, Pack};
use crate::store::{S3BlockStore, pack_at, pack_path};
use api::service::{InsteadOf, NewPlace, PackState};
use block_store::{Compaction, StoreError};
use model::{PackId, PackedBlock, limits};
use object_store::path::Path;
use std::collections::BTreeMap;

/// Packs that are looked at together.
const PAGE: usize = 1000;
/// A pack with less than one part in this many of the blocks and of the bytes that a pack can have is a small one.
const SMALL_SHARE: u64 = 4;
/// Small packs that are put together in one run; there are more runs.
const MOST_SMALL: usize = 16 * 1024;

/// A pack as it lies in the bucket.
#[derive(Debug, Clone, Copy)]
struct Lying {
    pack: PackId,
    bytes: u64,
}

/// How much of a pack is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    blocks: u64,
    bytes: u64,
}

impl Load {
    fn plus(self, other: Self) -> Self {
        Self { blocks: self.blocks + other.blocks, bytes: self.bytes + other.bytes }
    }

    fn fits(self) -> bool {
        self.blocks <= limits::PACK_BLOCKS as u64 && self.bytes <= PACK_BYTES as u64
    }

    fn is_small(self) -> bool {
        self.blocks * SMALL_SHARE < limits::PACK_BLOCKS as u64 && self.bytes * SMALL_SHARE < PACK_BYTES as u64
    }
}

/// Blocks on their way out of packs.
#[derive(Default)]
struct Move {
    blocks: Vec<Leaving>,
    load: Load,
    from: Vec<Lying>,
}

impl S3BlockStore {
    /// Gives back what packs take up in vain, and puts small ones together.
    pub(crate) fn compact_packs(&self) -> Result<Compaction, StoreError> {
        self.check_owner()?;
        let (mut done, mut moving, mut small) = (Compaction::default(), Move::default(), Vec::new());
        self.for_each_page(&mut |page| {
            for (lying, state) in page {
                match state {
                    PackState::Ended => done.freed_bytes += self.remove_pack(lying)?,
                    PackState::Unknown => drop(self.adopt(lying)?),
                    PackState::Live { blocks: 0, .. } => done.freed_bytes += self.end(lying)?,
                    PackState::Live { blocks, bytes } if pack::length(blocks, bytes) * 2 < lying.bytes => {
                        self.take_out(lying, &mut moving, &mut done)?;
                    }
                    PackState::Live { blocks, bytes } => small.push((lying, Load { blocks, bytes })),
                }
            }
            small.retain(|(_, load)| load.is_small());
            small.truncate(MOST_SMALL);
            Ok(())
        })?;
        self.settle(moving, &mut done)?;
        if self.packs {
            self.put_together(small, &mut done)?;
        }
        Ok(done)
    }

    fn put_together(&self, small: Vec<(Lying, Load)>, done: &mut Compaction) -> Result<(), StoreError> {
        for group in groups(small) {
            let mut moving = Move::default();
            for lying in group {
                self.take_out(lying, &mut moving, done)?;
            }
            done.gathered += moving.blocks.len() as u64;
            self.settle(moving, done)?;
        }
        Ok(())
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

    /// Reads what is left in a pack.
    fn take_out(&self, lying: Lying, moving: &mut Move, done: &mut Compaction) -> Result<(), StoreError> {
        let pack = lying.pack;
        let places = self.index.places_in(pack).map_err(|error| self.index_failed(error))?;
        if places.is_empty() {
            done.freed_bytes += self.end(lying)?;
            return Ok(());
        }
        let bytes = places.iter().map(|place| u64::from(place.len)).sum();
        let load = Load { blocks: places.len() as u64, bytes };
        if !moving.load.plus(load).fits() {
            self.settle(std::mem::take(moving), done)?;
        }
        let read = self.bucket.wait(|requests| leaving::read_all(requests, pack, places))?;
        let Some(blocks) = read else {
            tracing::warn!(%pack, "a pack is left as it is, since it could not be found out what is in it");
            return Ok(());
        };
        moving.load = moving.load.plus(load);
        moving.blocks.extend(blocks);
        moving.from.push(lying);
        Ok(())
    }

    /// Writes blocks that were taken out to a new pack, moves their places, and removes what they came from.
    fn settle(&self, moving: Move, done: &mut Compaction) -> Result<(), StoreError> {
        if moving.from.is_empty() {
            return Ok(());
        }
        let content: Vec<_> = moving.blocks.iter().map(|block| (block.hash, block.bytes.clone())).collect();
        let pack = Pack::of(self.draw(), &content);
        self.put_pack(&pack)?;
        let moved = |(leaving, block): (&Leaving, &PackedBlock)| NewPlace {
            block: block.hash,
            offset: block.offset,
            len: block.len,
            instead_of: InsteadOf::Pack(leaving.from),
        };
        let places: Vec<NewPlace> = moving.blocks.iter().zip(&pack.blocks).map(moved).collect();
        self.index.note_packed(pack.id, &places).map_err(|error| self.index_failed(error))?;
        for Leaving { from, hash, .. } in moving.blocks.iter().filter(|block| block.damaged) {
            tracing::warn!(%hash, %from, to = %pack.id, "a damaged block was moved as it is; it heals when it is uploaded");
            done.damaged += 1;
        }
        let new = Lying { pack: pack.id, bytes: pack.bytes.len() as u64 };
        let mut freed = 0;
        for lying in moving.from {
            freed += self.end(lying)?;
        }
        // If all its blocks were removed meanwhile, the new one goes too.
        let vain = self.end(new)?;
        done.freed_bytes += freed.saturating_sub(new.bytes - vain);
        Ok(())
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

/// Packs that make one together which is not small.
fn groups(small: Vec<(Lying, Load)>) -> Vec<Vec<Lying>> {
    let (mut groups, mut group, mut load) = (Vec::new(), Vec::new(), Load::default());
    for (lying, more) in small {
        if !load.plus(more).fits() {
            groups.push(std::mem::take(&mut group));
            load = Load::default();
        }
        load = load.plus(more);
        group.push(lying);
    }
    if !load.is_small() {
        groups.push(group);
    }
    groups
}
