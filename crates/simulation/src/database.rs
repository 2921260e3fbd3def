//! The client's database: what the engine persisted.

use model::{Blocklist, ContentHash, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use sync_engine::io::{Blocklists, EngineState, Write};
use sync_engine::tree::NodeRow;

/// What a client's database holds. A transaction is durable when it was applied.
#[derive(Debug, Clone)]
pub struct Database {
    pub state: EngineState,
    pub rows: BTreeMap<NodeId, NodeRow>,
    blocklists: BTreeMap<ContentHash, (Arc<Blocklist>, bool)>,
}

impl Database {
    /// The database of a device that has just been linked.
    #[must_use]
    pub const fn new(state: EngineState) -> Self {
        Self { state, rows: BTreeMap::new(), blocklists: BTreeMap::new() }
    }

    /// Applies one transaction.
    pub fn apply(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Node(id, Some(row)) => {
                    self.rows.insert(*id, (**row).clone());
                }
                Write::Node(id, None) => {
                    self.rows.remove(id);
                }
                Write::Blocklist { content, blocks, remote } => {
                    let kept = self.blocklists.entry(*content).or_insert_with(|| (Arc::new(blocks.clone()), false));
                    kept.1 |= remote;
                }
                Write::State(state) => self.state = (**state).clone(),
            }
        }
    }

    /// All rows, as the engine is made from them.
    #[must_use]
    pub fn rows(&self) -> Vec<(NodeId, NodeRow)> {
        self.rows.iter().map(|(id, row)| (*id, row.clone())).collect()
    }
}

impl Blocklists for Database {
    fn find(&self, content: &ContentHash) -> Option<(Arc<Blocklist>, bool)> {
        self.blocklists.get(content).cloned()
    }
}
