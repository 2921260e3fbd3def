//! Transfers that go on where an earlier one broke off.
//!
//! The server keeps what had arrived of a block as a block of its own, cut to a multiple of
//! [`limits::BEGINNING_BYTES`]. So a client that does not know how far it came names the block's beginnings, as in
//! any question for missing blocks, and sends what is behind the longest that is there as a delta over it. On the
//! way down the client has the beginning in its temporary file, and names it as a base.

use super::deltas::Deltas;
use super::{Transport, TransportError};
use api::{Bases, MissingReply, MissingRequest};
use bytes::Bytes;
use delta::Writer;
use model::block::beginnings;
use model::{BlockHash, NamespaceId, limits};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use sync_engine::io::{BlockSource, BlockTarget, FetchBlock, TempName};

/// Blocks of which a beginning may be at the server after uploads broke off, and that it is therefore asked
/// about: those of all uploads at a time, twice.
const ASKED_ABOUT: usize = 16;
/// Beginnings of downloads that are remembered: those of all downloads at a time, and some more.
const REMEMBERED: usize = 16;

/// The places in temporary files into which large blocks are being written piece by piece, before it is known that
/// they are right. Each belongs to the download that came last: one that the engine has given up, and that
/// still goes on, must not write over what another has checked.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<Turns>);

/// How often each place was taken over.
type Turns = BTreeMap<(TempName, u64), Arc<Mutex<u64>>>;

/// The right to write into a place, until another download takes it over.
#[derive(Debug)]
pub(super) struct Claim {
    place: (TempName, u64),
    /// How often the place was taken over.
    turn: Arc<Mutex<u64>>,
    own: u64,
}

impl Places {
    /// Takes over the places of a block. Waits for whoever writes there at this instant.
    pub(super) fn claim(&self, block: &FetchBlock) -> Vec<Claim> {
        let claim = |target: &BlockTarget| {
            let place = (target.temp.clone(), target.offset);
            let turn = Arc::clone(self.lock().entry(place.clone()).or_default());
            let mut taken = turn.lock().unwrap_or_else(PoisonError::into_inner);
            *taken += 1;
            let own = *taken;
            drop(taken);
            Claim { place, turn, own }
        };
        block.to.iter().map(claim).collect()
    }

    /// Nothing more is written by right of these claims.
    pub(super) fn release(&self, claims: Vec<Claim>) {
        for claim in claims {
            if claim.holds(|| ()).is_some() {
                self.lock().remove(&claim.place);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Does something, unless another download has taken the place over, and lets none do so meanwhile.
    pub(super) fn holds<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        (*turn == self.own).then(act)
    }
}

/// What is known of transfers that broke off.
#[derive(Debug)]
pub(super) struct Interrupted {
    /// Blocks that are still to be asked about. Nobody knows how an earlier run of this program ended.
    to_ask: AtomicUsize,
    /// By the block whose beginning it is.
    downloads: Mutex<BTreeMap<BlockHash, BlockSource>>,
}

impl Default for Interrupted {
    fn default() -> Self {
        Self { to_ask: AtomicUsize::new(ASKED_ABOUT), downloads: Mutex::default() }
    }
}

impl Interrupted {
    pub(super) fn upload_broke_off(&self) {
        self.to_ask.store(ASKED_ABOUT, Ordering::Relaxed);
    }

    /// A download ended when it had brought only the beginning of a block, which lies in a temporary file.
    pub(super) fn download_broke_off(&self, block: BlockHash, beginning: BlockSource) {
        let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        downloads.insert(block, beginning);
        if downloads.len() > REMEMBERED {
            downloads.pop_first();
        }
    }

    /// What is there of these blocks.
    pub(super) fn take_beginnings<'b>(&self, blocks: impl Iterator<Item = &'b BlockHash>) -> Vec<BlockSource> {
        let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        if downloads.is_empty() { Vec::new() } else { blocks.filter_map(|block| downloads.remove(block)).collect() }
    }

    /// Takes as many of `blocks` as are still to be asked about.
    fn take_to_ask(&self, blocks: &mut Vec<usize>) {
        let taken = self.to_ask.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (left > 0).then(|| left.saturating_sub(blocks.len()))
        });
        blocks.truncate(taken.unwrap_or(0));
    }
}

impl Transport {
    /// Makes deltas of blocks whose beginning the server has from an upload that broke off.
    pub(super) async fn go_on(
        &self,
        blocks: &[BlockSource],
        contents: &[Bytes],
        deltas: &mut Deltas,
    ) -> Result<(), TransportError> {
        let Some(root) = self.root.filter(|_| self.thrift().delta) else { return Ok(()) };
        let is_whole = |number: &usize| {
            contents[*number].len() > limits::BEGINNING_BYTES && !deltas.scripts.contains_key(&blocks[*number].hash)
        };
        let mut whole: Vec<usize> = (0..blocks.len().min(contents.len())).filter(is_whole).collect();
        if !whole.is_empty() {
            self.interrupted.take_to_ask(&mut whole);
        }
        if whole.is_empty() {
            return Ok(());
        }
        let bytes: Vec<Bytes> = whole.iter().map(|number| contents[*number].clone()).collect();
        let begin = move || bytes.iter().map(|bytes| beginnings(bytes)).collect::<Vec<_>>();
        let begun = self.way.blocking(begin).await?;
        let asked: Vec<BlockHash> = begun.iter().flatten().map(|(_, hash)| *hash).collect();
        let reply: MissingReply = self.call("missing", &MissingRequest { blocks: asked.clone() }).await?;
        let there = there(&asked, &reply);
        for (number, beginnings) in whole.into_iter().zip(begun) {
            let longest = beginnings.into_iter().rev().find(|(_, hash)| there.contains(hash));
            if let Some((len, hash)) = longest {
                deltas.go_on_behind(root, hash, len, blocks[number].hash, &contents[number]);
            }
        }
        Ok(())
    }
}

impl Deltas {
    /// Adds a delta that adds to a beginning what it lacks.
    fn go_on_behind(&mut self, root: NamespaceId, beginning: BlockHash, len: usize, block: BlockHash, bytes: &[u8]) {
        let bases = self.bases.get_or_insert_with(|| Bases { namespace: root, blocks: Vec::new() });
        if bases.blocks.len() >= limits::BASES_PER_REQUEST {
            return;
        }
        bases.blocks.push(beginning);
        let mut script = Writer::default();
        script.copy(bases.blocks.len() - 1, 0, len);
        script.insert(&bytes[len..]);
        self.scripts.insert(block, script.finish().into());
    }
}

fn there(asked: &[BlockHash], reply: &MissingReply) -> Vec<BlockHash> {
    let numbered = (0..).zip(asked);
    numbered.filter(|(number, _)| !reply.missing.contains(number)).map(|(_, hash)| *hash).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(offset: u64) -> FetchBlock {
        let to = vec![BlockTarget { temp: TempName("t".into()), offset }];
        FetchBlock { hash: BlockHash([1; 32]), len: 1, to }
    }

    #[test]
    fn who_was_overtaken_writes_no_more_also_when_the_other_has_ended() {
        let places = Places::default();
        let first = places.claim(&block(0)).remove(0);
        let elsewhere = places.claim(&block(4)).remove(0);
        assert_eq!(first.holds(|| 1), Some(1));
        let second = places.claim(&block(0));
        assert_eq!((first.holds(|| 1), second[0].holds(|| 2), elsewhere.holds(|| 3)), (None, Some(2), Some(3)));
        places.release(vec![first]);
        assert_eq!(places.lock().len(), 2, "who was overtaken releases nothing of the other's");
        let third = places.claim(&block(0));
        assert_eq!((second[0].holds(|| 2), third[0].holds(|| 3)), (None, Some(3)));
        places.release(third);
        let fourth = places.claim(&block(0));
        assert_eq!((second[0].holds(|| 2), fourth[0].holds(|| 4)), (None, Some(4)));
        places.release(fourth);
        places.release(vec![elsewhere]);
        assert!(places.lock().is_empty());
    }

    #[test]
    fn beginnings_are_asked_about_after_a_start_and_after_a_break_and_not_for_ever() {
        let interrupted = Interrupted::default();
        let asked = |count: usize| {
            let mut blocks: Vec<usize> = (0..count).collect();
            interrupted.take_to_ask(&mut blocks);
            blocks.len()
        };
        assert_eq!([asked(10), asked(10), asked(10)], [10, ASKED_ABOUT - 10, 0]);
        interrupted.upload_broke_off();
        assert_eq!(asked(2), 2);
    }
}
