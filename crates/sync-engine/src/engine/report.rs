//! What the engine tells people.

use super::{Engine, local};
use crate::io::{LocalPath, RootState};
use crate::status::{FileStatus, Location, Phase, Problem, Status};
use crate::tree::NodeRow;
use crate::verdict::{Context, Verdict, decide, is_pending_deletion};
use model::{Name, NodeId};

/// Nodes that are looked at to tell the state of a folder.
const FOLDER_SAMPLE: usize = 10_000;

impl Engine {
    /// Counts and state.
    #[must_use]
    pub fn status(&self) -> Status {
        let problems = self.items.values().filter(|item| item.failures >= local::FAILURES_BEFORE_REPORT).count()
            + self.queues.problems.len()
            + self.observer.problems().len()
            + usize::from(self.local.not_durable.is_some());
        let dirty = self.trees.dirty().len();
        let (up, down) = self.transfers.counts();
        let in_flight = self.state.in_flight.as_ref().map_or(0, |commit| commit.operations.len());
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let held = if self.deletions_held() { self.trees.deleted_files() } else { 0 };
        let stuck = self.items.len() + self.queues.problems.len();
        Status {
            phase: self.phase(),
            synced_files: self.trees.synced_files(),
            pending: count(dirty.saturating_sub(stuck)).saturating_sub(held),
            uploading: count(self.queues.upward() + up + in_flight),
            downloading: count(self.queues.pull.len() + down),
            scanning: count(self.observer.backlog()),
            problems: count(problems),
            held_deletions: held,
        }
    }

    fn phase(&self) -> Phase {
        match self.local.root {
            RootState::Missing => return Phase::RootMissing,
            RootState::Replaced => return Phase::RootReplaced,
            RootState::Present => {}
        }
        if self.server.unlinked {
            return Phase::Unlinked;
        }
        if self.state.paused {
            return Phase::Paused;
        }
        if let Some(reason) = &self.server.offline {
            return Phase::Offline { reason: reason.clone() };
        }
        if self.is_settled() {
            return Phase::UpToDate;
        }
        match self.server.refusal() {
            Some(reason) => Phase::Offline { reason: reason.to_owned() },
            None => Phase::Syncing,
        }
    }

    /// At most `limit` of the items that cannot be synced now.
    #[must_use]
    pub fn problems(&self, limit: usize) -> Vec<Problem> {
        let items = self.items.iter().filter(|(_, item)| item.failures >= local::FAILURES_BEFORE_REPORT);
        let items = items.map(|(id, item)| (self.trees.display_path(*id), item.reason.clone()));
        let verdicts =
            self.queues.problems.iter().map(|(id, reason)| (self.trees.display_path(*id), (*reason).to_owned()));
        let paths =
            self.observer.problems().iter(&self.trees).map(|(path, reason)| (path.to_string(), reason.to_owned()));
        let disk = self.local.not_durable.iter().map(|reason| (String::new(), not_durable(reason)));
        let items = disk.chain(items);
        items.chain(verdicts).chain(paths).take(limit).map(|(path, reason)| Problem { path, reason }).collect()
    }

    /// What `filestatus` says; for a folder, the worst of what it holds.
    #[must_use]
    pub fn file_status(&self, path: &LocalPath) -> FileStatus {
        if self.observer.problems().at(&self.trees, path).is_some() {
            return FileStatus::Error;
        }
        let Some(id) = self.find(path) else { return FileStatus::Unwatched };
        let own = if id == self.trees.root() { FileStatus::UpToDate } else { self.node_status(id) };
        let below = self
            .trees
            .dirty()
            .iter()
            .take(FOLDER_SAMPLE)
            .filter(|dirty| self.is_below(*dirty, id))
            .map(|dirty| self.node_status(dirty));
        below.chain([own]).max_by_key(|status| severity(*status)).unwrap_or(own)
    }

    fn is_below(&self, id: NodeId, folder: NodeId) -> bool {
        self.trees.local_ancestors(id).chain(self.trees.remote_ancestors(id)).any(|above| above == folder)
    }

    fn node_status(&self, id: NodeId) -> FileStatus {
        if self.trees.is_excluded(id) {
            return FileStatus::Unwatched;
        }
        if !self.trees.dirty().contains(&id) {
            return FileStatus::UpToDate;
        }
        let failed = self.items.get(&id).is_some_and(|item| item.failures >= local::FAILURES_BEFORE_REPORT);
        if failed || self.queues.problems.contains_key(&id) {
            return FileStatus::Error;
        }
        let (up, down) = self.transfers.is_moving(id);
        let comes_down = self.trees.local(id).is_none() || down || self.queues.pull.contains(&id);
        if comes_down && !up { FileStatus::Downloading } else { FileStatus::Uploading }
    }

    /// One sentence that explains the state of the path.
    #[must_use]
    pub fn why(&self, path: &LocalPath) -> String {
        if let Some(reason) = self.observer.problems().at(&self.trees, path) {
            return format!("`{path}` is not synced: {reason}");
        }
        let Some(id) = self.find(path) else {
            return format!("`{path}` is not known here: it is neither on this device nor on the server");
        };
        if let Some(item) = self.items.get(&id) {
            return format!("`{path}` is waiting to be tried again after a failure: {}", item.reason);
        }
        if let Some(sentence) = self.why_nothing_moves() {
            return format!("`{path}` {sentence}");
        }
        if !self.trees.dirty().contains(&id) {
            let excluded = self.trees.is_excluded(id);
            return if excluded {
                format!("`{path}` is excluded from this device (`syncline exclude remove` brings it back)")
            } else {
                format!("`{path}` is up to date")
            };
        }
        let reason = self.why_node(id);
        format!("`{path}` is not in sync yet: {reason}")
    }

    fn why_nothing_moves(&self) -> Option<String> {
        if let Some(reason) = &self.local.not_durable {
            return Some(format!("waits because {}", not_durable(reason)));
        }
        match self.phase() {
            Phase::RootMissing => {
                Some("waits because the synced folder is missing; nothing is deleted meanwhile".into())
            }
            Phase::RootReplaced => Some("waits because another folder lies in the place of the synced one".into()),
            Phase::Unlinked => Some("is not synced because this device was unlinked".into()),
            Phase::Paused => Some("waits because syncing is paused (`syncline resume`)".into()),
            Phase::Offline { .. } | Phase::UpToDate | Phase::Syncing => None,
        }
    }

    fn why_node(&self, id: NodeId) -> String {
        if self.deletions_held() && is_pending_deletion(&self.trees, id) {
            return format!(
                "it is one of {} deletions that wait for a confirmation (`syncline deletions confirm` or `undo`)",
                self.trees.deleted_files()
            );
        }
        if let Some(reason) = self.queues.problems.get(&id) {
            return (*reason).to_owned();
        }
        let offline = match self.server.offline.as_deref().or(self.server.refusal()) {
            Some(reason) => format!(", and {reason}"),
            None => String::new(),
        };
        let context =
            Context { roles: &self.state.roles, frozen: &self.frozen, may_unload: self.excluding.may_unload() };
        let sentence = match decide(&self.trees, &context, id) {
            Verdict::Frozen => "it is being synced right now".to_owned(),
            Verdict::Hash => "it must be read first, which waits until no program writes to it".to_owned(),
            Verdict::Wait(other) => format!("it waits for `{}`", self.trees.display_path(other)),
            Verdict::Push(_) => "its change is on its way to the server".to_owned(),
            Verdict::Pull(_) => "the server's change is on its way to this device".to_owned(),
            Verdict::RenameAside(_) | Verdict::MoveOut { .. } => "it is about to be kept under another name".to_owned(),
            Verdict::Problem(reason) => reason.to_owned(),
            Verdict::Clean | Verdict::Edit(_) => "it is about to be compared".to_owned(),
        };
        sentence + &offline
    }

    /// Where the path is for the server. `None` for a path that cannot be named there.
    #[must_use]
    pub fn locate(&self, path: &LocalPath) -> Option<Location> {
        let names: Vec<Name> = path.components().map(|name| Name::parse_bytes(name).ok()).collect::<Option<_>>()?;
        let mut namespace = self.trees.root().as_namespace();
        let mut folder = Some(self.trees.root());
        let mut below = Vec::new();
        for name in names {
            folder = folder.and_then(|folder| self.child(folder, &name));
            below.push(name);
            if let Some(mount) = folder.filter(|id| self.trees.is_mount(*id)) {
                namespace = mount.as_namespace();
                below.clear();
            }
        }
        Some(Location { namespace, node: folder, path: below })
    }

    /// The paths that are excluded, as far as their names are known.
    #[must_use]
    pub fn excluded(&self) -> Vec<String> {
        self.trees.excluded().iter().map(|id| self.trees.display_path(*id)).collect()
    }

    /// The node at a path on disk or, where the disk has none, on the server.
    pub(super) fn find(&self, path: &LocalPath) -> Option<NodeId> {
        path.components().try_fold(self.trees.root(), |folder, name| self.child(folder, &Name::parse_bytes(name).ok()?))
    }

    fn child(&self, folder: NodeId, name: &Name) -> Option<NodeId> {
        let key = name.key();
        self.trees.local_child(folder, &key).or_else(|| {
            let remote = self.trees.remote_child(folder, &key)?;
            // What was deleted or moved away here is not at its old path any more.
            match self.trees.row(remote) {
                Some(NodeRow { local: None, .. }) => Some(remote),
                _ => None,
            }
        })
    }
}

fn not_durable(reason: &str) -> String {
    format!("the disk does not keep what is written to it: {reason}")
}

fn severity(status: FileStatus) -> u8 {
    match status {
        FileStatus::UpToDate => 0,
        FileStatus::Unwatched => 1,
        FileStatus::Downloading => 2,
        FileStatus::Uploading => 3,
        FileStatus::Error => 4,
    }
}
