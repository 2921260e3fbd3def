//! What a transaction knows and has written, and not sent yet.
//!
//! Each statement is a journey to the database and back, and a transaction with sixty commits in it would
//! make a thousand. So rows are kept here until the end, or until somebody asks for what only the database
//! can list, and then go together. What is remembered of a namespace is true as long as its lock is held;
//! of accounts and devices it is what they were when the transaction looked.

use metadata_store::{Device, Namespace, NodeRecord, ServerIdentity};
use model::{AccountId, BlockHash, CommitKey, CommitOutcome, DeviceId, NameKey, NamespaceId, NodeId, Role, Timestamp};
use mysql::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A commit's key in full.
pub(crate) type OutcomeKey = (NamespaceId, DeviceId, CommitKey);
/// A place in a tree.
pub(crate) type Place = (NamespaceId, NodeId, NameKey);

/// A namespace whose row this transaction holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) row: Namespace,
    /// Whether the row differs from what the database has.
    pub(crate) changed: bool,
}

#[derive(Default)]
pub(crate) struct Buffer {
    pub(crate) server: Option<ServerIdentity>,
    pub(crate) held: BTreeMap<NamespaceId, Held>,
    /// Of namespaces that are not held, whether they exist.
    pub(crate) others: BTreeMap<NamespaceId, Option<Namespace>>,
    pub(crate) devices: BTreeMap<DeviceId, Option<Device>>,
    pub(crate) roles: BTreeMap<(NamespaceId, AccountId), Option<Role>>,
    pub(crate) outcomes: BTreeMap<OutcomeKey, Option<CommitOutcome>>,
    pub(crate) nodes: Nodes,
    /// Of nodes that are to be made in a namespace, whether another one has them.
    pub(crate) elsewhere: BTreeMap<(NamespaceId, NodeId), bool>,
    /// Of blocks, whether the database has them as named by a namespace that is held.
    pub(crate) stored_named: BTreeMap<(NamespaceId, BlockHash), bool>,
    /// When the database has blocks as uploaded last; `None`: never.
    pub(crate) stored_uploaded: BTreeMap<(AccountId, BlockHash), Option<Timestamp>>,
    /// Rows that wait to be sent.
    pub(crate) journal: Vec<Vec<Value>>,
    pub(crate) new_outcomes: Vec<Vec<Value>>,
    pub(crate) named: BTreeSet<(NamespaceId, BlockHash)>,
    pub(crate) uploaded: BTreeMap<(AccountId, BlockHash), Timestamp>,
}

/// Nodes as this transaction sees them.
#[derive(Default)]
pub(crate) struct Nodes {
    /// Those that it has read or written; `None`: there is no row.
    known: BTreeMap<(NamespaceId, NodeId), Option<NodeRecord>>,
    /// Those that it has written and not sent, and whether the database may have an older row.
    unsent: BTreeMap<(NamespaceId, NodeId), OlderRow>,
    /// Where those live that are unsent.
    places: BTreeMap<Place, NodeId>,
    /// Who is at a place by the database, which does not have what is unsent.
    stored_places: BTreeMap<Place, Option<NodeId>>,
}

/// Whether the database may have a row that the new one takes the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OlderRow {
    Possible,
    None,
}

/// What is known of who is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    Known(Option<NodeId>),
    /// The database must be asked, and its answer passed through [`Nodes::holder_by_database`].
    Unknown,
}

impl Nodes {
    pub(crate) fn get(&self, namespace: NamespaceId, node: NodeId) -> Option<&Option<NodeRecord>> {
        self.known.get(&(namespace, node))
    }

    /// Remembers what the database has.
    pub(crate) fn learn(&mut self, namespace: NamespaceId, node: NodeId, record: Option<NodeRecord>) {
        self.known.entry((namespace, node)).or_insert(record);
    }

    pub(crate) fn learn_place(&mut self, place: Place, node: Option<NodeId>) {
        self.stored_places.insert(place, node);
    }

    /// Writes nodes as one set: names may change hands within it.
    pub(crate) fn put(&mut self, namespace: NamespaceId, record: &NodeRecord) {
        let id = (namespace, record.node);
        let before = self.known.insert(id, Some(record.clone()));
        let older = if before == Some(None) { OlderRow::None } else { OlderRow::Possible };
        self.unsent.entry(id).or_insert(older);
        if let Some(Some(before)) = before {
            let place = (namespace, before.parent, before.name.key());
            if self.places.get(&place) == Some(&record.node) {
                self.places.remove(&place);
            }
        }
        if record.is_live() {
            self.places.insert((namespace, record.parent, record.name.key()), record.node);
        }
    }

    /// Who is at a place, as far as it is known here.
    pub(crate) fn holder(&self, place: &Place) -> Holder {
        if let Some(node) = self.places.get(place) {
            return Holder::Known(Some(*node));
        }
        match self.stored_places.get(place) {
            Some(stored) => Holder::Known(self.holder_by_database(place.0, *stored)),
            None => Holder::Unknown,
        }
    }

    /// Who is at a place where nobody unsent is: whom the database names, unless that one has left since.
    pub(crate) fn holder_by_database(&self, namespace: NamespaceId, stored: Option<NodeId>) -> Option<NodeId> {
        stored.filter(|node| !self.unsent.contains_key(&(namespace, *node)))
    }

    /// The rows that are to be sent. The database then knows all that is known here.
    pub(crate) fn take_unsent(&mut self) -> Vec<(NamespaceId, NodeRecord, OlderRow)> {
        self.places.clear();
        self.stored_places.clear();
        let unsent = std::mem::take(&mut self.unsent);
        let row = |((namespace, node), older)| {
            let record = self.known.get(&(namespace, node)).cloned().flatten()?;
            Some((namespace, record, older))
        };
        unsent.into_iter().filter_map(row).collect()
    }

    /// Forgets nodes that a statement has changed in the database.
    pub(crate) fn forget(&mut self, namespace: NamespaceId, nodes: &[NodeId]) {
        for node in nodes {
            self.known.remove(&(namespace, *node));
        }
        self.stored_places.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Body, Name, Position};

    const NS: NamespaceId = NamespaceId([1; 16]);

    fn record(n: u8, name: &str) -> NodeRecord {
        let (node, name) = (NodeId([n; 16]), Name::parse(name).expect("legal"));
        let (content_rev, location_rev) = (Position(1), Position(1));
        NodeRecord { node, parent: NS.root(), name, body: Body::Directory, content_rev, location_rev, deleted: None }
    }

    fn place(name: &str) -> Place {
        (NS, NS.root(), Name::parse(name).expect("legal").key())
    }

    #[test]
    fn names_that_change_hands_are_found_with_their_new_holders() {
        let mut nodes = Nodes::default();
        for (n, name) in [(1, "a"), (2, "b")] {
            nodes.put(NS, &record(n, name));
        }
        for (n, name) in [(1, "b"), (2, "a")] {
            nodes.put(NS, &record(n, name));
        }
        assert_eq!(nodes.holder(&place("a")), Holder::Known(Some(NodeId([2; 16]))));
        assert_eq!(nodes.holder(&place("b")), Holder::Known(Some(NodeId([1; 16]))));
    }

    #[test]
    fn who_has_left_by_a_write_that_is_not_sent_is_not_there_whatever_the_database_says() {
        let mut nodes = Nodes::default();
        nodes.learn(NS, NodeId([1; 16]), Some(record(1, "a")));
        nodes.learn_place(place("a"), Some(NodeId([1; 16])));
        assert_eq!(nodes.holder(&place("a")), Holder::Known(Some(NodeId([1; 16]))));
        nodes.put(NS, &NodeRecord { deleted: Some(Position(2)), ..record(1, "a") });
        assert_eq!(nodes.holder(&place("a")), Holder::Known(None));
        assert_eq!(nodes.holder(&place("b")), Holder::Unknown);
    }

    #[test]
    fn a_row_that_was_seen_to_be_missing_needs_no_removal() {
        let mut nodes = Nodes::default();
        nodes.learn(NS, NodeId([1; 16]), None);
        nodes.put(NS, &record(1, "a"));
        nodes.put(NS, &record(1, "b"));
        nodes.put(NS, &record(2, "c"));
        let older: Vec<OlderRow> = nodes.take_unsent().into_iter().map(|(_, _, older)| older).collect();
        assert_eq!(older, [OlderRow::None, OlderRow::Possible]);
        nodes.put(NS, &record(1, "d"));
        let older: Vec<OlderRow> = nodes.take_unsent().into_iter().map(|(_, _, older)| older).collect();
        assert_eq!(older, [OlderRow::Possible], "it has been sent");
    }
}
