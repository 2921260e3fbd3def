//! [`BlockStore`] in a bucket.

use crate::bucket::{Bucket, Created, Requests};
use crate::options::{Credentials, S3Options};
use crate::retry::Patience;
use block_store::{Block, BlockStore, StoreError};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use model::{BlockHash, InstanceId};
use object_store::path::Path;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// The first line of the object `instance`.
const FORMAT_LINE: &str = "syncline block store 1";
/// The longest `instance` that is read; anything longer is somebody else's.
const INSTANCE_BYTES: usize = 256;
/// Requests of one call that are under way at the same time.
const CALL_REQUESTS: usize = 32;
/// Times that a block is read when its bytes are not those of its name: the damage may be the network's.
const READS: u32 = 3;
/// Lengths that are remembered, twice over; about 10 MB.
const LENGTHS: usize = 65_536;

/// Blocks in a bucket.
pub struct S3BlockStore {
    bucket: Bucket,
    instance: InstanceId,
    lengths: Mutex<Lengths>,
}

impl S3BlockStore {
    /// Opens the store in a bucket that exists; an empty place in it is given to this server. `below(n)` is
    /// a random number below `n`, which is not 0.
    ///
    /// # Errors
    /// [`StoreError::OtherInstance`] and the other refusals; [`StoreError::Remote`].
    pub fn open(
        options: &S3Options,
        credentials: Credentials,
        instance: InstanceId,
        below: impl Fn(u64) -> u64 + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Self::open_with(options, credentials, instance, Patience::default(), below)
    }

    pub(crate) fn open_with(
        options: &S3Options,
        credentials: Credentials,
        instance: InstanceId,
        patience: Patience,
        below: impl Fn(u64) -> u64 + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let bucket = Bucket::new(options, credentials, patience, Arc::new(below))?;
        bucket.wait(|requests| async move { claim(&requests, instance).await })?;
        Ok(Self { bucket, instance, lengths: Mutex::default() })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Lengths> {
        self.lengths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockStore for S3BlockStore {
    /// Every block is sent, also one that is there: the answer then takes as long as for a new one, what was
    /// damaged is healed, and no server must be trusted to compare.
    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        let unique: BTreeMap<BlockHash, Bytes> =
            blocks.iter().map(|block| (block.hash(), block.bytes().clone())).collect();
        self.bucket.wait(|requests| async move {
            let put = |(hash, bytes)| {
                let requests = requests.clone();
                async move { requests.put(&path(&requests, &hash), bytes).await }
            };
            stream::iter(unique).map(put).buffer_unordered(CALL_REQUESTS).try_collect::<()>().await
        })?;
        let mut known = self.known();
        blocks.iter().for_each(|block| known.note(block.hash(), block.len()));
        Ok(())
    }

    fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, StoreError> {
        let hash = *hash;
        self.bucket.wait(|requests| async move { read(&requests, hash).await })
    }

    fn get_all(&self, hashes: &[BlockHash]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let hashes = hashes.to_vec();
        self.bucket.wait(|requests| async move {
            let read = |hash| {
                let requests = requests.clone();
                async move { read(&requests, hash).await }
            };
            stream::iter(hashes).map(read).buffered(CALL_REQUESTS).try_collect().await
        })
    }

    fn lengths(&self, hashes: &[BlockHash]) -> Result<Vec<Option<u32>>, StoreError> {
        let mut lengths: BTreeMap<BlockHash, Option<u32>> = {
            let known = self.known();
            hashes.iter().map(|hash| (*hash, known.of(hash))).collect()
        };
        let unknown: Vec<BlockHash> = lengths.iter().filter(|(_, len)| len.is_none()).map(|(hash, _)| *hash).collect();
        if !unknown.is_empty() {
            let found: Vec<(BlockHash, Option<u64>)> = self.bucket.wait(|requests| async move {
                let look = |hash| {
                    let requests = requests.clone();
                    async move { Ok((hash, requests.length(&path(&requests, &hash)).await?)) }
                };
                stream::iter(unknown).map(look).buffer_unordered(CALL_REQUESTS).try_collect().await
            })?;
            let mut known = self.known();
            for (hash, len) in found {
                // No block is this long; an object that is cannot be one.
                let len = len.and_then(|len| u32::try_from(len).ok());
                if let Some(len) = len {
                    known.note(hash, len);
                }
                lengths.insert(hash, len);
            }
        }
        Ok(hashes.iter().map(|hash| lengths.get(hash).copied().flatten()).collect())
    }

    /// Asks first whose bucket this is by now: what another server keeps here must not be removed.
    fn remove(&self, hashes: &[BlockHash]) -> Result<(), StoreError> {
        let unique: BTreeSet<BlockHash> = hashes.iter().copied().collect();
        if unique.is_empty() {
            return Ok(());
        }
        {
            let mut known = self.known();
            unique.iter().for_each(|hash| known.forget(hash));
        }
        let instance = self.instance;
        self.bucket.wait(|requests| async move {
            check_owner(&requests, instance).await?;
            let remove = |hash| {
                let requests = requests.clone();
                async move { requests.delete(&path(&requests, &hash)).await }
            };
            stream::iter(unique).map(remove).buffer_unordered(CALL_REQUESTS).try_collect::<()>().await
        })
    }

    fn list(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, StoreError> {
        self.bucket.wait(|requests| async move {
            let folder = requests.path(&["blocks"]);
            let mut from = after.map_or_else(|| folder.clone(), |hash| path(&requests, &hash));
            let mut hashes = Vec::new();
            // Objects that are no blocks may lie between; each round passes a page of names.
            while hashes.len() < page {
                let wanted = page - hashes.len();
                let found = requests.list(&folder, &from, wanted).await?;
                hashes.extend(found.iter().filter_map(|found| block_at(&requests, found)));
                match found.into_iter().next_back() {
                    Some(last) if last > from => from = last,
                    Some(_) | None => break,
                }
            }
            Ok(hashes)
        })
    }
}

/// A block's bytes, checked against its name.
async fn read(requests: &Requests, hash: BlockHash) -> Result<Option<Bytes>, StoreError> {
    for _ in 0..READS {
        match requests.get(&path(requests, &hash)).await? {
            None => return Ok(None),
            Some(bytes) if BlockHash::of(&bytes) == hash => return Ok(Some(bytes)),
            Some(bytes) => {
                tracing::warn!(%hash, bytes = bytes.len(), place = requests.place(), "a block came damaged");
            }
        }
    }
    Err(StoreError::Corrupt { hash })
}

/// Where a block lies.
fn path(requests: &Requests, hash: &BlockHash) -> Path {
    let name = hash.to_string();
    requests.path(&["blocks", &name[..2], &name])
}

/// The block that an object is by its name; `None` for what somebody else put there.
fn block_at(requests: &Requests, object: &Path) -> Option<BlockHash> {
    let hash: BlockHash = object.filename()?.parse().ok()?;
    (path(requests, &hash) == *object).then_some(hash)
}

/// Checks that the bucket belongs to this server; an empty place is given to it.
async fn claim(requests: &Requests, instance: InstanceId) -> Result<(), StoreError> {
    let mark = requests.path(&["instance"]);
    if requests.get(&mark).await?.is_none() {
        let folder = requests.path(&["blocks"]);
        if !requests.list(&folder, &folder, 1).await?.is_empty() {
            return Err(StoreError::UnknownInstance { path: requests.place().into() });
        }
        let text = Bytes::from(format!("{FORMAT_LINE}\n{instance}\n"));
        if requests.create(&mark, text.clone()).await? == Created::Undecided && requests.get(&mark).await?.is_none() {
            // A server that does not know conditional writes, or is out of reach for now.
            requests.put(&mark, text).await?;
        }
    }
    check_owner(requests, instance).await
}

async fn check_owner(requests: &Requests, expected: InstanceId) -> Result<(), StoreError> {
    let place = || requests.place().into();
    let unknown = || StoreError::UnknownInstance { path: place() };
    let bytes = requests.get(&requests.path(&["instance"])).await?.ok_or_else(unknown)?;
    let text = std::str::from_utf8(&bytes[..bytes.len().min(INSTANCE_BYTES)]).map_err(|_| unknown())?;
    let (format, rest) = text.split_once('\n').ok_or_else(unknown)?;
    if format != FORMAT_LINE {
        let number = format.rsplit(' ').next().and_then(|number| number.parse().ok());
        return Err(number.map_or_else(unknown, |found| StoreError::UnknownFormat { path: place(), found }));
    }
    let found: InstanceId = rest.trim().parse().map_err(|_| unknown())?;
    if found == expected { Ok(()) } else { Err(StoreError::OtherInstance { path: place(), found, expected }) }
}

/// Lengths of blocks that were seen in the bucket, so that a download need not ask for each again. They
/// cannot change; a block that another server's clean-up removed is one that nobody may ask for.
#[derive(Debug, Default)]
struct Lengths {
    young: BTreeMap<BlockHash, u32>,
    /// The former `young`; what is not used before it is replaced again is forgotten.
    old: BTreeMap<BlockHash, u32>,
}

impl Lengths {
    fn of(&self, hash: &BlockHash) -> Option<u32> {
        self.young.get(hash).or_else(|| self.old.get(hash)).copied()
    }

    fn note(&mut self, hash: BlockHash, len: u32) {
        if self.young.len() >= LENGTHS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, len);
    }

    fn forget(&mut self, hash: &BlockHash) {
        self.young.remove(hash);
        self.old.remove(hash);
    }
}
