//! The socket's address. A Unix socket's path has room for 107 bytes only, and a home may lie deeper:
//! then it is reached by way of an open directory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// What fits into a socket's address on Linux, less its terminator.
const ADDRESS_BYTES: usize = 107;

/// A path to the socket that is short enough, for as long as this lives.
pub(super) struct Address {
    path: PathBuf,
    _directory: Option<File>,
}

impl Address {
    pub(super) fn of(socket: &Path) -> io::Result<Self> {
        if socket.as_os_str().len() <= ADDRESS_BYTES {
            return Ok(Self { path: socket.to_path_buf(), _directory: None });
        }
        let (Some(parent), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let directory = File::open(parent)?;
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _directory: Some(directory) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
