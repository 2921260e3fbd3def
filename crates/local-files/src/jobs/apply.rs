//! Changes to the local disk that never replace or remove what was not expected.
//!
//! A look before the change is not enough: another program may act between the look and the change. So
//! what is to be replaced or removed is moved aside in one atomic step, looked at there, where nobody
//! else reaches it by its name, and given back if it is not what was expected. [`crate::aside`] says
//! what happens after a crash. What was expected is of no use any more; it is removed with the rest of
//! its kind at the end of the batch.
//!
//! Data is made durable ([`super::prepare`]) before the rename that shows it, and the rename before it is
//! reported: a power failure leaves the old file or the whole new one, never a name without its bytes.

use std::collections::{BTreeMap, BTreeSet};

use model::{BLOCK_SIZE, Name, NameKey};
use sync_engine::io::{
    Expect, Extent, FileKind, Fingerprint, JobResult, LocalPath, LocalStep, RootState, StepError, StepResult, TempName,
};
use sync_engine::tree::FileContent;

use super::{held, read_and_hash};
use crate::aside::{self, State};
use crate::fs::{
    Fs, FsError, OWN_DIRECTORY, OpenFile, PARKED_DIRECTORY, Stat, TEMP_DIRECTORY, Unwritten, own_path, temp_path,
};
use crate::temps;

/// Attempts to find a free name for a file of our own. Names are taken only by leftovers of a crash or
/// by another job in the same instant.
const NAME_ATTEMPTS: u32 = 64;
/// The permission bits that a file keeps when its content or execute bit comes from the server: never
/// setuid, setgid or sticky.
const KEPT_PERMISSIONS: u32 = 0o777;

/// Files of no use that may wait for their removal. As many as a batch has steps, so that it is one removal.
const USELESS_FILES: usize = 2_000;
/// Bytes in such files: space that a batch might need itself.
const USELESS_BYTES: u64 = 64 * 1024 * 1024;

/// Does the steps in order, then makes them durable.
pub(super) fn apply(fs: &dyn Fs, steps: &[LocalStep]) -> JobResult {
    let root = fs.root_state();
    if root != RootState::Present {
        return all_failed(root, steps, "the synced folder is not there");
    }
    let results: Vec<StepResult> = held(fs, |fs| {
        let mut batch = Batch::new(fs);
        let results = steps.iter().map(|step| batch.step(step)).collect();
        batch.discard_useless();
        results
    });
    if results.iter().any(Result::is_ok)
        && let Err(error) = fs.sync()
    {
        return all_failed(fs.root_state(), steps, &error.to_string());
    }
    match fs.root_state() {
        RootState::Present => JobResult::Applied { root: RootState::Present, results },
        root => all_failed(root, steps, "the synced folder went away"),
    }
}

fn all_failed(root: RootState, steps: &[LocalStep], why: &str) -> JobResult {
    JobResult::Applied { root, results: vec![Err(StepError::Failed(why.to_owned())); steps.len()] }
}

/// A batch of steps under way.
struct Batch<'a> {
    fs: &'a dyn Fs,
    /// Device and inode of files whose change time earlier steps moved, by renaming them or removing
    /// another name of them. Their change times prove nothing for the rest of the batch.
    touched: BTreeSet<(u64, u64)>,
    /// Folders that could not be made. Another one of that name is the user's, and nothing for it was
    /// planned.
    not_made: BTreeSet<LocalPath>,
    /// Places that a step could not clear, by folder and name. What was to come there under another spelling
    /// must not lie beside what is there: the tree has one node for both.
    not_left: BTreeMap<(LocalPath, NameKey), LocalPath>,
    /// Files aside that were looked at and are of no use any more.
    useless: Vec<LocalPath>,
    useless_bytes: u64,
}

impl<'a> Batch<'a> {
    fn new(fs: &'a dyn Fs) -> Self {
        let (touched, not_made, not_left) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        Self { fs, touched, not_made, not_left, useless: Vec::new(), useless_bytes: 0 }
    }

    fn step(&mut self, step: &LocalStep) -> StepResult {
        if self.goes_astray(step) {
            return Err(StepError::Gone);
        }
        if self.would_lie_beside(step) {
            return Err(StepError::Occupied);
        }
        let result = self.do_step(step);
        match (step, &result) {
            (LocalStep::MakeDirectory { path, .. }, Err(_)) => {
                self.not_made.insert(path.clone());
            }
            (
                LocalStep::Move { from: path, .. }
                | LocalStep::Remove { path, .. }
                | LocalStep::RemoveDirectory { path, .. },
                Err(error),
            ) if *error != StepError::Gone => {
                self.not_left.extend(key_of(path).map(|key| (key, path.clone())));
            }
            _ => {}
        }
        result
    }

    fn do_step(&mut self, step: &LocalStep) -> StepResult {
        match step {
            LocalStep::MakeDirectory { path, .. } => self.make_directory(path),
            LocalStep::Install { path, temp, content, replace, .. } => {
                self.install(path, temp.as_ref(), content, replace.as_ref())
            }
            LocalStep::MakeSymlink { path, target, replace, .. } => self.make_symlink(path, target, replace.as_ref()),
            LocalStep::SetAttributes { path, content, expect, .. } => self.set_attributes(path, content, expect),
            LocalStep::Move { from, to, expect, .. } => self.move_node(from, to, expect),
            LocalStep::Remove { path, expect, .. } => self.remove(path, expect),
            LocalStep::RemoveDirectory { path, expect, .. } => self.remove_directory(path, expect),
        }
    }

    /// Whether the step leads into a folder that the batch could not make.
    fn goes_astray(&self, step: &LocalStep) -> bool {
        let Some(target) = target_of(step) else { return false };
        let parent = |path: &LocalPath| path.split().map(|(folder, _)| folder);
        std::iter::successors(parent(target), parent).any(|folder| self.not_made.contains(&folder))
    }

    /// Whether the step would put something beside another spelling of its name that should have been cleared.
    fn would_lie_beside(&self, step: &LocalStep) -> bool {
        let Some(target) = target_of(step) else { return false };
        let there = key_of(target).and_then(|key| self.not_left.get(&key));
        there.is_some_and(|there| there != target)
    }

    fn make_directory(&self, path: &LocalPath) -> StepResult {
        refuse_own(path)?;
        self.fs.mkdir(path).map_err(step_error)?;
        let made = self.fs.stat(path).map_err(step_error)?.ok_or(StepError::Gone)?;
        Ok(Some(made.print))
    }

    fn install(
        &mut self,
        path: &LocalPath,
        temp: Option<&TempName>,
        content: &FileContent,
        replace: Option<&Expect>,
    ) -> StepResult {
        refuse_own(path)?;
        let old = replace.map(|expect| self.replaceable(path, expect)).transpose()?;
        let Some(temp) = temp else {
            return self.install_empty(path, content, old.as_ref());
        };
        self.install_temp(path, temp, content, old.as_ref())
    }

    fn install_empty(&mut self, path: &LocalPath, content: &FileContent, old: Option<&Stat>) -> StepResult {
        let temp = self.make_empty_temp()?;
        let result = self.install_temp(path, &temp, content, old);
        if result.is_err() {
            self.discard(&temp_path(&temp).map_err(step_error)?);
        }
        result
    }

    fn make_empty_temp(&self) -> Result<TempName, StepError> {
        for number in 0..NAME_ATTEMPTS {
            let temp = TempName(format!("empty.{number}"));
            match self.fs.create_temp(&temp) {
                Ok(_) => return Ok(temp),
                Err(FsError::AlreadyExists) => {}
                Err(error) => return Err(step_error(error)),
            }
        }
        Err(no_free_name())
    }

    fn install_temp(
        &mut self,
        path: &LocalPath,
        temp: &TempName,
        content: &FileContent,
        old: Option<&Stat>,
    ) -> StepResult {
        let new = self.finish_temp(temp, content, old)?;
        let temp = temp_path(temp).map_err(step_error)?;
        match old {
            None => self.fs.rename_new(&temp, path).map_err(step_error)?,
            Some(old) => self.replace(&temp, &new, path, old)?,
        }
        Ok(Some(self.print_after_rename(path, &new)))
    }

    /// Checks that a temporary file is whole and gives it its attributes.
    fn finish_temp(
        &self,
        temp: &TempName,
        content: &FileContent,
        old: Option<&Stat>,
    ) -> Result<Fingerprint, StepError> {
        let file = temp_path(temp).and_then(|path| self.fs.open(&path)).map_err(temp_error)?;
        let found = file.first_stat().map_err(step_error)?;
        if found.print.size != content.size || !is_whole(&*file, &found.print, content)? {
            return Err(StepError::BadTemp);
        }
        let base = old.filter(|old| old.kind == FileKind::File).map_or(found.permissions, |old| old.permissions);
        let wanted = with_execute(base & KEPT_PERMISSIONS, content.executable);
        if wanted != found.permissions {
            set_permissions_if_possible(&*file, wanted)?;
        }
        file.set_mtime(content.mtime).map_err(step_error)?;
        Ok(file.stat().map_err(step_error)?.print)
    }

    fn make_symlink(&mut self, path: &LocalPath, target: &str, replace: Option<&Expect>) -> StepResult {
        refuse_own(path)?;
        let Some(expect) = replace else {
            self.fs.symlink(target.as_bytes(), path).map_err(step_error)?;
            let made = self.fs.stat(path).map_err(step_error)?.ok_or(StepError::Gone)?;
            return Ok(Some(made.print));
        };
        let old = self.replaceable(path, expect)?;
        let temp = self.make_temp_symlink(target)?;
        let result = self.replace_by_symlink(path, &temp, &old);
        if result.is_err() {
            self.discard(&temp);
        }
        result
    }

    fn make_temp_symlink(&self, target: &str) -> Result<LocalPath, StepError> {
        for number in 0..NAME_ATTEMPTS {
            let path = own_path(TEMP_DIRECTORY).join(format!("link.{number}").as_bytes());
            match self.fs.symlink(target.as_bytes(), &path) {
                Ok(()) => return Ok(path),
                Err(FsError::AlreadyExists) => {}
                Err(error) => return Err(step_error(error)),
            }
        }
        Err(no_free_name())
    }

    fn replace_by_symlink(&mut self, path: &LocalPath, temp: &LocalPath, old: &Stat) -> StepResult {
        let new = self.fs.stat(temp).map_err(step_error)?.ok_or(StepError::BadTemp)?.print;
        self.replace(temp, &new, path, old)?;
        Ok(Some(self.print_after_rename(path, &new)))
    }

    /// Exchanges the finished `new_path` with the target, looks at what came out, and removes it; or
    /// exchanges back when it is not the expected file.
    fn replace(
        &mut self,
        new_path: &LocalPath,
        new: &Fingerprint,
        target: &LocalPath,
        old: &Stat,
    ) -> Result<(), StepError> {
        let unwritten = self.unwritten(target, old)?;
        let old = &old.print;
        let aside = self.move_aside(new_path, &[State::of(old), State::of(new)])?;
        if let Err(error) = self.fs.exchange(&aside, target) {
            self.give_back(&aside, new_path);
            return Err(step_error(error));
        }
        self.touch(old);
        match self.look_aside(&aside, old).and_then(|()| still(unwritten.as_deref())) {
            Ok(()) => {
                self.discard_later(aside, old);
                Ok(())
            }
            Err(error) => {
                self.exchange_back(&aside, new_path, new, target);
                Err(error)
            }
        }
    }

    /// Undoes an exchange. What comes back aside is the new file, unless someone changed it at its
    /// target in that moment; then it is theirs.
    fn exchange_back(&self, aside: &LocalPath, new_path: &LocalPath, new: &Fingerprint, target: &LocalPath) {
        if let Err(error) = self.fs.exchange(aside, target) {
            tracing::warn!(path = %target, %error, "cannot exchange back");
            // Who deletes the file at its target in that moment has seen the new one: the former was to go.
            temps::discard_aside(self.fs, aside);
            return;
        }
        match self.look_aside(aside, new) {
            Ok(()) => self.give_back(aside, new_path),
            Err(_) => temps::rescue(self.fs, aside),
        }
    }

    fn remove(&mut self, path: &LocalPath, expect: &Expect) -> StepResult {
        refuse_own(path)?;
        let found = self.replaceable(path, expect)?;
        let unwritten = self.unwritten(path, &found)?;
        let old = found.print;
        let aside = self.move_aside(path, &[State::of(&old)])?;
        self.touch(&old);
        if let Err(error) = self.look_aside(&aside, &old).and_then(|()| still(unwritten.as_deref())) {
            self.give_back(&aside, path);
            return Err(error);
        }
        self.discard_later(aside, &old);
        Ok(None)
    }

    fn remove_directory(&self, path: &LocalPath, expect: &Expect) -> StepResult {
        refuse_own(path)?;
        let found = self.expected(path, expect)?;
        if found.kind != FileKind::Directory {
            return Err(StepError::Changed);
        }
        self.fs.rmdir(path).map_err(step_error)?;
        Ok(None)
    }

    fn move_node(&mut self, from: &LocalPath, to: &LocalPath, expect: &Expect) -> StepResult {
        refuse_own(from)?;
        refuse_own(to)?;
        let before = self.expected(from, expect)?;
        match self.fs.rename_new(from, to) {
            Err(FsError::AlreadyExists) if self.differ_only_in_spelling(from, to, &before)? => {
                self.respell(from, to, &before)?;
            }
            result => result.map_err(step_error)?,
        }
        self.touch(&before.print);
        match self.fs.stat(to) {
            Ok(Some(after)) if is_same_inode(&after, &before) => Ok(Some(self.print_of_moved(&before, &after))),
            _ => {
                self.give_back(to, from);
                Err(StepError::Changed)
            }
        }
    }

    /// Whether `to` is only another spelling of `from` for a file system that does not tell them apart.
    /// A hard link of another spelling has an entry of its own.
    fn differ_only_in_spelling(&self, from: &LocalPath, to: &LocalPath, before: &Stat) -> Result<bool, StepError> {
        let (Some((from_parent, _)), Some((to_parent, to_name))) = (from.split(), to.split()) else {
            return Ok(false);
        };
        let there = self.fs.stat(to).map_err(step_error)?;
        if from == to || from_parent != to_parent || !there.is_some_and(|there| is_same_inode(&there, before)) {
            return Ok(false);
        }
        let extent = Extent::Names(BTreeSet::from([Box::from(to_name)]));
        Ok(self.fs.list(&to_parent, &extent).map_err(step_error)?.entries.is_empty())
    }

    /// Renames by way of the parked folder, where a crash in between leaves the node in the engine's
    /// sight.
    fn respell(&self, from: &LocalPath, to: &LocalPath, before: &Stat) -> Result<(), StepError> {
        let parked = own_path(PARKED_DIRECTORY).join(format!("spelling-{:x}", before.print.inode).as_bytes());
        self.fs.rename_new(from, &parked).map_err(step_error)?;
        self.fs.rename_new(&parked, to).map_err(|error| {
            self.give_back(&parked, from);
            step_error(error)
        })
    }

    fn set_attributes(&mut self, path: &LocalPath, content: &FileContent, expect: &Expect) -> StepResult {
        refuse_own(path)?;
        let file = self.fs.open(path).map_err(changed_kind)?;
        let before = file.stat().map_err(step_error)?;
        self.check(&before, expect)?;
        let executable = with_execute(before.permissions & KEPT_PERMISSIONS, content.executable);
        if before.print.executable != content.executable {
            file.set_permissions(executable).map_err(step_error)?;
        }
        self.touch(&before.print);
        file.set_mtime(content.mtime).map_err(step_error)?;
        self.check_bytes(&*file, content)
    }

    /// Setting the mtime hides an edit that came just before it, so only the bytes can tell that there
    /// was none.
    fn check_bytes(&self, file: &dyn OpenFile, content: &FileContent) -> StepResult {
        let after = file.stat().map_err(step_error)?.print;
        let blocks = read_and_hash(file, &after).map_err(step_error)?;
        if blocks.is_none_or(|blocks| blocks.content_hash() != content.hash) {
            return Err(StepError::Changed);
        }
        Ok(Some(after))
    }

    /// What is at the path, if it is what is expected there.
    fn expected(&self, path: &LocalPath, expect: &Expect) -> Result<Stat, StepError> {
        let found = self.fs.stat(path).map_err(step_error)?.ok_or(StepError::Gone)?;
        self.check(&found, expect)?;
        Ok(found)
    }

    /// What is at the path, if it is the expected file or symlink. A directory is never replaced.
    fn replaceable(&self, path: &LocalPath, expect: &Expect) -> Result<Stat, StepError> {
        let found = self.expected(path, expect)?;
        match found.kind {
            FileKind::File | FileKind::Symlink => Ok(found),
            FileKind::Directory | FileKind::Other => Err(StepError::Occupied),
        }
    }

    fn check(&self, found: &Stat, expect: &Expect) -> Result<(), StepError> {
        let same = match expect {
            Expect::Print(print) if self.is_touched(print) => is_same_state(&found.print, print),
            Expect::Print(print) => found.print == *print,
            Expect::Directory { device, inode } => {
                found.kind == FileKind::Directory && (found.print.device, found.print.inode) == (*device, *inode)
            }
        };
        if same { Ok(()) } else { Err(StepError::Changed) }
    }

    /// Moves something to a place of ours under a name that says what may be thrown away there.
    fn move_aside(&mut self, path: &LocalPath, disposable: &[State]) -> Result<LocalPath, StepError> {
        for number in 0..NAME_ATTEMPTS {
            let aside = aside::path(disposable, number);
            match self.fs.rename_new(path, &aside) {
                Ok(()) => return Ok(aside),
                // Another name of the same file, which this batch has removed.
                Err(FsError::AlreadyExists) if self.useless.contains(&aside) => self.discard_useless(),
                Err(FsError::AlreadyExists) => {}
                Err(error) => return Err(step_error(error)),
            }
        }
        Err(no_free_name())
    }

    /// Whether what lies aside is the expected file. Its change time moved with the rename.
    fn look_aside(&self, aside: &LocalPath, expected: &Fingerprint) -> Result<(), StepError> {
        let found = self.fs.stat(aside).map_err(step_error)?.ok_or(StepError::Gone)?;
        if is_same_state(&found.print, expected) { Ok(()) } else { Err(StepError::Changed) }
    }

    /// Sees to it that no program goes on writing to a file that is replaced or removed.
    fn unwritten(&self, path: &LocalPath, found: &Stat) -> Result<Option<Box<dyn Unwritten>>, StepError> {
        if found.kind == FileKind::File { self.fs.unwritten(path).map_err(step_error) } else { Ok(None) }
    }

    /// Moves something back to where it was. If that is taken by now, it becomes visible elsewhere.
    fn give_back(&self, aside: &LocalPath, path: &LocalPath) {
        if let Err(error) = self.fs.rename_new(aside, path) {
            tracing::warn!(path = %path, %error, "cannot move back what was not expected there");
            temps::rescue(self.fs, aside);
        }
    }

    /// Notes that a file aside is what was to go. A crash leaves it to [`temps::clean`].
    fn discard_later(&mut self, aside: LocalPath, old: &Fingerprint) {
        self.useless.push(aside);
        self.useless_bytes = self.useless_bytes.saturating_add(old.size);
        if self.useless.len() >= USELESS_FILES || self.useless_bytes >= USELESS_BYTES {
            self.discard_useless();
        }
    }

    /// Nobody sees these files where they are, and many are removed faster together than one after the other:
    /// a file system that tells its disk of the space that becomes free waits for that with each.
    fn discard_useless(&mut self) {
        let useless = std::mem::take(&mut self.useless);
        self.fs.side_by_side(useless.len(), &|n| temps::discard_aside(self.fs, &useless[n]));
        self.useless_bytes = 0;
    }

    /// Removes something of ours that no longer matters. What stays is cleaned up later.
    fn discard(&self, path: &LocalPath) {
        if let Err(error) = self.fs.unlink(path) {
            tracing::debug!(path = %path, %error, "a temporary file stays for now");
        }
    }

    /// The fingerprint after a rename that moved the change time. If more than that changed, someone
    /// else was at it: the older fingerprint makes the next scan see the difference.
    fn print_after_rename(&self, path: &LocalPath, before: &Fingerprint) -> Fingerprint {
        match self.fs.stat(path) {
            Ok(Some(after)) if is_same_state(&after.print, before) => after.print,
            _ => *before,
        }
    }

    fn print_of_moved(&self, before: &Stat, after: &Stat) -> Fingerprint {
        let directory = before.kind == FileKind::Directory;
        if directory || is_same_state(&after.print, &before.print) { after.print } else { before.print }
    }

    fn touch(&mut self, print: &Fingerprint) {
        self.touched.insert((print.device, print.inode));
    }

    fn is_touched(&self, print: &Fingerprint) -> bool {
        self.touched.contains(&(print.device, print.inode))
    }
}

/// Steps stay out of Syncline's own folder, but for parked nodes and what is below them. On a file system that does not
/// tell spellings apart, another spelling leads there too.
fn refuse_own(path: &LocalPath) -> Result<(), StepError> {
    let mut components = path.components();
    let Some(first) = components.next() else {
        return Err(StepError::Occupied);
    };
    if !first.eq_ignore_ascii_case(OWN_DIRECTORY.as_bytes()) {
        return Ok(());
    }
    let parked = path.as_bytes().strip_prefix(PARKED_DIRECTORY.as_bytes()).is_some_and(|below| below.starts_with(b"/"));
    if parked { Ok(()) } else { Err(StepError::Name(format!("`{OWN_DIRECTORY}` holds Syncline's own files"))) }
}

/// The permission bits with the execute bits set for all who may read, or for nobody.
fn with_execute(permissions: u32, executable: bool) -> u32 {
    const READ: u32 = 0o444;
    const EXECUTE: u32 = 0o111;
    const OWNER_EXECUTES: u32 = 0o100;
    if executable { permissions | ((permissions & READ) >> 2) | OWNER_EXECUTES } else { permissions & !EXECUTE }
}

/// Whether a temporary file whose blocks have all been written holds them. Each was checked when it was written, and they
/// are not read again: but somebody may have removed the file meanwhile, and with it what it had by then. Such a file
/// has holes, for which a few calls are enough, and what has holes is read.
fn is_whole(file: &dyn OpenFile, print: &Fingerprint, content: &FileContent) -> Result<bool, StepError> {
    if content.size <= BLOCK_SIZE || !file.has_holes() {
        return Ok(true);
    }
    let blocks = read_and_hash(file, print).map_err(step_error)?;
    Ok(blocks.is_some_and(|blocks| blocks.content_hash() == content.hash))
}

/// Our own temporary file refuses permission bits only on a file system that cannot hold them (FAT).
/// The file is then better there with other bits than not at all.
fn set_permissions_if_possible(file: &dyn OpenFile, permissions: u32) -> Result<(), StepError> {
    match file.set_permissions(permissions) {
        Ok(()) | Err(FsError::Permission) => Ok(()),
        Err(error) => Err(step_error(error)),
    }
}

/// Equal but for the change time. The execute bit counts: a user who sets it in the last moment has
/// changed the file.
fn is_same_state(a: &Fingerprint, b: &Fingerprint) -> bool {
    a.device == b.device && a.executable == b.executable && State::of(a) == State::of(b)
}

fn is_same_inode(a: &Stat, b: &Stat) -> bool {
    a.kind == b.kind && (a.print.device, a.print.inode, a.print.birth) == (b.print.device, b.print.inode, b.print.birth)
}

/// What lies aside now is still what no program may write to.
fn still(unwritten: Option<&dyn Unwritten>) -> Result<(), StepError> {
    if unwritten.is_none_or(Unwritten::is_undisturbed) { Ok(()) } else { Err(StepError::InUse) }
}

fn no_free_name() -> StepError {
    StepError::Failed("no free name for a temporary file".to_owned())
}

fn temp_error(error: FsError) -> StepError {
    match error {
        FsError::NotFound | FsError::NotADirectory | FsError::IsADirectory | FsError::Escapes => StepError::BadTemp,
        other => step_error(other),
    }
}

fn changed_kind(error: FsError) -> StepError {
    match error {
        FsError::IsADirectory | FsError::Escapes => StepError::Changed,
        other => step_error(other),
    }
}

/// Where a step puts something.
const fn target_of(step: &LocalStep) -> Option<&LocalPath> {
    match step {
        LocalStep::MakeDirectory { path, .. }
        | LocalStep::Install { path, .. }
        | LocalStep::MakeSymlink { path, .. } => Some(path),
        LocalStep::Move { to, .. } => Some(to),
        LocalStep::SetAttributes { .. } | LocalStep::Remove { .. } | LocalStep::RemoveDirectory { .. } => None,
    }
}

/// What the places have in common whose names count as the same.
fn key_of(path: &LocalPath) -> Option<(LocalPath, NameKey)> {
    let (folder, name) = path.split()?;
    Some((folder, Name::parse_bytes(name).ok()?.key()))
}

/// What an error of a primitive means for a step.
pub(crate) fn step_error(error: FsError) -> StepError {
    match error {
        // A symlink on the way: the folder that was meant is not there.
        FsError::NotFound | FsError::NotADirectory | FsError::Escapes => StepError::Gone,
        FsError::IsADirectory => StepError::Changed,
        FsError::AlreadyExists => StepError::Occupied,
        FsError::NotEmpty => StepError::NotEmpty,
        FsError::Permission => StepError::Permission(error.to_string()),
        FsError::NoSpace => StepError::NoSpace,
        FsError::NameRefused => StepError::Name(error.to_string()),
        FsError::InUse => StepError::InUse,
        FsError::CrossDevice | FsError::RootGone | FsError::Other { .. } => StepError::Failed(error.to_string()),
    }
}
