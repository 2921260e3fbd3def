//! Whether a program may write to a file that is about to be replaced or removed.
//!
//! Who has a file open goes on with it when its name is given to another one, and what it writes then is in no folder any
//! more. A read lease (`F_SETLEASE`, see `fcntl(2)`) is given for a file that nobody has open for writing, nor mapped so; and as
//! long as it is held, whoever wants to open the file for writing waits, at most for some seconds
//! (`/proc/sys/fs/lease-break-time`). So with a lease that was held before and is held still, there was no writer in between.

mod kernel;

use std::os::fd::OwnedFd;

use rustix::fs::fstatfs;

/// File systems whose leases tell of writers on this machine and are given to whoever owns the file: those that leave them to
/// the kernel. Network file systems refuse them for reasons of their own, and so would every file seem to be in use.
const TELLING: [u64; 6] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0xf2f5_2010, // f2fs
    0xca45_1a4e, // bcachefs
];

/// A program has the file open for writing, or mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InUse;

/// A file that nobody had open for writing when this was taken. Dropped, it lets writers in.
#[derive(Debug)]
pub struct Lease(OwnedFd);

impl Lease {
    /// Takes a lease on a file that is open for reading only. `None`: there is no telling, because of the file system, or since
    /// the file belongs to somebody else.
    ///
    /// # Errors
    /// [`InUse`].
    pub fn take(file: OwnedFd) -> Result<Option<Self>, InUse> {
        let telling = fstatfs(&file).is_ok_and(|system| {
            u64::try_from(system.f_type).is_ok_and(|magic| TELLING.contains(&(magic & 0xffff_ffff)))
        });
        if !telling {
            return Ok(None);
        }
        match kernel::take(&file) {
            Ok(()) => Ok(Some(Self(file))),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Err(InUse),
            Err(_) => Ok(None),
        }
    }

    /// Whether nobody has wanted to write since. Who did is waiting, and goes on with this very file.
    #[must_use]
    pub fn is_undisturbed(&self) -> bool {
        kernel::is_whole(&self.0)
    }
}
