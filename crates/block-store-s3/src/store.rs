//! [`BlockStore`] in a bucket.

use crate::bucket::{Bucket, Created, Removal, Requests};
use crate::options::{Credentials, S3Options};
use crate::pack::{Division, Pack, Stretch, divide, stretches};
use crate::retry::Patience;
use crate::seen::{At, Seen, Where};
use api::ApiError;
use api::service::{InsteadOf, NewPlace, PackIndex};
use block_store::{Block, BlockStore, Compaction, StoreError};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use model::{BlockHash, InstanceId, PackId, PackedBlock};
use object_store::path::Path;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The first line of the object `instance`, but for its number.
const FORMAT_LINE: &str = "syncline block store ";
/// The format of a bucket without packs.
const WITHOUT_PACKS: u32 = 1;
/// The format of one that may have some: a program that knows none would not find what is in them.
const WITH_PACKS: u32 = 2;
/// The longest `instance` that is read; anything longer is somebody else's.
const INSTANCE_BYTES: usize = 256;
/// Requests of one call that are under way at the same time.
pub(crate) const CALL_REQUESTS: usize = 32;
/// Times that a block is read when its bytes are not those of its name: the damage may be the network's.
const READS: u32 = 3;

/// Blocks in a bucket.
pub struct S3BlockStore {
    pub(crate) bucket: Bucket,
    pub(crate) index: Arc<dyn PackIndex>,
    pub(crate) instance: InstanceId,
    /// Whether small blocks are put together. Those that are are found in any case.
    pub(crate) packs: bool,
    below: Arc<dyn Fn(u64) -> u64 + Send + Sync>,
    seen: Mutex<Seen>,
}

/// What reading a block found.
pub(crate) enum Found {
    Whole(Bytes),
    /// There is nothing where it was looked for.
    Absent,
    /// There are other bytes.
    Wrong,
}

impl S3BlockStore {
    /// Opens the store in a bucket that exists; an empty place in it is given to this server. `index` knows where
    /// small blocks lie. `below(n)` is a random number below `n`, which is not 0.
    ///
    /// # Errors
    /// [`StoreError::OtherInstance`] and the other refusals; [`StoreError::Remote`].
    pub fn open(
        options: &S3Options,
        credentials: Credentials,
        instance: InstanceId,
        index: Arc<dyn PackIndex>,
        below: impl Fn(u64) -> u64 + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Self::open_with(options, credentials, instance, index, Patience::default(), below)
    }

    pub(crate) fn open_with(
        options: &S3Options,
        credentials: Credentials,
        instance: InstanceId,
        index: Arc<dyn PackIndex>,
        patience: Patience,
        below: impl Fn(u64) -> u64 + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let below: Arc<dyn Fn(u64) -> u64 + Send + Sync> = Arc::new(below);
        let bucket = Bucket::new(options, credentials, patience, below.clone())?;
        let packs = options.packs;
        bucket.wait(|requests| async move { claim(&requests, instance, packs).await })?;
        Ok(Self { bucket, index, instance, packs, below, seen: Mutex::default() })
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index's failure as the store's.
    pub(crate) fn index_failed(&self, error: ApiError) -> StoreError {
        self.bucket.requests.failed("ask the index of the packs in", Arc::new(error))
    }

    pub(crate) fn new_pack(&self, blocks: &[Block]) -> Pack {
        Pack::new(self.draw(), blocks)
    }

    /// Sixteen random bytes.
    pub(crate) fn draw(&self) -> [u8; 16] {
        let mut draw = [0; 16];
        draw.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&(self.below)(u64::MAX).to_le_bytes()));
        draw
    }

    /// Where blocks are to be looked for by what the index says now.
    pub(crate) fn ask_index(&self, hashes: &[BlockHash]) -> Result<BTreeMap<BlockHash, Where>, StoreError> {
        if hashes.is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = self.index.find_packed(hashes).map_err(|error| self.index_failed(error))?;
        let place = |found: Option<PackedBlock>| found.map_or(Where::Object, Where::Pack);
        Ok(hashes.iter().copied().zip(found.into_iter().map(place)).collect())
    }

    /// Reads blocks where they are thought to be.
    pub(crate) fn read_at(
        &self,
        places: &BTreeMap<BlockHash, Where>,
    ) -> Result<BTreeMap<BlockHash, Found>, StoreError> {
        let (mut packed, mut alone) = (Vec::new(), Vec::new());
        for (hash, place) in places {
            match place {
                Where::Object => alone.push(*hash),
                Where::Pack(block) => packed.push(*block),
            }
        }
        let stretches = stretches(packed);
        self.bucket.wait(|requests| async move {
            let shared = requests.clone();
            let objects = stream::iter(alone).map(move |hash| {
                let requests = shared.clone();
                async move { Ok::<_, StoreError>(vec![(hash, read_object(&requests, hash).await?)]) }
            });
            let mut found: BTreeMap<BlockHash, Found> =
                objects.buffer_unordered(CALL_REQUESTS).map_ok(stream_of).try_flatten().try_collect().await?;
            let read = |stretch| {
                let requests = requests.clone();
                async move { read_stretch(&requests, stretch).await }
            };
            let stretches = stream::iter(stretches).map(read).buffer_unordered(CALL_REQUESTS);
            found.extend(stretches.map_ok(stream_of).try_flatten().try_collect::<BTreeMap<_, _>>().await?);
            Ok(found)
        })
    }

    /// Reads a block that was not found where the index says that it is: its pack may have been written anew in this
    /// moment, its bytes may have been damaged on their way, or another copy may be whole. `wrong` says whether
    /// others were found.
    fn read_again(&self, hash: BlockHash, mut wrong: bool) -> Result<Option<Bytes>, StoreError> {
        let now = self.ask_index(&[hash])?.remove(&hash).unwrap_or(Where::Object);
        let packed = if now == Where::Object { 0 } else { READS };
        let places = std::iter::repeat_n(now, packed as usize).chain([Where::Object]);
        for place in places {
            match self.read_at(&BTreeMap::from([(hash, place)]))?.remove(&hash) {
                Some(Found::Whole(bytes)) => {
                    self.note_seen(hash, bytes.len(), place);
                    return Ok(Some(bytes));
                }
                Some(Found::Wrong) => wrong = true,
                Some(Found::Absent) | None => {}
            }
        }
        self.seen().forget(&hash);
        if wrong { Err(StoreError::Corrupt { hash }) } else { Ok(None) }
    }

    /// Remembers where a packed block is.
    pub(crate) fn note_place(&self, place: &Where) {
        if let Where::Pack(block) = place {
            self.seen().note_packed(block);
        }
    }

    /// Writes a pack; it is durable then.
    pub(crate) fn put_pack(&self, pack: &Pack) -> Result<(), StoreError> {
        let (path, bytes) = (pack_path(&self.bucket.requests, &pack.id), pack.bytes.clone());
        self.bucket.wait(|requests| async move { requests.put(&path, bytes).await })
    }

    fn note_seen(&self, hash: BlockHash, len: usize, place: Where) {
        match place {
            Where::Object => self.seen().note(hash, u32::try_from(len).unwrap_or(u32::MAX), At::Object),
            Where::Pack(block) => self.seen().note_packed(&block),
        }
    }

    /// Checks whose bucket this is by now.
    pub(crate) fn check_owner(&self) -> Result<(), StoreError> {
        let instance = self.instance;
        self.bucket.wait(|requests| async move { check_owner(&requests, instance).await.map(drop) })
    }
}

/// A removal was confirmed, and may happen once more.
#[derive(Debug, thiserror::Error)]
#[error("an earlier request to remove a block got no answer, and may still be carried out")]
struct Unsure;

impl BlockStore for S3BlockStore {
    /// Every block is sent, also one that is there: the answer then takes as long as for a new one, what was
    /// damaged is healed, and no server must be trusted to compare. Packs are durable before their blocks have
    /// places in them.
    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        let unique: BTreeMap<BlockHash, Block> = blocks.iter().map(|block| (block.hash(), block.clone())).collect();
        let unique: Vec<Block> = unique.into_values().collect();
        let division = if self.packs { divide(unique) } else { Division { alone: unique, ..Division::default() } };
        let packs: Vec<Pack> = division.together.iter().map(|blocks| self.new_pack(blocks)).collect();
        let mut objects: Vec<(Path, Bytes)> = Vec::new();
        let requests = &self.bucket.requests;
        objects.extend(division.alone.iter().map(|block| (path(requests, &block.hash()), block.bytes().clone())));
        objects.extend(packs.iter().map(|pack| (pack_path(requests, &pack.id), pack.bytes.clone())));
        self.bucket.wait(|requests| async move {
            let put = |(path, bytes)| {
                let requests = requests.clone();
                async move { requests.put(&path, bytes).await }
            };
            stream::iter(objects).map(put).buffer_unordered(CALL_REQUESTS).try_collect::<()>().await
        })?;
        for pack in &packs {
            self.note(pack.id, &pack.blocks, InsteadOf::Anything)?;
        }
        let mut seen = self.seen();
        division.alone.iter().for_each(|block| seen.note(block.hash(), block.len(), At::Object));
        packs.iter().flat_map(|pack| &pack.blocks).for_each(|block| seen.note_packed(block));
        Ok(())
    }

    fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, StoreError> {
        Ok(self.get_all(&[*hash])?.pop().flatten())
    }

    /// Small blocks of one pack that lie side by side come with one request.
    fn get_all(&self, hashes: &[BlockHash]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let mut places: BTreeMap<BlockHash, Where> = {
            let seen = self.seen();
            hashes.iter().filter_map(|hash| Some((*hash, seen.place(hash)?))).collect()
        };
        // What the index was asked about in this call, and not remembered from another.
        let mut fresh: BTreeSet<BlockHash> = hashes.iter().filter(|hash| !places.contains_key(hash)).copied().collect();
        places.extend(self.ask_index(&Vec::from_iter(fresh.iter().copied()))?);
        let (mut read, mut wrong) = (BTreeMap::new(), BTreeSet::new());
        for last in [false, true] {
            let mut left = Vec::new();
            for (hash, found) in self.read_at(&places)? {
                let place = places.get(&hash).copied().unwrap_or(Where::Object);
                match found {
                    Found::Whole(bytes) => {
                        self.note_seen(hash, bytes.len(), place);
                        read.insert(hash, Some(bytes));
                    }
                    // Once is not enough: between the index's answer and the look it may have been put into a pack.
                    Found::Absent if place == Where::Object && last => {
                        read.insert(hash, None);
                    }
                    Found::Wrong if place == Where::Object && fresh.contains(&hash) => {
                        return Err(StoreError::Corrupt { hash });
                    }
                    Found::Wrong => {
                        wrong.insert(hash);
                        left.push(hash);
                    }
                    Found::Absent => left.push(hash),
                }
            }
            if last {
                for hash in left {
                    read.insert(hash, self.read_again(hash, wrong.contains(&hash))?);
                }
            } else if left.is_empty() {
                break;
            } else {
                places = self.ask_index(&left)?;
                fresh.extend(left);
            }
        }
        Ok(hashes.iter().map(|hash| read.get(hash).cloned().flatten()).collect())
    }

    /// A block that has a place in a pack is taken to be there.
    fn lengths(&self, hashes: &[BlockHash]) -> Result<Vec<Option<u32>>, StoreError> {
        let mut lengths: BTreeMap<BlockHash, Option<u32>> = {
            let seen = self.seen();
            hashes.iter().map(|hash| (*hash, seen.length(hash))).collect()
        };
        let unknown: Vec<BlockHash> = lengths.iter().filter(|(_, len)| len.is_none()).map(|(hash, _)| *hash).collect();
        let mut alone = Vec::new();
        for (hash, place) in self.ask_index(&unknown)? {
            match place {
                Where::Object => alone.push(hash),
                Where::Pack(block) => {
                    self.seen().note_packed(&block);
                    lengths.insert(hash, Some(block.len));
                }
            }
        }
        if !alone.is_empty() {
            let found: Vec<(BlockHash, Option<u64>)> = self.bucket.wait(|requests| async move {
                let look = |hash| {
                    let requests = requests.clone();
                    async move { Ok((hash, requests.length(&path(&requests, &hash)).await?)) }
                };
                stream::iter(alone).map(look).buffer_unordered(CALL_REQUESTS).try_collect().await
            })?;
            let mut absent = Vec::new();
            for (hash, len) in found {
                // No block is this long; an object that is cannot be one.
                match len.and_then(|len| u32::try_from(len).ok()) {
                    Some(len) => {
                        self.seen().note(hash, len, At::Object);
                        lengths.insert(hash, Some(len));
                    }
                    None => absent.push(hash),
                }
            }
            // Between the index's answer and the look a block may have been put into a pack.
            for (hash, place) in self.ask_index(&absent)? {
                self.note_place(&place);
                lengths.insert(hash, if let Where::Pack(block) = place { Some(block.len) } else { None });
            }
        }
        Ok(hashes.iter().map(|hash| lengths.get(hash).copied().flatten()).collect())
    }

    /// Asks first whose bucket this is by now: what another server keeps here must not be removed. A block may be
    /// in a pack and in an object; both go.
    fn remove(&self, hashes: &[BlockHash]) -> Result<(), StoreError> {
        let unique: BTreeSet<BlockHash> = hashes.iter().copied().collect();
        if unique.is_empty() {
            return Ok(());
        }
        {
            let mut seen = self.seen();
            unique.iter().for_each(|hash| seen.forget(hash));
        }
        self.check_owner()?;
        let unique = Vec::from_iter(unique);
        let ended = self.index.forget_packed(&unique).map_err(|error| self.index_failed(error))?;
        let requests = &self.bucket.requests;
        let mut objects: Vec<Path> = unique.iter().map(|hash| path(requests, hash)).collect();
        objects.extend(ended.iter().map(|pack| pack_path(requests, pack)));
        match self.delete(objects)? {
            Removal::Done => Ok(()),
            // Whoever is told that they are gone lets them be stored again.
            Removal::MayHappenAgain => Err(requests.failed("be sure of a removal from", Arc::new(Unsure))),
        }
    }

    fn list(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, StoreError> {
        let packed = self.index.list_packed(after, page).map_err(|error| self.index_failed(error))?;
        let alone = self.list_objects(after, page)?;
        // Each of the two has its first ones, so the first of both are among them.
        let all: BTreeSet<BlockHash> = packed.into_iter().chain(alone).collect();
        Ok(all.into_iter().take(page).collect())
    }

    /// Removes packs of which nothing is left, writes together what is left in those that are mostly unused, and
    /// puts small blocks together that came alone or among few.
    fn compact(&self) -> Result<Compaction, StoreError> {
        let mut done = self.compact_packs()?;
        if self.packs {
            done.gathered += self.gather()?;
        }
        Ok(done)
    }

    fn reindex(&self) -> Result<u64, StoreError> {
        self.find_packs_again()
    }
}

impl S3BlockStore {
    /// Notes where blocks of a durable pack lie.
    pub(crate) fn note(&self, pack: PackId, blocks: &[PackedBlock], instead_of: InsteadOf) -> Result<(), StoreError> {
        let place =
            |block: &PackedBlock| NewPlace { block: block.hash, offset: block.offset, len: block.len, instead_of };
        let places: Vec<NewPlace> = blocks.iter().map(place).collect();
        self.index.note_packed(pack, &places).map_err(|error| self.index_failed(error))
    }

    pub(crate) fn delete(&self, objects: Vec<Path>) -> Result<Removal, StoreError> {
        self.bucket.wait(|requests| async move {
            let remove = |path| {
                let requests = requests.clone();
                async move { requests.delete(&path).await }
            };
            let removals: Vec<Removal> =
                stream::iter(objects).map(remove).buffer_unordered(CALL_REQUESTS).try_collect().await?;
            let unsure = removals.contains(&Removal::MayHappenAgain);
            Ok(if unsure { Removal::MayHappenAgain } else { Removal::Done })
        })
    }

    /// As [`BlockStore::list`], of those in objects of their own.
    fn list_objects(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, StoreError> {
        self.bucket.wait(|requests| async move {
            let folder = requests.path(&["blocks"]);
            let mut from = after.map_or_else(|| folder.clone(), |hash| path(&requests, &hash));
            let mut hashes = Vec::new();
            // Objects that are no blocks may lie between; each round passes a page of names.
            while hashes.len() < page {
                let wanted = page - hashes.len();
                let found = requests.list(&folder, &from, wanted).await?;
                hashes.extend(found.iter().filter_map(|found| block_at(&requests, &found.path)));
                match found.into_iter().next_back() {
                    Some(last) if last.path > from => from = last.path,
                    Some(_) | None => break,
                }
            }
            Ok(hashes)
        })
    }
}

fn stream_of<T>(items: Vec<T>) -> impl futures_util::Stream<Item = Result<T, StoreError>> {
    stream::iter(items.into_iter().map(Ok))
}

/// Blocks of one pack that lie side by side, each checked against its name.
async fn read_stretch(requests: &Requests, stretch: Stretch) -> Result<Vec<(BlockHash, Found)>, StoreError> {
    let Some(bytes) = requests.get_range(&pack_path(requests, &stretch.pack), stretch.range.clone()).await? else {
        return Ok(stretch.blocks.iter().map(|block| (block.hash, Found::Absent)).collect());
    };
    let found = |(block, bytes): (PackedBlock, Option<Bytes>)| {
        if bytes.is_none() {
            tracing::warn!(hash = %block.hash, pack = %block.pack, place = requests.place(), "a block came damaged");
        }
        (block.hash, bytes.map_or(Found::Wrong, Found::Whole))
    };
    Ok(stretch.cut(&bytes).into_iter().map(found).collect())
}

/// A block's bytes in an object of its own, checked against its name.
pub(crate) async fn read_object(requests: &Requests, hash: BlockHash) -> Result<Found, StoreError> {
    for _ in 0..READS {
        match requests.get(&path(requests, &hash)).await? {
            None => return Ok(Found::Absent),
            Some(bytes) if BlockHash::of(&bytes) == hash => return Ok(Found::Whole(bytes)),
            Some(bytes) => {
                tracing::warn!(%hash, bytes = bytes.len(), place = requests.place(), "a block came damaged");
            }
        }
    }
    Ok(Found::Wrong)
}

/// Where a block lies that has an object of its own.
pub(crate) fn path(requests: &Requests, hash: &BlockHash) -> Path {
    let name = hash.to_string();
    requests.path(&["blocks", &name[..2], &name])
}

/// Where a pack lies.
pub(crate) fn pack_path(requests: &Requests, pack: &PackId) -> Path {
    let name = pack.to_string();
    requests.path(&["packs", &name[..2], &name])
}

/// The block that an object is by its name; `None` for what somebody else put there.
pub(crate) fn block_at(requests: &Requests, object: &Path) -> Option<BlockHash> {
    let hash: BlockHash = object.filename()?.parse().ok()?;
    (path(requests, &hash) == *object).then_some(hash)
}

/// The pack that an object is by its name; `None` for what somebody else put there.
pub(crate) fn pack_at(requests: &Requests, object: &Path) -> Option<PackId> {
    let pack: PackId = object.filename()?.parse().ok()?;
    (pack_path(requests, &pack) == *object).then_some(pack)
}

/// Checks that the bucket belongs to this server; an empty place is given to it. From when packs are written on, it
/// says that it may have some.
async fn claim(requests: &Requests, instance: InstanceId, packs: bool) -> Result<(), StoreError> {
    let mark = requests.path(&["instance"]);
    let text = |format: u32| Bytes::from(format!("{FORMAT_LINE}{format}\n{instance}\n"));
    if requests.get(&mark).await?.is_none() {
        for folder in [requests.path(&["blocks"]), requests.path(&["packs"])] {
            if !requests.list(&folder, &folder, 1).await?.is_empty() {
                return Err(StoreError::UnknownInstance { path: requests.place().into() });
            }
        }
        let text = text(if packs { WITH_PACKS } else { WITHOUT_PACKS });
        if requests.create(&mark, text.clone()).await? == Created::Undecided && requests.get(&mark).await?.is_none() {
            // A server that does not know conditional writes, or is out of reach for now.
            requests.put(&mark, text).await?;
        }
    }
    if check_owner(requests, instance).await? == WITHOUT_PACKS && packs {
        requests.put(&mark, text(WITH_PACKS)).await?;
        check_owner(requests, instance).await?;
    }
    Ok(())
}

/// Checks that the bucket belongs to this server; its format. What says nothing may have come cut, and is read again.
async fn check_owner(requests: &Requests, expected: InstanceId) -> Result<u32, StoreError> {
    let mut read = read_owner(requests, expected).await;
    for _ in 1..READS {
        if !matches!(read, Err(StoreError::UnknownInstance { .. })) {
            break;
        }
        read = read_owner(requests, expected).await;
    }
    read
}

async fn read_owner(requests: &Requests, expected: InstanceId) -> Result<u32, StoreError> {
    let place = || requests.place().into();
    let unknown = || StoreError::UnknownInstance { path: place() };
    let bytes = requests.get(&requests.path(&["instance"])).await?.ok_or_else(unknown)?;
    let text = std::str::from_utf8(&bytes[..bytes.len().min(INSTANCE_BYTES)]).map_err(|_| unknown())?;
    let (format, rest) = text.split_once('\n').ok_or_else(unknown)?;
    let format = format.strip_prefix(FORMAT_LINE).and_then(|number| number.parse().ok()).ok_or_else(unknown)?;
    if !(WITHOUT_PACKS..=WITH_PACKS).contains(&format) {
        return Err(StoreError::UnknownFormat { path: place(), found: format });
    }
    let found: InstanceId = rest.trim().parse().map_err(|_| unknown())?;
    if found == expected { Ok(format) } else { Err(StoreError::OtherInstance { path: place(), found, expected }) }
}
