//! What long writes leave in a file, and in the page cache.

use direct_io::{DIRECT_FROM, PageCache, write_all_at};
use rustix::fs::{Mode, OFlags, fdatasync, open, statfs};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What `statfs` calls a file system that is nowhere but in the page cache.
const TMPFS: i64 = 0x0102_1994;
const FILE_BYTES: usize = 4 * DIRECT_FROM;

/// A directory on the disk: the one for temporary files may be in memory.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}

/// A durable file of other bytes.
fn old_file(path: &Path) -> File {
    std::fs::write(path, vec![0xa5; FILE_BYTES]).expect("is written");
    let file = File::options().read(true).write(true).open(path).expect("opens");
    file.sync_all().expect("is durable");
    file
}

#[test]
fn bytes_at_any_place_are_written_and_their_neighbours_stay() {
    let directory = directory();
    for cache in [PageCache::Past, PageCache::Through] {
        for offset in [0, 1, 60, 4095, 4096, 4097, 100_000] {
            for len in [0, 1, DIRECT_FROM - 1, DIRECT_FROM, DIRECT_FROM + 1, 2 * DIRECT_FROM + 4095, 3 * DIRECT_FROM] {
                let file = old_file(&directory.path().join("file"));
                let (mut expected, bytes) = (vec![0xa5; FILE_BYTES], noise(len));
                expected[offset..offset + len].copy_from_slice(&bytes);
                write_all_at(&file, &bytes, offset as u64, cache).expect("is written");
                let found = std::fs::read(directory.path().join("file")).expect("is read");
                assert!(found == expected, "{len} bytes at {offset}, {cache:?}");
            }
        }
    }
}

#[test]
fn a_file_grows_piece_by_piece() {
    let directory = directory();
    let path = directory.path().join("file");
    let (file, bytes) = (File::create(&path).expect("is made"), noise(FILE_BYTES));
    let mut at = 0;
    for len in [16, 44, 2 * DIRECT_FROM + 5, 44, DIRECT_FROM, 700, FILE_BYTES].into_iter() {
        let end = (at + len).min(bytes.len());
        write_all_at(&file, &bytes[at..end], at as u64, PageCache::Past).expect("is written");
        at = end;
        assert!(std::fs::read(&path).expect("is read") == bytes[..at], "up to {at}");
    }
    assert_eq!(at, bytes.len());
}

#[test]
fn long_writes_leave_nothing_in_the_page_cache_where_the_file_system_can() {
    let directory = directory();
    let path = directory.path().join("file");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("is made");
    let has_direct_io = open(&path, OFlags::WRONLY | OFlags::DIRECT, Mode::empty()).is_ok();
    if !has_direct_io || statfs(&path).expect("is known").f_type == TMPFS {
        eprintln!("left out: what is written here goes nowhere but to the page cache");
        return;
    }
    for (cache, is_kept) in [(PageCache::Past, false), (PageCache::Through, true)] {
        let bytes = noise(2 * DIRECT_FROM);
        write_all_at(&file, &bytes, 0, cache).expect("is written");
        fdatasync(&file).expect("is durable");
        let mut byte = [0];
        let read = preadv2(&file, &mut [IoSliceMut::new(&mut byte)], DIRECT_FROM as u64, ReadWriteFlags::NOWAIT);
        match read {
            Ok(_) => assert!(is_kept, "{cache:?}"),
            Err(error) => assert!(error == Errno::AGAIN && !is_kept, "{cache:?}: {error}"),
        }
        file.read_exact_at(&mut byte, DIRECT_FROM as u64).expect("is read");
        assert_eq!(byte[0], bytes[DIRECT_FROM]);
        file.set_len(0).expect("is cut");
    }
}

#[test]
fn a_file_that_cannot_be_written_says_so() {
    let directory = directory();
    let path = directory.path().join("file");
    old_file(&path);
    let file = File::open(&path).expect("opens");
    for cache in [PageCache::Past, PageCache::Through] {
        assert_eq!(write_all_at(&file, &noise(100), 0, cache), Err(Errno::BADF), "{cache:?}");
    }
}
