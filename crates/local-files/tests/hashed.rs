//! Files that need not be hashed a second time to be sent.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod support;

use local_files::hashed::HashedFiles;
use local_files::jobs::run_job_noting;
use local_files::temps::read_blocks;
use model::{BlockHash, Blocklist};
use std::fs;
use support::{Folder, Meddled, NODE, blocks_of, content, local};
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

/// Far enough ahead that every file has settled, in nanoseconds.
const LATER_NS: i64 = 3_000_000_000_000_000_000;

/// Hashes files of these names that `folder` has; what became of each.
fn hash(folder: &Folder, names: &[String], hashed: &HashedFiles) -> Vec<HashResult> {
    let task = |name: &String| HashTask { node: NODE, path: local(name), print: folder.print(name), closed: false };
    hash_tasks(folder, names.iter().map(task).collect(), hashed)
}

fn hash_tasks(folder: &Folder, tasks: Vec<HashTask>, hashed: &HashedFiles) -> Vec<HashResult> {
    let calm = Meddled::new(&folder.disk, |_, _| Ok(())).with_clock(LATER_NS);
    match run_job_noting(&calm, &Job::Hash(tasks), hashed) {
        JobResult::Hashed(results) => results.into_iter().map(|(_, result)| result).collect(),
        other => panic!("{other:?}"),
    }
}

fn source(name: &str, content: &[u8]) -> BlockSource {
    let len = u32::try_from(content.len()).unwrap();
    BlockSource { hash: BlockHash::of(content), len, path: local(name), offset: 0 }
}

#[test]
fn the_content_of_a_small_file_is_sent_as_it_was_hashed_and_read_again_only_the_second_time() {
    let folder = Folder::new();
    folder.write("f", "small");
    let hashed = HashedFiles::default();
    let sources = [source("f", b"small")];
    hash(&folder, &["f".into()], &hashed);
    fs::remove_file(folder.path("f")).unwrap();
    assert_eq!(read_blocks(&folder.disk, &sources, &hashed), Ok(vec![b"small".to_vec()]));
    assert_eq!(read_blocks(&folder.disk, &sources, &hashed), Err(vec![sources[0].hash]), "it serves once");

    folder.write("f", "small");
    for forget in [HashedFiles::forget_contents, |hashed: &HashedFiles| hashed.set_on(false)] {
        hash(&folder, &["f".into()], &hashed);
        forget(&hashed);
        fs::write(folder.path("f"), "other").unwrap();
        assert_eq!(read_blocks(&folder.disk, &sources, &hashed), Err(vec![sources[0].hash]));
        fs::write(folder.path("f"), "small").unwrap();
    }
    hash(&folder, &["f".into()], &hashed);
    fs::remove_file(folder.path("f")).unwrap();
    assert!(read_blocks(&folder.disk, &sources, &hashed).is_err(), "it is off");
}

#[test]
fn contents_are_kept_in_the_order_in_which_they_are_sent_until_nobody_sends_them() {
    let folder = Folder::new();
    let names: Vec<String> = (10..70).map(|number| format!("{number}")).collect();
    let content = |name: &str| name.repeat(100_000);
    for name in &names {
        folder.write(name, content(name));
    }
    let [few, many] = [HashedFiles::default(), HashedFiles::default()];
    let last = names[59].clone();
    hash(&folder, &names, &few);
    hash(&folder, &names, &many);
    hash(&folder, &vec![last.clone(); 340], &many);
    for name in &names {
        fs::remove_file(folder.path(name)).unwrap();
    }
    let is_kept = |name: &String, by: &HashedFiles| {
        read_blocks(&folder.disk, &[source(name, content(name).as_bytes())], by).is_ok()
    };
    let kept: Vec<&String> = names.iter().filter(|name| is_kept(name, &few)).collect();
    assert!((30..=41).contains(&kept.len()), "up to 8 MiB of 12 MB: {}", kept.len());
    assert_eq!(kept, names.iter().take(kept.len()).collect::<Vec<_>>(), "those that came first");
    assert!(is_kept(&last, &many), "nobody has sent the others while 64 MiB came");
    assert!(!is_kept(&names[0], &many));
}

#[test]
fn of_many_files_in_one_job_each_has_its_own_result() {
    let folder = Folder::new();
    // Sizes around those at which files are read alone or end a group.
    let sizes = [5, 0, 262_143, 262_144, 1, 262_143, 262_143, 262_143, 262_143, 9_000_000, 0, 17];
    let name = |number: usize| format!("{number}");
    for (number, size) in sizes.iter().enumerate() {
        folder.write(&name(number), vec![u8::try_from(number).unwrap(); *size]);
    }
    let task = |number: usize| {
        let path = name(number);
        HashTask { node: NODE, path: local(&path), print: folder.print(&path), closed: false }
    };
    let tasks: Vec<HashTask> = (0..sizes.len()).map(task).collect();
    fs::remove_file(folder.path("5")).unwrap();
    folder.write("7", "another content");
    let results = hash_tasks(&folder, tasks, &HashedFiles::default());
    for (number, (size, result)) in sizes.iter().zip(results).enumerate() {
        let expected = blocks_of(&vec![u8::try_from(number).unwrap(); *size]);
        match result {
            HashResult::Hashed { content, blocks } => {
                assert_eq!((&blocks, content.hash), (&expected, expected.content_hash()), "{number}");
            }
            other => assert!([5, 7].contains(&number) && other == HashResult::Changed, "{number}: {other:?}"),
        }
    }
}
