//! Files that need not be hashed a second time to be sent.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod support;

use local_files::hashed::HashedFiles;
use local_files::temps::read_blocks;
use model::{BlockHash, Blocklist};
use std::fs;
use support::{Folder, Meddled, NODE, content, local};
use sync_engine::io::{BlockSource, HashResult, HashTask, Job, JobResult};

fn task(folder: &Folder) -> HashTask {
    HashTask { node: NODE, path: local("f"), print: folder.print("f"), closed: false }
}

/// What is noted here is not what the file holds: so it shows whether the bytes were hashed.
#[test]
fn blocks_of_a_file_are_hashed_again_only_if_it_is_not_in_the_state_in_which_it_was_hashed() {
    let folder = Folder::new();
    let text = "x".repeat(300_000);
    folder.write("f", &text);
    let noted = BlockHash([7; 32]);
    let source = |hash, len| BlockSource { hash, len, path: local("f"), offset: 0 };
    let hashed = HashedFiles::default();
    let read = |hash, len| read_blocks(&folder.disk, &[source(hash, len)], &hashed);
    let note = || {
        let content = content(text.as_bytes());
        let result = HashResult::Hashed { content, blocks: Blocklist(vec![noted]) };
        hashed.note(&Job::Hash(vec![task(&folder)]), &JobResult::Hashed(vec![(NODE, result)]));
    };
    assert_eq!(read(noted, 300_000), Err(vec![noted]), "nothing is noted yet");
    note();
    assert_eq!(read(noted, 300_000), Ok(vec![text.clone().into_bytes()]));
    assert_eq!(read(noted, 299_999), Err(vec![noted]), "another block than the one that was hashed");
    assert_eq!(read(BlockHash::of(text.as_bytes()), 300_000), Ok(vec![text.clone().into_bytes()]));
    hashed.set_on(false);
    note();
    assert_eq!(read(noted, 300_000), Err(vec![noted]), "it is off");
    hashed.set_on(true);
    note();
    assert!(read(noted, 300_000).is_ok());
    folder.write("f", "y".repeat(300_001));
    assert_eq!(read(noted, 300_000), Err(vec![noted]), "the file has changed since");
}

/// A file that is written to while it is read.
#[test]
fn a_change_between_the_first_look_and_the_last_byte_is_seen() {
    let folder = Folder::new();
    let text = "x".repeat(300_000);
    folder.write("f", &text);
    let noted = BlockHash([7; 32]);
    let hashed = HashedFiles::default();
    let result = HashResult::Hashed { content: content(text.as_bytes()), blocks: Blocklist(vec![noted]) };
    hashed.note(&Job::Hash(vec![task(&folder)]), &JobResult::Hashed(vec![(NODE, result)]));
    let source = BlockSource { hash: noted, len: 300_000, path: local("f"), offset: 0 };
    let path = folder.path("f");
    let meddled = Meddled::new(&folder.disk, move |what, _| {
        if what == "read_at" {
            fs::write(&path, "y".repeat(300_001)).unwrap();
        }
        Ok(())
    });
    assert_eq!(read_blocks(&meddled, &[source], &hashed), Err(vec![noted]));
}
