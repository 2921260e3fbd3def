//! Whether the disk takes what is to be downloaded.

use crate::fs::{Fs, FsError, temp_path};
use model::block::block_len;
use model::{BLOCK_SIZE, Blocklist};
use std::sync::{Mutex, PoisonError};
use sync_engine::io::TempName;

/// What a download of several blocks leaves of the disk, for smaller ones and for the client's notes.
const SPARE_BYTES: u64 = BLOCK_SIZE;

/// Of the room that a disk tells of, that part is taken before it is asked again.
const SHARE_TAKEN: u64 = 16;
/// Answers that are given before it is asked again: others fill it too.
const ANSWERS: u32 = 64;

/// The room on a disk, for many who want a little of it: a disk that has much is not asked each time.
#[derive(Debug, Default)]
pub struct Room(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    bytes: u64,
    answers: u32,
}

impl Room {
    /// Whether the disk takes so many bytes more, as far as it tells; if so they count as taken.
    #[must_use]
    pub fn has(&self, fs: &dyn Fs, bytes: u64) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.answers > 0 && told.bytes >= bytes {
            *told = Told { bytes: told.bytes - bytes, answers: told.answers - 1 };
            return true;
        }
        let free = fs.free_bytes().unwrap_or(u64::MAX);
        let rest = free.checked_sub(bytes);
        *told = rest.map_or_else(Told::default, |rest| Told { bytes: rest / SHARE_TAKEN, answers: ANSWERS });
        rest.is_some()
    }
}

fn has_room(fs: &dyn Fs, bytes: u64) -> bool {
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
