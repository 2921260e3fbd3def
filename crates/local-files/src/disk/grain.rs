//! How finely a file system times changes.
//!
//! Linux gives files the time of its last tick, unless the file system knows better: since 6.13 ext4, XFS,
//! btrfs and tmpfs take the exact time for a change to a file that somebody has looked at since the change
//! before (multigrain timestamps). No call tells whether a file system does so, so it is tried out.

use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{self, Errno, pwrite, retry_on_intr};

use super::file::stat_open;
use super::resolve::open_directory;
use crate::fs::{TEMP_DIRECTORY, own_path};

/// Changes that are made one right after the other.
const CHANGES: usize = 32;
/// Within this time a clock that ticks a thousand times a second, the fastest there is, cannot give that
/// many changes different times.
const AT_MOST: Duration = Duration::from_millis(20);

/// Changes a nameless file again and again and looks at its change times. `None`: it took too long to tell.
pub(super) fn changes_differ(root: &OwnedFd) -> io::Result<Option<bool>> {
    let directory = open_directory(root, &own_path(TEMP_DIRECTORY), OFlags::PATH)?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = retry_on_intr(|| openat(&directory, c".", flags, Mode::RUSR | Mode::WUSR))?;
    let begun = Instant::now();
    let mut last = stat_open(&file)?.print.ctime;
    for _ in 0..CHANGES {
        if retry_on_intr(|| pwrite(&file, b"x", 0))? != 1 {
            return Err(Errno::IO);
        }
        let ctime = stat_open(&file)?.print.ctime;
        if ctime <= last {
            return Ok(Some(false));
        }
        last = ctime;
    }
    Ok((begun.elapsed() < AT_MOST).then_some(true))
}
