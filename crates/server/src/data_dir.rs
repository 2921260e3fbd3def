//! The data directory: its parts, and the lock that keeps a second server away.

use crate::ServerError;
use block_service::Unfinished;
use block_store::{DiskBlockReader, DiskBlockStore, DiskOptions, StoreError};
use metadata_store::SqliteStore;
use model::InstanceId;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What is kept free for a start on a full disk, in bytes; where there is not so much, less. SQLite needs some room
/// beside each of the two databases to open it at all.
const RESERVES: [u64; 3] = [512 * 1024, 256 * 1024, 128 * 1024];

/// The directory of one server.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// Makes the directory where it is missing, for its owner alone.
    pub(crate) fn prepare(path: &Path) -> Result<Self, ServerError> {
        let directory = Self { path: path.to_owned() };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|source| directory.unwritable(source))?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(directory.unwritable(error)),
            Ok(()) | Err(_) => Ok(directory),
        }
    }

    /// The directory of a server that was made before, with a metadata database in it.
    pub(crate) fn existing(path: &Path) -> Result<Self, ServerError> {
        let directory = Self { path: path.to_owned() };
        let database = directory.metadata_path();
        match database.try_exists() {
            Ok(true) => Ok(directory),
            Ok(false) => Err(ServerError::NoServer { place: database.display().to_string() }),
            Err(source) => Err(directory.unwritable(source)),
        }
    }

    /// Keeps other servers away until the file is closed, however this process ends.
    pub(crate) fn lock(&self) -> Result<File, ServerError> {
        let path = self.path.join("server.lock");
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = opened.map_err(|source| self.unwritable(source))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(ServerError::AlreadyRunning { path: self.path.clone() }),
            Err(other) => Err(self.unwritable(other.into())),
        }
    }

    pub(crate) fn metadata(&self) -> Result<SqliteStore, ServerError> {
        let path = self.metadata_path();
        let unusable = |error| match error {
            metadata_store::StoreError::NewerFormat { .. } => ServerError::NewerFormat { path: self.path.clone() },
            metadata_store::StoreError::DiskFull => ServerError::DiskFull { path: self.path.clone() },
            other => ServerError::Metadata { place: path.display().to_string(), source: other.into() },
        };
        self.in_reserve(|| SqliteStore::open(&path).map_err(unusable))
    }

    fn reserve(&self) -> PathBuf {
        self.path.join("reserve")
    }

    /// Opens something; on a full disk once more, in the room that was kept for that.
    fn in_reserve<T>(&self, open: impl Fn() -> Result<T, ServerError>) -> Result<T, ServerError> {
        match open() {
            Err(ServerError::DiskFull { .. }) if fs::remove_file(self.reserve()).is_ok() => {
                tracing::error!(
                    path = %self.path.display(),
                    "the disk is full: what is there can be read, and nothing new is taken"
                );
                open()
            }
            opened => opened,
        }
    }

    /// Keeps room for the next start, as much as there is.
    pub(crate) fn keep_reserve(&self) {
        let path = self.reserve();
        let keep = |bytes: u64| -> io::Result<()> {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            if file.metadata()?.len() < bytes {
                fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
            }
            Ok(())
        };
        if !RESERVES.into_iter().any(|bytes| keep(bytes).is_ok()) {
            tracing::warn!(path = %path.display(), "no room can be kept for a start on a full disk");
            fs::remove_file(&path).ok();
        }
    }

    pub(crate) fn metadata_path(&self) -> PathBuf {
        self.path.join("meta.sqlite")
    }

    pub(crate) fn blocks(&self, instance: InstanceId, options: DiskOptions) -> Result<DiskBlockStore, ServerError> {
        let path = self.path.join("blocks");
        self.in_reserve(|| {
            let opened = DiskBlockStore::open(&path, instance, options);
            opened.map_err(|error| self.unusable_blocks(&path, error))
        })
    }

    /// The blocks, for looking alone while a server has them open.
    pub(crate) fn blocks_to_look_at(&self, instance: InstanceId) -> Result<DiskBlockReader, ServerError> {
        let path = self.path.join("blocks");
        DiskBlockReader::open(&path, instance).map_err(|error| self.unusable_blocks(&path, error))
    }

    /// What has come of uploads that are under way.
    pub(crate) fn unfinished(&self) -> Result<Unfinished, ServerError> {
        Unfinished::open(&self.path.join("unfinished")).map_err(|source| self.unwritable(source))
    }

    fn unusable_blocks(&self, path: &Path, error: StoreError) -> ServerError {
        let path = path.to_owned();
        match error {
            StoreError::NoSpace { .. } => ServerError::DiskFull { path: self.path.clone() },
            StoreError::Locked { .. } => ServerError::AlreadyRunning { path: self.path.clone() },
            StoreError::UnknownFormat { .. } => ServerError::NewerFormat { path: self.path.clone() },
            StoreError::OtherInstance { .. } | StoreError::UnknownInstance { .. } => {
                ServerError::ForeignBlocks { path, source: error }
            }
            StoreError::Corrupt { .. } | StoreError::Io { .. } | StoreError::Remote { .. } => {
                ServerError::Blocks { path, source: error }
            }
        }
    }

    fn unwritable(&self, source: io::Error) -> ServerError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ServerError::DiskFull { path },
            _ => ServerError::DataDirNotWritable { path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn what_finds_a_full_disk_is_opened_once_more_in_the_room_that_was_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = DataDir::prepare(&folder.path().join("data")).expect("makes it");
        let tries = Cell::new(0);
        let open = || {
            tries.set(tries.get() + 1);
            let is_full = data_dir.reserve().exists() || tries.get() > 2;
            if is_full { Err(ServerError::DiskFull { path: data_dir.path.clone() }) } else { Ok(()) }
        };
        data_dir.keep_reserve();
        assert_eq!(fs::metadata(data_dir.reserve()).expect("is kept").len(), RESERVES[0]);
        data_dir.in_reserve(open).expect("opens");
        assert_eq!(tries.get(), 2);
        // Nothing is left to give back.
        assert!(matches!(data_dir.in_reserve(open), Err(ServerError::DiskFull { .. })));
        assert_eq!(tries.get(), 3);
    }
}
