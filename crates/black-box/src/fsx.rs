//! Random writes into one file of A's, in the manner of fsx, while B is watched.
//!
//! A's user opens the file, writes, cuts and extends it at random places, and closes it, again and again.
//! When all is quiet B's file must equal A's, and whatever B ever showed must be a version that A's file
//! was closed with.

use crate::program::Program;
use crate::site::{Device, Site, flush_all};
use crate::tree::ContentHash;
use anyhow::{Context, Result, anyhow, bail};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const NAME: &str = "fsx.bin";
const FLUSH_LIMIT: Duration = Duration::from_secs(120);
/// The file is at most this long: two blocks and a part.
const FILE_BYTES: u64 = 9 * 1024 * 1024;
/// One write is at most this long.
const WRITE_BYTES: usize = 64 * 1024;
/// Operations while the file is open.
const SESSION: std::ops::RangeInclusive<u64> = 1..=40;
/// Longest pause between two operations, and between two sessions.
const PAUSE_MS: u64 = 3;
const REST_MS: u64 = 120;
/// Sessions after which both sides are compared.
const SESSIONS_PER_REST: u64 = 25;
/// A device reads a file that is open for writing when it was quiet for two seconds. On a busy machine an
/// operation can take that long; what the file was meanwhile may be seen.
const QUIET: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub operations: u64,
    pub versions: u64,
    /// Of these, how many B was seen to show.
    pub seen: usize,
}

/// Does so many operations.
///
/// # Errors
/// A difference, or a version that A never had.
pub fn run(program: &Program, seed: u64, operations: u64) -> Result<Outcome> {
    let site = Site::new(program)?;
    let server = site.start_server()?;
    let a = site.start_device("a", server.address())?;
    let b = site.start_device("b", server.address())?;
    let ended = AtomicBool::new(false);
    let (written, seen) = thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&b.folder().join(NAME), &ended));
        let written = Writer::new(&a, &b, seed).write_all(operations);
        ended.store(true, Ordering::Relaxed);
        let seen = watching.join().map_err(|_| anyhow!("the watching thread panicked"))?;
        written.and_then(|written| Ok((written, seen?)))
    })?;
    let invented: Vec<&ContentHash> = seen.iter().filter(|hash| !written.versions.contains_key(hash)).collect();
    if !invented.is_empty() {
        bail!("B showed {} versions that A's file never had when it was closed: {invented:?}", invented.len());
    }
    Ok(Outcome { operations: written.operations, versions: written.versions.len() as u64, seen: seen.len() })
}

/// All versions that a file shows, each read whole from one open file.
fn watch(place: &Path, ended: &AtomicBool) -> Result<BTreeSet<ContentHash>> {
    let mut seen = BTreeSet::new();
    while !ended.load(Ordering::Relaxed) {
        match ContentHash::of_file(place) {
            Ok(hash) => {
                seen.insert(hash);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).context("cannot read B's file"),
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(seen)
}

/// What was written.
#[derive(Default)]
struct Written {
    /// By hash, the session after which A's file was this, or in which it was for long.
    versions: HashMap<ContentHash, u64>,
    operations: u64,
}

enum Operation {
    Write(Vec<u8>, u64),
    SetLength(u64),
    Sync,
}

/// Whether the file is another one then.
fn carry_out(operation: Operation, file: &File) -> Result<bool> {
    match operation {
        Operation::Write(piece, offset) => file.write_all_at(&piece, offset)?,
        Operation::SetLength(length) => file.set_len(length)?,
        Operation::Sync => {
            file.sync_all()?;
            return Ok(false);
        }
    }
    Ok(true)
}

struct Writer<'a> {
    a: &'a Device,
    b: &'a Device,
    chance: ChaCha8Rng,
    written: Written,
}

impl<'a> Writer<'a> {
    fn new(a: &'a Device, b: &'a Device, seed: u64) -> Self {
        Self { a, b, chance: ChaCha8Rng::seed_from_u64(seed), written: Written::default() }
    }

    fn write_all(mut self, operations: u64) -> Result<Written> {
        let mut session = 0;
        while self.written.operations < operations {
            session += 1;
            self.session(session)?;
            thread::sleep(Duration::from_millis(self.chance.random_range(0..=REST_MS)));
            if session % SESSIONS_PER_REST == 0 {
                self.compare()?;
            }
        }
        self.compare()?;
        Ok(self.written)
    }

    /// From opening the file to closing it.
    fn session(&mut self, number: u64) -> Result<()> {
        let place = self.a.folder().join(NAME);
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&place)?;
        let mut changed = Instant::now();
        for _ in 0..self.chance.random_range(SESSION) {
            let operation = self.choose();
            if changed.elapsed() > QUIET {
                self.written.versions.insert(ContentHash::of_file(&place)?, number);
            }
            if carry_out(operation, &file)? {
                changed = Instant::now();
            }
            self.written.operations += 1;
            thread::sleep(Duration::from_millis(self.chance.random_range(0..=PAUSE_MS)));
        }
        drop(file);
        self.written.versions.insert(ContentHash::of_file(&place)?, number);
        Ok(())
    }

    fn choose(&mut self) -> Operation {
        match self.chance.random_range(0..100) {
            0..80 => {
                let mut piece = vec![0; self.chance.random_range(1..=WRITE_BYTES)];
                self.chance.fill_bytes(&mut piece);
                let offset = self.chance.random_range(0..FILE_BYTES - piece.len() as u64);
                Operation::Write(piece, offset)
            }
            80..95 => Operation::SetLength(self.chance.random_range(0..FILE_BYTES)),
            _ => Operation::Sync,
        }
    }

    fn compare(&self) -> Result<()> {
        flush_all(&[self.a, self.b], FLUSH_LIMIT)?;
        let [a, b] = [self.a, self.b].map(|device| ContentHash::of_file(&device.folder().join(NAME)));
        let (a, b) = (a?, b.context("B has no file")?);
        if a != b {
            bail!("after {} operations A has {a:?} and B {b:?}", self.written.operations);
        }
        Ok(())
    }
}
