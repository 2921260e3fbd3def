//! Has the kernel write what it holds of a file in memory alone.
//!
//! Who stores into a file through a shared mapping makes no system call. The kernel learns of it when a page that is
//! clean is stored into: then it gives the file another change time, and lets further stores into the page pass unseen
//! until it has written the page to the disk and made it clean again. A page may stay dirty for half a minute. Whoever reads
//! the file meanwhile sees a change time that says nothing about what is stored afterwards. After a write-back all
//! pages are clean: what is stored from then on shows.
//!
//! Nothing becomes durable by it: neither the file's length and places nor the disk's own memory are looked after.

mod kernel;

use std::io;
use std::os::fd::AsFd;

/// Writes the file's dirty pages, and waits until they are on their way's end. Costs a microsecond when there are none.
///
/// A file system without a disk (tmpfs) has no clean pages to come back to: there it does nothing, and a store through a
/// mapping never shows.
///
/// # Errors
/// That of `sync_file_range(2)`: an error of the disk, or no room for what was stored.
pub fn write_back(file: impl AsFd) -> io::Result<()> {
    kernel::sync_all_of(file.as_fd())
}
