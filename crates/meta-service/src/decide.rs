//! Whether a commit is valid, and what it changes: a pure function over a view of the tree.
//!
//! What must hold is the tree after the whole batch, so swaps of names, inversions of folders and a
//! file's replacement by a folder are legal. One order matters all the same, since a journal is read
//! entry by entry: a node that leaves a folder which the batch deletes must move before the deletion.
//!
//! A commit must meet six conditions, by whose numbers comments and tests call them: P1 the device is
//! linked and its account may write; P2 the key is new, or it is answered as before; P3 the epoch is the
//! server's; P4 the account may use every block; P5 every node is as the commit's bases say; P6 the tree
//! after it is valid. P1 to P3 are checked by [`crate::commit`], the rest here.

use metadata_store::port::Answer;
use metadata_store::{Child, NodeKind, NodeRecord};
use model::{
    BlockHash, Body, Commit, DeviceId, JournalEntry, NameKey, NodeId, Operation, Position, Reason, Rejection,
    Timestamp, limits,
};
use std::collections::{BTreeMap, BTreeSet};

/// The tree as it is before the commit, and what else the decision depends on.
pub(crate) trait TreeView {
    /// A node of the namespace, alive or dead.
    fn node(&self, node: NodeId) -> Answer<Option<NodeRecord>>;
    /// The live child of a folder with this name.
    fn child(&self, parent: NodeId, key: &NameKey) -> Answer<Option<NodeId>>;
    /// The live children of a folder.
    fn children(&self, parent: NodeId) -> Answer<Vec<Child>>;
    /// The live children of a folder that are folders.
    fn child_directories(&self, parent: NodeId) -> Answer<Vec<Child>>;
    /// Whether a namespace has this id, or a node of another namespace, alive or dead. Clients hold all namespaces that
    /// they follow as one tree: whoever could use an id a second time would move and delete files in namespaces that
    /// are none of theirs.
    fn is_used_elsewhere(&self, node: NodeId) -> Answer<bool>;
    /// Whether the committing account may end its membership of the mounted namespace.
    fn may_unmount(&self, mount: NodeId) -> Answer<bool>;
    /// For each block, whether the account would have to upload it.
    fn missing(&self, blocks: &[BlockHash]) -> Answer<Vec<bool>>;
}

/// What the commit meets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) root: NodeId,
    pub(crate) head: Position,
    pub(crate) live_nodes: u64,
    pub(crate) device: Option<DeviceId>,
    pub(crate) time: Timestamp,
}

/// What becomes of the commit.
#[derive(Debug)]
pub(crate) enum Decision {
    Accept(Effects),
    /// At least one operation, each with its first reason, by index.
    Reject(Vec<Rejection>),
}

/// All that an accepted commit writes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    pub(crate) entries: Vec<JournalEntry>,
    /// The new state of each node that an operation names.
    pub(crate) nodes: Vec<NodeRecord>,
    /// What dies along with a folder, by the position of the folder's tombstone.
    pub(crate) killed: Vec<(Position, Vec<NodeId>)>,
    pub(crate) live_nodes: u64,
    /// Every block of the new bodies, once.
    pub(crate) blocks: Vec<BlockHash>,
    /// Deleted mounts: the memberships that end.
    pub(crate) unmounted: Vec<NodeId>,
}

/// Decides a commit.
///
/// # Errors
/// The view's; a refused operation is a decision.
pub(crate) fn decide(view: &dyn TreeView, terms: &Terms, commit: &Commit) -> Answer<Decision> {
    let mut batch = Batch::new(view, terms, commit);
    batch.check_shapes();
    batch.apply_operations()?;
    batch.doom_descendants()?;
    batch.check_places()?;
    batch.check_blocks()?;
    batch.check_quota();
    Ok(batch.finish())
}

/// A commit under decision.
struct Batch<'a> {
    view: &'a dyn TreeView,
    terms: &'a Terms,
    commit: &'a Commit,
    rejected: BTreeMap<usize, Reason>,
    /// The operations that name each node, in order.
    touched: BTreeMap<NodeId, Vec<usize>>,
    /// The state of the named nodes after the batch.
    nodes: BTreeMap<NodeId, NodeRecord>,
    /// Descendants of deleted folders that no operation names.
    killed: Vec<(Position, Vec<NodeId>)>,
    doomed: BTreeSet<NodeId>,
    blocks: BTreeSet<BlockHash>,
    /// Blocks of the changed nodes as they were.
    former_blocks: usize,
    /// Folders that are known to reach the root in the tree after the batch.
    places: BTreeMap<NodeId, Place>,
}

/// Where a folder's children are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Folders between a child and the root.
    depth: usize,
    /// Bytes of a child's path before its own name.
    bytes: usize,
}

impl Place {
    const ROOT: Self = Self { depth: 0, bytes: 0 };

    const fn below(self, name_bytes: usize) -> Self {
        Self { depth: self.depth + 1, bytes: self.bytes + name_bytes + 1 }
    }

    /// Whether a child with a name of this length would be within the limits.
    const fn holds(self, name_bytes: usize) -> bool {
        self.depth <= limits::TREE_DEPTH && self.bytes + name_bytes <= limits::PATH_BYTES
    }
}

type Verdict = Result<(), Reason>;

impl<'a> Batch<'a> {
    fn new(view: &'a dyn TreeView, terms: &'a Terms, commit: &'a Commit) -> Self {
        let mut touched: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
        for (index, operation) in commit.operations.iter().enumerate() {
            touched.entry(operation.node()).or_default().push(index);
        }
        Self {
            view,
            terms,
            commit,
            rejected: BTreeMap::new(),
            touched,
            nodes: BTreeMap::new(),
            killed: Vec::new(),
            doomed: BTreeSet::new(),
            blocks: BTreeSet::new(),
            former_blocks: 0,
            places: BTreeMap::new(),
        }
    }

    /// The operation's position in the journal.
    fn position(&self, index: usize) -> Position {
        Position(self.terms.head.0 + 1 + index as u64)
    }

    /// Keeps the first reason: later ones may only follow from it.
    fn reject(&mut self, index: usize, reason: Reason) {
        self.rejected.entry(index).or_insert(reason);
    }

    fn settle(&mut self, index: usize, verdict: Verdict) {
        if let Err(reason) = verdict {
            self.reject(index, reason);
        }
    }

    /// The operations that nothing speaks against so far.
    fn standing(&self) -> impl Iterator<Item = (usize, &'a Operation)> + use<'a> {
        let rejected: BTreeSet<usize> = self.rejected.keys().copied().collect();
        self.commit.operations.iter().enumerate().filter(move |(index, _)| !rejected.contains(index))
    }

    fn check_shapes(&mut self) {
        for (index, operation) in self.commit.operations.iter().enumerate() {
            if !well_formed(operation) {
                self.reject(index, Reason::Malformed);
            }
        }
        let surplus: Vec<usize> =
            self.touched.values().flat_map(|indexes| surplus_operations(self.commit, indexes)).collect();
        for index in surplus {
            self.reject(index, Reason::Malformed);
        }
    }

    /// Checks each operation against its base (P5) and builds the nodes' states after the batch.
    fn apply_operations(&mut self) -> Answer<()> {
        for (index, operation) in self.standing() {
            let verdict = match operation {
                Operation::Create { .. } => self.create(index, operation)?,
                Operation::Edit { .. } | Operation::Move { .. } | Operation::Delete { .. } => {
                    self.change(index, operation)?
                }
            };
            self.settle(index, verdict);
        }
        Ok(())
    }

    fn create(&mut self, index: usize, operation: &Operation) -> Answer<Verdict> {
        let Operation::Create { node, parent, name, body } = operation else { return Ok(Ok(())) };
        if self.view.node(*node)?.is_some() || self.view.is_used_elsewhere(*node)? {
            return Ok(Err(Reason::NodeExists));
        }
        let position = self.position(index);
        let record = NodeRecord {
            node: *node,
            parent: *parent,
            name: name.clone(),
            body: body.clone(),
            content_rev: position,
            location_rev: position,
            deleted: None,
        };
        self.nodes.insert(*node, record);
        Ok(Ok(()))
    }

    fn change(&mut self, index: usize, operation: &Operation) -> Answer<Verdict> {
        let node = operation.node();
        let mut found = self.nodes.remove(&node);
        if found.is_none() && self.former_blocks <= limits::COMMIT_BLOCKS {
            found = self.view.node(node)?;
            self.former_blocks += found.as_ref().map_or(0, |record| record.body.blocks().len());
        }
        // A thousand files of a terabyte have lists of eight gigabytes: too much to be read in order to move them.
        if self.former_blocks > limits::COMMIT_BLOCKS {
            return Ok(Err(Reason::Malformed));
        }
        let Some(mut record) = found.filter(NodeRecord::is_live) else { return Ok(Err(Reason::Stale)) };
        if let Err(reason) = change_record(&mut record, operation, self.position(index)) {
            return Ok(Err(reason));
        }
        let unmounts = record.body == Body::Mount && !record.is_live();
        let refused = unmounts && !self.view.may_unmount(node)?;
        self.nodes.insert(node, record);
        Ok(if refused { Err(Reason::HoldsMount) } else { Ok(()) })
    }

    /// Finds what dies along with the deleted folders.
    fn doom_descendants(&mut self) -> Answer<()> {
        for (index, operation) in self.standing() {
            let Operation::Delete { node, .. } = operation else { continue };
            if self.nodes.get(node).is_some_and(|record| record.body.is_directory()) {
                let verdict = self.doom_below(index, *node)?;
                self.settle(index, verdict);
            }
        }
        Ok(())
    }

    /// Walks one deleted folder. Nodes that the batch names are not walked into: a moved one takes its
    /// descendants along, a deleted one is walked on its own; so that no node is visited twice.
    fn doom_below(&mut self, index: usize, folder: NodeId) -> Answer<Verdict> {
        let mut killed = Vec::new();
        let mut pending = vec![folder];
        while let Some(folder) = pending.pop() {
            for child in self.view.children(folder)? {
                if let Some(indexes) = self.touched.get(&child.node).cloned() {
                    self.meet_named_child(index, &indexes);
                    continue;
                }
                if child.kind == NodeKind::Mount {
                    return Ok(Err(Reason::HoldsMount));
                }
                if child.changed > self.commit.seen {
                    return Ok(Err(Reason::SubtreeChanged));
                }
                killed.push(child.node);
                if child.kind == NodeKind::Directory {
                    pending.push(child.node);
                }
            }
        }
        self.doomed.extend(&killed);
        self.killed.push((self.position(index), killed));
        Ok(Ok(()))
    }

    /// A child of a deleted folder that the batch itself names must be moved out before, or deleted.
    fn meet_named_child(&mut self, deletion: usize, indexes: &[usize]) {
        let moved = indexes.iter().find(|&&i| matches!(self.commit.operations[i], Operation::Move { .. }));
        for &index in indexes {
            match (&self.commit.operations[index], moved) {
                (Operation::Move { .. }, _) if index > deletion => self.reject(index, Reason::Malformed),
                (Operation::Edit { .. }, None) => self.reject(index, Reason::ParentMissing),
                (
                    Operation::Move { .. }
                    | Operation::Edit { .. }
                    | Operation::Delete { .. }
                    | Operation::Create { .. },
                    _,
                ) => {}
            }
        }
    }

    /// Checks every node that the batch places: its parent, its path, its name (P6).
    fn check_places(&mut self) -> Answer<()> {
        let mut names: BTreeMap<(NodeId, NameKey), NodeId> = BTreeMap::new();
        for (index, operation) in self.standing() {
            if !matches!(operation, Operation::Create { .. } | Operation::Move { .. }) {
                continue;
            }
            let Some(record) = self.nodes.get(&operation.node()).cloned() else { continue };
            let mut verdict = self.check_parent(record.parent)?;
            if verdict.is_ok() {
                verdict = self.check_path(&record, operation)?;
            }
            if verdict.is_ok() {
                verdict = self.check_name(&record, &mut names)?;
            }
            self.settle(index, verdict);
        }
        Ok(())
    }

    fn check_parent(&self, parent: NodeId) -> Answer<Verdict> {
        if parent == self.terms.root {
            return Ok(Ok(()));
        }
        let record = match self.nodes.get(&parent) {
            Some(record) => Some(record.clone()),
            None => self.view.node(parent)?,
        };
        Ok(match record {
            Some(record) if record.is_live() && !self.doomed.contains(&parent) => {
                record.body.is_directory().then_some(()).ok_or(Reason::NotADirectory)
            }
            Some(_) | None => Err(Reason::ParentMissing),
        })
    }

    fn check_path(&mut self, record: &NodeRecord, operation: &Operation) -> Answer<Verdict> {
        let place = match self.place_in(record.parent, record.node)? {
            Ok(place) => place,
            Err(reason) => return Ok(Err(reason)),
        };
        let name_bytes = record.name.as_str().len();
        if !place.holds(name_bytes) {
            return Ok(Err(Reason::TooDeep));
        }
        let moves_folder = record.body.is_directory() && matches!(operation, Operation::Move { .. });
        if moves_folder && !self.subtree_fits(record.node, place.below(name_bytes))? {
            return Ok(Err(Reason::TooDeep));
        }
        Ok(Ok(()))
    }

    /// Where the folder's children are after the batch, walking to the root; `Cycle` if the walk comes
    /// by `node` or bites its own tail.
    fn place_in(&mut self, folder: NodeId, node: NodeId) -> Answer<Result<Place, Reason>> {
        let mut chain: Vec<(NodeId, usize)> = Vec::new();
        let mut at = folder;
        let mut place = loop {
            if at == self.terms.root {
                break Place::ROOT;
            }
            if let Some(place) = self.places.get(&at) {
                break *place;
            }
            if at == node || chain.iter().any(|(seen, _)| *seen == at) {
                return Ok(Err(Reason::Cycle));
            }
            if chain.len() > limits::TREE_DEPTH {
                return Ok(Err(Reason::TooDeep));
            }
            let Some((parent, name_bytes)) = self.location(at)? else {
                return Ok(Err(Reason::ParentMissing));
            };
            chain.push((at, name_bytes));
            at = parent;
        };
        for (folder, name_bytes) in chain.into_iter().rev() {
            place = place.below(name_bytes);
            self.places.insert(folder, place);
        }
        Ok(Ok(place))
    }

    /// A node's parent and its name's length after the batch.
    fn location(&self, node: NodeId) -> Answer<Option<(NodeId, usize)>> {
        if let Some(record) = self.nodes.get(&node) {
            return Ok(Some((record.parent, record.name.as_str().len())));
        }
        Ok(self.view.node(node)?.map(|record| (record.parent, record.name.as_str().len())))
    }

    /// Whether the folders below a moved folder stay within the limits. Only folders are walked; a
    /// file's own name may exceed the path's limit by one name, which clients show as held back.
    fn subtree_fits(&self, folder: NodeId, place: Place) -> Answer<bool> {
        if self.place_before(folder)?.is_some_and(|old| place.depth <= old.depth && place.bytes <= old.bytes) {
            return Ok(true);
        }
        let mut pending = vec![(folder, place)];
        while let Some((folder, place)) = pending.pop() {
            for child in self.view.child_directories(folder)? {
                if self.touched.contains_key(&child.node) {
                    continue;
                }
                if !place.holds(child.name_bytes) {
                    return Ok(false);
                }
                pending.push((child.node, place.below(child.name_bytes)));
            }
        }
        Ok(true)
    }

    /// Where the folder's children were before the batch.
    fn place_before(&self, folder: NodeId) -> Answer<Option<Place>> {
        let mut place = Place::ROOT;
        let mut at = folder;
        while at != self.terms.root {
            let Some(record) = self.view.node(at)? else { return Ok(None) };
            if place.depth > limits::TREE_DEPTH {
                return Ok(None);
            }
            place = place.below(record.name.as_str().len());
            at = record.parent;
        }
        Ok(Some(place))
    }

    fn check_name(&self, record: &NodeRecord, names: &mut BTreeMap<(NodeId, NameKey), NodeId>) -> Answer<Verdict> {
        let key = record.name.key();
        let other = names.insert((record.parent, key.clone()), record.node);
        if other.is_some_and(|other| other != record.node) {
            return Ok(Err(Reason::NameTaken));
        }
        // A folder made by this batch has no children yet.
        if self.nodes.get(&record.parent).is_some_and(|parent| parent.content_rev > self.terms.head) {
            return Ok(Ok(()));
        }
        let Some(holder) = self.view.child(record.parent, &key)? else { return Ok(Ok(())) };
        let leaves = self
            .nodes
            .get(&holder)
            .is_some_and(|after| !after.is_live() || after.parent != record.parent || after.name.key() != key);
        Ok(if holder == record.node || leaves { Ok(()) } else { Err(Reason::NameTaken) })
    }

    /// Checks that every block can be used by this account (P4).
    fn check_blocks(&mut self) -> Answer<()> {
        let bodies: Vec<(usize, &Body)> =
            self.standing().filter_map(|(index, operation)| Some((index, operation.body()?))).collect();
        self.blocks = bodies.iter().flat_map(|(_, body)| body.blocks()).copied().collect();
        let blocks: Vec<BlockHash> = self.blocks.iter().copied().collect();
        let missing = self.view.missing(&blocks)?;
        let missing: BTreeSet<BlockHash> =
            blocks.into_iter().zip(missing).filter_map(|(block, missing)| missing.then_some(block)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        for (index, body) in bodies {
            let lacks: BTreeSet<BlockHash> =
                body.blocks().iter().filter(|block| missing.contains(block)).copied().collect();
            if !lacks.is_empty() {
                self.reject(index, Reason::MissingBlocks(lacks.into_iter().collect()));
            }
        }
        Ok(())
    }

    fn check_quota(&mut self) {
        if self.live_nodes() <= limits::NAMESPACE_NODES {
            return;
        }
        for (index, operation) in self.standing() {
            if matches!(operation, Operation::Create { .. }) {
                self.reject(index, Reason::Quota);
            }
        }
    }

    /// The number of live nodes after the batch.
    fn live_nodes(&self) -> u64 {
        let created =
            self.commit.operations.iter().filter(|operation| matches!(operation, Operation::Create { .. })).count();
        let deleted = self.nodes.values().filter(|record| !record.is_live()).count();
        let fallen: usize = self.killed.iter().map(|(_, nodes)| nodes.len()).sum();
        (self.terms.live_nodes + created as u64).saturating_sub((deleted + fallen) as u64)
    }

    fn finish(self) -> Decision {
        if !self.rejected.is_empty() {
            let rejections = self
                .rejected
                .into_iter()
                .map(|(index, reason)| Rejection { index: u32::try_from(index).unwrap_or(u32::MAX), reason });
            return Decision::Reject(rejections.collect());
        }
        let entries = self.commit.operations.iter().enumerate().map(|(index, operation)| JournalEntry {
            position: self.position(index),
            node: operation.node(),
            change: operation.to_change(),
            device: self.terms.device,
            time: self.terms.time,
        });
        let unmounted = self.nodes.values().filter(|record| !record.is_live() && record.body == Body::Mount);
        Decision::Accept(Effects {
            entries: entries.collect(),
            unmounted: unmounted.map(|record| record.node).collect(),
            live_nodes: self.live_nodes(),
            killed: self.killed,
            blocks: self.blocks.into_iter().collect(),
            nodes: self.nodes.into_values().collect(),
        })
    }
}

/// What can be said of an operation without looking at anything else.
fn well_formed(operation: &Operation) -> bool {
    match operation {
        Operation::Create { body: Body::Mount, .. } | Operation::Edit { body: Body::Mount | Body::Directory, .. } => {
            false
        }
        Operation::Create { body, .. } | Operation::Edit { body, .. } => body.check().is_ok(),
        Operation::Move { .. } | Operation::Delete { .. } => true,
    }
}

/// Of the operations that name one node, those that are too many: a node is named once, or edited and
/// moved.
fn surplus_operations(commit: &Commit, indexes: &[usize]) -> Vec<usize> {
    let edit_and_move = match indexes {
        [first, second] => matches!(
            (&commit.operations[*first], &commit.operations[*second]),
            (Operation::Edit { .. }, Operation::Move { .. }) | (Operation::Move { .. }, Operation::Edit { .. })
        ),
        _ => false,
    };
    let allowed = if edit_and_move { 2 } else { 1 };
    indexes.iter().skip(allowed).copied().collect()
}

/// Checks an operation against its base and changes the node's record.
fn change_record(record: &mut NodeRecord, operation: &Operation, position: Position) -> Verdict {
    match operation {
        Operation::Create { .. } => return Err(Reason::NodeExists),
        Operation::Edit { base_content, body, .. } => {
            if record.content_rev != *base_content {
                return Err(Reason::Stale);
            }
            if !record.body.same_kind(body) {
                return Err(Reason::KindChange);
            }
            record.body = body.clone();
            record.content_rev = position;
        }
        Operation::Move { base_location, parent, name, .. } => {
            if record.location_rev != *base_location {
                return Err(Reason::Stale);
            }
            record.parent = *parent;
            record.name = name.clone();
            record.location_rev = position;
        }
        Operation::Delete { base_content, base_location, .. } => {
            if (record.content_rev, record.location_rev) != (*base_content, *base_location) {
                return Err(Reason::Stale);
            }
            record.deleted = Some(position);
        }
    }
    Ok(())
}
