//! Scans: what is in some directories.

use sync_engine::io::{DirectoryListing, DirectoryScan, Found, JobResult, RootState, ScanError, ScanTarget};

use crate::fs::{Fs, FsError, Listing};

/// Reads the directories, with a look at the root's identity before and after.
pub(super) fn scan(fs: &dyn Fs, targets: &[ScanTarget]) -> JobResult {
    let before = fs.root_state();
    let directories = targets.iter().map(|target| scan_directory(fs, target)).collect();
    let after = fs.root_state();
    JobResult::Scanned { root: worse(before, after), directories }
}

fn worse(before: RootState, after: RootState) -> RootState {
    if before == RootState::Present { after } else { before }
}

fn scan_directory(fs: &dyn Fs, target: &ScanTarget) -> DirectoryScan {
    let result = match fs.list(&target.directory, &target.extent) {
        Ok(listing) => Ok(directory_listing(listing)),
        Err(FsError::NotFound | FsError::NotADirectory | FsError::Escapes) => Err(ScanError::Gone),
        Err(error) => Err(ScanError::Unreadable(error.to_string())),
    };
    DirectoryScan { target: target.clone(), result }
}

fn directory_listing(listing: Listing) -> DirectoryListing {
    let mut entries = Vec::with_capacity(listing.entries.len());
    let mut unreadable = Vec::new();
    for entry in listing.entries {
        match entry.found {
            Ok((stat, target)) => {
                entries.push(Found { name: entry.name, kind: stat.kind, print: stat.print, target });
            }
            Err(error) => unreadable.push((entry.name, error.to_string())),
        }
    }
    DirectoryListing { print: listing.stat.print, entries, unreadable }
}
