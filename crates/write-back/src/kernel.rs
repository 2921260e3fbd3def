//! The one system call. The library through which the workspace makes all others does not offer it, and `fdatasync`, which
//! it does, empties the disk's own memory too: that takes milliseconds for each file, also where nothing is dirty.

#![allow(unsafe_code, reason = "a foreign function; it is given a file that is open, and no memory")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Waits for writes that are under way, begins those of all other dirty pages, and waits for these.
const ALL: libc::c_uint =
    libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;

pub(crate) fn sync_all_of(file: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        // SAFETY: the descriptor is open for as long as it is borrowed, and the call takes no pointer. From offset 0, a
        // length of 0 means to the end of the file.
        let done = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, ALL) };
        if done == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
