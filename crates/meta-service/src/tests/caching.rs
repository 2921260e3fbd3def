//! `changes` through a cache: what it answers is what the database says, whatever the cache does.

use super::*;
use api::{ApiError, ChangesReply, ChangesRequest, LeaveRequest};
use cache::lying::LyingCache;
use cache::private_server::PrivateServer;
use cache::{Cache, InProcessCache, MemcachedCache, Servers};
use metadata_store::Chunking;
use metadata_store_mysql::private_server::PrivateServer as PrivateMariaDb;
use metadata_store_mysql::{MysqlStore, Pauses};
use model::Cursor;

/// What becomes of a cache while it is used.
type Fate<'a> = &'a mut dyn FnMut(u64);

fn below(seed: u64) -> impl Fn(u64) -> u64 + Send + Sync {
    let count = AtomicU64::new(seed << 32);
    move |n| mix(count.fetch_add(1, Ordering::Relaxed)) % n
}

fn memcached(server: &PrivateServer, patience_ms: u64) -> Arc<dyn Cache> {
    let url = format!("memcached://{}?patience_ms={patience_ms}", server.name());
    Arc::new(MemcachedCache::new(&Servers::from_url(&url).expect("is one")))
}

fn changes(service: &MetaService, who: Identity, cursor: &Cursor) -> Result<ChangesReply, ApiError> {
    let server = service.server()?;
    let request = ChangesRequest { instance: server.instance, epoch: server.epoch, cursor: cursor.clone() };
    service.changes(who, &request)
}

fn batch(bench: &Bench, folder: NodeId, size: u64) -> Vec<Operation> {
    let one = |_| {
        let node = bench.new_node();
        create(node, folder, &node.to_string(), empty_file())
    };
    (0..size).map(one).collect()
}

/// Two services with caches over one store, and one without. Some write, some look from where they were or
/// from anywhere: all are told the same, and who follows the journal has all of it, in order.
fn all_are_told_the_same(store: Arc<dyn MetadataStore>, caches: [Arc<dyn Cache>; 2], seed: u64, fate: Fate<'_>) {
    let bench = Bench::over(store.clone());
    let cached = caches.map(|cache| JournalCache::new(cache, Chunking::FINEST));
    let cached = cached.map(|cache| Bench::with_cache(store.clone(), Some(cache)));
    let (me, guest) = (bench.user("a@x"), bench.user("b@x"));
    let folder = bench.mkdir(&me, me.root, me.root.root(), "shared");
    let share = bench.share(&me, folder, &guest, Role::Viewer);
    let any = below(seed);
    let start = Cursor::from([(me.root, Position::START), (share, Position::START)]);
    let mut followers = [(&cached[0], start.clone(), Vec::new()), (&cached[1], start, Vec::new())];
    for step in 0..60 {
        fate(step);
        let namespace = if any(2) == 0 { me.root } else { share };
        if any(3) > 0 {
            bench.accept(&me, namespace, batch(&bench, namespace.root(), any(7) + 1));
        }
        let somewhere = |namespace| (namespace, Position(any(bench.head(namespace).0 + 1)));
        let cursor = Cursor::from([somewhere(me.root), somewhere(share)]);
        let expected = changes(&bench.service, me.who, &cursor).expect("answers");
        for other in &cached {
            assert_eq!(changes(&other.service, me.who, &cursor).as_ref(), Ok(&expected), "step {step}: {cursor:?}");
        }
        let (via, cursor, read) = &mut followers[usize::try_from(any(2)).expect("small")];
        for page in changes(&via.service, me.who, cursor).expect("answers").namespaces {
            let before = cursor.insert(page.namespace, page.head).expect("is followed");
            assert!(page.head >= before, "a cursor never goes back");
            assert_eq!(page.head, bench.head(page.namespace), "what is committed is seen");
            read.extend(page.entries.into_iter().map(|entry| (page.namespace, entry)));
        }
    }
    for (via, cursor, read) in &mut followers {
        for page in changes(&via.service, me.who, cursor).expect("answers").namespaces {
            read.extend(page.entries.into_iter().map(|entry| (page.namespace, entry)));
        }
        for namespace in [me.root, share] {
            let followed: Vec<JournalEntry> =
                read.iter().filter(|(of, _)| *of == namespace).map(|(_, entry)| entry.clone()).collect();
            assert_eq!(followed, bench.journal(namespace));
        }
    }
}

fn memory_store() -> Arc<dyn MetadataStore> {
    Arc::new(SqliteStore::in_memory().expect("opens"))
}

#[test]
fn a_cache_in_memory_changes_no_answer_full_or_tiny() {
    for (seed, room) in [(1, 1 << 20), (2, 3000), (3, 0)] {
        let cache: Arc<dyn Cache> = Arc::new(InProcessCache::new(room));
        all_are_told_the_same(memory_store(), [cache.clone(), cache], seed, &mut |_| ());
    }
}

#[test]
fn a_cache_that_answers_with_what_was_true_yesterday_changes_no_answer() {
    for seed in 0..20 {
        let cache: Arc<dyn Cache> = Arc::new(LyingCache::new(below(seed + 100)));
        all_are_told_the_same(memory_store(), [cache.clone(), cache.clone()], seed, &mut |_| ());
        let hits = cache.counts().hits.load(Ordering::Relaxed);
        assert!(hits > 100, "it has been believed nothing: {hits}");
    }
}

#[test]
fn two_services_share_a_memcached_on_one_mariadb() {
    let (database, server) = (PrivateMariaDb::start(), PrivateServer::start());
    let pauses = Pauses::new(std::thread::sleep, |n| n / 2);
    let store = MysqlStore::open(&database.options(), Some(PrivateMariaDb::PASSWORD), pauses).expect("opens");
    let caches = [memcached(&server, 5000), memcached(&server, 5000)];
    all_are_told_the_same(Arc::new(store), caches.clone(), 1, &mut |_| ());
    for cache in caches {
        let counts = cache.counts();
        assert!(counts.hits.load(Ordering::Relaxed) > 20, "{counts:?}");
        assert_eq!(counts.failures.load(Ordering::Relaxed), 0, "{counts:?}");
    }
}

#[test]
fn a_memcached_that_is_flushed_killed_started_again_or_hangs_changes_no_answer() {
    let mut server = PrivateServer::start();
    let caches = [memcached(&server, 20), memcached(&server, 5000)];
    let any = below(9);
    let mut runs = true;
    let fate = &mut |_| match (runs, any(4)) {
        (true, 0) => server.flush(),
        (true, 1) => {
            server.kill();
            runs = false;
        }
        (false, 0 | 1) => {
            server.run();
            runs = true;
        }
        (true | false, _) => {}
    };
    all_are_told_the_same(memory_store(), caches, 2, fate);
    let hanging = PrivateServer::start();
    let (caches, mut hangs) = ([memcached(&hanging, 20), memcached(&hanging, 20)], false);
    let fate = &mut |step| {
        if step % 10 == 5 {
            hangs = !hangs;
            if hangs { hanging.freeze() } else { hanging.thaw() }
        }
    };
    all_are_told_the_same(memory_store(), caches, 3, fate);
    let mut gone = PrivateServer::start();
    gone.kill();
    all_are_told_the_same(memory_store(), [memcached(&gone, 5000), memcached(&gone, 5000)], 4, &mut |_| ());
}

#[test]
fn who_is_no_member_any_more_is_told_nothing_of_what_is_cached() {
    let cache = JournalCache::new(Arc::new(InProcessCache::new(1 << 20)), Chunking::FINEST);
    let bench = Bench::with_cache(memory_store(), Some(cache));
    let (me, guest) = (bench.user("a@x"), bench.user("b@x"));
    let folder = bench.mkdir(&me, me.root, me.root.root(), "shared");
    let share = bench.share(&me, folder, &guest, Role::Viewer);
    bench.accept(&me, share, batch(&bench, folder, 8));
    let told = || {
        let cursor = Cursor::from([(share, Position::START)]);
        changes(&bench.service, guest.who, &cursor).map(|reply| reply.namespaces[0].entries.len())
    };
    assert_eq!(told(), Ok(8));
    assert_eq!(told(), Ok(8));
    bench.service.leave(guest.who, &LeaveRequest { namespace: share }).expect("leaves");
    assert_eq!(told(), Ok(0));
    let request = api::UnlinkRequest { device: Some(guest.who.device) };
    bench.service.unlink(guest.who, &request).expect("unlinks");
    assert_eq!(told().map_err(|error| error.code), Err(api::ErrorCode::Unlinked));
}

#[test]
fn after_the_epoch_rose_nothing_of_the_lost_journal_is_told() {
    let cache: Arc<dyn Cache> = Arc::new(InProcessCache::new(1 << 20));
    let cached = || Some(JournalCache::new(cache.clone(), Chunking::FINEST));
    // Two stores whose chance is the same: one has the installation, account and device of the other's backup.
    let (lost, restored) = (Bench::with_cache(memory_store(), cached()), Bench::with_cache(memory_store(), cached()));
    let people = [&lost, &restored].map(|bench| bench.user("a@x"));
    assert_eq!(people[0].who, people[1].who);
    restored.service.bump_epoch().expect("rises");
    for (bench, size) in [(&lost, 6), (&restored, 3)] {
        let me = &people[0];
        bench.key();
        bench.accept(me, me.root, batch(bench, me.root.root(), size));
        bench.accept(me, me.root, batch(bench, me.root.root(), 9 - size));
        let cursor = Cursor::from([(me.root, Position::START)]);
        for _ in 0..2 {
            let told = changes(&bench.service, me.who, &cursor).expect("answers");
            assert_eq!(told.namespaces[0].entries, bench.journal(me.root));
        }
    }
    assert_ne!(lost.journal(people[0].root), restored.journal(people[0].root));
}
