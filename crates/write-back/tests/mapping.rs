//! That stores through a mapping show in the change time after a write-back.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use write_back::mapping::Mapping;

const LEN: usize = 64 * 1024;

fn change_time(path: &Path) -> (i64, i64) {
    let found = path.metadata().expect("is there");
    (found.ctime(), found.ctime_nsec())
}

/// Returns when the clock that gives change times has gone on.
fn outwait_tick(folder: &Path, since: (i64, i64)) {
    let probe = folder.join("probe");
    while {
        std::fs::write(&probe, "x").expect("writes");
        change_time(&probe) <= since
    } {
        thread::yield_now();
    }
}

#[test]
fn what_is_stored_through_a_mapping_shows_after_a_write_back() {
    // Not where temporary files lie: that may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let path = folder.path().join("mapped");
    std::fs::write(&path, vec![0; LEN]).expect("writes");
    let file = File::options().read(true).write(true).open(&path).expect("opens");
    let mapping = Mapping::of(&file, LEN).expect("maps");
    for page in (0..LEN).step_by(4096) {
        mapping.store(page, 1);
    }
    let read_only = File::open(&path).expect("opens");
    write_back::write_back(&read_only).expect("writes back");
    let before = change_time(&path);
    outwait_tick(folder.path(), before);

    mapping.store(5 * 4096 + 7, 2);

    assert!(change_time(&path) > before, "a page that was dirty before is stored into, and it shows");
    assert_eq!(std::fs::read(&path).expect("reads")[5 * 4096 + 7], 2);
}
