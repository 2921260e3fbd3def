//! What this process has seen committed, by which it notices a database that has gone back: one that was
//! restored from an older backup, or a replica that took over without the last commits.

use model::{Epoch, NamespaceId, Position};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Namespaces that are remembered; when there are more, all are forgotten and learnt again.
const NAMESPACES: usize = 100_000;

/// The heads that this process has told to others, in one epoch.
pub(crate) struct Watermarks(Mutex<Seen>);

/// The last head of each journal that is known.
pub(crate) struct Seen {
    epoch: Epoch,
    heads: BTreeMap<NamespaceId, Position>,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self(Mutex::new(Seen { epoch: Epoch(0), heads: BTreeMap::new() }))
    }
}

impl Watermarks {
    /// Notes the head of a journal that is durable.
    pub(crate) fn note(&self, epoch: Epoch, namespace: NamespaceId, head: Position) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if epoch < seen.epoch {
            return;
        }
        if epoch > seen.epoch || seen.heads.len() >= NAMESPACES {
            seen.heads.clear();
            seen.epoch = epoch;
        }
        let known = seen.heads.entry(namespace).or_insert(head);
        *known = head.max(*known);
    }

    /// Whether this process has seen entries of the journal that it has no more. To be asked under the
    /// namespace's lock: a head that was read without it may be old for no bad reason.
    pub(crate) fn is_behind(&self, epoch: Epoch, namespace: NamespaceId, head: Position) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_behind(epoch, namespace, head)
    }

    /// What has been seen of these journals until now: a snapshot that is taken after this has all of it.
    pub(crate) fn of<'n>(&self, namespaces: impl Iterator<Item = &'n NamespaceId>) -> Seen {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heads = namespaces.filter_map(|one| Some((*one, *seen.heads.get(one)?))).collect();
        Seen { epoch: seen.epoch, heads }
    }
}

impl Seen {
    /// The same, for a snapshot that is younger than this.
    pub(crate) fn is_behind(&self, epoch: Epoch, namespace: NamespaceId, head: Position) -> bool {
        epoch == self.epoch && self.heads.get(&namespace).is_some_and(|known| head < *known)
    }

    /// Whether anything was seen of a journal.
    pub(crate) fn knows(&self, namespace: NamespaceId) -> bool {
        self.heads.contains_key(&namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NS: NamespaceId = NamespaceId([1; 16]);

    #[test]
    fn a_head_below_one_seen_is_behind_until_the_epoch_rises() {
        let marks = Watermarks::default();
        marks.note(Epoch(1), NS, Position(7));
        marks.note(Epoch(1), NS, Position(5));
        assert!(marks.is_behind(Epoch(1), NS, Position(6)));
        assert!(!marks.is_behind(Epoch(1), NS, Position(7)));
        assert!(!marks.is_behind(Epoch(1), NamespaceId([2; 16]), Position(0)));
        assert!(!marks.is_behind(Epoch(2), NS, Position(6)));
        marks.note(Epoch(2), NS, Position(3));
        marks.note(Epoch(1), NS, Position(9));
        assert!(!marks.is_behind(Epoch(2), NS, Position(3)));
    }
}
