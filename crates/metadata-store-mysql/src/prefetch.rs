//! Fetching at once what a transaction is going to look up row by row.

use crate::cells::{Cells, bytes};
use crate::reading::{
    DEVICE_COLUMNS, NODE_BODY, NODE_COLUMNS_BUT_BODY, SHORT_BODY, device_row, namespace_row, node_row, server_row,
};
use crate::session::{Question, Session};
use crate::text;
use metadata_store::port::{Answer, Lookups};
use metadata_store::record::role_from_number;
use metadata_store::{Device, Namespace, NodeRecord, ServerIdentity};
use model::{AccountId, BlockHash, CommitKey, CommitOutcome, DeviceId, NamespaceId, NodeId, Role, Timestamp};
use mysql::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Rows that one statement asks for at most: as many as a group of commits concerns.
const KEYS: usize = model::limits::GROUP_COMMIT;

/// What a row of an answer is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Locked,
    Server,
    Device,
    Role,
    Outcome,
    Node,
    Place,
    Namespace,
    Elsewhere,
    Named,
    Uploaded(AccountId),
}

/// Rows as they come.
#[derive(Default)]
struct Found {
    locked: Option<Namespace>,
    server: Option<ServerIdentity>,
    devices: BTreeMap<DeviceId, Device>,
    roles: BTreeMap<AccountId, Role>,
    outcomes: BTreeMap<(DeviceId, CommitKey), CommitOutcome>,
    nodes: BTreeMap<NodeId, NodeRecord>,
    /// Nodes with bodies that are read when somebody asks for them.
    long: BTreeSet<NodeId>,
    places: BTreeMap<(NodeId, String), NodeId>,
    namespaces: BTreeSet<NamespaceId>,
    elsewhere: BTreeSet<NodeId>,
    named: BTreeSet<BlockHash>,
    uploaded: BTreeMap<(AccountId, BlockHash), Timestamp>,
}

impl Session<'_> {
    /// Locks the namespace, and remembers the rows that are named, also that there are none. All goes in one
    /// packet that begins with the lock, so that the rest of it finds what the last holder left.
    pub(crate) fn fetch(&self, lookups: &Lookups) -> Answer<()> {
        let mut found = Found::default();
        self.ask(&questions(lookups), |kind, row| found.add(lookups.namespace, kind, row))?;
        if let Some(row) = found.locked
            && !self.holds(lookups.namespace)
        {
            self.hold(row);
        }
        self.learn(lookups, found);
        Ok(())
    }

    fn learn(&self, lookups: &Lookups, mut found: Found) {
        let (namespace, holds) = (lookups.namespace, self.holds(lookups.namespace));
        let buffer = &mut *self.buffer.borrow_mut();
        buffer.server = buffer.server.or(found.server);
        let devices = lookups.devices.iter().map(|device| (*device, found.devices.remove(device)));
        buffer.devices.extend(devices);
        // Those that exist are read when somebody asks for more than that.
        let new_ids = || lookups.new_nodes.iter().map(|node| node.as_namespace());
        buffer.others.extend(new_ids().filter(|id| !found.namespaces.contains(id)).map(|id| (id, None)));
        let elsewhere = lookups.new_nodes.iter().map(|node| ((namespace, *node), found.elsewhere.contains(node)));
        buffer.elsewhere.extend(elsewhere);
        if !holds {
            return;
        }
        let roles = lookups.accounts.iter().map(|account| ((namespace, *account), found.roles.get(account).copied()));
        buffer.roles.extend(roles);
        let outcomes = lookups.outcomes.iter().map(|id| ((namespace, id.0, id.1), found.outcomes.remove(id)));
        buffer.outcomes.extend(outcomes);
        for node in lookups.nodes.iter().filter(|node| !found.long.contains(node)) {
            buffer.nodes.learn(namespace, *node, found.nodes.remove(node));
        }
        for (parent, key) in &lookups.places {
            let node = found.places.get(&(*parent, key.as_str().to_owned())).copied();
            buffer.nodes.learn_place((namespace, *parent, key.clone()), node);
        }
        for (account, block) in &lookups.blocks {
            buffer.stored_named.insert((namespace, *block), found.named.contains(block));
            let time = found.uploaded.get(&(*account, *block)).copied();
            buffer.stored_uploaded.insert((*account, *block), time);
        }
    }
}

impl Found {
    fn add(&mut self, namespace: NamespaceId, kind: Kind, row: &Cells) -> Answer<()> {
        match kind {
            Kind::Locked => self.locked = Some(namespace_row(namespace, row)?),
            Kind::Server => self.server = Some(server_row(row)?),
            Kind::Device => {
                let device = device_row(row)?;
                self.devices.insert(device.device, device);
            }
            Kind::Role => {
                self.roles.insert(row.id(0)?, row.ordinal(1, role_from_number)?);
            }
            Kind::Outcome => {
                self.outcomes.insert((row.id(0)?, row.id(1)?), row.formatted(2)?);
            }
            Kind::Node if row.is_null(NODE_BODY) => {
                self.long.insert(row.id(0)?);
            }
            Kind::Node => {
                let record = node_row(row)?;
                self.nodes.insert(record.node, record);
            }
            Kind::Place => {
                self.places.insert((row.id(0)?, row.text(1)?), row.id(2)?);
            }
            Kind::Namespace => {
                self.namespaces.insert(row.id(0)?);
            }
            Kind::Elsewhere => {
                self.elsewhere.insert(row.id(0)?);
            }
            Kind::Named => {
                self.named.insert(row.id(0)?);
            }
            Kind::Uploaded(account) => {
                self.uploaded.insert((account, row.id(0)?), Timestamp(row.integer(1)?));
            }
        }
        Ok(())
    }
}

/// The lock, and a question for each kind of rows. Where a key has several columns the database is told which
/// index to use: MariaDB would read all the outcomes of a namespace to find thirty.
fn questions(lookups: &Lookups) -> Vec<Question<Kind>> {
    let mut questions = Vec::new();
    let mut ask = |kind, subject, sql| questions.push(Question { kind, subject, sql });
    let namespace = text::of_value(&bytes(lookups.namespace.as_bytes()));
    let sql = format!("SELECT head, live_nodes FROM namespaces WHERE namespace = {namespace} FOR UPDATE");
    ask(Kind::Locked, "locking a namespace", sql);
    ask(Kind::Server, "reading the server's identity", "SELECT instance, epoch FROM server".to_owned());
    for keys in lists(lookups.devices.iter().map(|device| bytes(device.as_bytes()))) {
        let sql = format!("SELECT {DEVICE_COLUMNS} FROM devices WHERE device IN ({keys})");
        ask(Kind::Device, "reading devices", sql);
    }
    for keys in lists(lookups.accounts.iter().map(|account| bytes(account.as_bytes()))) {
        let sql = format!(
            "SELECT account, role FROM members FORCE INDEX (PRIMARY) WHERE namespace = {namespace} AND account IN ({keys})"
        );
        ask(Kind::Role, "reading roles", sql);
    }
    let outcomes = lookups.outcomes.iter().map(|(device, key)| [bytes(device.as_bytes()), bytes(key.as_bytes())]);
    for which in alternatives(["device", "commit_key"], outcomes) {
        let sql = format!(
            "SELECT device, commit_key, outcome FROM outcomes FORCE INDEX (PRIMARY)
             WHERE namespace = {namespace} AND ({which})"
        );
        ask(Kind::Outcome, "reading outcomes", sql);
    }
    for keys in lists(lookups.nodes.iter().map(|node| bytes(node.as_bytes()))) {
        let sql = format!(
            "SELECT {NODE_COLUMNS_BUT_BODY}, IF(LENGTH(body) <= {SHORT_BODY}, body, NULL) FROM nodes
             FORCE INDEX (PRIMARY) WHERE namespace = {namespace} AND node IN ({keys})"
        );
        ask(Kind::Node, "reading nodes", sql);
    }
    let places = lookups.places.iter().map(|(parent, key)| [bytes(parent.as_bytes()), bytes(key.as_str())]);
    for which in alternatives(["live = 1 AND parent", "name_key"], places) {
        let sql = format!(
            "SELECT parent, name_key, node FROM nodes FORCE INDEX (live_children)
             WHERE namespace = {namespace} AND ({which})"
        );
        ask(Kind::Place, "reading children by their names", sql);
    }
    for keys in lists(lookups.new_nodes.iter().map(|node| bytes(node.as_bytes()))) {
        let sql = format!("SELECT namespace FROM namespaces WHERE namespace IN ({keys})");
        ask(Kind::Namespace, "looking up namespaces", sql);
        let sql = format!(
            "SELECT node FROM nodes FORCE INDEX (nodes_by_id) WHERE node IN ({keys}) AND namespace <> {namespace}"
        );
        ask(Kind::Elsewhere, "looking for nodes in other namespaces", sql);
    }
    let blocks: BTreeSet<BlockHash> = lookups.blocks.iter().map(|(_, block)| *block).collect();
    for keys in lists(blocks.iter().map(|block| bytes(block.as_bytes()))) {
        let sql = format!(
            "SELECT hash FROM namespace_blocks FORCE INDEX (PRIMARY) WHERE namespace = {namespace} AND hash IN ({keys})"
        );
        ask(Kind::Named, "looking up blocks", sql);
    }
    let accounts: BTreeSet<AccountId> = lookups.blocks.iter().map(|(account, _)| *account).collect();
    for account in accounts {
        let of_account = lookups.blocks.iter().filter(|(of, _)| *of == account);
        let whose = text::of_value(&bytes(account.as_bytes()));
        for keys in lists(of_account.map(|(_, block)| bytes(block.as_bytes()))) {
            let sql = format!(
                "SELECT hash, time FROM uploaded_blocks FORCE INDEX (PRIMARY) WHERE account = {whose} AND hash IN ({keys})"
            );
            ask(Kind::Uploaded(account), "looking up uploads", sql);
        }
    }
    questions
}

/// Keys as lists for one statement each.
fn lists(keys: impl Iterator<Item = Value>) -> Vec<String> {
    let keys: Vec<Value> = keys.collect();
    keys.chunks(KEYS).map(text::of_list).collect()
}

/// Conditions for keys of two values, for one statement each.
fn alternatives(columns: [&str; 2], keys: impl Iterator<Item = [Value; 2]>) -> Vec<String> {
    let one = |key: &[Value; 2]| {
        let [first, second] = [&key[0], &key[1]].map(text::of_value);
        format!("({} = {first} AND {} = {second})", columns[0], columns[1])
    };
    let keys: Vec<[Value; 2]> = keys.collect();
    keys.chunks(KEYS).map(|keys| keys.iter().map(one).collect::<Vec<_>>().join(" OR ")).collect()
}
