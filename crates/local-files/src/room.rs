//! Whether the disk takes what is to be downloaded.

use crate::fs::{Fs, FsError, temp_path};
use model::block::block_len;
use model::{BLOCK_SIZE, Blocklist};
use sync_engine::io::TempName;

/// What a download of several blocks leaves of the disk, for smaller ones and for the client's notes.
const SPARE_BYTES: u64 = BLOCK_SIZE;

/// Whether the disk takes so many bytes more, as far as it tells.
#[must_use]
pub fn has_room(fs: &dyn Fs, bytes: u64) -> bool {
    fs.free_bytes().is_none_or(|free| free >= bytes)
}

/// Whether there is room for what is missing of a content of several blocks, and for one block more. If not, what
/// was fetched of it is given up: it would fill the disk up and be of no use there.
pub(crate) fn has_room_for_rest(fs: &dyn Fs, temp: &TempName, size: u64, blocks: &Blocklist, present: &[u32]) -> bool {
    let there: u64 = present.iter().map(|number| block_len(size, u64::from(*number))).sum();
    if blocks.0.len() < 2 || has_room(fs, size - there + SPARE_BYTES) {
        return true;
    }
    // What is written there meanwhile was asked for by a download that is forgotten by now.
    match temp_path(temp).and_then(|path| fs.unlink(&path)) {
        Ok(()) | Err(FsError::NotFound) => {}
        Err(error) => tracing::warn!(temp = %temp.0, %error, "a download that finds no room stays where it is"),
    }
    false
}
