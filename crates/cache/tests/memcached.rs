//! The adapter on real servers: the contract, and what becomes of servers that are slow, dead, flushed,
//! restarted or strange.

use cache::private_server::PrivateServer;
use cache::{Cache, Found, InProcessCache, Lease, MemcachedCache, Servers, contract};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LIFE: Duration = Duration::from_secs(600);

fn connect(url: &str) -> MemcachedCache {
    MemcachedCache::new(&Servers::from_url(url).expect("a valid URL"))
}

/// A cache that waits no longer than it does in the field.
fn impatient(server: &PrivateServer) -> MemcachedCache {
    connect(&format!("memcached://{}?patience_ms=100", server.name()))
}

fn find(cache: &dyn Cache, key: &str) -> Found {
    cache.get(&[key.to_owned()]).remove(0)
}

#[track_caller]
fn lease(cache: &dyn Cache, key: &str) -> Lease {
    match find(cache, key) {
        Found::Missing(lease) => lease,
        other => panic!("{key}: {other:?}"),
    }
}

fn read(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

#[test]
fn memory_keeps_the_contract() {
    contract::check(&|| Arc::new(InProcessCache::new(8 << 20)));
}

#[test]
fn memcached_keeps_the_contract_on_one_server_and_on_three() {
    let servers = [PrivateServer::start(), PrivateServer::start(), PrivateServer::start()];
    let [a, b, c] = &servers;
    for url in [a.url(), PrivateServer::url_of(&[a, b, c])] {
        contract::check(&|| {
            servers.iter().for_each(PrivateServer::flush);
            Arc::new(connect(&url))
        });
    }
}

#[test]
fn two_processes_see_one_cache_and_each_others_leases() {
    let server = PrivateServer::start();
    let (a, b) = (connect(&server.url()), connect(&server.url()));
    let first = lease(&a, "key");
    assert_eq!(find(&b, "key"), Found::Nothing);
    b.invalidate("key");
    a.fill("key", first, b"old", LIFE);
    let second = lease(&b, "key");
    b.fill("key", second, b"new", LIFE);
    assert_eq!(find(&a, "key"), Found::Value(b"new"[..].into()));
}

#[test]
fn a_lease_of_before_a_restart_is_void_although_the_server_gives_its_number_again() {
    let mut server = PrivateServer::start();
    let (slow, quick) = (connect(&server.url()), connect(&server.url()));
    let old = lease(&slow, "key");
    server.kill();
    server.run();
    let new = lease(&quick, "key");
    assert_ne!(old, new);
    slow.fill("key", old, b"old", LIFE);
    assert_eq!(read(&slow.counts().refused), 1);
    assert_eq!(find(&slow, "key"), Found::Nothing, "the new lease holds");
    quick.fill("key", new, b"new", LIFE);
    assert_eq!(find(&slow, "key"), Found::Value(b"new"[..].into()));
}

#[test]
fn a_lease_of_before_a_flush_is_void() {
    let server = PrivateServer::start();
    let cache = connect(&server.url());
    cache.fill("other", lease(&cache, "other"), b"value", LIFE);
    let old = lease(&cache, "key");
    server.flush();
    cache.fill("key", old, b"old", LIFE);
    assert!(matches!(cache.get(&["key".into(), "other".into()])[..], [Found::Missing(_), Found::Missing(_)]));
}

#[test]
fn without_a_server_nothing_is_found_and_nobody_waits_and_it_is_used_again_when_it_is_back() {
    let mut server = PrivateServer::start();
    let cache = impatient(&server);
    server.kill();
    let begun = Instant::now();
    for n in 0..10_000 {
        assert_eq!(find(&cache, &format!("key/{n}")), Found::Nothing);
        cache.invalidate("key");
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert!(read(&cache.counts().failures) < 100, "it is left alone: {:?}", cache.counts());
    server.run();
    let begun = Instant::now();
    while find(&cache, "key") == Found::Nothing {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not used again");
        std::thread::yield_now();
    }
}

#[test]
fn a_server_that_hangs_holds_up_few_calls_and_each_only_for_a_moment() {
    let server = PrivateServer::start();
    let cache = impatient(&server);
    assert!(matches!(find(&cache, "before"), Found::Missing(_)));
    server.freeze();
    let begun = Instant::now();
    for n in 0..1000 {
        assert_eq!(find(&cache, &format!("key/{n}")), Found::Nothing);
        // Three until it is left alone, and one after each pause, of which there are few in a minute.
        let held_up = read(&cache.counts().failures);
        assert!(held_up <= 20, "{held_up} calls of {n} were held up in {:?}", begun.elapsed());
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "each only for a moment: {:?}", begun.elapsed());
    server.thaw();
    while find(&cache, "after") == Found::Nothing {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not used again");
        std::thread::yield_now();
    }
}

#[test]
fn of_three_servers_any_may_die_and_only_its_own_keys_are_gone() {
    let mut servers = [PrivateServer::start(), PrivateServer::start(), PrivateServer::start()];
    let [a, b, c] = &servers;
    let cache = connect(&PrivateServer::url_of(&[a, b, c]));
    let keys: Vec<String> = (0..300).map(|n| format!("key/{n}")).collect();
    for key in &keys {
        cache.fill(key, lease(&cache, key), key.as_bytes(), LIFE);
    }
    let there =
        |cache: &MemcachedCache| cache.get(&keys).into_iter().filter(|found| matches!(found, Found::Value(_))).count();
    assert_eq!(there(&cache), 300);
    servers[1].kill();
    let left = there(&cache);
    assert!((150..250).contains(&left), "{left} of 300");
    servers[1].run();
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not used again");
        let found = cache.get(&keys);
        if found.iter().all(|found| matches!(found, Found::Value(_))) {
            break;
        }
        for (found, key) in found.iter().zip(&keys) {
            if let Found::Missing(lease) = found {
                cache.fill(key, *lease, b"again", LIFE);
            }
        }
    }
}

#[test]
fn a_name_is_resolved_and_one_that_nobody_knows_is_a_server_that_is_gone() {
    let server = PrivateServer::start();
    let port = server.name().rsplit_once(':').expect("a port").1.to_owned();
    let cache = connect(&format!("memcached://localhost:{port}?patience_ms=5000"));
    let begun = Instant::now();
    while find(&cache, "key") == Found::Nothing {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not found");
        std::thread::yield_now();
    }
    let unknown = connect("memcached://no.such.host.invalid:1");
    assert_eq!(find(&unknown, "key"), Found::Nothing);
}

#[test]
fn a_server_that_is_no_memcached_is_left_alone() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let cache = connect(&format!("memcached://{}?patience_ms=5000", listener.local_addr().expect("an address")));
    let answering = std::thread::spawn(move || {
        let mut answered = 0;
        for stream in listener.incoming().take(3) {
            let mut stream = stream.expect("a connection");
            let _request = stream.read(&mut [0; 100]);
            let _answer = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            answered += 1;
        }
        answered
    });
    for _ in 0..100 {
        assert_eq!(find(&cache, "key"), Found::Nothing);
    }
    assert_eq!(answering.join().expect("no panic"), 3);
    assert!(read(&cache.counts().failures) < 10, "{:?}", cache.counts());
}
