//! Blocks on a local disk.
//!
//! ```text
//! blocks/
//!   lock            held by the one process that has the store open
//!   instance        the format and the server that the store belongs to
//!   packs/00000001.pack   append-only records: the truth
//!   index.sqlite    where each block lies: derived from the packs, rebuilt when it is lost
//! ```
//!
//! A batch is written behind the end of the newest pack, made durable by one `fdatasync`, entered into
//! the index, and only then acknowledged. Batches that arrive meanwhile are gathered and share the next
//! one. The index is not synced with each batch: after a power failure it may lack the last entries,
//! which `recovery` reads again from the packs' tails.
//!
//! A removed block's bytes go back to the file system at once where it takes holes; `compaction` empties
//! packs of which little is in use, and removes them.

mod compaction;
#[cfg(test)]
mod compaction_tests;
mod group;
mod index;
mod layout;
mod pack;
mod recovery;
#[cfg(test)]
mod tests;
mod writer;

use crate::{Block, BlockStore, Compaction, StoreError};
use bytes::Bytes;
use direct_io::PageCache;
use group::GroupQueue;
use index::{Entry, IndexReaders, Place};
use layout::Layout;
use model::{BlockHash, InstanceId};
use pack::PackReaders;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use writer::Writer;

/// Bytes after which a new pack is begun: small enough to copy and to compact, large enough that a
/// terabyte is a thousand files.
const PACK_BYTES: u64 = 1024 * 1024 * 1024;
/// Bytes of blocks that share one `fdatasync`; bounds how long the first of them waits.
const GROUP_BYTES: u64 = 64 * 1024 * 1024;
/// Batches that share one `fdatasync`.
const GROUP_BATCHES: usize = 1024;

/// How a store on disk is laid out.
#[derive(Debug, Clone, Copy)]
pub struct DiskOptions {
    /// Bytes after which a new pack is begun.
    pub pack_bytes: u64,
    /// Which way long records go to the disk.
    pub page_cache: PageCache,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self { pack_bytes: PACK_BYTES, page_cache: PageCache::default() }
    }
}

/// What a store has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of `fdatasync` on packs.
    pub syncs: u64,
    /// Blocks written that were not there before.
    pub blocks: u64,
    /// Bytes of those blocks.
    pub block_bytes: u64,
}

/// Blocks on a local disk, in append-only pack files.
#[derive(Debug)]
pub struct DiskBlockStore {
    layout: Layout,
    queue: GroupQueue<Job, Result<(), StoreError>>,
    /// Locked by the one thread that works for its group.
    writer: Mutex<Writer>,
    index: IndexReaders,
    packs: PackReaders,
    /// Held as long as the store is open.
    _lock: File,
}

/// The blocks of a store that another process has open, for reading alone. What that process has acknowledged
/// is seen here.
#[derive(Debug)]
pub struct DiskBlockReader {
    path: PathBuf,
    index: IndexReaders,
    packs: PackReaders,
}

impl DiskBlockReader {
    /// Looks at the store in `dir`. One that nobody has open may lack what its last process wrote: its next
    /// opening finds that again.
    ///
    /// # Errors
    /// [`StoreError::OtherInstance`] and the other refusals; whatever the disk answers.
    pub fn open(dir: &Path, instance: InstanceId) -> Result<Self, StoreError> {
        let layout = Layout::existing(dir);
        layout.check_owner(instance)?;
        let (index, packs) = (IndexReaders::new(layout.index()), PackReaders::new(layout));
        Ok(Self { path: dir.to_owned(), index, packs })
    }

    fn read_only(&self) -> StoreError {
        StoreError::Locked { path: self.path.clone() }
    }
}

impl BlockStore for DiskBlockReader {
    fn put(&self, _: &[Block]) -> Result<(), StoreError> {
        Err(self.read_only())
    }

    fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, StoreError> {
        match read(&self.index, &self.packs, hash) {
            Ok(found) => Ok(found.map(|(bytes, _)| bytes)),
            Err(Unread::Damaged(_)) => Err(StoreError::Corrupt { hash: *hash }),
            Err(Unread::Failed(error)) => Err(error),
        }
    }

    fn lengths(&self, hashes: &[BlockHash]) -> Result<Vec<Option<u32>>, StoreError> {
        lengths(&self.index, hashes)
    }

    fn remove(&self, _: &[BlockHash]) -> Result<(), StoreError> {
        Err(self.read_only())
    }

    fn list(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, StoreError> {
        self.index.list(after, page)
    }
}

/// Why a block could not be read.
enum Unread {
    /// Other bytes are where the index says, or none that the disk can read.
    Damaged(Entry),
    Failed(StoreError),
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// Reads a block where the index says that it is, and says what the index says of it. One that is known as damaged is
/// read too: what a disk could not read once it may read later.
fn read(index: &IndexReaders, packs: &PackReaders, hash: &BlockHash) -> Result<Option<(Bytes, Entry)>, Unread> {
    let mut looked = index.find(hash)?;
    loop {
        let Some(entry) = looked else { return Ok(None) };
        if let Some(bytes) = packs.read(entry.place)?.filter(|bytes| BlockHash::of(bytes) == *hash) {
            return Ok(Some((bytes, entry)));
        }
        // A removal that came between gives the bytes back to the disk, and compaction moves them: what
        // counts is the entry after the read. The entry can change only by those, by healing, or when another
        // reader marks it, each a write, so this loop ends.
        let again = index.find(hash)?;
        if again == looked {
            return Err(Unread::Damaged(entry));
        }
        looked = again;
    }
}

fn lengths(index: &IndexReaders, hashes: &[BlockHash]) -> Result<Vec<Option<u32>>, StoreError> {
    let entries = index.find_all(hashes)?;
    Ok(entries.into_iter().map(|entry| entry.filter(|e| !e.damaged).map(|e| e.place.len)).collect())
}

/// Work for the one writer.
#[derive(Debug)]
enum Job {
    Put(Vec<Block>),
    Remove(Vec<BlockHash>),
    /// A reader found the block damaged here, or whole after all.
    Mark(BlockHash, Entry),
    /// Writes blocks that lie in another pack to the newest one.
    Move(Vec<(BlockHash, Place)>),
    /// Removes a pack, if no block lies there any more.
    DropPack(u32),
}

impl DiskBlockStore {
    /// Opens the store in `dir`, or makes one there, and brings its index up to what the packs hold.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::OtherInstance`] and the other refusals; whatever the disk
    /// answers.
    pub fn open(dir: &Path, instance: InstanceId, options: DiskOptions) -> Result<Self, StoreError> {
        let layout = Layout::prepare(dir)?;
        let lock = layout.lock()?;
        layout.claim(instance)?;
        let (index, tail) = recovery::open_index(&layout)?;
        Ok(Self {
            layout: layout.clone(),
            queue: GroupQueue::new(Err(StoreError::io("write to", dir)(std::io::Error::other("the writer failed")))),
            index: IndexReaders::new(layout.index()),
            packs: PackReaders::new(layout.clone()),
            writer: Mutex::new(Writer::new(layout, index, tail, options)),
            _lock: lock,
        })
    }

    /// What the store has done since it was opened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).counters()
    }

    fn submit(&self, job: Job) -> Result<(), StoreError> {
        self.queue.submit(job, joins, |jobs| self.writer.lock().unwrap_or_else(PoisonError::into_inner).work(jobs))
    }
}

impl BlockStore for DiskBlockStore {
    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        if blocks.is_empty() { Ok(()) } else { self.submit(Job::Put(blocks.to_vec())) }
    }

    fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, StoreError> {
        match read(&self.index, &self.packs, hash) {
            Ok(None) => Ok(None),
            Ok(Some((bytes, entry))) => {
                if entry.damaged {
                    tracing::warn!(%hash, pack = entry.place.pack, "a block that was damaged can be read again");
                    self.submit(Job::Mark(*hash, Entry { damaged: false, ..entry }))?;
                }
                Ok(Some(bytes))
            }
            Err(Unread::Failed(error)) => Err(error),
            Err(Unread::Damaged(entry)) => {
                if !entry.damaged {
                    tracing::error!(%hash, pack = entry.place.pack, offset = entry.place.offset, "a block is damaged");
                    self.submit(Job::Mark(*hash, Entry { damaged: true, ..entry }))?;
                }
                Err(StoreError::Corrupt { hash: *hash })
            }
        }
    }

    fn lengths(&self, hashes: &[BlockHash]) -> Result<Vec<Option<u32>>, StoreError> {
        lengths(&self.index, hashes)
    }

    fn remove(&self, hashes: &[BlockHash]) -> Result<(), StoreError> {
        if hashes.is_empty() { Ok(()) } else { self.submit(Job::Remove(hashes.to_vec())) }
    }

    fn list(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, StoreError> {
        self.index.list(after, page)
    }

    fn compact(&self) -> Result<Compaction, StoreError> {
        Ok(Compaction { freed_bytes: self.compact_packs()?, ..Compaction::default() })
    }
}

/// Whether the next waiting job can share the group's write: only puts do, up to the group's limits.
fn joins(group: &[Job], next: &Job) -> bool {
    let bytes = |job: &Job| match job {
        Job::Put(blocks) => Some(blocks.iter().map(|block| u64::from(block.len())).sum::<u64>()),
        Job::Remove(_) | Job::Mark(..) | Job::Move(_) | Job::DropPack(_) => None,
    };
    let total: Option<u64> = group.iter().chain([next]).map(bytes).sum();
    group.len() < GROUP_BATCHES && total.is_some_and(|total| total <= GROUP_BYTES)
}
