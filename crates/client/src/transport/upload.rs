//! Blocks on their way up, each in the smallest form that is worth its cost.

use super::blocks::BlockFiles;
use super::deltas::Deltas;
use super::link::{Flow, Link};
use super::stall::Progress;
use super::{Transport, TransportError, Way};
use api::{BlockHeader, ChangesetHead, ChangesetReply, ErrorCode, SentCommit, SentHead, codec};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use model::BlockHash;
use parcels::{Form, Frame, share_parcel};
use std::collections::BTreeSet;
use std::sync::Arc;
use sync_engine::io::{BlockSource, Former, Reply};
use tokio::time::Instant;

/// Bytes of an upload that the bandwidth limit handles as one.
const UPLOAD_PIECE: usize = 64 * 1024;
/// Bodies up to this many plain bytes are put together before they are sent, which spares the framing.
const SMALL_BODY: usize = 256 * 1024;
/// Parcels that are being compressed while one is sent.
const PACKING: usize = 2;

impl Transport {
    /// A commit without blocks. One of many small files is told as a bundle of which no block follows.
    pub(super) async fn commit(&self, commit: SentCommit) -> Result<Reply, TransportError> {
        let head = ChangesetHead { blocks: Vec::new(), bases: None, commit: Some(commit) };
        match self.sent_head(head) {
            SentHead::Named(ChangesetHead { commit: Some(commit), .. }) => {
                self.call("commit", &commit).await.map(Reply::Commit)
            }
            bundle => {
                let reply: ChangesetReply = self.call_with("changeset", codec::encode_head(&bundle).into()).await?;
                let no_outcome = || TransportError::NotSyncline("it says nothing of a commit".into());
                reply.outcome.map(Reply::Commit).ok_or_else(no_outcome)
            }
        }
    }

    fn sent_head(&self, head: ChangesetHead) -> SentHead {
        if self.thrift().bundles { SentHead::of(head) } else { SentHead::Named(head) }
    }

    /// `changeset`: blocks from local files, and the commit that names them.
    pub(super) async fn changeset(
        &self,
        blocks: Vec<BlockSource>,
        former: Vec<Former>,
        commit: Option<SentCommit>,
        files: Arc<dyn BlockFiles>,
    ) -> Result<Reply, TransportError> {
        let reply = self.upload(blocks, former, commit, files).await;
        if let Err(TransportError::Unreachable(_)) = &reply {
            self.interrupted.upload_broke_off();
        }
        reply
    }

    async fn upload(
        &self,
        blocks: Vec<BlockSource>,
        former: Vec<Former>,
        commit: Option<SentCommit>,
        files: Arc<dyn BlockFiles>,
    ) -> Result<Reply, TransportError> {
        let (sources, reader) = (blocks.clone(), Arc::clone(&files));
        let contents: Vec<Bytes> = match self.way.blocking(move || reader.read(&sources)).await? {
            Ok(contents) => contents.into_iter().map(Bytes::from).collect(),
            Err(blocks) => return Ok(Reply::SourceChanged { blocks }),
        };
        let mut deltas = if self.thrift().delta && !former.is_empty() {
            self.find_deltas(&blocks, &contents, former, files).await?
        } else {
            Deltas::default()
        };
        self.go_on(&blocks, &contents, &mut deltas).await?;
        let mut upload = Upload { headers: headers(&blocks), contents, deltas, commit };
        let mut sent = self.send_changeset(&upload).await;
        if let Ok(reply) = &sent
            && !reply.unmade.is_empty()
        {
            upload.keep_unmade(&reply.unmade);
            sent = self.send_changeset(&upload).await;
        }
        let reply = match sent {
            Err(TransportError::Refused(error)) if error.code == ErrorCode::BadRequest => {
                let changed = self.way.blocking(move || upload.changed()).await?;
                if changed.is_empty() {
                    return Err(TransportError::Refused(error));
                }
                return Ok(Reply::SourceChanged { blocks: changed });
            }
            sent => sent?,
        };
        if reply.unmade.is_empty() {
            Ok(Reply::Changeset { outcome: reply.outcome })
        } else {
            Err(TransportError::NotSyncline("it cannot make whole blocks".into()))
        }
    }

    async fn send_changeset(&self, upload: &Upload) -> Result<ChangesetReply, TransportError> {
        let head = ChangesetHead {
            blocks: upload.headers.clone(),
            bases: upload.deltas.bases.clone(),
            commit: upload.commit.clone(),
        };
        let head = Bytes::from(codec::encode_head(&self.sent_head(head)));
        let packing = upload.parcels(self.thrift().compress.then(|| Arc::clone(&self.link)));
        let progress = Arc::new(self.progress());
        let plain: usize = packing.iter().map(|parcel| parcel.bytes.iter().map(Bytes::len).sum::<usize>()).sum();
        let flow = Arc::new(Flow::default());
        let body = if plain <= SMALL_BODY {
            let pack = move || packing.into_iter().flat_map(Packing::pack).collect::<Vec<_>>();
            let packed = self.way.blocking(pack).await?;
            let whole = [head].into_iter().chain(packed).collect::<Vec<_>>().concat();
            self.bandwidth.upload.take(whole.len()).await;
            reqwest::Body::from(whole)
        } else {
            self.paced_body(head, packing, &progress, &flow)
        };
        progress.touch();
        let reply = progress
            .watch(async {
                let response = self.post("changeset", body).await?;
                progress.touch();
                self.message(response, &progress).await
            })
            .await?;
        if let Way::Http(_) = self.way {
            // Time says nothing of any other way.
            self.link.carried(&flow);
        }
        Ok(reply)
    }

    /// A body that flows at the pace of the upload limit, while its next parcels are made.
    fn paced_body(
        &self,
        head: Bytes,
        packing: Vec<Packing>,
        progress: &Arc<Progress>,
        flow: &Arc<Flow>,
    ) -> reqwest::Body {
        let (bandwidth, progress, flow) = (Arc::clone(&self.bandwidth), Arc::clone(progress), Arc::clone(flow));
        let way = self.way.clone();
        let pack = move |parcel: Packing| {
            let way = way.clone();
            async move { way.blocking(move || parcel.pack()).await }
        };
        let packed = stream::iter(packing).map(pack).buffered(PACKING);
        let packed = packed.map(|packed| packed.map_err(std::io::Error::other));
        let parts = stream::iter([Ok(vec![head])]).chain(packed);
        let pieces = parts.flat_map(|parts| {
            let (parts, error) = match parts {
                Ok(parts) => (parts, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            let pieces = parts.into_iter().flat_map(|mut bytes| {
                std::iter::from_fn(move || {
                    (!bytes.is_empty()).then(|| Ok(bytes.split_to(bytes.len().min(UPLOAD_PIECE))))
                })
            });
            stream::iter(pieces.chain(error))
        });
        reqwest::Body::wrap_stream(stream::unfold(Box::pin(pieces), move |mut pieces| {
            let (bandwidth, progress, flow) = (Arc::clone(&bandwidth), Arc::clone(&progress), Arc::clone(&flow));
            async move {
                flow.is_asked_for(Instant::now());
                let piece: Result<Bytes, std::io::Error> = pieces.next().await?;
                if let Ok(piece) = &piece {
                    flow.goes_on(piece.len(), Instant::now());
                    let _waiting = progress.pause();
                    bandwidth.upload.take(piece.len()).await;
                }
                Some((piece, pieces))
            }
        }))
    }
}

fn headers(blocks: &[BlockSource]) -> Vec<BlockHeader> {
    blocks.iter().map(|block| BlockHeader { hash: block.hash, len: block.len }).collect()
}

/// An upload that may have to be sent a second time, in part.
struct Upload {
    headers: Vec<BlockHeader>,
    contents: Vec<Bytes>,
    deltas: Deltas,
    commit: Option<SentCommit>,
}

impl Upload {
    /// Only the blocks that the server could not make, and no deltas.
    fn keep_unmade(&mut self, unmade: &[u32]) {
        let unmade: BTreeSet<u32> = unmade.iter().copied().collect();
        let kept = |number: &u32| unmade.contains(number);
        let pairs = (0..).zip(self.headers.drain(..).zip(self.contents.drain(..)));
        let (headers, contents) = pairs.filter(|(number, _)| kept(number)).map(|(_, pair)| pair).unzip();
        (self.headers, self.contents, self.deltas) = (headers, contents, Deltas::default());
    }

    /// The blocks that are not what they should be: a file has been written to without a trace since it was hashed.
    fn changed(&self) -> Vec<BlockHash> {
        let hashes = BlockHash::of_each(&self.contents.iter().map(|bytes| &**bytes).collect::<Vec<_>>());
        let pairs = self.headers.iter().zip(hashes);
        pairs.filter(|(header, hash)| header.hash != *hash).map(|(header, _)| header.hash).collect()
    }

    /// `link`: where what can be compressed goes.
    fn parcels(&self, link: Option<Arc<Link>>) -> Vec<Packing> {
        let mut parcels = Vec::new();
        let mut at = 0;
        while at < self.headers.len() {
            let delta = |hash: &BlockHash| self.deltas.scripts.get(hash);
            if let Some(script) = delta(&self.headers[at].hash) {
                parcels.push(Packing { form: Form::Delta, bytes: vec![script.clone()], link: None });
                at += 1;
                continue;
            }
            let next = self.headers[at..].iter().take_while(|header| delta(&header.hash).is_none());
            let count = share_parcel(next.map(|header| header.len));
            parcels.push(Packing {
                form: Form::Plain,
                bytes: self.contents[at..at + count].to_vec(),
                link: link.clone(),
            });
            at += count;
        }
        parcels
    }
}

/// A parcel to be made.
struct Packing {
    form: Form,
    bytes: Vec<Bytes>,
    /// Where it goes, if it may be compressed.
    link: Option<Arc<Link>>,
}

impl Packing {
    /// The frame and what follows.
    fn pack(self) -> Vec<Bytes> {
        let blocks = u16::try_from(self.bytes.len()).unwrap_or(u16::MAX);
        let (form, bytes) = match self.link.and_then(|link| link.compress(&self.bytes)) {
            Some(compressed) => (Form::Zstd, vec![Bytes::from(compressed)]),
            None => (self.form, self.bytes),
        };
        let len = u32::try_from(bytes.iter().map(Bytes::len).sum::<usize>()).unwrap_or(u32::MAX);
        let frame = Bytes::copy_from_slice(&Frame { form, blocks, len }.to_bytes());
        [frame].into_iter().chain(bytes).collect()
    }
}
