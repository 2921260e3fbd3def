//! The contract suite: what every adapter of [`Cache`] must do. That a value is still there is no part of
//! it in general; here it is, since nothing else uses the cache.

use crate::{Cache, Found, Lease, VALUE_BYTES};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Makes an empty cache with room for a few megabytes.
pub type NewCache<'a> = &'a dyn Fn() -> Arc<dyn Cache>;

/// A rule: panics if the cache does not keep it.
type Rule = fn(&dyn Cache);

const RULES: &[(&str, Rule)] = &[
    ("what was filled in is found", filled),
    ("one who misses gets the lease, the others get nothing", one_lease),
    ("a lease fills in one value once", lease_used),
    ("an invalidated value is gone, and can be filled in again", invalidated),
    ("invalidating voids the lease", void_lease),
    ("a lease of before an invalidation is not that of after it", old_lease),
    ("a lease for one key is none for another", other_key),
    ("many keys are answered in their order", many_keys),
    ("values may hold any bytes, up to their limit", any_bytes),
    ("an empty value and one that is too long are not taken", no_such_value),
    ("a key that cannot be one is never found", no_such_key),
    ("a value ends with its time", ended),
];

/// Checks every rule.
///
/// # Panics
/// At the first rule that does not hold, which is printed.
pub fn check(new_cache: NewCache<'_>) {
    for (rule, check) in RULES {
        let cache = new_cache();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&*cache)));
        assert!(result.is_ok(), "the rule `{rule}` does not hold");
    }
    many_callers(&*new_cache());
}

const LIFE: Duration = Duration::from_secs(600);

fn find(cache: &dyn Cache, key: &str) -> Found {
    let mut found = cache.get(&[key.to_owned()]);
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[track_caller]
fn lease(cache: &dyn Cache, key: &str) -> Lease {
    match find(cache, key) {
        Found::Missing(lease) => lease,
        other => panic!("{key}: {other:?}"),
    }
}

#[track_caller]
fn holds(cache: &dyn Cache, key: &str, value: &[u8]) {
    assert_eq!(find(cache, key), Found::Value(value.into()), "{key}");
}

fn filled(cache: &dyn Cache) {
    cache.fill("key", lease(cache, "key"), b"value", LIFE);
    holds(cache, "key", b"value");
    holds(cache, "key", b"value");
}

fn one_lease(cache: &dyn Cache) {
    let first = lease(cache, "key");
    assert_eq!(find(cache, "key"), Found::Nothing);
    assert_eq!(find(cache, "key"), Found::Nothing);
    cache.fill("key", first, b"value", LIFE);
    holds(cache, "key", b"value");
}

fn lease_used(cache: &dyn Cache) {
    let first = lease(cache, "key");
    cache.fill("key", first, b"value", LIFE);
    cache.fill("key", first, b"another", LIFE);
    holds(cache, "key", b"value");
}

fn invalidated(cache: &dyn Cache) {
    cache.invalidate("key");
    cache.fill("key", lease(cache, "key"), b"old", LIFE);
    cache.invalidate("key");
    cache.fill("key", lease(cache, "key"), b"new", LIFE);
    holds(cache, "key", b"new");
}

fn void_lease(cache: &dyn Cache) {
    let slow = lease(cache, "key");
    cache.invalidate("key");
    cache.fill("key", slow, b"old", LIFE);
    assert!(matches!(find(cache, "key"), Found::Missing(_)));
}

fn old_lease(cache: &dyn Cache) {
    let slow = lease(cache, "key");
    cache.invalidate("key");
    let quick = lease(cache, "key");
    cache.fill("key", slow, b"old", LIFE);
    assert_eq!(find(cache, "key"), Found::Nothing);
    cache.fill("key", quick, b"new", LIFE);
    cache.fill("key", slow, b"old", LIFE);
    holds(cache, "key", b"new");
}

fn other_key(cache: &dyn Cache) {
    let (a, _b) = (lease(cache, "a"), lease(cache, "b"));
    cache.fill("b", a, b"value", LIFE);
    assert_eq!(find(cache, "b"), Found::Nothing);
}

fn many_keys(cache: &dyn Cache) {
    let keys: Vec<String> = (0..100).map(|n| format!("key/{n}")).collect();
    let leases = cache.get(&keys);
    for (n, (key, found)) in keys.iter().zip(leases).enumerate() {
        let Found::Missing(lease) = found else { panic!("{key}") };
        if n % 3 > 0 {
            cache.fill(key, lease, key.as_bytes(), LIFE);
        }
    }
    for (n, (key, found)) in keys.iter().zip(cache.get(&keys)).enumerate() {
        let expected = if n % 3 > 0 { Found::Value(key.as_bytes().into()) } else { Found::Nothing };
        assert_eq!(found, expected, "{key}");
    }
    assert_eq!(cache.get(&[]), []);
}

fn any_bytes(cache: &dyn Cache) {
    let all: Vec<u8> = (0..=255).collect();
    for (key, value) in [
        ("lines", b"\r\nEN\r\nVA 3 c1 W\r\nabc\r\n".to_vec()),
        ("all", all),
        ("long", (0..VALUE_BYTES).map(|n| (n % 251) as u8).collect()),
    ] {
        cache.fill(key, lease(cache, key), &value, LIFE);
        holds(cache, key, &value);
    }
}

fn no_such_value(cache: &dyn Cache) {
    cache.fill("empty", lease(cache, "empty"), b"", LIFE);
    cache.fill("long", lease(cache, "long"), &vec![0; VALUE_BYTES + 1], LIFE);
    for key in ["empty", "long"] {
        assert_eq!(find(cache, key), Found::Nothing);
    }
}

fn no_such_key(cache: &dyn Cache) {
    let keys = ["", "two words", "a\r\nflush_all", "ä", &"k".repeat(251)].map(str::to_owned);
    for key in &keys {
        cache.invalidate(key);
        assert_eq!(find(cache, key), Found::Nothing, "{key:?}");
    }
    let most = "k".repeat(250);
    cache.fill(&most, lease(cache, &most), b"value", LIFE);
    let mixed = [keys[1].clone(), most.clone(), keys[2].clone()];
    assert_eq!(cache.get(&mixed), [Found::Nothing, Found::Value(b"value"[..].into()), Found::Nothing]);
}

fn ended(cache: &dyn Cache) {
    cache.fill("key", lease(cache, "key"), b"value", Duration::ZERO);
    assert!(!matches!(find(cache, "key"), Found::Value(_)));
}

/// Readers and writers of one key: a value that was current when its lease was given, and that was
/// invalidated since, is never found.
fn many_callers(cache: &dyn Cache) {
    let keys: Vec<String> = (0..8).map(|n| format!("key/{n}")).collect();
    let seen: Vec<BTreeSet<usize>> = std::thread::scope(|scope| {
        let read = |reader: usize| {
            let keys = &keys;
            move || {
                let mut seen = BTreeSet::new();
                for round in 0..200 {
                    for (key, found) in keys.iter().zip(cache.get(keys)) {
                        match found {
                            Found::Value(value) => {
                                assert!(value.starts_with(key.as_bytes()), "{key} has a value of its own");
                                seen.insert(value.len());
                            }
                            Found::Missing(lease) => cache.fill(key, lease, key.as_bytes(), LIFE),
                            Found::Nothing => {}
                        }
                    }
                    if round % 10 == reader {
                        cache.invalidate(&keys[reader]);
                    }
                }
                seen
            }
        };
        let readers: Vec<_> = (0..8).map(|reader| scope.spawn(read(reader))).collect();
        readers.into_iter().map(|reader| reader.join().expect("no panic")).collect()
    });
    assert!(seen.iter().all(|lengths| *lengths == BTreeSet::from([5])));
}
