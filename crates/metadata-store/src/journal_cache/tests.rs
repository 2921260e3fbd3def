use super::*;
use crate::SqliteStore;
use crate::port::MetadataStore;
use cache::lying::LyingCache;
use cache::{Counts, InProcessCache};
use model::{BlockHash, Blocklist, Body, Change, DeviceId, Mtime, Name, NodeId, Timestamp};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const NS: NamespaceId = NamespaceId([0xaa; 16]);
const SERVER: ServerIdentity = ServerIdentity { instance: InstanceId([7; 16]), epoch: Epoch(3) };
const MEGABYTE: usize = 1 << 20;

fn entry(position: u64, blocks: usize) -> JournalEntry {
    let blocks = Blocklist(vec![BlockHash([5; 32]); blocks]);
    let body = Body::File { size: blocks.0.len() as u64, blocks, executable: false, mtime: Mtime(-1) };
    let name = Name::parse(&format!("n{position}")).expect("legal");
    JournalEntry {
        position: Position(position),
        node: NodeId((u128::from(position) | 1 << 100).to_le_bytes()),
        change: Change::Create { parent: NS.root(), name, body },
        device: Some(DeviceId([9; 16])),
        time: Timestamp(1_700_000_000_000),
    }
}

/// A store whose journal has batches of these sizes, each entry with some blocks.
fn store(batches: &[u64], blocks: usize) -> SqliteStore {
    let store = SqliteStore::in_memory().expect("opens");
    let any: &dyn MetadataStore = &store;
    any.write(|tx| tx.insert_namespace(NS)).expect("is new");
    batches.iter().for_each(|size| append(&store, *size, blocks));
    store
}

fn append(store: &SqliteStore, size: u64, blocks: usize) {
    let any: &dyn MetadataStore = store;
    let appended = any.write(|tx| {
        let head = tx.namespace(NS)?.map_or(0, |row| row.head.0);
        let entries: Vec<JournalEntry> = (head + 1..=head + size).map(|position| entry(position, blocks)).collect();
        tx.append(NS, &entries)
    });
    appended.expect("follows");
}

fn limit(entries: usize, blocks: usize) -> PageLimit {
    PageLimit { entries, blocks }
}

/// What the store has behind a position, and through the cache.
fn both(store: &SqliteStore, cache: &JournalCache, after: u64, limit: PageLimit) -> [Vec<JournalRecord>; 2] {
    let store: &dyn MetadataStore = store;
    let after = Position(after);
    let (pages, fills) = store
        .snapshot(|reading| {
            let head = reading.namespace(NS)?.map_or(Position::START, |row| row.head);
            let journals = Journals::new(reading, Some(cache), SERVER);
            let page = journals.page(NS, after, head, limit)?;
            let last = page.last().map_or(after, |record| record.entry.position);
            let plain = Journals::new(reading, None, SERVER);
            assert_eq!(journals.batch_behind(NS, last, head)?, plain.batch_behind(NS, last, head)?);
            Ok::<_, crate::StoreError>(([reading.journal(NS, after, limit)?, page], journals.into_fills()))
        })
        .expect("reads");
    cache.fill(fills);
    pages
}

#[track_caller]
fn same(store: &SqliteStore, cache: &JournalCache, after: u64, limit: PageLimit) {
    let [plain, cached] = both(store, cache, after, limit);
    assert_eq!(plain, cached, "behind {after}, {limit:?}");
}

/// Counts up, spread over all bits.
fn chance() -> impl Fn(u64) -> u64 + Send + Sync {
    let count = AtomicU64::new(1);
    move |below| {
        let n = count.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let n = (n ^ (n >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (n ^ (n >> 29)) % below
    }
}

fn memory() -> (Arc<InProcessCache>, JournalCache) {
    let memory = Arc::new(InProcessCache::new(64 * MEGABYTE));
    (memory.clone(), JournalCache::new(memory, Chunking::FINEST))
}

fn hits(counts: &Counts) -> u64 {
    counts.hits.load(Ordering::Relaxed)
}

fn fills(counts: &Counts) -> u64 {
    counts.fills.load(Ordering::Relaxed)
}

#[test]
fn a_page_through_a_cache_is_the_page_of_the_database_whatever_the_cache_answers() {
    let any = chance();
    let lying = JournalCache::new(Arc::new(LyingCache::new(chance())), Chunking::FINEST);
    let tiny = JournalCache::new(Arc::new(InProcessCache::new(2000)), Chunking::FINEST);
    for cache in [memory().1, tiny, lying] {
        let store = store(&[1], 1);
        for round in 0..400 {
            if round % 3 == 0 {
                append(&store, any(6) + 1, usize::try_from(any(4)).expect("small"));
            }
            let head = round;
            let entries = usize::try_from(any(20)).expect("small");
            let blocks = usize::try_from(any(12)).expect("small");
            same(&store, &cache, any(head + 1), limit(entries, blocks));
        }
    }
}

#[test]
fn the_second_reader_asks_the_database_for_nothing() {
    let store = store(&[3, 5, 8], 1);
    let (memory, cache) = memory();
    same(&store, &cache, 0, limit(100, 100));
    assert_eq!((hits(memory.counts()), fills(memory.counts())), (0, 4));
    // A database that has none of them.
    let empty = SqliteStore::in_memory().expect("opens");
    let empty: &dyn MetadataStore = &empty;
    let page = empty.snapshot(|reading| {
        Journals::new(reading, Some(&cache), SERVER).page(NS, Position(0), Position(16), limit(100, 100))
    });
    let positions: Vec<u64> = page.expect("reads").iter().map(|record| record.entry.position.0).collect();
    assert_eq!(positions, (1..=16).collect::<Vec<_>>());
}

#[test]
fn a_value_that_is_too_short_is_completed_and_when_much_is_lacking_replaced() {
    let store = store(&[5], 1);
    let (memory, cache) = memory();
    same(&store, &cache, 0, limit(100, 100));
    append(&store, 1, 1);
    same(&store, &cache, 0, limit(100, 100));
    assert_eq!(fills(memory.counts()), 2, "one entry more is read from the database");
    append(&store, 1, 1);
    same(&store, &cache, 0, limit(100, 100));
    same(&store, &cache, 0, limit(100, 100));
    assert_eq!(fills(memory.counts()), 3, "two are too many");
    let before = hits(memory.counts());
    same(&store, &cache, 0, limit(100, 100));
    assert_eq!(hits(memory.counts()), before + 2);
}

#[test]
fn an_older_snapshot_sees_nothing_of_what_came_later() {
    let store = store(&[2, 2, 3], 1);
    let (_, cache) = memory();
    same(&store, &cache, 0, limit(100, 100));
    let any: &dyn MetadataStore = &store;
    for head in 1..=7 {
        let page = any.snapshot(|reading| {
            Journals::new(reading, Some(&cache), SERVER).page(NS, Position(0), Position(head), limit(100, 100))
        });
        assert_eq!(page.expect("reads").len() as u64, head, "at {head}");
    }
}

#[test]
fn who_lacks_little_does_not_ask_the_cache() {
    let store = store(&[300], 1);
    let memory = Arc::new(InProcessCache::new(MEGABYTE));
    let cache = JournalCache::new(memory.clone(), Chunking::STANDARD);
    let asked = || hits(memory.counts()) + memory.counts().misses.load(Ordering::Relaxed);
    same(&store, &cache, 237, limit(100, 100));
    assert_eq!(asked(), 0);
    same(&store, &cache, 236, limit(100, 100));
    assert_eq!(asked(), 2);
}

#[test]
fn chunks_that_name_too_many_blocks_are_not_kept_and_pages_are_whole_all_the_same() {
    let store = store(&[2, 7], 10_000);
    let (memory, cache) = memory();
    for after in 0..9 {
        same(&store, &cache, after, limit(100, 15_000));
        same(&store, &cache, after, limit(3, 1_000_000));
    }
    assert_eq!(fills(memory.counts()), 0);
}

/// A cache that answers everything with one value.
struct Stubborn {
    value: Vec<u8>,
    invalidated: Mutex<Vec<String>>,
    counts: Counts,
}

impl Cache for Stubborn {
    fn get(&self, keys: &[String]) -> Vec<Found> {
        keys.iter().map(|_| Found::Value(self.value.as_slice().into())).collect()
    }
    fn fill(&self, _: &str, _: Lease, _: &[u8], _: Duration) {}
    fn invalidate(&self, key: &str) {
        self.invalidated.lock().expect("no panic").push(key.to_owned());
    }
    fn counts(&self) -> &Counts {
        &self.counts
    }
}

fn chunk() -> Chunk {
    Chunk { server: SERVER, namespace: NS, number: 0, entries: 4 }
}

fn records(positions: &[u64]) -> Vec<JournalRecord> {
    positions.iter().map(|n| JournalRecord { entry: entry(*n, 1), batch_first: Position(1) }).collect()
}

#[test]
fn a_value_of_anything_else_is_not_believed_and_forgotten() {
    let store = store(&[4], 1);
    let right = chunk().encode(&records(&[1, 2])).expect("is short");
    let instance = InstanceId([8; 16]);
    let others = [
        Chunk { server: ServerIdentity { instance, ..SERVER }, ..chunk() }.encode(&records(&[1, 2])),
        Chunk { server: ServerIdentity { epoch: Epoch(2), ..SERVER }, ..chunk() }.encode(&records(&[1, 2])),
        Chunk { namespace: NamespaceId([1; 16]), ..chunk() }.encode(&records(&[1, 2])),
        chunk().encode(&records(&[2, 3])),
        chunk().encode(&records(&[1, 3])),
        chunk().encode(&records(&[1, 1])),
        chunk().encode(&records(&[])),
        chunk().encode(&records(&[1, 2, 3, 4, 5])),
    ];
    let mut wrong: Vec<Vec<u8>> = others.into_iter().map(|value| value.expect("is short")).collect();
    wrong.extend((0..right.len()).map(|end| right[..end].to_vec()));
    wrong.extend((0..right.len()).map(|at| {
        let mut value = right.clone();
        value[at] ^= 1;
        value
    }));
    for value in wrong {
        assert_eq!(chunk().decode(&value), None, "{value:?}");
        let stubborn = Stubborn { value, invalidated: Mutex::default(), counts: Counts::default() };
        let stubborn = Arc::new(stubborn);
        let cache = JournalCache::new(stubborn.clone(), Chunking::FINEST);
        same(&store, &cache, 0, limit(100, 100));
        assert_eq!(*stubborn.invalidated.lock().expect("no panic"), [chunk().key()]);
    }
    assert_eq!(chunk().decode(&right), Some(records(&[1, 2])));
}

#[test]
fn keys_name_all_that_gives_positions_their_meaning() {
    let key = chunk().key();
    assert_eq!(key, "journal/1/07070707070707070707070707070707/3/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/4/0");
    for other in [
        Chunk { server: ServerIdentity { epoch: Epoch(2), ..SERVER }, ..chunk() },
        Chunk { server: ServerIdentity { instance: InstanceId([8; 16]), ..SERVER }, ..chunk() },
        Chunk { namespace: NamespaceId([1; 16]), ..chunk() },
        Chunk { number: 1, ..chunk() },
        Chunk { entries: 5, ..chunk() },
    ] {
        assert_ne!(key, other.key());
    }
    let longest = Chunk {
        number: u64::MAX,
        entries: u64::MAX,
        server: ServerIdentity { epoch: Epoch(u64::MAX), ..SERVER },
        ..chunk()
    };
    assert!(longest.key().len() <= cache::KEY_BYTES);
}

#[test]
fn lives_are_spread_below_the_longest() {
    let lives = |whole| -> Vec<Duration> {
        let chunks = (0..=255).map(|n| Chunk { namespace: NamespaceId([n; 16]), number: u64::from(n), ..chunk() });
        chunks.map(|chunk| chunk.life(whole)).collect()
    };
    for (whole, longest) in [(true, WHOLE_LIFE), (false, PART_LIFE)] {
        let mut lives = lives(whole);
        assert!(lives.iter().all(|life| (longest / 2..=longest).contains(life)));
        lives.sort();
        lives.dedup();
        assert!(lives.len() > 64, "{}", lives.len());
    }
}

/// Golden bytes: a change that alters them must introduce format 2, which has other keys.
#[test]
fn format_1_is_what_it_was() {
    let change = Change::Delete;
    let entry =
        JournalEntry { position: Position(1), node: NodeId([2; 16]), change, device: None, time: Timestamp(-1) };
    let records = [JournalRecord { entry, batch_first: Position(1) }];
    let mut expected = vec![1, 0, 0, 0, 0];
    expected.extend([7; 16]);
    expected.push(3);
    expected.extend([0xaa; 16]);
    expected.extend([1, 1, 1]);
    expected.extend([2; 16]);
    expected.extend([3, 0, 1]);
    let sum = crc_fast::crc32_iscsi(&expected[5..]).to_le_bytes();
    expected[1..5].copy_from_slice(&sum);
    assert_eq!(chunk().encode(&records).expect("is short"), expected);
    assert_eq!(chunk().decode(&expected).expect("is one"), records);
}
