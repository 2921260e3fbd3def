//! Which way large downloads go to the disk.

use std::fs::{self, File};
use std::io::IoSliceMut;

use local_files::disk::{Disk, RootId};
use local_files::fs::temp_path;
use local_files::temps::{Turns, write_block};
use rustix::fs::{Mode, OFlags, fdatasync, open, statfs};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use sync_engine::io::{BlockTarget, TempName};

/// What `statfs` calls a file system that is nowhere but in the page cache.
const TMPFS: i64 = 0x0102_1994;
const BLOCK_BYTES: usize = 2 << 20;

/// Whether a byte of a file can be read without asking the disk.
fn is_in_memory(file: &File, offset: u64) -> bool {
    match preadv2(file, &mut [IoSliceMut::new(&mut [0])], offset, ReadWriteFlags::NOWAIT) {
        Ok(_) => true,
        Err(Errno::AGAIN) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_large_download_is_not_kept_in_memory_unless_a_setting_says_so() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let root = directory.path().join("root");
    fs::create_dir(&root).unwrap();
    let disk = Disk::create_root(&root, RootId([7; 16])).unwrap();
    let bytes: Vec<u8> = (0..BLOCK_BYTES).map(|n| (n % 251) as u8).collect();
    for direct in [true, false] {
        disk.set_direct_writes(direct);
        let temp = TempName(format!("direct {direct}"));
        write_block(&disk, &BlockTarget { temp: temp.clone(), offset: 0 }, &bytes, &Turns::default()).unwrap();
        let path = root.join(temp_path(&temp).unwrap().to_string());
        let file = File::open(&path).unwrap();
        fdatasync(&file).unwrap();
        let has_direct_io = open(&path, OFlags::WRONLY | OFlags::DIRECT, Mode::empty()).is_ok();
        if has_direct_io && statfs(&root).unwrap().f_type != TMPFS {
            assert_eq!(is_in_memory(&file, BLOCK_BYTES as u64 / 2), !direct, "direct writes: {direct}");
        }
        assert!(fs::read(&path).unwrap() == bytes);
    }
}
