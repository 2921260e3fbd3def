//! `blocks`: blocks are read while they are sent.

use crate::budget::{Budget, Share};
use crate::http::blocking;
use crate::limits;
use crate::service::BlockService;
use api::{ApiError, BlockHeader, BlocksHead, codec};
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// The bytes that a body with this head has.
pub(crate) fn body_len(head: &BlocksHead) -> u64 {
    let framed = codec::encode_head(head).len() as u64;
    framed + head.blocks.iter().map(|header| u64::from(header.len)).sum::<u64>()
}

/// A body of the head and its blocks, of which two pieces at most are in memory: one is sent while the
/// next is read. A block that cannot be read after all breaks the connection off, which the client
/// takes for what it is.
pub(crate) fn body(service: Arc<BlockService>, budget: Budget, tasks: TaskTracker, head: BlocksHead) -> Body {
    let first = Bytes::from(codec::encode_head(&head));
    let mut reading = Reading { service, budget, tasks, outstanding: head.blocks.into(), next: None };
    reading.begin();
    let blocks = stream::unfold(reading, |mut reading| async {
        let piece = reading.piece().await?;
        Some((piece, reading))
    });
    Body::from_stream(stream::StreamExt::chain(stream::iter([Ok(first)]), blocks))
}

struct Reading {
    service: Arc<BlockService>,
    budget: Budget,
    tasks: TaskTracker,
    outstanding: VecDeque<BlockHeader>,
    /// The piece that is being read; `None` behind the last.
    next: Option<JoinHandle<Result<Bytes, ApiError>>>,
}

impl Reading {
    async fn piece(&mut self) -> Option<Result<Bytes, ApiError>> {
        let piece = self.next.take()?.await.unwrap_or_else(|panic| Err(crate::http::failed(&panic)));
        if piece.is_ok() {
            self.begin();
        }
        Some(piece)
    }

    /// Begins to read the next piece. The task ends by itself, within the budget's patience and one read.
    fn begin(&mut self) {
        let headers = self.next_headers();
        if headers.is_empty() {
            return;
        }
        let (service, budget) = (self.service.clone(), self.budget.clone());
        self.next = Some(self.tasks.spawn(async move {
            let share = budget.take(headers.iter().map(|header| u64::from(header.len)).sum()).await?;
            blocking(move || read(&service, &headers, share)).await
        }));
    }

    /// One large block, or many small ones.
    fn next_headers(&mut self) -> Vec<BlockHeader> {
        let (mut headers, mut bytes) = (Vec::new(), 0);
        while let Some(header) = self.outstanding.front() {
            bytes += header.len as usize;
            if !headers.is_empty() && bytes > limits::PIECE_BYTES {
                break;
            }
            headers.extend(self.outstanding.pop_front());
        }
        headers
    }
}

fn read(service: &BlockService, headers: &[BlockHeader], share: Share) -> Result<Bytes, ApiError> {
    let bytes = match headers {
        [only] => service.read(only)?,
        many => {
            let mut gathered = Vec::with_capacity(limits::PIECE_BYTES);
            for header in many {
                gathered.extend_from_slice(&service.read(header)?);
            }
            gathered.into()
        }
    };
    Ok(Bytes::from_owner(Piece { bytes, _share: share }))
}

/// Bytes that hold their share of the budget until they are sent.
struct Piece {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::tests::{header, service};
    use block_store::{Block, BlockStore};
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_body_is_its_head_and_its_blocks() {
        let (service, store, _) = service();
        let blocks: Vec<Vec<u8>> = [1, 100_000, 200_000, 3_000_000, 5].iter().map(|len| vec![7; *len]).collect();
        for block in &blocks {
            store.put(&[Block::new(block.clone().into()).expect("legal")]).expect("puts");
        }
        let head = BlocksHead { blocks: blocks.iter().map(|b| header(b)).collect(), unavailable: Vec::new() };
        let len = body_len(&head);
        let bytes = body(service, Budget::new(limits::DOWNLOAD_BYTES_IN_FLIGHT), TaskTracker::new(), head.clone());
        let bytes = bytes.collect().await.expect("no error").to_bytes();
        assert_eq!(bytes.len() as u64, len);
        assert_eq!(bytes, [codec::encode_head(&head), blocks.concat()].concat());
    }

    #[tokio::test]
    async fn a_block_that_vanished_breaks_the_body_off() {
        let (service, _, _) = service();
        let head = BlocksHead { blocks: vec![header(b"gone")], unavailable: Vec::new() };
        assert!(body(service, Budget::new(1 << 20), TaskTracker::new(), head).collect().await.is_err());
    }
}
