//! Blocklists that nobody needs any more are removed.
//!
//! Each version of a file leaves its list, 32 bytes for each block; a large file that changes all day leaves gigabytes. They
//! are removed when the database is opened, since what the rows name is all that anybody knows of then.

use super::Database;
use rusqlite::{Connection, OptionalExtension, params};
use sync_engine::io::EngineState;
use sync_engine::tree::Content;

/// A database that is smaller than this, in bytes, is not worth a look.
const SMALL: i64 = 32 * 1024 * 1024;
/// What a node may take up with its list, in bytes: twice what most do.
const NODE_BYTES: i64 = 1024;
/// Lists that are looked at in one transaction.
const LISTS_AT_ONCE: i64 = 10_000;

impl Database {
    /// Removes the lists that nobody needs, if the file is much larger than its nodes explain. A failure costs space and
    /// nothing else.
    pub(super) fn sweep_lists(&mut self, state: &EngineState) {
        let swept = is_worth_it(&self.connection).and_then(|worth_it| match worth_it {
            true => sweep(&mut self.connection, state),
            false => Ok(0),
        });
        match swept {
            Ok(0) => {}
            Ok(lists) => tracing::info!(lists, "lists of blocks that nobody needs were removed"),
            Err(error) => tracing::warn!(%error, "lists of blocks that nobody needs could not be removed"),
        }
    }
}

fn is_worth_it(connection: &Connection) -> rusqlite::Result<bool> {
    let number = |pragma: &str| connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0));
    let used = (number("page_count")? - number("freelist_count")?) * number("page_size")?;
    if used <= SMALL {
        return Ok(false);
    }
    let nodes: i64 = connection.query_row("SELECT COUNT(*) FROM nodes", [], |row| row.get(0))?;
    Ok(used > SMALL + nodes * NODE_BYTES)
}

/// How many were removed.
pub(super) fn sweep(connection: &mut Connection, state: &EngineState) -> rusqlite::Result<usize> {
    connection.execute_batch(
        "DROP TABLE IF EXISTS temp.needed;
         CREATE TEMP TABLE needed (content_hash BLOB PRIMARY KEY NOT NULL) WITHOUT ROWID;
         INSERT INTO needed
             SELECT local_hash FROM nodes WHERE local_hash NOT NULL
             UNION SELECT synced_hash FROM nodes WHERE synced_hash NOT NULL
             UNION SELECT remote_hash FROM nodes WHERE remote_hash NOT NULL;",
    )?;
    for content in named_by(state) {
        connection.execute("INSERT OR IGNORE INTO needed VALUES (?1)", [content.as_bytes()])?;
    }
    let (mut removed, mut from) = (0, Vec::new());
    loop {
        let next =
            "SELECT content_hash FROM blocklists WHERE content_hash >= ?1 ORDER BY content_hash LIMIT 1 OFFSET ?2";
        let to: Option<Vec<u8>> =
            connection.query_row(next, params![from, LISTS_AT_ONCE], |row| row.get(0)).optional()?;
        removed += connection.execute(
            "DELETE FROM blocklists WHERE content_hash >= ?1 AND (?2 IS NULL OR content_hash < ?2)
             AND content_hash NOT IN (SELECT content_hash FROM needed)",
            params![from, to],
        )?;
        match to {
            Some(to) => from = to,
            None => break,
        }
    }
    connection.execute_batch("DROP TABLE temp.needed")?;
    Ok(removed)
}

/// Contents that no row may name yet: those of a commit that may have been made, and of files that were being put on the
/// disk.
fn named_by(state: &EngineState) -> Vec<model::ContentHash> {
    let committed = state.in_flight.iter().flat_map(|commit| &commit.operations);
    let committed = committed.filter_map(|operation| match operation.body()? {
        model::Body::File { blocks, .. } => Some(blocks.content_hash()),
        model::Body::Directory | model::Body::Symlink { .. } | model::Body::Mount => None,
    });
    let installed = state.installing.iter().filter_map(|installing| match installing.agreed.content {
        Content::File(file) => Some(file.hash),
        Content::Directory | Content::Symlink(_) | Content::Mount => None,
    });
    committed.chain(installed).collect()
}
