//! Looks that failed, and are made again.
//!
//! A folder that cannot be read at the moment says nothing about what is in it, also not that what is gone
//! elsewhere has not moved there. So it is looked at again, soon at first; and that soon it is still open
//! what became of the files that are gone.

use super::Observer;
use super::look::{Look, merge, shows};
use crate::io::Extent;
use crate::tree::PARKED;
use crate::trees::Trees;
use model::NodeId;

/// Folders whose failed looks are made again; further ones wait for the next look at everything.
const MAX_FAILED: usize = 1_000;
/// Failures in a row after which a folder counts as one that will stay unreadable.
const PASSING_FAILURES: u32 = 5;

/// What could not be looked at in a folder.
#[derive(Debug)]
pub(super) struct Failed {
    look: Look,
    /// How often in a row.
    times: u32,
}

impl Observer {
    pub(super) fn look_failed(&mut self, folder: NodeId, look: Look) {
        if self.failed.len() >= MAX_FAILED && !self.failed.contains_key(&folder) {
            return;
        }
        let before = self.failed.remove(&folder);
        let times = before.as_ref().map_or(0, |failed| failed.times) + 1;
        let look = before.map_or(look.clone(), |failed| failed.look.and(look));
        self.failed.insert(folder, Failed { look, times });
    }

    pub(super) fn look_succeeded(&mut self, folder: NodeId, extent: &Extent) {
        if self.failed.get(&folder).is_some_and(|failed| covers(extent, &failed.look.extent)) {
            self.failed.remove(&folder);
        }
    }

    /// A folder that could not be read turned out to be another node.
    pub(super) fn failure_passes_on(&mut self, from: NodeId, to: NodeId) {
        if let Some(failed) = self.failed.remove(&from) {
            self.failed.insert(to, failed);
        }
    }

    /// How often in a row the look has failed that has failed least often, if there is one.
    #[must_use]
    pub fn fewest_failures(&self) -> Option<u32> {
        self.failed.values().map(|failed| failed.times).min()
    }

    /// Whether a folder that cannot be read at the moment may show before long what is gone elsewhere.
    #[must_use]
    pub fn may_yet_show(&self) -> bool {
        self.fewest_failures().is_some_and(|times| times < PASSING_FAILURES)
    }

    /// Whether it is open still if the node is where the tree has it: nobody could look, and may be able to before long.
    pub(super) fn place_may_yet_be_seen(&self, trees: &Trees, id: NodeId) -> bool {
        let Some(local) = trees.local(id) else { return false };
        let Some(failed) = self.failed.get(&local.place.parent) else { return false };
        failed.times < PASSING_FAILURES && shows(&failed.look.extent, Trees::disk_name(&local))
    }

    /// Makes the looks that failed again.
    pub fn look_again(&mut self, trees: &Trees) {
        self.failed.retain(|folder, _| *folder == PARKED || trees.has_local(*folder));
        for (folder, failed) in &self.failed {
            merge(&mut self.next, *folder, failed.look.clone());
        }
    }
}

fn covers(seen: &Extent, wanted: &Extent) -> bool {
    match (seen, wanted) {
        (Extent::All, _) => true,
        (Extent::Names(seen), Extent::Names(wanted)) => seen.is_superset(wanted),
        (Extent::Names(_), Extent::All) => false,
    }
}
