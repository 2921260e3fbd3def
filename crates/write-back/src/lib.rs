//! Has the kernel begin to write what it holds of a file in memory alone.
//!
//! Who stores into a file through a shared mapping makes no system call. The kernel learns of it when a page that is
//! clean is stored into: then it gives the file another change time, and lets further stores into the page pass unseen
//! until it begins to write the page to the disk and makes it clean for that. A page may stay dirty for half a minute. Whoever reads
//! the file meanwhile sees a change time that says nothing about what is stored afterwards. When a write-back has begun all
//! pages are clean: what is stored from then on shows.
//!
//! Nothing becomes durable by it: nobody waits for the disk.

mod kernel;
#[cfg(feature = "mapping")]
pub mod mapping;

use std::io;
use std::os::fd::AsFd;

/// Begins to write all dirty pages of the file. Costs a microsecond when there are none.
///
/// A file system without a disk (tmpfs) has no clean pages to come back to: there it does nothing, and a store through a
/// mapping never shows.
///
/// # Errors
/// That of `sync_file_range(2)`: an error of the disk, or no room for what was stored.
pub fn write_back(file: impl AsFd) -> io::Result<()> {
    kernel::begin_to_write(file.as_fd())
}
