//! The one writer: appends groups of blocks to the newest pack.

use super::index::{Entry, Index, Place};
use super::layout::{Layout, sync_directory};
use super::pack::{PACK_HEADER, PackReaders, RECORD_HEADER, block_header, pack_header, removal_record};
use super::recovery::Tail;
use super::{Counters, DiskOptions, Job};
use crate::{Block, StoreError};
use direct_io::PageCache;
use model::BlockHash;
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Records shorter than this are gathered before they are written; longer ones are not worth a copy.
const GATHER_BELOW: usize = 64 * 1024;
/// Bytes gathered before they are written.
const GATHER_BYTES: usize = 1024 * 1024;

/// Writes to the packs and to the index.
#[derive(Debug)]
pub(super) struct Writer {
    layout: Layout,
    options: DiskOptions,
    index: Index,
    pack: Option<OpenPack>,
    /// The number of the pack that is begun when there is none to append to.
    next_pack: u32,
    counters: Counters,
    /// Where records are gathered. It is kept, since fresh memory costs more than what is copied into it.
    gathered: Vec<u8>,
}

/// The pack that grows.
#[derive(Debug)]
struct OpenPack {
    file: File,
    path: PathBuf,
    number: u32,
    /// Everything before is durable and in the index.
    end: u64,
    /// Which way long records go.
    page_cache: PageCache,
}

impl Writer {
    pub(super) fn new(layout: Layout, index: Index, tail: Tail, options: DiskOptions) -> Self {
        let mut writer = Self {
            layout,
            options,
            index,
            pack: None,
            next_pack: 1,
            counters: Counters::default(),
            gathered: Vec::new(),
        };
        match tail {
            Tail::Begin { pack } => writer.next_pack = pack,
            Tail::Append { pack, end } => {
                writer.next_pack = pack + 1;
                let path = writer.layout.pack(pack);
                // A pack that cannot be opened is left as it is; the next write begins another.
                writer.pack = OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .map_err(|error| tracing::warn!(path = %path.display(), %error, "a pack cannot be continued"))
                    .ok()
                    .map(|file| OpenPack { file, path, number: pack, end, page_cache: options.page_cache });
            }
        }
        writer
    }

    pub(super) const fn counters(&self) -> Counters {
        self.counters
    }

    /// Does a group of jobs: puts, or a single other.
    pub(super) fn work(&mut self, jobs: Vec<Job>) -> Result<(), StoreError> {
        let mut blocks = Vec::new();
        for job in jobs {
            match job {
                Job::Put(batch) => blocks.extend(batch),
                Job::Remove(hashes) => self.remove(&hashes)?,
                Job::Mark(hash, entry) => self.mark(&hash, entry)?,
                Job::Move(wanted) => self.move_blocks(&wanted)?,
                Job::DropPack(pack) => self.drop_pack(pack)?,
            }
        }
        if blocks.is_empty() { Ok(()) } else { self.put(blocks) }
    }

    /// Blocks that are there already are written and synced all the same, behind the new ones, and
    /// then overwritten by the next group: they cost no space, but as much time as a new block, so that
    /// an uploader cannot tell by the clock what others have stored.
    fn put(&mut self, blocks: Vec<Block>) -> Result<(), StoreError> {
        let (fresh, echoes) = self.sort(blocks)?;
        self.write(&fresh, &echoes)?;
        self.counters.blocks += fresh.len() as u64;
        self.counters.block_bytes += fresh.iter().map(|(block, _)| u64::from(block.len())).sum::<u64>();
        Ok(())
    }

    /// Writes blocks and enters the fresh ones at their new places.
    fn write(&mut self, fresh: &Sorted, echoes: &Sorted) -> Result<(), StoreError> {
        let bytes = fresh.iter().chain(echoes).map(|block| RECORD_HEADER as u64 + u64::from(block.0.len())).sum();
        let mut gathered = mem::take(&mut self.gathered);
        let written = self.pack_with_room(bytes)?.append(fresh, echoes, &mut gathered);
        self.gathered = gathered;
        self.counters.syncs += 1;
        let (places, end) = written.inspect_err(|_| self.leave_pack())?;
        let number = self.pack.as_ref().map_or(0, |pack| pack.number);
        self.index.change(|changes| {
            for ((block, _), place) in fresh.iter().zip(&places) {
                changes.enter(&block.hash(), Entry { place: *place, damaged: false })?;
            }
            for (block, entry) in echoes {
                if let Some(entry) = entry {
                    changes.enter(&block.hash(), *entry)?;
                }
            }
            changes.set_indexed(number, end)
        })?;
        if let Some(pack) = &mut self.pack {
            pack.end = end;
        }
        Ok(())
    }

    /// Writes blocks anew that are still where the caller saw them. One whose bytes are others is marked and
    /// stays where it is, and with it its pack.
    fn move_blocks(&mut self, wanted: &[(BlockHash, Place)]) -> Result<(), StoreError> {
        let packs = PackReaders::new(self.layout.clone());
        let mut moved = Vec::with_capacity(wanted.len());
        for (hash, place) in wanted {
            if self.index.find(hash)? != Some(Entry { place: *place, damaged: false }) {
                continue;
            }
            match packs.read(*place)?.and_then(|bytes| Block::expect(*hash, bytes).ok()) {
                Some(block) => moved.push((block, None)),
                None => self.mark(hash, Entry { place: *place, damaged: true })?,
            }
        }
        if moved.is_empty() { Ok(()) } else { self.write(&moved, &Vec::new()) }
    }

    /// The index forgets the pack before the file goes: a crash in between leaves a pack whose blocks are
    /// known elsewhere.
    fn drop_pack(&mut self, number: u32) -> Result<(), StoreError> {
        if self.pack.as_ref().is_some_and(|open| open.number == number) {
            return Ok(());
        }
        let mut is_empty = false;
        self.index.change(|changes| {
            is_empty = !changes.has_blocks(number)?;
            if is_empty { changes.forget_pack(number) } else { Ok(()) }
        })?;
        if !is_empty {
            return Ok(());
        }
        let path = self.layout.pack(number);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", &path)(error)),
            Ok(()) | Err(_) => sync_directory(&self.layout.packs()),
        }
    }

    /// Parts the blocks that must be kept from those that are there, with their entries.
    fn sort(&self, blocks: Vec<Block>) -> Result<(Sorted, Sorted), StoreError> {
        let (mut fresh, mut echoes) = (Vec::new(), Vec::new());
        let mut named = BTreeSet::new();
        let hashes: Vec<BlockHash> = blocks.iter().map(Block::hash).collect();
        for (block, found) in blocks.into_iter().zip(self.index.find_all(&hashes)?) {
            let entry = found.filter(|entry| !entry.damaged);
            if entry.is_some() || !named.insert(block.hash()) {
                echoes.push((block, entry));
            } else {
                fresh.push((block, None));
            }
        }
        Ok((fresh, echoes))
    }

    /// A removal is a record of its own, so that a rebuilt index does not bring the block back. Then the
    /// index forgets the block, and last its bytes go back to the file system.
    fn remove(&mut self, hashes: &[BlockHash]) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        for hash in hashes.iter().collect::<BTreeSet<_>>() {
            gone.extend(self.index.find(hash)?.map(|entry| (*hash, entry.place)));
        }
        if gone.is_empty() {
            return Ok(());
        }
        let pack = self.pack_with_room(0)?;
        let number = pack.number;
        let written = pack.append_removals(&gone);
        self.counters.syncs += 1;
        let end = written.inspect_err(|_| self.leave_pack())?;
        self.index.change(|changes| {
            gone.iter().try_for_each(|(hash, _)| changes.forget(hash))?;
            changes.set_indexed(number, end)
        })?;
        if let Some(pack) = &mut self.pack {
            pack.end = end;
        }
        gone.iter().for_each(|(_, place)| give_back(&self.layout, *place));
        Ok(())
    }

    /// Notes whether a block is damaged, if it is still where the caller saw it.
    fn mark(&mut self, hash: &BlockHash, entry: Entry) -> Result<(), StoreError> {
        self.index.change(|changes| match changes.find(hash)? {
            Some(known) if known.place == entry.place => changes.enter(hash, entry),
            Some(_) | None => Ok(()),
        })
    }

    fn pack_with_room(&mut self, bytes: u64) -> Result<&mut OpenPack, StoreError> {
        let room = self.options.pack_bytes.saturating_sub(bytes);
        let open = match self.pack.take_if(|open| open.end <= PACK_HEADER.max(room)) {
            Some(open) => open,
            None => {
                self.leave_pack();
                let open = OpenPack::begin(&self.layout, self.next_pack, self.options.page_cache)?;
                self.next_pack += 1;
                open
            }
        };
        open.cut_behind_end()?;
        Ok(self.pack.insert(open))
    }

    /// Appends to this pack no more, because it is full, or because a write or sync failed: then nobody
    /// knows which bytes of it will last. What is in the index stays; the next group begins a new pack. One that
    /// never held anything goes: a full disk would get another for every upload that it refuses.
    fn leave_pack(&mut self) {
        let Some(pack) = self.pack.take() else { return };
        let left = match self.index.knows_pack(pack.number) {
            Ok(false) if pack.end <= PACK_HEADER => {
                std::fs::remove_file(&pack.path).map_err(StoreError::io("remove", &pack.path))
            }
            Ok(_) | Err(_) => pack.cut_behind_end(),
        };
        if let Err(error) = left {
            tracing::warn!(pack = %pack.path.display(), %error, "a pack could not be cut behind its end");
        }
    }
}

/// Gives the file system back what a clean stop need not keep.
impl Drop for Writer {
    fn drop(&mut self) {
        self.leave_pack();
    }
}

/// Blocks, and for those that are there already their entries.
type Sorted = Vec<(Block, Option<Entry>)>;

impl OpenPack {
    /// Makes a pack whose existence is durable. A file of this number can only be one whose making
    /// was interrupted before its first record.
    fn begin(layout: &Layout, number: u32, page_cache: PageCache) -> Result<Self, StoreError> {
        let path = layout.pack(number);
        let create = || {
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
            file.write_all_at(&pack_header(number), 0)?;
            file.sync_all().map(|()| file)
        };
        let file = create().map_err(StoreError::io("create", &path))?;
        sync_directory(&layout.packs())?;
        Ok(Self { file, path, number, end: PACK_HEADER, page_cache })
    }

    /// Ends the file where its last kept record ends.
    fn cut_behind_end(&self) -> Result<(), StoreError> {
        let cut = || {
            if self.file.metadata()?.len() > self.end { self.file.set_len(self.end) } else { Ok(()) }
        };
        cut().map_err(StoreError::io("cut", &self.path))
    }

    /// Writes bytes and returns where they end.
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<u64> {
        direct_io::write_all_at(&self.file, bytes, at, self.page_cache)?;
        Ok(at + bytes.len() as u64)
    }

    /// Writes blocks and makes them durable. Returns the places of the fresh ones and their end.
    fn append(&self, fresh: &Sorted, echoes: &Sorted, gathered: &mut Vec<u8>) -> Result<(Vec<Place>, u64), StoreError> {
        let mut write = || {
            let mut out = Gather::new(self, gathered);
            let places = fresh.iter().map(|(block, _)| out.block(block)).collect::<io::Result<Vec<_>>>()?;
            let end = out.end();
            echoes.iter().try_for_each(|(block, _)| out.block(block).map(drop))?;
            out.flush()?;
            self.file.sync_data()?;
            Ok((places, end))
        };
        write().map_err(StoreError::io("write", &self.path))
    }

    /// Writes removals and makes them durable. Returns their end.
    fn append_removals(&self, gone: &[(BlockHash, Place)]) -> Result<u64, StoreError> {
        let write = || {
            let mut gathered = Vec::new();
            let mut out = Gather::new(self, &mut gathered);
            for (hash, place) in gone {
                let record = removal_record(self.number, out.end(), hash, *place);
                out.small(&record)?;
            }
            out.flush()?;
            self.file.sync_data()?;
            Ok(out.end())
        };
        write().map_err(StoreError::io("write", &self.path))
    }
}

/// Writes records one behind the other, small ones many at a time.
struct Gather<'a> {
    pack: &'a OpenPack,
    /// Where the gathered bytes go.
    at: u64,
    gathered: &'a mut Vec<u8>,
}

impl<'a> Gather<'a> {
    fn new(pack: &'a OpenPack, gathered: &'a mut Vec<u8>) -> Self {
        gathered.clear();
        Self { pack, at: pack.end, gathered }
    }

    fn end(&self) -> u64 {
        self.at + self.gathered.len() as u64
    }

    fn block(&mut self, block: &Block) -> io::Result<Place> {
        let header = block_header(self.pack.number, self.end(), &block.hash(), block.len());
        self.small(&header)?;
        let place = Place { pack: self.pack.number, offset: self.end(), len: block.len() };
        if block.bytes().len() < GATHER_BELOW {
            self.small(block.bytes())?;
        } else {
            self.flush()?;
            self.at = self.pack.write(block.bytes(), self.at)?;
        }
        Ok(place)
    }

    fn small(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.gathered.len() + bytes.len() > GATHER_BYTES {
            self.flush()?;
        }
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.at = self.pack.write(self.gathered, self.at)?;
        self.gathered.clear();
        Ok(())
    }
}

/// Gives a removed block's bytes back to the file system, where it can take them. Nothing depends on
/// it: the removal is durable already.
pub(super) fn give_back(layout: &Layout, place: Place) {
    let path = layout.pack(place.pack);
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let punch = |file: File| fallocate(file, flags, place.offset, place.len.into()).map_err(io::Error::from);
    match OpenOptions::new().write(true).open(&path).and_then(punch) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        Err(error) => tracing::warn!(pack = %path.display(), %error, "space of a removed block is not given back"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::block;

    /// A full disk got one for every upload that it refused.
    #[test]
    fn a_pack_that_never_held_anything_goes_and_the_others_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let layout = Layout::prepare(folder.path()).expect("prepares");
        let index = Index::create(&layout.index()).expect("makes it");
        let mut writer = Writer::new(layout.clone(), index, Tail::Begin { pack: 1 }, DiskOptions::default());
        writer.pack_with_room(0).expect("begins");
        assert!(layout.pack(1).exists());
        writer.leave_pack();
        assert!(!layout.pack(1).exists());
        writer.put(vec![block(0, 500)]).expect("puts");
        writer.leave_pack();
        assert!(layout.pack(2).exists());
    }
}
