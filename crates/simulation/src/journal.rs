//! The journals folded into trees, with all that must hold of them (I6, I8, I11).

use api::HashStart;
use model::{
    BlockHash, Body, Change, ContentHash, DeviceId, Epoch, JournalEntry, Name, NameKey, NamespaceId, NodeId, Position,
};
use std::collections::{BTreeMap, BTreeSet};

/// A live node of a folded tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    pub parent: NodeId,
    pub name: Name,
    pub body: Body,
}

/// One namespace's journal, folded.
#[derive(Debug, Clone)]
pub struct Fold {
    root: NodeId,
    head: Position,
    nodes: BTreeMap<NodeId, Folded>,
}

impl Fold {
    /// The tree of an empty journal.
    #[must_use]
    pub const fn new(namespace: NamespaceId) -> Self {
        Self { root: namespace.root(), head: Position::START, nodes: BTreeMap::new() }
    }

    /// The position of the last entry.
    #[must_use]
    pub const fn head(&self) -> Position {
        self.head
    }

    /// The live nodes.
    #[must_use]
    pub const fn nodes(&self) -> &BTreeMap<NodeId, Folded> {
        &self.nodes
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// The rule that the entry breaks.
    pub fn apply(&mut self, entry: &JournalEntry) -> Result<(), String> {
        if entry.position != self.head.next() {
            return Err(format!("I8: entry {} follows {}", entry.position, self.head));
        }
        self.head = entry.position;
        match &entry.change {
            Change::Create { parent, name, body } => {
                let folded = Folded { parent: *parent, name: name.clone(), body: body.clone() };
                if self.nodes.insert(entry.node, folded).is_some() {
                    return Err(format!("I8: entry {} makes {:?}, which is there", entry.position, entry.node));
                }
            }
            Change::Edit { body } => {
                self.node(entry)?.body = body.clone();
                if *body == Body::Mount {
                    self.remove_below(entry.node);
                }
            }
            Change::Move { parent, name } => {
                let node = self.node(entry)?;
                (node.parent, node.name) = (*parent, name.clone());
            }
            Change::Delete => {
                self.node(entry)?;
                self.remove_below(entry.node);
                self.nodes.remove(&entry.node);
            }
        }
        Ok(())
    }

    fn node(&mut self, entry: &JournalEntry) -> Result<&mut Folded, String> {
        let error = || format!("I8: entry {} is about {:?}, which is not there", entry.position, entry.node);
        self.nodes.get_mut(&entry.node).ok_or_else(error)
    }

    /// The file contents of a node and of all below it.
    fn contents_below(&self, top: NodeId) -> Vec<ContentHash> {
        let nodes = std::iter::once(top).chain(self.below(top)).filter_map(|id| self.nodes.get(&id));
        let content = |node: &Folded| match &node.body {
            Body::File { blocks, .. } => Some(blocks.content_hash()),
            Body::Directory | Body::Symlink { .. } | Body::Mount => None,
        };
        nodes.filter_map(content).collect()
    }

    fn remove_below(&mut self, top: NodeId) {
        for id in self.below(top) {
            self.nodes.remove(&id);
        }
    }

    /// All nodes below one. In the middle of a batch that turns a hierarchy over, folders may lie in each other.
    fn below(&self, top: NodeId) -> BTreeSet<NodeId> {
        let (mut found, mut folders) = (BTreeSet::new(), vec![top]);
        while let Some(folder) = folders.pop() {
            let children = self.nodes.iter().filter(|(_, node)| node.parent == folder).map(|(id, _)| *id);
            folders.extend(children.filter(|child| *child != top && found.insert(*child)));
        }
        found
    }

    /// Checks the tree (I6).
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check(&self) -> Result<(), String> {
        let mut names: BTreeSet<(NodeId, NameKey)> = BTreeSet::new();
        for (id, node) in &self.nodes {
            if !names.insert((node.parent, node.name.key())) {
                return Err(format!("I6: two nodes are called {} in {:?}", node.name, node.parent));
            }
            let mut at = node.parent;
            for _ in 0..=self.nodes.len() {
                if at == self.root {
                    break;
                }
                match self.nodes.get(&at) {
                    Some(parent) if parent.body.is_directory() => at = parent.parent,
                    Some(_) => return Err(format!("I6: {id:?} lies in {at:?}, which is no folder")),
                    None => return Err(format!("I6: {id:?} lies in {at:?}, which is not there")),
                }
            }
            if at != self.root {
                return Err(format!("I6: {id:?} never reaches the root"));
            }
        }
        Ok(())
    }
}

/// What the new entries of a journal brought.
#[derive(Debug, Default)]
pub struct Gain {
    /// The files' new contents.
    pub contents: Vec<ContentHash>,
    /// Contents that a device moved: its user's doing, or its client's to make way for another node.
    pub moved: Vec<(DeviceId, ContentHash)>,
}

/// All journals of a server.
#[derive(Debug, Default)]
pub struct Journals {
    folds: BTreeMap<NamespaceId, Fold>,
    /// Every file content that a journal of this server or of an earlier state of it named.
    contents: BTreeSet<ContentHash>,
    heads: BTreeMap<(Epoch, NamespaceId), Position>,
    /// All entries, and the blocks that they name.
    logs: BTreeMap<NamespaceId, Vec<JournalEntry>>,
    named: BTreeSet<(NamespaceId, BlockHash)>,
}

impl Journals {
    /// The folded journal of a namespace.
    #[must_use]
    pub fn fold(&self, namespace: NamespaceId) -> Fold {
        self.folds.get(&namespace).cloned().unwrap_or_else(|| Fold::new(namespace))
    }

    /// Where a namespace's journal has been read to.
    #[must_use]
    pub fn head(&self, namespace: NamespaceId) -> Position {
        self.folds.get(&namespace).map_or(Position::START, Fold::head)
    }

    /// Whether the server ever had a content.
    #[must_use]
    pub fn ever_held(&self, content: &ContentHash) -> bool {
        self.contents.contains(content)
    }

    /// The journals begin anew: the server lost some of them.
    pub fn forget(&mut self) {
        self.folds.clear();
        self.heads.clear();
        self.logs.clear();
        self.named.clear();
    }

    /// Takes all new entries of a namespace.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn take(
        &mut self,
        namespace: NamespaceId,
        epoch: Epoch,
        head: Position,
        entries: &[JournalEntry],
        has_block: &dyn Fn(&BlockHash) -> bool,
    ) -> Result<Gain, String> {
        let known = self.heads.entry((epoch, namespace)).or_insert(head);
        if head < *known {
            return Err(format!("I8: the head of {namespace:?} went from {known} back to {head}"));
        }
        *known = head;
        let fold = self.folds.entry(namespace).or_insert_with(|| Fold::new(namespace));
        let mut gain = Gain::default();
        for entry in entries {
            if let (Change::Move { .. }, Some(device)) = (&entry.change, entry.device) {
                gain.moved.extend(fold.contents_below(entry.node).into_iter().map(|content| (device, content)));
            }
            fold.apply(entry)?;
            let (Change::Create { body, .. } | Change::Edit { body }) = &entry.change else { continue };
            if let Some(block) = body.blocks().iter().find(|block| !has_block(block)) {
                return Err(format!("I11: entry {} names {block:?}, which is not stored", entry.position));
            }
            self.named.extend(body.blocks().iter().map(|block| (namespace, *block)));
            if let Body::File { blocks, .. } = body {
                gain.contents.push(blocks.content_hash());
            }
        }
        if fold.head != head {
            return Err(format!("I8: the journal of {namespace:?} ends at {}, its head says {head}", fold.head));
        }
        if !entries.is_empty() {
            fold.check()?;
        }
        self.contents.extend(gain.contents.iter().copied());
        self.logs.entry(namespace).or_default().extend_from_slice(entries);
        Ok(gain)
    }

    /// Whether these are the entries behind a position, one after the other: a reader who is told so misses
    /// nothing, deletions least of all (I8, I13).
    #[must_use]
    pub fn continues(&self, namespace: NamespaceId, after: Position, entries: &[JournalEntry]) -> bool {
        let log = self.logs.get(&namespace).map(Vec::as_slice).unwrap_or_default();
        let rest = usize::try_from(after.0).ok().and_then(|start| log.get(start..)).unwrap_or_default();
        let same = |(told, kept): (&JournalEntry, &JournalEntry)| {
            (told.position, told.node, &told.change) == (kept.position, kept.node, &kept.change)
        };
        entries.len() <= rest.len() && entries.iter().zip(rest).all(same)
    }

    /// All blocks that the journals name.
    pub fn named(&self) -> impl Iterator<Item = &BlockHash> {
        self.named.iter().map(|(_, block)| block)
    }

    /// Whether the namespace's journal names the block.
    #[must_use]
    pub fn names(&self, namespace: NamespaceId, block: BlockHash) -> bool {
        self.named.contains(&(namespace, block))
    }

    /// Whether it names a block whose hash begins so.
    #[must_use]
    pub fn may_name(&self, namespace: NamespaceId, start: HashStart) -> bool {
        self.named.iter().any(|(one, block)| *one == namespace && start.is_of(block))
    }
}
