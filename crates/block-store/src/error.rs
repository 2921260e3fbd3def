//! What can go wrong with a block store.

use model::{BlockHash, InstanceId};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A failure of a block store. That a block is absent is an answer and not among them.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("no space is left for blocks in {path}")]
    NoSpace { path: PathBuf },
    #[error("block {hash} is damaged in the store")]
    Corrupt { hash: BlockHash },
    /// `source` is shared because many callers wait for one write.
    #[error("failed to {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: Arc<io::Error> },
    /// A server of objects, somewhere on the network.
    #[error("failed to {what} {place}")]
    Remote { what: &'static str, place: String, source: Arc<dyn std::error::Error + Send + Sync> },
    #[error("the block store {path} is in use by another process")]
    Locked { path: PathBuf },
    #[error("the block store {path} belongs to the server {found}, not to {expected}")]
    OtherInstance { path: PathBuf, found: InstanceId, expected: InstanceId },
    #[error("{path} does not say which server the block store belongs to")]
    UnknownInstance { path: PathBuf },
    #[error("{path} is of format {found}, which this program does not know")]
    UnknownFormat { path: PathBuf, found: u32 },
}

impl StoreError {
    /// Says on which file which step failed; for use with `map_err`.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path: path.to_owned() },
            _ => Self::Io { what, path: path.to_owned(), source: Arc::new(source) },
        }
    }
}
