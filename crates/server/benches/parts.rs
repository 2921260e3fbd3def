//! What the parts can do by themselves: hashing, the block store, commits, the engine.
//!
//! `cargo bench -p server --bench parts [-- FILTER]`. What waits for a disk has the disk's own rate beside it
//! (`a_file_for_each_block`), since it differs from one minute to the next.

use api::service::Identity;
use api::{ChangesReply, LinkRequest, NamespaceChanges};
use block_store::{Block, BlockStore, DiskBlockStore, DiskOptions, RecentBlocks};
use bytes::Bytes;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use meta_service::MetaService;
use model::block::BlockHasher;
use model::{
    BlockHash, Blocklist, Body, Commit, CommitKey, CommitOutcome, ContentHash, Epoch, InstanceId, Mtime, Name,
    NamespaceId, NodeId, Operation, Position, Role, Timestamp,
};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};
use server::Config;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use sync_engine::Engine;
use sync_engine::io::{
    Action, Blocklists, DirectoryListing, DirectoryScan, EngineState, Environment, Event, FileKind, Fingerprint, Found,
    HashResult, Job, JobResult, LocalPath, Reply, Request, RootState, Settled, Write,
};
use sync_engine::tree::FileContent;

const BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// Files in one commit, or looked at by one engine.
const COMMIT_FILES: usize = 800;
const ENGINE_FILES: usize = 10_000;

fn main() {
    divan::main();
}

fn random(bytes: usize, seed: u64) -> Vec<u8> {
    let mut filled = vec![0; bytes];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut filled);
    filled
}

/// Bytes that no store has seen.
fn fresh(bytes: usize) -> Vec<u8> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut fresh = vec![0x5a; bytes];
    fresh[..8].copy_from_slice(&NUMBER.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    fresh
}

fn fresh_blocks(count: usize, bytes: usize) -> Vec<Block> {
    (0..count).map(|_| Block::new(Bytes::from(fresh(bytes))).expect("is a block")).collect()
}

// Hashing.

#[divan::bench]
fn cut_and_hash_64_mib(bencher: Bencher<'_, '_>) {
    let bytes = random(16 * BLOCK_BYTES, 1);
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
        let mut hasher = BlockHasher::new();
        bytes.chunks(1024 * 1024).for_each(|piece| hasher.update(piece));
        hasher.finish().0.content_hash()
    });
}

// The block store, beside a file for each block.

mod blocks {
    use super::*;

    fn store(directory: &Path) -> DiskBlockStore {
        DiskBlockStore::open(directory, InstanceId([1; 16]), DiskOptions::default()).expect("opens")
    }

    #[divan::bench(sample_count = 50)]
    fn a_file_for_each_block(bencher: Bencher<'_, '_>) {
        let folder = tempfile::tempdir().expect("a folder");
        let number = AtomicU64::new(0);
        bencher.counter(BytesCount::new(BLOCK_BYTES)).with_inputs(|| fresh(BLOCK_BYTES)).bench_local_values(|bytes| {
            let name = number.fetch_add(1, Ordering::Relaxed).to_string();
            let mut file = File::create(folder.path().join(name)).expect("makes a file");
            // As fast as it goes: one write of all takes several times as long.
            bytes.chunks(256 * 1024).for_each(|piece| file.write_all(piece).expect("writes"));
            file.sync_data().expect("syncs");
        });
    }

    #[divan::bench(args = [1, 2], sample_count = 50)]
    fn put_of_4_mib_each(bencher: Bencher<'_, '_>, count: usize) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(folder.path());
        bencher
            .counter(BytesCount::new(count * BLOCK_BYTES))
            .with_inputs(|| fresh_blocks(count, BLOCK_BYTES))
            .bench_local_values(|blocks| store.put(&blocks).expect("puts"));
    }

    /// As the uploads of one device, which wait for each other's syncs together.
    #[divan::bench(sample_count = 30)]
    fn four_puts_of_8_mib_at_a_time(bencher: Bencher<'_, '_>) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(folder.path());
        bencher
            .counter(BytesCount::new(8 * BLOCK_BYTES))
            .with_inputs(|| std::array::from_fn::<_, 4, _>(|_| fresh_blocks(2, BLOCK_BYTES)))
            .bench_local_values(|uploads| {
                std::thread::scope(|scope| {
                    for blocks in &uploads {
                        scope.spawn(|| store.put(blocks).expect("puts"));
                    }
                });
            });
    }

    #[divan::bench(sample_count = 50)]
    fn put_of_500_small_ones(bencher: Bencher<'_, '_>) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(folder.path());
        bencher
            .counter(ItemsCount::new(500_usize))
            .with_inputs(|| fresh_blocks(500, 8 * 1024))
            .bench_local_values(|blocks| store.put(&blocks).expect("puts"));
    }

    /// From the disk's cache, and from the store's own.
    #[divan::bench(args = [0, 64 * 1024 * 1024])]
    fn get_of_4_mib_with_so_many_bytes_at_hand(bencher: Bencher<'_, '_>, at_hand: u64) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = RecentBlocks::new(store(folder.path()), at_hand);
        let blocks = fresh_blocks(1, BLOCK_BYTES);
        store.put(&blocks).expect("puts");
        let hash = blocks[0].hash();
        bencher.counter(BytesCount::new(BLOCK_BYTES)).bench_local(|| store.get(&hash).expect("reads"));
    }
}

// Commits.

#[divan::bench(sample_count = 30)]
fn commit_of_800_files(bencher: Bencher<'_, '_>) {
    const PASSWORD: &str = "correct horse battery staple";
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config::embedded(folder.path().to_owned(), ([127, 0, 0, 1], 0).into());
    let meta: MetaService = server::open(&config).expect("opens");
    meta.add_user("a@x", PASSWORD).expect("is added");
    let request = LinkRequest { email: "a@x".into(), password: PASSWORD.into(), device_name: "bench".into() };
    let link = meta.link(&request).expect("links");
    let who = Identity { account: link.account, device: link.device };
    let number = AtomicU64::new(1);
    let next_commit = || {
        let create = |_| {
            let n = number.fetch_add(1, Ordering::Relaxed);
            let body =
                Body::File { blocks: Blocklist::default(), size: 0, executable: false, mtime: Mtime(n.cast_signed()) };
            let name = Name::parse(&format!("file {n}")).expect("is legal");
            Operation::Create { node: NodeId(u128::from(n).to_le_bytes()), parent: link.root.root(), name, body }
        };
        let operations: Vec<Operation> = (0..COMMIT_FILES).map(create).collect();
        let key = CommitKey(u128::from(number.load(Ordering::Relaxed)).to_le_bytes());
        Commit { namespace: link.root, epoch: link.epoch, key, seen: Position::START, operations }
    };
    bencher.counter(ItemsCount::new(COMMIT_FILES)).with_inputs(next_commit).bench_local_values(|commit| {
        let outcome = meta.commit(who, commit).expect("is decided");
        assert!(matches!(outcome, CommitOutcome::Accepted { .. }));
    });
}

// The engine.

/// All that an engine does for 10,000 new files, from the first look to the last commit, with a disk and a
/// server that answer at once.
#[divan::bench(sample_count = 20)]
fn engine_with_10_000_new_files(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(ENGINE_FILES)).bench_local(|| {
        let mut driver = Driver::new();
        driver.feed(Event::Started);
        assert_eq!(driver.committed, ENGINE_FILES);
    });
}

const ROOT: NamespaceId = NamespaceId([0xaa; 16]);

#[derive(Default)]
struct Lists(BTreeMap<ContentHash, (Arc<Blocklist>, bool)>);

impl Blocklists for Lists {
    fn find(&self, content: &ContentHash) -> Option<(Arc<Blocklist>, bool)> {
        self.0.get(content).cloned()
    }
}

struct Driver {
    engine: Engine,
    lists: Lists,
    now: u64,
    drawn: u64,
    head: u64,
    committed: usize,
}

impl Driver {
    fn new() -> Self {
        let state = EngineState::linked(InstanceId([1; 16]), Epoch(1), ROOT);
        let engine = Engine::new(state, Vec::new(), "bench".to_owned());
        Self { engine, lists: Lists::default(), now: 0, drawn: 0, head: 0, committed: 0 }
    }

    /// Gives the engine an event, and the answers to all that it asks for until it asks for nothing more.
    fn feed(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            self.now += 1;
            let drawn = &mut self.drawn;
            let mut random = || {
                *drawn += 1;
                // Far from one another, as what is drawn is.
                (u128::from(*drawn).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)).to_be_bytes()
            };
            let mut environment =
                Environment { now: self.now, today: "2026-11-26", random: &mut random, blocklists: &self.lists };
            for action in self.engine.handle(event, &mut environment) {
                events.extend(self.answer(action));
            }
        }
    }

    fn answer(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Persist(writes) => {
                for write in writes {
                    if let Write::Blocklist { content, blocks, remote } = write {
                        self.lists.0.insert(content, (Arc::new(blocks), remote));
                    }
                }
                None
            }
            Action::Job(id, job) => job_result(job).map(|result| Event::JobDone(id, result)),
            Action::Send(id, request) => self.reply(request).map(|reply| Event::Replied(id, Ok(reply))),
            Action::Report(_) => None,
        }
    }

    fn reply(&mut self, request: Request) -> Option<Reply> {
        match request {
            Request::Changes(_) | Request::News(_) => {
                let (role, entries, head) = (Some(Role::Owner), Vec::new(), Position(self.head));
                let namespaces = vec![NamespaceChanges { namespace: ROOT, role, entries, head }];
                Some(Reply::Changes(ChangesReply { namespaces }))
            }
            Request::Commit(commit) => Some(Reply::Commit(self.accept(&commit))),
            Request::Changeset { commit, .. } => {
                Some(Reply::Changeset { outcome: commit.map(|commit| self.accept(&commit)) })
            }
            _ => None,
        }
    }

    fn accept(&mut self, commit: &api::SentCommit) -> CommitOutcome {
        self.committed += commit.operations.len();
        self.head += commit.operations.len() as u64;
        CommitOutcome::Accepted { head: Position(self.head), time: Timestamp(0) }
    }
}

fn job_result(job: Job) -> Option<JobResult> {
    match job {
        Job::Scan(targets) => {
            let directories = targets.into_iter().map(|target| {
                let entries = if target.directory == LocalPath::root() { all_files() } else { Vec::new() };
                let listing = DirectoryListing { print: print(0), entries, unreadable: Vec::new() };
                DirectoryScan { target, result: Ok(listing) }
            });
            Some(JobResult::Scanned { root: RootState::Present, directories: directories.collect() })
        }
        Job::Hash(tasks) => {
            let hashed = tasks.into_iter().map(|task| {
                let blocks = Blocklist(vec![BlockHash::of(&task.print.inode.to_le_bytes())]);
                let (hash, mtime) = (blocks.content_hash(), task.print.mtime);
                let content = FileContent { hash, size: task.print.size, executable: false, mtime };
                (task.node, HashResult::Hashed { content, blocks })
            });
            Some(JobResult::Hashed(hashed.collect()))
        }
        Job::MarkExcluded(_) => Some(JobResult::Marked { root: RootState::Present, result: Ok(()) }),
        Job::Settle => Some(JobResult::Settled { root: RootState::Present, result: Ok(Settled::default()) }),
        Job::CleanTemps { .. } => Some(JobResult::Cleaned),
        Job::Apply(_) | Job::Prepare(_) | Job::Probe { .. } => None,
    }
}

fn all_files() -> Vec<Found> {
    let found = |n: u64| Found {
        name: format!("file {n}").into_bytes().into(),
        kind: FileKind::File,
        print: print(n),
        target: None,
    };
    (1..=ENGINE_FILES as u64).map(found).collect()
}

fn print(inode: u64) -> Fingerprint {
    let birth = Some(inode.cast_signed());
    Fingerprint { device: 1, inode, birth, size: 5000, mtime: Mtime(7), ctime: 7, executable: false }
}
