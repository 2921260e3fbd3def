//! What is left in a pack, read to be written elsewhere and then removed here.
//!
//! Bytes that are not those of their block's name may have been damaged on the way and be whole where they lie, so one
//! look is not enough to give the old ones up. The block may have a whole copy in an object of its own; else it is read
//! again, by itself and with all the rest of the pack. What is the same wrong bytes every time is what lies there: it
//! moves as it is, so that it is known as damaged and not as missing, and whoever looks at it may find more. What is
//! another thing each time stays where it is, and its pack with it.

use crate::bucket::Requests;
use crate::pack::{Stretch, stretches};
use crate::store::{CALL_REQUESTS, Found, pack_path, read_object};
use block_store::StoreError;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use model::{BlockHash, PackId, PackedBlock};
use std::sync::Arc;

/// Times that damaged bytes are read by themselves.
const READS: usize = 2;

/// A block on its way out of a pack.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) from: PackId,
    pub(crate) hash: BlockHash,
    pub(crate) bytes: Bytes,
    /// Whether these are not the bytes of its name.
    pub(crate) damaged: bool,
}

/// Blocks of a pack with the bytes that are there; `None`: that of one of them could not be found out.
pub(crate) async fn read_all(
    requests: Arc<Requests>,
    pack: PackId,
    places: Vec<PackedBlock>,
) -> Result<Option<Vec<Leaving>>, StoreError> {
    let read = |stretch| {
        let requests = requests.clone();
        async move { read_stretch(&requests, stretch).await }
    };
    let read: Vec<_> = stream::iter(stretches(places)).map(read).buffered(CALL_REQUESTS).try_collect().await?;
    let (mut leaving, mut doubtful) = (Vec::new(), Vec::new());
    for (block, bytes) in read.into_iter().flatten() {
        match bytes {
            Some(bytes) => leaving.push(Leaving { from: pack, hash: block.hash, bytes, damaged: false }),
            None => doubtful.push(block),
        }
    }
    if doubtful.is_empty() {
        return Ok(Some(leaving));
    }
    let Some(whole) = requests.get(&pack_path(&requests, &pack)).await? else { return Ok(None) };
    let examine = |block| {
        let (requests, whole) = (requests.clone(), whole.clone());
        async move { examine(&requests, block, &whole).await }
    };
    let examined: Vec<_> = stream::iter(doubtful).map(examine).buffered(CALL_REQUESTS).try_collect().await?;
    let examined: Option<Vec<Leaving>> = examined.into_iter().collect();
    Ok(examined.map(|examined| leaving.into_iter().chain(examined).collect()))
}

/// The blocks of a stretch; `None` for bytes that are not those of their name.
async fn read_stretch(requests: &Requests, stretch: Stretch) -> Result<Vec<(PackedBlock, Option<Bytes>)>, StoreError> {
    let bytes = requests.get_range(&pack_path(requests, &stretch.pack), stretch.range.clone()).await?;
    Ok(stretch.cut(&bytes.unwrap_or_default()))
}

/// Finds out what there is of a block whose bytes came wrong. `whole` is its pack as another request brought it.
async fn examine(requests: &Requests, block: PackedBlock, whole: &Bytes) -> Result<Option<Leaving>, StoreError> {
    let leaving = |bytes, damaged| Leaving { from: block.pack, hash: block.hash, bytes, damaged };
    if let Found::Whole(bytes) = read_object(requests, block.hash).await? {
        return Ok(Some(leaving(bytes, false)));
    }
    let range = u64::from(block.offset)..u64::from(block.offset) + u64::from(block.len);
    let mut seen = vec![part_of(whole, &block)];
    for _ in 0..READS {
        let bytes = requests.get_range(&pack_path(requests, &block.pack), range.clone()).await?;
        seen.push(bytes.unwrap_or_default());
    }
    if let Some(bytes) = seen.iter().find(|bytes| BlockHash::of(bytes) == block.hash) {
        return Ok(Some(leaving(bytes.clone(), false)));
    }
    if seen.windows(2).any(|two| two[0] != two[1]) {
        tracing::warn!(hash = %block.hash, pack = %block.pack, "a block came damaged, in another way each time");
        return Ok(None);
    }
    // Of a pack that was cut there may be less than the block's length.
    let mut bytes = BytesMut::from(&seen[0][..]);
    bytes.resize(block.len as usize, 0);
    Ok(Some(leaving(bytes.freeze(), true)))
}

fn part_of(whole: &Bytes, block: &PackedBlock) -> Bytes {
    let begin = whole.len().min(block.offset as usize);
    let end = whole.len().min(block.offset as usize + block.len as usize);
    whole.slice(begin..end)
}
