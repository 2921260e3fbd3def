//! How much of its tables the database reads to answer; on a real MariaDB.

use metadata_store::{Lookups, MetadataStore, PageLimit, StoreError};
use metadata_store_mysql::private_server::PrivateServer;
use metadata_store_mysql::{MysqlStore, Pauses};
use model::{
    AccountId, BlockHash, Blocklist, Body, Change, CommitKey, CommitOutcome, DeviceId, JournalEntry, Mtime,
    NamespaceId, NodeId, Position, Timestamp,
};

const NS: NamespaceId = NamespaceId([0xaa; 16]);
const ACCOUNT: AccountId = AccountId([7; 16]);
/// Rows of each kind in the namespace.
const ROWS: u32 = 2000;
/// Those that are looked up, and as many that are not there.
const ASKED: u32 = 20;
/// Rows that may be read for each that is looked up: it, and its neighbour where the search ends.
const READ_FOR_EACH: u64 = 4;

fn hash(number: u32) -> BlockHash {
    BlockHash::of(&number.to_le_bytes())
}

fn commit_id(number: u32) -> (DeviceId, CommitKey) {
    let key = *hash(number).as_bytes();
    (DeviceId(std::array::from_fn(|byte| key[byte] & 1)), CommitKey(std::array::from_fn(|byte| key[byte])))
}

fn rows_read(server: &PrivateServer) -> u64 {
    let names = "'HANDLER_READ_NEXT', 'HANDLER_READ_PREV', 'HANDLER_READ_KEY', 'HANDLER_READ_RND_NEXT'";
    server.ask(&format!(
        "SELECT CAST(SUM(VARIABLE_VALUE) AS UNSIGNED) FROM information_schema.global_status
         WHERE VARIABLE_NAME IN ({names})"
    ))
}

#[test]
fn what_is_looked_up_is_found_without_reading_the_namespace() {
    let server = PrivateServer::start();
    let pauses = Pauses::new(std::thread::sleep, |n| n / 2);
    let store = MysqlStore::open(&server.options(), Some(PrivateServer::PASSWORD), pauses).expect("opens");
    let store: &dyn MetadataStore = &store;
    let blocks: Vec<BlockHash> = (0..ROWS).map(hash).collect();
    let written = store.write(|tx| {
        tx.insert_namespace(NS)?;
        tx.add_named_blocks(NS, &blocks)?;
        tx.add_uploaded_blocks(ACCOUNT, &blocks, Timestamp(1))?;
        for number in 0..ROWS {
            let (device, key) = commit_id(number);
            let outcome = CommitOutcome::Accepted { head: Position(1), time: Timestamp(1) };
            tx.put_outcome(NS, device, key, &outcome, Timestamp(1))?;
        }
        Ok::<_, StoreError>(())
    });
    written.expect("commits");
    let asked = || (0..ASKED).chain(ROWS..ROWS + ASKED);
    let hashes: Vec<BlockHash> = asked().map(hash).collect();
    let there: Vec<bool> = asked().map(|number| number < ROWS).collect();
    let looked_up = Lookups {
        namespace: NS,
        devices: vec![],
        accounts: vec![],
        outcomes: asked().map(commit_id).collect(),
        nodes: vec![],
        places: vec![],
        new_nodes: vec![],
        blocks: hashes.iter().map(|hash| (ACCOUNT, *hash)).collect(),
    };
    // Counting reads a table of some hundred rows, too.
    let counting = {
        let once = rows_read(&server);
        rows_read(&server) - once
    };
    let before = rows_read(&server);
    let found = store.snapshot(|reading| {
        let named = reading.names_blocks(NS, &hashes)?;
        Ok::<_, StoreError>((named, reading.uploaded_blocks(ACCOUNT, &hashes, Timestamp(0))?))
    });
    assert_eq!(found.expect("reads"), (there.clone(), there));
    let ahead = store.write(|tx| tx.prefetch(&looked_up));
    ahead.expect("fetches");
    let read = (rows_read(&server) - before).saturating_sub(counting);
    let limit = 5 * u64::from(2 * ASKED) * READ_FOR_EACH;
    assert!(read <= limit, "{read} rows were read, more than {limit}");
}

/// A file of a terabyte has a list of eight megabytes, and each change of its mode names it whole.
#[test]
fn a_page_of_the_journal_costs_what_it_holds_and_one_entry_more() {
    const ENTRIES: u64 = 40;
    const BLOCKS: u32 = 8192;
    let server = PrivateServer::start();
    let pauses = Pauses::new(std::thread::sleep, |n| n / 2);
    let store = MysqlStore::open(&server.options(), Some(PrivateServer::PASSWORD), pauses).expect("opens");
    let store: &dyn MetadataStore = &store;
    let blocks = Blocklist((0..BLOCKS).map(hash).collect());
    let entry_bytes = u64::from(BLOCKS) * 32;
    let entries = (1..=ENTRIES).map(|position| JournalEntry {
        position: Position(position),
        node: NodeId([1; 16]),
        change: Change::Edit {
            body: Body::File { blocks: blocks.clone(), size: 1, executable: position % 2 == 0, mtime: Mtime(0) },
        },
        device: None,
        time: Timestamp(1),
    });
    let entries: Vec<JournalEntry> = entries.collect();
    let written = store.write(|tx| {
        tx.insert_namespace(NS)?;
        tx.append(NS, &entries)
    });
    written.expect("commits");
    let sent = || {
        server.ask::<u64>(
            "SELECT CAST(VARIABLE_VALUE AS UNSIGNED) FROM information_schema.global_status
             WHERE VARIABLE_NAME = 'BYTES_SENT'",
        )
    };
    let limit = PageLimit { entries: 1000, blocks: 2 * BLOCKS as usize };
    let before = sent();
    let page = store.snapshot(|reading| reading.journal(NS, Position::START, limit)).expect("reads");
    assert_eq!(page.len(), 2);
    let versions = store.snapshot(|reading| reading.revisions(NS, NodeId([1; 16]), Position(ENTRIES), limit));
    assert_eq!(versions.expect("reads").len(), 2);
    let bytes = sent() - before;
    assert!((4 * entry_bytes..7 * entry_bytes).contains(&bytes), "{bytes} bytes");
}
