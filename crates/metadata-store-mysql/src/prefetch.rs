//! Fetching at once what a transaction is going to look up row by row.

use crate::cells::{Cells, bytes};
use crate::reading::{DEVICE_COLUMNS, NODE_COLUMNS, device_row, node_row};
use crate::session::Session;
use metadata_store::port::{Answer, Lookups, Transaction};
use metadata_store::record::role_from_number;
use metadata_store::{Device, NodeRecord};
use model::{AccountId, CommitKey, CommitOutcome, DeviceId, NamespaceId, NodeId, Role};
use mysql::Value;
use std::collections::BTreeMap;

impl Session<'_> {
    /// Locks the namespace, and remembers the rows that are named, also that there are none.
    pub(crate) fn fetch(&self, lookups: &Lookups) -> Answer<()> {
        let namespace = lookups.namespace;
        if self.lock_namespace(namespace)?.is_none() {
            return Ok(());
        }
        self.fetch_devices(&lookups.devices)?;
        self.fetch_roles(namespace, &lookups.accounts)?;
        self.fetch_outcomes(namespace, &lookups.outcomes)?;
        self.fetch_nodes(namespace, &lookups.nodes)?;
        self.fetch_places(namespace, lookups)?;
        self.fetch_namespaces(&lookups.namespaces)
    }

    fn fetch_devices(&self, devices: &[DeviceId]) -> Answer<()> {
        let keys: Vec<Value> = devices.iter().map(|device| bytes(device.as_bytes())).collect();
        let mut found: BTreeMap<DeviceId, Device> = BTreeMap::new();
        self.for_keys(&keys, |marks, keys| {
            let sql = format!("SELECT {DEVICE_COLUMNS} FROM devices WHERE device IN ({marks})");
            let rows = self.all("reading devices", &sql, keys, device_row)?;
            found.extend(rows.into_iter().map(|device| (device.device, device)));
            Ok(())
        })?;
        let known = devices.iter().map(|device| (*device, found.get(device).cloned()));
        self.buffer.borrow_mut().devices.extend(known);
        Ok(())
    }

    fn fetch_roles(&self, namespace: NamespaceId, accounts: &[AccountId]) -> Answer<()> {
        let keys: Vec<Value> = accounts.iter().map(|account| bytes(account.as_bytes())).collect();
        let mut found: BTreeMap<AccountId, Role> = BTreeMap::new();
        self.for_keys(&keys, |marks, keys| {
            let sql = format!("SELECT account, role FROM members WHERE namespace = ? AND account IN ({marks})");
            let row = |row: &Cells| Ok((row.id(0)?, row.ordinal(1, role_from_number)?));
            found.extend(self.all("reading roles", &sql, behind(namespace, keys), row)?);
            Ok(())
        })?;
        let known = accounts.iter().map(|account| ((namespace, *account), found.get(account).copied()));
        self.buffer.borrow_mut().roles.extend(known);
        Ok(())
    }

    fn fetch_outcomes(&self, namespace: NamespaceId, outcomes: &[(DeviceId, CommitKey)]) -> Answer<()> {
        let key = |(device, key): &(DeviceId, CommitKey)| vec![bytes(device.as_bytes()), bytes(key.as_bytes())];
        let keys: Vec<Vec<Value>> = outcomes.iter().map(key).collect();
        let mut found: BTreeMap<(DeviceId, CommitKey), CommitOutcome> = BTreeMap::new();
        self.for_each_key(&keys, "(device = ? AND commit_key = ?)", " OR ", |which, keys| {
            let sql = format!("SELECT device, commit_key, outcome FROM outcomes WHERE namespace = ? AND ({which})");
            let row = |row: &Cells| Ok(((row.id(0)?, row.id(1)?), row.formatted(2)?));
            found.extend(self.all("reading outcomes", &sql, behind(namespace, keys), row)?);
            Ok(())
        })?;
        let known = outcomes.iter().map(|id| ((namespace, id.0, id.1), found.get(id).cloned()));
        self.buffer.borrow_mut().outcomes.extend(known);
        Ok(())
    }

    fn fetch_nodes(&self, namespace: NamespaceId, nodes: &[NodeId]) -> Answer<()> {
        let keys: Vec<Value> = nodes.iter().map(|node| bytes(node.as_bytes())).collect();
        let mut found: BTreeMap<NodeId, NodeRecord> = BTreeMap::new();
        self.for_keys(&keys, |marks, keys| {
            let sql = format!("SELECT {NODE_COLUMNS} FROM nodes WHERE namespace = ? AND node IN ({marks})");
            let rows = self.all("reading nodes", &sql, behind(namespace, keys), node_row)?;
            found.extend(rows.into_iter().map(|record| (record.node, record)));
            Ok(())
        })?;
        let mut buffer = self.buffer.borrow_mut();
        nodes.iter().for_each(|node| buffer.nodes.learn(namespace, *node, found.remove(node)));
        Ok(())
    }

    fn fetch_places(&self, namespace: NamespaceId, lookups: &Lookups) -> Answer<()> {
        let places = lookups.places.iter();
        let keys: Vec<Vec<Value>> =
            places.map(|(parent, key)| vec![bytes(parent.as_bytes()), bytes(key.as_str())]).collect();
        let mut found: BTreeMap<(NodeId, String), NodeId> = BTreeMap::new();
        self.for_each_key(&keys, "(parent = ? AND live = 1 AND name_key = ?)", " OR ", |which, keys| {
            let sql = format!("SELECT parent, name_key, node FROM nodes WHERE namespace = ? AND ({which})");
            let row = |row: &Cells| Ok(((row.id(0)?, row.text(1)?), row.id(2)?));
            found.extend(self.all("reading children by their names", &sql, behind(namespace, keys), row)?);
            Ok(())
        })?;
        let mut buffer = self.buffer.borrow_mut();
        for (parent, key) in &lookups.places {
            let node = found.get(&(*parent, key.as_str().to_owned())).copied();
            buffer.nodes.learn_place((namespace, *parent, key.clone()), node);
        }
        Ok(())
    }

    /// Those that exist are read when somebody asks for more than that.
    fn fetch_namespaces(&self, namespaces: &[NamespaceId]) -> Answer<()> {
        let keys: Vec<Value> = namespaces.iter().map(|namespace| bytes(namespace.as_bytes())).collect();
        let mut missing: BTreeMap<NamespaceId, _> = namespaces.iter().map(|namespace| (*namespace, None)).collect();
        self.for_keys(&keys, |marks, keys| {
            let sql = format!("SELECT namespace FROM namespaces WHERE namespace IN ({marks})");
            for namespace in self.all("looking up namespaces", &sql, keys, |row| row.id::<NamespaceId>(0))? {
                missing.remove(&namespace);
            }
            Ok(())
        })?;
        self.buffer.borrow_mut().others.extend(missing);
        Ok(())
    }
}

/// Parameters of a question about one namespace.
fn behind(namespace: NamespaceId, keys: Vec<Value>) -> Vec<Value> {
    [vec![bytes(namespace.as_bytes())], keys].concat()
}
