//! The pack format, and reading packs.
//!
//! A pack is a header and then records. Integers are little-endian.
//!
//! ```text
//! header   8 "SYNCPACK"   4 format (1)   4 number of the pack
//! record   4 "SLBK" | "SLRM"   4 length of the data   32 block hash   4 CRC-32C   data
//! ```
//!
//! The checksum covers the record's other header fields, its pack and its offset, so that a copy of a
//! record, lying elsewhere (perhaps inside a file that a user uploaded), is none. The data of a block is
//! checked by its hash. A removal's data is the place of the block that it removes.

use super::index::Place;
use super::layout::Layout;
use crate::StoreError;
use bytes::Bytes;
use model::{BLOCK_SIZE, BlockHash};
use rustix::io::Errno;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes before a pack's first record.
pub(super) const PACK_HEADER: u64 = 16;
/// Bytes before a record's data.
pub(super) const RECORD_HEADER: usize = 44;
/// Packs that readers keep open; an open file is dear where a process may have 20,000.
const OPEN_PACKS: usize = 256;
/// Bytes read at once in search of the next readable record.
const SEARCH_BYTES: usize = 1024 * 1024;
/// Bytes read at once where the disk cannot read all.
const SECTOR_BYTES: usize = 4096;

const PACK_MAGIC: &[u8; 8] = b"SYNCPACK";
const PACK_FORMAT: u32 = 1;
const BLOCK_MAGIC: &[u8; 4] = b"SLBK";
const REMOVAL_MAGIC: &[u8; 4] = b"SLRM";
/// A removal's data: pack, offset, and a checksum of both.
const REMOVAL_DATA: usize = 16;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block,
    Removal,
}

impl Kind {
    const fn magic(self) -> &'static [u8; 4] {
        match self {
            Self::Block => BLOCK_MAGIC,
            Self::Removal => REMOVAL_MAGIC,
        }
    }
}

/// The header of pack `number`.
pub(super) fn pack_header(number: u32) -> Vec<u8> {
    [PACK_MAGIC.as_slice(), &PACK_FORMAT.to_le_bytes(), &number.to_le_bytes()].concat()
}

/// The header of the record at `offset` of a pack, for a block of `len` bytes.
pub(super) fn block_header(pack: u32, offset: u64, hash: &BlockHash, len: u32) -> [u8; RECORD_HEADER] {
    record_header(Kind::Block, pack, offset, hash, len)
}

/// The record at `offset` of a pack that says that the block at `place` is gone.
pub(super) fn removal_record(pack: u32, offset: u64, hash: &BlockHash, place: Place) -> Vec<u8> {
    let mut record = record_header(Kind::Removal, pack, offset, hash, REMOVAL_DATA as u32).to_vec();
    let data = [place.pack.to_le_bytes().as_slice(), &place.offset.to_le_bytes()].concat();
    record.extend_from_slice(&data);
    record.extend_from_slice(&crc_fast::crc32_iscsi(&data).to_le_bytes());
    record
}

fn record_header(kind: Kind, pack: u32, offset: u64, hash: &BlockHash, len: u32) -> [u8; RECORD_HEADER] {
    let mut header = [0; RECORD_HEADER];
    header[..4].copy_from_slice(kind.magic());
    header[4..8].copy_from_slice(&len.to_le_bytes());
    header[8..40].copy_from_slice(hash.as_bytes());
    let sum = header_checksum(&header, pack, offset);
    header[40..].copy_from_slice(&sum.to_le_bytes());
    header
}

fn header_checksum(header: &[u8; RECORD_HEADER], pack: u32, offset: u64) -> u32 {
    let covered = [&header[..40], &pack.to_le_bytes(), &offset.to_le_bytes()].concat();
    crc_fast::crc32_iscsi(&covered)
}

/// One record, as found in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A block; not `intact` when its data is not what its hash says.
    Block {
        hash: BlockHash,
        place: Place,
        intact: bool,
    },
    Removal {
        hash: BlockHash,
        place: Place,
    },
}

/// An open pack that is read from its front.
pub(super) struct PackScan<'a> {
    file: &'a File,
    path: &'a Path,
    pack: u32,
    len: u64,
    at: u64,
    /// Whether every byte before `at` belongs to a record that was read.
    gapless: bool,
    /// Whether the disk could not read some of it.
    unreadable: Cell<bool>,
}

impl<'a> PackScan<'a> {
    /// Begins at `from`, which must be the header's end or a record's.
    pub(super) fn begin(file: &'a File, path: &'a Path, pack: u32, from: u64) -> Result<Self, StoreError> {
        let len = file.metadata().map_err(StoreError::io("read", path))?.len();
        Ok(Self { file, path, pack, len, at: from.max(PACK_HEADER), gapless: true, unreadable: Cell::new(false) })
    }

    /// Whether the pack begins with its header.
    ///
    /// # Errors
    /// A format that this program does not know. A disk that cannot even read this is more likely to be ill as a whole
    /// than to have a bad sector, and what it does not show must not count as lost.
    pub(super) fn has_header(&self) -> Result<bool, StoreError> {
        let mut header = [0; PACK_HEADER as usize];
        if self.len < PACK_HEADER {
            return Ok(false);
        }
        self.file.read_exact_at(&mut header, 0).map_err(StoreError::io("read", self.path))?;
        let found = u32_at(&header, 8);
        if header.starts_with(PACK_MAGIC) && found > PACK_FORMAT {
            return Err(StoreError::UnknownFormat { path: self.path.to_owned(), found });
        }
        Ok(header == pack_header(self.pack).as_slice())
    }

    /// The next record and where it ends. Unreadable bytes are passed over when a whole block follows
    /// somewhere behind them; removals behind such a gap are not believed, since a forged one inside
    /// a user's file could otherwise destroy a block.
    pub(super) fn next(&mut self) -> Result<Option<(Found, u64)>, StoreError> {
        loop {
            let (found, end) = match self.record_at(self.at)? {
                Some(record) => record,
                None => match self.search(self.at + 1)? {
                    Some(record) => {
                        tracing::error!(pack = %self.path.display(), offset = self.at, "unreadable bytes in a pack");
                        self.gapless = false;
                        record
                    }
                    None => return self.check_end().map(|()| None),
                },
            };
            self.at = end;
            if self.gapless || matches!(found, Found::Block { .. }) {
                return Ok(Some((found, end)));
            }
        }
    }

    /// A disk that cannot read the end of a pack either has more than a bad sector: what it does not show must not count
    /// as lost.
    fn check_end(&self) -> Result<(), StoreError> {
        let mut last = [0];
        if !self.unreadable.get() || self.at >= self.len {
            return Ok(());
        }
        self.file.read_exact_at(&mut last, self.len - 1).map_err(StoreError::io("read", self.path))
    }

    fn record_at(&self, at: u64) -> Result<Option<(Found, u64)>, StoreError> {
        let data_at = at + RECORD_HEADER as u64;
        if data_at > self.len {
            return Ok(None);
        }
        let mut header = [0; RECORD_HEADER];
        self.read(&mut header, at)?;
        if u32_at(&header, 40) != header_checksum(&header, self.pack, at) {
            return Ok(None);
        }
        let len = u32_at(&header, 4);
        let end = data_at + u64::from(len);
        let Ok(hash) = BlockHash::try_from(&header[8..40]) else { return Ok(None) };
        if end > self.len || u64::from(len) > BLOCK_SIZE {
            return Ok(None);
        }
        let mut data = vec![0; len as usize];
        self.read(&mut data, data_at)?;
        Ok(if header.starts_with(BLOCK_MAGIC) {
            let place = Place { pack: self.pack, offset: data_at, len };
            Some((Found::Block { hash, place, intact: BlockHash::of(&data) == hash }, end))
        } else if header.starts_with(REMOVAL_MAGIC) {
            parse_removal(&data).map(|place| (Found::Removal { hash, place }, end))
        } else {
            None
        })
    }

    /// The first whole block at or behind `from`.
    fn search(&self, from: u64) -> Result<Option<(Found, u64)>, StoreError> {
        let mut at = from;
        while at + (RECORD_HEADER as u64) < self.len {
            let window = usize::try_from(self.len - at).unwrap_or(usize::MAX).min(SEARCH_BYTES);
            let mut bytes = vec![0; window];
            self.read(&mut bytes, at)?;
            for (i, four) in bytes.windows(4).enumerate() {
                if four != BLOCK_MAGIC {
                    continue;
                }
                if let Some(record @ (Found::Block { intact: true, .. }, _)) = self.record_at(at + i as u64)? {
                    return Ok(Some(record));
                }
            }
            // The next window begins with this one's last bytes, in case the magic lies across.
            at += (window - 3) as u64;
        }
        Ok(None)
    }

    /// Whether the disk could not read some of what was scanned.
    pub(super) const fn met_unreadable(&self) -> bool {
        self.unreadable.get()
    }

    /// Reads so many bytes. Those that the disk cannot read are zeros: in a block's data they show in its hash, in a
    /// header in its checksum.
    fn read(&self, bytes: &mut [u8], at: u64) -> Result<(), StoreError> {
        match self.file.read_exact_at(bytes, at) {
            Err(error) if is_unreadable(&error) => {}
            read => return read.map_err(StoreError::io("read", self.path)),
        }
        for (i, sector) in bytes.chunks_mut(SECTOR_BYTES).enumerate() {
            let at = at + (i * SECTOR_BYTES) as u64;
            match self.file.read_exact_at(sector, at) {
                Err(error) if is_unreadable(&error) => {
                    if !self.unreadable.replace(true) {
                        tracing::error!(pack = %self.path.display(), offset = at, "the disk cannot read a part of a pack");
                    }
                    sector.fill(0);
                }
                read => read.map_err(StoreError::io("read", self.path))?,
            }
        }
        Ok(())
    }
}

/// Whether the disk cannot read its own sectors, as nobody's mistake.
fn is_unreadable(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::IO)
}

fn parse_removal(data: &[u8]) -> Option<Place> {
    let data: &[u8; REMOVAL_DATA] = data.try_into().ok()?;
    let (pack, sum) = (u32_at(data, 0), u32_at(data, 12));
    let offset = u64::from(u32_at(data, 4)) | u64::from(u32_at(data, 8)) << 32;
    (sum == crc_fast::crc32_iscsi(&data[..12])).then_some(Place { pack, offset, len: 0 })
}

/// The little-endian number at `at`, which the caller knows to be inside.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// Packs opened for reading blocks.
#[derive(Debug)]
pub(super) struct PackReaders {
    layout: Layout,
    open: Mutex<BTreeMap<u32, Arc<File>>>,
}

impl PackReaders {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, open: Mutex::default() }
    }

    /// The bytes at a place; `None` when the pack ends before them or is gone, or the disk cannot read them.
    pub(super) fn read(&self, place: Place) -> Result<Option<Bytes>, StoreError> {
        let path = self.layout.pack(place.pack);
        let Some(file) = self.file(place.pack, &path)? else { return Ok(None) };
        let mut bytes = vec![0; place.len as usize];
        match file.read_exact_at(&mut bytes, place.offset) {
            Ok(()) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) if is_unreadable(&error) => {
                tracing::error!(pack = %path.display(), offset = place.offset, "the disk cannot read a block");
                Ok(None)
            }
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// Closes a pack that is gone, so that the disk gets its space.
    pub(super) fn forget(&self, pack: u32) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&pack);
    }

    fn file(&self, pack: u32, path: &PathBuf) -> Result<Option<Arc<File>>, StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&pack) {
            return Ok(Some(file.clone()));
        }
        let file = match File::open(path) {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("open", path)(error)),
        };
        if open.len() >= OPEN_PACKS {
            open.pop_first();
        }
        open.insert(pack, file.clone());
        Ok(Some(file))
    }
}
