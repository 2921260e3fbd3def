//! What is to be looked at, and where.

use super::Observer;
use crate::io::Extent;
use crate::tree::Place;
use model::NodeId;
use std::collections::BTreeMap;

/// Names of one directory after which all of it is looked at.
const NAMES_PER_DIRECTORY: usize = 1000;

/// What is to be looked at in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) extent: Extent,
    /// Whether the folders in it are to be looked at as well.
    pub(super) deep: bool,
}

impl Look {
    /// Both looks in one.
    pub(super) fn and(self, other: Self) -> Self {
        let extent = match (self.extent, other.extent) {
            (Extent::Names(mut a), Extent::Names(b)) => {
                a.extend(b);
                if a.len() > NAMES_PER_DIRECTORY { Extent::All } else { Extent::Names(a) }
            }
            _ => Extent::All,
        };
        Self { extent, deep: self.deep || other.deep }
    }
}

/// Whether a look shows who has this name, or that nobody has.
pub(super) fn shows(extent: &Extent, name: &[u8]) -> bool {
    match extent {
        Extent::All => true,
        Extent::Names(names) => names.contains(name),
    }
}

pub(super) fn merge(queue: &mut BTreeMap<NodeId, Look>, folder: NodeId, look: Look) {
    let look = match queue.remove(&folder) {
        None => look,
        Some(there) => there.and(look),
    };
    queue.insert(folder, look);
}

impl Observer {
    /// A step has taken a name from a folder: what was kept out by it is looked at again.
    pub fn has_been_freed(&mut self, place: &Place) {
        if self.problems.any_is_called(place.parent, std::iter::once(place.name.key())) {
            self.look(place.parent, Look { extent: Extent::All, deep: false });
        }
    }

    /// A node on disk turned out to be another: what was to be looked at in it still is.
    pub fn relabelled(&mut self, from: NodeId, to: NodeId) {
        for queue in [&mut self.next, &mut self.round] {
            if let Some(look) = queue.remove(&from) {
                merge(queue, to, look);
            }
        }
        self.failure_passes_on(from, to);
        self.problems.pass_on(from, to);
        if self.unconfirmed.remove(&from) {
            self.unconfirmed.insert(to);
        }
    }
}
