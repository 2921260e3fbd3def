//! The way to the synced folder and to folders in it, found once for the operations of one job.

use std::sync::{Arc, Mutex, PoisonError};

use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use rustix::io;
use sync_engine::io::LocalPath;

use super::CheckedRoot;
use super::resolve::open_directory;

/// Folders that stay open: the one for temporary files, and those that a few threads are busy in.
const FOLDERS: usize = 8;

/// An open root, and folders below it that were opened lately. A folder that another program moves stays the one
/// that was found: what a job does there happens in the moved folder, as if it had moved a moment later.
pub(super) struct Way {
    pub(super) root: Arc<OwnedFd>,
    pub(super) checked: CheckedRoot,
    /// The latest last.
    folders: Mutex<Vec<(LocalPath, Arc<OwnedFd>)>>,
}

impl Way {
    pub(super) const fn new(root: Arc<OwnedFd>, checked: CheckedRoot) -> Self {
        Self { root, checked, folders: Mutex::new(Vec::new()) }
    }

    /// Opens a folder, or finds it open.
    pub(super) fn folder(&self, path: &LocalPath) -> io::Result<Arc<OwnedFd>> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = folders.iter().position(|(known, _)| known == path) {
            let found = folders.remove(at);
            let folder = Arc::clone(&found.1);
            folders.push(found);
            return Ok(folder);
        }
        drop(folders);
        let folder = Arc::new(open_directory(&self.root, path, OFlags::PATH)?);
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if folders.len() >= FOLDERS {
            folders.remove(0);
        }
        folders.push((path.clone(), Arc::clone(&folder)));
        Ok(folder)
    }

    /// Forgets what lies at the path or below it: something else may be there now.
    pub(super) fn forget(&self, path: &LocalPath) {
        let below = |folder: &LocalPath| {
            let rest = folder.as_bytes().strip_prefix(path.as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || path.is_root())
        };
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).retain(|(folder, _)| !below(folder));
    }
}
