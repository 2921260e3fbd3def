//! The server's journal and what it means for the remote tree.

use super::Engine;
use crate::tree::{Content, FileContent, Place, Remote, Synced};
use model::{Body, Change, Commit, JournalEntry, Name, NamespaceId, NodeId, Operation, Position, Timestamp};

impl Engine {
    /// Applies the entries of one namespace that follow its cursor without a gap.
    pub(super) fn read_journal(&mut self, namespace: NamespaceId, entries: Vec<JournalEntry>) {
        for entry in entries {
            let Some(position) = self.state.cursor.get(&namespace).copied() else { return };
            if entry.position <= position {
                continue;
            }
            if entry.position != position.next() {
                return;
            }
            self.state.cursor.insert(namespace, entry.position);
            self.state_touched = true;
            self.apply_entry(namespace, entry);
        }
    }

    fn apply_entry(&mut self, namespace: NamespaceId, entry: JournalEntry) {
        let JournalEntry { position, node, change, .. } = entry;
        if node == self.trees.root() || node == crate::tree::PARKED || self.is_foreign(namespace, node, &change) {
            return;
        }
        match change {
            Change::Create { parent, name, body } => {
                let content = self.content_of(&body);
                if content == Content::Mount {
                    self.follow(node.as_namespace());
                }
                self.decide_about_rival(parent, &name);
                let place = Place { parent, name };
                self.trees
                    .set_remote(node, Some(Remote { place, content, content_rev: position, location_rev: position }));
            }
            Change::Edit { body } => {
                let content = self.content_of(&body);
                let Some(remote) = self.trees.remote(node) else { return };
                if content == Content::Mount && remote.content != Content::Mount {
                    // The folder was shared: what it holds is told by its own journal from now on.
                    for below in self.trees.remote_subtree(node) {
                        self.trees.set_remote(below, None);
                    }
                    self.follow(node.as_namespace());
                }
                self.trees.set_remote(node, Some(Remote { content, content_rev: position, ..remote }));
            }
            Change::Move { parent, name } => {
                self.decide_about_rival(parent, &name);
                if let Some(remote) = self.trees.remote(node) {
                    let place = Place { parent, name };
                    self.trees.set_remote(node, Some(Remote { place, location_rev: position, ..remote }));
                }
            }
            Change::Delete => self.delete_remote(node),
        }
    }

    /// Whether a namespace's entry is about a node of another one, or puts its own into a folder of another one: who may write
    /// in one must not change what is in the other. Servers let no id be used twice
    /// ([`NodeExists`](model::Reason::NodeExists)); where one did, as two transactions at once can, what was read first stays.
    fn is_foreign(&self, namespace: NamespaceId, node: NodeId, change: &Change) -> bool {
        // What hangs in the air between two entries of a commit was put there by its own namespace.
        let elsewhere = |id| {
            self.trees.has_remote(id) && self.trees.known_remote_namespace(id).is_some_and(|other| other != namespace)
        };
        let into = match change {
            Change::Create { parent, .. } | Change::Move { parent, .. } => Some(*parent),
            Change::Edit { .. } | Change::Delete => None,
        };
        elsewhere(node) || into.is_some_and(|folder| folder != namespace.root() && elsewhere(folder))
    }

    /// Whatever has the name on the disk may have to make way, also if nothing could be done about it before.
    fn decide_about_rival(&mut self, parent: NodeId, name: &Name) {
        if let Some(there) = self.trees.local_child(parent, &name.key()) {
            self.trees.decide_again(there);
        }
    }

    /// The tombstone: the node dies with all that is below it.
    fn delete_remote(&mut self, node: NodeId) {
        let below = self.trees.remote_subtree(node);
        for id in below.into_iter().chain([node]) {
            if self.trees.remote(id).is_some_and(|remote| remote.content == Content::Mount) {
                self.unfollow(id.as_namespace());
            }
            self.trees.set_remote(id, None);
        }
    }

    fn follow(&mut self, namespace: NamespaceId) {
        self.state.cursor.insert(namespace, Position::START);
        self.server.heads.remove(&namespace);
        self.state_touched = true;
    }

    pub(super) fn unfollow(&mut self, namespace: NamespaceId) {
        self.state.cursor.remove(&namespace);
        self.state.roles.remove(&namespace);
        self.server.heads.remove(&namespace);
        self.state_touched = true;
    }

    /// The content without its blocks, which are put aside.
    fn content_of(&mut self, body: &Body) -> Content {
        match body {
            Body::Directory => Content::Directory,
            Body::Mount => Content::Mount,
            Body::Symlink { target } => Content::Symlink(target.as_str().into()),
            Body::File { blocks, size, executable, mtime } => {
                let hash = blocks.content_hash();
                self.learn_list(hash, blocks.clone(), true);
                Content::File(FileContent { hash, size: *size, executable: *executable, mtime: *mtime })
            }
        }
    }

    /// Our own commit is in the journal at `head - operations + 1 ..= head`. Returns whether the remote
    /// tree has it; if not, the journal must be read up to it first.
    pub(super) fn apply_own_commit(&mut self, commit: &Commit, head: Position, time: Timestamp) -> bool {
        let namespace = commit.namespace;
        let Some(position) = self.state.cursor.get(&namespace).copied() else { return true };
        let first = crate::plan::operation_position(head, commit.operations.len(), 0);
        if position.next() == first {
            let entries = commit.operations.iter().zip(first.0..).map(|(operation, at)| JournalEntry {
                position: Position(at),
                node: operation.node(),
                change: operation.to_change(),
                device: None,
                time,
            });
            self.read_journal(namespace, entries.collect());
        }
        self.state.cursor.get(&namespace).is_none_or(|position| *position >= head)
    }

    /// Both sides agree on what our commit said, whatever happened on either side since.
    pub(super) fn agree_on_commit(&mut self, commit: &Commit) {
        for operation in &commit.operations {
            let node = operation.node();
            let agreed = match operation {
                Operation::Create { parent, name, body, .. } => {
                    let content = self.content_of(body);
                    Some(Synced { place: Place { parent: *parent, name: name.clone() }, content })
                }
                Operation::Edit { body, .. } => {
                    let content = self.content_of(body);
                    self.trees.synced(node).map(|synced| Synced { content, ..synced })
                }
                Operation::Move { parent, name, .. } => {
                    let place = Place { parent: *parent, name: name.clone() };
                    self.trees.synced(node).map(|synced| Synced { place, ..synced })
                }
                Operation::Delete { .. } => {
                    self.agree_on_deletion(node);
                    continue;
                }
            };
            // A file that we renamed on the server to keep a folder's name was never on this disk.
            if agreed.is_some() {
                self.trees.set_synced(node, agreed);
            }
        }
    }

    fn agree_on_deletion(&mut self, node: NodeId) {
        if self.trees.local(node).is_none() {
            self.trees.set_synced(node, None);
        }
    }
}
