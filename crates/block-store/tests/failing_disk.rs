//! A disk that fails to sync, by way of strace's fault injection. Skipped, with a word, where there is no
//! strace or no leave to trace.

use block_store::{Block, BlockStore, DiskBlockStore, DiskOptions, StoreError};
use bytes::Bytes;
use model::InstanceId;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Set for the process that works on the failing disk: the store's directory.
const STORE: &str = "FAILING_DISK_STORE";

fn open(directory: &Path) -> DiskBlockStore {
    DiskBlockStore::open(directory, InstanceId([1; 16]), DiskOptions::default()).expect("opens")
}

/// Each group of blocks begins a pack.
fn open_small(directory: &Path) -> DiskBlockStore {
    let options = DiskOptions { pack_bytes: 1, ..DiskOptions::default() };
    DiskBlockStore::open(directory, InstanceId([1; 16]), options).expect("opens")
}

fn block(text: &'static str) -> Block {
    Block::new(Bytes::from_static(text.as_bytes())).expect("a block")
}

fn put(store: &DiskBlockStore, text: &'static str) -> bool {
    store.put(&[block(text)]).is_ok()
}

/// A block that is written in several pieces.
fn large_block() -> Block {
    Block::new(Bytes::from(vec![7; 1024 * 1024])).expect("a block")
}

fn has(store: &DiskBlockStore, text: &'static str) -> bool {
    store.get(&block(text).hash()).expect("answers").is_some()
}

fn can_trace() -> bool {
    let trial = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    trial.is_ok_and(|status| status.success())
}

/// Puts a first block into a store, and runs this test again, traced, with a call on the first pack failing. `None`
/// where that cannot be.
fn on_a_failing_disk(test: &str, fault: &str) -> Option<TempDir> {
    on_a_failing_file("packs/00000001.pack", test, fault)
}

/// The same for another file of the store.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn on_a_failing_file(file: &str, test: &str, fault: &str) -> Option<TempDir> {
    if !can_trace() {
        eprintln!("skipped: strace cannot trace here");
        return None;
    }
    let home = tempfile::tempdir().expect("a directory");
    assert!(put(&open(home.path()), "first"));
    let status = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", fault, "-P"])
        .arg(home.path().join(file))
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", test])
        .env(STORE, home.path())
        .stdout(Stdio::null())
        .status();
    assert!(status.expect("strace runs").success());
    Some(home)
}

#[test]
fn a_block_that_could_not_be_synced_is_not_acknowledged_and_its_pack_is_left() {
    if let Some(directory) = std::env::var_os(STORE) {
        let store = open(Path::new(&directory));
        assert!(!put(&store, "lost"), "the sync failed");
        assert!(!has(&store, "lost"), "and nobody is told otherwise");
        assert!(put(&store, "kept"));
        assert!(Path::new(&directory).join("packs/00000002.pack").exists(), "not behind what may not last");
        return;
    }
    let test = "a_block_that_could_not_be_synced_is_not_acknowledged_and_its_pack_is_left";
    let Some(home) = on_a_failing_disk(test, "inject=fdatasync:error=EIO:when=1") else { return };
    let store = open(home.path());
    assert_eq!(["first", "lost", "kept"].map(|text| has(&store, text)), [true, false, true]);
}

/// The disk becomes full behind the first piece of a block that is written in pieces.
#[test]
fn a_block_of_which_only_a_part_found_room_is_not_taken_for_whole() {
    let is_there = |store: &DiskBlockStore| store.get(&large_block().hash()).expect("answers").is_some();
    if let Some(directory) = std::env::var_os(STORE) {
        let store = open(Path::new(&directory));
        let full = store.put(&[large_block()]);
        assert!(matches!(full, Err(StoreError::NoSpace { .. })), "{full:?}");
        assert!(!is_there(&store));
        assert!(put(&store, "kept"), "now there is room");
        return;
    }
    let test = "a_block_of_which_only_a_part_found_room_is_not_taken_for_whole";
    // The first write is of the record's header.
    let Some(home) = on_a_failing_disk(test, "inject=pwrite64:error=ENOSPC:when=3") else { return };
    for index in ["kept", "lost"] {
        if index == "lost" {
            std::fs::remove_file(home.path().join("index.sqlite")).expect("removed");
        }
        let store = open(home.path());
        assert_eq!(["first", "kept"].map(|text| has(&store, text)), [true; 2], "the index is {index}");
        assert!(!is_there(&store), "the index is {index}");
    }
    let store = open(home.path());
    store.put(&[large_block()]).expect("there is room");
    assert!(is_there(&store));
}

/// A server was killed between a write and its sync. The next one takes such a block for there, and a later upload of it
/// for done, so it must have been synced by then.
#[test]
fn what_was_not_synced_before_a_crash_is_synced_before_it_counts() {
    if let Some(directory) = std::env::var_os(STORE) {
        std::fs::remove_file(Path::new(&directory).join("index.sqlite")).expect("the index knows nothing of the pack");
        let opened = DiskBlockStore::open(Path::new(&directory), InstanceId([1; 16]), DiskOptions::default());
        assert!(matches!(opened, Err(StoreError::Io { what: "sync", .. })), "{opened:?}");
        return;
    }
    let test = "what_was_not_synced_before_a_crash_is_synced_before_it_counts";
    let Some(home) = on_a_failing_disk(test, "inject=fsync:error=EIO:when=1") else { return };
    assert!(has(&open(home.path()), "first"));
}

/// A pack that cannot be read for now kept the space of all later packs from coming back.
#[test]
fn a_pack_that_cannot_be_emptied_does_not_keep_the_others_from_it() {
    let small = |number: u8| Block::new(Bytes::from(vec![number; 1000 + usize::from(number)])).expect("a block");
    if let Some(directory) = std::env::var_os(STORE) {
        let directory = Path::new(&directory);
        let gone: Vec<Block> = (0..250).map(small).collect();
        let others: Vec<Block> =
            gone.iter().map(|block| Block::new(Bytes::from(block.bytes().repeat(2))).expect("a block")).collect();
        open(directory).put(&gone).expect("puts behind the first block");
        let store = open_small(directory);
        store.put(&[&others[..], &[block("second")]].concat()).expect("puts into the second pack");
        assert!(put(&store, "third"));
        let hashes: Vec<_> = gone.iter().chain(&others).map(Block::hash).collect();
        store.remove(&hashes).expect("removes");
        assert!(store.compact().is_err(), "the first block cannot be read");
        let is_there = |pack: u32| directory.join(format!("packs/{pack:08}.pack")).exists();
        assert_eq!([is_there(1), is_there(2)], [true, false]);
        assert_eq!(["second", "third"].map(|text| has(&store, text)), [true; 2]);
        return;
    }
    let test = "a_pack_that_cannot_be_emptied_does_not_keep_the_others_from_it";
    let Some(home) = on_a_failing_disk(test, "inject=pread64:error=ENOMEM:when=3+") else { return };
    assert!(has(&open(home.path()), "first"));
}

/// Whether the store would have the first block sent to it.
fn lacks_first(store: &DiskBlockStore) -> bool {
    store.lengths(&[block("first").hash()]).expect("answers") == [None]
}

fn says_that_first_is_damaged(store: &DiskBlockStore) -> bool {
    matches!(store.get(&block("first").hash()), Err(StoreError::Corrupt { .. }))
}

/// A bad sector was an error at each read and nothing else: the block was not sent again, and compaction and `verify`
/// ended there.
#[test]
fn a_block_that_the_disk_cannot_read_is_damaged_and_heals_when_it_is_sent_again() {
    if let Some(directory) = std::env::var_os(STORE) {
        let store = open_small(Path::new(&directory));
        assert!(!lacks_first(&store));
        assert!(says_that_first_is_damaged(&store) && lacks_first(&store));
        assert!(put(&store, "first"), "into the next pack");
        assert!(!lacks_first(&store) && has(&store, "first"));
        return;
    }
    let test = "a_block_that_the_disk_cannot_read_is_damaged_and_heals_when_it_is_sent_again";
    let Some(home) = on_a_failing_disk(test, "inject=pread64:error=EIO:when=2+") else { return };
    assert!(has(&open(home.path()), "first"));
}

#[test]
fn a_block_that_the_disk_can_read_again_is_damaged_no_more() {
    if let Some(directory) = std::env::var_os(STORE) {
        assert!(says_that_first_is_damaged(&open_small(Path::new(&directory))));
        return;
    }
    let test = "a_block_that_the_disk_can_read_again_is_damaged_no_more";
    let Some(home) = on_a_failing_disk(test, "inject=pread64:error=EIO:when=2+") else { return };
    let store = open(home.path());
    assert!(lacks_first(&store) && has(&store, "first"));
    assert!(!lacks_first(&store));
}

/// Puts two more blocks behind the first, and opens the store again without its index. The first look at the pack and the
/// second are one call each, and each record is two.
fn open_without_index(directory: &Path) -> Result<DiskBlockStore, StoreError> {
    let store = open(directory);
    assert!(put(&store, "second") && put(&store, "third"));
    drop(store);
    std::fs::remove_file(directory.join("index.sqlite")).expect("the index is lost");
    DiskBlockStore::open(directory, InstanceId([1; 16]), DiskOptions::default())
}

/// A start whose index was lost ended at the first bad sector.
#[test]
fn an_index_is_rebuilt_past_a_block_that_the_disk_cannot_read() {
    if let Some(directory) = std::env::var_os(STORE) {
        let store = open_without_index(Path::new(&directory)).expect("opens");
        assert_eq!(["first", "second"].map(|text| has(&store, text)), [true; 2]);
        assert_eq!(store.lengths(&[block("third").hash()]).expect("answers"), [None], "it is wanted again");
        return;
    }
    let test = "an_index_is_rebuilt_past_a_block_that_the_disk_cannot_read";
    let Some(home) = on_a_failing_disk(test, "inject=pread64:error=EIO:when=8..9") else { return };
    let store = open(home.path());
    assert_eq!(["first", "second", "third"].map(|text| has(&store, text)), [true; 3], "it was not cut");
}

#[test]
fn an_index_is_rebuilt_past_a_record_of_which_the_disk_cannot_read_whose_it_is() {
    if let Some(directory) = std::env::var_os(STORE) {
        let store = open_without_index(Path::new(&directory)).expect("opens");
        assert_eq!(["first", "second", "third"].map(|text| has(&store, text)), [true, false, true]);
        return;
    }
    let test = "an_index_is_rebuilt_past_a_record_of_which_the_disk_cannot_read_whose_it_is";
    let Some(home) = on_a_failing_disk(test, "inject=pread64:error=EIO:when=5..6") else { return };
    std::fs::remove_file(home.path().join("index.sqlite")).expect("made once again");
    let store = open(home.path());
    assert_eq!(["first", "second", "third"].map(|text| has(&store, text)), [true; 3], "it was not cut");
}

/// A controller that is lost for a minute must not make everything on its disks count as lost.
#[test]
fn an_index_is_not_rebuilt_from_a_disk_that_reads_nothing_any_more() {
    if let Some(directory) = std::env::var_os(STORE) {
        let opened = open_without_index(Path::new(&directory));
        assert!(matches!(opened, Err(StoreError::Io { what: "read", .. })), "{opened:?}");
        return;
    }
    let test = "an_index_is_not_rebuilt_from_a_disk_that_reads_nothing_any_more";
    let Some(home) = on_a_failing_disk(test, "inject=pread64:error=EIO:when=5+") else { return };
    let store = open(home.path());
    assert_eq!(["first", "second", "third"].map(|text| has(&store, text)), [true; 3]);
}

/// The server did not start any more.
#[test]
fn an_index_of_which_the_disk_cannot_read_all_is_made_anew() {
    if let Some(directory) = std::env::var_os(STORE) {
        assert!(has(&open(Path::new(&directory)), "first"));
        return;
    }
    let test = "an_index_of_which_the_disk_cannot_read_all_is_made_anew";
    let Some(home) = on_a_failing_file("index.sqlite", test, "inject=pread64:error=EIO:when=1") else { return };
    assert!(has(&open(home.path()), "first"));
}
