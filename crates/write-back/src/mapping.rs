//! A file that is mapped as other programs map theirs, for tests: stores into it that no system call tells of.

#![allow(unsafe_code, reason = "memory of the kernel's, which is given back when the mapping is dropped")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// A shared mapping of the beginning of a file.
#[derive(Debug)]
pub struct Mapping {
    at: *mut u8,
    len: usize,
}

impl Mapping {
    /// Maps the first `len` bytes of a file that is open for reading and writing, and has as many.
    ///
    /// # Errors
    /// That of `mmap(2)`.
    pub fn of(file: &File, len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses, of a file that is open.
        let at = unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { at: at.cast(), len }) }
    }

    /// Stores a byte.
    ///
    /// # Panics
    /// When it is outside of the mapping.
    pub fn store(&self, at: usize, byte: u8) {
        assert!(at < self.len, "a byte of the mapping");
        // SAFETY: the address is inside of the mapping.
        let place = unsafe { self.at.add(at) };
        // SAFETY: the mapping is there until it is dropped, and nobody has a reference into it.
        unsafe { place.write_volatile(byte) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and is used no more.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}
