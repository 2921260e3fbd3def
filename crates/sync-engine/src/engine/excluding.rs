//! What the user keeps off this device.
//!
//! An excluded node is gone from the disk although nobody deleted it. Two things could make that a loss. The
//! server may not have it any more, because it was restored or installed anew: so nothing leaves the disk before
//! the server was asked, after the user's word. And the client database may be put back to a state in which the
//! node was not excluded: then its absence would look like the user's deletion. So the folder itself is marked
//! to lack the node before the node leaves, and what the folder is marked to lack is excluded.

use super::{Engine, ROOT_RETRY_MS};
use crate::io::{Job, JobId, LocalPath, RootState, StepError};
use model::NodeId;
use std::collections::BTreeSet;

/// What goes on about exclusions.
#[derive(Debug, Default)]
pub(super) struct Excluding {
    /// What the folder is marked to lack; `None` until it was looked at.
    marked: Option<BTreeSet<NodeId>>,
    marking: Option<(JobId, BTreeSet<NodeId>)>,
    pub(super) retry_at: Option<u64>,
    /// Nothing leaves before this question about the journal is answered.
    after_pull: u64,
    may_unload: bool,
}

impl Excluding {
    /// Whether what is excluded may leave the disk.
    pub(super) const fn may_unload(&self) -> bool {
        self.may_unload
    }

    pub(super) fn on_time(&mut self, now: u64) {
        self.retry_at = self.retry_at.filter(|at| *at > now);
    }
}

impl Engine {
    pub(super) fn set_excluded(&mut self, path: &LocalPath, excluded: bool) {
        let Some(id) = self.find(path) else { return };
        self.trees.set_excluded(id, excluded);
        self.state.excluded = self.trees.excluded().clone();
        self.excluding.may_unload = false;
        if excluded {
            self.excluding.after_pull = self.server.next_pull();
            self.server.pull_wanted = true;
        }
    }

    /// Hears, once, what the folder was marked to lack when the client started.
    pub(super) fn found_marked(&mut self, marked: BTreeSet<NodeId>) {
        if self.excluding.marked.is_some() {
            return;
        }
        for id in &marked {
            // One that the database knows to be out of sync here was included again, just before a crash.
            let forgotten = self.trees.has_synced(*id) || self.trees.row(*id).is_none();
            if forgotten && self.state.excluded.insert(*id) {
                self.trees.set_excluded(*id, true);
                self.forget_below(*id);
                self.state_touched = true;
            }
        }
        self.excluding.marked = Some(marked);
    }

    /// The node has left the disk, with all it held: what is in their places now are others.
    fn forget_below(&mut self, top: NodeId) {
        let mut nodes = vec![top];
        let mut at = 0;
        while let Some(id) = nodes.get(at).copied() {
            at += 1;
            let held: BTreeSet<NodeId> = self.trees.local_children(id).chain(self.trees.remote_children(id)).collect();
            nodes.extend(held);
        }
        for id in nodes.into_iter().rev() {
            self.trees.set_local(id, None);
            self.trees.set_synced(id, None);
        }
    }

    /// Brings the folder's marks up to the user's word.
    pub(super) fn start_marking(&mut self) {
        let wanted = &self.state.excluded;
        let due = self.excluding.marked.as_ref().is_some_and(|marked| marked != wanted);
        let waits = self.excluding.marking.is_some() || self.excluding.retry_at.is_some();
        if due && !waits && self.local.root == RootState::Present {
            let wanted = wanted.clone();
            let id = self.start_job(Job::MarkExcluded(wanted.clone()));
            self.excluding.marking = Some((id, wanted));
        }
    }

    pub(super) fn marked(&mut self, id: JobId, root: RootState, result: Result<(), StepError>, now: u64) {
        let Some((_, marked)) = self.excluding.marking.take_if(|(running, _)| *running == id) else { return };
        if self.believe_root(root, now) && result.is_ok() {
            self.excluding.marked = Some(marked);
        } else {
            self.excluding.retry_at = Some(now + ROOT_RETRY_MS);
        }
    }

    /// Finds out whether what is excluded may leave the disk now.
    pub(super) fn watch_exclusions(&mut self) {
        let excluding = &mut self.excluding;
        if excluding.may_unload || self.state.excluded.is_empty() {
            return;
        }
        excluding.may_unload =
            excluding.marked.as_ref() == Some(&self.state.excluded) && self.server.pulls >= excluding.after_pull;
        if excluding.may_unload {
            self.trees.wake_excluded();
        }
    }
}
