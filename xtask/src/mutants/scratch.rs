//! The copy of the workspace that mutants are made in. It keeps its build between runs, so that only what
//! a mutant changes is compiled again.

use super::Mutant;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A copy of the workspace with a build directory of its own.
pub(super) struct Scratch {
    /// The copied sources.
    pub(super) tree: PathBuf,
    /// Cargo's directory for it.
    pub(super) build: PathBuf,
    /// What the suites said.
    pub(super) logs: PathBuf,
}

/// A mutant in place. It stays until [`Applied::revert`], or until the next [`Scratch::prepare`].
pub(super) struct Applied {
    path: PathBuf,
    original: String,
}

impl Applied {
    pub(super) fn revert(self) -> Result<()> {
        fs::write(&self.path, self.original).with_context(|| format!("cannot restore {}", self.path.display()))
    }
}

impl Scratch {
    /// Copies the working tree, or a revision.
    pub(super) fn prepare(root: &Path, revision: Option<&str>) -> Result<Self> {
        let home = root.join("target/mutants");
        let scratch = Self { tree: home.join("tree"), build: home.join("build"), logs: home.join("logs") };
        for directory in [&scratch.tree, &scratch.build, &scratch.logs] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        match revision {
            None => scratch.copy(root, &git_list(root, &["ls-files", "-z", "-co", "--exclude-standard"])?)?,
            Some(revision) => {
                let unpacked = unpack(root, &home, revision)?;
                scratch.copy(&unpacked, &git_list(root, &["ls-tree", "-r", "-z", "--name-only", revision])?)?;
            }
        }
        Ok(scratch)
    }

    /// Makes the tree hold these files and no others. Equal files are left alone, with their times, which
    /// cargo goes by.
    fn copy(&self, from: &Path, names: &BTreeSet<String>) -> Result<()> {
        for name in names {
            let (source, target) = (from.join(name), self.tree.join(name));
            let bytes = match fs::read(&source) {
                Ok(bytes) => bytes,
                // Deleted in the working tree, and not yet in the index.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    remove_if_there(&target)?;
                    continue;
                }
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", source.display())),
            };
            if fs::read(&target).is_ok_and(|there| there == bytes) {
                continue;
            }
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
            }
            fs::write(&target, bytes).with_context(|| format!("cannot write {}", target.display()))?;
        }
        self.remove_others("", names)
    }

    fn remove_others(&self, folder: &str, names: &BTreeSet<String>) -> Result<()> {
        for entry in fs::read_dir(self.tree.join(folder)).with_context(|| format!("cannot list `{folder}`"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if path == "target" {
                continue;
            }
            if entry.file_type()?.is_dir() {
                self.remove_others(&path, names)?;
            } else if !names.contains(&path) {
                remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Puts a mutant in place; the inner error says why it cannot be.
    pub(super) fn apply(&self, mutant: &Mutant) -> Result<Result<Applied, String>> {
        let path = self.tree.join(mutant.file);
        let Ok(original) = fs::read_to_string(&path) else {
            return Ok(Err(format!("{} is gone", mutant.file)));
        };
        let mutated = match mutate(mutant, &original) {
            Ok(mutated) => mutated,
            Err(reason) => return Ok(Err(reason)),
        };
        fs::write(&path, mutated).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Ok(Applied { path, original }))
    }
}

/// The file's text with the mistake in it.
pub(super) fn mutate(mutant: &Mutant, text: &str) -> Result<String, String> {
    match text.matches(mutant.old).count() {
        1 => Ok(text.replacen(mutant.old, mutant.new, 1)),
        0 => Err(format!("its old text is not in {} any more", mutant.file)),
        times => Err(format!("its old text stands {times} times in {}", mutant.file)),
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn git_list(root: &Path, arguments: &[&str]) -> Result<BTreeSet<String>> {
    let output = Command::new("git").args(arguments).current_dir(root).output().context("cannot run git")?;
    if !output.status.success() {
        bail!("`git {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    let names = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
    Ok(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// Unpacks a revision beside the tree.
fn unpack(root: &Path, home: &Path, revision: &str) -> Result<PathBuf> {
    let (archive, unpacked) = (home.join("revision.tar"), home.join("revision"));
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked).context("cannot remove the last revision")?;
    }
    fs::create_dir_all(&unpacked).context("cannot make a place for the revision")?;
    let packed = Command::new("git").args(["archive", "-o"]).arg(&archive).arg(revision).current_dir(root).status()?;
    let spread = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&unpacked).status()?;
    if !(packed.success() && spread.success()) {
        bail!("revision `{revision}` cannot be unpacked");
    }
    Ok(unpacked)
}
