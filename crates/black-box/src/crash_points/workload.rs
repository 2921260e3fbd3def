//! The workloads: one operation, or two, on two files or on one.

use anyhow::Result;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const BLOCK_BYTES: usize = 4 * 1024 * 1024;
const EDIT_BYTES: usize = 8192;

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Create,
    EditOneBlock,
    EditAcrossBlocks,
    Rename,
    Move,
    MakeFolder,
    Delete,
    ReplaceByFolder,
}

use Operation::{Create, Delete, EditAcrossBlocks, EditOneBlock, MakeFolder, Move, Rename, ReplaceByFolder};

const ALL: [Operation; 8] = [Create, EditOneBlock, EditAcrossBlocks, Rename, Move, MakeFolder, Delete, ReplaceByFolder];

/// What a user does from one rest to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Workload {
    /// Each operation on a file of its own.
    Apart(Vec<Operation>),
    /// The second operation where the first one was.
    Same(Operation, Operation),
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apart(operations) => write!(formatter, "{operations:?}"),
            Self::Same(first, second) => write!(formatter, "[{first:?} then {second:?}]"),
        }
    }
}

/// All workloads of so many operations.
pub(super) fn all(operations: usize) -> Vec<Workload> {
    if operations < 2 {
        return ALL.iter().map(|operation| Workload::Apart(vec![*operation])).collect();
    }
    // On different files it makes no difference which comes first.
    let apart = ALL.iter().enumerate().flat_map(|(at, one)| ALL[at..].iter().map(|other| vec![*one, *other]));
    let pairs = ALL.iter().flat_map(|one| following(*one).iter().map(|other| Workload::Same(*one, *other)));
    apart.map(Workload::Apart).chain(pairs).collect()
}

/// What can be done where an operation was.
fn following(operation: Operation) -> &'static [Operation] {
    match operation {
        Create => &[EditOneBlock, EditAcrossBlocks, Rename, Move, Delete, ReplaceByFolder],
        EditOneBlock => &[EditAcrossBlocks, Rename, Move, Delete, ReplaceByFolder],
        EditAcrossBlocks => &[EditOneBlock, Rename, Move, Delete, ReplaceByFolder],
        Rename => &[Create, EditOneBlock, EditAcrossBlocks, Move, Delete, ReplaceByFolder],
        Move => &[Create, EditOneBlock, EditAcrossBlocks, Rename, Delete, ReplaceByFolder],
        Delete => &[Create, MakeFolder],
        MakeFolder | ReplaceByFolder => &[],
    }
}

impl Workload {
    /// Makes what the operations need.
    pub(super) fn prepare(&self, place: &Path) -> Result<()> {
        match self {
            Self::Apart(operations) => {
                operations.iter().enumerate().try_for_each(|(turn, operation)| make(place, turn, &[*operation]))
            }
            Self::Same(first, second) => make(place, 0, &[*first, *second]),
        }
    }

    /// Does what a user does, and calls `look` after each operation.
    pub(super) fn perform(&self, place: &Path, mut look: impl FnMut() -> Result<()>) -> Result<()> {
        match self {
            Self::Apart(operations) => {
                for (turn, operation) in operations.iter().enumerate() {
                    operation.perform(place, turn, &mut place.join(format!("file-{turn}")))?;
                    look()?;
                }
            }
            Self::Same(first, second) => {
                let mut file = place.join("file-0");
                first.perform(place, 0, &mut file)?;
                look()?;
                if *second == Create {
                    // What was there has gone elsewhere.
                    file = place.join("file-0");
                }
                second.perform(place, 1, &mut file)?;
                look()?;
            }
        }
        Ok(())
    }

    /// Whether a content may show at the file's other paths, too: it keeps its content when it is moved.
    pub(super) fn is_about_one_file(&self) -> bool {
        matches!(self, Self::Same(..))
    }
}

/// `turn` tells the files of one workload apart.
fn make(place: &Path, turn: usize, operations: &[Operation]) -> Result<()> {
    let file = place.join(format!("file-{turn}"));
    if operations.contains(&Move) {
        fs::create_dir(place.join(format!("folder-{turn}")))?;
    }
    if operations.iter().any(|operation| matches!(operation, EditOneBlock | EditAcrossBlocks)) {
        fs::write(&file, vec![b'0'; BLOCK_BYTES + EDIT_BYTES])?;
    } else if !matches!(operations[0], Create | MakeFolder) {
        fs::write(&file, unique("before", place, turn))?;
    }
    Ok(())
}

impl Operation {
    /// Does it, as a user would. `file` follows the file.
    fn perform(self, place: &Path, turn: usize, file: &mut PathBuf) -> Result<()> {
        match self {
            Create => fs::write(&*file, unique("created", place, turn))?,
            EditOneBlock => edit(file, BLOCK_BYTES as u64, place, turn)?,
            EditAcrossBlocks => edit(file, (BLOCK_BYTES - EDIT_BYTES / 2) as u64, place, turn)?,
            Rename => move_to(file, file.with_file_name(format!("renamed-{turn}")))?,
            Move => {
                // Made by `make`, under the number of the file.
                let folder = ["folder-0", "folder-1"].map(|name| place.join(name));
                let folder = folder.into_iter().rfind(|folder| folder.is_dir() && !file.starts_with(folder));
                move_to(file, folder.unwrap_or_else(|| place.to_owned()).join(format!("moved-{turn}")))?;
            }
            MakeFolder => fs::create_dir(&*file)?,
            Delete => fs::remove_file(&*file)?,
            ReplaceByFolder => {
                fs::remove_file(&*file)?;
                fs::create_dir(&*file)?;
                fs::write(file.join("inside"), unique("inside", place, turn))?;
            }
        }
        Ok(())
    }
}

fn move_to(file: &mut PathBuf, new: PathBuf) -> Result<()> {
    fs::rename(&*file, &new)?;
    *file = new;
    Ok(())
}

/// Contents that no other run has, so that their blocks must travel.
fn unique(what: &str, place: &Path, turn: usize) -> String {
    format!("{what} {turn} at {}", place.display())
}

fn edit(file: &Path, offset: u64, place: &Path, turn: usize) -> Result<()> {
    let mut piece = unique("edited", place, turn).into_bytes();
    piece.resize(EDIT_BYTES, b'1');
    OpenOptions::new().write(true).open(file)?.write_all_at(&piece, offset)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_can_be_done_and_changes_something() {
        assert_eq!((all(1).len(), all(2).len()), (8, 36 + 30));
        for workload in all(1).into_iter().chain(all(2)) {
            let place = tempfile::tempdir().expect("made");
            workload.prepare(place.path()).expect("prepared");
            let look = || crate::tree::Tree::read(place.path());
            let (before, mut steps) = (look().expect("read"), 0);
            let done = workload.perform(place.path(), || {
                steps += 1;
                Ok(())
            });
            done.unwrap_or_else(|error| panic!("{workload}: {error:#}"));
            assert!(steps > 0);
            if workload != Workload::Same(Create, Delete) {
                assert_ne!(look().expect("read"), before, "{workload}");
            }
        }
    }
}
