//! The operations that workloads are made of.

use anyhow::Result;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// An edit's place in the middle of a block.
const INSIDE: u64 = 1024 * 1024;
const EDIT_BYTES: usize = 8192;

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// All of them.
pub(super) const ALL: &[Operation] = &[
    Operation::Create,
    Operation::EditOneBlock,
    Operation::EditAcrossBlocks,
    Operation::Rename,
    Operation::Move,
    Operation::MakeFolder,
    Operation::Delete,
    Operation::ReplaceByFolder,
];

impl Operation {
    /// Makes what the operation needs. `turn` tells the operations of one workload apart.
    pub(super) fn prepare(self, place: &Path, turn: usize) -> Result<()> {
        let file = place.join(format!("file-{turn}"));
        match self {
            Self::Create | Self::MakeFolder => {}
            Self::EditOneBlock | Self::EditAcrossBlocks => fs::write(&file, vec![b'0'; BLOCK_BYTES + EDIT_BYTES])?,
            Self::Rename | Self::Delete | Self::ReplaceByFolder => fs::write(&file, unique("before", place, turn))?,
            Self::Move => {
                fs::create_dir(place.join(format!("folder-{turn}")))?;
                fs::write(&file, unique("before", place, turn))?;
            }
        }
        Ok(())
    }

    /// Does it, as a user would.
    pub(super) fn perform(self, place: &Path, turn: usize) -> Result<()> {
        let file = place.join(format!("file-{turn}"));
        match self {
            Self::Create => fs::write(&file, unique("created", place, turn))?,
            Self::EditOneBlock => edit(&file, INSIDE, place)?,
            Self::EditAcrossBlocks => edit(&file, (BLOCK_BYTES - EDIT_BYTES / 2) as u64, place)?,
            Self::Rename => fs::rename(&file, place.join(format!("renamed-{turn}")))?,
            Self::Move => fs::rename(&file, place.join(format!("folder-{turn}/moved")))?,
            Self::MakeFolder => fs::create_dir(place.join(format!("made-{turn}")))?,
            Self::Delete => fs::remove_file(&file)?,
            Self::ReplaceByFolder => {
                fs::remove_file(&file)?;
                fs::create_dir(&file)?;
                fs::write(file.join("inside"), unique("inside", place, turn))?;
            }
        }
        Ok(())
    }
}

/// Contents that no other run has, so that their blocks must travel.
fn unique(what: &str, place: &Path, turn: usize) -> String {
    format!("{what} {turn} at {}", place.display())
}

fn edit(file: &Path, offset: u64, place: &Path) -> Result<()> {
    let mut piece = place.display().to_string().into_bytes();
    piece.resize(EDIT_BYTES, b'1');
    OpenOptions::new().write(true).open(file)?.write_all_at(&piece, offset)?;
    Ok(())
}
