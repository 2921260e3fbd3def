//! A disk that fails to sync, by way of strace's fault injection. Skipped, with a word, where there is no
//! strace or no leave to trace.

use block_store::{Block, BlockStore, DiskBlockStore, DiskOptions};
use bytes::Bytes;
use model::InstanceId;
use std::path::Path;
use std::process::{Command, Stdio};

/// Set for the process that works on the failing disk: the store's directory.
const STORE: &str = "FAILING_DISK_STORE";

fn open(directory: &Path) -> DiskBlockStore {
    DiskBlockStore::open(directory, InstanceId([1; 16]), DiskOptions::default()).expect("opens")
}

fn block(text: &'static str) -> Block {
    Block::new(Bytes::from_static(text.as_bytes())).expect("a block")
}

fn put(store: &DiskBlockStore, text: &'static str) -> bool {
    store.put(&[block(text)]).is_ok()
}

fn has(store: &DiskBlockStore, text: &'static str) -> bool {
    store.get(&block(text).hash()).expect("answers").is_some()
}

fn can_trace() -> bool {
    let trial = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    trial.is_ok_and(|status| status.success())
}

/// Runs this test again, traced, with the pack's first `fdatasync` failing.
fn on_a_failing_disk(test: &str, directory: &Path) -> bool {
    let status = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO:when=1", "-P"])
        .arg(directory.join("packs/00000001.pack"))
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", test])
        .env(STORE, directory)
        .stdout(Stdio::null())
        .status();
    status.expect("strace runs").success()
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
    if !can_trace() {
        eprintln!("skipped: strace cannot trace here");
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    assert!(put(&open(home.path()), "first"));
    let test = "a_block_that_could_not_be_synced_is_not_acknowledged_and_its_pack_is_left";
    assert!(on_a_failing_disk(test, home.path()));
    let store = open(home.path());
    assert_eq!(["first", "lost", "kept"].map(|text| has(&store, text)), [true, false, true]);
}
