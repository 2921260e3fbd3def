//! Files that a program finds when it starts: the client database, packs of blocks and their index.

use crate::Verdict;
use crate::hostile_journal::{Device, fresh_state};
use block_store::{Block, BlockStore, DiskBlockStore, DiskOptions, StoreError};
use bytes::Bytes;
use client::database::Database;
use model::{BlockHash, DeviceId, InstanceId};
use rusqlite::Connection;
use rusqlite::types::Value;
use std::fs;
use std::path::Path;
use sync_engine::Engine;

const DEVICE: DeviceId = DeviceId([1; 16]);
const INSTANCE: InstanceId = InstanceId([1; 16]);
/// Columns of the client database's `nodes`.
const NODE_COLUMNS: usize = 35;
/// Edits of a good file that are read of one input.
const EDITS: usize = 64;
/// Bytes from which on an edit no longer makes a file longer.
const LONGEST_FILE: usize = 256 * 1024;

/// The client database. The first byte says what the rest is: the whole file, the encoded state, or the
/// columns of nodes.
pub fn client_database(bytes: &[u8]) -> Verdict {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("client.sqlite");
    let Some((part, rest)) = bytes.split_first() else { return Verdict::Refused };
    match part % 4 {
        0 => fs::write(&path, rest).expect("writes"),
        1 => {
            new_database(&path);
            edit(&path, rest);
        }
        2 => with_database(&path, |connection| {
            let changed = connection.execute("UPDATE state SET value = ?1", [rest]).expect("updates");
            assert_eq!(changed, 1);
        }),
        _ => with_database(&path, |connection| insert_nodes(connection, rest)),
    }
    let opened = Database::open(&path, DEVICE, |state, rows| Engine::new(state, rows, "laptop".to_owned()));
    let Ok((_, engine)) = opened else { return Verdict::Refused };
    Device::with(engine, Vec::new()).run();
    Verdict::Understood
}

fn new_database(path: &Path) {
    drop(Database::create(path, DEVICE, &fresh_state()).expect("a new database"));
}

fn with_database(path: &Path, change: impl FnOnce(&Connection)) {
    new_database(path);
    change(&Connection::open(path).expect("opens"));
}

/// Rows of values that nobody checked. What the schema itself refuses is left out.
fn insert_nodes(connection: &Connection, bytes: &[u8]) {
    let mut values = Values(bytes);
    let marks = vec!["?"; NODE_COLUMNS].join(",");
    let sql = format!("INSERT OR REPLACE INTO nodes VALUES ({marks})");
    let mut statement = connection.prepare(&sql).expect("the columns are as many as the schema's");
    while !values.0.is_empty() {
        let row: Vec<Value> = values.by_ref().take(NODE_COLUMNS).collect();
        if row.len() == NODE_COLUMNS {
            statement.execute(rusqlite::params_from_iter(row)).ok();
        }
    }
}

/// Column values out of bytes: a tag, and what it calls for.
struct Values<'a>(&'a [u8]);

impl Values<'_> {
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

impl Iterator for Values<'_> {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        let tag = *self.bytes(1).first()?;
        Some(match tag % 8 {
            0 => Value::Null,
            1 => Value::Integer((tag / 8).into()),
            2 => Value::Integer(self.bytes(8).iter().fold(0, |number, byte| number << 8 | i64::from(*byte))),
            3 => Value::Blob(vec![tag / 8; 16]),
            4 => Value::Blob(vec![tag / 8; 32]),
            5 => Value::Blob(self.bytes(usize::from(tag / 8))),
            6 => Value::Text(String::from_utf8_lossy(&self.bytes(usize::from(tag / 8))).into_owned()),
            _ => Value::Real(f64::from(tag)),
        })
    }
}

/// A pack of blocks. The first byte says whether the rest is the pack or edits of a good one.
pub fn block_packs(bytes: &[u8]) -> Verdict {
    block_file(bytes, "packs/00000001.pack")
}

/// The index of the blocks, likewise.
pub fn block_index(bytes: &[u8]) -> Verdict {
    block_file(bytes, "index.sqlite")
}

fn block_file(bytes: &[u8], name: &str) -> Verdict {
    let directory = tempfile::tempdir().expect("a directory");
    let Some((part, rest)) = bytes.split_first() else { return Verdict::Refused };
    let kept = fill_store(directory.path());
    let file = directory.path().join(name);
    match part % 2 {
        0 => fs::write(&file, rest).expect("writes"),
        _ => edit(&file, rest),
    }
    let readable = check_store(directory.path());
    Verdict::of(readable.is_ok_and(|readable| readable == kept))
}

fn open(directory: &Path) -> Result<DiskBlockStore, StoreError> {
    DiskBlockStore::open(directory, INSTANCE, DiskOptions::default())
}

/// A store with blocks and removals. Returns how many blocks it keeps.
fn fill_store(directory: &Path) -> usize {
    let store = open(directory).expect("a new store");
    let blocks: Vec<Block> = [&b"one"[..], b"two", &[3; 100], b"gone", b"SLBK inside"].map(block).into();
    store.put(&blocks).expect("puts");
    store.remove(&[blocks[3].hash()]).expect("removes");
    blocks.len() - 1
}

fn block(bytes: &[u8]) -> Block {
    Block::new(Bytes::copy_from_slice(bytes)).expect("a block")
}

/// Nothing wrong comes out, and what is put now is there also after the next start. Returns how many blocks
/// could be read.
fn check_store(directory: &Path) -> Result<usize, StoreError> {
    let new = block(b"put afterwards");
    let readable = {
        let store = open(directory)?;
        let readable = read_all(&store);
        store.put(std::slice::from_ref(&new))?;
        readable
    };
    let store = open(directory)?;
    assert_eq!(store.get(&new.hash()).expect("reads").as_ref(), Some(new.bytes()), "an acknowledged block is there");
    assert!(read_all(&store) > readable, "what could be read before can be read still");
    Ok(readable)
}

fn read_all(store: &DiskBlockStore) -> usize {
    let hashes = store.list(None, 1000).unwrap_or_default();
    let intact = |hash: &&BlockHash| match store.get(hash) {
        Ok(Some(bytes)) => {
            assert_eq!(BlockHash::of(&bytes), **hash, "never other bytes");
            true
        }
        Ok(None) | Err(_) => false,
    };
    hashes.iter().filter(intact).count()
}

/// Edits of a file: of four bytes the first says what to do (cut, copy to the end, overwrite), then come the
/// place and the value.
fn edit(path: &Path, edits: &[u8]) {
    let mut bytes = fs::read(path).expect("reads");
    for edit in edits.chunks_exact(4).take(EDITS) {
        let [what, high, low, value] = *edit else { continue };
        let at = (usize::from(high) << 8 | usize::from(low)) % bytes.len().max(1);
        match what % 4 {
            0 => bytes.truncate(at),
            1 if bytes.len() < LONGEST_FILE => bytes.extend_from_within(at..),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
        }
    }
    fs::write(path, bytes).expect("writes");
}
