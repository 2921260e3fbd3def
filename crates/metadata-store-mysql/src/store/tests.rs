//! Migrations on a real MariaDB, with steps that do not exist yet.

use super::*;
use crate::private_server::PrivateServer;
use model::{Change, JournalEntry, NamespaceId, NodeId, Position, Timestamp};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const NS: NamespaceId = NamespaceId([0xaa; 16]);
/// The newest format that there is.
const KNOWN: i64 = STEPS.len() as i64;
/// A step that adds: programs of the newest format go on working.
const ADDS: Step = Step {
    sql: "ALTER TABLE journal ADD COLUMN colour VARBINARY(16);
          ALTER TABLE namespaces ADD COLUMN colour VARBINARY(16);",
    serves: KNOWN,
};
/// A step after which only programs that know it can work.
const TAKES: Step = Step { sql: "ALTER TABLE journal DROP COLUMN colour;", serves: KNOWN + 2 };

fn open(server: &PrivateServer, later: &[Step]) -> Result<MysqlStore, OpenError> {
    let pauses = Pauses::new(std::thread::sleep, |n| n / 2);
    let steps = [STEPS, later].concat();
    MysqlStore::open_with(&server.options(), Some(PrivateServer::PASSWORD), pauses, &steps)
}

fn append(store: &dyn MetadataStore) -> Position {
    let appended = store.write(|tx| {
        let position = tx.lock_namespace(NS)?.expect("it exists").head.next();
        let (node, change) = (NodeId([1; 16]), Change::Delete);
        tx.append(NS, &[JournalEntry { position, node, change, device: None, time: Timestamp(0) }])?;
        Ok::<_, StoreError>(position)
    });
    appended.expect("commits")
}

#[test]
fn a_server_goes_on_serving_while_newer_ones_change_the_tables() {
    let server = PrivateServer::start();
    let old = open(&server, &[]).expect("opens");
    let port: &dyn MetadataStore = &old;
    port.write(|tx| tx.insert_namespace(NS)).expect("a namespace");
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                written.store(append(port).0, Ordering::SeqCst);
            }
        });
        let newer: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&server, &[ADDS]))).collect();
        for one in newer {
            append(&one.join().expect("no panic").expect("opens beside the old one"));
        }
        let seen = written.load(Ordering::SeqCst);
        while written.load(Ordering::SeqCst) < seen + 10 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(
        server.ask::<i64>("SELECT COUNT(*) FROM syncline.schema_versions"),
        KNOWN + 1,
        "one of the four migrated"
    );
    append(&open(&server, &[]).expect("an old program starts on the newer tables, which still serve it"));
    drop(open(&server, &[ADDS, TAKES]).expect("opens"));
    let refused = open(&server, &[]).err().expect("it is not served any more");
    assert!(matches!(refused, OpenError::NewerFormat { found, known: KNOWN } if found == KNOWN + 2), "{refused:?}");
}

#[test]
fn a_step_that_was_interrupted_is_done_to_its_end() {
    let server = PrivateServer::start();
    drop(open(&server, &[]).expect("opens"));
    server.as_root("ALTER TABLE syncline.journal ADD COLUMN colour VARBINARY(16)");
    drop(open(&server, &[ADDS]).expect("goes on where the other was killed"));
    let columns = "SELECT COUNT(*) FROM information_schema.columns
                   WHERE table_schema = 'syncline' AND column_name = 'colour'";
    assert_eq!(
        (server.ask::<u64>(columns), server.ask::<i64>("SELECT MAX(version) FROM syncline.schema_versions")),
        (2, KNOWN + 1)
    );
}

#[test]
fn a_transaction_begins_with_all_that_other_nodes_of_a_cluster_have_committed() {
    let server = PrivateServer::start();
    let store = open(&server, STEPS).expect("opened");
    for pool in [&store.readers, &store.writers] {
        let mut lease = pool.take().expect("a connection");
        let connection = lease.connection().expect("it is open");
        let waits: Option<u8> = connection.driver.query_first("SELECT @@SESSION.wsrep_sync_wait").expect("asked");
        assert_eq!(waits, Some(7));
    }
}
