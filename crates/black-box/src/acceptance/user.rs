//! Two users who change their folders at once: what each plans, and how it is carried out.

use crate::ledger::Ledger;
use crate::site::make_parent;
use crate::tree::{ContentHash, Tree};
use anyhow::{Context, Result, anyhow};
use rand::rngs::ChaCha8Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

/// One in this many folders at the second level is moved or deleted whole, by each side.
const FOLDERS_PER_CHANGE: usize = 60;
/// Of a hundred changes, how many are edits and how many are moves; the rest are deletions.
const EDITS: u32 = 45;
const MOVES: u32 = 30;
/// Files that are created, as a share of the other changes.
const CREATED_PER_CHANGE: usize = 10;
/// How often a folder that changes while it is read is read again.
const ATTEMPTS: usize = 20;
/// An edited file keeps this much of what it was.
const KEPT_BYTES: usize = 4096;

/// One change by one user.
#[derive(Debug, Clone)]
enum Change {
    Edit(PathBuf),
    Move(PathBuf, PathBuf),
    Delete(PathBuf),
    Create(PathBuf),
    MoveFolder(PathBuf, PathBuf),
    DeleteFolder(PathBuf),
}

/// What one user is going to do.
#[derive(Debug)]
pub(super) struct Plan {
    changes: Vec<Change>,
    chance: ChaCha8Rng,
    /// The longest pause between two changes.
    pub(super) pause: Duration,
}

impl Plan {
    /// Plans for both users, each for a share of the tree's files. `None` for a tree without folders.
    pub(super) fn for_both(tree: &Tree, share: f64, chance: &mut ChaCha8Rng) -> Option<[Self; 2]> {
        let mut folders: Vec<PathBuf> = whole_folders(tree);
        folders.shuffle(chance);
        let changed = folders.len().div_ceil(FOLDERS_PER_CHANGE).min(folders.len() / 8);
        let rest = folders.split_off(4 * changed);
        let (for_a, for_b) = folders.split_at(2 * changed);
        rest.first()?;
        Some([("a", for_a), ("b", for_b)].map(|(user, mine)| Self::new(tree, user, mine, &rest, share, chance)))
    }

    fn new(tree: &Tree, user: &str, mine: &[PathBuf], rest: &[PathBuf], share: f64, chance: &mut ChaCha8Rng) -> Self {
        let mut changes = Vec::new();
        let marker: u32 = chance.random();
        for (number, folder) in mine.iter().enumerate() {
            changes.push(match number % 2 {
                0 => Change::MoveFolder(folder.clone(), renamed(folder, user, marker)),
                _ => Change::DeleteFolder(folder.clone()),
            });
        }
        let settled: BTreeSet<&PathBuf> = mine.iter().collect();
        for (path, _) in tree.contents() {
            let in_mine = path.ancestors().any(|folder| settled.contains(&folder.to_path_buf()));
            if in_mine || !chance.random_bool(share.min(1.0)) {
                continue;
            }
            changes.push(match chance.random_range(0..100) {
                kind if kind < EDITS => Change::Edit(path.clone()),
                kind if kind < EDITS + MOVES => Change::Move(path.clone(), moved(path, user, marker, rest, chance)),
                _ => Change::Delete(path.clone()),
            });
        }
        changes.extend((0..changes.len() / CREATED_PER_CHANGE).filter_map(|number| {
            let folder = rest.choose(chance)?;
            Some(Change::Create(folder.join(format!("created by {user} {marker:08x} {number}"))))
        }));
        changes.shuffle(chance);
        Self { changes, chance: ChaCha8Rng::seed_from_u64(chance.random()), pause: Duration::ZERO }
    }

    /// Leaves out all but so many changes.
    pub(super) fn shorten_to(&mut self, changes: usize) {
        self.changes.truncate(changes);
    }
}

/// The folders that may be moved or deleted whole: none of them contains another.
fn whole_folders(tree: &Tree) -> Vec<PathBuf> {
    const LEVEL: usize = 3;
    let mut files: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (path, _) in tree.contents() {
        let depth = path.components().count() - 1;
        let folder: PathBuf = path.components().take(depth.min(LEVEL)).collect();
        if depth >= LEVEL {
            *files.entry(folder).or_default() += 1;
        }
    }
    files.into_keys().collect()
}

fn renamed(path: &Path, user: &str, marker: u32) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A name is at most 255 bytes, and the suffix must fit.
    let kept: String = name.chars().take(40).collect();
    path.with_file_name(format!("{kept} moved by {user} {marker:08x}"))
}

/// Half stay in their folder, half go to another one that nobody moves or deletes.
fn moved(path: &Path, user: &str, marker: u32, rest: &[PathBuf], chance: &mut ChaCha8Rng) -> PathBuf {
    let number: u32 = chance.random();
    let name = renamed(path, user, marker);
    let name = format!("{} {number:08x}", name.file_name().unwrap_or_default().to_string_lossy());
    match rest.choose(chance) {
        Some(folder) if chance.random_bool(0.5) => folder.join(name),
        _ => path.with_file_name(name),
    }
}

/// One who changes one device's folder.
pub(super) struct User {
    name: &'static str,
    folder: PathBuf,
    /// Outside of the folder, on the same disk: what is written before it is moved in, and what was taken
    /// out.
    aside: PathBuf,
}

impl User {
    pub(super) fn new(name: &'static str, folder: &Path, aside: &Path) -> Result<Self> {
        fs::create_dir_all(aside)?;
        Ok(Self { name, folder: folder.to_owned(), aside: aside.to_owned() })
    }

    /// Does all that is planned and still possible, and says how much that was.
    pub(super) fn carry_out(&self, mut plan: Plan, ledger: &Mutex<Ledger>) -> Result<usize> {
        let mut done = 0;
        for change in std::mem::take(&mut plan.changes) {
            if !plan.pause.is_zero() {
                thread::sleep(plan.pause.mul_f64(plan.chance.random()));
            }
            done += usize::from(self.do_one(&change, &mut plan.chance, ledger).with_context(|| format!("{change:?}"))?);
        }
        fs::remove_dir_all(&self.aside)?;
        Ok(done)
    }

    /// `false` if the other side was there first, and the place is gone or taken.
    fn do_one(&self, change: &Change, chance: &mut ChaCha8Rng, ledger: &Mutex<Ledger>) -> Result<bool> {
        let aside = self.aside.join(format!("{:016x}", chance.random::<u64>()));
        match change {
            Change::Edit(path) => self.edit(path, &aside, chance, ledger),
            Change::Create(path) => self.create(path, &aside, chance, ledger),
            Change::Move(from, to) => {
                let Some(()) = self.rename(&self.folder.join(from), &self.folder.join(to))? else { return Ok(false) };
                // Read where it is now; if the other side's change has struck there already, that one is told.
                match ContentHash::of_file(&self.folder.join(to)) {
                    Ok(found) => note(ledger)?.move_to(self.name, from, found, to),
                    Err(_) => note(ledger)?.touch("someone", from, None),
                }
                Ok(true)
            }
            Change::Delete(path) => {
                let Some(()) = self.rename(&self.folder.join(path), &aside)? else { return Ok(false) };
                if aside.is_file() {
                    note(ledger)?.delete(self.name, path, ContentHash::of_file(&aside)?);
                }
                Ok(true)
            }
            Change::MoveFolder(from, to) => {
                let Some(()) = self.rename(&self.folder.join(from), &self.folder.join(to))? else { return Ok(false) };
                // The device may take something away while it is read.
                let moved = (0..ATTEMPTS).find_map(|_| Tree::read(&self.folder.join(to)).ok()).unwrap_or_default();
                for (path, found) in moved.contents() {
                    note(ledger)?.move_to(self.name, &from.join(path), found, &to.join(path));
                }
                Ok(true)
            }
            Change::DeleteFolder(path) => {
                let Some(()) = self.rename(&self.folder.join(path), &aside)? else { return Ok(false) };
                for (below, found) in Tree::read(&aside)?.contents() {
                    note(ledger)?.delete(self.name, &path.join(below), found);
                }
                Ok(true)
            }
        }
    }

    /// Saves as an editor does: the new file takes the old one's place in one step. What was there comes
    /// out by the same step, and so is known for sure.
    fn edit(&self, path: &Path, aside: &Path, chance: &mut ChaCha8Rng, ledger: &Mutex<Ledger>) -> Result<bool> {
        let place = self.folder.join(path);
        let Ok(old) = fs::read(&place) else { return Ok(false) };
        let hash = self.write_aside(aside, path, &old[..old.len().min(KEPT_BYTES)], chance)?;
        let mut ledger = note(ledger)?;
        match renameat_with(CWD, aside, CWD, &place, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        ledger.write(hash, format!("edit of {} by {}", path.display(), self.name));
        ledger.replace(self.name, path, ContentHash::of_file(aside)?, hash);
        Ok(true)
    }

    fn create(&self, path: &Path, aside: &Path, chance: &mut ChaCha8Rng, ledger: &Mutex<Ledger>) -> Result<bool> {
        let hash = self.write_aside(aside, path, &[], chance)?;
        make_parent(&self.folder.join(path))?;
        let Some(()) = self.rename(aside, &self.folder.join(path))? else { return Ok(false) };
        note(ledger)?.write(hash, format!("{}", path.display()));
        Ok(true)
    }

    /// Writes a content that nobody else writes.
    fn write_aside(&self, aside: &Path, path: &Path, kept: &[u8], chance: &mut ChaCha8Rng) -> Result<ContentHash> {
        let mut content = format!("{} {:016x} {}\n", self.name, chance.random::<u64>(), path.display()).into_bytes();
        content.extend_from_slice(kept);
        fs::write(aside, &content)?;
        if chance.random_bool(0.1) {
            fs::set_permissions(aside, fs::Permissions::from_mode(0o755))?;
        }
        Ok(ContentHash::of(&content))
    }

    /// `None` if there is nothing to move, or something in the way.
    fn rename(&self, from: &Path, to: &Path) -> Result<Option<()>> {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(Some(())),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::EXIST) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{} to {}", from.display(), to.display())),
        }
    }
}

fn note(ledger: &Mutex<Ledger>) -> Result<std::sync::MutexGuard<'_, Ledger>> {
    ledger.lock().map_err(|_| anyhow!("the other user's thread panicked"))
}
