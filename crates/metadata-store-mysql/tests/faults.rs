//! What the store does when the database dies, refuses or gets in the way; on a real MariaDB.

use metadata_store::{MetadataStore, PageLimit, StoreError, Transaction, Writers};
use metadata_store_mysql::private_server::PrivateServer;
use metadata_store_mysql::{MysqlOptions, MysqlStore, OpenError, Pauses};
use model::{Change, CommitKey, CommitOutcome, DeviceId, JournalEntry, NamespaceId, NodeId, Position, Timestamp};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};

const NS: NamespaceId = NamespaceId([0xaa; 16]);
const OTHER: NamespaceId = NamespaceId([0xbb; 16]);
const DEVICE: DeviceId = DeviceId([2; 16]);
/// More entries than any test here appends.
const ALL: PageLimit = PageLimit { entries: 1_000_000, blocks: 0 };
/// The newest format of the tables.
const FORMAT: i64 = 4;

fn pauses() -> Pauses {
    Pauses::new(std::thread::sleep, |n| n / 2)
}

fn open(options: &MysqlOptions) -> Result<MysqlStore, OpenError> {
    MysqlStore::open(options, Some(PrivateServer::PASSWORD), pauses())
}

fn store(server: &PrivateServer) -> MysqlStore {
    let store = open(&server.options()).expect("opens");
    port(&store).write(|tx| tx.insert_namespace(NS)).expect("a namespace");
    store
}

fn port(store: &MysqlStore) -> &dyn MetadataStore {
    store
}

fn tombstone(position: Position) -> JournalEntry {
    let (node, change, device) = (NodeId([1; 16]), Change::Delete, Some(DEVICE));
    JournalEntry { position, node, change, device, time: Timestamp(3) }
}

/// One commit as the meta service makes it: known by its key, decided under the lock.
fn commit(store: &dyn MetadataStore, namespace: NamespaceId, key: CommitKey) -> Result<Position, StoreError> {
    store.write(|tx| {
        let row = tx.lock_namespace(namespace)?.expect("it exists");
        if let Some(CommitOutcome::Accepted { head, .. }) = tx.outcome(namespace, DEVICE, key)? {
            return Ok(head);
        }
        let head = row.head.next();
        tx.append(namespace, &[tombstone(head)])?;
        tx.put_outcome(namespace, DEVICE, key, &CommitOutcome::Accepted { head, time: Timestamp(3) }, Timestamp(3))?;
        Ok(head)
    })
}

/// Sends what a transaction has written, which it otherwise does at its end.
fn send(tx: &dyn Transaction) -> Result<(), StoreError> {
    tx.forget_uploads(Timestamp(0), 1).map(drop)
}

fn head(store: &dyn MetadataStore, namespace: NamespaceId) -> u64 {
    store.snapshot(|r| Ok::<_, StoreError>(r.namespace(namespace)?.expect("it exists").head.0)).expect("reads")
}

fn assert_dense(store: &dyn MetadataStore, namespace: NamespaceId) -> u64 {
    let entries = store.snapshot(|r| r.journal(namespace, Position::START, ALL)).expect("reads");
    let head = head(store, namespace);
    assert!(entries.iter().map(|record| record.entry.position.0).eq(1..=head), "no gap and no double up to {head}");
    head
}

fn key(number: u128) -> CommitKey {
    CommitKey(number.to_be_bytes())
}

#[test]
fn what_is_read_after_the_lock_is_what_its_last_holder_left() {
    let server = PrivateServer::start();
    let (one, two) = (store(&server), open(&server.options()).expect("opens"));
    let gate = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut first = true;
            port(&two)
                .write(|tx| {
                    // A look before the lock, which at REPEATABLE READ would fix what is seen after it.
                    let seen = tx.namespace(NS)?.expect("it exists").head;
                    if std::mem::take(&mut first) {
                        assert_eq!(seen, Position(0));
                        gate.wait();
                        gate.wait();
                    }
                    let row = tx.lock_namespace(NS)?.expect("it exists");
                    assert_eq!(row.head, Position(1));
                    assert_eq!(tx.journal(NS, Position::START, ALL)?.len(), 1);
                    tx.append(NS, &[tombstone(row.head.next())])
                })
                .expect("commits");
        });
        gate.wait();
        commit(port(&one), NS, key(1)).expect("commits");
        gate.wait();
    });
    assert_eq!(assert_dense(port(&one), NS), 2);
    assert_eq!(one.writers(), Writers::PerNamespace);
}

/// A server whose host lost its network in the middle of a transaction kept its namespace from all others for a minute.
#[test]
fn the_lock_of_a_server_that_has_vanished_ends_before_the_others_give_up() {
    let server = PrivateServer::start();
    let (one, vanished) = (store(&server), open(&server.options()).expect("opens"));
    let gate = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut first = true;
            let late = port(&vanished).write(|tx| {
                let row = tx.lock_namespace(NS)?.expect("it exists");
                if std::mem::take(&mut first) {
                    gate.wait();
                    gate.wait();
                }
                tx.append(NS, &[tombstone(row.head.next())])
            });
            assert!(matches!(late, Err(StoreError::OutcomeUnknown { .. })), "{late:?}");
        });
        gate.wait();
        let committed = commit(port(&one), NS, key(1));
        gate.wait();
        assert_eq!(committed.expect("commits while the other one is silent"), Position(1));
    });
    assert_eq!(assert_dense(port(&one), NS), 1);
}

#[test]
fn a_deadlock_is_resolved_by_doing_the_work_again() {
    let server = PrivateServer::start();
    let store = store(&server);
    port(&store).write(|tx| tx.insert_namespace(OTHER)).expect("a namespace");
    let (both_locked, met) = (Barrier::new(2), AtomicBool::new(false));
    let attempts = Mutex::new(0);
    std::thread::scope(|scope| {
        for (first, second) in [(NS, OTHER), (OTHER, NS)] {
            let (store, both_locked, met, attempts) = (&store, &both_locked, &met, &attempts);
            scope.spawn(move || {
                port(store)
                    .write(|tx| {
                        *attempts.lock().expect("no panic") += 1;
                        let row = tx.lock_namespace(first)?.expect("it exists");
                        if !met.load(Ordering::SeqCst) {
                            both_locked.wait();
                            met.store(true, Ordering::SeqCst);
                        }
                        tx.append(first, &[tombstone(row.head.next())])?;
                        let row = tx.lock_namespace(second)?.expect("it exists");
                        tx.append(second, &[tombstone(row.head.next())])
                    })
                    .expect("commits in the end");
            });
        }
    });
    assert!(attempts.into_inner().expect("no panic") >= 3, "one of them lost and came again");
    for namespace in [NS, OTHER] {
        assert_eq!(assert_dense(port(&store), namespace), 2);
    }
}

/// Work that swallows the error of a lost transaction must not get its second half committed.
#[test]
fn nothing_of_a_transaction_is_committed_after_the_database_has_ended_it() {
    let server = PrivateServer::start_with(&["--innodb-rollback-on-timeout=1"]);
    let store = store(&server);
    port(&store).write(|tx| tx.insert_namespace(OTHER)).expect("a namespace");
    let (locked, done) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            port(&store)
                .write(|tx| {
                    tx.lock_namespace(OTHER)?;
                    locked.wait();
                    done.wait();
                    Ok::<_, StoreError>(())
                })
                .expect("commits");
        });
        locked.wait();
        let (mut first, mut timed_out, mut over) = (true, false, false);
        port(&store)
            .write(|tx| {
                if !std::mem::take(&mut first) {
                    return Ok(());
                }
                tx.append(NS, &[tombstone(Position(1))])?;
                send(tx)?;
                timed_out = tx.lock_namespace(OTHER).is_err();
                over = tx.set_live_nodes(NS, 7).and_then(|()| send(tx)).is_err();
                Ok::<_, StoreError>(())
            })
            .expect("the second attempt");
        done.wait();
        assert!(timed_out, "another held the lock for longer than anyone waits");
        assert!(over, "nothing runs in a transaction that was ended");
    });
    let row = port(&store).snapshot(|r| r.namespace(NS)).expect("reads").expect("it exists");
    assert_eq!((row.head, row.live_nodes), (Position(0), 0));
}

#[test]
fn a_database_killed_in_the_middle_of_commits_loses_none_and_doubles_none() {
    const WRITERS: u128 = 8;
    const KILLS: usize = 4;
    let mut server = PrivateServer::start();
    let store = store(&server);
    let stop = AtomicBool::new(false);
    let acknowledged = Mutex::new(Vec::new());
    let unknown = Mutex::new(0);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, stop, acknowledged, unknown) = (&store, &stop, &acknowledged, &unknown);
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let key = key(writer << 64 | number);
                    let position = loop {
                        match commit(port(store), NS, key) {
                            Ok(position) => break position,
                            Err(StoreError::OutcomeUnknown { .. }) => *unknown.lock().expect("no panic") += 1,
                            Err(StoreError::Unreachable { .. } | StoreError::Busy { .. }) => {}
                            Err(other) => panic!("{other:?}"),
                        }
                    };
                    acknowledged.lock().expect("no panic").push(position.0);
                }
            });
        }
        let count = || acknowledged.lock().expect("no panic").len();
        for _ in 0..KILLS {
            let enough = count() + 40;
            while count() < enough {
                std::thread::yield_now();
            }
            server.kill();
            server.run();
        }
        stop.store(true, Ordering::SeqCst);
    });
    let mut acknowledged = acknowledged.into_inner().expect("no panic");
    acknowledged.sort_unstable();
    let head = assert_dense(port(&store), NS);
    assert!(acknowledged.into_iter().eq(1..=head), "every entry belongs to one acknowledged commit");
    eprintln!("{head} commits, {} of unknown outcome", unknown.into_inner().expect("no panic"));
}

#[test]
fn a_connection_that_breaks_during_a_commit_leaves_the_outcome_to_the_key() {
    let server = PrivateServer::start();
    let store = store(&server);
    // The session is ended between the work and its COMMIT, as a balancer might end it.
    let cut = |tx: &dyn Transaction| {
        let row = tx.lock_namespace(NS)?.expect("it exists");
        tx.append(NS, &[tombstone(row.head.next())])?;
        send(tx)?;
        let session: u64 =
            server.ask("SELECT trx_mysql_thread_id FROM information_schema.innodb_trx WHERE trx_rows_modified > 0");
        server.as_root(&format!("KILL CONNECTION {session}"));
        Ok::<_, StoreError>(())
    };
    let result = port(&store).write(cut);
    assert!(matches!(result, Err(StoreError::OutcomeUnknown { .. })), "{result:?}");
    assert_eq!(head(port(&store), NS), 0, "here it did not happen, which the store could not know");
    assert_eq!(commit(port(&store), NS, key(1)).expect("commits"), Position(1));
    assert_eq!(commit(port(&store), NS, key(1)).expect("is known"), Position(1));
}

#[test]
fn idle_connections_that_a_restart_has_ended_are_not_noticed() {
    let mut server = PrivateServer::start();
    let store = store(&server);
    commit(port(&store), NS, key(1)).expect("commits");
    server.kill();
    server.run();
    commit(port(&store), NS, key(2)).expect("commits");
    assert_eq!(assert_dense(port(&store), NS), 2);
}

#[test]
fn a_read_only_database_is_said_to_be_one_and_can_be_read() {
    let server = PrivateServer::start();
    let store = store(&server);
    server.as_root("SET GLOBAL read_only = 1");
    let result = commit(port(&store), NS, key(1));
    assert!(matches!(result, Err(StoreError::ReadOnly)), "{result:?}");
    assert_eq!(head(port(&store), NS), 0);
    open(&server.options()).expect("a database that needs no change of tables opens");
    server.as_root("SET GLOBAL read_only = 0");
    commit(port(&store), NS, key(1)).expect("commits");
}

#[test]
fn what_keeps_a_database_from_being_opened_is_said() {
    let mut server = PrivateServer::start();
    let wrong = MysqlStore::open(&server.options(), Some("wrong"), pauses());
    assert!(matches!(wrong, Err(OpenError::WrongPassword { .. })), "{:?}", wrong.err());
    let missing = open(&server.options_of("syncline_none"));
    assert!(matches!(missing, Err(OpenError::NoDatabase { .. })), "{:?}", missing.err());
    server.as_root("CREATE DATABASE secrets");
    let forbidden = open(&server.options_of("secrets"));
    assert!(matches!(forbidden, Err(OpenError::NoDatabase { .. })), "{:?}", forbidden.err());
    server.as_root("SET GLOBAL read_only = 1");
    let old = open(&server.new_database("syncline_old"));
    assert!(matches!(old, Err(OpenError::OlderFormat { found: 0, known: FORMAT, .. })), "{:?}", old.err());
    server.as_root("SET GLOBAL read_only = 0");
    let store = open(&server.options()).expect("opens");
    server.as_root("INSERT INTO syncline.schema_versions (version, serves) VALUES (99, 99)");
    let newer = open(&server.options());
    assert!(matches!(newer, Err(OpenError::NewerFormat { found: 99, known: FORMAT })), "{:?}", newer.err());
    server.kill();
    let gone = open(&server.options());
    assert!(matches!(gone, Err(OpenError::Unreachable { .. })), "{:?}", gone.err());
    for error in [wrong, missing, forbidden, old, newer, gone].map(|refused| refused.err().expect("refused")) {
        assert!(!error.hint().is_empty());
        assert!(!format!("{error:?}").contains(PrivateServer::PASSWORD), "no message shows the password");
    }
    drop(store);
}

/// An authority of its own, and a certificate of 127.0.0.1 that it has signed.
fn certificates(folder: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
        let output = output.expect("the tests need the Debian package openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority");
    openssl("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=database");
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1").expect("writes");
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names");
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout no.key -out other.pem -days 2 -subj /CN=another");
    for file in std::fs::read_dir(folder).expect("lists") {
        let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(file.expect("a file").path(), open_to_all).expect("the database's user reads it");
    }
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("opens");
}

#[test]
fn a_connection_that_is_to_be_encrypted_is_so_and_knows_its_server() {
    let folder = tempfile::tempdir().expect("a folder");
    certificates(folder.path());
    let file = |name| folder.path().join(name).display().to_string();
    let (certificate, key) =
        (format!("--ssl-cert={}", file("server.pem")), format!("--ssl-key={}", file("server.key")));
    let server = PrivateServer::start_on_network(&[&certificate, &key, "--require-secure-transport=1"]);
    let with = |settings: &str| {
        let options = MysqlOptions::from_url(&format!("{}?{settings}", server.url(PrivateServer::DATABASE)));
        open(&options.expect("a valid URL"))
    };
    let store = with(&format!("tls=on&ca={}", file("ca.pem"))).expect("opens");
    port(&store).write(|tx| tx.insert_namespace(NS)).expect("commits");
    let stranger = with(&format!("tls=on&ca={}", file("other.pem")));
    assert!(matches!(stranger, Err(OpenError::Unreachable { .. })), "{:?}", stranger.err());
    let unknown = with("tls=on");
    assert!(matches!(unknown, Err(OpenError::Unreachable { .. })), "{:?}", unknown.err());
    assert!(with("tls=off").is_err(), "this server takes encrypted connections only");
}

#[test]
fn servers_that_start_at_once_on_an_empty_database_make_its_tables_once() {
    let server = PrivateServer::start();
    let options = server.options();
    std::thread::scope(|scope| {
        let starting: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&options).map(drop))).collect();
        for one in starting {
            one.join().expect("no panic").expect("opens");
        }
    });
    assert_eq!(server.ask::<i64>("SELECT COUNT(*) FROM syncline.schema_versions"), FORMAT);
}
