//! What must hold of the rows in a client's database (I6).

use crate::database::Database;
use model::{NameKey, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use sync_engine::tree::{NodeRow, PARKED, Place};

/// The engine's parent of nodes that are missing from their places while it looks for them.
const LIMBO: NodeId = NodeId([0xfe; 16]);

/// Checks the local and the remote tree: places lead to the root, and names within a folder differ.
///
/// The synced tree is none: its nodes agreed at different moments.
///
/// # Errors
/// The rule that is broken.
pub fn check(database: &Database) -> Result<(), String> {
    let remote = |row: &NodeRow| row.remote.as_ref().map(|remote| remote.place.clone());
    check_tree(database, "remote", &remote)?;
    check_names(database)?;
    let local = |row: &NodeRow| row.local.as_ref().map(|local| local.place.clone());
    check_tree(database, "local", &local)
}

fn check_tree(database: &Database, tree: &str, place: &dyn Fn(&NodeRow) -> Option<Place>) -> Result<(), String> {
    let places: BTreeMap<NodeId, Place> =
        database.rows.iter().filter_map(|(id, row)| Some((*id, place(row)?))).collect();
    let root = database.state.root.root();
    for id in places.keys() {
        let mut at = *id;
        let mut left = places.len() + 1;
        while at != root && at != PARKED && at != LIMBO {
            let Some(place) = places.get(&at) else {
                return Err(format!("I6: {id:?} of the {tree} tree lies in {at:?}, which is not there"));
            };
            at = place.parent;
            left -= 1;
            if left == 0 {
                return Err(format!("I6: {id:?} of the {tree} tree never reaches the root"));
            }
        }
    }
    Ok(())
}

fn check_names(database: &Database) -> Result<(), String> {
    let mut names: BTreeSet<(NodeId, NameKey)> = BTreeSet::new();
    for row in database.rows.values() {
        let Some(remote) = &row.remote else { continue };
        if !names.insert((remote.place.parent, remote.place.name.key())) {
            return Err(format!("I6: two nodes of the remote tree are called {} in one folder", remote.place.name));
        }
    }
    Ok(())
}
