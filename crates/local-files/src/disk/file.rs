//! Files that were opened, and what the kernel says of files.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use direct_io::PageCache;
use model::Mtime;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, SeekFrom, Statx, StatxFlags, StatxTimestamp, Timespec, Timestamps, UTIME_OMIT,
    fchmod, fdatasync, ftruncate, futimens, makedev, seek, statx,
};
use rustix::io::{self, pread, retry_on_intr};
use sync_engine::io::{FileKind, Fingerprint, LocalPath};

use super::errno::Call;
use crate::fs::{FsError, OpenFile, Stat, TempFile};

const PERMISSIONS: u32 = 0o7777;
const OWNER_EXECUTES: u32 = 0o100;

/// An open regular file.
pub(super) struct DiskFile {
    fd: OwnedFd,
    /// Where it was when it was opened, for messages.
    path: LocalPath,
    /// What it was then; `None` of one that was made, which nobody asks for.
    first: Option<Stat>,
    /// Which way large writes go.
    page_cache: PageCache,
}

impl DiskFile {
    /// Takes what was opened, if it is a regular file.
    pub(super) fn new(fd: OwnedFd, path: &LocalPath, page_cache: PageCache) -> Result<Self, FsError> {
        let mut file = Self::made(fd, path, page_cache);
        let first = file.stat()?;
        file.first = Some(first);
        match first.kind {
            FileKind::File => Ok(file),
            FileKind::Directory => Err(FsError::IsADirectory),
            FileKind::Symlink => Err(FsError::Escapes),
            FileKind::Other => Err(FsError::NotFound),
        }
    }

    /// Takes what was made to be opened: that is a regular file.
    pub(super) fn made(fd: OwnedFd, path: &LocalPath, page_cache: PageCache) -> Self {
        Self { fd, path: path.clone(), first: None, page_cache }
    }

    fn call(&self, what: &'static str) -> Call<'_> {
        Call::new(what, &self.path)
    }
}

impl OpenFile for DiskFile {
    fn stat(&self) -> Result<Stat, FsError> {
        stat_open(&self.fd).map_err(|errno| self.call("statx").error(errno))
    }

    fn first_stat(&self) -> Result<Stat, FsError> {
        self.first.map_or_else(|| self.stat(), Ok)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, FsError> {
        retry_on_intr(|| pread(&self.fd, &mut *buffer, offset)).map_err(|errno| self.call("pread").error(errno))
    }

    /// Linux holds the inode's lock for all of one write. To look for data takes the same lock on ext4, btrfs,
    /// f2fs and tmpfs; on XFS each read does.
    fn outwait_writes(&self) {
        // What it finds does not matter, nor whether the file system can tell.
        seek(&self.fd, SeekFrom::Data(0)).ok();
    }

    fn write_back(&self) {
        // What cannot be written is told to its writer; it is read all the same.
        if let Err(error) = write_back::write_back(&self.fd) {
            tracing::debug!(%error, path = %self.path, "what a file has in memory cannot be written");
        }
    }

    fn has_holes(&self) -> bool {
        let end = self.stat().map_or(0, |stat| stat.print.size);
        seek(&self.fd, SeekFrom::Hole(0)).is_ok_and(|hole| hole < end)
    }

    fn set_permissions(&self, permissions: u32) -> Result<(), FsError> {
        let mode = Mode::from_raw_mode(permissions & PERMISSIONS);
        fchmod(&self.fd, mode).map_err(|errno| self.call("fchmod").error(errno))
    }

    fn set_mtime(&self, mtime: Mtime) -> Result<(), FsError> {
        let (tv_sec, nanoseconds) = mtime.parts();
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec, tv_nsec: nanoseconds.into() },
        };
        futimens(&self.fd, &times).map_err(|errno| self.call("futimens").error(errno))
    }

    fn sync_data(&self) -> Result<(), FsError> {
        retry_on_intr(|| fdatasync(&self.fd)).map_err(|errno| self.call("fdatasync").error(errno))
    }
}

impl TempFile for DiskFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), FsError> {
        let written = direct_io::write_all_at(&self.fd, bytes, offset, self.page_cache);
        written.map_err(|errno| self.call("pwrite").error(errno))
    }

    fn set_len(&self, len: u64) -> Result<(), FsError> {
        retry_on_intr(|| ftruncate(&self.fd, len)).map_err(|errno| self.call("ftruncate").error(errno))
    }
}

/// What the kernel says of an open file or directory.
pub(crate) fn stat_open(fd: impl AsFd) -> io::Result<Stat> {
    stat_with(fd, c"".to_bytes(), AtFlags::EMPTY_PATH)
}

/// What the kernel says of what a path of the user's leads to, symlinks followed.
pub(super) fn stat_path(path: &Path) -> io::Result<Stat> {
    stat_with(CWD, path.as_os_str().as_bytes(), AtFlags::empty())
}

/// What the kernel says of an entry of an open directory, not following a symlink.
pub(crate) fn stat_entry(directory: impl AsFd, name: &[u8]) -> io::Result<Stat> {
    stat_with(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn stat_with(directory: impl AsFd, name: &[u8], flags: AtFlags) -> io::Result<Stat> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    retry_on_intr(|| statx(directory.as_fd(), name, flags | AtFlags::NO_AUTOMOUNT, wanted)).map(|raw| stat_of(&raw))
}

fn stat_of(raw: &Statx) -> Stat {
    let mode = u32::from(raw.stx_mode);
    let born = StatxFlags::from_bits_retain(raw.stx_mask).contains(StatxFlags::BTIME);
    let print = Fingerprint {
        device: makedev(raw.stx_dev_major, raw.stx_dev_minor),
        inode: raw.stx_ino,
        birth: born.then(|| nanoseconds(raw.stx_btime)),
        size: raw.stx_size,
        mtime: Mtime(nanoseconds(raw.stx_mtime)),
        ctime: nanoseconds(raw.stx_ctime),
        executable: mode & OWNER_EXECUTES != 0,
    };
    Stat { kind: kind_of(FileType::from_raw_mode(mode)), print, permissions: mode & PERMISSIONS }
}

fn nanoseconds(time: StatxTimestamp) -> i64 {
    Mtime::from_parts(time.tv_sec, time.tv_nsec).0
}

fn kind_of(file_type: FileType) -> FileKind {
    match file_type {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    }
}
