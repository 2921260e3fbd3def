//! The workloads: one operation to three, on as many files or on fewer.

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

/// What a user does from one rest to the next: with each of some files one thing after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Workload {
    files: Vec<Vec<Operation>>,
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |operation: &Operation| format!("{operation:?}");
        let file = |operations: &Vec<Operation>| operations.iter().map(told).collect::<Vec<_>>().join(" then ");
        write!(formatter, "[{}]", self.files.iter().map(file).collect::<Vec<_>>().join(", "))
    }
}

/// All workloads of so many operations, one to three.
pub(super) fn all(operations: usize) -> Vec<Workload> {
    let singles = || ALL.map(|operation| vec![operation]).to_vec();
    let longer = |chains: &[Vec<Operation>]| -> Vec<Vec<Operation>> {
        let ends = |chain: &Vec<Operation>| chain.last().map_or(&[][..], |last| following(*last));
        let grown = |chain: &Vec<Operation>| ends(chain).iter().map(|next| [&chain[..], &[*next]].concat()).collect();
        chains.iter().flat_map::<Vec<_>, _>(grown).collect()
    };
    let pairs = longer(&singles());
    let files: Vec<Vec<Vec<Operation>>> = match operations {
        0 | 1 => apart(1),
        2 => apart(2).into_iter().chain(pairs.into_iter().map(|pair| vec![pair])).collect(),
        _ => {
            let with_another =
                |pair: &Vec<Operation>| singles().into_iter().map(|one| vec![pair.clone(), one]).collect();
            let mixed = pairs.iter().flat_map::<Vec<_>, _>(with_another);
            apart(3).into_iter().chain(mixed).chain(longer(&pairs).into_iter().map(|chain| vec![chain])).collect()
        }
    };
    files.into_iter().map(|files| Workload { files }).collect()
}

/// Each operation on a file of its own. It makes no difference which comes first.
fn apart(operations: usize) -> Vec<Vec<Vec<Operation>>> {
    let mut all: Vec<Vec<Operation>> = vec![Vec::new()];
    for _ in 0..operations {
        let grown = |one: Vec<Operation>| {
            let from =
                one.last().and_then(|last| ALL.iter().position(|operation| operation == last)).unwrap_or_default();
            ALL[from..].iter().map(|next| [&one[..], &[*next]].concat()).collect::<Vec<_>>()
        };
        all = all.into_iter().flat_map(grown).collect();
    }
    all.into_iter().map(|operations| operations.into_iter().map(|operation| vec![operation]).collect()).collect()
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
    pub(super) fn operations(&self) -> usize {
        self.files.iter().map(Vec::len).sum()
    }

    /// Makes what the operations need.
    pub(super) fn prepare(&self, place: &Path) -> Result<()> {
        self.files.iter().enumerate().try_for_each(|(number, operations)| make(place, number, operations))
    }

    /// Does what a user does, and calls `look` after each operation.
    pub(super) fn perform(&self, place: &Path, mut look: impl FnMut() -> Result<()>) -> Result<()> {
        let mut turn = 0;
        for (number, operations) in self.files.iter().enumerate() {
            let first = place.join(format!("file-{number}"));
            let mut file = first.clone();
            for operation in operations {
                if *operation == Create {
                    // What was there has gone elsewhere.
                    file.clone_from(&first);
                }
                operation.perform(place, turn, &mut file)?;
                turn += 1;
                look()?;
            }
        }
        Ok(())
    }

    /// Whether a content may show at other paths of its file, too: it keeps its content when it is moved.
    pub(super) fn uses_a_file_again(&self) -> bool {
        self.files.iter().any(|operations| operations.len() > 1)
    }
}

/// `number` tells the files of one workload apart.
fn make(place: &Path, number: usize, operations: &[Operation]) -> Result<()> {
    let file = place.join(format!("file-{number}"));
    if operations.contains(&Move) {
        fs::create_dir(place.join(format!("folder-{number}")))?;
    }
    if operations.iter().any(|operation| matches!(operation, EditOneBlock | EditAcrossBlocks)) {
        fs::write(&file, vec![b'0'; BLOCK_BYTES + EDIT_BYTES])?;
    } else if !matches!(operations[0], Create | MakeFolder) {
        fs::write(&file, unique("before", place, number))?;
    }
    Ok(())
}

impl Operation {
    /// Does it, as a user would, as the operation with the number `turn` of its workload. `file` follows the file.
    fn perform(self, place: &Path, turn: usize, file: &mut PathBuf) -> Result<()> {
        match self {
            Create => fs::write(&*file, unique("created", place, turn))?,
            EditOneBlock => edit(file, BLOCK_BYTES as u64, place, turn)?,
            EditAcrossBlocks => edit(file, (BLOCK_BYTES - EDIT_BYTES / 2) as u64, place, turn)?,
            Rename => move_to(file, file.with_file_name(format!("renamed-{turn}")))?,
            Move => {
                // Made by `make`, under the number of a file.
                let folder = ["folder-0", "folder-1", "folder-2"].map(|name| place.join(name));
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
        assert_eq!((all(1).len(), all(2).len(), all(3).len()), (8, 36 + 30, 120 + 240 + 116));
        for workload in (1..=3).flat_map(all) {
            let place = tempfile::tempdir().expect("made");
            workload.prepare(place.path()).expect("prepared");
            let look = || crate::tree::Tree::read(place.path());
            let (before, mut steps) = (look().expect("read"), 0);
            let done = workload.perform(place.path(), || {
                steps += 1;
                Ok(())
            });
            done.unwrap_or_else(|error| panic!("{workload}: {error:#}"));
            assert_eq!(steps, workload.operations());
            // What is made and deleted leaves nothing.
            let leaves_nothing =
                |operations: &Vec<Operation>| operations[0] == Create && operations.ends_with(&[Delete]);
            if !workload.files.iter().all(leaves_nothing) {
                assert_ne!(look().expect("read"), before, "{workload}");
            }
        }
    }
}
