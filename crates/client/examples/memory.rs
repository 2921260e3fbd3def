//! What a tree of many files takes in memory, at each stage of its first sync:
//! `cargo run --release -p client --example memory -- 1000000`

#![expect(clippy::print_stdout, reason = "its figures are what it is for")]

use model::{ContentHash, Mtime, Name, NamespaceId, NodeId, Position};
use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use sync_engine::io::Fingerprint;
use sync_engine::tree::{Content, FileContent, Local, Place, Remote, Seen, Synced};
use sync_engine::trees::Trees;

const FILES_PER_FOLDER: u64 = 200;
const ROOT: NamespaceId = NamespaceId([0xee; 16]);

fn main() -> Result<(), Box<dyn Error>> {
    let files: u64 = std::env::args().nth(1).map_or(Ok(100_000), |number| number.parse())?;
    println!("bytes for each of {files} files in folders of {FILES_PER_FOLDER}, and MB of the process");
    uploader(files)?;
    downloader(files)?;
    Ok(())
}

fn uploader(files: u64) -> Result<(), Box<dyn Error>> {
    let mut trees = Trees::new(ROOT, Vec::new(), BTreeSet::new());
    for number in nodes(files) {
        trees.set_local(id(number), Some(local(number, seen(number))?));
        persisted(&mut trees);
    }
    report("uploader, scanned", &trees, files)?;
    for number in nodes(files) {
        trees.set_local(id(number), Some(local(number, content(number).seen())?));
        persisted(&mut trees);
    }
    report("uploader, read", &trees, files)?;
    for number in nodes(files) {
        trees.set_remote(id(number), Some(remote(number)?));
        trees.set_synced(id(number), Some(synced(number)?));
        persisted(&mut trees);
    }
    while trees.next_todo().is_some() {}
    report("uploader, in sync", &trees, files)
}

fn downloader(files: u64) -> Result<(), Box<dyn Error>> {
    let mut trees = Trees::new(ROOT, Vec::new(), BTreeSet::new());
    for number in nodes(files) {
        trees.set_remote(id(number), Some(remote(number)?));
        persisted(&mut trees);
    }
    report("downloader, journal read", &trees, files)?;
    for number in nodes(files) {
        trees.set_local(id(number), Some(local(number, content(number).seen())?));
        trees.set_synced(id(number), Some(synced(number)?));
        persisted(&mut trees);
    }
    while trees.next_todo().is_some() {}
    report("downloader, in sync", &trees, files)
}

/// Files from 0, and a folder before the first of its files.
fn nodes(files: u64) -> impl Iterator<Item = u64> {
    (0..files).flat_map(|file| (file % FILES_PER_FOLDER == 0).then_some(folder_of(file)).into_iter().chain([file]))
}

/// Folders have numbers that no file has.
const fn folder_of(file: u64) -> u64 {
    u64::MAX - file / FILES_PER_FOLDER
}

const fn is_folder(number: u64) -> bool {
    number > u64::MAX / 2
}

fn id(number: u64) -> NodeId {
    NodeId(spread(number).to_be_bytes())
}

/// Another number that looks like chance.
const fn spread(number: u64) -> u128 {
    (number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

fn place(number: u64) -> Result<Place, Box<dyn Error>> {
    let (parent, name) = if is_folder(number) {
        (ROOT.root(), format!("folder-{:05}", u64::MAX - number))
    } else {
        (id(folder_of(number)), format!("document-{:06}.txt", number % FILES_PER_FOLDER))
    };
    Ok(Place { parent, name: Name::parse(&name)? })
}

fn file(number: u64) -> FileContent {
    let mut hash = [7; 32];
    hash[..16].copy_from_slice(&spread(number).to_le_bytes());
    FileContent { hash: ContentHash(hash), size: 1000, executable: false, mtime: print(number).mtime }
}

fn content(number: u64) -> Content {
    if is_folder(number) { Content::Directory } else { Content::File(file(number)) }
}

const fn seen(number: u64) -> Seen {
    if is_folder(number) { Seen::Directory } else { Seen::File(None) }
}

fn print(number: u64) -> Fingerprint {
    // Nanoseconds; files of one folder are made one after the other.
    let time = 1_790_000_000_000_000_000 + (number % 1_000_000).cast_signed() * 37_123;
    Fingerprint {
        device: 2049,
        inode: 10_000_000 + number % 4_000_000,
        birth: Some(time),
        size: 1000,
        mtime: Mtime(time + 21_777),
        ctime: time + 21_777,
        executable: false,
    }
}

fn local(number: u64, seen: Seen) -> Result<Local, Box<dyn Error>> {
    Ok(Local { place: place(number)?, seen, print: print(number), disk_name: None })
}

fn synced(number: u64) -> Result<Synced, Box<dyn Error>> {
    Ok(Synced { place: place(number)?, content: content(number) })
}

fn remote(number: u64) -> Result<Remote, Box<dyn Error>> {
    let position = Position(number % 2_000_000);
    Ok(Remote { place: place(number)?, content: content(number), content_rev: position, location_rev: position })
}

/// The engine has rows written in such portions.
fn persisted(trees: &mut Trees) {
    if trees.touched_count() >= 5_000 {
        trees.take_touched();
    }
}

fn report(stage: &str, trees: &Trees, files: u64) -> Result<(), Box<dyn Error>> {
    let resident = resident_mb()?;
    println!("{stage}: {resident} MB");
    for (part, bytes) in trees.footprint() {
        println!("    {part:<24} {:>6.1}", bytes as f64 / files as f64);
    }
    Ok(())
}

fn resident_mb() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("Linux tells the size")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}
