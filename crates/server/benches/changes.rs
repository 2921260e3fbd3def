//! How long many devices need to read a whole journal from its beginning, on each metadata database, with and
//! without a cache; all in one run, since the machine differs from one minute to the next.
//!
//! `cargo bench -p server --bench changes [-- ENTRIES]`; MariaDB and memcached are started by the program itself.

#![expect(clippy::print_stdout, reason = "its table is what it is for")]

mod settings;

use api::service::Identity;
use api::{ChangesRequest, LinkRequest};
use cache::private_server::PrivateServer as PrivateMemcached;
use cache::{Cache, InProcessCache, MemcachedCache, Servers};
use meta_service::MetaService;
use metadata_store::{Chunking, JournalCache};
use metadata_store_mysql::private_server::PrivateServer;
use model::{
    BlockHash, Blocklist, Body, Commit, CommitKey, CommitOutcome, Cursor, Mtime, Name, NamespaceId, NodeId, Operation,
    Position,
};
use server::Config;
use settings::{cpu, embedded, shared};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

const PASSWORD: &str = "correct horse battery staple";
const DEVICES: usize = 50;
/// Entries of the journal, unless the command line says otherwise.
const ENTRIES: u64 = 20_000;
/// Entries of one commit.
const BATCH: u64 = 100;
/// How often each figure is measured; the median is shown.
const ROUNDS: usize = 3;

/// Makes an empty cache.
type NewCache<'a> = &'a dyn Fn() -> Arc<dyn Cache>;

fn main() {
    let entries = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(ENTRIES);
    let folder = tempfile::tempdir().expect("a folder");
    let (database, memcached) = (PrivateServer::start(), PrivateMemcached::start());
    println!("{DEVICES} devices read {entries} entries each.\n");
    println!(
        "| database | cache | all are done | CPU here | CPU of MariaDB | hits | misses |\n|---|---|---|---|---|---|---|"
    );
    for (name, config) in [("SQLite", embedded(folder.path())), ("MariaDB", shared(folder.path(), &database))] {
        let meta = server::open(&config).expect("opens");
        let (root, devices) = devices(&meta);
        write(&meta, devices[0], root, entries);
        drop(meta);
        read_by_all(name, "none", &config, &devices, root, None);
        let kinds: [(&str, NewCache<'_>); 2] = [
            ("in memory", &|| Arc::new(InProcessCache::new(64 << 20))),
            ("memcached", &|| {
                memcached.flush();
                Arc::new(MemcachedCache::new(&Servers::from_url(&memcached.url()).expect("is one")))
            }),
        ];
        for (kind, new) in kinds {
            read_by_all(name, kind, &config, &devices, root, Some(new));
        }
    }
}

fn devices(meta: &MetaService) -> (NamespaceId, Vec<Identity>) {
    meta.add_user("a@example.org", PASSWORD).expect("adds");
    let links: Vec<_> = (0..DEVICES)
        .map(|number| {
            let device_name = number.to_string();
            let request = LinkRequest { email: "a@example.org".into(), password: PASSWORD.into(), device_name };
            meta.link(&request).expect("links")
        })
        .collect();
    let who = links.iter().map(|link| Identity { account: link.account, device: link.device }).collect();
    (links[0].root, who)
}

/// A journal of new files of one block each.
fn write(meta: &MetaService, who: Identity, root: NamespaceId, entries: u64) {
    use api::service::{MetaForBlocks, StoredBlock};
    let epoch = meta.server().expect("answers").epoch;
    let block = BlockHash([7; 32]);
    meta.stored(who, &[StoredBlock { hash: block, len: 1 }], None).expect("notes");
    for batch in 0..entries / BATCH {
        let creation = |n: u64| {
            let node = NodeId((u128::from(batch * BATCH + n) | 1 << 120).to_be_bytes());
            let body = Body::File { blocks: Blocklist(vec![block]), size: 1, executable: false, mtime: Mtime(0) };
            let name = Name::parse(&format!("a file with a usual name {batch} {n}.txt")).expect("legal");
            Operation::Create { node, parent: root.root(), name, body }
        };
        let operations = (0..BATCH).map(creation).collect();
        let key = CommitKey(u128::from(batch + 1).to_be_bytes());
        let outcome = meta.commit(who, Commit { namespace: root, epoch, key, seen: Position::START, operations });
        assert!(matches!(outcome, Ok(CommitOutcome::Accepted { .. })), "{outcome:?}");
    }
}

/// All devices at once, each from the beginning; a new cache each time.
fn read_by_all(
    database: &str,
    kind: &str,
    config: &Config,
    devices: &[Identity],
    root: NamespaceId,
    new_cache: Option<NewCache<'_>>,
) {
    let mut rounds = Vec::new();
    let mut found = (String::new(), String::new());
    for _ in 0..ROUNDS {
        let cache = new_cache.map(|new| new());
        let mut meta = server::open(config).expect("opens");
        if let Some(cache) = &cache {
            meta = meta.with_journal_cache(JournalCache::new(cache.clone(), Chunking::STANDARD));
        }
        let (begun, before) = (Instant::now(), cpu());
        std::thread::scope(|scope| {
            for device in devices {
                scope.spawn(|| read(&meta, *device, root));
            }
        });
        let (here, there) = cpu();
        rounds.push((begun.elapsed(), here - before.0, there - before.1));
        if let Some(cache) = cache {
            let counts = cache.counts();
            found = [&counts.hits, &counts.misses].map(|count| count.load(Ordering::Relaxed).to_string()).into();
        }
    }
    rounds.sort();
    let (took, here, there) = rounds[ROUNDS / 2];
    let [took, here, there] = [took, here, there].map(|time| format!("{:.2} s", time.as_secs_f64()));
    println!("| {database} | {kind} | {took} | {here} | {there} | {} | {} |", found.0, found.1);
}

fn read(meta: &MetaService, who: Identity, root: NamespaceId) {
    let server = meta.server().expect("answers");
    let mut at = Position::START;
    loop {
        let cursor = Cursor::from([(root, at)]);
        let request = ChangesRequest { instance: server.instance, epoch: server.epoch, cursor };
        let page = meta.changes(who, &request).expect("answers").namespaces.remove(0);
        at = page.entries.last().map_or(page.head, |entry| entry.position);
        if at == page.head {
            return;
        }
    }
}
