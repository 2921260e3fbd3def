//! A cache in the process's own memory, which forgets first what was used last of all.

use crate::{Cache, Counts, Found, LEASE_LIFE, Lease, is_key, is_value};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that an entry takes beside its key and value: both indexes, and what allocations round up to.
const ENTRY_BYTES: usize = 200;

/// Time since any fixed moment.
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// A cache in memory.
pub struct InProcessCache {
    entries: Mutex<Entries>,
    clock: Clock,
    counts: Counts,
}

struct Entries {
    /// Bytes of all entries at the most.
    room: usize,
    bytes: usize,
    by_key: HashMap<Arc<str>, Entry>,
    /// The keys by when they were last used.
    by_use: BTreeMap<u64, Arc<str>>,
    /// Counts uses and leases.
    tick: u64,
}

struct Entry {
    state: State,
    expires: Duration,
    used: u64,
}

enum State {
    Held(Arc<[u8]>),
    /// Somebody has a lease with this token.
    Leased(u64),
}

impl InProcessCache {
    /// A cache of so many bytes.
    #[must_use]
    pub fn new(room: usize) -> Self {
        let start = Instant::now();
        Self::with_clock(room, move || start.elapsed())
    }

    /// A cache with another clock.
    #[must_use]
    pub fn with_clock(room: usize, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let entries = Entries { room, bytes: 0, by_key: HashMap::new(), by_use: BTreeMap::new(), tick: 0 };
        Self { entries: Mutex::new(entries), clock: Box::new(clock), counts: Counts::default() }
    }

    /// Bytes that are in use.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache for InProcessCache {
    fn get(&self, keys: &[String]) -> Vec<Found> {
        let now = (self.clock)();
        let mut entries = self.lock();
        keys.iter().map(|key| entries.find(key, now, &self.counts)).collect()
    }

    fn fill(&self, key: &str, lease: Lease, value: &[u8], life: Duration) {
        let now = (self.clock)();
        let mut entries = self.lock();
        let leased = entries.by_key.get(key).is_some_and(|entry| entry.is_leased(lease.token) && now < entry.expires);
        if !leased || !is_value(value) {
            Counts::add(&self.counts.refused);
            return;
        }
        Counts::add(&self.counts.fills);
        entries.put(key, State::Held(value.into()), now + life);
    }

    fn invalidate(&self, key: &str) {
        self.lock().remove(key);
    }

    fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl Entry {
    const fn is_leased(&self, token: u64) -> bool {
        matches!(self.state, State::Leased(given) if given == token)
    }

    fn bytes(&self, key: &str) -> usize {
        let value = match &self.state {
            State::Held(value) => value.len(),
            State::Leased(_) => 0,
        };
        ENTRY_BYTES + 2 * key.len() + value
    }
}

impl Entries {
    fn find(&mut self, key: &str, now: Duration, counts: &Counts) -> Found {
        let live = self.by_key.get(key).filter(|entry| now < entry.expires);
        let found = match live.map(|entry| &entry.state) {
            Some(State::Held(value)) => Found::Value(value.clone()),
            Some(State::Leased(_)) => Found::Nothing,
            None if !is_key(key) => Found::Nothing,
            None => {
                let token = self.next_tick();
                self.put(key, State::Leased(token), now + LEASE_LIFE);
                Found::Missing(Lease { token, run: 0 })
            }
        };
        match &found {
            Found::Value(_) => {
                self.touch(key);
                Counts::add(&counts.hits);
            }
            Found::Missing(_) | Found::Nothing => Counts::add(&counts.misses),
        }
        found
    }

    fn next_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    fn touch(&mut self, key: &str) {
        let used = self.next_tick();
        if let Some(entry) = self.by_key.get_mut(key)
            && let Some(key) = self.by_use.remove(&entry.used)
        {
            entry.used = used;
            self.by_use.insert(used, key);
        }
    }

    fn put(&mut self, key: &str, state: State, expires: Duration) {
        self.remove(key);
        let used = self.next_tick();
        let entry = Entry { state, expires, used };
        self.bytes += entry.bytes(key);
        let key: Arc<str> = key.into();
        self.by_use.insert(used, key.clone());
        self.by_key.insert(key, entry);
        while self.bytes > self.room
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &str) {
        if let Some(entry) = self.by_key.remove(key) {
            self.bytes -= entry.bytes(key);
            self.by_use.remove(&entry.used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const HOUR: Duration = Duration::from_secs(3600);

    fn put(cache: &InProcessCache, key: &str, value: &[u8]) {
        let Found::Missing(lease) = cache.get(&[key.to_owned()])[0] else { panic!("it is missing") };
        cache.fill(key, lease, value, HOUR);
    }

    fn has(cache: &InProcessCache, key: &str) -> bool {
        matches!(cache.get(&[key.to_owned()])[0], Found::Value(_))
    }

    #[test]
    fn what_was_used_last_of_all_goes_when_there_is_no_room() {
        let cache = InProcessCache::new(3 * (ENTRY_BYTES + 1000 + 2));
        for key in ["a", "b", "c"] {
            put(&cache, key, &[1; 1000]);
        }
        assert!(has(&cache, "a"));
        put(&cache, "d", &[1; 1000]);
        assert!(has(&cache, "a") && has(&cache, "c") && has(&cache, "d"));
        assert!(!has(&cache, "b"));
    }

    #[test]
    fn its_room_is_never_exceeded_and_given_back() {
        let cache = InProcessCache::new(10_000);
        for n in 0..1000 {
            put(&cache, &format!("key {n}").replace(' ', "-"), &vec![7; n % 3000 + 1]);
            assert!(cache.bytes() <= 10_000);
        }
        for n in 0..1000 {
            cache.invalidate(&format!("key-{n}"));
        }
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn values_and_leases_end_with_their_time() {
        let now = Arc::new(AtomicU64::new(0));
        let clock = now.clone();
        let cache = InProcessCache::with_clock(10_000, move || Duration::from_secs(clock.load(Ordering::Relaxed)));
        let key = ["key".to_owned()];
        let Found::Missing(first) = cache.get(&key)[0] else { panic!("it is missing") };
        assert_eq!(cache.get(&key), [Found::Nothing]);
        now.store(LEASE_LIFE.as_secs(), Ordering::Relaxed);
        cache.fill("key", first, b"late", HOUR);
        let Found::Missing(second) = cache.get(&key)[0] else { panic!("the lease has ended") };
        cache.fill("key", second, b"in time", Duration::from_secs(60));
        assert!(has(&cache, "key"));
        now.fetch_add(60, Ordering::Relaxed);
        assert!(!has(&cache, "key"));
    }
}
