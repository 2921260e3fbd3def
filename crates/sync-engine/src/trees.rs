//! The local, remote and synced tree in memory, with the indexes that planning needs, and the book of
//! which nodes are out of sync.

use crate::io::LocalPath;
use crate::packed::{LocalRow, Row};
use crate::table::{Mark, Side, Table};
use crate::tree::{Content, FileContent, Local, NodeRow, PARKED, Remote, Synced};
use model::name::RESERVED_NAME;
use model::{ContentHash, Name, NameKey, NamespaceId, NodeId, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Bounds every walk towards the root: mounts may nest one tree in another once.
pub(crate) const MAX_WALK: usize = 2 * limits::TREE_DEPTH + 4;

/// The folder of the parking place inside Syncline's own.
const PARKED_NAME: &[u8] = b"parked";

/// Versions of one file that are remembered while it is out of sync.
const MAX_PASSED: usize = 64;

/// Three trees over one set of node ids.
pub struct Trees {
    root: NodeId,
    /// The rows, which of them are out of sync, and which are to be looked at by the planner because
    /// something about them changed. More than one child may share a name's key for the moments between two
    /// entries of one commit.
    table: Table,
    excluded: BTreeSet<NodeId>,
    /// Nodes whose row differs from the client database.
    touched: BTreeSet<NodeId>,
    /// Nodes that cannot go on before the key node changes.
    waiting: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// The same the other way round: what each waiting node waits for.
    blocked_on: BTreeMap<NodeId, NodeId>,
    /// Versions of files that the server had since the trees last agreed on them. What is on disk may be
    /// one of them, if a crash came between a download and the record of it: then it is nobody's edit.
    passed: BTreeMap<NodeId, Vec<FileContent>>,
    synced_files: u64,
    deleted_files: u64,
    /// How often a node appeared on disk, or was not agreed on any more.
    turns: u64,
    /// Which node became which since [`Trees::take_relabelled`] was last called.
    relabelled: Vec<(NodeId, NodeId)>,
}

/// The nodes whose three trees do not agree.
#[derive(Clone, Copy)]
pub struct Dirty<'t>(&'t Table);

impl Dirty<'_> {
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_marked(Mark::Dirty)
    }

    #[must_use]
    pub fn contains(self, id: &NodeId) -> bool {
        self.0.has_mark(*id, Mark::Dirty)
    }
}

impl<'t> Dirty<'t> {
    /// In the order of their ids.
    pub fn iter(self) -> impl Iterator<Item = NodeId> + 't {
        self.0.marked(Mark::Dirty)
    }
}

impl fmt::Debug for Dirty<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Trees {
    /// The trees as the client database holds them. Everything that is out of sync is to be looked at.
    #[must_use]
    pub fn new(
        root: NamespaceId,
        rows: impl IntoIterator<Item = (NodeId, NodeRow)>,
        excluded: BTreeSet<NodeId>,
    ) -> Self {
        let mut trees = Self {
            root: root.root(),
            table: Table::default(),
            excluded,
            touched: BTreeSet::new(),
            waiting: BTreeMap::new(),
            blocked_on: BTreeMap::new(),
            passed: BTreeMap::new(),
            synced_files: 0,
            deleted_files: 0,
            turns: 0,
            relabelled: Vec::new(),
        };
        for (id, row) in rows {
            trees.put(id, &Row::of(&row));
            trees.update_dirty(id);
        }
        // Whether a node is excluded shows when the folders above it are there.
        let ids: Vec<NodeId> = if trees.excluded.is_empty() { Vec::new() } else { trees.ids().collect() };
        for id in ids {
            trees.update_dirty(id);
        }
        trees.table.mark_dirty_as_todo();
        trees
    }

    /// The root namespace's node; it is there in every tree and never changes.
    #[must_use]
    pub const fn root(&self) -> NodeId {
        self.root
    }

    /// The node in all three trees.
    #[must_use]
    pub fn row(&self, id: NodeId) -> Option<NodeRow> {
        self.table.get(id).map(Row::to_row)
    }

    #[must_use]
    pub fn local(&self, id: NodeId) -> Option<Local> {
        self.table.get(id)?.local.map(LocalRow::to_local)
    }

    #[must_use]
    pub fn synced(&self, id: NodeId) -> Option<Synced> {
        self.table.get(id)?.synced.map(|synced| synced.to_synced(None))
    }

    #[must_use]
    pub fn remote(&self, id: NodeId) -> Option<Remote> {
        self.table.get(id)?.remote.map(|remote| remote.to_remote(None))
    }

    /// Whether both sides agreed on the node at some time.
    #[must_use]
    pub fn has_synced(&self, id: NodeId) -> bool {
        self.table.get(id).is_some_and(|row| row.synced.is_some())
    }

    /// The folder in which the disk has the node.
    #[must_use]
    pub fn local_parent(&self, id: NodeId) -> Option<NodeId> {
        self.table.local_parent(id)
    }

    /// The folder in which the server has the node.
    #[must_use]
    pub fn remote_parent(&self, id: NodeId) -> Option<NodeId> {
        self.table.get(id)?.remote_place().map(|place| place.parent)
    }

    /// Whether the node is on disk; the root always is.
    #[must_use]
    pub fn has_local(&self, id: NodeId) -> bool {
        id == self.root || self.local_parent(id).is_some()
    }

    /// Whether the server has the node; the root always.
    #[must_use]
    pub fn has_remote(&self, id: NodeId) -> bool {
        id == self.root || self.table.has_remote(id)
    }

    /// Whether the node is a file that only the disk has and that was not read yet.
    #[must_use]
    pub fn is_unread_new_file(&self, id: NodeId) -> bool {
        self.table.is_unread_new_file(id)
    }

    /// Whether the node is a file that is gone from the disk, and not yet from the server.
    #[must_use]
    pub fn is_deleted_file(&self, id: NodeId) -> bool {
        self.table.get(id).is_some_and(|row| row.is_locally_deleted_file())
    }

    /// All such files.
    #[must_use]
    pub fn all_deleted_files(&self) -> BTreeSet<NodeId> {
        self.table.rows().filter(|(_, row)| row.is_locally_deleted_file()).map(|(id, _)| id).collect()
    }

    /// A number that rises whenever a node appears on disk or is not agreed on any more: of nodes that have
    /// left, nothing else ends what is remembered.
    #[must_use]
    pub const fn turns(&self) -> u64 {
        self.turns
    }

    /// All nodes, in the order of their ids.
    pub fn rows(&self) -> impl Iterator<Item = (NodeId, NodeRow)> + '_ {
        self.table.rows().map(|(id, row)| (id, row.to_row()))
    }

    fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.table.rows().map(|(id, _)| id)
    }

    /// Sets the node in the local tree.
    pub fn set_local(&mut self, id: NodeId, local: Option<Local>) {
        let mut row = self.row(id).unwrap_or_default();
        if row.local == local {
            return;
        }
        let parents = [&row.local, &local].map(|local| local.as_ref().map(|local| local.place.parent));
        row.local = local;
        self.replace(id, &row);
        if let [Some(from), Some(to)] = parents
            && from != to
            && self.namespace_below(from) != self.namespace_below(to)
        {
            // What it holds is in another namespace now, in which this device may do what it may not do in the other.
            for below in self.local_subtree(id) {
                self.wake(below);
            }
        }
    }

    /// Sets the node in the synced tree.
    pub fn set_synced(&mut self, id: NodeId, synced: Option<Synced>) {
        let mut row = self.row(id).unwrap_or_default();
        if row.synced != synced {
            row.synced = synced;
            self.replace(id, &row);
        }
    }

    /// Sets the node in the remote tree.
    pub fn set_remote(&mut self, id: NodeId, remote: Option<Remote>) {
        let mut row = self.row(id).unwrap_or_default();
        if row.remote != remote {
            if let Some(Remote { content: Content::File(version), .. }) = &row.remote {
                self.pass(id, *version);
            }
            let moved = row.remote.as_ref().map(|r| &r.place) != remote.as_ref().map(|r| &r.place);
            row.remote = remote;
            self.replace(id, &row);
            if moved && !self.excluded.is_empty() {
                for below in self.remote_subtree(id) {
                    self.update_dirty(below);
                    self.wake(below);
                }
            }
        }
    }

    /// Whether these bytes were the server's version of the node at some time since the trees last agreed.
    #[must_use]
    pub fn was_remote(&self, id: NodeId, content: &Content) -> bool {
        let Content::File(file) = content else { return false };
        self.passed.get(&id).is_some_and(|versions| versions.iter().any(|version| version.same_bytes(file)))
    }

    fn pass(&mut self, id: NodeId, version: FileContent) {
        let versions = self.passed.entry(id).or_default();
        if versions.len() < MAX_PASSED && !versions.contains(&version) {
            versions.push(version);
        }
    }

    /// Gives what is on disk as `from` the identity `to`, which must not be on disk. Its children follow.
    pub fn relabel(&mut self, from: NodeId, to: NodeId) {
        let Some(local) = self.local(from) else { return };
        assert!(!self.has_local(to), "{to:?} is on disk already");
        let children: Vec<NodeId> = self.local_children(from).collect();
        self.set_local(from, None);
        self.set_local(to, Some(local));
        for child in children {
            if let Some(mut below) = self.local(child) {
                below.place.parent = to;
                self.set_local(child, Some(below));
            }
        }
        self.relabelled.push((from, to));
    }

    /// Which node on disk became which, in order, since this was last called.
    pub fn take_relabelled(&mut self) -> Vec<(NodeId, NodeId)> {
        std::mem::take(&mut self.relabelled)
    }

    /// The children of a folder in the local tree.
    pub fn local_children(&self, parent: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.table.children(parent, Side::Local)
    }

    /// The children of a folder in the remote tree.
    pub fn remote_children(&self, parent: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.table.children(parent, Side::Remote)
    }

    /// Who has the name in the folder on disk.
    #[must_use]
    pub fn local_child(&self, parent: NodeId, key: &NameKey) -> Option<NodeId> {
        self.table.child(parent, key, Side::Local)
    }

    /// Who has the name in the folder on the server.
    #[must_use]
    pub fn remote_child(&self, parent: NodeId, key: &NameKey) -> Option<NodeId> {
        self.table.child(parent, key, Side::Remote)
    }

    /// A file on disk that is known to have this content.
    #[must_use]
    pub fn local_file_with(&self, content: &ContentHash) -> Option<NodeId> {
        self.table.by_content(content)
    }

    /// The node that was last seen with this inode.
    #[must_use]
    pub fn by_inode(&self, device: u64, inode: u64) -> Option<NodeId> {
        self.table.by_inode(device, inode)
    }

    /// All that is below `top` on disk, folders before what they hold; without `top`.
    #[must_use]
    pub fn local_subtree(&self, top: NodeId) -> Vec<NodeId> {
        self.subtree(top, Side::Local)
    }

    /// All that is below `top` on the server, folders before what they hold; without `top`.
    #[must_use]
    pub fn remote_subtree(&self, top: NodeId) -> Vec<NodeId> {
        self.subtree(top, Side::Remote)
    }

    /// The ids from the node's parent to the root on disk; empty when the chain is broken.
    pub fn local_ancestors(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::successors(self.local_parent(id), |id| self.local_parent(*id)).take(MAX_WALK)
    }

    /// The ids from the node's parent to the root on the server.
    pub fn remote_ancestors(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::successors(self.remote_parent(id), |id| self.remote_parent(*id)).take(MAX_WALK)
    }

    /// Whether the node is the mount of a shared folder, or was until the server withdrew it.
    #[must_use]
    pub fn is_mount(&self, id: NodeId) -> bool {
        self.table.has_mounts() && self.table.get(id).is_some_and(|row| row.is_mount())
    }

    /// The namespace to which children of this folder on disk belong.
    #[must_use]
    pub fn namespace_below(&self, folder: NodeId) -> NamespaceId {
        if !self.table.has_mounts() {
            return self.root.as_namespace();
        }
        let owner = std::iter::once(folder)
            .chain(self.local_ancestors(folder))
            .find(|id| *id == self.root || self.is_mount(*id))
            .unwrap_or(self.root);
        owner.as_namespace()
    }

    /// The namespace in which the server has the node.
    #[must_use]
    pub fn remote_namespace(&self, id: NodeId) -> NamespaceId {
        self.known_remote_namespace(id).unwrap_or(self.root.as_namespace())
    }

    /// The same; `None` between two entries of one commit, where a parent may be yet to come and a folder lie below itself.
    #[must_use]
    pub fn known_remote_namespace(&self, id: NodeId) -> Option<NamespaceId> {
        if id == self.root || !self.table.has_mounts() {
            return Some(self.root.as_namespace());
        }
        self.remote_ancestors(id).find(|id| *id == self.root || self.is_mount(*id)).map(NodeId::as_namespace)
    }

    /// The withdrawn mount inside which the folder lies (or which it is), if there is one.
    #[must_use]
    pub fn withdrawn_mount(&self, folder: NodeId) -> Option<NodeId> {
        if !self.table.has_mounts() {
            return None;
        }
        std::iter::once(folder)
            .chain(self.local_ancestors(folder))
            .find(|id| *id != self.root && self.is_mount(*id) && !self.has_remote(*id))
    }

    /// Whether the user keeps the node off this device.
    #[must_use]
    pub fn is_excluded(&self, id: NodeId) -> bool {
        !self.excluded.is_empty()
            && (self.excluded.contains(&id) || self.remote_ancestors(id).any(|above| self.excluded.contains(&above)))
    }

    /// The nodes that the user named for exclusion.
    #[must_use]
    pub const fn excluded(&self) -> &BTreeSet<NodeId> {
        &self.excluded
    }

    /// Excludes a node, or includes it again, and looks at all it holds.
    pub fn set_excluded(&mut self, id: NodeId, excluded: bool) {
        let changed = if excluded { self.excluded.insert(id) } else { self.excluded.remove(&id) };
        if changed {
            let below = self.remote_subtree(id);
            for id in std::iter::once(id).chain(below) {
                self.update_dirty(id);
                self.wake(id);
            }
        }
    }

    /// Looks again at all that is excluded.
    pub fn wake_excluded(&mut self) {
        for id in self.excluded.clone() {
            for id in std::iter::once(id).chain(self.remote_subtree(id)) {
                self.wake(id);
            }
        }
    }

    /// The name under which the disk has the node.
    #[must_use]
    pub fn disk_name(local: &Local) -> &[u8] {
        local.disk_name.as_deref().unwrap_or(local.place.name.as_str().as_bytes())
    }

    /// Where the node is on disk.
    #[must_use]
    pub fn local_path(&self, id: NodeId) -> Option<LocalPath> {
        if id == self.root {
            return Some(LocalPath::root());
        }
        if id == PARKED {
            return Some(LocalPath::root().join(RESERVED_NAME.as_bytes()).join(PARKED_NAME));
        }
        let mut names = Vec::new();
        let mut at = id;
        while at != self.root && at != PARKED {
            let local = self.table.get(at)?.local?;
            names.push(local.disk_name());
            at = local.place.parent;
            if names.len() > MAX_WALK {
                return None;
            }
        }
        let top = self.local_path(at)?;
        Some(names.iter().rev().fold(top, |path, name| path.join(name)))
    }

    /// The node at a path on disk.
    #[must_use]
    pub fn at_path(&self, path: &LocalPath) -> Option<NodeId> {
        // What waits in the parking place is in no folder of the user's.
        let is_parked = path.components().take(2).eq([RESERVED_NAME.as_bytes(), PARKED_NAME]);
        let (top, own_names) = if is_parked { (PARKED, 2) } else { (self.root, 0) };
        path.components().skip(own_names).try_fold(top, |folder, name| {
            let child = self.local_child(folder, &Name::parse_bytes(name).ok()?.key())?;
            (self.table.get(child)?.local?.disk_name() == name).then_some(child)
        })
    }

    /// The node's path for people: where it is on disk, or else on the server. Nobody knows the parking place.
    #[must_use]
    pub fn display_path(&self, id: NodeId) -> String {
        let is_parked = self.local_ancestors(id).any(|above| above == PARKED);
        if let Some(path) = self.local_path(id).filter(|_| !is_parked || !self.has_remote(id)) {
            return path.to_string();
        }
        let name_of = |id: NodeId| {
            let row = self.row(id)?;
            let place = row.remote.as_ref().map(|r| &r.place).or(row.synced.as_ref().map(|s| &s.place))?;
            Some((place.parent, place.name.to_string()))
        };
        let mut names = Vec::new();
        let mut at = id;
        while let Some((parent, name)) = name_of(at) {
            names.push(name);
            at = parent;
            if at == self.root || names.len() > MAX_WALK {
                break;
            }
        }
        names.reverse();
        names.join("/")
    }

    /// Nodes whose three trees do not agree.
    #[must_use]
    pub const fn dirty(&self) -> Dirty<'_> {
        Dirty(&self.table)
    }

    /// Files that both sides agree on or last agreed on.
    #[must_use]
    pub const fn synced_files(&self) -> u64 {
        self.synced_files
    }

    /// Synced files that are gone from disk and not yet from the server.
    #[must_use]
    pub const fn deleted_files(&self) -> u64 {
        self.deleted_files
    }

    /// The next node to look at.
    pub fn next_todo(&mut self) -> Option<NodeId> {
        self.table.pop_marked(Mark::Todo)
    }

    /// Whether nodes are to be looked at.
    #[must_use]
    pub const fn has_todo(&self) -> bool {
        self.table.count_marked(Mark::Todo) > 0
    }

    /// Looks at the node again, and at whatever waits for it.
    pub fn wake(&mut self, id: NodeId) {
        // Also what is in sync now: it may still be filed under what it needed before.
        self.table.set_mark(id, Mark::Todo);
        self.wake_waiting(id);
    }

    /// The node waits for nothing any more, and what waits for it is looked at again.
    fn wake_waiting(&mut self, id: NodeId) {
        self.unblock(id);
        for waiter in self.waiting.remove(&id).unwrap_or_default() {
            self.blocked_on.remove(&waiter);
            self.table.set_mark(waiter, Mark::Todo);
        }
    }

    /// Decides about the node again, and about nothing else: what was last decided may no longer hold.
    pub fn decide_again(&mut self, id: NodeId) {
        self.unblock(id);
        self.table.set_mark(id, Mark::Todo);
    }

    /// Looks at everything that is out of sync again.
    pub fn wake_all(&mut self) {
        self.waiting.clear();
        self.blocked_on.clear();
        self.table.mark_dirty_as_todo();
    }

    /// Leaves the node alone until `other` changes.
    pub fn wait(&mut self, id: NodeId, other: NodeId) {
        self.unblock(id);
        self.waiting.entry(other).or_default().insert(id);
        self.blocked_on.insert(id, other);
    }

    /// What the node waits for.
    #[must_use]
    pub fn waits_for(&self, id: NodeId) -> Option<NodeId> {
        self.blocked_on.get(&id).copied()
    }

    fn unblock(&mut self, id: NodeId) {
        if let Some(other) = self.blocked_on.remove(&id)
            && let Some(waiters) = self.waiting.get_mut(&other)
        {
            waiters.remove(&id);
            if waiters.is_empty() {
                self.waiting.remove(&other);
            }
        }
    }

    /// Has the node's row persisted although it is as it was.
    pub fn touch(&mut self, id: NodeId) {
        self.touched.insert(id);
    }

    /// Takes the nodes whose rows must be persisted.
    pub fn take_touched(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.touched)
    }

    /// How many rows wait to be persisted.
    #[must_use]
    pub fn touched_count(&self) -> usize {
        self.touched.len()
    }

    /// The bytes that the rows and their indexes take, by part.
    #[must_use]
    pub fn footprint(&self) -> [(&'static str, usize); 6] {
        self.table.footprint()
    }

    /// Forgets what both sides agreed on and what the server told, for a server that is another now.
    pub fn forget_server(&mut self) {
        let ids: Vec<NodeId> = self.ids().collect();
        for id in ids {
            self.set_synced(id, None);
            self.set_remote(id, None);
        }
        // What this server once had is not older than what it has now.
        self.passed.clear();
    }

    fn replace(&mut self, id: NodeId, row: &NodeRow) {
        let row = Row::of(row);
        self.put(id, &row);
        self.touched.insert(id);
        let is_clean = self.is_clean(id, &row);
        if is_clean {
            self.passed.remove(&id);
        }
        self.table.mark_changed(id, !is_clean);
        self.wake_waiting(id);
    }

    /// Puts the row in the table, and counts files anew.
    fn put(&mut self, id: NodeId, after: &Row<'_>) {
        debug_assert!(id != self.root && id != PARKED, "the root and the parking place have no rows");
        let count = |files: &mut u64, before: bool, after: bool| *files = *files + u64::from(after) - u64::from(before);
        self.table.set(id, after, |before| {
            count(&mut self.synced_files, before.is_synced_file(), after.is_synced_file());
            count(&mut self.deleted_files, before.is_locally_deleted_file(), after.is_locally_deleted_file());
            let appeared = before.local.is_none() && after.local.is_some();
            let is_agreed_no_more = before.synced.is_some() && after.synced.is_none();
            self.turns += u64::from(appeared || is_agreed_no_more);
        });
    }

    fn update_dirty(&mut self, id: NodeId) {
        if self.table.get(id).is_none_or(|row| self.is_clean(id, &row)) {
            self.passed.remove(&id);
            self.table.clear_mark(id, Mark::Dirty);
        } else {
            self.table.set_mark(id, Mark::Dirty);
        }
    }

    /// Whether nothing is to be done about a node with this row.
    fn is_clean(&self, id: NodeId, row: &Row<'_>) -> bool {
        if row.is_remote_only() {
            self.is_excluded(id)
        } else {
            row.is_empty() || row.agrees() && !self.is_excluded(id)
        }
    }

    fn subtree(&self, top: NodeId, side: Side) -> Vec<NodeId> {
        let mut found: Vec<NodeId> = self.table.children(top, side).collect();
        let mut at = 0;
        while at < found.len() {
            found.extend(self.table.children(found[at], side).filter(|id| *id != top).collect::<Vec<_>>());
            at += 1;
        }
        found
    }
}

impl NodeRow {
    /// Whether the three trees agree on the node, or none has it.
    #[must_use]
    pub fn agrees(&self) -> bool {
        match (&self.local, &self.synced, &self.remote) {
            (None, None, None) => true,
            (Some(local), Some(synced), Some(remote)) => {
                local.place == synced.place
                    && synced.place == remote.place
                    && synced.content == remote.content
                    && local.seen.equals(&remote.content)
            }
            _ => false,
        }
    }
}
