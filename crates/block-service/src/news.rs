//! `news`: what changed, and with it those contents that cost less to send along than to be asked for.

use crate::limits;
use crate::service::{Base, BlockService};
use api::service::Identity;
use api::{
    ApiError, BlockHeader, ChangesReply, ChangesRequest, HashStart, NewsBundle, NewsBundleRequest, NewsReply,
    SmallContent,
};
use bytes::Bytes;
use delta::Script;
use model::block::block_len;
use model::limits::{BASES_PER_REQUEST, NAMELESS_BLOCK};
use model::{BLOCK_SIZE, BlockHash, Blocklist, Body, Change, JournalEntry, NamespaceId};
use parcels::Form;
use std::collections::BTreeSet;

/// Blocks of one file, one behind the other, that may go along, and the bases of the deltas that they came as, of
/// each once.
struct Candidate {
    namespace: NamespaceId,
    entry: u32,
    first: u32,
    blocks: Vec<BlockHeader>,
    /// None for a small block that came otherwise.
    bases: Vec<BlockHash>,
}

impl Candidate {
    fn of(namespace: NamespaceId, entry: u32, number: u32, block: BlockHeader, bases: Vec<BlockHash>) -> Self {
        Self { namespace, entry, first: number, blocks: vec![block], bases }
    }

    /// Takes in the next block of the file, if it too came as a delta.
    fn goes_on_with(&mut self, entry: u32, number: u32, block: BlockHeader, bases: &[BlockHash]) -> bool {
        let follows = self.entry == entry && self.first as usize + self.blocks.len() == number as usize;
        let more: Vec<BlockHash> = bases.iter().filter(|base| !self.bases.contains(base)).copied().collect();
        let fits = self.blocks.len() < limits::ALONG_RUN && self.bases.len() + more.len() <= BASES_PER_REQUEST;
        if !follows || !fits || bases.is_empty() || self.bases.is_empty() {
            return false;
        }
        self.blocks.push(block);
        self.bases.extend(more);
        true
    }
}

impl BlockService {
    /// What changed behind the caller's cursor. With few changes their small contents come along: that the
    /// reply names a block is what allows the caller to read it.
    ///
    /// # Errors
    /// Those of [`api::service::MetaForBlocks::changes`].
    pub fn news(&self, who: Identity, request: &ChangesRequest) -> Result<NewsReply, ApiError> {
        let changes = self.meta.changes(who, request)?;
        let contents = self.contents_along(who, &changes);
        Ok(NewsReply { changes, contents })
    }

    /// The same, in which the contents of new files that came a moment ago stand in the place of their names: and the blocks
    /// that follow.
    ///
    /// # Errors
    /// As those of [`Self::news`].
    pub fn news_bundle(
        &self,
        who: Identity,
        request: &NewsBundleRequest,
    ) -> Result<(NewsBundle, Vec<BlockHeader>), ApiError> {
        let mut changes = self.meta.changes(who, &request.changes)?;
        let mut room = u64::from(request.room).min(limits::NEWS_BYTES);
        let lacks = |entry: &JournalEntry| match &entry.change {
            Change::Create { body: Body::File { blocks, size, .. }, .. } if entry.device != Some(who.device) => {
                let fresh = blocks.0.first().is_some_and(|block| self.fresh.is_of(block, entry.node));
                (blocks.0.len() == 1 && *size <= u64::from(NAMELESS_BLOCK) && fresh).then_some(*size)
            }
            _ => None,
        };
        end_where_it_fits(&mut changes, room, lacks);
        let (mut news, blocks) = NewsBundle::of(changes, |entry, _| {
            let left = lacks(entry).and_then(|size| room.checked_sub(size));
            room = left.unwrap_or(room);
            left.is_some()
        });
        news.contents = self.contents_along(who, news.changes());
        Ok((news, blocks))
    }

    fn contents_along(&self, who: Identity, changes: &ChangesReply) -> Vec<SmallContent> {
        let (mut contents, mut bytes) = (Vec::new(), 0);
        for candidate in self.candidates(who, changes) {
            let Some(content) = self.content(who, &candidate) else { continue };
            bytes += content.bytes.len() + size_of_val(content.bases.as_slice());
            if bytes > limits::ALONG_BYTES {
                break;
            }
            contents.push(content);
        }
        contents
    }

    /// What others have changed. Who has been away for long asks for the contents together, later.
    fn candidates(&self, who: Identity, changes: &ChangesReply) -> Vec<Candidate> {
        if changes.namespaces.iter().map(|page| page.entries.len()).sum::<usize>() > limits::ALONG_ENTRIES {
            return Vec::new();
        }
        let (mut candidates, mut seen, mut looked_at) = (Vec::<Candidate>::new(), BTreeSet::new(), 0);
        let entries =
            changes.namespaces.iter().flat_map(|page| page.entries.iter().map(|entry| (page.namespace, entry)));
        for (entry, (namespace, change)) in (0..).zip(entries) {
            let Some((blocks, size)) = file(&change.change).filter(|_| change.device != Some(who.device)) else {
                continue;
            };
            looked_at += blocks.0.len();
            if looked_at > limits::ALONG_LOOKED_AT {
                return candidates;
            }
            for (number, hash) in (0..).zip(&blocks.0) {
                let block =
                    BlockHeader { hash: *hash, len: u32::try_from(block_len(size, number.into())).unwrap_or(0) };
                let bases = self.small_delta(hash);
                let small = blocks.0.len() == 1 && block.len <= limits::ALONG_BLOCK;
                if (bases.is_none() && !small) || !seen.insert(*hash) {
                    continue;
                }
                let bases = bases.unwrap_or_default();
                let last = candidates.last_mut();
                if !last.is_some_and(|last| last.goes_on_with(entry, number, block, &bases)) {
                    candidates.push(Candidate::of(namespace, entry, number, block, bases));
                }
            }
        }
        candidates
    }

    /// A failure is not told here: who then asks for the block hears of it.
    fn content(&self, who: Identity, candidate: &Candidate) -> Option<SmallContent> {
        let readable = if candidate.bases.is_empty() {
            Vec::new()
        } else {
            self.meta.readable(who, candidate.namespace, &candidate.bases).ok()?
        };
        let bases = candidate.bases.iter().zip(readable).map(|(hash, readable)| Base { hash: *hash, readable });
        let bases: Vec<Base> = bases.collect();
        let (form, bytes) = match self.joined_delta(&candidate.blocks, &bases) {
            Some(script) => (Form::Delta, script),
            None => self.plain_content(&candidate.blocks)?,
        };
        let named = bases.iter().filter(|_| form == Form::Delta).map(|base| HashStart::of(&base.hash));
        Some(SmallContent {
            entry: candidate.entry,
            first: candidate.first,
            count: u32::try_from(candidate.blocks.len()).ok()?,
            form: form.code(),
            bases: named.collect(),
            bytes,
        })
    }

    /// All blocks as one delta, if each came as one and the caller may read all bases.
    fn joined_delta(&self, blocks: &[BlockHeader], bases: &[Base]) -> Option<Vec<u8>> {
        if bases.is_empty() || bases.iter().any(|base| !base.readable) {
            return None;
        }
        let deltas: Option<Vec<Bytes>> = blocks.iter().map(|block| self.sent_delta(block, bases)).collect();
        let deltas = deltas?;
        let scripts = deltas.iter().zip(blocks).map(|(script, block)| Script::parse(script, block.len as usize).ok());
        let joined = delta::join(&scripts.collect::<Option<Vec<_>>>()?, BLOCK_SIZE as usize).ok()?;
        (joined.len() <= limits::ALONG_BYTES).then_some(joined)
    }

    /// A small block by itself.
    fn plain_content(&self, blocks: &[BlockHeader]) -> Option<(Form, Vec<u8>)> {
        let [block] = blocks else { return None };
        if block.len > limits::ALONG_BLOCK {
            return None;
        }
        let parcel = self.pack(&[*block], &[]).ok()?;
        (parcel.bytes.len() <= limits::ALONG_BLOCK as usize).then(|| (parcel.form, parcel.bytes.to_vec()))
    }
}

/// Leaves out what is behind the last commit whose contents fit; the next question brings it. A first commit that does
/// not fit stays, and the rest of its contents is fetched.
fn end_where_it_fits(changes: &mut ChangesReply, room: u64, bytes: impl Fn(&JournalEntry) -> Option<u64>) {
    let (mut total, mut is_first) = (0_u64, true);
    let mut pages = changes.namespaces.iter_mut();
    for page in pages.by_ref() {
        let mut fits = 0;
        // What one commit did has one time.
        for commit in page.entries.chunk_by(|one, next| (one.device, one.time) == (next.device, next.time)) {
            total = total.saturating_add(commit.iter().filter_map(&bytes).sum());
            if total > room && !is_first {
                page.entries.truncate(fits);
                pages.for_each(|page| page.entries.clear());
                return;
            }
            is_first = false;
            fits += commit.len();
        }
    }
}

/// The blocks and the size of a file's new content.
fn file(change: &Change) -> Option<(&Blocklist, u64)> {
    match change {
        Change::Create { body: Body::File { blocks, size, .. }, .. }
        | Change::Edit { body: Body::File { blocks, size, .. }, .. } => Some((blocks, *size)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::tests::{ANN, BOB, Meta, bytes, grown, head, header, service, upload};
    use api::NamespaceChanges;
    use model::{Epoch, InstanceId, Mtime, NodeId, Position, Role, Timestamp};

    /// An edit to a file of these blocks, by another device.
    fn edit(blocks: &[BlockHeader]) -> JournalEntry {
        let list = Blocklist(blocks.iter().map(|block| block.hash).collect());
        let size = blocks.iter().map(|block| u64::from(block.len)).sum();
        let body = Body::File { blocks: list, size, executable: false, mtime: Mtime(0) };
        JournalEntry {
            position: Position(1),
            node: NodeId([1; 16]),
            change: Change::Edit { body },
            device: Some(BOB.device),
            time: Timestamp(0),
        }
    }

    fn tell(meta: &Meta, entries: Vec<JournalEntry>) {
        let namespace = NamespaceId(ANN.account.0);
        let page = NamespaceChanges { namespace, role: Some(Role::Owner), entries, head: Position(1) };
        *meta.changes.lock().expect("not poisoned") = vec![page];
    }

    fn contents(service: &BlockService) -> Vec<SmallContent> {
        let request = ChangesRequest { instance: InstanceId([1; 16]), epoch: Epoch(1), cursor: [].into() };
        service.news(ANN, &request).expect("answers").contents
    }

    #[test]
    fn a_small_file_comes_along_with_the_entry_that_names_it() {
        let (service, _, meta) = service();
        service.changeset(ANN, head(ANN, &[b"small"]), bytes(&[b"small"])).expect("commits");
        tell(&meta, vec![edit(&[header(b"small")])]);
        let small = SmallContent {
            entry: 0,
            first: 0,
            count: 1,
            form: Form::Plain.code(),
            bases: vec![],
            bytes: b"small".to_vec(),
        };
        assert_eq!(contents(&service), [small]);
    }

    #[test]
    fn what_the_device_has_written_itself_stays_behind() {
        let (service, _, meta) = service();
        service.changeset(ANN, head(ANN, &[b"small"]), bytes(&[b"small"])).expect("commits");
        tell(&meta, vec![JournalEntry { device: Some(ANN.device), ..edit(&[header(b"small")]) }]);
        assert_eq!(contents(&service), []);
    }

    #[test]
    fn a_delta_comes_along_with_its_base_s_name_to_who_may_read_that() {
        let (service, _, meta) = service();
        let old = vec![7; 100_000];
        let block = [old.as_slice(), b" and new"].concat();
        service.changeset(ANN, head(ANN, &[&old]), vec![old.clone().into()]).expect("commits");
        upload(&service, ANN, grown(ANN, &old, b" and new", &block));
        tell(&meta, vec![edit(&[header(&block)])]);
        let along = contents(&service);
        assert_eq!(along.len(), 1);
        assert_eq!((along[0].form, &along[0].bases), (Form::Delta.code(), &vec![HashStart::of(&BlockHash::of(&old))]));
        assert!(along[0].bytes.len() < 100);
        meta.committed.lock().expect("not poisoned").clear();
        assert_eq!(contents(&service), [], "the base counts only for who may read it");
    }

    #[test]
    fn what_is_large_or_much_or_gone_is_left_to_be_fetched() {
        let (service, _, meta) = service();
        let large = vec![9; limits::ALONG_BLOCK as usize + 1];
        service
            .changeset(ANN, head(ANN, &[&large, b"small"]), vec![large.clone().into(), (&b"small"[..]).into()])
            .expect("commits");
        tell(&meta, vec![edit(&[header(&large)]), edit(&[header(b"gone")])]);
        assert_eq!(contents(&service), []);
        tell(&meta, vec![edit(&[header(b"small")]); limits::ALONG_ENTRIES]);
        assert_eq!(contents(&service).len(), 1, "each block once");
        tell(&meta, vec![edit(&[header(b"small")]); limits::ALONG_ENTRIES + 1]);
        assert_eq!(contents(&service), []);
    }

    /// A new file of this block, by another device at a time.
    fn create(n: u8, block: BlockHeader, time: i64) -> JournalEntry {
        let JournalEntry { change: Change::Edit { body }, .. } = edit(&[block]) else { panic!("an edit") };
        let name = model::Name::parse(&n.to_string()).expect("legal");
        let change = Change::Create { parent: NodeId([9; 16]), name, body };
        let (position, node) = (Position(n.into()), NodeId([n; 16]));
        JournalEntry { position, node, change, time: Timestamp(time), ..edit(&[]) }
    }

    /// The positions that are told of, and the blocks that follow.
    fn bundled(service: &BlockService, room: usize) -> (Vec<u64>, Vec<BlockHeader>) {
        let changes = ChangesRequest { instance: InstanceId([1; 16]), epoch: Epoch(1), cursor: [].into() };
        let room = u32::try_from(room).expect("fits");
        let (news, blocks) = service.news_bundle(ANN, &NewsBundleRequest { changes, room }).expect("answers");
        let entries = news.changes().namespaces.iter().flat_map(|page| &page.entries);
        (entries.map(|entry| entry.position.0).collect(), blocks)
    }

    #[test]
    fn the_content_of_a_new_file_follows_as_long_as_it_has_just_come_for_it() {
        let (service, _, meta) = service();
        service.changeset(ANN, head(ANN, &[b"one", b"two"]), bytes(&[b"one", b"two"])).expect("commits");
        let (one, two) = (header(b"one"), header(b"two"));
        let own = JournalEntry { device: Some(ANN.device), ..create(1, one, 1) };
        tell(
            &meta,
            vec![own, create(2, header(b"of long ago"), 1), create(3, one, 1), create(4, one, 1), create(5, two, 1)],
        );
        assert_eq!(bundled(&service, 100), (vec![1, 2, 3, 4, 5], vec![one, two]));
        tell(&meta, vec![create(4, one, 1), edit(&[two])]);
        assert_eq!(bundled(&service, 100).1, [], "a copy and an edit name what they have");
        tell(&meta, vec![create(3, one, 1)]);
        assert_eq!(bundled(&service, 100).1, [one], "another device that hears of the file lacks it too");
        assert_eq!(bundled(&service, 2).1, [], "there is no room for it");
    }

    #[test]
    fn news_end_behind_the_last_commit_whose_contents_there_is_room_for() {
        let (service, _, meta) = service();
        let three: [&[u8]; 3] = [b"one", b"two", b"six"];
        service.changeset(ANN, head(ANN, &three), bytes(&three)).expect("commits");
        let [one, two, six] = three.map(header);
        tell(&meta, vec![create(1, one, 1), create(2, two, 2), create(3, six, 2)]);
        assert_eq!(bundled(&service, 9), (vec![1, 2, 3], vec![one, two, six]));
        assert_eq!(bundled(&service, 8), (vec![1], vec![one]));
        assert_eq!(bundled(&service, 2), (vec![1], vec![]), "the first commit is told of in any case");
        tell(&meta, vec![create(2, two, 2), create(3, six, 2)]);
        assert_eq!(bundled(&service, 5), (vec![2, 3], vec![two]), "and what does not fit is named");
    }
}
