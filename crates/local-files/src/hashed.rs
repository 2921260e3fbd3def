//! What was hashed of large files lately. While a file is in the state in which it was read then, its blocks need not be
//! hashed a second time to be sent.
//!
//! The state is what a hash rests on as well ([`crate::jobs`]), but for one thing: who writes through a memory mapping
//! may leave no trace in it for a while. So this is for those whose receiver checks what it gets.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{BLOCK_SIZE, Blocklist};
use sync_engine::io::{BlockSource, Fingerprint, HashResult, Job, JobResult, LocalPath};

use crate::fs::OpenFile;

/// To hash a smaller file again costs little beside opening it, in bytes.
const WORTH_NOTING: u64 = 256 * 1024;
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
        }
    }

    /// Notes what a job has hashed.
    pub fn note(&self, job: &Job, result: &JobResult) {
        let (Job::Hash(tasks), JobResult::Hashed(results)) = (job, result) else { return };
        if self.off.load(Ordering::Relaxed) {
            return;
        }
        for (task, (_, result)) in tasks.iter().zip(results) {
            if let HashResult::Hashed { blocks, .. } = result
                && task.print.size >= WORTH_NOTING
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
}
