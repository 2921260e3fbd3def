//! What this process has seen committed, by which it notices a database that has gone back: one that was
//! restored from an older backup, or a replica that took over without the last commits.

use model::{Epoch, NamespaceId, Position};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Namespaces that are remembered; when there are more, all are forgotten and learnt again.
const NAMESPACES: usize = 100_000;

/// The heads that this process has told to others, in one epoch.
pub(crate) struct Watermarks(Mutex<Seen>);

struct Seen {
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
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        epoch == seen.epoch && seen.heads.get(&namespace).is_some_and(|known| head < *known)
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
