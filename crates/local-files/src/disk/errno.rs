//! What an error number of the kernel means here.

use rustix::io::Errno;
use sync_engine::io::LocalPath;

use crate::fs::FsError;

/// Which system call failed, on what.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) what: &'static str,
    pub(super) path: &'a LocalPath,
}

impl<'a> Call<'a> {
    pub(super) fn new(what: &'static str, path: &'a LocalPath) -> Self {
        Self { what, path }
    }

    pub(super) fn error(&self, errno: Errno) -> FsError {
        match errno {
            Errno::NOENT => FsError::NotFound,
            Errno::NOTDIR => FsError::NotADirectory,
            Errno::ISDIR => FsError::IsADirectory,
            Errno::EXIST => FsError::AlreadyExists,
            Errno::NOTEMPTY => FsError::NotEmpty,
            Errno::ACCESS | Errno::PERM | Errno::ROFS => FsError::Permission,
            Errno::NOSPC | Errno::DQUOT => FsError::NoSpace,
            Errno::NAMETOOLONG | Errno::ILSEQ => FsError::NameRefused,
            Errno::LOOP => FsError::Escapes,
            Errno::XDEV => FsError::CrossDevice,
            other => FsError::Other { what: self.what, path: self.path.clone(), errno: other.raw_os_error() },
        }
    }

    /// For calls that make a name: FAT and its kin refuse one as an invalid argument.
    pub(super) fn naming_error(&self, errno: Errno) -> FsError {
        if errno == Errno::INVAL { FsError::NameRefused } else { self.error(errno) }
    }
}
