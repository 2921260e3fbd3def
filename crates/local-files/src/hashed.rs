//! What was hashed lately, so that it need not be read and hashed a second time to be sent.
//!
//! Of large files it is their state. While a file is in the state in which it was read, its blocks are what they were.
//! The state is what a hash rests on as well ([`crate::jobs`]), but for one thing: who writes through a memory mapping
//! may leave no trace in it for a while. So this is for those whose receiver checks what it gets.
//!
//! Of small files it is the content itself, which is what its hash says whatever has become of the file since.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{BLOCK_SIZE, BlockHash, Blocklist};
use sync_engine::io::{BlockSource, Fingerprint, HashResult, Job, JobResult, LocalPath};

use crate::fs::OpenFile;

/// The content of a smaller file is kept, the state of others noted; in bytes.
pub(crate) const LARGE: u64 = 256 * 1024;
/// Bytes of contents of a generation, with what it takes to keep them. Two are kept: the older one is sent while the newer one grows.
const CONTENTS: usize = 4 * 1024 * 1024;
/// What keeping a content takes besides its bytes: its place in a table that may be half empty, and its allocation.
const ENTRY: usize = 128;
/// With less than this left of it the older generation goes.
const LEFT_OVER: usize = CONTENTS / 8;
/// Bytes of contents that were not kept for want of room after which the older generation goes as it is: it is not what
/// is being sent.
const TURNED_AWAY: usize = 64 * 1024 * 1024;
/// Files that are noted.
const FILES: usize = 256;
/// Blocks of all of them: 2 MiB of hashes, for 256 GiB of content.
const BLOCKS: usize = 65_536;

/// The files that were hashed last.
#[derive(Debug, Default)]
pub struct HashedFiles {
    off: AtomicBool,
    /// The newest last.
    files: Mutex<VecDeque<Arc<HashedFile>>>,
    contents: Mutex<Contents>,
}

/// Contents of small files. They are sent in the order in which they were hashed, and hashing may be far ahead: so what
/// is there stays, and what comes when there is no room is read again.
#[derive(Debug, Default)]
struct Contents {
    newer: Generation,
    older: Generation,
    turned_away: usize,
}

#[derive(Debug, Default)]
struct Generation {
    contents: HashMap<BlockHash, Vec<u8>>,
    bytes: usize,
}

impl Generation {
    fn keep(&mut self, hash: BlockHash, content: Vec<u8>) {
        self.bytes += ENTRY + content.len();
        if let Some(same) = self.contents.insert(hash, content) {
            self.bytes -= ENTRY + same.len();
        }
    }

    fn take(&mut self, hash: &BlockHash) -> Option<Vec<u8>> {
        self.contents.remove(hash).inspect(|content| self.bytes -= ENTRY + content.len())
    }
}

impl Contents {
    fn keep(&mut self, hash: BlockHash, content: Vec<u8>) {
        if self.newer.bytes + ENTRY + content.len() > CONTENTS {
            if self.older.bytes > LEFT_OVER && self.turned_away < TURNED_AWAY {
                self.turned_away += ENTRY + content.len();
                return;
            }
            self.turned_away = 0;
            self.older = mem::take(&mut self.newer);
        }
        self.newer.keep(hash, content);
    }

    fn take(&mut self, hash: &BlockHash) -> Option<Vec<u8>> {
        self.newer.take(hash).or_else(|| self.older.take(hash))
    }
}

/// A file, and what it held in one state.
#[derive(Debug)]
pub(crate) struct HashedFile {
    path: LocalPath,
    print: Fingerprint,
    blocks: Blocklist,
}

impl HashedFile {
    /// Whether an open file is in the state in which it was hashed.
    pub(crate) fn is(&self, file: &dyn OpenFile) -> bool {
        file.stat().is_ok_and(|found| found.print == self.print)
    }

    /// Whether the block was found where its source says.
    pub(crate) fn has(&self, source: &BlockSource) -> bool {
        let number =
            usize::try_from(source.offset / BLOCK_SIZE).ok().filter(|_| source.offset.is_multiple_of(BLOCK_SIZE));
        let len = model::block::block_len(self.print.size, source.offset / BLOCK_SIZE);
        let found = number.and_then(|number| self.blocks.0.get(number));
        found == Some(&source.hash) && len == u64::from(source.len)
    }
}

impl HashedFiles {
    /// From now on files are noted, or not.
    pub fn set_on(&self, on: bool) {
        self.off.store(!on, Ordering::Relaxed);
        if !on {
            self.lock().clear();
            self.forget_contents();
        }
    }

    /// Keeps the content of a small file, which is the block of this name, while there is room.
    pub(crate) fn keep(&self, hash: BlockHash, content: Vec<u8>) {
        if self.off.load(Ordering::Relaxed) {
            return;
        }
        self.contents().keep(hash, content);
    }

    /// What was kept of a small file; it serves once.
    pub(crate) fn take(&self, hash: &BlockHash) -> Option<Vec<u8>> {
        self.contents().take(hash)
    }

    /// Keeps no content any longer.
    pub fn forget_contents(&self) {
        *self.contents() = Contents::default();
    }

    /// Notes what a job has hashed of large files.
    pub fn note(&self, job: &Job, result: &JobResult) {
        let (Job::Hash(tasks), JobResult::Hashed(results)) = (job, result) else { return };
        if self.off.load(Ordering::Relaxed) {
            return;
        }
        for (task, (_, result)) in tasks.iter().zip(results) {
            if let HashResult::Hashed { blocks, .. } = result
                && task.print.size >= LARGE
            {
                self.add(HashedFile { path: task.path.clone(), print: task.print, blocks: blocks.clone() });
            }
        }
    }

    fn add(&self, file: HashedFile) {
        let mut files = self.lock();
        files.retain(|other| other.path != file.path);
        files.push_back(Arc::new(file));
        while files.len() > FILES || files.iter().map(|file| file.blocks.0.len()).sum::<usize>() > BLOCKS {
            files.pop_front();
        }
    }

    /// What was hashed at a path last.
    pub(crate) fn at(&self, path: &LocalPath) -> Option<Arc<HashedFile>> {
        self.lock().iter().rfind(|file| file.path == *path).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<HashedFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_contents_count_with_what_it_takes_to_keep_them() {
        let mut contents = Contents::default();
        for number in 0..100_000_u32 {
            let mut hash = BlockHash([0; 32]);
            hash.0[..4].copy_from_slice(&number.to_le_bytes());
            contents.keep(hash, vec![0]);
        }
        let kept = [&contents.newer, &contents.older].map(|generation| generation.contents.len());
        assert!(kept.iter().all(|kept| (1..=CONTENTS / ENTRY).contains(kept)), "{kept:?}");
        let hashes: Vec<BlockHash> = contents.older.contents.keys().copied().collect();
        assert!(hashes.iter().all(|hash| contents.take(hash).is_some()));
        assert_eq!(contents.older.bytes, 0, "what is taken counts no more");
    }
}
