//! [`Reading`] in SQL.

use super::row::{count, formatted, id, integer, name, optional_id, ordinal, position, unsigned};
use super::{Session, failed};
use crate::port::{Answer, PackRecord, Reading};
use crate::record::{
    Account, Arrival, ChangeKind, Child, Device, JournalBrief, JournalRecord, Namespace, NodeKind, NodeRecord,
    PageLimit, ServerIdentity, TokenHash, UnusedBlock, blocks_of, destination, email_key, role_from_number,
};
use model::{
    AccountId, BlockHash, Change, CommitKey, CommitOutcome, DeviceId, Epoch, JournalEntry, Name, NameKey, NamespaceId,
    NodeId, PackId, PackedBlock, Position, Role, Timestamp,
};
use rusqlite::{Params, Row, params};
use std::ops::RangeInclusive;

impl Reading for Session<'_> {
    fn server(&self) -> Answer<Option<ServerIdentity>> {
        self.one("reading the server's identity", "SELECT instance, epoch FROM server", [], |row| {
            Ok(ServerIdentity { instance: id(row, 0)?, epoch: Epoch(unsigned(row, 1)?) })
        })
    }

    fn account(&self, account: AccountId) -> Answer<Option<Account>> {
        self.one(
            "reading an account",
            "SELECT account, email, password_hash, root, created FROM accounts WHERE account = ?1",
            [account.as_bytes()],
            account_row,
        )
    }

    fn account_by_email(&self, email: &str) -> Answer<Option<Account>> {
        self.one(
            "reading an account by its e-mail",
            "SELECT account, email, password_hash, root, created FROM accounts WHERE email_key = ?1",
            [email_key(email)],
            account_row,
        )
    }

    fn accounts(&self) -> Answer<Vec<Account>> {
        self.all(
            "listing accounts",
            "SELECT account, email, password_hash, root, created FROM accounts ORDER BY email_key",
            [],
            account_row,
        )
    }

    fn device(&self, device: DeviceId) -> Answer<Option<Device>> {
        self.one(
            "reading a device",
            "SELECT device, account, name, linked, last_seen, token IS NOT NULL FROM devices WHERE device = ?1",
            [device.as_bytes()],
            device_row,
        )
    }

    fn device_by_token(&self, token: &TokenHash) -> Answer<Option<Device>> {
        self.one(
            "reading a device by its token",
            "SELECT device, account, name, linked, last_seen, 1 FROM devices WHERE token = ?1",
            [token],
            device_row,
        )
    }

    fn devices(&self, account: AccountId) -> Answer<Vec<Device>> {
        self.all(
            "listing devices",
            "SELECT device, account, name, linked, last_seen, 1 FROM devices
             WHERE account = ?1 AND token IS NOT NULL ORDER BY linked, device",
            [account.as_bytes()],
            device_row,
        )
    }

    fn namespace(&self, namespace: NamespaceId) -> Answer<Option<Namespace>> {
        self.one(
            "reading a namespace",
            "SELECT head, live_nodes FROM namespaces WHERE namespace = ?1",
            [namespace.as_bytes()],
            |row| Ok(Namespace { namespace, head: position(row, 0)?, live_nodes: unsigned(row, 1)? }),
        )
    }

    fn role(&self, namespace: NamespaceId, account: AccountId) -> Answer<Option<Role>> {
        self.one(
            "reading a role",
            "SELECT role FROM members WHERE namespace = ?1 AND account = ?2",
            [namespace.as_bytes(), account.as_bytes()],
            |row| ordinal(row, 0, role_from_number),
        )
    }

    fn memberships(&self, account: AccountId) -> Answer<Vec<(NamespaceId, Role)>> {
        self.all(
            "listing memberships",
            "SELECT namespace, role FROM members WHERE account = ?1 ORDER BY namespace",
            [account.as_bytes()],
            |row| Ok((id(row, 0)?, ordinal(row, 1, role_from_number)?)),
        )
    }

    fn members(&self, namespace: NamespaceId) -> Answer<Vec<(AccountId, Role)>> {
        self.all(
            "listing members",
            "SELECT account, role FROM members WHERE namespace = ?1 ORDER BY account",
            [namespace.as_bytes()],
            |row| Ok((id(row, 0)?, ordinal(row, 1, role_from_number)?)),
        )
    }

    fn node(&self, namespace: NamespaceId, node: NodeId) -> Answer<Option<NodeRecord>> {
        self.one(
            "reading a node",
            "SELECT node, parent, name, content_rev, location_rev, deleted, body FROM nodes
             WHERE namespace = ?1 AND node = ?2",
            [namespace.as_bytes(), node.as_bytes()],
            node_row,
        )
    }

    fn is_elsewhere(&self, namespace: NamespaceId, node: NodeId) -> Answer<bool> {
        let found = self.one(
            "looking for a node in other namespaces",
            "SELECT 1 FROM nodes INDEXED BY nodes_by_id WHERE node = ?1 AND namespace <> ?2 LIMIT 1",
            [node.as_bytes(), namespace.as_bytes()],
            |_| Ok(()),
        )?;
        Ok(found.is_some())
    }

    fn child(&self, namespace: NamespaceId, parent: NodeId, key: &NameKey) -> Answer<Option<NodeId>> {
        self.one(
            "reading a child by its name",
            "SELECT node FROM nodes WHERE namespace = ?1 AND parent = ?2 AND name_key = ?3 AND deleted IS NULL",
            params![namespace.as_bytes(), parent.as_bytes(), key.as_str()],
            |row| id(row, 0),
        )
    }

    fn children(&self, namespace: NamespaceId, parent: NodeId) -> Answer<Vec<Child>> {
        self.all(
            "listing children",
            "SELECT node, kind, length(CAST(name AS BLOB)), max(content_rev, location_rev) FROM nodes
             WHERE namespace = ?1 AND parent = ?2 AND deleted IS NULL ORDER BY name_key",
            [namespace.as_bytes(), parent.as_bytes()],
            child_row,
        )
    }

    fn child_directories(&self, namespace: NamespaceId, parent: NodeId) -> Answer<Vec<Child>> {
        self.all(
            "listing directories",
            "SELECT node, kind, length(CAST(name AS BLOB)), max(content_rev, location_rev)
             FROM nodes INDEXED BY live_directories
             WHERE namespace = ?1 AND parent = ?2 AND deleted IS NULL AND kind = 0 ORDER BY node",
            [namespace.as_bytes(), parent.as_bytes()],
            child_row,
        )
    }

    fn fallen_children(
        &self,
        namespace: NamespaceId,
        parent: NodeId,
        when: RangeInclusive<Position>,
    ) -> Answer<Vec<NodeId>> {
        self.all(
            "listing dead children",
            "SELECT node FROM nodes WHERE namespace = ?1 AND parent = ?2 AND deleted BETWEEN ?3 AND ?4 ORDER BY node",
            params![namespace.as_bytes(), parent.as_bytes(), integer(*when.start()), integer(*when.end())],
            |row| id(row, 0),
        )
    }

    fn journal(&self, namespace: NamespaceId, after: Position, limit: PageLimit) -> Answer<Vec<JournalRecord>> {
        self.page(
            limit,
            "reading the journal",
            "SELECT position, batch_first, node, device, time, change FROM journal
             WHERE namespace = ?1 AND position > ?2 ORDER BY position",
            params![namespace.as_bytes(), integer(after)],
        )
    }

    fn journal_backwards(&self, namespace: NamespaceId, before: Position, limit: usize) -> Answer<Vec<JournalBrief>> {
        self.all(
            "reading the journal backwards",
            "SELECT position, batch_first, node, kind, device, time FROM journal
             WHERE namespace = ?1 AND position < ?2 ORDER BY position DESC LIMIT ?3",
            params![namespace.as_bytes(), integer(before), count(limit)],
            |row| {
                Ok(JournalBrief {
                    position: position(row, 0)?,
                    batch_first: position(row, 1)?,
                    node: id(row, 2)?,
                    kind: ordinal(row, 3, ChangeKind::from_number)?,
                    device: optional_id(row, 4)?,
                    time: Timestamp(row.get(5)?),
                })
            },
        )
    }

    fn revisions(
        &self,
        namespace: NamespaceId,
        node: NodeId,
        until: Position,
        limit: PageLimit,
    ) -> Answer<Vec<JournalRecord>> {
        self.page(
            limit,
            "reading a node's revisions",
            "SELECT position, batch_first, node, device, time, change FROM journal
             WHERE namespace = ?1 AND node = ?2 AND position <= ?3 AND kind IN (0, 1) ORDER BY position DESC",
            params![namespace.as_bytes(), node.as_bytes(), integer(until)],
        )
    }

    fn location(&self, namespace: NamespaceId, node: NodeId, at: Position) -> Answer<Option<(NodeId, Name)>> {
        let change = self.one(
            "reading where a node was",
            "SELECT change FROM journal WHERE namespace = ?1 AND node = ?2 AND position <= ?3 AND kind IN (0, 2)
             ORDER BY position DESC LIMIT 1",
            params![namespace.as_bytes(), node.as_bytes(), integer(at)],
            |row| formatted::<Change>(row, 0),
        )?;
        Ok(change.as_ref().and_then(destination).map(|(parent, name)| (parent, name.clone())))
    }

    fn arrivals(&self, namespace: NamespaceId, parent: NodeId, key: &NameKey, limit: usize) -> Answer<Vec<Arrival>> {
        self.all(
            "reading who was at a place",
            "SELECT node, position FROM journal WHERE namespace = ?1 AND parent = ?2 AND name_key = ?3
             ORDER BY position DESC LIMIT ?4",
            params![namespace.as_bytes(), parent.as_bytes(), key.as_str(), count(limit)],
            |row| Ok(Arrival { node: id(row, 0)?, position: position(row, 1)? }),
        )
    }

    fn departure(&self, namespace: NamespaceId, node: NodeId, after: Position) -> Answer<Option<Position>> {
        self.one(
            "reading when a node left",
            "SELECT position FROM journal WHERE namespace = ?1 AND node = ?2 AND position > ?3 AND kind IN (2, 3)
             ORDER BY position LIMIT 1",
            params![namespace.as_bytes(), node.as_bytes(), integer(after)],
            |row| position(row, 0),
        )
    }

    /// One file holds all namespaces, so device and key find it.
    fn outcome(&self, _: NamespaceId, device: DeviceId, key: CommitKey) -> Answer<Option<CommitOutcome>> {
        self.one(
            "reading a commit's outcome",
            "SELECT outcome FROM outcomes WHERE device = ?1 AND key = ?2",
            [device.as_bytes(), key.as_bytes()],
            |row| formatted(row, 0),
        )
    }

    fn names_blocks(&self, namespace: NamespaceId, blocks: &[BlockHash]) -> Answer<Vec<bool>> {
        let sql = "SELECT 1 FROM namespace_blocks WHERE hash = ?1 AND namespace = ?2";
        let asked = blocks.iter().map(|block| (block.as_bytes(), namespace.as_bytes()));
        self.exist("looking up a block", sql, asked)
    }

    fn uploaded_blocks(&self, account: AccountId, blocks: &[BlockHash], since: Timestamp) -> Answer<Vec<bool>> {
        let sql = "SELECT 1 FROM uploaded_blocks WHERE hash = ?1 AND account = ?2 AND time >= ?3";
        let asked = blocks.iter().map(|block| (block.as_bytes(), account.as_bytes(), since.0));
        self.exist("looking up an upload", sql, asked)
    }

    fn blocks_in_use(&self, blocks: &[BlockHash]) -> Answer<Vec<bool>> {
        let sql = "SELECT 1 FROM namespace_blocks WHERE hash = ?1
                   UNION ALL SELECT 1 FROM uploaded_blocks WHERE hash = ?1 LIMIT 1";
        self.exist("looking up a block", sql, blocks.iter().map(|block| [block.as_bytes()]))
    }

    fn all_named_blocks(&self, after: Option<BlockHash>, limit: usize) -> Answer<Vec<BlockHash>> {
        let after = after.as_ref().map_or(&[][..], |hash| hash.as_bytes());
        self.all(
            "listing blocks",
            "SELECT DISTINCT hash FROM namespace_blocks WHERE hash > ?1 ORDER BY hash LIMIT ?2",
            params![after, count(limit)],
            |row| id(row, 0),
        )
    }

    fn unused_blocks(&self, blocks: &[BlockHash]) -> Answer<Vec<Option<UnusedBlock>>> {
        let sql = "SELECT hash, since, condemned FROM unused_blocks WHERE hash = ?1";
        blocks.iter().map(|block| self.one("looking up an unused block", sql, [block.as_bytes()], unused_row)).collect()
    }

    fn unused_since(&self, before: Timestamp, limit: usize) -> Answer<Vec<UnusedBlock>> {
        self.all(
            "listing unused blocks",
            "SELECT hash, since, condemned FROM unused_blocks WHERE since < ?1 ORDER BY since, hash LIMIT ?2",
            params![before.0, count(limit)],
            unused_row,
        )
    }

    fn packed_blocks(&self, blocks: &[BlockHash]) -> Answer<Vec<Option<PackedBlock>>> {
        let sql = "SELECT hash, pack, offset, length FROM packed_blocks WHERE hash = ?1";
        blocks.iter().map(|block| self.one("looking up a packed block", sql, [block.as_bytes()], packed_row)).collect()
    }

    fn all_packed_blocks(&self, after: Option<BlockHash>, limit: usize) -> Answer<Vec<BlockHash>> {
        self.all(
            "listing packed blocks",
            "SELECT hash FROM packed_blocks WHERE hash > ?1 ORDER BY hash LIMIT ?2",
            params![after.as_ref().map_or(&[][..], |hash| hash.as_bytes()), count(limit)],
            |row| id(row, 0),
        )
    }

    fn blocks_in_pack(&self, pack: PackId) -> Answer<Vec<PackedBlock>> {
        self.all(
            "listing the blocks of a pack",
            "SELECT hash, pack, offset, length FROM packed_blocks WHERE pack = ?1 ORDER BY offset",
            [pack.as_bytes()],
            packed_row,
        )
    }

    fn packs(&self, packs: &[PackId]) -> Answer<Vec<Option<PackRecord>>> {
        let sql = "SELECT p.ended, COUNT(b.hash), COALESCE(SUM(b.length), 0)
                   FROM packs p LEFT JOIN packed_blocks b ON b.pack = p.pack WHERE p.pack = ?1 GROUP BY p.pack";
        packs.iter().map(|pack| self.one("looking up a pack", sql, [pack.as_bytes()], pack_row)).collect()
    }
}

impl Session<'_> {
    /// Entries until a limit is reached; rows behind it are neither read nor decoded.
    fn page(
        &self,
        limit: PageLimit,
        subject: &'static str,
        sql: &str,
        params: impl Params,
    ) -> Answer<Vec<JournalRecord>> {
        let fail = |error| failed(subject, error);
        let mut statement = self.connection.prepare_cached(sql).map_err(fail)?;
        let mut rows = statement.query(params).map_err(fail)?;
        let mut page = Vec::new();
        let mut blocks = 0;
        while page.len() < limit.entries {
            let Some(row) = rows.next().map_err(fail)? else { break };
            let record = journal_row(row).map_err(fail)?;
            blocks += blocks_of(&record.entry.change);
            if blocks > limit.blocks && !page.is_empty() {
                break;
            }
            page.push(record);
        }
        Ok(page)
    }
}

fn account_row(row: &Row<'_>) -> rusqlite::Result<Account> {
    Ok(Account {
        account: id(row, 0)?,
        email: row.get(1)?,
        password_hash: row.get(2)?,
        root: id(row, 3)?,
        created: Timestamp(row.get(4)?),
    })
}

fn device_row(row: &Row<'_>) -> rusqlite::Result<Device> {
    Ok(Device {
        device: id(row, 0)?,
        account: id(row, 1)?,
        name: row.get(2)?,
        linked: Timestamp(row.get(3)?),
        last_seen: Timestamp(row.get(4)?),
        active: row.get(5)?,
    })
}

fn node_row(row: &Row<'_>) -> rusqlite::Result<NodeRecord> {
    Ok(NodeRecord {
        node: id(row, 0)?,
        parent: id(row, 1)?,
        name: name(row, 2)?,
        content_rev: position(row, 3)?,
        location_rev: position(row, 4)?,
        deleted: row.get::<_, Option<i64>>(5)?.map(|_| position(row, 5)).transpose()?,
        body: formatted(row, 6)?,
    })
}

fn child_row(row: &Row<'_>) -> rusqlite::Result<Child> {
    Ok(Child {
        node: id(row, 0)?,
        kind: ordinal(row, 1, NodeKind::from_number)?,
        name_bytes: usize::try_from(unsigned(row, 2)?).unwrap_or(usize::MAX),
        changed: position(row, 3)?,
    })
}

fn unused_row(row: &Row<'_>) -> rusqlite::Result<UnusedBlock> {
    let condemned = row.get::<_, Option<i64>>(2)?.map(Timestamp);
    Ok(UnusedBlock { hash: id(row, 0)?, since: Timestamp(row.get(1)?), condemned })
}

fn packed_row(row: &Row<'_>) -> rusqlite::Result<PackedBlock> {
    Ok(PackedBlock { hash: id(row, 0)?, pack: id(row, 1)?, offset: row.get(2)?, len: row.get(3)? })
}

fn pack_row(row: &Row<'_>) -> rusqlite::Result<PackRecord> {
    Ok(PackRecord {
        ended: row.get::<_, Option<i64>>(0)?.map(Timestamp),
        blocks: unsigned(row, 1)?,
        bytes: unsigned(row, 2)?,
    })
}

fn journal_row(row: &Row<'_>) -> rusqlite::Result<JournalRecord> {
    let entry = JournalEntry {
        position: position(row, 0)?,
        node: id(row, 2)?,
        device: optional_id(row, 3)?,
        time: Timestamp(row.get(4)?),
        change: formatted(row, 5)?,
    };
    Ok(JournalRecord { entry, batch_first: position(row, 1)? })
}
