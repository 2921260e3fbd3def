//! `blocks`: blocks are read while they are sent.

use crate::budget::{Budget, Share};
use crate::http::blocking;
use crate::limits;
use crate::service::{Base, BlockService, Offer};
use api::{ApiError, BlockHeader, codec};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use parcels::Frame;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Bytes of a parcel from which on it is not worth a copy to be sent together with its frame.
const APART: usize = 64 * 1024;

/// A body of the head and its blocks, of which two pieces at most are in memory: one is sent while the
/// next is read. A block that cannot be read after all breaks the connection off, which the client
/// takes for what it is.
pub(crate) async fn body(
    service: Arc<BlockService>,
    budget: Budget,
    tasks: TaskTracker,
    offer: Offer,
) -> Result<Body, ApiError> {
    let Offer { head, bases } = offer;
    let first = Bytes::from(codec::encode_head(&head));
    body_of(service, budget, tasks, first, head.blocks, bases).await
}

/// The same of blocks behind another head.
pub(crate) async fn body_of(
    service: Arc<BlockService>,
    budget: Budget,
    tasks: TaskTracker,
    first: Bytes,
    blocks: Vec<BlockHeader>,
    bases: Vec<Base>,
) -> Result<Body, ApiError> {
    let small = blocks.iter().map(|header| u64::from(header.len)).sum::<u64>() <= limits::SMALL_BODY;
    let (bases, outstanding) = (bases.into(), blocks.into());
    let mut reading = Reading { service, budget, tasks, bases, outstanding, next: None };
    reading.begin();
    if small {
        let mut whole = BytesMut::from(first);
        while let Some(piece) = reading.piece().await {
            piece?.into_parts().iter().for_each(|part| whole.extend_from_slice(part));
        }
        return Ok(Body::from(whole.freeze()));
    }
    let blocks = stream::unfold(reading, |mut reading| async {
        let piece = reading.piece().await?;
        let parts = match piece {
            Ok(piece) => piece.into_parts().into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        Some((stream::iter(parts), reading))
    });
    Ok(Body::from_stream(stream::iter([Ok(first)]).chain(blocks.flatten())))
}

struct Reading {
    service: Arc<BlockService>,
    budget: Budget,
    tasks: TaskTracker,
    /// What the caller has.
    bases: Arc<[Base]>,
    outstanding: VecDeque<BlockHeader>,
    /// The piece that is being read; `None` behind the last.
    next: Option<JoinHandle<Result<Piece, ApiError>>>,
}

impl Reading {
    async fn piece(&mut self) -> Option<Result<Piece, ApiError>> {
        let read = self.next.take()?.await.unwrap_or_else(|panic| Err(crate::http::failed(&panic)));
        Some(read.inspect(|_| self.begin()))
    }

    /// Begins to read the next piece. The task ends by itself, within the budget's patience and one read.
    fn begin(&mut self) {
        let headers = self.next_headers();
        if headers.is_empty() {
            return;
        }
        let (service, budget, bases) = (self.service.clone(), self.budget.clone(), self.bases.clone());
        self.next = Some(self.tasks.spawn(async move {
            let share = budget.take(headers.iter().map(|header| u64::from(header.len)).sum()).await?;
            let reader = service.clone();
            blocking(&service, move || read(&reader, &headers, &bases, share)).await
        }));
    }

    fn next_headers(&mut self) -> Vec<BlockHeader> {
        let count = self.service.share_parcel(self.outstanding.make_contiguous());
        self.outstanding.drain(..count).collect()
    }
}

fn read(service: &BlockService, headers: &[BlockHeader], bases: &[Base], share: Share) -> Result<Piece, ApiError> {
    let parcel = service.pack(headers, bases)?;
    let frame = Frame {
        form: parcel.form,
        blocks: u16::try_from(parcel.blocks).unwrap_or(u16::MAX),
        len: u32::try_from(parcel.bytes.len()).unwrap_or(u32::MAX),
    };
    Ok(Piece { frame, bytes: parcel.bytes, share })
}

/// A parcel on its way out.
struct Piece {
    frame: Frame,
    bytes: Bytes,
    share: Share,
}

impl Piece {
    /// What is sent: a large parcel behind its frame, a small one with it, which spares a part.
    fn into_parts(self) -> Vec<Bytes> {
        let Self { frame, bytes, share } = self;
        let frame = frame.to_bytes();
        if bytes.len() < APART {
            let both = Bytes::from([&frame, &*bytes].concat());
            return vec![Bytes::from_owner(Held { bytes: both, _share: share })];
        }
        vec![Bytes::copy_from_slice(&frame), Bytes::from_owner(Held { bytes, _share: share })]
    }
}

/// Bytes that hold their share of the budget until they are sent.
struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::tests::{header, service};
    use api::BlocksHead;
    use block_store::{Block, BlockStore};
    use http_body_util::BodyExt;
    use parcels::{Form, Opened, open};

    async fn collected(service: Arc<BlockService>, head: BlocksHead) -> Option<Bytes> {
        let budget = Budget::new(limits::DOWNLOAD_BYTES_IN_FLIGHT);
        let body = body(service, budget, TaskTracker::new(), Offer { head, bases: Vec::new() }).await.ok()?;
        Some(body.collect().await.ok()?.to_bytes())
    }

    #[tokio::test]
    async fn a_body_is_its_head_and_its_blocks_in_parcels() {
        let (service, store, _) = service();
        let blocks: Vec<Vec<u8>> = [1, 100_000, 200_000, 3_000_000, 5].iter().map(|len| vec![7; *len]).collect();
        for block in &blocks {
            store.put(&[Block::new(block.clone().into()).expect("legal")]).expect("puts");
        }
        let head = BlocksHead { blocks: blocks.iter().map(|b| header(b)).collect(), unavailable: Vec::new() };
        let mut bytes = collected(service, head.clone()).await.expect("no error");
        assert_eq!(bytes.split_to(codec::encode_head(&head).len()), codec::encode_head(&head));
        let (mut outstanding, mut found, mut forms) = (head.blocks.as_slice(), Vec::new(), Vec::new());
        while !outstanding.is_empty() {
            let frame = bytes.split_to(Frame::BYTES);
            let (frame, _) = Frame::parse(frame[..].try_into().expect("six"), outstanding).expect("a frame");
            let (these, rest) = outstanding.split_at(frame.blocks.into());
            let parcel = bytes.split_to(frame.len as usize);
            let Ok(Opened::Blocks(blocks)) = open(frame.form, these, parcel) else { panic!("opens") };
            found.extend(blocks.into_iter().map(Vec::from));
            forms.push((frame.form, frame.blocks));
            outstanding = rest;
        }
        assert_eq!((found, bytes.len()), (blocks, 0));
        assert_eq!(forms, [(Form::Zstd, 2), (Form::Zstd, 1), (Form::Zstd, 1), (Form::Plain, 1)]);
    }

    #[tokio::test]
    async fn a_block_that_vanished_breaks_the_body_off() {
        let (service, _, _) = service();
        let head = BlocksHead { blocks: vec![header(b"gone")], unavailable: Vec::new() };
        assert!(collected(service, head).await.is_none());
    }
}
