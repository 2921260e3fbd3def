//! The SQLite adapter: the contract, and what is SQLite's own.

use super::*;
use crate::contract;
use model::{AccountId, BlockHash, Change, DeviceId, JournalEntry, NamespaceId, NodeId, Position, Timestamp};
use std::sync::Arc;

const NS: NamespaceId = NamespaceId([0xaa; 16]);

fn open(folder: &tempfile::TempDir) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(&folder.path().join("meta.db"))
}

fn tombstone(position: u64) -> JournalEntry {
    JournalEntry {
        position: Position(position),
        node: NodeId([1; 16]),
        change: Change::Delete,
        device: Some(DeviceId([2; 16])),
        time: Timestamp(3),
    }
}

fn head(store: &SqliteStore) -> Option<u64> {
    let store: &dyn MetadataStore = store;
    let row = store.snapshot(|r| r.namespace(NS)).expect("reads");
    row.map(|row| row.head.0)
}

fn append(store: &SqliteStore, position: u64) -> Result<(), StoreError> {
    let store: &dyn MetadataStore = store;
    store.write(|tx| {
        if position == 1 {
            tx.insert_namespace(NS)?;
        }
        tx.append(NS, &[tombstone(position)])
    })
}

#[test]
fn a_store_in_memory_keeps_the_contract() {
    contract::check(&|| Arc::new(SqliteStore::in_memory().expect("opens")));
}

#[test]
fn a_store_in_a_file_keeps_the_contract() {
    let folders = std::cell::RefCell::new(Vec::new());
    contract::check(&|| {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder).expect("opens");
        folders.borrow_mut().push(folder);
        Arc::new(store)
    });
}

#[test]
fn what_was_committed_is_there_when_the_file_is_opened_again() {
    let folder = tempfile::tempdir().expect("a folder");
    append(&open(&folder).expect("opens"), 1).expect("commits");
    let store = open(&folder).expect("opens again");
    assert_eq!(head(&store), Some(1));
    store.verify().expect("sound");
}

#[test]
fn two_programs_can_use_one_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, admin) = (open(&folder).expect("opens"), open(&folder).expect("opens beside it"));
    append(&server, 1).expect("commits");
    append(&admin, 2).expect("commits");
    append(&server, 3).expect("commits");
    assert_eq!((head(&server), head(&admin)), (Some(3), Some(3)));
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder).expect("opens");
    append(&store, 1).expect("commits");
    let mut files = 0;
    for file in std::fs::read_dir(folder.path()).expect("lists") {
        let file = file.expect("an entry");
        let mode = file.metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", file.path());
        files += 1;
    }
    assert!(files >= 2, "the database and its log");
}

#[test]
fn a_file_of_a_newer_program_is_refused_and_not_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(&folder).expect("opens"));
    let raw = Connection::open(folder.path().join("meta.db")).expect("opens");
    raw.pragma_update(None, "user_version", 99).expect("sets");
    assert!(matches!(open(&folder), Err(StoreError::NewerFormat { found: 99, known: 5 })));
    let version: i64 = raw.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("reads");
    assert_eq!(version, 99);
}

#[test]
fn a_file_of_the_format_before_keeps_who_names_and_who_uploaded_a_block() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("meta.db");
    let raw = Connection::open(&path).expect("opens");
    for step in [include_str!("v1.sql"), include_str!("v2.sql"), include_str!("v3.sql")] {
        raw.execute_batch(step).expect("a step");
    }
    raw.execute_batch(
        "INSERT INTO namespace_blocks (namespace, hash) VALUES (zeroblob(16), zeroblob(32)), (randomblob(16), zeroblob(32));
         INSERT INTO uploaded_blocks (account, hash, time) VALUES (zeroblob(16), zeroblob(32), 5);
         PRAGMA user_version = 3;",
    )
    .expect("rows");
    drop(raw);
    let store = open(&folder).expect("opens and migrates");
    store.verify().expect("sound");
    let (named, other) = (BlockHash([0; 32]), BlockHash([1; 32]));
    let reading: &dyn MetadataStore = &store;
    let names = |namespace| reading.snapshot(|r| r.names_blocks(namespace, &[named, other])).expect("reads");
    assert_eq!((names(NamespaceId([0; 16])), names(NS)), (vec![true, false], vec![false, false]));
    let uploaded = |since| reading.snapshot(|r| r.uploaded_blocks(AccountId([0; 16]), &[named], Timestamp(since)));
    assert_eq!((uploaded(5).expect("reads"), uploaded(6).expect("reads")), (vec![true], vec![false]));
    let rows: i64 =
        lock(&store.writer).query_row("SELECT count(*) FROM namespace_blocks", [], |r| r.get(0)).expect("counts");
    assert_eq!(rows, 2);
}

#[test]
fn a_damaged_file_is_corrupt_and_not_empty() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("meta.db"), [0x5a; 8192]).expect("writes");
    assert!(matches!(open(&folder), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_damaged_row_is_corrupt_and_not_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder).expect("opens");
    append(&store, 1).expect("commits");
    let raw = Connection::open(folder.path().join("meta.db")).expect("opens");
    raw.execute("UPDATE journal SET change = x'0105'", []).expect("damages");
    let store: &dyn MetadataStore = &store;
    let limit = crate::PageLimit { entries: 9, blocks: 9 };
    let result = store.snapshot(|r| r.journal(NS, Position::START, limit));
    assert!(matches!(result, Err(StoreError::Corrupt { .. })), "{result:?}");
}

#[test]
fn a_full_disk_is_told_apart_where_the_shared_memory_finds_no_room() {
    let error = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_SHMSIZE), None);
    assert!(matches!(failed("opening the database file", error), StoreError::DiskFull));
}

#[test]
fn a_full_disk_is_told_apart_and_undoes_the_transaction() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder).expect("opens");
    append(&store, 1).expect("commits");
    let pages: i64 = lock(&store.writer).query_row("PRAGMA page_count", [], |row| row.get(0)).expect("reads");
    lock(&store.writer).pragma_update(None, "max_page_count", pages).expect("sets");
    let result = (2..10_000).try_for_each(|position| append(&store, position));
    assert!(matches!(result, Err(StoreError::DiskFull)), "{result:?}");
    let reached = head(&store).expect("it exists");
    lock(&store.writer).pragma_update(None, "max_page_count", 1_000_000).expect("sets");
    append(&store, reached + 1).expect("there is room again");
}

#[test]
fn a_copy_made_beside_writers_is_complete() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder).expect("opens");
    append(&store, 1).expect("commits");
    let copy = folder.path().join("copy.db");
    store.copy_to(&copy).expect("copies");
    append(&store, 2).expect("commits");
    assert!(matches!(store.copy_to(&copy), Err(StoreError::AlreadyExists { .. })));
    let copied = SqliteStore::open(&copy).expect("opens");
    assert_eq!(head(&copied), Some(1));
    copied.verify().expect("sound");
}
