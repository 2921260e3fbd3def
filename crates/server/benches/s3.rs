//! Blocks through the block service to an S3 server, beside what a bare client of the same library does with the
//! same bytes and as many requests at a time. The server is s3s-fs in this process.
//!
//! `cargo bench -p server --bench s3 [-- "4 MiB"]`, with the names of rows that are wanted.

#![expect(clippy::print_stdout, reason = "its table is what it is for")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "figures for people, of small numbers"
)]

use api::service::{Identity, MetaForBlocks, StoredBlock};
use api::{ApiError, BlockHeader, BlocksRequest, ChangesetHead, Token};
use block_service::BlockService;
use block_store_s3::private_server::PrivateServer;
use block_store_s3::{S3BlockStore, S3Options};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use meta_service::{Environment, MetaService};
use metadata_store::SqliteStore;
use model::{AccountId, BlockHash, CommitOutcome, DeviceId, InstanceId, NamespaceId, Timestamp};
use notification_service::Hub;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WHO: Identity = Identity { account: AccountId([1; 16]), device: DeviceId([1; 16]) };

/// What is measured.
struct Load {
    name: &'static str,
    block_bytes: usize,
    blocks: usize,
    /// Blocks of one upload: those of a large file, or those of many small ones.
    per_upload: usize,
    /// Uploads, and requests of the bare client for as many uploads, at the same time.
    uploads: usize,
    /// The figures are the best of so many rounds, taken in turn so that neighbours disturb all alike.
    rounds: usize,
    who: &'static [Who],
}

/// Who puts and gets the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// The block service as it is: small blocks share objects.
    Service,
    /// The block service with packing switched off.
    WithoutPacks,
    /// A client of the same library, one object for each block.
    Bare,
}

const LOADS: &[Load] = &[
    Load {
        name: "4 MiB",
        block_bytes: 4 << 20,
        blocks: 64,
        per_upload: 4,
        uploads: 4,
        rounds: 5,
        who: &[Who::Service, Who::Bare],
    },
    Load {
        name: "4 KiB",
        block_bytes: 4 << 10,
        blocks: 10_000,
        per_upload: 500,
        uploads: 1,
        rounds: 2,
        who: &[Who::Service, Who::WithoutPacks, Who::Bare],
    },
    // Where a block is long enough to be carried alone.
    Load {
        name: "64 KiB",
        block_bytes: 64 << 10,
        blocks: 2_000,
        per_upload: 125,
        uploads: 1,
        rounds: 2,
        who: &[Who::Service, Who::WithoutPacks],
    },
    Load {
        name: "255 KiB",
        block_bytes: 255 << 10,
        blocks: 500,
        per_upload: 32,
        uploads: 1,
        rounds: 2,
        who: &[Who::Service, Who::WithoutPacks],
    },
];

/// What came of one round.
#[derive(Debug, Clone, Copy)]
struct Figures {
    put: Duration,
    get: Duration,
    /// With a look at the SHA-256 of what came, which the service always has.
    checked_get: Duration,
    /// Requests for the puts and for the gets.
    requests: [u64; 2],
}

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
    fn stored(
        &self,
        _: Identity,
        _: &[StoredBlock],
        _: Option<&api::SentCommit>,
    ) -> Result<Option<CommitOutcome>, ApiError> {
        Ok(None)
    }
}

fn main() {
    println!("| blocks | who | put | get | get, checked | requests to put | requests to get |");
    println!("|---|---|---|---|---|---|---|");
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    for load in LOADS.iter().filter(|load| named.is_empty() || named.iter().any(|name| name == load.name)) {
        let mut best: Vec<Option<Figures>> = vec![None; load.who.len()];
        for round in 0..load.rounds {
            let server = PrivateServer::start();
            let blocks = content(load, round);
            // Who comes first in a round finds other caches than who comes second.
            let mut turns: Vec<(usize, Who)> = load.who.iter().copied().enumerate().collect();
            turns.rotate_left(round % load.who.len());
            for (n, who) in turns {
                let figures = match who {
                    Who::Bare => bare_client(&server, load, &blocks),
                    Who::Service | Who::WithoutPacks => service(&server, load, &blocks, who),
                };
                let so_far = best[n].unwrap_or(figures);
                best[n] = Some(Figures {
                    put: figures.put.min(so_far.put),
                    get: figures.get.min(so_far.get),
                    checked_get: figures.checked_get.min(so_far.checked_get),
                    requests: figures.requests,
                });
            }
        }
        for (who, figures) in load.who.iter().zip(best.into_iter().flatten()) {
            let [put, get, checked] = [figures.put, figures.get, figures.checked_get].map(|time| rate(load, time));
            let [puts, gets] = figures.requests;
            println!("| {} | {who:?} | {put} | {get} | {checked} | {puts} | {gets} |", load.name);
        }
    }
}

/// What people would ask about: the bytes per second of large blocks, the time for all small ones.
fn rate(load: &Load, time: Duration) -> String {
    let blocks = load.blocks as f64 / time.as_secs_f64();
    if load.block_bytes < 1 << 20 {
        format!("{:.2} s", time.as_secs_f64())
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

fn service(server: &PrivateServer, load: &Load, blocks: &[(BlockHash, Bytes)], who: Who) -> Figures {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let database = SqliteStore::open(&folder.path().join("meta.sqlite")).expect("opens");
    let environment = Environment::new(|| Timestamp(1_800_000_000_000), |bytes| bytes.fill(7));
    let index = Arc::new(MetaService::new(Arc::new(database), Hub::new(), environment).expect("starts"));
    let setting = if who == Who::Service { "on" } else { "off" };
    let url = format!("{}&packs={setting}", server.url(&format!("{who:?}")));
    let options = S3Options::from_url(&url).expect("is valid");
    let drawn = AtomicU64::new(1);
    let below = move |n: u64| drawn.fetch_add(0x9e37_79b9, Ordering::Relaxed) % n;
    let store = S3BlockStore::open(&options, PrivateServer::credentials(), InstanceId([1; 16]), index, below);
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
    let begun = server.requests();
    let put = all(&|upload| {
        let header = |(hash, bytes): &(BlockHash, Bytes)| BlockHeader { hash: *hash, len: bytes.len() as u32 };
        let head = ChangesetHead { blocks: upload.iter().map(header).collect(), bases: None, commit: None };
        let bytes = upload.iter().map(|(_, bytes)| bytes.clone()).collect();
        service.changeset(WHO, head, bytes).expect("stores");
    });
    let half = server.requests();
    let get = all(&|upload| {
        let namespace = NamespaceId([1; 16]);
        let request =
            BlocksRequest { namespace, blocks: upload.iter().map(|(hash, _)| *hash).collect(), bases: Vec::new() };
        let (_, found) = service.blocks(WHO, &request).expect("reads");
        assert_eq!(found.len(), upload.len());
    });
    Figures { put, get, checked_get: get, requests: [half - begun, server.requests() - half] }
}

fn bare_client(server: &PrivateServer, load: &Load, blocks: &[(BlockHash, Bytes)]) -> Figures {
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
    let begun = server.requests();
    let started = Instant::now();
    runtime.block_on(async {
        let put = |(hash, bytes): &(BlockHash, Bytes)| {
            let (path, payload, client) = (path(hash), PutPayload::from_bytes(bytes.clone()), client.clone());
            async move { client.put(&path, payload).await.map(drop) }
        };
        stream::iter(blocks.iter().map(put)).buffer_unordered(at_once).try_collect::<()>().await.expect("puts");
    });
    let put = started.elapsed();
    let get_all = |checks: bool| {
        let started = Instant::now();
        runtime.block_on(async {
            let get = |(hash, _): &(BlockHash, Bytes)| {
                let (path, client, hash) = (path(hash), client.clone(), *hash);
                // On any of the threads, as the service does it.
                let got = tokio::spawn(async move {
                    let bytes = client.get(&path).await?.bytes().await?;
                    assert!(!checks || BlockHash::of(&bytes) == hash, "it is what was put");
                    Ok::<_, object_store::Error>(())
                });
                async move { got.await.expect("no panic") }
            };
            stream::iter(blocks).map(get).buffer_unordered(at_once).try_collect::<()>().await.expect("gets");
        });
        started.elapsed()
    };
    let half = server.requests();
    let get = get_all(false);
    let requests = [half - begun, server.requests() - half];
    Figures { put, get, checked_get: get_all(true), requests }
}
