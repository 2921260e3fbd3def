//! The data directory: its parts, and the lock that keeps a second server away.

use crate::ServerError;
use block_service::Unfinished;
use block_store::{DiskBlockReader, DiskBlockStore, DiskOptions, StoreError};
use metadata_store::SqliteStore;
use model::InstanceId;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

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
        SqliteStore::open(&path).map_err(|error| match error {
            metadata_store::StoreError::NewerFormat { .. } => ServerError::NewerFormat { path: self.path.clone() },
            metadata_store::StoreError::DiskFull => ServerError::DiskFull { path: self.path.clone() },
            other => ServerError::Metadata { place: path.display().to_string(), source: other.into() },
        })
    }

    pub(crate) fn metadata_path(&self) -> PathBuf {
        self.path.join("meta.sqlite")
    }

    pub(crate) fn blocks(&self, instance: InstanceId) -> Result<DiskBlockStore, ServerError> {
        let path = self.path.join("blocks");
        let opened = DiskBlockStore::open(&path, instance, DiskOptions::default());
        opened.map_err(|error| self.unusable_blocks(&path, error))
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
