//! `news`: what changed, and with it those contents that cost less to send along than to be asked for.

use crate::limits;
use crate::service::{Base, BlockService};
use api::service::Identity;
use api::{ApiError, BlockHeader, ChangesReply, ChangesRequest, NewsReply, SmallContent};
use model::block::block_len;
use model::{BlockHash, Blocklist, Body, Change, NamespaceId};
use parcels::Form;
use std::collections::BTreeSet;

/// A block that may go along, and the bases of the delta that it came as.
struct Candidate {
    namespace: NamespaceId,
    block: BlockHeader,
    bases: Vec<BlockHash>,
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

    fn contents_along(&self, who: Identity, changes: &ChangesReply) -> Vec<SmallContent> {
        let (mut contents, mut bytes) = (Vec::new(), 0);
        for candidate in self.candidates(who, changes) {
            let Some(content) = self.content(who, &candidate) else { continue };
            bytes += content.bytes.len();
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
        let (mut candidates, mut seen, mut looked_at) = (Vec::new(), BTreeSet::new(), 0);
        for page in &changes.namespaces {
            let theirs = page.entries.iter().filter(|entry| entry.device != Some(who.device));
            for (blocks, size) in theirs.filter_map(|entry| file(&entry.change)) {
                looked_at += blocks.0.len();
                if looked_at > limits::ALONG_LOOKED_AT {
                    return candidates;
                }
                for (number, hash) in (0..).zip(&blocks.0) {
                    let block = BlockHeader { hash: *hash, len: u32::try_from(block_len(size, number)).unwrap_or(0) };
                    let bases = self.small_delta(hash);
                    let small = blocks.0.len() == 1 && block.len <= limits::ALONG_BLOCK;
                    if (bases.is_some() || small) && seen.insert(*hash) {
                        let bases = bases.unwrap_or_default();
                        candidates.push(Candidate { namespace: page.namespace, block, bases });
                    }
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
        if candidate.block.len > limits::ALONG_BLOCK && bases.iter().any(|base| !base.readable) {
            return None;
        }
        let parcel = self.pack(&[candidate.block], &bases, &mut None).ok()?;
        let small = parcel.bytes.len() <= limits::ALONG_BLOCK as usize;
        let copies = parcel.form == Form::Delta;
        small.then(|| SmallContent {
            block: candidate.block,
            form: parcel.form.code(),
            bases: bases.into_iter().filter(|_| copies).map(|base| base.hash).collect(),
            bytes: parcel.bytes.to_vec(),
        })
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
    use model::{Epoch, InstanceId, JournalEntry, Mtime, NodeId, Position, Role, Timestamp};

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
        let small =
            SmallContent { block: header(b"small"), form: Form::Plain.code(), bases: vec![], bytes: b"small".to_vec() };
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
        assert_eq!((along[0].form, &along[0].bases), (Form::Delta.code(), &vec![BlockHash::of(&old)]));
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
}
