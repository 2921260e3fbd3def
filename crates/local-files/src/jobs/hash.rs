//! Hashing: the content of files that hold still.
//!
//! On many file systems a change time has the grain of the kernel's tick. Two writes within one tick leave
//! equal fingerprints, so a fingerprint says nothing about content that was read within a tick of it. Only
//! a file whose change time lies in the past by more than that is hashed. Where the file system gives each
//! change a time of its own, a file that its writer has closed need not wait.
//!
//! A write gives the file its change time when it begins, and may be held up before it ends: what it leaves
//! has the fingerprint of what it found. So writes that are under way are waited for before anything is read.
//!
//! A store through a mapping gives a file another change time only if the page was clean. So the write of what is dirty is
//! begun first, unless the watcher has told that a writer has closed the file: it tells that when the mapping has gone, too.

use std::num::NonZero;
use std::thread;

use model::block::BlockHasher;
use model::{BLOCK_SIZE, BlockHash, Blocklist, NodeId};
use sha256_lanes::{Hashers, LANES};
use sync_engine::io::{Fingerprint, HashResult, HashTask, JobResult};
use sync_engine::tree::FileContent;

use crate::fs::{Fs, FsError, OpenFile};
use crate::hashed::{HashedFiles, LARGE};
use crate::temps::fill;

/// How long a change time must lie in the past, in nanoseconds: three ticks of the slowest kernel
/// (100 Hz).
const SETTLE_NS: i64 = 30_000_000;
/// The same on a file system that keeps whole seconds (FAT: two).
const SETTLE_COARSE_NS: i64 = 2_100_000_000;
const NS_PER_SECOND: i64 = 1_000_000_000;
/// To wait for writes takes so long, in nanoseconds, only if there is one. Its writer is hardly done with the
/// file then, and the watcher will tell.
const WAITED_NS: i64 = 2_000_000;

/// Blocks from which on a file is hashed by several threads: a quarter of a second for one.
const SHARED_BLOCKS: u64 = 64;
/// Threads that share one file: more would only wait for the same disk.
const THREADS_MAX: usize = 4;
/// Bytes read at once, between two looks at the file's state.
const PIECE_BYTES: usize = 1024 * 1024;
/// The same of each of the blocks that are hashed side by side: what stays in the processor's cache.
const LANE_BYTES: usize = 256 * 1024;

/// Small files that are read before they are hashed side by side: bytes of all of them.
const TOGETHER_BYTES: u64 = 1024 * 1024;

/// Hashes files. Each stands for itself; the contents of small ones are kept.
pub(super) fn hash(fs: &dyn Fs, tasks: &[HashTask], kept: &HashedFiles) -> JobResult {
    let mut results = Vec::with_capacity(tasks.len());
    let mut rest = tasks;
    while let Some(first) = rest.first() {
        let mut bytes = 0;
        let fits = |task: &&HashTask| {
            bytes += task.print.size;
            is_small(task) && bytes <= TOGETHER_BYTES
        };
        let small = rest.iter().take_while(fits).count();
        if small == 0 {
            let blocks = hash_large(fs, first);
            results.push((first.node, blocks.map_or_else(|why_not| why_not, |blocks| hashed(first, blocks))));
            rest = &rest[1..];
        } else {
            hash_small(fs, &rest[..small], &mut results, kept);
            rest = &rest[small..];
        }
    }
    JobResult::Hashed(results)
}

/// An empty file has no block.
const fn is_small(task: &HashTask) -> bool {
    0 < task.print.size && task.print.size < LARGE
}

fn hash_small(fs: &dyn Fs, tasks: &[HashTask], results: &mut Vec<(NodeId, HashResult)>, kept: &HashedFiles) {
    let read: Vec<_> = tasks.iter().map(|task| read_small(fs, task)).collect();
    let contents: Vec<&[u8]> = read.iter().flatten().map(Vec::as_slice).collect();
    let mut hashes = BlockHash::of_each(&contents).into_iter();
    for (task, read) in tasks.iter().zip(read) {
        let result = match read {
            Ok(content) => hashes.next().map_or(HashResult::Unsettled, |hash| {
                kept.keep(hash, content);
                hashed(task, Blocklist(vec![hash]))
            }),
            Err(why_not) => why_not,
        };
        results.push((task.node, result));
    }
}

/// All of a small file, or why it cannot be hashed.
fn read_small(fs: &dyn Fs, task: &HashTask) -> Result<Vec<u8>, HashResult> {
    let (file, age) = open_settled(fs, task)?;
    let read = || {
        let mut content = vec![0; usize::try_from(task.print.size).unwrap_or_default()];
        let read = fill(&*file, &mut content, 0).map_err(why_not)?;
        let still = file.stat().map_err(why_not)?.print == task.print;
        if still && read == content.len() { Ok(content) } else { Err(HashResult::Unsettled) }
    };
    let content = read()?;
    if age == Age::Future && read()? != content {
        return Err(HashResult::Unsettled);
    }
    Ok(content)
}

fn hash_large(fs: &dyn Fs, task: &HashTask) -> Result<Blocklist, HashResult> {
    let (file, age) = open_settled(fs, task)?;
    let read = || read_and_hash(&*file, &task.print).map_err(why_not)?.ok_or(HashResult::Unsettled);
    let blocks = read()?;
    if age == Age::Future && read()? != blocks {
        return Err(HashResult::Unsettled);
    }
    Ok(blocks)
}

/// A file that holds still, or why it cannot be hashed now.
fn open_settled(fs: &dyn Fs, task: &HashTask) -> Result<(Box<dyn OpenFile>, Age), HashResult> {
    let file = fs.open(&task.path).map_err(why_not)?;
    if file.first_stat().map_err(why_not)?.print != task.print {
        return Err(HashResult::Changed);
    }
    let age = Age::of(task.print.ctime, fs.now_ns());
    if age == Age::Fresh && !(task.closed && fs.tells_changes_apart(task.print.device)) {
        return Err(HashResult::Unsettled);
    }
    let before = fs.now_ns();
    file.outwait_writes();
    if fs.now_ns().saturating_sub(before) > WAITED_NS {
        return Err(HashResult::Unsettled);
    }
    if !task.closed {
        file.write_back();
    }
    Ok((file, age))
}

fn hashed(task: &HashTask, blocks: Blocklist) -> HashResult {
    let content = FileContent {
        hash: blocks.content_hash(),
        size: task.print.size,
        executable: task.print.executable,
        mtime: task.print.mtime,
    };
    HashResult::Hashed { content, blocks }
}

fn why_not(error: FsError) -> HashResult {
    match error {
        FsError::NotFound | FsError::NotADirectory | FsError::IsADirectory | FsError::Escapes => HashResult::Changed,
        error => HashResult::Unreadable(error.to_string()),
    }
}

/// How a change time lies to the clock that sets change times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// A further change could leave the same change time.
    Fresh,
    Settled,
    /// The clock went back. A further change would show, but the age of this one is unknown.
    Future,
}

impl Age {
    fn of(ctime: i64, now: i64) -> Self {
        let coarse = ctime % NS_PER_SECOND == 0;
        let settle = if coarse { SETTLE_COARSE_NS } else { SETTLE_NS };
        let age = now.saturating_sub(ctime);
        if age >= settle {
            Self::Settled
        } else if age <= -settle {
            Self::Future
        } else {
            Self::Fresh
        }
    }
}

/// Reads a file to its end and names its blocks; `None` when it was not in the state `print` all along.
/// The blocks of a large file are shared out among several threads.
pub(crate) fn read_and_hash(file: &dyn OpenFile, print: &Fingerprint) -> Result<Option<Blocklist>, FsError> {
    let blocks = print.size.div_ceil(BLOCK_SIZE);
    let threads = if blocks < SHARED_BLOCKS { 1 } else { available_threads() };
    let border = |n: u64| print.size.min(blocks * n / threads * BLOCK_SIZE);
    let hash_share = |n: u64| hash_range(file, print, border(n), border(n + 1));
    let parts = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|n| scope.spawn(move || hash_share(n))).collect();
        let mut parts = vec![hash_share(0)];
        parts.extend(others.into_iter().map(|other| other.join().unwrap_or(Ok(None))));
        parts
    });
    let mut whole = Blocklist::default();
    for part in parts {
        let Some(part) = part? else { return Ok(None) };
        whole.0.extend(part.0);
    }
    Ok((file.stat()?.print == *print).then_some(whole))
}

/// The blocks of a part of a file that begins and ends where blocks do.
fn hash_range(file: &dyn OpenFile, print: &Fingerprint, mut at: u64, end: u64) -> Result<Option<Blocklist>, FsError> {
    let mut blocks = Blocklist::default();
    while end - at >= BLOCK_SIZE * LANES as u64 {
        let Some(found) = hash_side_by_side(file, print, at)? else { return Ok(None) };
        blocks.0.extend(found);
        at += BLOCK_SIZE * LANES as u64;
    }
    let Some(last) = hash_in_order(file, print, at, end)? else { return Ok(None) };
    blocks.0.extend(last.0);
    Ok(Some(blocks))
}

/// Whole blocks from `at` on, as many as are hashed side by side.
fn hash_side_by_side(file: &dyn OpenFile, print: &Fingerprint, at: u64) -> Result<Option<Vec<BlockHash>>, FsError> {
    let mut hashers = Hashers::new(LANES);
    let mut pieces = vec![0; LANES * LANE_BYTES];
    for offset in (0..BLOCK_SIZE).step_by(LANE_BYTES) {
        for (block, piece) in (0..).zip(pieces.chunks_mut(LANE_BYTES)) {
            if fill(file, piece, at + block * BLOCK_SIZE + offset)? < LANE_BYTES {
                return Ok(None);
            }
        }
        if file.stat()?.print != *print {
            return Ok(None);
        }
        hashers.update(&pieces.chunks(LANE_BYTES).collect::<Vec<_>>());
    }
    Ok(Some(hashers.finish().into_iter().map(BlockHash).collect()))
}

fn hash_in_order(
    file: &dyn OpenFile,
    print: &Fingerprint,
    mut at: u64,
    end: u64,
) -> Result<Option<Blocklist>, FsError> {
    let mut hasher = BlockHasher::new();
    let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(end - at).unwrap_or(PIECE_BYTES))];
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let read = file.read_at(&mut piece[..wanted], at)?;
        at += read as u64;
        // Whoever asked looks when all is read.
        if read == 0 || at < end && file.stat()?.print != *print {
            return Ok(None);
        }
        hasher.update(&piece[..read]);
    }
    Ok(Some(hasher.finish().0))
}

/// How many threads share the work on one large file.
pub(crate) fn available_threads() -> u64 {
    thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_time_in_the_past_is_settled() {
        let now = 1_700_000_000_123_456_789;
        assert_eq!(Age::of(now, now), Age::Fresh);
        assert_eq!(Age::of(now - SETTLE_NS + 1, now), Age::Fresh);
        assert_eq!(Age::of(now - SETTLE_NS, now), Age::Settled);
        assert_eq!(Age::of(now + SETTLE_NS - 1, now), Age::Fresh);
        assert_eq!(Age::of(now + SETTLE_NS, now), Age::Future);
    }

    #[test]
    fn whole_second_times_settle_after_more_than_two_seconds() {
        let ctime = 1_700_000_000_000_000_000;
        assert_eq!(Age::of(ctime, ctime + 2_000_000_000), Age::Fresh);
        assert_eq!(Age::of(ctime, ctime + 2_100_000_000), Age::Settled);
    }
}
