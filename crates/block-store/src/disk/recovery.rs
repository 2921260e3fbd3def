//! Opening: the index is brought up to what the packs hold, and the torn end of the last write is cut.

use super::index::{Changes, Entry, Index, Place};
use super::layout::Layout;
use super::pack::{Found, PACK_HEADER, PackScan};
use super::writer::give_back;
use crate::StoreError;
use model::BlockHash;
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// Records entered into the index in one transaction.
const RECORDS_PER_CHANGE: usize = 10_000;

/// Where the writer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// Behind the last record of this pack.
    Append { pack: u32, end: u64 },
    /// In a new pack of this number.
    Begin { pack: u32 },
}

/// Opens the index, or makes it anew from the packs, and reads what it does not know yet.
pub(super) fn open_index(layout: &Layout) -> Result<(Index, Tail), StoreError> {
    let numbers = layout.pack_numbers()?;
    let mut index = match Index::open(&layout.index())? {
        Some(index) if fits_packs(layout, &index)? => index,
        Some(_) | None => {
            if !numbers.is_empty() {
                tracing::warn!(packs = numbers.len(), "the block index is rebuilt from the packs");
            }
            Index::create(&layout.index())?
        }
    };
    let indexed = index.packs()?;
    let mut tail = Tail::Begin { pack: 1 };
    for (i, &pack) in numbers.iter().enumerate() {
        let from = indexed.get(&pack).copied().unwrap_or(0);
        let role = if i + 1 == numbers.len() { Role::Last } else { Role::Full };
        tail = catch_up(layout, &mut index, pack, from, role)?;
    }
    Ok((index, tail))
}

/// Whether the index names only bytes that the packs have. It would not after a restore that brought
/// back older packs than the index.
fn fits_packs(layout: &Layout, index: &Index) -> Result<bool, StoreError> {
    for (pack, indexed) in index.packs()? {
        let path = layout.pack(pack);
        let len = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        if len < indexed {
            tracing::error!(pack, len, indexed, "a pack is shorter than its index says");
            return Ok(false);
        }
    }
    Ok(true)
}

/// Only the last pack can end in the middle of a write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Full,
    Last,
}

/// Enters what lies behind `from` into the index.
fn catch_up(layout: &Layout, index: &mut Index, pack: u32, from: u64, role: Role) -> Result<Tail, StoreError> {
    let path = layout.pack(pack);
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(StoreError::io("open", &path))?;
    let len = file.metadata().map_err(StoreError::io("read", &path))?.len();
    if role == Role::Full && from >= len {
        return Ok(Tail::Begin { pack: pack + 1 });
    }
    if len > from {
        sync_tail(&file, from).map_err(StoreError::io("sync", &path))?;
    }
    let mut scan = PackScan::begin(&file, &path, pack, from)?;
    let whole = scan.has_header()?;
    if role == Role::Last && len < PACK_HEADER {
        return Ok(Tail::Begin { pack });
    }
    let end = from.max(PACK_HEADER);
    let mut replay = Replay { layout, index, pack, indexed: from, end, held: Vec::new(), ready: Vec::new() };
    while let Some((found, end)) = scan.next()? {
        replay.take(found, end)?;
    }
    // What the disk cannot read now is no torn write, and nothing of it is cut.
    let role = if scan.met_unreadable() { Role::Full } else { role };
    let end = replay.finish(role, len)?;
    if role == Role::Full || !whole {
        return Ok(Tail::Begin { pack: pack + 1 });
    }
    cut(&file, &path, end, len)?;
    Ok(Tail::Append { pack, end })
}

/// Makes durable what is about to be entered: whoever wrote it may have been stopped before it was synced, and what is
/// in the index counts as durable from then on. What is read afterwards comes from the disk. If an earlier sync
/// failed, only the page cache holds the bytes, and only until it needs the room.
fn sync_tail(file: &File, from: u64) -> io::Result<()> {
    file.sync_all()?;
    Ok(fadvise(file, from, None, Advice::DontNeed)?)
}

/// Cuts what a write that was never acknowledged left behind.
fn cut(file: &File, path: &Path, end: u64, len: u64) -> Result<(), StoreError> {
    if end == len {
        return Ok(());
    }
    tracing::warn!(pack = %path.display(), bytes = len - end, "the unfinished end of a pack is cut");
    file.set_len(end).and_then(|()| file.sync_all()).map_err(StoreError::io("cut", path))
}

/// Records on their way into the index.
struct Replay<'a> {
    layout: &'a Layout,
    index: &'a mut Index,
    pack: u32,
    /// What the index says of the pack.
    indexed: u64,
    /// The end of the last record that is to be kept.
    end: u64,
    /// Damaged blocks with nothing whole behind them yet: the last write, torn, or bit rot.
    held: Vec<Found>,
    ready: Vec<Found>,
}

impl Replay<'_> {
    fn take(&mut self, found: Found, end: u64) -> Result<(), StoreError> {
        if matches!(found, Found::Block { intact: false, .. }) {
            self.held.push(found);
            return Ok(());
        }
        self.ready.append(&mut self.held);
        self.ready.push(found);
        self.end = end;
        if self.ready.len() >= RECORDS_PER_CHANGE { self.flush(self.end) } else { Ok(()) }
    }

    /// Enters the rest; returns where the pack ends.
    fn finish(mut self, role: Role, len: u64) -> Result<u64, StoreError> {
        if role == Role::Full {
            self.ready.append(&mut self.held);
            self.end = len;
        }
        // A disk that is full has no room to note what is known.
        if !self.ready.is_empty() || self.end > self.indexed.max(PACK_HEADER) {
            self.flush(self.end)?;
        }
        Ok(self.end)
    }

    fn flush(&mut self, indexed: u64) -> Result<(), StoreError> {
        let (ready, pack) = (std::mem::take(&mut self.ready), self.pack);
        let mut gone = Vec::new();
        self.index.change(|changes| {
            for found in &ready {
                gone.extend(enter(changes, *found)?);
            }
            changes.set_indexed(pack, indexed)
        })?;
        gone.into_iter().for_each(|place| give_back(self.layout, place));
        Ok(())
    }
}

/// Enters one record; returns the place that it gives up.
fn enter(changes: &Changes<'_>, found: Found) -> rusqlite::Result<Option<Place>> {
    match found {
        Found::Block { hash, place, intact } => enter_block(changes, &hash, place, intact).map(|()| None),
        Found::Removal { hash, place } => match changes.find(&hash)? {
            Some(entry) if (entry.place.pack, entry.place.offset) == (place.pack, place.offset) => {
                changes.forget(&hash)?;
                Ok(Some(entry.place))
            }
            Some(_) | None => Ok(None),
        },
    }
}

/// A whole copy that is known already is kept, and is never displaced by a damaged one.
fn enter_block(changes: &Changes<'_>, hash: &BlockHash, place: Place, intact: bool) -> rusqlite::Result<()> {
    match changes.find(hash)? {
        Some(known) if !known.damaged || !intact => Ok(()),
        Some(_) | None => changes.enter(hash, Entry { place, damaged: !intact }),
    }
}
