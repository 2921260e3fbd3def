use super::*;
use crate::contract::{self, block};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use tempfile::TempDir;

pub(super) const INSTANCE: InstanceId = InstanceId([1; 16]);

/// A store's directory, which outlives the store.
pub(super) struct Home(TempDir);

impl Home {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    pub(super) fn try_open(&self, options: DiskOptions) -> Result<DiskBlockStore, StoreError> {
        DiskBlockStore::open(self.0.path(), INSTANCE, options)
    }

    fn open(&self) -> DiskBlockStore {
        self.try_open(DiskOptions::default()).expect("opens")
    }

    pub(super) fn pack(&self, number: u32) -> PathBuf {
        self.0.path().join(format!("packs/{number:08}.pack"))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn packs(&self) -> PathBuf {
        self.0.path().join("packs")
    }

    fn pack_len(&self, number: u32) -> u64 {
        fs::metadata(self.pack(number)).expect("exists").len()
    }

    pub(super) fn lose_index(&self) {
        for file in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
            fs::remove_file(self.0.path().join(file)).ok();
        }
    }

    fn flip(&self, pack: u32, offset: u64) {
        let file = fs::OpenOptions::new().read(true).write(true).open(self.pack(pack)).expect("opens");
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).expect("reads");
        file.write_all_at(&[byte[0] ^ 0x10], offset).expect("writes");
    }

    /// Flips a bit in the middle of this block's data, wherever it lies.
    pub(super) fn damage(&self, hash: &BlockHash) {
        let place = IndexReaders::new(self.0.path().join("index.sqlite")).find(hash).expect("reads").expect("is there");
        self.flip(place.place.pack, place.place.offset + u64::from(place.place.len) / 2);
    }
}

fn put(store: &DiskBlockStore, seed: u64) -> BlockHash {
    let block = block(seed, 500);
    store.put(std::slice::from_ref(&block)).expect("puts");
    block.hash()
}

/// Puts each block through a store of its own.
fn put_reopening(home: &Home, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        put(&home.open(), seed);
    }
}

fn has(store: &DiskBlockStore, seed: u64) -> bool {
    let block = block(seed, 500);
    store.get(&block.hash()).expect("answers").is_some_and(|bytes| bytes == *block.bytes())
}

#[test]
fn the_contract_holds() {
    contract::check(&Home::new().open());
}

#[test]
fn the_contract_holds_when_every_batch_begins_a_pack() {
    let home = Home::new();
    contract::check(&home.try_open(DiskOptions { pack_bytes: 1, ..DiskOptions::default() }).expect("opens"));
    assert!(home.pack(5).exists());
}

/// The umask of whoever starts the server, and a data directory that an administrator made, may let everybody in.
#[test]
fn blocks_are_closed_to_everybody_else() {
    let home = Home::new();
    let mode = || fs::metadata(home.path()).expect("there").permissions().mode() & 0o777;
    put(&home.open(), 1);
    assert_eq!(mode() & 0o007, 0);
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("opened");
    put(&home.open(), 2);
    assert_eq!(mode(), 0o750, "who was let in by group stays so");
}

#[test]
fn a_damaged_block_is_told_and_healed() {
    let home = Home::new();
    let store = home.open();
    contract::check_healing(&store, |hash| home.damage(hash));
}

#[test]
fn what_was_put_is_there_after_reopening() {
    let home = Home::new();
    put_reopening(&home, 0..5);
    let store = home.open();
    assert!((0..5).all(|seed| has(&store, seed)));
    assert!(!home.pack(2).exists(), "a reopened store goes on in its last pack");
}

#[test]
fn a_lost_or_spoiled_index_is_rebuilt() {
    let home = Home::new();
    put_reopening(&home, 0..3);
    let index = home.0.path().join("index.sqlite");
    let spoil: [&dyn Fn(); 4] = [
        &|| home.lose_index(),
        &|| fs::write(&index, "this is no database").expect("writes"),
        &|| fs::write(&index, "").expect("writes"),
        &|| {
            let mut bytes = fs::read(&index).expect("reads");
            bytes[4096..].fill(0x55);
            fs::write(&index, bytes).expect("writes");
        },
    ];
    for spoil in spoil {
        spoil();
        let store = home.open();
        assert!((0..3).all(|seed| has(&store, seed)));
    }
}

#[test]
fn an_index_that_is_behind_catches_up() {
    let home = Home::new();
    put(&home.open(), 0);
    let index = home.0.path().join("index.sqlite");
    let old = fs::read(&index).expect("reads");
    put_reopening(&home, 1..4);
    home.lose_index();
    fs::write(&index, old).expect("writes");
    let store = home.open();
    assert!((0..4).all(|seed| has(&store, seed)));
}

#[test]
fn an_index_that_is_ahead_of_its_packs_is_rebuilt() {
    let home = Home::new();
    put(&home.open(), 0);
    let old = fs::read(home.pack(1)).expect("reads");
    put(&home.open(), 1);
    fs::write(home.pack(1), old).expect("writes");
    let store = home.open();
    assert!(has(&store, 0));
    assert_eq!(store.lengths(&[block(1, 500).hash()]).expect("answers"), [None]);
}

/// The crash test: a power failure leaves any part of the last record, and the index may be behind or
/// lost. Whatever was acknowledged before stays, and the store goes on.
#[test]
fn a_record_torn_at_any_byte_takes_nothing_before_it_along() {
    let home = Home::new();
    put_reopening(&home, 0..2);
    let index = fs::read(home.0.path().join("index.sqlite")).expect("reads");
    let before = home.pack_len(1);
    let torn = block(2, 40);
    home.open().put(std::slice::from_ref(&torn)).expect("puts");
    let whole = fs::read(home.pack(1)).expect("reads");
    for len in before..whole.len() as u64 {
        fs::write(home.pack(1), &whole[..usize::try_from(len).expect("fits")]).expect("writes");
        home.lose_index();
        if len % 2 == 0 {
            fs::write(home.0.path().join("index.sqlite"), &index).expect("writes");
        }
        let store = home.open();
        assert!(has(&store, 0) && has(&store, 1), "torn at {len}");
        assert_eq!(store.get(&torn.hash()).expect("answers"), None, "torn at {len}");
        assert_eq!(home.pack_len(1), before, "torn at {len}");
        put(&store, 3);
        assert!(has(&store, 3));
    }
}

#[test]
fn a_new_pack_torn_in_its_header_is_begun_again() {
    let home = Home::new();
    put(&home.try_open(DiskOptions { pack_bytes: 1, ..DiskOptions::default() }).expect("opens"), 0);
    for len in 0..16 {
        fs::write(home.pack(2), &pack::pack_header(2)[..len]).expect("writes");
        let store = home.try_open(DiskOptions { pack_bytes: 1, ..DiskOptions::default() }).expect("opens");
        put(&store, 100 + len as u64);
        assert!(has(&store, 0) && has(&store, 100 + len as u64));
        drop(store);
        fs::remove_file(home.pack(2)).expect("removes");
        home.lose_index();
    }
}

/// Bit rot anywhere in a pack, with the index lost as well: the blocks beside it stay, nothing is cut.
#[test]
fn a_flipped_bit_costs_at_most_the_block_that_it_is_in() {
    let home = Home::new();
    put_reopening(&home, 0..3);
    let whole = fs::read(home.pack(1)).expect("reads");
    let second = 16 + 544;
    for offset in (0..16).chain(second..second + 60) {
        home.flip(1, offset);
        home.lose_index();
        let store = match home.try_open(DiskOptions::default()) {
            // The header's format field may say that a later program wrote the pack.
            Err(StoreError::UnknownFormat { .. }) if (8..12).contains(&offset) => None,
            opened => Some(opened.expect("opens")),
        };
        if let Some(store) = store {
            assert!(has(&store, 0) && has(&store, 2), "flipped at {offset}");
            let second = store.get(&block(1, 500).hash());
            assert!(offset < 16 || matches!(second, Ok(None) | Err(StoreError::Corrupt { .. })), "flipped at {offset}");
            put(&store, 1);
            assert!(has(&store, 1), "healed after {offset}");
        }
        fs::remove_file(home.pack(2)).ok();
        fs::write(home.pack(1), &whole).expect("writes");
    }
}

#[test]
fn a_block_that_is_there_costs_no_bytes() {
    let home = Home::new();
    let store = home.open();
    put(&store, 0);
    let (before, counted) = (home.pack_len(1), store.counters());
    for _ in 0..5 {
        put(&store, 0);
    }
    assert_eq!(store.counters().blocks, counted.blocks);
    assert_eq!(store.counters().syncs, counted.syncs + 5, "it takes as long as a new one");
    drop(store);
    assert_eq!(home.pack_len(1), before);
}

#[test]
fn a_full_pack_keeps_no_echoes() {
    let home = Home::new();
    let store = home.try_open(DiskOptions { pack_bytes: 800, ..DiskOptions::default() }).expect("opens");
    put(&store, 0);
    let before = home.pack_len(1);
    store.put(&[block(1, 300), block(0, 500)]).expect("puts");
    put(&store, 2);
    assert_eq!((home.pack_len(1), home.pack(3).exists()), (before, true));
    assert_eq!(home.pack_len(2), 16 + 344);
    assert!(has(&store, 0) && has(&store, 2));
}

#[test]
fn echoes_of_known_blocks_never_displace_what_they_echo() {
    let home = Home::new();
    let store = home.open();
    put(&store, 0);
    store.put(&[block(0, 500), block(1, 500), block(0, 500)]).expect("puts");
    let echoed = fs::read(home.pack(1)).expect("reads");
    drop(store);
    // As after a crash: the echoes still lie behind the end, and the index is lost.
    fs::write(home.pack(1), echoed).expect("writes");
    home.lose_index();
    let store = home.open();
    put(&store, 2);
    assert!((0..3).all(|seed| has(&store, seed)));
}

#[test]
fn a_removed_block_stays_removed_when_the_index_is_rebuilt() {
    let home = Home::new();
    let store = home.open();
    let gone = put(&store, 0);
    put(&store, 1);
    store.remove(&[gone]).expect("removes");
    drop(store);
    home.lose_index();
    let store = home.open();
    assert!(!has(&store, 0) && has(&store, 1));
    put(&store, 0);
    drop(store);
    home.lose_index();
    assert!(has(&home.open(), 0), "a block that came back is not removed by the old removal");
}

#[test]
fn a_removed_blocks_space_goes_back_to_the_file_system() {
    use std::os::unix::fs::MetadataExt;
    let home = Home::new();
    let store = home.open();
    let large = block(0, 1024 * 1024);
    store.put(std::slice::from_ref(&large)).expect("puts");
    let used = || fs::metadata(home.pack(1)).expect("exists").blocks();
    let before = used();
    store.remove(&[large.hash()]).expect("removes");
    assert!(used() < before / 2, "{} of {before} sectors are left", used());
}

#[test]
fn a_removal_forged_inside_a_block_is_not_believed() {
    let home = Home::new();
    let victim = put(&home.open(), 0);
    let place = Place { pack: 1, offset: 16 + 44, len: 500 };
    // A forger who even knows where the record will lie.
    let at = home.pack_len(1) + 44;
    let forged = pack::removal_record(1, at, &victim, place);
    home.open().put(&[Block::new(forged.into()).expect("legal"), block(2, 500)]).expect("puts");
    put(&home.open(), 3);
    home.flip(1, at - 44);
    home.lose_index();
    assert!(has(&home.open(), 0));
}

/// The golden sample of format 1: packs written today are read by every later version.
#[test]
fn the_format_is_what_it_was() {
    let home = Home::new();
    let store = home.open();
    let kept = Block::new(b"hello".as_slice().into()).expect("legal");
    store.put(std::slice::from_ref(&kept)).expect("puts");
    store.remove(&[kept.hash()]).expect("removes");
    drop(store);
    let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let golden = [
        "53594e435041434b0100000001000000",
        "534c424b05000000",
        hash,
        "a5db8bd5",
        "68656c6c6f",
        "534c524d10000000",
        hash,
        "71273b1f",
        "010000003c00000000000000",
        "f78b41f0",
    ];
    let written: String = fs::read(home.pack(1)).expect("reads").iter().map(|byte| format!("{byte:02x}")).collect();
    // The removal gave the block's bytes back, which read as zeros since.
    let written = written.replacen("0000000000534c52", "68656c6c6f534c52", 1);
    assert_eq!(written, golden.concat());
}

/// `/dev/full` in the place of the first pack stands for a disk without space.
#[test]
fn a_full_disk_is_told_and_the_store_goes_on_when_there_is_space() {
    let home = Home::new();
    drop(home.open());
    std::os::unix::fs::symlink("/dev/full", home.pack(1)).expect("links");
    let store = home.open();
    for _ in 0..2 {
        let full = store.put(&[block(0, 500)]);
        assert!(matches!(full, Err(StoreError::NoSpace { .. })), "{full:?}");
        assert_eq!(store.lengths(&[block(0, 500).hash()]).expect("answers"), [None]);
    }
    fs::remove_file(home.pack(1)).expect("removes");
    put(&store, 0);
    assert!(has(&store, 0));
}

/// Bits flipped and ends cut at random, the index kept or lost: what comes out is right or an error,
/// what goes in again is there, and nothing panics.
#[test]
fn whatever_happens_to_a_pack_no_wrong_bytes_come_out() {
    const BLOCKS: u64 = 6;
    let mut chance = 0x5eed_u64;
    let mut below = |n: u64| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) % n
    };
    for round in 0..60 {
        let home = Home::new();
        let blocks: Vec<Block> = (0..BLOCKS).map(|seed| block(seed, 500)).collect();
        home.open().put(&blocks).expect("puts");
        for _ in 0..below(4) {
            home.flip(1, 16 + below(home.pack_len(1) - 16));
        }
        if below(3) == 0 {
            let file = fs::OpenOptions::new().write(true).open(home.pack(1)).expect("opens");
            file.set_len(below(home.pack_len(1))).expect("cuts");
        }
        if below(2) == 0 {
            home.lose_index();
        }
        let store = home.open();
        for block in &blocks {
            match store.get(&block.hash()) {
                Ok(Some(bytes)) => assert_eq!(bytes, block.bytes(), "round {round}"),
                Ok(None) | Err(StoreError::Corrupt { .. }) => {}
                Err(other) => panic!("round {round}: {other}"),
            }
        }
        store.put(&blocks).expect("puts");
        drop(store);
        let store = home.open();
        assert!((0..BLOCKS).all(|seed| has(&store, seed)), "round {round}");
    }
}

#[test]
fn two_processes_cannot_open_one_store() {
    let home = Home::new();
    let first = home.open();
    assert!(matches!(home.try_open(DiskOptions::default()), Err(StoreError::Locked { .. })));
    drop(first);
    home.open();
}

#[test]
fn another_servers_store_is_refused() {
    let home = Home::new();
    put(&home.open(), 0);
    let other = DiskBlockStore::open(home.0.path(), InstanceId([2; 16]), DiskOptions::default());
    assert!(matches!(other, Err(StoreError::OtherInstance { found: INSTANCE, .. })));
    fs::remove_file(home.0.path().join("instance")).expect("removes");
    assert!(matches!(home.try_open(DiskOptions::default()), Err(StoreError::UnknownInstance { .. })));
    fs::write(home.0.path().join("instance"), "syncline block store 2\n").expect("writes");
    assert!(matches!(home.try_open(DiskOptions::default()), Err(StoreError::UnknownFormat { found: 2, .. })));
}

#[test]
fn many_writers_share_syncs_and_lose_nothing() {
    const WRITERS: u64 = 8;
    const EACH: u64 = 25;
    let home = Home::new();
    let store = home.open();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || {
                for i in 0..EACH {
                    put(store, writer * EACH + i);
                }
            });
        }
    });
    assert!(store.counters().syncs <= WRITERS * EACH);
    assert!((0..WRITERS * EACH).all(|seed| has(&store, seed)));
}

/// Ten thousand small blocks in batches, as a first upload of many small files brings them.
#[test]
fn ten_thousand_small_blocks_cost_few_syncs() {
    let home = Home::new();
    let store = home.open();
    let blocks: Vec<Block> = (0..10_000).map(|seed| block(seed, 1024)).collect();
    let begun = std::time::Instant::now();
    blocks.chunks(1000).for_each(|batch| store.put(batch).expect("puts"));
    let took = begun.elapsed();
    eprintln!("10,000 blocks of 1 KiB in {took:?}, {:?}", store.counters());
    assert_eq!(store.counters(), Counters { syncs: 10, blocks: 10_000, block_bytes: 10_240_000 });
}
