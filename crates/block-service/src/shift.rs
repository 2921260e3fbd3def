//! `changeset` of a [`Shift`]: blocks that are made here, of older ones that moved. Nothing of them travels.

use crate::budget::Budget;
use crate::http::{blocking, malformed};
use crate::limits;
use crate::receive::BodyReader;
use crate::service::{BlockService, Upload};
use crate::upload::broken;
use api::service::Identity;
use api::{ApiError, ChangesetHead, ChangesetReply, HashStart, Shift};
use block_store::Block;
use bytes::Bytes;
use model::BLOCK_SIZE;
use std::sync::Arc;

/// A shift of which some blocks are made.
struct Shifting {
    upload: Upload,
    blocks: Vec<Shifted>,
    /// How many have been dealt with.
    done: usize,
}

/// A block that is to be made.
struct Shifted {
    start: HashStart,
    len: u32,
    script: Bytes,
}

impl Shifting {
    /// How many of the next blocks are made and stored together: a group in memory.
    fn next_count(&self) -> usize {
        let mut bytes = 0;
        let fits = |block: &&Shifted| {
            bytes += u64::from(block.len);
            bytes <= limits::STORE_BYTES
        };
        self.blocks[self.done..].iter().take_while(fits).count()
    }
}

/// Makes the blocks of a shift and stores them. However it ends, what was stored is noted when this returns.
pub(crate) async fn receive(
    service: Arc<BlockService>,
    budget: &Budget,
    who: Identity,
    body: &mut BodyReader,
    shift: Shift,
) -> Result<ChangesetReply, ApiError> {
    body.end().await.map_err(|error| broken(&error))?;
    let beginning = service.clone();
    let mut shifting = blocking(&service, move || beginning.begin_shift(who, shift)).await?;
    loop {
        let count = shifting.next_count();
        if count == 0 {
            return blocking(&service.clone(), move || service.finish(&shifting.upload)).await;
        }
        // With what a block is made of, which may have two blocks beside those that were there for the one before.
        let group = &shifting.blocks[shifting.done..][..count];
        let bytes = group.iter().map(|block| u64::from(block.len)).sum::<u64>() + BLOCK_SIZE;
        let making = service.clone();
        let share = match budget.take(bytes).await {
            Ok(share) => share,
            Err(error) => {
                return blocking(&service, move || {
                    making.break_off(&shifting.upload);
                    Err(error)
                })
                .await;
            }
        };
        shifting = blocking(&service, move || {
            let made = making.make_shifted(&mut shifting, count);
            drop(share);
            if made.is_err() {
                making.break_off(&shifting.upload);
            }
            made.map(|()| shifting)
        })
        .await?;
    }
}

impl BlockService {
    fn begin_shift(&self, who: Identity, shift: Shift) -> Result<Shifting, ApiError> {
        let lens = shift.lens().map_err(|error| malformed(&error))?;
        let each: Vec<usize> = lens.iter().map(|len| *len as usize).collect();
        let room = usize::try_from(BLOCK_SIZE).unwrap_or(usize::MAX);
        let scripts = delta::split(&shift.script, &each, room).map_err(|error| malformed(&error))?;
        let blocks = shift.blocks.iter().zip(lens).zip(scripts);
        let blocks = blocks.map(|((start, len), script)| Shifted { start: *start, len, script: script.into() });
        let head = ChangesetHead { blocks: Vec::new(), bases: Some(shift.bases), commit: None };
        Ok(Shifting { blocks: blocks.collect(), upload: self.begin(who, head)?, done: 0 })
    }

    /// Makes the next blocks, and stores those that are what they were taken for.
    fn make_shifted(&self, shifting: &mut Shifting, count: usize) -> Result<(), ApiError> {
        let Shifting { upload, blocks, done } = shifting;
        let group = &blocks[*done..][..count];
        let mut made = Vec::with_capacity(count);
        for (number, block) in (*done..).zip(group) {
            match self.copy(upload, block.len, &block.script)? {
                Some(copied) => made.push((number, copied)),
                None => upload.leave_out(number),
            }
        }
        let (numbers, (bytes, sources)): (Vec<usize>, (Vec<Bytes>, Vec<_>)) = made.into_iter().unzip();
        let mut right = Vec::with_capacity(count);
        for ((number, block), source) in numbers.into_iter().zip(Block::each(bytes)).zip(sources) {
            match block {
                Ok(block) if blocks[number].start.is_of(&block.hash()) => {
                    self.keep_delta(block.hash(), source);
                    right.push(block);
                }
                Ok(_) | Err(_) => upload.leave_out(number),
            }
        }
        *done += count;
        self.store(upload, &right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::tests::{ANN, BOB, Meta, header, service};
    use api::service::MetaForBlocks;
    use api::{Bases, BlockHeader, ErrorCode, SentHead, codec};
    use axum::body::Body as HttpBody;
    use block_store::{BlockStore, MemoryBlockStore};
    use model::{BlockHash, NamespaceId, limits::SHIFT_BLOCKS};

    const BLOCK: usize = BLOCK_SIZE as usize;

    /// Ann's file, which Bob cannot read.
    fn of_ann(old: &[u8]) -> (Arc<BlockService>, Arc<MemoryBlockStore>, Arc<Meta>) {
        let (service, store, meta) = service();
        for block in old.chunks(BLOCK) {
            store.put(&[Block::new(Bytes::copy_from_slice(block)).expect("legal")]).expect("puts");
            meta.committed.lock().expect("not poisoned").insert((ANN.account, BlockHash::of(block)));
        }
        (service, store, meta)
    }

    fn shift(who: Identity, old: &[u8], new: &[u8], script: delta::Writer) -> Shift {
        let hashes = |bytes: &[u8]| bytes.chunks(BLOCK).map(BlockHash::of).collect::<Vec<_>>();
        Shift {
            bases: Bases { namespace: NamespaceId(who.account.0), blocks: hashes(old) },
            size: new.len() as u64,
            blocks: hashes(new).iter().map(HashStart::of).collect(),
            script: script.finish(),
        }
    }

    fn moved(front: &[u8], len: usize) -> delta::Writer {
        let mut script = delta::Writer::default();
        script.insert(front);
        script.copy(0, 0, len);
        script
    }

    async fn send(service: &Arc<BlockService>, who: Identity, shift: Shift) -> Result<ChangesetReply, ApiError> {
        let mut body = BodyReader::new(HttpBody::from(codec::encode_head(&SentHead::Shift(shift))));
        crate::upload::receive(service.clone(), crate::upload::UploadBudgets::default(), who, &mut body).await
    }

    fn noise(len: usize) -> Vec<u8> {
        (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 23) as u8).collect()
    }

    #[tokio::test]
    async fn blocks_that_moved_are_made_here_and_become_the_account_s() {
        let old = noise(3 * BLOCK + 100);
        let (service, store, meta) = of_ann(&old);
        let new = [b"new", old.as_slice()].concat();
        let reply = send(&service, ANN, shift(ANN, &old, &new, moved(b"new", old.len()))).await.expect("is made");
        assert_eq!(reply, ChangesetReply { outcome: None, unmade: Vec::new() });
        let hashes: Vec<BlockHash> = new.chunks(BLOCK).map(BlockHash::of).collect();
        for (hash, block) in hashes.iter().zip(new.chunks(BLOCK)) {
            assert_eq!(store.get(hash).expect("reads").as_deref(), Some(block));
        }
        assert_eq!(meta.missing(ANN, &hashes).expect("answers"), [false; 4]);
        assert!(hashes.iter().all(|hash| meta.renewed.lock().expect("not poisoned").contains(hash)));
        // And they are handed on as what they came as.
        let delta = service.small_delta(&hashes[1]).expect("is kept");
        assert_eq!(delta, [BlockHash::of(&old[..BLOCK]), BlockHash::of(&old[BLOCK..2 * BLOCK])]);
    }

    #[tokio::test]
    async fn a_block_that_is_not_what_it_was_taken_for_is_told_and_not_stored() {
        let old = noise(3 * BLOCK);
        let (service, store, meta) = of_ann(&old);
        let mut new = [b"new", old.as_slice()].concat();
        new[2 * BLOCK - 5] ^= 1;
        let reply = send(&service, ANN, shift(ANN, &old, &new, moved(b"new", old.len()))).await.expect("is answered");
        assert_eq!(reply, ChangesetReply { outcome: None, unmade: vec![1] });
        let hashes: Vec<BlockHash> = new.chunks(BLOCK).map(BlockHash::of).collect();
        assert_eq!(meta.missing(ANN, &hashes).expect("answers"), [false, true, false, false]);
        assert_eq!(store.list(None, 10).expect("lists").len(), 3 + 3);
    }

    #[tokio::test]
    async fn anothers_blocks_do_not_move() {
        let old = noise(BLOCK);
        let (service, store, _) = of_ann(&old);
        let new = [b"new", &old[..100]].concat();
        let as_bob = shift(BOB, &old, &new, moved(b"new", 100));
        assert_eq!(send(&service, BOB, as_bob).await.expect("is answered").unmade, [0]);
        let of_ann = Shift {
            bases: Bases { namespace: NamespaceId(ANN.account.0), blocks: Vec::new() },
            ..shift(BOB, &old, &new, moved(b"new", 100))
        };
        assert_eq!(send(&service, BOB, of_ann).await.expect_err("is no member").code, ErrorCode::Forbidden);
        assert_eq!(store.list(None, 10).expect("lists").len(), 1);
    }

    #[tokio::test]
    async fn a_shift_that_promises_too_much_or_makes_no_sense_is_refused() {
        let (service, store, meta) = of_ann(b"old");
        let legal = shift(ANN, b"old", b"newold", moved(b"new", 3));
        let wrong = [
            Shift { size: u64::MAX, ..legal.clone() },
            Shift { size: 7, ..legal.clone() },
            Shift { script: b"no script".to_vec(), ..legal.clone() },
            Shift { blocks: vec![HashStart([0; 4]); SHIFT_BLOCKS + 1], ..legal.clone() },
        ];
        for shift in wrong {
            assert_eq!(send(&service, ANN, shift).await.expect_err("is refused").code, ErrorCode::BadRequest);
        }
        let mut bytes = codec::encode_head(&SentHead::Shift(legal));
        bytes.push(0);
        let mut body = BodyReader::new(HttpBody::from(bytes));
        let more = crate::upload::receive(service.clone(), crate::upload::UploadBudgets::default(), ANN, &mut body);
        assert_eq!(more.await.expect_err("is refused").code, ErrorCode::BadRequest);
        assert_eq!(
            (store.list(None, 10).expect("lists").len(), meta.noted.lock().expect("not poisoned").len()),
            (1, 0)
        );
    }

    #[tokio::test]
    async fn a_base_that_ends_before_the_copy_does_makes_nothing() {
        let (service, _, _) = of_ann(b"old");
        let reply = send(&service, ANN, shift(ANN, b"old", b"newold!", moved(b"new", 4))).await.expect("is answered");
        assert_eq!(reply.unmade, [0]);
    }

    #[test]
    fn only_a_group_of_blocks_is_in_memory() {
        let (service, _, _) = service();
        let old = vec![7; 5 * BLOCK];
        let shift = shift(ANN, &old[..BLOCK], &old, {
            let mut script = delta::Writer::default();
            (0..5).for_each(|_| script.copy(0, 0, BLOCK));
            script
        });
        let mut shifting = service.begin_shift(ANN, shift).expect("begins");
        let mut groups = Vec::new();
        while shifting.next_count() > 0 {
            groups.push(shifting.next_count());
            shifting.done += shifting.next_count();
        }
        assert_eq!(groups, [2, 2, 1]);
        let BlockHeader { len, .. } = header(&old[..BLOCK]);
        assert_eq!(u64::from(len) * 2, limits::STORE_BYTES);
    }
}
