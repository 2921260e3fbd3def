//! The system calls. The library through which the workspace makes all others does not offer them.

#![allow(unsafe_code, reason = "a foreign function; it is given a file that is open, and no memory")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// What the kernel sends to the holder of a lease that somebody else waits for. The usual signal would end the process; this
/// one does nothing, as a rule and in this program.
const UNHEARD: libc::c_int = libc::SIGURG;

/// From Linux' `asm-generic/fcntl.h`.
const F_SETSIG: libc::c_int = 10;

pub(crate) fn take(file: &OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and the command takes a number.
    let told = unsafe { libc::fcntl(file.as_raw_fd(), F_SETSIG, UNHEARD) };
    if told != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    if taken == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(crate) fn is_whole(file: &OwnedFd) -> bool {
    // SAFETY: the descriptor is open for as long as it is borrowed, and the command takes no argument.
    let held = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) };
    held == libc::F_RDLCK
}
