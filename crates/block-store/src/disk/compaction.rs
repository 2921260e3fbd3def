//! Compaction: packs of which little is in use are emptied and removed.
//!
//! What is in use is written to the newest pack like a new block, durable before the index points there; a
//! pack goes when the index names nothing in it. So a crash at any point leaves every block where the index
//! says, at worst twice. The records of removals in such a pack go with it. They matter only to an index that
//! is rebuilt: a block that was removed may then be in it again, and the clean-up removes it once more.

use super::{DiskBlockStore, Job};
use crate::StoreError;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// A pack is emptied when less than one part in this many of what it takes up is in use: then at least as
/// much is given back as is written.
const USED_SHARE: u64 = 2;
/// A pack that would give back less than this is left alone.
const LEAST_GAIN: u64 = 64 * 1024;
/// Bytes that are moved in one call, so that it ends; the next one goes on.
const CALL_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Bytes that are moved in one job, so that uploads in between need not wait long.
const MOVE_BYTES: u64 = 16 * 1024 * 1024;

impl DiskBlockStore {
    /// Empties and removes what is worth it; how many bytes of the disk that gave back. The packs of which least is in
    /// use come first, since on a disk that is nearly full their space may be what the others are moved into. One that
    /// cannot be emptied does not keep the others from it.
    pub(super) fn compact_packs(&self) -> Result<u64, StoreError> {
        let mut numbers = self.layout.pack_numbers()?;
        // The last pack grows.
        numbers.pop();
        let usage = self.index.usage()?;
        numbers.sort_by_key(|pack| usage.get(pack).map_or(0, |used| used.bytes));
        let (mut given_back, mut moved, mut failed) = (0, 0, None);
        for pack in numbers {
            let used = usage.get(&pack).copied().unwrap_or_default();
            let taken = self.taken_up(pack)?;
            let gain = taken.saturating_sub(used.bytes);
            let worth_it = used.bytes == 0 || (gain >= LEAST_GAIN && used.bytes.saturating_mul(USED_SHARE) < taken);
            if worth_it && !used.has_damage && moved <= CALL_BYTES {
                moved += used.bytes;
                match self.empty(pack) {
                    Ok(true) => given_back += gain,
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(pack, %error, "a pack cannot be emptied");
                        failed.get_or_insert(error);
                    }
                }
            }
        }
        failed.map_or(Ok(given_back), Err)
    }

    /// Bytes that a pack takes up on the disk; holes do not count.
    fn taken_up(&self, pack: u32) -> Result<u64, StoreError> {
        /// What `st_blocks` counts in, whatever the file system's own blocks are.
        const UNIT: u64 = 512;
        let path = self.layout.pack(pack);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len().min(metadata.blocks() * UNIT)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// `false`: something in the pack turned out to be damaged, and it stays.
    fn empty(&self, pack: u32) -> Result<bool, StoreError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for (hash, place) in self.index.blocks_of(pack)? {
            bytes += u64::from(place.len);
            batch.push((hash, place));
            if bytes >= MOVE_BYTES {
                self.submit(Job::Move(std::mem::take(&mut batch)))?;
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.submit(Job::Move(batch))?;
        }
        self.submit(Job::DropPack(pack))?;
        self.packs.forget(pack);
        Ok(!self.layout.pack(pack).exists())
    }
}
