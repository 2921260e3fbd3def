//! Commits per second on each metadata database, beside what the engine itself commits; all in one run, since
//! anything that waits for a disk differs from one minute to the next.
//!
//! `cargo bench -p server --bench commits [-- SECONDS]`; MariaDB is started by the program itself.

#![expect(clippy::print_stdout, reason = "its table is what it is for")]

mod settings;

use api::LinkRequest;
use api::service::Identity;
use meta_service::MetaService;
use metadata_store_mysql::private_server::PrivateServer;
use model::{
    Blocklist, Body, Commit, CommitKey, CommitOutcome, Epoch, Mtime, Name, NamespaceId, NodeId, Operation, Position,
};
use mysql::prelude::Queryable;
use settings::{cpu, embedded, shared};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PASSWORD: &str = "correct horse battery staple";
const WRITERS: usize = 64;
/// The table in which an engine stores rows by itself.
const ALONE: &str = "alone";
/// How long each figure is measured, unless the command line says otherwise.
const SECONDS: u64 = 10;

fn main() {
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(SECONDS);
    let time = Duration::from_secs(seconds);
    let folder = tempfile::tempdir().expect("a folder");
    let database = PrivateServer::start();
    println!("| what | writers | commits/s | p50 | p99 | processor time each |\n|---|---|---|---|---|---|");
    sqlite_alone(folder.path(), time);
    let sqlite = server::open(&embedded(folder.path())).expect("opens");
    service("SQLite", &sqlite, time);
    for writers in [1, WRITERS] {
        mariadb_alone(&database, writers, time);
    }
    let mariadb = server::open(&shared(folder.path(), &database)).expect("opens");
    service("MariaDB", &mariadb, time);
}

/// One row in one durable transaction, as the engine does it by itself.
fn sqlite_alone(folder: &Path, time: Duration) {
    let connection = rusqlite::Connection::open(folder.join("alone.sqlite")).expect("opens");
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE {ALONE} (id INTEGER PRIMARY KEY, body BLOB);"
        ))
        .expect("a table");
    let connection = Mutex::new(connection);
    measure("SQLite, one row of 100 bytes", 1, time, |_| {
        let connection = connection.lock().expect("no panic");
        connection.execute(&format!("INSERT INTO {ALONE} (body) VALUES (?1)"), [[7_u8; 100]]).expect("commits");
    });
}

/// As [`sqlite_alone`], from one or many connections.
fn mariadb_alone(database: &PrivateServer, writers: usize, time: Duration) {
    let table = format!("syncline.{ALONE}_{writers}");
    database.as_root(&format!("CREATE TABLE {table} (id BIGINT AUTO_INCREMENT PRIMARY KEY, body VARBINARY(100))"));
    let connections: Vec<_> = (0..writers).map(|_| Mutex::new(database.connect())).collect();
    let insert = format!("INSERT INTO {table} (body) VALUES (?)");
    measure("MariaDB, one row of 100 bytes", writers, time, |writer| {
        let mut connection = connections[writer].lock().expect("no panic");
        connection.exec_drop(&insert, ([7_u8; 100].as_slice(),)).expect("commits");
    });
}

/// Commits of one new file each.
fn service(engine: &str, meta: &MetaService, time: Duration) {
    let epoch = meta.server().expect("answers").epoch;
    let one = account(meta, 0, WRITERS);
    measure(&format!("{engine}, one namespace"), WRITERS, time, |writer| one[writer].commit(meta, epoch));
    let many: Vec<_> = (1..=WRITERS).flat_map(|number| account(meta, number, 1)).collect();
    measure(&format!("{engine}, {WRITERS} namespaces"), WRITERS, time, |writer| many[writer].commit(meta, epoch));
}

/// A device that makes files.
struct Writer {
    who: Identity,
    root: NamespaceId,
    made: AtomicU64,
}

fn account(meta: &MetaService, number: usize, devices: usize) -> Vec<Writer> {
    let email = format!("{number}@example.org");
    meta.add_user(&email, PASSWORD).expect("adds");
    let device = |number| {
        let request = LinkRequest { email: email.clone(), password: PASSWORD.into(), device_name: format!("{number}") };
        let link = meta.link(&request).expect("links");
        let who = Identity { account: link.account, device: link.device };
        Writer { who, root: link.root, made: AtomicU64::new(0) }
    };
    (0..devices).map(device).collect()
}

impl Writer {
    fn commit(&self, meta: &MetaService, epoch: Epoch) {
        let number = self.made.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut id = *self.who.device.as_bytes();
        id[8..].copy_from_slice(&number);
        let name = id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let body = Body::File { blocks: Blocklist(Vec::new()), size: 0, executable: false, mtime: Mtime(0) };
        let (node, parent) = (NodeId(id), self.root.root());
        let operation = Operation::Create { node, parent, name: Name::parse(&name).expect("legal"), body };
        let (key, seen, operations) = (CommitKey(id), Position::START, vec![operation]);
        let outcome = meta.commit(self.who, Commit { namespace: self.root, epoch, key, seen, operations });
        assert!(matches!(outcome, Ok(CommitOutcome::Accepted { .. })), "{outcome:?}");
    }
}

/// Lets writers work for a time, and prints a line of the table.
fn measure(what: &str, writers: usize, time: Duration, work: impl Fn(usize) + Sync) {
    let (started, before) = (Instant::now(), cpu());
    let run = |writer| {
        let mut took = Vec::new();
        while started.elapsed() < time {
            let begun = Instant::now();
            work(writer);
            took.push(begun.elapsed());
        }
        took
    };
    let run = &run;
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers).map(|writer| scope.spawn(move || run(writer))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let rate = took.len() as f64 / started.elapsed().as_secs_f64();
    let (here, there) = cpu();
    let each = (here - before.0 + there - before.1).as_secs_f64() * 1e6 / took.len() as f64;
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!("| {what} | {writers} | {rate:.0} | {:.2} ms | {:.2} ms | {each:.0} us |", at(0.5), at(0.99));
}
