//! The one system call. The library through which the workspace makes all others does not offer it, and `fdatasync`, which
//! it does, waits for the disk, and empties the disk's own memory too: milliseconds for each file.

#![allow(unsafe_code, reason = "a foreign function; it is given a file that is open, and no memory")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Waits for writes that are under way, since a page may be stored into meanwhile, and begins those of all dirty pages.
const BEGIN_ALL: libc::c_uint = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE;

pub(crate) fn begin_to_write(file: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        // SAFETY: the descriptor is open for as long as it is borrowed, and the call takes no pointer. From offset 0, a
        // length of 0 means to the end of the file.
        let done = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, BEGIN_ALL) };
        if done == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
