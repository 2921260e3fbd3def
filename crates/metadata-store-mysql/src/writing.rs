//! [`Transaction`] in SQL.

use crate::buffer::Held;
use crate::cells::{bytes, count, integer};
use crate::reading::namespace_row;
use crate::session::Session;
use metadata_store::StoreError;
use metadata_store::format::to_bytes;
use metadata_store::port::{Answer, Existing, Lookups, Transaction};
use metadata_store::record::{
    Account, ChangeKind, Device, Namespace, NodeKind, NodeRecord, ServerIdentity, TokenHash, UnusedBlock, destination,
    email_key, role_number,
};
use model::{
    AccountId, BlockHash, CommitKey, CommitOutcome, DeviceId, JournalEntry, NamespaceId, NodeId, PackId, PackedBlock,
    Position, Role, Timestamp,
};
use mysql::Value;

impl Transaction for Session<'_> {
    fn insert_server(&self, identity: ServerIdentity) -> Answer<()> {
        self.run(
            "the server's identity",
            "INSERT INTO server (id, instance, epoch) VALUES (1, ?, ?)",
            vec![bytes(identity.instance.as_bytes()), integer(Position(identity.epoch.0))],
        )?;
        self.buffer.borrow_mut().server = None;
        Ok(())
    }

    fn set_server(&self, identity: ServerIdentity) -> Answer<()> {
        self.run(
            "the server's identity",
            "INSERT INTO server (id, instance, epoch) VALUES (1, ?, ?)
             ON DUPLICATE KEY UPDATE instance = VALUES(instance), epoch = VALUES(epoch)",
            vec![bytes(identity.instance.as_bytes()), integer(Position(identity.epoch.0))],
        )?;
        self.buffer.borrow_mut().server = None;
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

    fn set_password_hash(&self, account: AccountId, password_hash: &str) -> Answer<()> {
        self.run(
            "the account's password",
            "UPDATE accounts SET password_hash = ? WHERE account = ?",
            vec![bytes(password_hash), bytes(account.as_bytes())],
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
        self.buffer.borrow_mut().devices.remove(&device.device);
        Ok(())
    }

    fn end_device(&self, device: DeviceId) -> Answer<bool> {
        self.flush()?;
        let ended = self.run(
            "the device's end",
            "UPDATE devices SET token = NULL WHERE device = ? AND token IS NOT NULL",
            vec![bytes(device.as_bytes())],
        )?;
        self.buffer.borrow_mut().devices.remove(&device);
        Ok(ended > 0)
    }

    fn touch_device(&self, device: DeviceId, last_seen: Timestamp) -> Answer<()> {
        self.run(
            "the device's last visit",
            "UPDATE devices SET last_seen = ? WHERE device = ?",
            vec![Value::Int(last_seen.0), bytes(device.as_bytes())],
        )?;
        self.buffer.borrow_mut().devices.remove(&device);
        Ok(())
    }

    fn insert_namespace(&self, namespace: NamespaceId) -> Answer<()> {
        self.run(
            "the namespace",
            "INSERT INTO namespaces (namespace, head, live_nodes) VALUES (?, 0, 0)",
            vec![bytes(namespace.as_bytes())],
        )?;
        self.hold(Namespace { namespace, head: Position::START, live_nodes: 0 });
        Ok(())
    }

    fn lock_namespace(&self, namespace: NamespaceId) -> Answer<Option<Namespace>> {
        if let Some(held) = self.buffer.borrow().held.get(&namespace) {
            return Ok(Some(held.row));
        }
        let row = self.one(
            "locking a namespace",
            "SELECT head, live_nodes FROM namespaces WHERE namespace = ? FOR UPDATE",
            vec![bytes(namespace.as_bytes())],
            |row| namespace_row(namespace, row),
        )?;
        row.into_iter().for_each(|row| self.hold(row));
        Ok(row)
    }

    fn set_member(&self, namespace: NamespaceId, account: AccountId, role: Role) -> Answer<()> {
        self.run(
            "the membership",
            "INSERT INTO members (namespace, account, role) VALUES (?, ?, ?)
             ON DUPLICATE KEY UPDATE role = VALUES(role)",
            vec![bytes(namespace.as_bytes()), bytes(account.as_bytes()), Value::Int(role_number(role))],
        )?;
        self.buffer.borrow_mut().roles.remove(&(namespace, account));
        Ok(())
    }

    fn remove_member(&self, namespace: NamespaceId, account: AccountId) -> Answer<bool> {
        let removed = self.run(
            "the membership's end",
            "DELETE FROM members WHERE namespace = ? AND account = ?",
            vec![bytes(namespace.as_bytes()), bytes(account.as_bytes())],
        )?;
        self.buffer.borrow_mut().roles.remove(&(namespace, account));
        Ok(removed > 0)
    }

    fn put_nodes(&self, namespace: NamespaceId, nodes: &[NodeRecord]) -> Answer<()> {
        let mut buffer = self.buffer.borrow_mut();
        nodes.iter().for_each(|record| buffer.nodes.put(namespace, record));
        Ok(())
    }

    /// Those that are known die here; of the others the database finds out which of them live.
    fn kill_nodes(&self, namespace: NamespaceId, nodes: &[NodeId], position: Position) -> Answer<()> {
        let known: Option<Vec<NodeRecord>> = {
            let buffer = self.buffer.borrow();
            nodes.iter().map(|node| buffer.nodes.get(namespace, *node)?.clone()).collect()
        };
        if let Some(known) = known {
            let died = |record: NodeRecord| NodeRecord { deleted: Some(position), ..record };
            let dead: Vec<NodeRecord> = known.into_iter().filter(NodeRecord::is_live).map(died).collect();
            return self.put_nodes(namespace, &dead);
        }
        self.flush_nodes()?;
        let keys: Vec<Value> = nodes.iter().map(|node| bytes(node.as_bytes())).collect();
        self.for_keys(&keys, |marks, keys| {
            let sql = format!(
                "UPDATE nodes SET deleted = ?, live = NULL WHERE namespace = ? AND live = 1 AND node IN ({marks})"
            );
            let params = [vec![integer(position), bytes(namespace.as_bytes())], keys].concat();
            self.run("the node's death", &sql, params).map(drop)
        })?;
        self.buffer.borrow_mut().nodes.forget(namespace, nodes);
        Ok(())
    }

    fn set_live_nodes(&self, namespace: NamespaceId, live_nodes: u64) -> Answer<()> {
        if let Some(row) = self.lock_namespace(namespace)? {
            self.change(Namespace { live_nodes, ..row });
        }
        Ok(())
    }

    fn append(&self, namespace: NamespaceId, entries: &[JournalEntry]) -> Answer<()> {
        let Some(first) = entries.first() else { return Ok(()) };
        // Whoever appends holds the lock; a caller that does not takes it here.
        let Some(row) = self.lock_namespace(namespace)? else {
            return Err(StoreError::Gap { namespace, head: Position::START, position: first.position });
        };
        let mut head = row.head;
        let mut rows = Vec::with_capacity(entries.len());
        for entry in entries {
            if entry.position != head.next() {
                return Err(StoreError::Gap { namespace, head, position: entry.position });
            }
            rows.push(journal_row(namespace, entry, first.position)?);
            head = entry.position;
        }
        self.buffer.borrow_mut().journal.extend(rows);
        self.change(Namespace { head, ..row });
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
        let row = vec![
            bytes(namespace.as_bytes()),
            bytes(device.as_bytes()),
            bytes(key.as_bytes()),
            Value::Int(time.0),
            Value::Bytes(to_bytes("an outcome", outcome)?),
        ];
        let mut buffer = self.buffer.borrow_mut();
        buffer.new_outcomes.push(row);
        buffer.outcomes.insert((namespace, device, key), Some(outcome.clone()));
        Ok(())
    }

    fn add_named_blocks(&self, namespace: NamespaceId, blocks: &[BlockHash]) -> Answer<()> {
        self.buffer.borrow_mut().named.extend(blocks.iter().map(|block| (namespace, *block)));
        Ok(())
    }

    fn add_uploaded_blocks(&self, account: AccountId, blocks: &[BlockHash], time: Timestamp) -> Answer<()> {
        let mut buffer = self.buffer.borrow_mut();
        for block in blocks {
            let known = buffer.uploaded.entry((account, *block)).or_insert(time);
            *known = time.max(*known);
        }
        Ok(())
    }

    fn prefetch(&self, lookups: &Lookups) -> Answer<()> {
        self.fetch(lookups)
    }

    fn lock_unused(&self, blocks: &[BlockHash]) -> Answer<Vec<Option<UnusedBlock>>> {
        self.unused(blocks, "FOR UPDATE")
    }

    fn mark_unused(&self, blocks: &[BlockHash], since: Timestamp) -> Answer<()> {
        let row = |block: &BlockHash| vec![bytes(block.as_bytes()), Value::Int(since.0)];
        let tail = "ON DUPLICATE KEY UPDATE hash = hash";
        self.insert("an unused block", "unused_blocks (hash, since)", tail, blocks.iter().map(row).collect())
    }

    fn condemn_unused(&self, blocks: &[BlockHash], time: Timestamp) -> Answer<()> {
        let keys: Vec<Value> = blocks.iter().map(|block| bytes(block.as_bytes())).collect();
        self.for_keys(&keys, |marks, keys| {
            let sql = format!("UPDATE unused_blocks SET condemned = ? WHERE hash IN ({marks})");
            self.run("a condemned block", &sql, [vec![Value::Int(time.0)], keys].concat()).map(drop)
        })
    }

    fn forget_unused(&self, blocks: &[BlockHash]) -> Answer<()> {
        let keys: Vec<Value> = blocks.iter().map(|block| bytes(block.as_bytes())).collect();
        self.for_keys(&keys, |marks, keys| {
            let sql = format!("DELETE FROM unused_blocks WHERE hash IN ({marks})");
            self.run("an unused block", &sql, keys).map(drop)
        })
    }

    fn lock_pack(&self, pack: PackId) -> Answer<Option<Timestamp>> {
        let key = || vec![bytes(pack.as_bytes())];
        self.run("a pack", "INSERT INTO packs (pack) VALUES (?) ON DUPLICATE KEY UPDATE pack = pack", key())?;
        let sql = "SELECT ended FROM packs WHERE pack = ? FOR UPDATE";
        Ok(self.one("locking a pack", sql, key(), |row| row.optional_integer(0))?.flatten().map(Timestamp))
    }

    fn lock_packed(&self, blocks: &[BlockHash]) -> Answer<Vec<Option<PackedBlock>>> {
        self.packed(blocks, "FOR UPDATE")
    }

    fn put_packed(&self, blocks: &[PackedBlock], existing: Existing) -> Answer<()> {
        let row = |block: &PackedBlock| {
            let (offset, len) = (Value::Int(block.offset.into()), Value::Int(block.len.into()));
            vec![bytes(block.hash.as_bytes()), bytes(block.pack.as_bytes()), offset, len]
        };
        let tail = match existing {
            Existing::Replace => {
                "ON DUPLICATE KEY UPDATE pack = VALUES(pack), `offset` = VALUES(`offset`), length = VALUES(length)"
            }
            Existing::Keep => "ON DUPLICATE KEY UPDATE hash = hash",
        };
        let head = "packed_blocks (hash, pack, `offset`, length)";
        self.insert("a packed block", head, tail, blocks.iter().map(row).collect())
    }

    fn forget_packed(&self, blocks: &[BlockHash]) -> Answer<()> {
        let keys: Vec<Value> = blocks.iter().map(|block| bytes(block.as_bytes())).collect();
        self.for_keys(&keys, |marks, keys| {
            let sql = format!("DELETE FROM packed_blocks WHERE hash IN ({marks})");
            self.run("a packed block", &sql, keys).map(drop)
        })
    }

    fn end_pack(&self, pack: PackId, time: Timestamp) -> Answer<()> {
        let sql = "UPDATE packs SET ended = ? WHERE pack = ?";
        self.run("an ended pack", sql, vec![Value::Int(time.0), bytes(pack.as_bytes())]).map(drop)
    }

    fn forget_ended_packs(&self, before: Timestamp, limit: usize) -> Answer<usize> {
        self.flush()?;
        let sql = "DELETE FROM packs WHERE ended < ? ORDER BY ended LIMIT ?";
        let forgotten = self.run("ended packs", sql, vec![Value::Int(before.0), count(limit)])?;
        Ok(usize::try_from(forgotten).unwrap_or(usize::MAX))
    }

    fn forget_outcomes(&self, before: Timestamp, limit: usize) -> Answer<usize> {
        self.flush()?;
        self.buffer.borrow_mut().outcomes.clear();
        let sql = "DELETE FROM outcomes WHERE time < ? ORDER BY time LIMIT ?";
        let forgotten = self.run("old outcomes", sql, vec![Value::Int(before.0), count(limit)])?;
        Ok(usize::try_from(forgotten).unwrap_or(usize::MAX))
    }

    fn forget_uploads(&self, before: Timestamp, limit: usize) -> Answer<usize> {
        self.flush()?;
        let sql = "DELETE FROM uploaded_blocks WHERE time < ? ORDER BY time LIMIT ?";
        let forgotten = self.run("old uploads", sql, vec![Value::Int(before.0), count(limit)])?;
        Ok(usize::try_from(forgotten).unwrap_or(usize::MAX))
    }
}

impl Session<'_> {
    /// Remembers that this transaction holds a namespace's row.
    pub(crate) fn hold(&self, row: Namespace) {
        self.buffer.borrow_mut().held.insert(row.namespace, Held { row, changed: false });
    }

    /// Changes a held row; it is sent at the end.
    fn change(&self, row: Namespace) {
        self.buffer.borrow_mut().held.insert(row.namespace, Held { row, changed: true });
    }
}

pub(crate) fn node_row(namespace: NamespaceId, record: &NodeRecord) -> Answer<Vec<Value>> {
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
