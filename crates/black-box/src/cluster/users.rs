//! People who change files all the time, each on a device of their own, and the ledger of what they did.

use crate::ledger::Ledger;
use crate::site::Device;
use crate::tree::{ContentHash, Tree};
use anyhow::{Context, Result, bail};
use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs;
use std::path::{Path, PathBuf};

/// Names of files, few enough that users meet at them.
const NAMES: usize = 60;
/// Sizes of files in bytes, and how many in a hundred are no larger. A block has 4 MiB.
const SIZES: [(u32, usize); 3] = [(75, 4 * 1024), (95, 256 * 1024), (100, 9 * 1024 * 1024)];

/// All users of a cluster.
pub(super) struct Users {
    ledger: Ledger,
    chance: ChaCha8Rng,
    /// The number of the last value.
    last: u64,
    /// Directories on the devices' disk, outside of their folders.
    asides: Vec<PathBuf>,
    pub(super) changes: u64,
    pub(super) bytes: u64,
}

impl Users {
    pub(super) fn new(seed: u64, asides: Vec<PathBuf>) -> Self {
        let chance = ChaCha8Rng::seed_from_u64(seed);
        Self { ledger: Ledger::default(), chance, last: 0, asides, changes: 0, bytes: 0 }
    }

    /// One change by one of them.
    pub(super) fn change(&mut self, devices: &[Device], names: &[&'static str]) -> Result<()> {
        let number = self.chance.random_range(0..devices.len());
        let (by, folder) = (names[number], devices[number].folder());
        let place = folder.join(format!("file-{}", self.chance.random_range(0..NAMES)));
        match self.chance.random_range(0..100) {
            0..15 => self.delete(number, by, &place)?,
            _ => self.write(number, by, &place)?,
        }
        self.changes += 1;
        Ok(())
    }

    /// Puts a new value at a place, over what may be there.
    fn write(&mut self, number: usize, by: &'static str, place: &Path) -> Result<()> {
        let aside = self.asides[number].join("new");
        let size = self.size();
        let (hash, told) = self.put_aside(&aside, size, by, place)?;
        if rename(&aside, place, RenameFlags::NOREPLACE)? {
            self.ledger.write(hash, told);
            self.ledger.fill(by, place);
        } else if rename(&aside, place, RenameFlags::EXCHANGE)? {
            self.ledger.write(hash, told);
            self.ledger.replace(by, place, ContentHash::of_file(&aside)?, hash);
            fs::remove_file(&aside)?;
        }
        Ok(())
    }

    /// A value that nobody wrote before, beside a folder, and what there is to say of it.
    fn put_aside(&mut self, aside: &Path, size: usize, by: &str, place: &Path) -> Result<(ContentHash, String)> {
        self.last += 1;
        let told = format!("{} by {by} at {}", self.last, place.display());
        let mut content = format!("{told}\n").into_bytes();
        let start = content.len();
        content.resize(start + size, 0);
        self.chance.fill_bytes(&mut content[start..]);
        fs::write(aside, &content).with_context(|| format!("cannot write {}", aside.display()))?;
        self.bytes += content.len() as u64;
        Ok((ContentHash::of(&content), told))
    }

    fn size(&mut self) -> usize {
        let draw = self.chance.random_range(0..100);
        let most = SIZES.iter().find(|(share, _)| draw < *share).map_or(1, |(_, most)| *most);
        self.chance.random_range(1..=most)
    }

    fn delete(&mut self, number: usize, by: &'static str, place: &Path) -> Result<()> {
        let aside = self.asides[number].join("old");
        if rename(place, &aside, RenameFlags::NOREPLACE)? {
            self.ledger.delete(by, place, ContentHash::of_file(&aside)?);
            fs::remove_file(&aside)?;
        }
        Ok(())
    }

    /// A new file at a place of its own on one device; gives its name and the device's number.
    pub(super) fn mark(&mut self, devices: &[Device], names: &[&'static str]) -> Result<(usize, String)> {
        let number = (0..devices.len()).collect::<Vec<_>>().choose(&mut self.chance).copied().unwrap_or(0);
        let name = format!("mark-{}", self.last);
        let place = devices[number].folder().join(&name);
        let aside = self.asides[number].join("new");
        let (hash, told) = self.put_aside(&aside, 1, names[number], &place)?;
        if !rename(&aside, &place, RenameFlags::NOREPLACE)? {
            bail!("{} is there already", place.display());
        }
        self.ledger.write(hash, told);
        Ok((number, name))
    }

    /// Holds what all devices came to against what that must be.
    pub(super) fn rest(&mut self, tree: &Tree) -> Result<()> {
        let complaints = self.ledger.complaints(tree);
        self.ledger.settle(tree);
        if !complaints.is_empty() {
            bail!("{}", complaints.join("\n  "));
        }
        Ok(())
    }
}

/// `false` if something is missing or in the way.
fn rename(from: &Path, to: &Path, how: RenameFlags) -> Result<bool> {
    match renameat_with(CWD, from, CWD, to, how) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::EXIST) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("{} to {}", from.display(), to.display())),
    }
}
