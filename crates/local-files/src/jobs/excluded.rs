//! The marks by which a synced folder says what is kept off it.

use std::collections::BTreeSet;

use model::NodeId;
use sync_engine::io::{Extent, JobResult, LocalPath, RootState};

use super::step_error;
use crate::fs::{EXCLUDED_DIRECTORY, Fs, FsError, own_path};

/// What a mark points to, for who looks at it.
const TARGET: &[u8] = b"excluded";

/// The nodes that the folder is marked to lack. What is no mark among them is left alone.
pub(super) fn read(fs: &dyn Fs) -> Result<BTreeSet<NodeId>, FsError> {
    match fs.list(&own_path(EXCLUDED_DIRECTORY), &Extent::All) {
        Ok(listing) => Ok(listing.entries.iter().filter_map(|entry| node(&entry.name)).collect()),
        Err(FsError::NotFound) => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// Marks the folder to lack these nodes and no others.
pub(super) fn mark(fs: &dyn Fs, wanted: &BTreeSet<NodeId>) -> JobResult {
    let root = fs.root_state();
    let result = if root == RootState::Present { write(fs, wanted).map_err(step_error) } else { Ok(()) };
    JobResult::Marked { root, result }
}

fn write(fs: &dyn Fs, wanted: &BTreeSet<NodeId>) -> Result<(), FsError> {
    let there = |result| if result == Err(FsError::AlreadyExists) { Ok(()) } else { result };
    let gone = |result| if result == Err(FsError::NotFound) { Ok(()) } else { result };
    let found = read(fs)?;
    if !wanted.is_empty() {
        there(fs.mkdir(&own_path(EXCLUDED_DIRECTORY)))?;
    }
    for id in wanted.difference(&found) {
        there(fs.symlink(TARGET, &path(*id)))?;
    }
    for id in found.difference(wanted) {
        gone(fs.unlink(&path(*id)))?;
    }
    fs.sync()
}

fn path(id: NodeId) -> LocalPath {
    own_path(EXCLUDED_DIRECTORY).join(id.to_string().as_bytes())
}

fn node(name: &[u8]) -> Option<NodeId> {
    std::str::from_utf8(name).ok()?.parse().ok()
}
