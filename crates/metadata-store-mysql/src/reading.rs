//! [`Reading`] in SQL.

use crate::buffer::Holder;
use crate::cells::{Cells, bytes, count, integer};
use crate::session::Session;
use metadata_store::StoreError;
use metadata_store::port::{Answer, PackRecord, Reading};
use metadata_store::record::{
    Account, Arrival, ChangeKind, Child, Device, JournalBrief, JournalRecord, Namespace, NodeKind, NodeRecord,
    PageLimit, ServerIdentity, TokenHash, UnusedBlock, blocks_of, destination, email_key, role_from_number,
};
use model::{
    AccountId, BlockHash, Change, CommitKey, CommitOutcome, DeviceId, Epoch, JournalEntry, Name, NameKey, NamespaceId,
    NodeId, PackId, PackedBlock, Position, Role, Timestamp,
};
use mysql::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// What [`device_row`] reads.
pub(crate) const DEVICE_COLUMNS: &str = "device, account, name, linked, last_seen, token IS NOT NULL";
/// What [`node_row`] reads, and then the body.
pub(crate) const NODE_COLUMNS_BUT_BODY: &str = "node, parent, name, content_rev, location_rev, deleted";
/// Where the body stands in that.
pub(crate) const NODE_BODY: usize = 6;
/// Journal entries that one statement fetches at most.
const PAGE_STEP: usize = 256;
/// Bytes of a body that comes with others. A longer one, which names hundreds of blocks, is fetched by itself when its turn
/// comes: 256 of those that name the most would be two gigabytes, of which a page wants the first.
pub(crate) const SHORT_BODY: usize = 16 * 1024;
/// Blocks of a body about as long.
const SHORT_LIST: usize = SHORT_BODY / size_of::<BlockHash>();

/// What [`step_row`] reads.
fn step_columns() -> String {
    format!("position, batch_first, node, device, time, IF(LENGTH(entry) <= {SHORT_BODY}, entry, NULL) FROM journal")
}

/// An entry of a page in the making.
enum Step {
    Short(JournalRecord),
    /// It is to be fetched.
    Long(Position),
}

impl Reading for Session<'_> {
    fn server(&self) -> Answer<Option<ServerIdentity>> {
        if let Some(known) = self.buffer.borrow().server {
            return Ok(Some(known));
        }
        let server =
            self.one("reading the server's identity", "SELECT instance, epoch FROM server", vec![], server_row)?;
        if self.remembers() {
            self.buffer.borrow_mut().server = server;
        }
        Ok(server)
    }

    fn account(&self, account: AccountId) -> Answer<Option<Account>> {
        self.one(
            "reading an account",
            "SELECT account, email, password_hash, root, created FROM accounts WHERE account = ?",
            vec![bytes(account.as_bytes())],
            account_row,
        )
    }

    fn account_by_email(&self, email: &str) -> Answer<Option<Account>> {
        self.one(
            "reading an account by its e-mail",
            "SELECT account, email, password_hash, root, created FROM accounts WHERE email_key = ?",
            vec![bytes(email_key(email))],
            account_row,
        )
    }

    fn accounts(&self) -> Answer<Vec<Account>> {
        self.all(
            "listing accounts",
            "SELECT account, email, password_hash, root, created FROM accounts ORDER BY email_key",
            vec![],
            account_row,
        )
    }

    fn device(&self, device: DeviceId) -> Answer<Option<Device>> {
        if let Some(known) = self.buffer.borrow().devices.get(&device) {
            return Ok(known.clone());
        }
        let sql = format!("SELECT {DEVICE_COLUMNS} FROM devices WHERE device = ?");
        let found = self.one("reading a device", &sql, vec![bytes(device.as_bytes())], device_row)?;
        if self.remembers() {
            self.buffer.borrow_mut().devices.insert(device, found.clone());
        }
        Ok(found)
    }

    fn device_by_token(&self, token: &TokenHash) -> Answer<Option<Device>> {
        self.one(
            "reading a device by its token",
            "SELECT device, account, name, linked, last_seen, 1 FROM devices WHERE token = ?",
            vec![bytes(token)],
            device_row,
        )
    }

    fn devices(&self, account: AccountId) -> Answer<Vec<Device>> {
        self.all(
            "listing devices",
            "SELECT device, account, name, linked, last_seen, 1 FROM devices
             WHERE account = ? AND token IS NOT NULL ORDER BY linked, device",
            vec![bytes(account.as_bytes())],
            device_row,
        )
    }

    fn namespace(&self, namespace: NamespaceId) -> Answer<Option<Namespace>> {
        if let Some(held) = self.buffer.borrow().held.get(&namespace) {
            return Ok(Some(held.row));
        }
        if let Some(known) = self.buffer.borrow().others.get(&namespace) {
            return Ok(*known);
        }
        self.one(
            "reading a namespace",
            "SELECT head, live_nodes FROM namespaces WHERE namespace = ?",
            vec![bytes(namespace.as_bytes())],
            |row| namespace_row(namespace, row),
        )
    }

    fn role(&self, namespace: NamespaceId, account: AccountId) -> Answer<Option<Role>> {
        if let Some(known) = self.buffer.borrow().roles.get(&(namespace, account)) {
            return Ok(*known);
        }
        let role = self.one(
            "reading a role",
            "SELECT role FROM members WHERE namespace = ? AND account = ?",
            vec![bytes(namespace.as_bytes()), bytes(account.as_bytes())],
            |row| row.ordinal(0, role_from_number),
        )?;
        if self.holds(namespace) {
            self.buffer.borrow_mut().roles.insert((namespace, account), role);
        }
        Ok(role)
    }

    fn memberships(&self, account: AccountId) -> Answer<Vec<(NamespaceId, Role)>> {
        self.all(
            "listing memberships",
            "SELECT namespace, role FROM members WHERE account = ? ORDER BY namespace",
            vec![bytes(account.as_bytes())],
            |row| Ok((row.id(0)?, row.ordinal(1, role_from_number)?)),
        )
    }

    fn members(&self, namespace: NamespaceId) -> Answer<Vec<(AccountId, Role)>> {
        self.all(
            "listing members",
            "SELECT account, role FROM members WHERE namespace = ? ORDER BY account",
            vec![bytes(namespace.as_bytes())],
            |row| Ok((row.id(0)?, row.ordinal(1, role_from_number)?)),
        )
    }

    fn node(&self, namespace: NamespaceId, node: NodeId) -> Answer<Option<NodeRecord>> {
        if let Some(known) = self.buffer.borrow().nodes.get(namespace, node) {
            return Ok(known.clone());
        }
        let sql = format!("SELECT {NODE_COLUMNS_BUT_BODY}, body FROM nodes WHERE namespace = ? AND node = ?");
        let key = vec![bytes(namespace.as_bytes()), bytes(node.as_bytes())];
        let found = self.one("reading a node", &sql, key, node_row)?;
        // A thousand long lists are more than anyone should remember.
        let is_short = found.as_ref().is_none_or(|record| record.body.blocks().len() <= SHORT_LIST);
        if self.holds(namespace) && is_short {
            self.buffer.borrow_mut().nodes.learn(namespace, node, found.clone());
        }
        Ok(found)
    }

    fn is_elsewhere(&self, namespace: NamespaceId, node: NodeId) -> Answer<bool> {
        if let Some(known) = self.buffer.borrow().elsewhere.get(&(namespace, node)) {
            return Ok(*known);
        }
        self.flush_nodes()?;
        let found = self.one(
            "looking for a node in other namespaces",
            "SELECT node FROM nodes FORCE INDEX (nodes_by_id) WHERE node = ? AND namespace <> ? LIMIT 1",
            vec![bytes(node.as_bytes()), bytes(namespace.as_bytes())],
            |row| row.id::<NodeId>(0),
        )?;
        Ok(found.is_some())
    }

    fn child(&self, namespace: NamespaceId, parent: NodeId, key: &NameKey) -> Answer<Option<NodeId>> {
        let place = (namespace, parent, key.clone());
        if let Holder::Known(node) = self.buffer.borrow().nodes.holder(&place) {
            return Ok(node);
        }
        let stored = self.one(
            "reading a child by its name",
            "SELECT node FROM nodes WHERE namespace = ? AND parent = ? AND name_key = ? AND live = 1",
            vec![bytes(namespace.as_bytes()), bytes(parent.as_bytes()), bytes(key.as_str())],
            |row| row.id(0),
        )?;
        if self.holds(namespace) {
            self.buffer.borrow_mut().nodes.learn_place(place, stored);
        }
        Ok(self.buffer.borrow().nodes.holder_by_database(namespace, stored))
    }

    fn children(&self, namespace: NamespaceId, parent: NodeId) -> Answer<Vec<Child>> {
        self.flush_nodes()?;
        self.all(
            "listing children",
            "SELECT node, kind, LENGTH(name), GREATEST(content_rev, location_rev) FROM nodes
             WHERE namespace = ? AND parent = ? AND live = 1 ORDER BY name_key",
            vec![bytes(namespace.as_bytes()), bytes(parent.as_bytes())],
            child_row,
        )
    }

    fn child_directories(&self, namespace: NamespaceId, parent: NodeId) -> Answer<Vec<Child>> {
        self.flush_nodes()?;
        self.all(
            "listing directories",
            "SELECT node, kind, LENGTH(name), GREATEST(content_rev, location_rev)
             FROM nodes FORCE INDEX (live_directories)
             WHERE namespace = ? AND parent = ? AND live = 1 AND kind = 0 ORDER BY node",
            vec![bytes(namespace.as_bytes()), bytes(parent.as_bytes())],
            child_row,
        )
    }

    fn fallen_children(
        &self,
        namespace: NamespaceId,
        parent: NodeId,
        when: RangeInclusive<Position>,
    ) -> Answer<Vec<NodeId>> {
        self.flush_nodes()?;
        self.all(
            "listing dead children",
            "SELECT node FROM nodes WHERE namespace = ? AND parent = ? AND deleted BETWEEN ? AND ? ORDER BY node",
            vec![bytes(namespace.as_bytes()), bytes(parent.as_bytes()), integer(*when.start()), integer(*when.end())],
            |row| row.id(0),
        )
    }

    fn journal(&self, namespace: NamespaceId, after: Position, limit: PageLimit) -> Answer<Vec<JournalRecord>> {
        let columns = step_columns();
        let sql = format!("SELECT {columns} WHERE namespace = ? AND position > ? ORDER BY position LIMIT ?");
        self.flush_journal()?;
        self.page(namespace, limit, after, |from, rows| {
            let params = vec![bytes(namespace.as_bytes()), integer(from), count(rows)];
            self.all("reading the journal", &sql, params, step_row)
        })
    }

    fn journal_backwards(&self, namespace: NamespaceId, before: Position, limit: usize) -> Answer<Vec<JournalBrief>> {
        self.flush_journal()?;
        self.all(
            "reading the journal backwards",
            "SELECT position, batch_first, node, kind, device, time FROM journal
             WHERE namespace = ? AND position < ? ORDER BY position DESC LIMIT ?",
            vec![bytes(namespace.as_bytes()), integer(before), count(limit)],
            |row| {
                Ok(JournalBrief {
                    position: row.position(0)?,
                    batch_first: row.position(1)?,
                    node: row.id(2)?,
                    kind: row.ordinal(3, ChangeKind::from_number)?,
                    device: row.optional_id(4)?,
                    time: Timestamp(row.integer(5)?),
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
        let columns = step_columns();
        let sql = format!(
            "SELECT {columns}
             WHERE namespace = ? AND node = ? AND position < ? AND kind IN (0, 1) ORDER BY position DESC LIMIT ?"
        );
        self.flush_journal()?;
        self.page(namespace, limit, Position(until.0.saturating_add(1)), |before, rows| {
            let params = vec![bytes(namespace.as_bytes()), bytes(node.as_bytes()), integer(before), count(rows)];
            self.all("reading a node's revisions", &sql, params, step_row)
        })
    }

    fn location(&self, namespace: NamespaceId, node: NodeId, at: Position) -> Answer<Option<(NodeId, Name)>> {
        self.flush_journal()?;
        let change = self.one(
            "reading where a node was",
            "SELECT entry FROM journal WHERE namespace = ? AND node = ? AND position <= ? AND kind IN (0, 2)
             ORDER BY position DESC LIMIT 1",
            vec![bytes(namespace.as_bytes()), bytes(node.as_bytes()), integer(at)],
            |row| row.formatted::<Change>(0),
        )?;
        Ok(change.as_ref().and_then(destination).map(|(parent, name)| (parent, name.clone())))
    }

    fn arrivals(&self, namespace: NamespaceId, parent: NodeId, key: &NameKey, limit: usize) -> Answer<Vec<Arrival>> {
        self.flush_journal()?;
        self.all(
            "reading who was at a place",
            "SELECT node, position FROM journal WHERE namespace = ? AND parent = ? AND name_key = ?
             ORDER BY position DESC LIMIT ?",
            vec![bytes(namespace.as_bytes()), bytes(parent.as_bytes()), bytes(key.as_str()), count(limit)],
            |row| Ok(Arrival { node: row.id(0)?, position: row.position(1)? }),
        )
    }

    fn departure(&self, namespace: NamespaceId, node: NodeId, after: Position) -> Answer<Option<Position>> {
        self.flush_journal()?;
        self.one(
            "reading when a node left",
            "SELECT position FROM journal WHERE namespace = ? AND node = ? AND position > ? AND kind IN (2, 3)
             ORDER BY position LIMIT 1",
            vec![bytes(namespace.as_bytes()), bytes(node.as_bytes()), integer(after)],
            |row| row.position(0),
        )
    }

    fn outcome(&self, namespace: NamespaceId, device: DeviceId, key: CommitKey) -> Answer<Option<CommitOutcome>> {
        let whole_key = (namespace, device, key);
        if let Some(known) = self.buffer.borrow().outcomes.get(&whole_key) {
            return Ok(known.clone());
        }
        let found = self.one(
            "reading a commit's outcome",
            "SELECT outcome FROM outcomes WHERE namespace = ? AND device = ? AND commit_key = ?",
            vec![bytes(namespace.as_bytes()), bytes(device.as_bytes()), bytes(key.as_bytes())],
            |row| row.formatted::<CommitOutcome>(0),
        )?;
        if self.holds(namespace) {
            self.buffer.borrow_mut().outcomes.insert(whole_key, found.clone());
        }
        Ok(found)
    }

    fn names_blocks(&self, namespace: NamespaceId, blocks: &[BlockHash]) -> Answer<Vec<bool>> {
        let here = |block: &BlockHash| {
            let buffer = self.buffer.borrow();
            let id = (namespace, *block);
            buffer.named.contains(&id).then_some(true).or_else(|| buffer.stored_named.get(&id).copied())
        };
        self.known(blocks, here, |marks, hashes| {
            let sql = format!(
                "SELECT hash FROM namespace_blocks FORCE INDEX (PRIMARY) WHERE namespace = ? AND hash IN ({marks})"
            );
            let params = [vec![bytes(namespace.as_bytes())], hashes].concat();
            self.all("looking up blocks", &sql, params, |row| row.id(0))
        })
    }

    fn uploaded_blocks(&self, account: AccountId, blocks: &[BlockHash], since: Timestamp) -> Answer<Vec<bool>> {
        let here = |block: &BlockHash| {
            let buffer = self.buffer.borrow();
            let id = (account, *block);
            let noted = buffer.uploaded.get(&id).is_some_and(|time| *time >= since);
            let stored = || buffer.stored_uploaded.get(&id).map(|time| time.is_some_and(|time| time >= since));
            noted.then_some(true).or_else(stored)
        };
        self.known(blocks, here, |marks, hashes| {
            let sql = format!("SELECT hash FROM uploaded_blocks FORCE INDEX (PRIMARY) WHERE account = ? AND time >= ? AND hash IN ({marks})");
            let params = [vec![bytes(account.as_bytes()), Value::Int(since.0)], hashes].concat();
            self.all("looking up uploads", &sql, params, |row| row.id(0))
        })
    }

    /// What this transaction has noted and not sent counts, as everywhere.
    fn blocks_in_use(&self, blocks: &[BlockHash]) -> Answer<Vec<bool>> {
        let here = |block: &BlockHash| {
            let buffer = self.buffer.borrow();
            let noted = buffer.named.iter().any(|(_, named)| named == block)
                || buffer.uploaded.keys().any(|(_, uploaded)| uploaded == block);
            noted.then_some(true)
        };
        self.known(blocks, here, |marks, hashes| {
            let sql = format!(
                "SELECT hash FROM namespace_blocks WHERE hash IN ({marks})
                 UNION SELECT hash FROM uploaded_blocks WHERE hash IN ({marks})"
            );
            self.all("looking up blocks", &sql, [hashes.clone(), hashes].concat(), |row| row.id(0))
        })
    }

    fn all_named_blocks(&self, after: Option<BlockHash>, limit: usize) -> Answer<Vec<BlockHash>> {
        let sql = "SELECT DISTINCT hash FROM namespace_blocks WHERE hash > ? ORDER BY hash LIMIT ?";
        let after = after.map_or_else(|| bytes([]), |hash| bytes(hash.as_bytes()));
        self.all("listing blocks", sql, vec![after, count(limit)], |row| row.id(0))
    }

    fn unused_blocks(&self, blocks: &[BlockHash]) -> Answer<Vec<Option<UnusedBlock>>> {
        self.unused(blocks, "")
    }

    fn unused_since(&self, before: Timestamp, limit: usize) -> Answer<Vec<UnusedBlock>> {
        let sql = "SELECT hash, since, condemned FROM unused_blocks WHERE since < ? ORDER BY since, hash LIMIT ?";
        self.all("listing unused blocks", sql, vec![Value::Int(before.0), count(limit)], unused_row)
    }

    fn packed_blocks(&self, blocks: &[BlockHash]) -> Answer<Vec<Option<PackedBlock>>> {
        self.packed(blocks, "")
    }

    fn all_packed_blocks(&self, after: Option<BlockHash>, limit: usize) -> Answer<Vec<BlockHash>> {
        let sql = "SELECT hash FROM packed_blocks WHERE hash > ? ORDER BY hash LIMIT ?";
        let after = after.map_or_else(|| bytes([]), |hash| bytes(hash.as_bytes()));
        self.all("listing packed blocks", sql, vec![after, count(limit)], |row| row.id(0))
    }

    fn blocks_in_pack(&self, pack: PackId) -> Answer<Vec<PackedBlock>> {
        let sql = "SELECT hash, pack, `offset`, length FROM packed_blocks WHERE pack = ? ORDER BY `offset`";
        self.all("listing the blocks of a pack", sql, vec![bytes(pack.as_bytes())], packed_row)
    }

    fn packs(&self, packs: &[PackId]) -> Answer<Vec<Option<PackRecord>>> {
        let keys: Vec<Value> = packs.iter().map(|pack| bytes(pack.as_bytes())).collect();
        let mut found = BTreeMap::new();
        self.for_keys(&keys, |marks, keys| {
            let sql = format!(
                "SELECT p.pack, p.ended, COUNT(b.hash), CAST(COALESCE(SUM(b.length), 0) AS SIGNED)
                 FROM packs p LEFT JOIN packed_blocks b ON b.pack = p.pack WHERE p.pack IN ({marks}) GROUP BY p.pack"
            );
            let rows = self.all("looking up packs", &sql, keys, |row| {
                let ended = row.optional_integer(1)?.map(Timestamp);
                let record = PackRecord { ended, blocks: row.unsigned(2)?, bytes: row.unsigned(3)? };
                Ok((row.id::<PackId>(0)?, record))
            })?;
            found.extend(rows);
            Ok(())
        })?;
        Ok(packs.iter().map(|pack| found.get(pack).copied()).collect())
    }
}

impl Session<'_> {
    /// What is noted of blocks; `lock` is what the query ends with.
    pub(crate) fn unused(&self, blocks: &[BlockHash], lock: &str) -> Answer<Vec<Option<UnusedBlock>>> {
        let keys: Vec<Value> = blocks.iter().map(|block| bytes(block.as_bytes())).collect();
        let mut found = BTreeMap::new();
        self.for_keys(&keys, |marks, hashes| {
            let sql = format!("SELECT hash, since, condemned FROM unused_blocks WHERE hash IN ({marks}) {lock}");
            let rows = self.all("looking up unused blocks", &sql, hashes, unused_row)?;
            found.extend(rows.into_iter().map(|row| (row.hash, row)));
            Ok(())
        })?;
        Ok(blocks.iter().map(|block| found.get(block).copied()).collect())
    }

    pub(crate) fn packed(&self, blocks: &[BlockHash], lock: &str) -> Answer<Vec<Option<PackedBlock>>> {
        let keys: Vec<Value> = blocks.iter().map(|block| bytes(block.as_bytes())).collect();
        let mut found = BTreeMap::new();
        self.for_keys(&keys, |marks, hashes| {
            let sql = format!("SELECT hash, pack, `offset`, length FROM packed_blocks WHERE hash IN ({marks}) {lock}");
            let rows = self.all("looking up packed blocks", &sql, hashes, packed_row)?;
            found.extend(rows.into_iter().map(|row| (row.hash, row)));
            Ok(())
        })?;
        Ok(blocks.iter().map(|block| found.get(block).copied()).collect())
    }
}

impl Session<'_> {
    /// Entries from `start` on until a limit is reached, fetched in steps: an entry may name so many blocks
    /// that a whole page of them is more than anyone asked for.
    fn page(
        &self,
        namespace: NamespaceId,
        limit: PageLimit,
        start: Position,
        mut fetch: impl FnMut(Position, usize) -> Answer<Vec<Step>>,
    ) -> Answer<Vec<JournalRecord>> {
        let (mut page, mut blocks, mut from) = (Vec::new(), 0, start);
        loop {
            let wanted = PAGE_STEP.min(limit.entries - page.len());
            let step = fetch(from, wanted)?;
            let last = step.len() < wanted || wanted == 0;
            for entry in step {
                let record = match entry {
                    Step::Short(record) => record,
                    Step::Long(position) => self.long_entry(namespace, position)?,
                };
                blocks += blocks_of(&record.entry.change);
                if blocks > limit.blocks && !page.is_empty() {
                    return Ok(page);
                }
                from = record.entry.position;
                page.push(record);
            }
            if last || page.len() == limit.entries {
                return Ok(page);
            }
        }
    }

    fn long_entry(&self, namespace: NamespaceId, position: Position) -> Answer<JournalRecord> {
        let subject = "reading a long entry of the journal";
        let record = self.one(
            subject,
            "SELECT position, batch_first, node, device, time, entry FROM journal
             WHERE namespace = ? AND position = ?",
            vec![bytes(namespace.as_bytes()), integer(position)],
            journal_row,
        )?;
        record.ok_or(StoreError::Corrupt { subject, source: None })
    }

    /// For each block what is known `here`, or else whether `find` finds it.
    fn known(
        &self,
        blocks: &[BlockHash],
        here: impl Fn(&BlockHash) -> Option<bool>,
        mut find: impl FnMut(&str, Vec<Value>) -> Answer<Vec<BlockHash>>,
    ) -> Answer<Vec<bool>> {
        let (mut found, mut asked) = (BTreeSet::new(), BTreeSet::new());
        for block in blocks {
            match here(block) {
                Some(true) => found.insert(*block),
                Some(false) => continue,
                None => asked.insert(*block),
            };
        }
        let keys: Vec<Value> = asked.iter().map(|block| bytes(block.as_bytes())).collect();
        self.for_keys(&keys, |marks, hashes| {
            found.extend(find(marks, hashes)?);
            Ok(())
        })?;
        Ok(blocks.iter().map(|block| found.contains(block)).collect())
    }
}

pub(crate) fn server_row(row: &Cells) -> Answer<ServerIdentity> {
    Ok(ServerIdentity { instance: row.id(0)?, epoch: Epoch(row.unsigned(1)?) })
}

pub(crate) fn namespace_row(namespace: NamespaceId, row: &Cells) -> Answer<Namespace> {
    Ok(Namespace { namespace, head: row.position(0)?, live_nodes: row.unsigned(1)? })
}

fn account_row(row: &Cells) -> Answer<Account> {
    Ok(Account {
        account: row.id(0)?,
        email: row.text(1)?,
        password_hash: row.text(2)?,
        root: row.id(3)?,
        created: Timestamp(row.integer(4)?),
    })
}

pub(crate) fn device_row(row: &Cells) -> Answer<Device> {
    Ok(Device {
        device: row.id(0)?,
        account: row.id(1)?,
        name: row.text(2)?,
        linked: Timestamp(row.integer(3)?),
        last_seen: Timestamp(row.integer(4)?),
        active: row.flag(5)?,
    })
}

pub(crate) fn node_row(row: &Cells) -> Answer<NodeRecord> {
    Ok(NodeRecord {
        node: row.id(0)?,
        parent: row.id(1)?,
        name: row.name(2)?,
        content_rev: row.position(3)?,
        location_rev: row.position(4)?,
        deleted: row.optional_position(5)?,
        body: row.formatted(NODE_BODY)?,
    })
}

fn child_row(row: &Cells) -> Answer<Child> {
    Ok(Child {
        node: row.id(0)?,
        kind: row.ordinal(1, NodeKind::from_number)?,
        name_bytes: usize::try_from(row.unsigned(2)?).unwrap_or(usize::MAX),
        changed: row.position(3)?,
    })
}

fn unused_row(row: &Cells) -> Answer<UnusedBlock> {
    Ok(UnusedBlock {
        hash: row.id(0)?,
        since: Timestamp(row.integer(1)?),
        condemned: row.optional_integer(2)?.map(Timestamp),
    })
}

fn packed_row(row: &Cells) -> Answer<PackedBlock> {
    let number = |column| Ok(u32::try_from(row.unsigned(column)?).unwrap_or(u32::MAX));
    Ok(PackedBlock { hash: row.id(0)?, pack: row.id(1)?, offset: number(2)?, len: number(3)? })
}

fn step_row(row: &Cells) -> Answer<Step> {
    if row.is_null(5) { Ok(Step::Long(row.position(0)?)) } else { journal_row(row).map(Step::Short) }
}

fn journal_row(row: &Cells) -> Answer<JournalRecord> {
    let entry = JournalEntry {
        position: row.position(0)?,
        node: row.id(2)?,
        device: row.optional_id(3)?,
        time: Timestamp(row.integer(4)?),
        change: row.formatted(5)?,
    };
    Ok(JournalRecord { entry, batch_first: row.position(1)? })
}
