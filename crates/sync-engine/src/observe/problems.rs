//! What is on the disk and cannot be in the tree.
//!
//! It has no node. It is known by its folder and its name there, so that it keeps its place when somebody moves the
//! folder, and is forgotten with the folder.

use crate::io::{Extent, LocalPath};
use crate::tree::PARKED;
use crate::trees::Trees;
use model::{Name, NameKey, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Unsyncable items that are remembered.
const MAX_PATH_PROBLEMS: usize = 10_000;

/// Unsyncable items of one folder whose names are compared. With more, to look at the folder once costs less.
const NAMES_COMPARED: usize = 100;

/// The name under which a folder's own problem stands.
const ITSELF: &[u8] = b"";

/// Why nothing is concluded from what a folder shows.
pub(super) const MOUNTED: &str = "another file system is (or was) mounted here; if all was copied to another disk, run \
                       `syncline stop`, `syncline rebuild-index --anew` and `syncline start`";

/// Items that cannot be in the tree, with the reason, by folder and name.
#[derive(Debug, Default)]
pub struct Problems {
    folders: BTreeMap<NodeId, BTreeMap<Box<[u8]>, String>>,
    count: usize,
}

impl Problems {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The paths as they are now, with the reasons.
    pub fn iter(&self, trees: &Trees) -> impl Iterator<Item = (LocalPath, &str)> {
        self.folders.iter().flat_map(|(folder, names)| {
            let directory = trees.local_path(*folder);
            names.iter().filter_map(move |(name, reason)| {
                let directory = directory.as_ref()?;
                let path = if **name == *ITSELF { directory.clone() } else { directory.join(name) };
                Some((path, reason.as_str()))
            })
        })
    }

    /// Why the path is not synced, if it is one of them.
    #[must_use]
    pub fn at(&self, trees: &Trees, path: &LocalPath) -> Option<&str> {
        let in_folder = path.split().and_then(|(directory, name)| self.get(trees.at_path(&directory)?, name));
        in_folder.or_else(|| self.get(trees.at_path(path)?, ITSELF))
    }

    fn get(&self, folder: NodeId, name: &[u8]) -> Option<&str> {
        self.folders.get(&folder)?.get(name).map(String::as_str)
    }

    /// The entry of a folder cannot be synced.
    pub(super) fn report(&mut self, folder: NodeId, name: &[u8], reason: String) {
        if self.count >= MAX_PATH_PROBLEMS {
            return;
        }
        if self.folders.entry(folder).or_default().insert(name.into(), reason).is_none() {
            self.count += 1;
        }
    }

    /// Whether an entry of the folder may be there whose name counts as one of these.
    pub(super) fn any_is_called(&self, folder: NodeId, mut names: impl Iterator<Item = NameKey>) -> bool {
        let Some(there) = self.folders.get(&folder) else { return false };
        if there.len() > NAMES_COMPARED {
            return names.next().is_some();
        }
        let there: BTreeSet<NameKey> =
            there.keys().filter_map(|name| Some(Name::parse_bytes(name).ok()?.key())).collect();
        names.any(|name| there.contains(&name))
    }

    /// The folder itself cannot be synced.
    pub(super) fn report_folder(&mut self, folder: NodeId, reason: String) {
        self.report(folder, ITSELF, reason);
    }

    /// So much of the folder is looked at again, and reports its problems again.
    pub(super) fn clear(&mut self, trees: &Trees, folder: NodeId, extent: &Extent) {
        if self.is_empty() {
            return;
        }
        if let Some(local) = trees.local(folder) {
            self.remove(local.place.parent, Trees::disk_name(&local));
        }
        match extent {
            Extent::All => self.count -= self.folders.remove(&folder).map_or(0, |names| names.len()),
            Extent::Names(names) => {
                self.remove(folder, ITSELF);
                for name in names {
                    self.remove(folder, name);
                }
            }
        }
    }

    fn remove(&mut self, folder: NodeId, name: &[u8]) {
        let Some(names) = self.folders.get_mut(&folder) else { return };
        if names.remove(name).is_some() {
            self.count -= 1;
        }
        if names.is_empty() {
            self.folders.remove(&folder);
        }
    }

    /// A folder turned out to be another node.
    pub(super) fn pass_on(&mut self, from: NodeId, to: NodeId) {
        let Some(names) = self.folders.remove(&from) else { return };
        let there = self.folders.entry(to).or_default();
        self.count -= names.len() + there.len();
        there.extend(names);
        self.count += there.len();
    }

    /// Forgets what was in folders that are not on the disk any more.
    pub(super) fn forget_vanished(&mut self, trees: &Trees) {
        self.folders.retain(|folder, _| *folder == PARKED || trees.has_local(*folder));
        self.count = self.folders.values().map(BTreeMap::len).sum();
    }
}
