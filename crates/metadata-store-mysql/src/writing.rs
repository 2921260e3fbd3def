//! [`Transaction`] in SQL.

use crate::cells::{bytes, count, integer};
use crate::session::Session;
use metadata_store::StoreError;
use metadata_store::format::to_bytes;
use metadata_store::port::{Answer, Transaction};
use metadata_store::record::{
    Account, ChangeKind, Device, Namespace, NodeKind, NodeRecord, ServerIdentity, TokenHash, destination, email_key,
    role_number,
};
use model::{
    AccountId, BlockHash, CommitKey, CommitOutcome, DeviceId, JournalEntry, NamespaceId, NodeId, Position, Role,
    Timestamp,
};
use mysql::Value;

impl Transaction for Session<'_> {
    fn insert_server(&self, identity: ServerIdentity) -> Answer<()> {
        self.run(
            "the server's identity",
            "INSERT INTO server (id, instance, epoch) VALUES (1, ?, ?)",
            vec![bytes(identity.instance.as_bytes()), integer(Position(identity.epoch.0))],
        )?;
        Ok(())
    }

    fn set_server(&self, identity: ServerIdentity) -> Answer<()> {
        self.run(
            "the server's identity",
            "INSERT INTO server (id, instance, epoch) VALUES (1, ?, ?)
             ON DUPLICATE KEY UPDATE instance = VALUES(instance), epoch = VALUES(epoch)",
            vec![bytes(identity.instance.as_bytes()), integer(Position(identity.epoch.0))],
        )?;
        Ok(())
    }

    fn insert_account(&self, account: &Account) -> Answer<()> {
        self.run(
            "the account",
            "INSERT INTO accounts (account, email, email_key, password_hash, root, created)
             VALUES (?, ?, ?, ?, ?, ?)",
            vec![
                bytes(account.account.as_bytes()),
                bytes(&account.email),
                bytes(email_key(&account.email)),
                bytes(&account.password_hash),
                bytes(account.root.as_bytes()),
                Value::Int(account.created.0),
            ],
        )?;
        Ok(())
    }

    fn insert_device(&self, device: &Device, token: &TokenHash) -> Answer<()> {
        self.run(
            "the device",
            "INSERT INTO devices (device, account, token, name, linked, last_seen) VALUES (?, ?, ?, ?, ?, ?)",
            vec![
                bytes(device.device.as_bytes()),
                bytes(device.account.as_bytes()),
                bytes(token),
                bytes(&device.name),
                Value::Int(device.linked.0),
                Value::Int(device.last_seen.0),
            ],
        )?;
        Ok(())
    }

    fn end_device(&self, device: DeviceId) -> Answer<bool> {
        let ended = self.run(
            "the device's end",
            "UPDATE devices SET token = NULL WHERE device = ? AND token IS NOT NULL",
            vec![bytes(device.as_bytes())],
        )?;
        self.run("the device's outcomes", "DELETE FROM outcomes WHERE device = ?", vec![bytes(device.as_bytes())])?;
        Ok(ended > 0)
    }

    fn touch_device(&self, device: DeviceId, last_seen: Timestamp) -> Answer<()> {
        self.run(
            "the device's last visit",
            "UPDATE devices SET last_seen = ? WHERE device = ?",
            vec![Value::Int(last_seen.0), bytes(device.as_bytes())],
        )?;
        Ok(())
    }

    fn insert_namespace(&self, namespace: NamespaceId) -> Answer<()> {
        self.run(
            "the namespace",
            "INSERT INTO namespaces (namespace, head, live_nodes) VALUES (?, 0, 0)",
            vec![bytes(namespace.as_bytes())],
        )?;
        Ok(())
    }

    fn lock_namespace(&self, namespace: NamespaceId) -> Answer<Option<Namespace>> {
        self.one(
            "locking a namespace",
            "SELECT head, live_nodes FROM namespaces WHERE namespace = ? FOR UPDATE",
            vec![bytes(namespace.as_bytes())],
            |row| Ok(Namespace { namespace, head: row.position(0)?, live_nodes: row.unsigned(1)? }),
        )
    }

    fn set_member(&self, namespace: NamespaceId, account: AccountId, role: Role) -> Answer<()> {
        self.run(
            "the membership",
            "INSERT INTO members (namespace, account, role) VALUES (?, ?, ?)
             ON DUPLICATE KEY UPDATE role = VALUES(role)",
            vec![bytes(namespace.as_bytes()), bytes(account.as_bytes()), Value::Int(role_number(role))],
        )?;
        Ok(())
    }

    fn remove_member(&self, namespace: NamespaceId, account: AccountId) -> Answer<bool> {
        let removed = self.run(
            "the membership's end",
            "DELETE FROM members WHERE namespace = ? AND account = ?",
            vec![bytes(namespace.as_bytes()), bytes(account.as_bytes())],
        )?;
        Ok(removed > 0)
    }

    /// The old rows go first, so that names can change hands under an index that is checked row by row.
    fn put_nodes(&self, namespace: NamespaceId, nodes: &[NodeRecord]) -> Answer<()> {
        let keys: Vec<Value> = nodes.iter().map(|record| bytes(record.node.as_bytes())).collect();
        self.for_keys(&keys, |marks, keys| {
            let sql = format!("DELETE FROM nodes WHERE namespace = ? AND node IN ({marks})");
            self.run("the node", &sql, [vec![bytes(namespace.as_bytes())], keys].concat()).map(drop)
        })?;
        self.insert(
            "a child with this name",
            "nodes (namespace, node, parent, name, name_key, kind, content_rev, location_rev, deleted, live, body)",
            "",
            nodes.iter().map(|record| node_row(namespace, record)).collect::<Answer<_>>()?,
        )
    }

    fn kill_nodes(&self, namespace: NamespaceId, nodes: &[NodeId], position: Position) -> Answer<()> {
        let keys: Vec<Value> = nodes.iter().map(|node| bytes(node.as_bytes())).collect();
        self.for_keys(&keys, |marks, keys| {
            let sql = format!(
                "UPDATE nodes SET deleted = ?, live = NULL WHERE namespace = ? AND live = 1 AND node IN ({marks})"
            );
            let params = [vec![integer(position), bytes(namespace.as_bytes())], keys].concat();
            self.run("the node's death", &sql, params).map(drop)
        })
    }

    fn set_live_nodes(&self, namespace: NamespaceId, live_nodes: u64) -> Answer<()> {
        self.run(
            "the count of nodes",
            "UPDATE namespaces SET live_nodes = ? WHERE namespace = ?",
            vec![integer(Position(live_nodes)), bytes(namespace.as_bytes())],
        )?;
        Ok(())
    }

    fn append(&self, namespace: NamespaceId, entries: &[JournalEntry]) -> Answer<()> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
        // Whoever appends holds the lock; a caller that does not takes it here.
        let row = self.lock_namespace(namespace)?;
        let mut head = row.map(|row| row.head).unwrap_or_default();
        let mut rows = Vec::with_capacity(entries.len());
        for entry in entries {
            if row.is_none() || entry.position != head.next() {
                return Err(StoreError::Gap { namespace, head, position: entry.position });
            }
            rows.push(journal_row(namespace, entry, first.position)?);
            head = entry.position;
        }
        let head = "journal (namespace, position, batch_first, node, kind, device, time, parent, name_key, entry)";
        self.insert("a journal entry", head, "", rows)?;
        self.run(
            "the journal's head",
            "UPDATE namespaces SET head = ? WHERE namespace = ?",
            vec![integer(last.position), bytes(namespace.as_bytes())],
        )?;
        Ok(())
    }

    fn put_outcome(
        &self,
        namespace: NamespaceId,
        device: DeviceId,
        key: CommitKey,
        outcome: &CommitOutcome,
        time: Timestamp,
    ) -> Answer<()> {
        self.run(
            "the commit's outcome",
            "INSERT INTO outcomes (namespace, device, commit_key, time, outcome) VALUES (?, ?, ?, ?, ?)",
            vec![
                bytes(namespace.as_bytes()),
                bytes(device.as_bytes()),
                bytes(key.as_bytes()),
                Value::Int(time.0),
                Value::Bytes(to_bytes("an outcome", outcome)?),
            ],
        )?;
        Ok(())
    }

    fn add_named_blocks(&self, namespace: NamespaceId, blocks: &[BlockHash]) -> Answer<()> {
        let row = |block: &BlockHash| vec![bytes(namespace.as_bytes()), bytes(block.as_bytes())];
        self.insert(
            "a named block",
            "namespace_blocks (namespace, hash)",
            "ON DUPLICATE KEY UPDATE hash = hash",
            blocks.iter().map(row).collect(),
        )
    }

    fn add_uploaded_blocks(&self, account: AccountId, blocks: &[BlockHash], time: Timestamp) -> Answer<()> {
        let row = |block: &BlockHash| vec![bytes(account.as_bytes()), bytes(block.as_bytes()), Value::Int(time.0)];
        self.insert(
            "an uploaded block",
            "uploaded_blocks (account, hash, time)",
            "ON DUPLICATE KEY UPDATE time = GREATEST(time, VALUES(time))",
            blocks.iter().map(row).collect(),
        )
    }

    fn forget_outcomes(&self, before: Timestamp, limit: usize) -> Answer<usize> {
        let sql = "DELETE FROM outcomes WHERE time < ? ORDER BY time LIMIT ?";
        let forgotten = self.run("old outcomes", sql, vec![Value::Int(before.0), count(limit)])?;
        Ok(usize::try_from(forgotten).unwrap_or(usize::MAX))
    }

    fn forget_uploads(&self, before: Timestamp, limit: usize) -> Answer<usize> {
        let sql = "DELETE FROM uploaded_blocks WHERE time < ? ORDER BY time LIMIT ?";
        let forgotten = self.run("old uploads", sql, vec![Value::Int(before.0), count(limit)])?;
        Ok(usize::try_from(forgotten).unwrap_or(usize::MAX))
    }
}

fn node_row(namespace: NamespaceId, record: &NodeRecord) -> Answer<Vec<Value>> {
    Ok(vec![
        bytes(namespace.as_bytes()),
        bytes(record.node.as_bytes()),
        bytes(record.parent.as_bytes()),
        bytes(record.name.as_str()),
        bytes(record.name.key().as_str()),
        Value::Int(NodeKind::of(&record.body) as i64),
        integer(record.content_rev),
        integer(record.location_rev),
        record.deleted.map_or(Value::NULL, integer),
        if record.is_live() { Value::Int(1) } else { Value::NULL },
        Value::Bytes(to_bytes("a body", &record.body)?),
    ])
}

fn journal_row(namespace: NamespaceId, entry: &JournalEntry, batch_first: Position) -> Answer<Vec<Value>> {
    let place = destination(&entry.change);
    Ok(vec![
        bytes(namespace.as_bytes()),
        integer(entry.position),
        integer(batch_first),
        bytes(entry.node.as_bytes()),
        Value::Int(ChangeKind::of(&entry.change) as i64),
        entry.device.map_or(Value::NULL, |device| bytes(device.as_bytes())),
        Value::Int(entry.time.0),
        place.map_or(Value::NULL, |(parent, _)| bytes(parent.as_bytes())),
        place.map_or(Value::NULL, |(_, name)| bytes(name.key().as_str())),
        Value::Bytes(to_bytes("a change", &entry.change)?),
    ])
}
