//! Blocks through the block service to an S3 server, beside what a bare client of the same library does with the
//! same bytes and as many requests at a time. The server is s3s-fs in this process.
//!
//! `cargo test -p server --bench s3` or `cargo bench -p server --bench s3`.

#![expect(clippy::print_stdout, reason = "its table is what it is for")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "figures for people, of small numbers"
)]

use api::service::{Identity, MetaForBlocks, StoredBlock};
use api::{ApiError, BlockHeader, BlocksRequest, ChangesetHead, Token};
use block_service::BlockService;
use block_store_s3::S3BlockStore;
use block_store_s3::private_server::PrivateServer;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use model::{AccountId, BlockHash, Commit, CommitOutcome, DeviceId, InstanceId, NamespaceId};
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use std::sync::Arc;
use std::time::{Duration, Instant};

const WHO: Identity = Identity { account: AccountId([1; 16]), device: DeviceId([1; 16]) };
/// Rounds of each; the rows are the best of them, taken in turn so that neighbours disturb all alike.
const ROUNDS: usize = 5;

/// What is measured.
struct Load {
    name: &'static str,
    block_bytes: usize,
    blocks: usize,
    /// Blocks of one upload: those of a large file, or those of many small ones.
    per_upload: usize,
    /// Uploads, and requests of the bare client for as many uploads, at the same time.
    uploads: usize,
}

const LOADS: &[Load] = &[
    Load { name: "4 MiB", block_bytes: 4 << 20, blocks: 64, per_upload: 4, uploads: 4 },
    Load { name: "4 KiB", block_bytes: 4 << 10, blocks: 2048, per_upload: 256, uploads: 1 },
];

/// A meta service that lets everybody do everything.
struct Open;

impl MetaForBlocks for Open {
    fn authenticate(&self, _: &Token) -> Result<Identity, ApiError> {
        Ok(WHO)
    }
    fn readable(&self, _: Identity, _: NamespaceId, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
        Ok(vec![true; blocks.len()])
    }
    fn missing(&self, _: Identity, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
        Ok(vec![true; blocks.len()])
    }
    fn renew(&self, _: &[BlockHash]) -> Result<(), ApiError> {
        Ok(())
    }
    fn stored(&self, _: Identity, _: &[StoredBlock], _: Option<&Commit>) -> Result<Option<CommitOutcome>, ApiError> {
        Ok(None)
    }
}

fn main() {
    println!("| blocks | | block service | bare client | ratio |\n|---|---|---|---|---|");
    for load in LOADS {
        let mut best = [[Duration::MAX; 2]; 2];
        for round in 0..ROUNDS {
            let server = PrivateServer::start();
            let blocks = content(load, round);
            // Who comes first in a round finds other caches than who comes second.
            let mut both = [false, true];
            if round % 2 == 1 {
                both.reverse();
            }
            for bare in both {
                let times = if bare { bare_client(&server, load, &blocks) } else { service(&server, load, &blocks) };
                for (best, time) in best[usize::from(bare)].iter_mut().zip(times) {
                    *best = time.min(*best);
                }
            }
        }
        for (what, [service, bare]) in [("put", [best[0][0], best[1][0]]), ("get", [best[0][1], best[1][1]])] {
            let ratio = bare.as_secs_f64() / service.as_secs_f64();
            println!("| {} | {what} | {} | {} | {ratio:.2} |", load.name, rate(load, service), rate(load, bare));
        }
    }
}

/// As a rate of what people would ask about: bytes of large blocks, the number of small ones.
fn rate(load: &Load, time: Duration) -> String {
    let blocks = load.blocks as f64 / time.as_secs_f64();
    if load.block_bytes < 1 << 20 {
        format!("{blocks:.0} blocks/s")
    } else {
        format!("{:.0} MiB/s", blocks * load.block_bytes as f64 / f64::from(1 << 20))
    }
}

/// Blocks that no other round has.
fn content(load: &Load, round: usize) -> Vec<(BlockHash, Bytes)> {
    let one = |n: usize| {
        let mut bytes = vec![0; load.block_bytes];
        let mut state = ((round * 100_000 + n) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for piece in bytes.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            piece.copy_from_slice(&state.to_le_bytes()[..piece.len()]);
        }
        (BlockHash::of(&bytes), Bytes::from(bytes))
    };
    (0..load.blocks).map(one).collect()
}

/// What is done with the blocks of one upload.
type OneUpload<'a> = dyn Fn(&[(BlockHash, Bytes)]) + Sync + 'a;

/// Times of putting and of getting all blocks.
fn service(server: &PrivateServer, load: &Load, blocks: &[(BlockHash, Bytes)]) -> [Duration; 2] {
    let store =
        S3BlockStore::open(&server.options("service"), PrivateServer::credentials(), InstanceId([1; 16]), |n| n / 2);
    let service = BlockService::new(Arc::new(store.expect("opens")), Arc::new(Open));
    let all = |work: &OneUpload<'_>| {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for part in blocks.chunks(load.blocks / load.uploads) {
                scope.spawn(|| part.chunks(load.per_upload).for_each(work));
            }
        });
        started.elapsed()
    };
    let put = all(&|upload| {
        let header = |(hash, bytes): &(BlockHash, Bytes)| BlockHeader { hash: *hash, len: bytes.len() as u32 };
        let head = ChangesetHead { blocks: upload.iter().map(header).collect(), bases: None, commit: None };
        let bytes = upload.iter().map(|(_, bytes)| bytes.clone()).collect();
        service.changeset(WHO, head, bytes).expect("stores");
    });
    let get = all(&|upload| {
        let namespace = NamespaceId([1; 16]);
        let request =
            BlocksRequest { namespace, blocks: upload.iter().map(|(hash, _)| *hash).collect(), bases: Vec::new() };
        let (_, found) = service.blocks(WHO, &request).expect("reads");
        assert_eq!(found.len(), upload.len());
    });
    [put, get]
}

fn bare_client(server: &PrivateServer, load: &Load, blocks: &[(BlockHash, Bytes)]) -> [Duration; 2] {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("starts");
    let client: AmazonS3 = AmazonS3Builder::new()
        .with_bucket_name(PrivateServer::BUCKET)
        .with_region("us-east-1")
        .with_endpoint(server.endpoint())
        .with_allow_http(true)
        .with_access_key_id(PrivateServer::KEY_ID)
        .with_secret_access_key(PrivateServer::SECRET)
        .with_checksum_algorithm(Checksum::SHA256)
        .build()
        .expect("is valid");
    let path = |hash: &BlockHash| Path::from(format!("bare/{hash}"));
    let at_once = load.uploads * load.per_upload.min(32);
    let started = Instant::now();
    runtime.block_on(async {
        let put = |(hash, bytes): &(BlockHash, Bytes)| {
            let (path, payload, client) = (path(hash), PutPayload::from_bytes(bytes.clone()), client.clone());
            async move { client.put(&path, payload).await.map(drop) }
        };
        stream::iter(blocks.iter().map(put)).buffer_unordered(at_once).try_collect::<()>().await.expect("puts");
    });
    let put = started.elapsed();
    let started = Instant::now();
    runtime.block_on(async {
        let get = |(hash, _): &(BlockHash, Bytes)| {
            let (path, client) = (path(hash), client.clone());
            async move { client.get(&path).await?.bytes().await.map(drop) }
        };
        stream::iter(blocks.iter().map(get)).buffer_unordered(at_once).try_collect::<()>().await.expect("gets");
    });
    [put, started.elapsed()]
}
