//! Long writes into files, past the kernel's page cache where that works.
//!
//! A file of a gigabyte that goes through the page cache takes a gigabyte of pages, each of which has to be found, filled,
//! put on the disk and found again when memory runs short; whoever waits for it to be durable waits for the disk in any
//! case. Direct I/O (`O_DIRECT` of open(2)) hands the caller's bytes to the disk. It wants whole units of the disk, in
//! memory and in the file, so the bytes go through an aligned buffer, and what is before the first unit and behind
//! the last one goes through the page cache; the kernel keeps the two in step. Neither makes anything durable:
//! a call of `fdatasync` does.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Advice, Mode, OFlags, fadvise, open};
use rustix::io::{Errno, Result, pwrite, retry_on_intr};
use std::mem;
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};

/// Which way bytes go to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageCache {
    /// Past the page cache, if they are many and the file system can.
    #[default]
    Past,
    /// Through the page cache.
    Through,
}

impl PageCache {
    /// The way that a setting asks for.
    #[must_use]
    pub const fn direct(on: bool) -> Self {
        if on { Self::Past } else { Self::Through }
    }
}

/// The fewest bytes that go past the page cache: to open the file for that takes less than a hundredth of the
/// time that they take.
pub const DIRECT_FROM: usize = 512 * 1024;
/// What places in files and in memory are multiples of: the largest unit of disks in use (512 or 4096 bytes), and the
/// smallest page of a page cache.
const UNIT: usize = 4096;
/// Bytes of one direct write. A disk that is asked for half as many at a time takes a fifth longer.
const DIRECT_PIECE: usize = 512 * 1024;
/// Bytes of one write through the page cache. For a larger one the kernel takes pages of its largest sizes, which on a
/// virtual machine are those that its host has to find first: 4 MiB at a time took five times as long as this.
const CACHED_PIECE: usize = 256 * 1024;
/// Bytes from which on the kernel is asked to begin to put them on the disk at once, so that it is busy while what
/// follows is prepared.
const BEGIN_WRITE_BACK: usize = 1024 * 1024;
/// Aligned buffers that are kept for the next write.
const KEPT_BUFFERS: usize = 4;

static BUFFERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Writes all of the bytes to their place in a file that is open for writing.
///
/// # Errors
/// That of the first write that fails. Some of the bytes may be there then.
pub fn write_all_at(file: impl AsFd, bytes: &[u8], offset: u64, cache: PageCache) -> Result<()> {
    let file = file.as_fd();
    if cache == PageCache::Through || bytes.len() < DIRECT_FROM {
        return write_cached(file, bytes, offset);
    }
    let head = (offset.next_multiple_of(UNIT as u64) - offset) as usize;
    let body = (bytes.len() - head) / UNIT * UNIT;
    let written = head + write_direct(file, &bytes[head..head + body], offset + head as u64)?;
    write_cached(file, &bytes[..head], offset)?;
    write_cached(file, &bytes[written..], offset + written as u64)
}

/// How many of the bytes, from the first one on, are written; not all if the file system has no direct I/O
/// for this file.
fn write_direct(file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> Result<usize> {
    let Some(direct) = reopen(file) else { return Ok(0) };
    let mut buffer = Buffer::take();
    let mut written = 0;
    for piece in bytes.chunks(DIRECT_PIECE) {
        let aligned = buffer.fill(piece);
        match retry_on_intr(|| pwrite(&direct, aligned, offset + written as u64)) {
            Ok(count) => {
                written += count;
                // What is left of a piece need not begin with a unit.
                if count < piece.len() {
                    break;
                }
            }
            Err(error) if is_refusal(error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

/// Whether a file system would not write directly, and may well write in the usual way: its units are larger (`EINVAL`),
/// or it cannot for this file, such as ntfs3 for a compressed one (`EOPNOTSUPP`).
fn is_refusal(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::OPNOTSUPP)
}

/// The same file, open for direct writes.
fn reopen(file: BorrowedFd<'_>) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    open(path, OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn write_cached(file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        let piece = &bytes[written..bytes.len().min(written + CACHED_PIECE)];
        written += match retry_on_intr(|| pwrite(file, piece, offset + written as u64))? {
            0 => return Err(Errno::IO),
            count => count,
        };
    }
    if written >= BEGIN_WRITE_BACK {
        // Linux begins to write what is not on the disk yet, and keeps it in memory until it is there.
        fadvise(file, offset, NonZeroU64::new(written as u64), Advice::DontNeed).ok();
    }
    Ok(())
}

/// Memory whose address, from some byte on, is a multiple of [`UNIT`].
struct Buffer(Vec<u8>);

impl Buffer {
    fn take() -> Self {
        let kept = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(kept.unwrap_or_else(|| vec![0; DIRECT_PIECE + UNIT]))
    }

    /// The bytes, at most [`DIRECT_PIECE`] of them, at such an address.
    fn fill(&mut self, bytes: &[u8]) -> &[u8] {
        let begin = self.0.as_ptr().align_offset(UNIT).min(UNIT);
        let aligned = &mut self.0[begin..begin + bytes.len()];
        aligned.copy_from_slice(bytes);
        aligned
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_BUFFERS {
            kept.push(mem::take(&mut self.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_directly_is_told_from_what_cannot_be_written() {
        for (error, refusal) in [
            (Errno::INVAL, true),
            (Errno::OPNOTSUPP, true),
            (Errno::NOSPC, false),
            (Errno::IO, false),
            (Errno::DQUOT, false),
        ] {
            assert_eq!(is_refusal(error), refusal, "{error}");
        }
    }
}
