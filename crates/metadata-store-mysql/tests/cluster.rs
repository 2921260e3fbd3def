//! Commits on several nodes of a Galera cluster at the same time, which get in each other's way.

use metadata_store::{Lookups, MetadataStore, PageLimit, StoreError};
use metadata_store_mysql::private_server::PrivateServer;
use metadata_store_mysql::{MysqlStore, Pauses};
use model::{
    BlockHash, Change, CommitKey, CommitOutcome, DeviceId, JournalEntry, NamespaceId, NodeId, Position, Timestamp,
};
use std::sync::Mutex;
use std::thread;

const NS: NamespaceId = NamespaceId([0xaa; 16]);
const DEVICE: DeviceId = DeviceId([2; 16]);
const ALL: PageLimit = PageLimit { entries: 1_000_000, blocks: 0 };
/// Threads that commit on each node.
const WRITERS: u32 = 8;
/// What each tries to commit: with COMMIT in one packet with what it commits, the nodes lost a part of one commit in
/// about three thousand.
const COMMITS: u32 = 1_000;

fn commit(store: &dyn MetadataStore, number: u32) -> Result<Position, StoreError> {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    let commit_key = CommitKey(*key.first_chunk().expect("long enough"));
    let lookups = Lookups {
        namespace: NS,
        devices: vec![DEVICE],
        accounts: Vec::new(),
        outcomes: vec![(DEVICE, commit_key)],
        nodes: vec![NodeId([1; 16])],
        places: Vec::new(),
        new_nodes: Vec::new(),
        blocks: Vec::new(),
    };
    store.write(|tx| {
        tx.prefetch(&lookups)?;
        let position = tx.lock_namespace(NS)?.expect("it exists").head.next();
        let (node, change, time) = (NodeId([1; 16]), Change::Delete, Timestamp(0));
        tx.add_named_blocks(NS, &[BlockHash(key)])?;
        tx.append(NS, &[JournalEntry { position, node, change, device: Some(DEVICE), time }])?;
        let outcome = CommitOutcome::Accepted { head: position, time };
        tx.put_outcome(NS, DEVICE, commit_key, &outcome, time)?;
        Ok(position)
    })
}

#[test]
fn a_commit_that_another_node_gets_in_the_way_of_happens_whole_or_not_at_all() {
    let Some(nodes) = PrivateServer::start_cluster() else {
        println!("skipped: Galera is not installed (Debian's galera-4)");
        return;
    };
    let stores: Vec<MysqlStore> = nodes
        .iter()
        .map(|node| {
            // Nobody gives way.
            let pauses = Pauses::new(|_| (), |_| 0);
            MysqlStore::open(&node.options(), Some(PrivateServer::PASSWORD), pauses).expect("opens")
        })
        .collect();
    let stores: Vec<&dyn MetadataStore> = stores.iter().map(|store| store as &dyn MetadataStore).collect();
    stores[0].write(|tx| tx.insert_namespace(NS)).expect("a namespace");

    let acknowledged = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for (store, writer) in stores.iter().flat_map(|store| (0..WRITERS).map(move |writer| (*store, writer))) {
            let first = COMMITS * (writer + if std::ptr::addr_eq(store, stores[0]) { 0 } else { WRITERS });
            let acknowledged = &acknowledged;
            scope.spawn(move || {
                for number in first..first + COMMITS {
                    match commit(store, number) {
                        Ok(position) => acknowledged.lock().expect("no panic").push(position),
                        // Others were faster ten times, or it is not known; the journal shows what there is.
                        Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
        }
    });

    let mut acknowledged = acknowledged.into_inner().expect("no panic");
    acknowledged.sort_unstable();
    assert!(acknowledged.len() > 1_000, "most commits get through: {}", acknowledged.len());
    for store in stores {
        let (head, journal) = store
            .snapshot(|db| {
                Ok::<_, StoreError>((db.namespace(NS)?.expect("it exists").head, db.journal(NS, Position(0), ALL)?))
            })
            .expect("read");
        let positions: Vec<u64> = journal.iter().map(|record| record.entry.position.0).collect();
        assert_eq!(positions, (1..=head.0).collect::<Vec<_>>(), "no position is missing");
        assert!(acknowledged.iter().all(|position| *position <= head), "nothing that was acknowledged is gone");
    }
    assert!(acknowledged.windows(2).all(|pair| pair[0] < pair[1]), "no position was given twice");
}
