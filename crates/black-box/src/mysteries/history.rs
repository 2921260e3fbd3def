//! One history: what its users do in its folder, and what they see.

use super::model::{Model, Mystery};
use super::{DEVICES, below};
use crate::ledger::Ledger;
use crate::tree::{ContentHash, Entry, Tree};
use anyhow::{Context, Result, bail};
use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Every value is as long as any other, so that size and content say nothing of the order of writes.
const VALUE_BYTES: usize = 48;
/// The files of a single history.
const FILES: [&str; 3] = ["one.txt", "two.txt", "three.txt"];
/// The names in a tree history, few so that they meet.
const NAMES: [&str; 4] = ["p", "q", "r", "s"];
/// How often a user whom a device overtakes tries again.
const ATTEMPTS: usize = 20;

/// Where a step is done.
pub(super) struct Step<'a> {
    pub(super) device: usize,
    pub(super) folder: &'a Path,
    /// On the same disk, outside of the folder.
    pub(super) aside: &'a Path,
}

/// What a rest found.
#[derive(Debug, Default)]
pub(super) struct Rest {
    pub(super) conflicts: u64,
    pub(super) too_vague: u64,
}

/// A history under way.
pub(super) struct History {
    name: String,
    chance: ChaCha8Rng,
    kind: Kind,
    /// The number of the last value.
    last: u32,
    trace: Vec<String>,
    /// It could not be explained; what comes after that says nothing.
    failed: bool,
}

enum Kind {
    /// Files that stay where they are, each with its model; `None` once it is too vague.
    Single(BTreeMap<&'static str, Option<Model>>),
    /// A tree of files and folders.
    Tree(Box<Ledger>),
}

impl History {
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mut chance = ChaCha8Rng::seed_from_u64(seed.rotate_left(32) ^ number);
        let kind = if chance.random_bool(0.6) {
            let files = &FILES[..chance.random_range(1..=FILES.len())];
            Kind::Single(files.iter().map(|name| (*name, Some(Model::new(DEVICES.len())))).collect())
        } else {
            Kind::Tree(Box::default())
        };
        Self { name: format!("h{seed}-{number}"), chance, kind, last: 0, trace: Vec::new(), failed: false }
    }

    /// The name of its folder.
    pub(super) fn folder(&self) -> &str {
        &self.name
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(super) fn give_up(&mut self) {
        self.failed = true;
    }

    /// Notes something for whoever reads the history.
    pub(super) fn tell(&mut self, what: String) {
        self.trace.push(what);
    }

    /// The whole history, if one of these sentences is about it.
    pub(super) fn told_if(&self, sentences: &[String]) -> Option<String> {
        sentences.iter().any(|sentence| sentence.starts_with(&format!("{}/", self.name))).then(|| self.told())
    }

    fn told(&self) -> String {
        format!("history {}:\n  {}", self.name, self.trace.join("\n  "))
    }

    /// One act of one user.
    pub(super) fn step(&mut self, step: &Step<'_>, chance: &mut ChaCha8Rng) -> Result<()> {
        let result = match &self.kind {
            Kind::Single(_) => self.single_step(step),
            Kind::Tree(_) => self.tree_step(step, chance),
        };
        result.with_context(|| self.told())
    }

    fn single_step(&mut self, step: &Step<'_>) -> Result<()> {
        let Kind::Single(models) = &mut self.kind else { return Ok(()) };
        let names: Vec<&'static str> = models.keys().copied().collect();
        let Some(name) = names.choose(&mut self.chance).copied() else { return Ok(()) };
        let Some(Some(model)) = models.get_mut(name) else { return Ok(()) };
        let (place, device) = (step.folder.join(&self.name).join(name), step.device);
        let aside = step.aside.join(name);
        let (told, explained) = match self.chance.random_range(0..100) {
            0..40 => {
                let seen = read(&place)?;
                (format!("sees {seen:?}"), model.read(device, seen))
            }
            40..70 => {
                self.last += 1;
                let old = exchange(&place, &aside, self.last, &self.name)?;
                (format!("puts {} for {old:?}", self.last), model.write(device, Some(self.last), old))
            }
            70..85 => {
                self.last += 1;
                if write_in_place(&place, self.last, &self.name)? {
                    (format!("overwrites with {}", self.last), model.overwrite(device, Some(self.last)))
                } else {
                    ("sees None".to_owned(), model.read(device, None))
                }
            }
            _ => {
                let old = take_away(&place, &aside)?;
                (format!("deletes {old:?}"), model.write(device, None, old))
            }
        };
        self.trace.push(format!("{} {told} at {name}", DEVICES[device]));
        self.judge(name, explained)
    }

    /// A file about which nothing can be known any more is left out; one that is a mystery is the end.
    fn judge(&mut self, name: &str, explained: Result<(), Mystery>) -> Result<()> {
        match explained {
            Ok(()) => Ok(()),
            Err(Mystery::TooVague) => {
                self.trace.push(format!("{name} is too vague from here on"));
                if let Kind::Single(models) = &mut self.kind
                    && let Some(model) = models.get_mut(name)
                {
                    *model = None;
                }
                Ok(())
            }
            Err(mystery @ Mystery::Unexplained) => bail!("{name}: {mystery}"),
        }
    }

    fn tree_step(&mut self, step: &Step<'_>, chance: &mut ChaCha8Rng) -> Result<()> {
        let root = step.folder.join(&self.name);
        let aside = step.aside.join(&self.name);
        let (files, folders) = list(&root);
        let new = folders.choose(chance).unwrap_or(&root).join(NAMES.choose(chance).unwrap_or(&NAMES[0]));
        let told = match chance.random_range(0..100) {
            0..25 => self.create(step, &new, &aside)?,
            25..45 => files.choose(chance).map(|file| self.edit(step, file, &aside)).transpose()?.flatten(),
            45..55 => files.choose(chance).map(|file| self.delete(step, file, &aside)).transpose()?.flatten(),
            55..70 => files.choose(chance).map(|file| self.move_to(step, file, &new)).transpose()?.flatten(),
            70..82 => self.make_folder(step, &new)?,
            82..94 => folders[1..].choose(chance).map(|folder| self.move_to(step, folder, &new)).transpose()?.flatten(),
            _ => folders[1..].choose(chance).map(|folder| self.delete(step, folder, &aside)).transpose()?.flatten(),
        };
        if let Some(told) = told {
            self.trace.push(format!("{} {told}", DEVICES[step.device]));
        }
        Ok(())
    }

    fn ledger(&mut self) -> Result<&mut Ledger> {
        match &mut self.kind {
            Kind::Tree(ledger) => Ok(ledger),
            Kind::Single(_) => bail!("a single history has no ledger"),
        }
    }

    fn create(&mut self, step: &Step<'_>, place: &Path, aside: &Path) -> Result<Option<String>> {
        self.last += 1;
        let content = value(self.last, &self.name);
        fs::write(aside, &content)?;
        let done = rename(aside, place, RenameFlags::NOREPLACE)?;
        if !done {
            return Ok(None);
        }
        let told = format!("puts {} at {}", self.last, place.display());
        let by = DEVICES[step.device];
        let ledger = self.ledger()?;
        ledger.write(ContentHash::of(&content), format!("{by} {told}"));
        ledger.fill(by, place);
        Ok(Some(told))
    }

    fn edit(&mut self, step: &Step<'_>, place: &Path, aside: &Path) -> Result<Option<String>> {
        self.last += 1;
        let content = value(self.last, &self.name);
        fs::write(aside, &content)?;
        if !rename(aside, place, RenameFlags::EXCHANGE)? {
            return Ok(None);
        }
        let by = DEVICES[step.device];
        let mut told = format!("puts {} at {}", self.last, place.display());
        self.ledger()?.write(ContentHash::of(&content), format!("{by} {told}"));
        for (path, found) in contents(aside)? {
            told.push_str(&format!(", for {}", tell_value(aside, &path)));
            self.ledger()?.replace(by, &path, found, ContentHash::of(&content));
        }
        remove(aside)?;
        Ok(Some(told))
    }

    fn delete(&mut self, step: &Step<'_>, place: &Path, aside: &Path) -> Result<Option<String>> {
        if !rename(place, aside, RenameFlags::NOREPLACE)? {
            return Ok(None);
        }
        let mut told = format!("deletes {}", place.display());
        for (path, found) in contents(aside)? {
            told.push_str(&format!(", with {}", tell_value(aside, &path)));
            self.ledger()?.delete(DEVICES[step.device], &path, found);
        }
        remove(aside)?;
        Ok(Some(told))
    }

    fn make_folder(&mut self, step: &Step<'_>, place: &Path) -> Result<Option<String>> {
        if done(fs::create_dir(place))?.is_none() {
            return Ok(None);
        }
        self.ledger()?.name_folder(DEVICES[step.device], place);
        Ok(Some(format!("makes {}", place.display())))
    }

    fn move_to(&mut self, step: &Step<'_>, from: &Path, to: &Path) -> Result<Option<String>> {
        // What is moved is known before it can be moved on by the device; a value too many is no harm.
        let before = contents(from).unwrap_or_default();
        if to.starts_with(from) || !rename(from, to, RenameFlags::NOREPLACE)? {
            return Ok(None);
        }
        let by = DEVICES[step.device];
        if to.is_dir() {
            self.ledger()?.name_folder(by, to);
        } else {
            let ledger = self.ledger()?;
            ledger.fill(by, to);
            before.iter().for_each(|(_, found)| ledger.leave(by, from, *found));
        }
        for (path, found) in before.into_iter().chain(contents(to).unwrap_or_default()) {
            self.ledger()?.move_to(by, &path, found, to);
        }
        let what = contents(to).unwrap_or_default();
        let what: Vec<String> = what.iter().map(|(path, _)| tell_value(to, path)).collect();
        Ok(Some(format!("moves {} to {}, with {}", from.display(), to.display(), what.join(" "))))
    }

    /// Compares what all devices came to with what that must be.
    pub(super) fn rest(&mut self, tree: &Tree, folder: &Path) -> Result<Rest> {
        self.trace.push("all at rest".to_owned());
        let within = below(tree, &self.name);
        match &self.kind {
            Kind::Single(_) => self.rest_of_files(&within, &folder.join(&self.name)),
            Kind::Tree(_) => self.rest_of_tree(&within),
        }
        .with_context(|| self.told())
    }

    fn rest_of_files(&mut self, within: &Tree, folder: &Path) -> Result<Rest> {
        let mut values: BTreeMap<&str, (Option<u32>, BTreeSet<u32>)> =
            FILES.iter().map(|name| (*name, Default::default())).collect();
        for path in within.0.keys() {
            let found = read(&folder.join(path))?.with_context(|| format!("{} went away at rest", path.display()))?;
            let shown = path.to_string_lossy();
            let of = FILES.iter().find(|name| shown.starts_with(name.trim_end_matches(".txt")));
            let entry = of.and_then(|name| values.get_mut(name)).with_context(|| format!("{shown} is nobody's"))?;
            if FILES.contains(&shown.as_ref()) {
                entry.0 = Some(found);
            } else if !shown.contains(" (conflicted copy ") || !entry.1.insert(found) {
                bail!("{shown} holds {found}, which is a copy too many");
            }
        }
        let mut rest = Rest::default();
        for (name, (held, copies)) in values {
            self.trace.push(format!("{name} holds {held:?}, conflicted copies {copies:?}"));
            let Kind::Single(models) = &mut self.kind else { return Ok(rest) };
            rest.conflicts += copies.len() as u64;
            match models.get_mut(name) {
                Some(Some(model)) => {
                    let explained = model.stabilize(held, &copies);
                    self.judge(name, explained)?;
                }
                Some(None) => rest.too_vague += 1,
                None => {}
            }
        }
        Ok(rest)
    }

    fn rest_of_tree(&mut self, within: &Tree) -> Result<Rest> {
        let ledger = self.ledger()?;
        let complaints = ledger.complaints(within);
        ledger.settle(within);
        if !complaints.is_empty() {
            let listing: Vec<String> =
                within.0.iter().map(|(path, entry)| format!("{}: {entry:?}", path.display())).collect();
            bail!("{}\nthere is\n  {}", complaints.join("\n"), listing.join("\n  "));
        }
        let is_copy = |path: &&PathBuf| path.to_string_lossy().contains(" (conflicted copy ");
        let copies = within.0.iter().filter(|(_, entry)| **entry != Entry::Folder).map(|(path, _)| path);
        Ok(Rest { conflicts: copies.filter(is_copy).count() as u64, too_vague: 0 })
    }
}

/// The bytes of a value.
fn value(number: u32, history: &str) -> Vec<u8> {
    format!("{number:08} of {history:<width$}\n", width = VALUE_BYTES - 13).into_bytes()
}

/// The value at a place. What is no whole value was written by nobody.
fn read(place: &Path) -> Result<Option<u32>> {
    let content = match fs::read(place) {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", place.display())),
    };
    let text = String::from_utf8_lossy(&content);
    let number = text.get(..8).and_then(|number| number.parse().ok()).filter(|_| content.len() == VALUE_BYTES);
    number.map(Some).with_context(|| format!("{} holds {text:?}, which nobody wrote", place.display()))
}

/// Puts a value at a place in one step, and says what came out by it.
fn exchange(place: &Path, aside: &Path, number: u32, history: &str) -> Result<Option<u32>> {
    fs::write(aside, value(number, history))?;
    for _ in 0..ATTEMPTS {
        if rename(aside, place, RenameFlags::EXCHANGE)? {
            let old = read(aside)?;
            remove(aside)?;
            return Ok(old);
        }
        if rename(aside, place, RenameFlags::NOREPLACE)? {
            return Ok(None);
        }
    }
    bail!("{} comes and goes", place.display())
}

/// As an editor that writes into the file itself; `false` if there is none.
fn write_in_place(place: &Path, number: u32, history: &str) -> Result<bool> {
    match fs::OpenOptions::new().write(true).open(place) {
        Ok(mut file) => {
            file.write_all(&value(number, history))?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn take_away(place: &Path, aside: &Path) -> Result<Option<u32>> {
    if !rename(place, aside, RenameFlags::NOREPLACE)? {
        return Ok(None);
    }
    let old = read(aside)?;
    remove(aside)?;
    Ok(old)
}

/// `false` if something is missing or in the way.
fn rename(from: &Path, to: &Path, how: RenameFlags) -> Result<bool> {
    match renameat_with(CWD, from, CWD, to, how) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::EXIST | Errno::INVAL) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("{} to {}", from.display(), to.display())),
    }
}

fn tell_value(aside: &Path, below: &Path) -> String {
    // Joining an empty path would ask for a folder.
    let place = if below.as_os_str().is_empty() { aside.to_owned() } else { aside.join(below) };
    read(&place).ok().flatten().map_or_else(|| "something".to_owned(), |number| number.to_string())
}

fn remove(aside: &Path) -> io::Result<()> {
    if aside.is_dir() { fs::remove_dir_all(aside) } else { fs::remove_file(aside) }
}

fn done(result: io::Result<()>) -> Result<Option<()>> {
    match result {
        Ok(()) => Ok(Some(())),
        Err(error)
            if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The contents of a file, or of all files below a folder.
fn contents(place: &Path) -> Result<Vec<(PathBuf, ContentHash)>> {
    if place.is_dir() {
        return Ok(Tree::read(place)?.contents().map(|(path, hash)| (path.clone(), hash)).collect());
    }
    Ok(vec![(PathBuf::new(), ContentHash::of_file(place)?)])
}

/// The files and folders below a folder, itself the first. What goes away meanwhile is left out.
fn list(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    let mut at = 0;
    while at < folders.len() {
        let entries = fs::read_dir(&folders[at]).map(|entries| entries.flatten().collect()).unwrap_or_default();
        let entries: Vec<fs::DirEntry> = entries;
        for entry in entries {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => files.push(entry.path()),
                Err(_) => {}
            }
        }
        at += 1;
    }
    files.sort();
    folders[1..].sort();
    (files, folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_back_and_parts_of_them_do_not() {
        let place = tempfile::tempdir().expect("made");
        let file = place.path().join("file");
        assert_eq!(read(&file).expect("absent"), None);
        fs::write(&file, value(7, "h1-2")).expect("written");
        assert_eq!(read(&file).expect("whole"), Some(7));
        for torn in [0, 8, VALUE_BYTES - 1] {
            fs::write(&file, &value(7, "h1-2")[..torn]).expect("written");
            assert!(read(&file).is_err(), "{torn}");
        }
    }
}
