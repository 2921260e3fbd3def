//! [`Transaction`] in SQL.

use super::Session;
use super::row::{count, integer};
use crate::error::StoreError;
use crate::format::to_bytes;
use crate::port::{Answer, Existing, Reading, Transaction};
use crate::record::{
    Account, ChangeKind, Device, Namespace, NodeKind, NodeRecord, ServerIdentity, TokenHash, UnusedBlock, destination,
    email_key, role_number,
};
use model::{
    AccountId, BlockHash, CommitKey, CommitOutcome, DeviceId, JournalEntry, NamespaceId, NodeId, PackId, PackedBlock,
    Position, Role, Timestamp,
};
use rusqlite::params;

const INSERT_NODE: &str = "INSERT INTO nodes
        (namespace, node, parent, name, name_key, kind, content_rev, location_rev, deleted, body)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

const INSERT_ENTRY: &str = "INSERT INTO journal
        (namespace, position, batch_first, node, kind, device, time, parent, name_key, change)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

impl Transaction for Session<'_> {
    fn insert_server(&self, identity: ServerIdentity) -> Answer<()> {
        self.run(
            "the server's identity",
            "INSERT INTO server (id, instance, epoch) VALUES (1, ?1, ?2)",
            params![identity.instance.as_bytes(), integer(Position(identity.epoch.0))],
        )?;
        Ok(())
    }

    fn set_server(&self, identity: ServerIdentity) -> Answer<()> {
        self.run(
            "the server's identity",
            "INSERT INTO server (id, instance, epoch) VALUES (1, ?1, ?2)
             ON CONFLICT (id) DO UPDATE SET instance = excluded.instance, epoch = excluded.epoch",
            params![identity.instance.as_bytes(), integer(Position(identity.epoch.0))],
        )?;
        Ok(())
    }

    fn insert_account(&self, account: &Account) -> Answer<()> {
        self.run(
            "the account",
            "INSERT INTO accounts (account, email, email_key, password_hash, root, created)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                account.account.as_bytes(),
                account.email,
                email_key(&account.email),
                account.password_hash,
                account.root.as_bytes(),
                account.created.0
            ],
        )?;
        Ok(())
    }

    fn set_password_hash(&self, account: AccountId, password_hash: &str) -> Answer<()> {
        self.run(
            "the account's password",
            "UPDATE accounts SET password_hash = ?2 WHERE account = ?1",
            params![account.as_bytes(), password_hash],
        )?;
        Ok(())
    }

    fn insert_device(&self, device: &Device, token: &TokenHash) -> Answer<()> {
        self.run(
            "the device",
            "INSERT INTO devices (device, account, token, name, linked, last_seen) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                device.device.as_bytes(),
                device.account.as_bytes(),
                token,
                device.name,
                device.linked.0,
                device.last_seen.0
            ],
        )?;
        Ok(())
    }

    fn end_device(&self, device: DeviceId) -> Answer<bool> {
        let ended = self.run(
            "the device's end",
            "UPDATE devices SET token = NULL WHERE device = ?1 AND token IS NOT NULL",
            [device.as_bytes()],
        )?;
        Ok(ended > 0)
    }

    fn touch_device(&self, device: DeviceId, last_seen: Timestamp) -> Answer<()> {
        self.run(
            "the device's last visit",
            "UPDATE devices SET last_seen = ?2 WHERE device = ?1",
            params![device.as_bytes(), last_seen.0],
        )?;
        Ok(())
    }

    fn insert_namespace(&self, namespace: NamespaceId) -> Answer<()> {
        self.run(
            "the namespace",
            "INSERT INTO namespaces (namespace, head, live_nodes) VALUES (?1, 0, 0)",
            [namespace.as_bytes()],
        )?;
        Ok(())
    }

    /// SQLite has one writer, and the transaction is it.
    fn lock_namespace(&self, namespace: NamespaceId) -> Answer<Option<Namespace>> {
        self.namespace(namespace)
    }

    fn set_member(&self, namespace: NamespaceId, account: AccountId, role: Role) -> Answer<()> {
        self.run(
            "the membership",
            "INSERT INTO members (namespace, account, role) VALUES (?1, ?2, ?3)
             ON CONFLICT (namespace, account) DO UPDATE SET role = excluded.role",
            params![namespace.as_bytes(), account.as_bytes(), role_number(role)],
        )?;
        Ok(())
    }

    fn remove_member(&self, namespace: NamespaceId, account: AccountId) -> Answer<bool> {
        let removed = self.run(
            "the membership's end",
            "DELETE FROM members WHERE namespace = ?1 AND account = ?2",
            [namespace.as_bytes(), account.as_bytes()],
        )?;
        Ok(removed > 0)
    }

    /// The old rows go first, so that names can change hands under an index that is checked row by row.
    fn put_nodes(&self, namespace: NamespaceId, nodes: &[NodeRecord]) -> Answer<()> {
        let old = nodes.iter().map(|record| [namespace.as_bytes(), record.node.as_bytes()]);
        self.run_each("the node", "DELETE FROM nodes WHERE namespace = ?1 AND node = ?2", old)?;
        let columns = |record: &NodeRecord| Ok((record.name.key(), to_bytes("a body", &record.body)?));
        let columns: Vec<_> = nodes.iter().map(columns).collect::<Answer<_>>()?;
        let rows = nodes.iter().zip(&columns).map(|(record, (name_key, body))| {
            (
                namespace.as_bytes(),
                record.node.as_bytes(),
                record.parent.as_bytes(),
                record.name.as_str(),
                name_key.as_str(),
                NodeKind::of(&record.body) as i64,
                integer(record.content_rev),
                integer(record.location_rev),
                record.deleted.map(integer),
                body,
            )
        });
        self.run_each("a child with this name", INSERT_NODE, rows).map(drop)
    }

    fn kill_nodes(&self, namespace: NamespaceId, nodes: &[NodeId], position: Position) -> Answer<()> {
        let sql = "UPDATE nodes SET deleted = ?3 WHERE namespace = ?1 AND node = ?2 AND deleted IS NULL";
        let killed = nodes.iter().map(|node| (namespace.as_bytes(), node.as_bytes(), integer(position)));
        self.run_each("the node's death", sql, killed).map(drop)
    }

    fn set_live_nodes(&self, namespace: NamespaceId, live_nodes: u64) -> Answer<()> {
        self.run(
            "the count of nodes",
            "UPDATE namespaces SET live_nodes = ?2 WHERE namespace = ?1",
            params![namespace.as_bytes(), integer(Position(live_nodes))],
        )?;
        Ok(())
    }

    fn append(&self, namespace: NamespaceId, entries: &[JournalEntry]) -> Answer<()> {
        let Some(first) = entries.first() else { return Ok(()) };
        let mut head = self.namespace(namespace)?.map(|row| row.head).unwrap_or_default();
        for entry in entries {
            if entry.position != head.next() {
                return Err(StoreError::Gap { namespace, head, position: entry.position });
            }
            head = entry.position;
        }
        let place = |entry: &JournalEntry| destination(&entry.change).map(|(parent, name)| (parent, name.key()));
        let columns = |entry: &JournalEntry| Ok((place(entry), to_bytes("a change", &entry.change)?));
        let columns: Vec<_> = entries.iter().map(columns).collect::<Answer<_>>()?;
        let rows = entries.iter().zip(&columns).map(|(entry, (place, change))| {
            (
                namespace.as_bytes(),
                integer(entry.position),
                integer(first.position),
                entry.node.as_bytes(),
                ChangeKind::of(&entry.change) as i64,
                entry.device.as_ref().map(DeviceId::as_bytes),
                entry.time.0,
                place.as_ref().map(|(parent, _)| parent.as_bytes()),
                place.as_ref().map(|(_, key)| key.as_str()),
                change,
            )
        });
        self.run_each("a journal entry", INSERT_ENTRY, rows)?;
        let moved = self.run(
            "the journal's head",
            "UPDATE namespaces SET head = ?2 WHERE namespace = ?1",
            params![namespace.as_bytes(), integer(head)],
        )?;
        debug_assert_eq!(moved, 1, "the foreign key of the entries names the namespace");
        Ok(())
    }

    fn put_outcome(
        &self,
        _: NamespaceId,
        device: DeviceId,
        key: CommitKey,
        outcome: &CommitOutcome,
        time: Timestamp,
    ) -> Answer<()> {
        self.run(
            "the commit's outcome",
            "INSERT INTO outcomes (device, key, time, outcome) VALUES (?1, ?2, ?3, ?4)",
            params![device.as_bytes(), key.as_bytes(), time.0, to_bytes("an outcome", outcome)?],
        )?;
        Ok(())
    }

    fn add_named_blocks(&self, namespace: NamespaceId, blocks: &[BlockHash]) -> Answer<()> {
        let sql = "INSERT INTO namespace_blocks (hash, namespace) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        let rows = blocks.iter().map(|block| (block.as_bytes(), namespace.as_bytes()));
        self.run_each("a named block", sql, rows).map(drop)
    }

    fn add_uploaded_blocks(&self, account: AccountId, blocks: &[BlockHash], time: Timestamp) -> Answer<()> {
        let sql = "INSERT INTO uploaded_blocks (hash, account, time) VALUES (?1, ?2, ?3)
                   ON CONFLICT (hash, account) DO UPDATE SET time = max(time, excluded.time)";
        let rows = blocks.iter().map(|block| (block.as_bytes(), account.as_bytes(), time.0));
        self.run_each("an uploaded block", sql, rows).map(drop)
    }

    /// SQLite has one writer, and the transaction is it.
    fn lock_unused(&self, blocks: &[BlockHash]) -> Answer<Vec<Option<UnusedBlock>>> {
        self.unused_blocks(blocks)
    }

    fn mark_unused(&self, blocks: &[BlockHash], since: Timestamp) -> Answer<()> {
        let sql = "INSERT INTO unused_blocks (hash, since, condemned) VALUES (?1, ?2, NULL) ON CONFLICT DO NOTHING";
        for block in blocks {
            self.run("an unused block", sql, params![block.as_bytes(), since.0])?;
        }
        Ok(())
    }

    fn condemn_unused(&self, blocks: &[BlockHash], time: Timestamp) -> Answer<()> {
        let sql = "UPDATE unused_blocks SET condemned = ?2 WHERE hash = ?1";
        for block in blocks {
            self.run("a condemned block", sql, params![block.as_bytes(), time.0])?;
        }
        Ok(())
    }

    fn forget_unused(&self, blocks: &[BlockHash]) -> Answer<()> {
        for block in blocks {
            self.run("an unused block", "DELETE FROM unused_blocks WHERE hash = ?1", [block.as_bytes()])?;
        }
        Ok(())
    }

    /// SQLite has one writer, and the transaction is it.
    fn lock_pack(&self, pack: PackId) -> Answer<Option<Timestamp>> {
        let sql = "INSERT INTO packs (pack, ended) VALUES (?1, NULL) ON CONFLICT DO NOTHING";
        self.run("a pack", sql, [pack.as_bytes()])?;
        Ok(self.packs(&[pack])?.pop().flatten().and_then(|pack| pack.ended))
    }

    fn lock_packed(&self, blocks: &[BlockHash]) -> Answer<Vec<Option<PackedBlock>>> {
        self.packed_blocks(blocks)
    }

    fn put_packed(&self, blocks: &[PackedBlock], existing: Existing) -> Answer<()> {
        let sql = match existing {
            Existing::Replace => {
                "INSERT INTO packed_blocks (hash, pack, offset, length) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (hash) DO UPDATE SET pack = excluded.pack, offset = excluded.offset, length = excluded.length"
            }
            Existing::Keep => {
                "INSERT INTO packed_blocks (hash, pack, offset, length) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING"
            }
        };
        for PackedBlock { hash, pack, offset, len } in blocks {
            self.run("a packed block", sql, params![hash.as_bytes(), pack.as_bytes(), offset, len])?;
        }
        Ok(())
    }

    fn forget_packed(&self, blocks: &[BlockHash]) -> Answer<()> {
        for block in blocks {
            self.run("a packed block", "DELETE FROM packed_blocks WHERE hash = ?1", [block.as_bytes()])?;
        }
        Ok(())
    }

    fn end_pack(&self, pack: PackId, time: Timestamp) -> Answer<()> {
        let sql = "UPDATE packs SET ended = ?2 WHERE pack = ?1";
        self.run("an ended pack", sql, params![pack.as_bytes(), time.0]).map(drop)
    }

    fn forget_ended_packs(&self, before: Timestamp, limit: usize) -> Answer<usize> {
        self.run(
            "ended packs",
            "DELETE FROM packs WHERE pack IN (SELECT pack FROM packs WHERE ended < ?1 ORDER BY ended LIMIT ?2)",
            params![before.0, count(limit)],
        )
    }

    fn forget_outcomes(&self, before: Timestamp, limit: usize) -> Answer<usize> {
        self.run(
            "old outcomes",
            "DELETE FROM outcomes WHERE (device, key) IN
                (SELECT device, key FROM outcomes WHERE time < ?1 ORDER BY time LIMIT ?2)",
            params![before.0, count(limit)],
        )
    }

    fn forget_uploads(&self, before: Timestamp, limit: usize) -> Answer<usize> {
        self.run(
            "old uploads",
            "DELETE FROM uploaded_blocks WHERE (hash, account) IN
                (SELECT hash, account FROM uploaded_blocks WHERE time < ?1 ORDER BY time LIMIT ?2)",
            params![before.0, count(limit)],
        )
    }
}
