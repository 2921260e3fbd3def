//! Downloads for which the disk has no room.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod support;

use local_files::fs::Fs;
use local_files::jobs::run_job;
use local_files::room::Room;
use local_files::temps::{Turns, write_block};
use model::BLOCK_SIZE;
use support::{Folder, Meddled, blocks_of};
use sync_engine::io::{BlockTarget, Job, JobResult, TempName};

/// It would fill the disk up, and nothing else could be synced either.
#[test]
fn a_download_that_finds_no_room_is_not_begun_and_gives_back_what_it_took() {
    let folder = Folder::new();
    let size = 2 * BLOCK_SIZE + 10;
    let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n % 253).unwrap()).collect();
    let block = usize::try_from(BLOCK_SIZE).unwrap();
    let temp = TempName("part".into());
    let target = BlockTarget { temp: temp.clone(), offset: BLOCK_SIZE };
    write_block(&folder.disk, &target, &bytes[block..2 * block], &Turns::default()).unwrap();
    let probe = Job::Probe { temp, size, blocks: blocks_of(&bytes), reuse: Vec::new() };
    // What is missing, and one block more.
    let enough = size - BLOCK_SIZE + BLOCK_SIZE;
    let found = run_job(&Meddled::with_room(&folder.disk, enough), &probe);
    assert!(matches!(&found, JobResult::Probed { present, .. } if present == &[1]), "{found:?}");
    assert_eq!(run_job(&Meddled::with_room(&folder.disk, enough - 1), &probe), JobResult::NoRoom);
    assert_eq!(folder.temps(), Vec::<String>::new());
    assert_eq!(run_job(&Meddled::with_room(&folder.disk, 0), &probe), JobResult::NoRoom, "also when there is none");
}

#[test]
fn a_disk_tells_how_much_it_takes() {
    let folder = Folder::new();
    assert!(folder.disk.free_bytes().is_some_and(|free| free > 0));
    let has = |fs: &dyn Fs, bytes| Room::default().has(fs, bytes);
    assert!(has(&folder.disk, 1));
    assert!(!has(&folder.disk, u64::MAX));
    let (full, unknown) = (Meddled::with_room(&folder.disk, 9), Meddled::new(&folder.disk, |_, _| Ok(())));
    assert_eq!([9, 10].map(|bytes| has(&full, bytes)), [true, false]);
    assert!(has(&unknown, u64::MAX), "then it is tried");
}

#[test]
fn a_disk_is_asked_again_when_a_part_of_its_room_was_taken_and_after_some_answers() {
    let folder = Folder::new();
    let (roomy, full) = (Meddled::with_room(&folder.disk, 1_600), Meddled::with_room(&folder.disk, 0));
    let room = Room::default();
    assert!(room.has(&roomy, 0));
    assert!(room.has(&full, 60) && room.has(&full, 40), "a sixteenth of what it told of, without asking");
    assert!(!room.has(&full, 1), "asked, and full");
    assert!(!room.has(&full, 1), "what it said before is forgotten");
    assert!(room.has(&roomy, 0));
    assert_eq!((0..1_000).take_while(|_| room.has(&full, 1)).count(), 64);
}
