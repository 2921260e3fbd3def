//! A server in memory with one account: the journal, the tree and the preconditions of commits.

use api::{ChangesReply, ChangesRequest, MissingReply, MissingRequest, NamespaceChanges};
use model::{
    BlockHash, Body, Change, Commit, CommitKey, CommitOutcome, JournalEntry, Name, NameKey, NamespaceId, NodeId,
    Operation, Position, Reason, Rejection, Role, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const ROOT: NamespaceId = NamespaceId([0xaa; 16]);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub parent: NodeId,
    pub name: Name,
    pub body: Body,
    pub content_rev: Position,
    pub location_rev: Position,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    pub nodes: BTreeMap<NodeId, Node>,
    pub journal: Vec<JournalEntry>,
    pub blocks: BTreeMap<BlockHash, Vec<u8>>,
    outcomes: BTreeMap<CommitKey, CommitOutcome>,
    pub rejected: u64,
}

impl Server {
    pub(crate) fn head(&self) -> Position {
        Position(self.journal.len() as u64)
    }

    pub(crate) fn changes(&self, request: &ChangesRequest, page: usize) -> ChangesReply {
        let from = request.cursor[&ROOT].0 as usize;
        let entries = self.journal[from.min(self.journal.len())..].iter().take(page).cloned().collect();
        let part = NamespaceChanges { namespace: ROOT, role: Some(Role::Owner), entries, head: self.head() };
        ChangesReply { namespaces: vec![part] }
    }

    pub(crate) fn missing(&self, request: &MissingRequest) -> MissingReply {
        let lacking = |(at, hash): (u32, &BlockHash)| (!self.blocks.contains_key(hash)).then_some(at);
        MissingReply { missing: (0..).zip(&request.blocks).filter_map(lacking).collect() }
    }

    pub(crate) fn commit(&mut self, commit: &Commit) -> CommitOutcome {
        if let Some(outcome) = self.outcomes.get(&commit.key) {
            return outcome.clone();
        }
        let outcome = match self.check(commit) {
            Ok(after) => {
                for operation in &commit.operations {
                    self.journal.push(JournalEntry {
                        position: self.head().next(),
                        node: operation.node(),
                        change: operation.to_change(),
                        device: None,
                        time: Timestamp(0),
                    });
                }
                self.nodes = after;
                CommitOutcome::Accepted { head: self.head(), time: Timestamp(0) }
            }
            Err(rejection) => {
                self.rejected += 1;
                CommitOutcome::Rejected(vec![rejection])
            }
        };
        self.outcomes.insert(commit.key, outcome.clone());
        outcome
    }

    /// The tree after the commit, or the first reason why there is none.
    fn check(&self, commit: &Commit) -> Result<BTreeMap<NodeId, Node>, Rejection> {
        let mut nodes = self.nodes.clone();
        let mut deleted = Vec::new();
        for (index, operation) in (0..).zip(&commit.operations) {
            let reject = |reason| Err(Rejection { index, reason });
            let position = Position(self.head().0 + 1 + u64::from(index));
            if let Some(block) =
                operation.body().into_iter().flat_map(Body::blocks).find(|b| !self.blocks.contains_key(*b))
            {
                return reject(Reason::MissingBlocks(vec![*block]));
            }
            match operation.clone() {
                Operation::Create { node, parent, name, body } => {
                    let new = Node { parent, name, body, content_rev: position, location_rev: position };
                    if nodes.insert(node, new).is_some() {
                        return reject(Reason::NodeExists);
                    }
                }
                Operation::Edit { node, base_content, body } => match nodes.get_mut(&node) {
                    Some(old) if old.content_rev == base_content => {
                        old.body = body;
                        old.content_rev = position;
                    }
                    _ => return reject(Reason::Stale),
                },
                Operation::Move { node, base_location, parent, name } => match nodes.get_mut(&node) {
                    Some(old) if old.location_rev == base_location => {
                        old.parent = parent;
                        old.name = name;
                        old.location_rev = position;
                    }
                    _ => return reject(Reason::Stale),
                },
                Operation::Delete { node, base_content, base_location } => match nodes.get(&node) {
                    Some(old) if old.content_rev == base_content && old.location_rev == base_location => {
                        deleted.push((index, node));
                    }
                    _ => return reject(Reason::Stale),
                },
            }
        }
        for (index, node) in deleted {
            for below in subtree(&nodes, node) {
                let changed = |rev: Position| rev > commit.seen && rev <= self.head();
                let lost = nodes
                    .get(&below)
                    .is_some_and(|n| changed(n.content_rev) || changed(n.location_rev) || n.location_rev > self.head());
                if lost {
                    return Err(Rejection { index, reason: Reason::SubtreeChanged });
                }
                nodes.remove(&below);
            }
            nodes.remove(&node);
        }
        validate(&nodes).map_err(|(node, reason)| {
            let index = commit.operations.iter().position(|op| op.node() == node).unwrap_or(0);
            Rejection { index: u32::try_from(index).unwrap_or(0), reason }
        })?;
        Ok(nodes)
    }

    pub(crate) fn path_of(&self, node: NodeId) -> String {
        let node = &self.nodes[&node];
        if node.parent == ROOT.root() {
            node.name.to_string()
        } else {
            format!("{}/{}", self.path_of(node.parent), node.name)
        }
    }

    pub(crate) fn below(&self, node: NodeId) -> Vec<NodeId> {
        subtree(&self.nodes, node)
    }

    /// Folding the journal gives the tree (I8).
    pub(crate) fn assert_journal_folds(&self) {
        let mut nodes: BTreeMap<NodeId, (NodeId, Name, Body)> = BTreeMap::new();
        for entry in &self.journal {
            match entry.change.clone() {
                Change::Create { parent, name, body } => {
                    nodes.insert(entry.node, (parent, name, body));
                }
                Change::Edit { body } => nodes.get_mut(&entry.node).expect("alive").2 = body,
                Change::Move { parent, name } => {
                    let node = nodes.get_mut(&entry.node).expect("alive");
                    (node.0, node.1) = (parent, name);
                }
                Change::Delete => {
                    let mut dead = vec![entry.node];
                    while let Some(id) = dead.pop() {
                        nodes.remove(&id);
                        dead.extend(nodes.iter().filter(|(_, n)| n.0 == id).map(|(id, _)| *id));
                    }
                }
            }
        }
        let tree: BTreeMap<_, _> =
            self.nodes.iter().map(|(id, n)| (*id, (n.parent, n.name.clone(), n.body.clone()))).collect();
        assert_eq!(nodes, tree);
    }
}

fn subtree(nodes: &BTreeMap<NodeId, Node>, top: NodeId) -> Vec<NodeId> {
    let mut found: Vec<NodeId> = nodes.iter().filter(|(_, n)| n.parent == top).map(|(id, _)| *id).collect();
    let mut at = 0;
    while at < found.len() && found.len() <= nodes.len() {
        let parent = found[at];
        found.extend(nodes.iter().filter(|(_, n)| n.parent == parent).map(|(id, _)| *id));
        at += 1;
    }
    found
}

/// Single live parents that are directories, no cycles, names unique by key (I6).
pub(crate) fn validate(nodes: &BTreeMap<NodeId, Node>) -> Result<(), (NodeId, Reason)> {
    let mut names: BTreeSet<(NodeId, NameKey)> = BTreeSet::new();
    for (id, node) in nodes {
        if node.parent != ROOT.root() {
            match nodes.get(&node.parent) {
                None => return Err((*id, Reason::ParentMissing)),
                Some(parent) if !parent.body.is_directory() => return Err((*id, Reason::NotADirectory)),
                Some(_) => {}
            }
        }
        if !names.insert((node.parent, node.name.key())) {
            return Err((*id, Reason::NameTaken));
        }
        let mut at = node.parent;
        let mut steps = 0;
        while at != ROOT.root() {
            steps += 1;
            if at == *id || steps > nodes.len() {
                return Err((*id, Reason::Cycle));
            }
            at = nodes.get(&at).map_or(ROOT.root(), |n| n.parent);
        }
    }
    Ok(())
}
