//! Blocks on their way between temporary files, local files and the network.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::thread;

use model::block::block_len;
use model::limits::BEGINNING_BYTES;
use model::{BLOCK_SIZE, BlockHash, Blocklist};
use sync_engine::io::{BlockSource, BlockTarget, FileKind, Fingerprint, LocalPath, StepError, TempName};

use crate::aside::{self, State};
use crate::fs::{Fs, FsError, ListedEntry, OpenFile, TEMP_DIRECTORY, TempFile, own_path, temp_path};
use crate::hashed::HashedFiles;
use crate::jobs::{available_threads, held, step_error};

/// Bytes of a file in the making after which they are synced although it is not complete.
const SYNC_STRETCH: u64 = 64 * 1024 * 1024;
/// Blocks from which on several threads copy: a tenth of a second for one.
const SHARED_COPIES: usize = 16;
/// Beginnings of blocks that are told of one file: those of the downloads that an end of the program interrupts.
const BEGUN_BLOCKS: usize = 8;
/// Temporary files that are written to side by side, at most.
const TURNS: usize = 16;
/// Attempts to find a free name for a file that is given back to the user.
const RESCUE_ATTEMPTS: u32 = 1000;

/// Who writes into a temporary file next. The kernel lets one write at a time into a file, and whoever waits there keeps
/// a processor busy.
#[derive(Debug, Default)]
pub struct Turns([Mutex<()>; TURNS]);

impl Turns {
    /// Different files may share a turn.
    fn of(&self, temp: &TempName) -> &Mutex<()> {
        let sum = temp.0.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        &self.0[sum % TURNS]
    }
}

/// Writes a downloaded block to its place in a temporary file, which is made if it is not there yet.
/// The caller has checked the block against its hash, and shares `turns` with the other threads that do so.
///
/// # Errors
/// [`StepError`], for [`sync_engine::io::Reply::Fetched`].
pub fn write_block(fs: &dyn Fs, target: &BlockTarget, bytes: &[u8], turns: &Turns) -> Result<(), StepError> {
    // The first block of a file mostly makes it, and most files have no other.
    let file = if target.offset == 0 { create_or_open(fs, &target.temp) } else { open_or_create(fs, &target.temp) };
    let file = file.map_err(step_error)?;
    let turn = turns.of(&target.temp).lock().unwrap_or_else(PoisonError::into_inner);
    file.write_at(bytes, target.offset).map_err(step_error)?;
    drop(turn);
    if is_sync_point(target.offset, bytes.len() as u64) {
        // No promise rests on it: the whole file is synced before it is installed, which is quick if most of
        // it is on the disk by then.
        file.sync_data().map_err(step_error)?;
    }
    Ok(())
}

/// Whether a block is the last of a stretch that is sent to the disk while the next one is received.
const fn is_sync_point(offset: u64, len: u64) -> bool {
    (offset + len).is_multiple_of(SYNC_STRETCH)
}

fn open_or_create(fs: &dyn Fs, temp: &TempName) -> Result<Box<dyn TempFile>, FsError> {
    match open_writable(fs, temp) {
        Err(FsError::NotFound) => {}
        opened => return opened,
    }
    create_or_open(fs, temp)
}

fn create_or_open(fs: &dyn Fs, temp: &TempName) -> Result<Box<dyn TempFile>, FsError> {
    match fs.create_temp(temp) {
        // Another download of the same file made it, or an earlier one.
        Err(FsError::AlreadyExists) => match open_writable(fs, temp) {
            Err(FsError::NotFound) => fs.create_temp(temp),
            opened => opened,
        },
        created => created,
    }
}

/// Opens a temporary file that is there. One that was finished for a place which it could not be put into may have the
/// permissions of the file there, and be closed to us: it is removed.
fn open_writable(fs: &dyn Fs, temp: &TempName) -> Result<Box<dyn TempFile>, FsError> {
    match fs.open_temp(temp) {
        Err(FsError::Permission) => {
            fs.unlink(&temp_path(temp)?)?;
            Err(FsError::NotFound)
        }
        opened => opened,
    }
}

/// Reads blocks from local files for an upload and checks each against its hash, but for those of files that are in the
/// state in which they were `hashed`: the receiver checks the blocks, too. Small files whose content is at hand are not
/// read.
///
/// # Errors
/// The blocks that their files no longer hold; none is handed out then.
pub fn read_blocks(fs: &dyn Fs, sources: &[BlockSource], hashed: &HashedFiles) -> Result<Vec<Vec<u8>>, Vec<BlockHash>> {
    held(fs, |fs| read_all(fs, sources, hashed))
}

fn read_all(fs: &dyn Fs, sources: &[BlockSource], hashed: &HashedFiles) -> Result<Vec<Vec<u8>>, Vec<BlockHash>> {
    let mut blocks = Vec::with_capacity(sources.len());
    let mut missing = Vec::new();
    for of_one_file in sources.chunk_by(|one, next| one.path == next.path) {
        if let [small] = of_one_file
            && let Some(content) = hashed.take(&small.hash)
        {
            blocks.push(content);
            continue;
        }
        for (source, block) in of_one_file.iter().zip(read_of_one(fs, of_one_file, hashed)) {
            match block {
                Some(bytes) => blocks.push(bytes),
                None => missing.push(source.hash),
            }
        }
    }
    if missing.is_empty() { Ok(blocks) } else { Err(missing) }
}

/// Blocks of one file; `None` in the place of those that it no longer holds.
fn read_of_one(fs: &dyn Fs, sources: &[BlockSource], hashed: &HashedFiles) -> Vec<Option<Vec<u8>>> {
    let Some(file) = sources.first().and_then(|source| fs.open(&source.path).ok()) else {
        return vec![None; sources.len()];
    };
    let known = hashed.at(&sources[0].path).filter(|known| known.is(&*file));
    let noted = |source: &BlockSource| known.as_ref().is_some_and(|known| known.has(source));
    let read = |source: &BlockSource| match noted(source) {
        true => read_whole(&*file, source.offset, source.len.into()),
        false => read_block(&*file, source.offset, source.len.into(), &source.hash),
    };
    let mut blocks: Vec<Option<Vec<u8>>> = sources.iter().map(read).collect();
    // What counts is the state after the last byte was read.
    if known.as_ref().is_some_and(|known| !known.is(&*file)) {
        for (source, block) in sources.iter().zip(&mut blocks).filter(|(source, _)| noted(source)) {
            *block = block.take().filter(|bytes| BlockHash::of(bytes) == source.hash);
        }
    }
    blocks
}

/// Which blocks of a content are whole in a temporary file, and what may be the beginning of others; none when
/// there is no such file.
pub(crate) fn present_blocks(
    fs: &dyn Fs,
    temp: &TempName,
    size: u64,
    blocks: &Blocklist,
) -> (Vec<u32>, Vec<(u32, BlockSource)>) {
    let (mut present, mut begun) = (Vec::new(), Vec::new());
    let (Ok(file), Ok(path)) = (fs.open_temp(temp), temp_path(temp)) else { return (present, begun) };
    for (index, hash) in (0..).zip(&blocks.0) {
        let offset = u64::from(index) * BLOCK_SIZE;
        let Some(bytes) = read_at_most(&*file, offset, block_len(size, index.into())) else { continue };
        if bytes.len() as u64 == block_len(size, index.into()) && BlockHash::of(&bytes) == *hash {
            present.push(index);
        } else if begun.len() < BEGUN_BLOCKS
            && let Some((hash, len)) = beginning(&bytes)
        {
            begun.push((index, BlockSource { hash, len, path: path.clone(), offset }));
        }
    }
    (present, begun)
}

/// What was written of a block from its beginning, if it was written piece by piece: what is not there yet reads
/// as zeros.
fn beginning(bytes: &[u8]) -> Option<(BlockHash, u32)> {
    let mut pieces = bytes.chunks_exact(BEGINNING_BYTES);
    let written = pieces.rposition(|piece| piece.iter().any(|byte| *byte != 0))? + 1;
    let len = written * BEGINNING_BYTES;
    Some((BlockHash::of(&bytes[..len]), u32::try_from(len).ok()?))
}

/// Copies blocks of local files into a temporary file, but for those `present` there. Gives the numbers of
/// those that came over; what has changed is left out, and what the disk has no room for ends it early.
pub(crate) fn reuse_blocks(fs: &dyn Fs, temp: &TempName, reuse: &[(u32, BlockSource)], present: &[u32]) -> Vec<u32> {
    let absent: Vec<&(u32, BlockSource)> =
        reuse.iter().filter(|(number, _)| present.binary_search(number).is_err()).collect();
    if absent.is_empty() {
        return Vec::new();
    }
    let Ok(target) = open_or_create(fs, temp) else { return Vec::new() };
    let threads = if absent.len() < SHARED_COPIES { 1 } else { usize::try_from(available_threads()).unwrap_or(1) };
    let share = absent.len().div_ceil(threads);
    thread::scope(|scope| {
        let target = &*target;
        let mut shares = absent.chunks(share);
        let first = shares.next().unwrap_or_default();
        let others: Vec<_> = shares.map(|share| scope.spawn(move || copy_blocks(fs, target, share))).collect();
        let mut copied = copy_blocks(fs, target, first);
        copied.extend(others.into_iter().flat_map(|other| other.join().unwrap_or_default()));
        copied
    })
}

fn copy_blocks(fs: &dyn Fs, target: &dyn TempFile, blocks: &[&(u32, BlockSource)]) -> Vec<u32> {
    let mut copied = Vec::new();
    let mut opened: Option<(&LocalPath, Box<dyn OpenFile>)> = None;
    let mut unsynced = 0;
    for (number, source) in blocks.iter().copied() {
        if opened.as_ref().is_none_or(|(path, _)| **path != source.path) {
            opened = fs.open(&source.path).ok().map(|file| (&source.path, file));
        }
        let file = opened.as_ref().map(|(_, file)| &**file);
        let Some(bytes) = file.and_then(|file| read_block(file, source.offset, source.len.into(), &source.hash)) else {
            continue;
        };
        if target.write_at(&bytes, u64::from(*number) * BLOCK_SIZE).is_err() {
            break;
        }
        copied.push(*number);
        unsynced += bytes.len() as u64;
        if unsynced >= SYNC_STRETCH {
            // As for downloads: no promise rests on it, and the next stretch is copied meanwhile.
            unsynced = 0;
            if target.sync_data().is_err() {
                break;
            }
        }
    }
    copied
}

/// Bytes of a file as they are now, fewer at its end; none when it cannot be read.
#[must_use]
pub fn read_stretch(fs: &dyn Fs, path: &LocalPath, offset: u64, len: usize) -> Vec<u8> {
    let Ok(file) = fs.open(path) else { return Vec::new() };
    let mut bytes = vec![0; len];
    let filled = fill(&*file, &mut bytes, offset).unwrap_or(0);
    bytes.truncate(filled);
    bytes
}

/// Reads into all of the buffer, or as much of it as there is before the file's end; how much that was.
pub(crate) fn fill<F: OpenFile + ?Sized>(file: &F, buffer: &mut [u8], offset: u64) -> Result<usize, FsError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// The bytes at a place of a file, if they are the block `hash`.
fn read_block<F: OpenFile + ?Sized>(file: &F, offset: u64, len: u64, hash: &BlockHash) -> Option<Vec<u8>> {
    read_whole(file, offset, len).filter(|bytes| BlockHash::of(bytes) == *hash)
}

/// The bytes at a place of a file, if it has so many.
fn read_whole<F: OpenFile + ?Sized>(file: &F, offset: u64, len: u64) -> Option<Vec<u8>> {
    read_at_most(file, offset, len).filter(|bytes| bytes.len() as u64 == len)
}

/// The bytes of a block, or fewer at the end of the file.
fn read_at_most<F: OpenFile + ?Sized>(file: &F, offset: u64, len: u64) -> Option<Vec<u8>> {
    if len > BLOCK_SIZE {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    let filled = fill(file, &mut bytes, offset).ok()?;
    bytes.truncate(filled);
    Some(bytes)
}

/// Removes all temporary files but those to keep. A file that a crash left aside is removed only if it
/// is what was to be removed; otherwise it is given back.
pub(crate) fn clean(fs: &dyn Fs, keep: &BTreeSet<TempName>) {
    let listing = match fs.list(&own_path(TEMP_DIRECTORY), &sync_engine::io::Extent::All) {
        Ok(listing) => listing,
        Err(error) => {
            tracing::warn!(%error, "cannot look for old temporary files");
            return;
        }
    };
    for entry in listing.entries {
        let kept = std::str::from_utf8(&entry.name).is_ok_and(|name| keep.contains(&TempName(name.to_owned())));
        if !kept {
            clean_entry(fs, &entry);
        }
    }
}

fn clean_entry(fs: &dyn Fs, entry: &ListedEntry) {
    let Ok((stat, _)) = &entry.found else {
        return;
    };
    if !matches!(stat.kind, FileKind::File | FileKind::Symlink) {
        return;
    }
    discard(fs, &own_path(TEMP_DIRECTORY).join(&entry.name), &stat.print);
}

/// Removes a file aside, unless a program that had it open has changed it since it was looked at.
pub(crate) fn discard_aside(fs: &dyn Fs, aside: &LocalPath) {
    if let Ok(Some(found)) = fs.stat(aside) {
        discard(fs, aside, &found.print);
    }
}

fn discard(fs: &dyn Fs, path: &LocalPath, print: &Fingerprint) {
    let name = path.split().map_or(b"".as_slice(), |(_, name)| name);
    if aside::is_aside(name) && !aside::disposable(name).contains(&State::of(print)) {
        rescue(fs, path);
        return;
    }
    if let Err(error) = fs.unlink(path) {
        tracing::warn!(path = %path, %error, "cannot remove an old temporary file");
    }
}

/// Gives a file of the user's that cannot go back to its place a new one, at the top of the synced
/// folder, where it is seen and synced.
pub(crate) fn rescue(fs: &dyn Fs, aside: &LocalPath) {
    for number in 1..=RESCUE_ATTEMPTS {
        let path = LocalPath::root().join(format!("recovered file {number}").as_bytes());
        match fs.rename_new(aside, &path) {
            Ok(()) => {
                tracing::warn!(path = %path, "a file that changed in the last moment was kept under a new name");
                return;
            }
            Err(FsError::AlreadyExists) => {}
            Err(error) => {
                tracing::warn!(path = %aside, %error, "a file stays in the temporary folder for now");
                return;
            }
        }
    }
}
