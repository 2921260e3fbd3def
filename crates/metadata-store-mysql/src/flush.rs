//! Writing down in SQL what a transaction has changed; it goes with the next packet.

use crate::buffer::OlderRow;
use crate::cells::{bytes, integer};
use crate::session::Session;
use crate::text;
use crate::writing::node_row;
use metadata_store::NodeRecord;
use metadata_store::port::Answer;
use model::{AccountId, BlockHash, NamespaceId, Position, Timestamp};
use mysql::Value;
use std::collections::BTreeSet;

/// Rows that one statement removes at most.
const KEYS: usize = model::limits::GROUP_COMMIT;

impl Session<'_> {
    /// Writes down all that is not sent. Who needs it in the database before the end sends it.
    pub(crate) fn flush(&self) -> Answer<()> {
        self.flush_nodes()?;
        self.flush_blocks()?;
        self.flush_journal()?;
        let outcomes = std::mem::take(&mut self.buffer.borrow_mut().new_outcomes);
        let head = "outcomes (namespace, device, commit_key, time, outcome)";
        self.insert("the commit's outcome", head, "", outcomes)?;
        self.flush_heads()
    }

    /// Nodes. The old rows go first, so that names can change hands under an index that is checked row
    /// by row.
    pub(crate) fn flush_nodes(&self) -> Answer<()> {
        let unsent = self.buffer.borrow_mut().nodes.take_unsent();
        for namespace in namespaces_of(&unsent) {
            let older = unsent.iter().filter(|(of, _, older)| *of == namespace && *older == OlderRow::Possible);
            let keys: Vec<Value> = older.map(|(_, record, _)| bytes(record.node.as_bytes())).collect();
            for keys in keys.chunks(KEYS) {
                let (namespace, keys) = (text::of_value(&bytes(namespace.as_bytes())), text::of_list(keys));
                let sql = format!("DELETE FROM nodes WHERE namespace = {namespace} AND node IN ({keys})");
                self.later("the node", &sql)?;
            }
        }
        let rows = unsent.iter().map(|(namespace, record, _)| node_row(*namespace, record)).collect::<Answer<_>>()?;
        let head =
            "nodes (namespace, node, parent, name, name_key, kind, content_rev, location_rev, deleted, live, body)";
        self.insert("a child with this name", head, "", rows)
    }

    pub(crate) fn flush_journal(&self) -> Answer<()> {
        let rows = std::mem::take(&mut self.buffer.borrow_mut().journal);
        let head = "journal (namespace, position, batch_first, node, kind, device, time, parent, name_key, entry)";
        self.insert("a journal entry", head, "", rows)
    }

    fn flush_blocks(&self) -> Answer<()> {
        let (named, uploaded) = {
            let mut buffer = self.buffer.borrow_mut();
            buffer.stored_named.clear();
            buffer.stored_uploaded.clear();
            (std::mem::take(&mut buffer.named), std::mem::take(&mut buffer.uploaded))
        };
        let row =
            |(namespace, block): (NamespaceId, BlockHash)| vec![bytes(namespace.as_bytes()), bytes(block.as_bytes())];
        self.insert(
            "a named block",
            "namespace_blocks (namespace, hash)",
            "ON DUPLICATE KEY UPDATE hash = hash",
            named.into_iter().map(row).collect(),
        )?;
        let row = |((account, block), time): ((AccountId, BlockHash), Timestamp)| {
            vec![bytes(account.as_bytes()), bytes(block.as_bytes()), Value::Int(time.0)]
        };
        self.insert(
            "an uploaded block",
            "uploaded_blocks (account, hash, time)",
            "ON DUPLICATE KEY UPDATE time = GREATEST(time, VALUES(time))",
            uploaded.into_iter().map(row).collect(),
        )
    }

    fn flush_heads(&self) -> Answer<()> {
        let changed: Vec<_> = {
            let mut buffer = self.buffer.borrow_mut();
            let changed =
                buffer.held.values_mut().filter_map(|held| std::mem::take(&mut held.changed).then_some(held.row));
            changed.collect()
        };
        for row in changed {
            let [namespace, head, live_nodes] =
                [bytes(row.namespace.as_bytes()), integer(row.head), integer(Position(row.live_nodes))]
                    .map(|value| text::of_value(&value));
            self.later(
                "the journal's head",
                &format!(
                    "UPDATE namespaces SET head = {head}, live_nodes = {live_nodes} WHERE namespace = {namespace}"
                ),
            )?;
        }
        Ok(())
    }
}

/// The namespaces of rows, each once.
fn namespaces_of(unsent: &[(NamespaceId, NodeRecord, OlderRow)]) -> BTreeSet<NamespaceId> {
    unsent.iter().map(|(namespace, ..)| *namespace).collect()
}
