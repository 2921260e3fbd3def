//! How much of its tables the database reads to answer; on a real MariaDB.

use metadata_store::{Lookups, MetadataStore, StoreError};
use metadata_store_mysql::private_server::PrivateServer;
use metadata_store_mysql::{MysqlStore, Pauses};
use model::{AccountId, BlockHash, CommitKey, CommitOutcome, DeviceId, NamespaceId, Position, Timestamp};

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
