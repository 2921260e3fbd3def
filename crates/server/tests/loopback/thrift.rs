//! How few bytes travel: the client's calls against the whole server, counted on the way.

use crate::support::{Device, SOON, TestServer};
use api::{BlocksRequest, ChangesRequest, Token};
use client::bandwidth::{Bandwidth, Limits};
use client::transport::{BlockFiles, Thrift, Transport};
use model::block::{BLOCK_SIZE, BlockHasher};
use model::{BlockHash, Blocklist, Body, Commit, CommitOutcome, Mtime, Operation, Position};
use server::{Config, ServerThrift};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use sync_engine::io::{
    BlockSource, BlockTarget, FetchBlock, Former, FormerBlock, LocalPath, Reply, Request, StepError, TempName,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Bytes that went through a proxy.
#[derive(Debug)]
struct Wire {
    up: AtomicU64,
    down: AtomicU64,
    /// More bytes than this in one direction break the connection.
    breaks_after: AtomicU64,
}

impl Default for Wire {
    fn default() -> Self {
        Self { up: AtomicU64::new(0), down: AtomicU64::new(0), breaks_after: AtomicU64::new(u64::MAX) }
    }
}

impl Wire {
    /// Lets so many bytes through each way from now on.
    fn break_after(&self, bytes: u64) {
        self.take();
        self.breaks_after.store(bytes, Ordering::Relaxed);
    }

    fn mend(&self) {
        self.break_after(u64::MAX);
    }

    fn lets_through(&self, so_far: u64) -> bool {
        so_far <= self.breaks_after.load(Ordering::Relaxed)
    }

    /// What went up and down since this was last asked.
    fn take(&self) -> (u64, u64) {
        (self.up.swap(0, Ordering::Relaxed), self.down.swap(0, Ordering::Relaxed))
    }
}

async fn counted(server: SocketAddr) -> (SocketAddr, Arc<Wire>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let (address, wire) = (listener.local_addr().expect("has one"), Arc::new(Wire::default()));
    let counter = Arc::clone(&wire);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(server).await else { continue };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let (up, down) = (Arc::clone(&counter), Arc::clone(&counter));
            let sent = move |bytes| up.lets_through(bytes + up.up.fetch_add(bytes, Ordering::Relaxed));
            let received = move |bytes| down.lets_through(bytes + down.down.fetch_add(bytes, Ordering::Relaxed));
            tokio::spawn(async move {
                // When one direction ends, both do.
                tokio::select! {
                    () = copy(from_client, to_server, sent) => {}
                    () = copy(from_server, to_client, received) => {}
                }
            });
        }
    });
    (address, wire)
}

async fn copy(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, passes: impl Fn(u64) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 || !passes(read as u64) || to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
}

/// A folder with one file, and what is downloaded beside it.
#[derive(Default)]
struct Folder {
    file: Mutex<Vec<u8>>,
    downloads: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl Folder {
    fn write(&self, bytes: &[u8]) {
        *self.file.lock().expect("not poisoned") = bytes.to_vec();
    }

    fn downloaded(&self) -> Vec<u8> {
        self.downloads.lock().expect("not poisoned").values().flatten().copied().collect()
    }
}

impl BlockFiles for Folder {
    fn read(&self, blocks: &[BlockSource]) -> Result<Vec<Vec<u8>>, Vec<BlockHash>> {
        let path = |block: &BlockSource| self.read_stretch(&block.path, block.offset, block.len as usize);
        Ok(blocks.iter().map(path).collect())
    }

    fn read_stretch(&self, path: &LocalPath, offset: u64, len: usize) -> Vec<u8> {
        if path.to_string().ends_with("/t") {
            let downloads = self.downloads.lock().expect("not poisoned");
            return downloads.get(&offset).map(|bytes| bytes[..len.min(bytes.len())].to_vec()).unwrap_or_default();
        }
        let file = self.file.lock().expect("not poisoned");
        let from = usize::try_from(offset).expect("fits").min(file.len());
        file[from..(from + len).min(file.len())].to_vec()
    }

    fn write(&self, block: &FetchBlock, offset: u64, bytes: &[u8]) -> Result<(), StepError> {
        let mut downloads = self.downloads.lock().expect("not poisoned");
        for target in &block.to {
            let there = downloads.entry(target.offset).or_default();
            there.truncate(usize::try_from(offset).expect("fits"));
            there.extend_from_slice(bytes);
        }
        Ok(())
    }
}

/// A device that uploads versions of one file, and another that follows it.
struct Pair {
    _server: TestServer,
    device: Device,
    transports: [Transport; 2],
    wires: [Arc<Wire>; 2],
    folders: [Arc<Folder>; 2],
    /// The version that both have, and where it stands in the journal.
    version: Option<(Vec<u8>, Blocklist, Position)>,
    commits: u8,
}

impl Pair {
    async fn start(thrift: Thrift, on_server: ServerThrift) -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let mut config = Config::embedded(data.path().to_owned(), ([127, 0, 0, 1], 0).into());
        config.thrift = on_server;
        let server = TestServer::start_with(config, data).await;
        let device = server.device("ann@example.com").await;
        let other = server.link("ann@example.com").await;
        let mut pair = (Vec::new(), Vec::new());
        for token in [&device.link.token, &other.link.token] {
            let (address, wire) = counted(server.address).await;
            pair.0.push(transport(address, token.clone(), thrift));
            pair.1.push(wire);
        }
        let (Ok(transports), Ok(wires)) = (pair.0.try_into(), pair.1.try_into()) else { panic!("two of each") };
        let folders = [Arc::default(), Arc::default()];
        Self { _server: server, device, transports, wires, folders, version: None, commits: 0 }
    }

    /// Saves a version on the first device; what that costs in bytes up and down.
    async fn save(&mut self, bytes: &[u8]) -> (u64, u64) {
        self.folders[0].write(bytes);
        let blocks = blocks_of(bytes);
        let commit = self.commit(bytes, &blocks);
        let old = self.version.as_ref().map(|(bytes, blocks, _)| (bytes.len(), blocks.clone()));
        let new = sources(bytes.len(), &blocks);
        let known = old.as_ref().map(|(_, blocks)| blocks.0.clone()).unwrap_or_default();
        let sent: Vec<BlockSource> = new.into_iter().filter(|block| !known.contains(&block.hash)).collect();
        let former = old.map(|(len, old)| {
            let left = (0..).zip(sources(len, &old)).filter(|(_, block)| !blocks.0.contains(&block.hash));
            let left = left.map(|(number, block)| FormerBlock { number, hash: block.hash, len: block.len });
            Former { namespace: self.device.link.root, path: LocalPath::root(), blocks: left.collect() }
        });
        let request =
            Request::Changeset { blocks: sent, former: former.into_iter().collect(), commit: Some(commit.into()) };
        let reply = self.perform(0, request).await;
        let Reply::Changeset { outcome: Some(CommitOutcome::Accepted { head, .. }) } = reply else {
            panic!("not accepted: {reply:?}")
        };
        self.version = Some((bytes.to_vec(), blocks, head));
        self.wires[0].take()
    }

    /// The same of a version that moves what was there by as much as it is longer; what is made of that is told too.
    async fn save_moved(&mut self, bytes: &[u8]) -> (usize, (u64, u64)) {
        self.folders[0].write(bytes);
        let blocks = blocks_of(bytes);
        let (old, old_blocks, _) = self.version.clone().expect("there is one");
        let before = (0..).zip(sources(old.len(), &old_blocks));
        let before = before.map(|(number, block)| FormerBlock { number, hash: block.hash, len: block.len });
        let before = Former { namespace: self.device.link.root, path: LocalPath::root(), blocks: before.collect() };
        let by = bytes.len() as i64 - old.len() as i64;
        let reply = self.perform(0, Request::Shift { blocks: sources(bytes.len(), &blocks), before, by }).await;
        let Reply::Shifted { made } = reply else { panic!("not answered: {reply:?}") };
        if made.len() < blocks.0.len() {
            return (made.len(), self.wires[0].take());
        }
        let commit = self.commit(bytes, &blocks);
        let reply = self.perform(0, Request::Commit(commit.into())).await;
        let Reply::Commit(CommitOutcome::Accepted { head, .. }) = reply else { panic!("not accepted: {reply:?}") };
        self.version = Some((bytes.to_vec(), blocks, head));
        (made.len(), self.wires[0].take())
    }

    /// Tells the second device what changed behind `position`; what that costs.
    async fn tell(&self, position: Position) -> (u64, u64) {
        let link = &self.device.link;
        let cursor = [(link.root, position)].into();
        let request = ChangesRequest { instance: link.instance, epoch: link.epoch, cursor };
        let reply = self.perform(1, Request::Changes(request)).await;
        assert!(matches!(reply, Reply::Changes(_)), "{reply:?}");
        self.wires[1].take()
    }

    /// Brings the second device, which has `old`, to the present version; what that costs.
    async fn follow(&self, old: &[u8]) -> (u64, u64) {
        let (bytes, blocks, _) = self.version.as_ref().expect("there is one");
        self.folders[1].write(old);
        let old_blocks = blocks_of(old);
        let bases = sources(old.len(), &old_blocks).into_iter().filter(|block| !blocks.0.contains(&block.hash));
        let wanted = sources(bytes.len(), blocks).into_iter().filter(|block| !old_blocks.0.contains(&block.hash));
        let target = |offset| vec![BlockTarget { temp: TempName("t".into()), offset }];
        let wanted: Vec<FetchBlock> =
            wanted.map(|block| FetchBlock { hash: block.hash, len: block.len, to: target(block.offset) }).collect();
        let count = wanted.len();
        let request = Request::Fetch { namespace: self.device.link.root, blocks: wanted, bases: bases.collect() };
        let reply = self.perform(1, request).await;
        assert!(matches!(&reply, Reply::Fetched { written, .. } if written.len() == count), "{reply:?}");
        let mut whole = BTreeMap::new();
        for block in sources(old.len(), &old_blocks) {
            let from = usize::try_from(block.offset).expect("fits");
            whole.insert(block.hash, old[from..from + block.len as usize].to_vec());
        }
        for piece in self.folders[1].downloads.lock().expect("not poisoned").values() {
            whole.insert(BlockHash::of(piece), piece.clone());
        }
        let made: Vec<u8> = blocks.0.iter().flat_map(|hash| whole.get(hash).expect("is there").clone()).collect();
        assert!(made == *bytes, "the second device has other bytes");
        self.wires[1].take()
    }

    async fn perform(&self, device: usize, request: Request) -> Reply {
        let files: Arc<dyn BlockFiles> = self.folders[device].clone();
        let call = self.transports[device].perform(request, files);
        tokio::time::timeout(3 * SOON, call).await.expect("in time").expect("answers")
    }

    fn commit(&mut self, bytes: &[u8], blocks: &Blocklist) -> Commit {
        let body = Body::File { blocks: blocks.clone(), size: bytes.len() as u64, executable: false, mtime: Mtime(0) };
        let mut commit = self.device.file("a", &[]);
        self.commits += 1;
        commit.key.0[1] = self.commits;
        let node = model::NodeId([1; 16]);
        commit.operations = match self.version {
            None => {
                let Operation::Create { parent, name, .. } = commit.operations.remove(0) else { panic!("creates") };
                vec![Operation::Create { node, parent, name, body }]
            }
            Some((_, _, base_content)) => vec![Operation::Edit { node, base_content, body }],
        };
        commit
    }
}

fn transport(address: SocketAddr, token: Token, thrift: Thrift) -> Transport {
    let server = format!("http://{address}").parse().expect("an address");
    let bandwidth = Arc::new(Bandwidth::new(Limits::default()));
    Transport::new(server, Some(token), bandwidth).expect("a client").with_thrift(thrift)
}

fn blocks_of(bytes: &[u8]) -> Blocklist {
    let mut hasher = BlockHasher::new();
    hasher.update(bytes);
    hasher.finish().0
}

fn sources(len: usize, blocks: &Blocklist) -> Vec<BlockSource> {
    let source = |(number, hash): (u64, &BlockHash)| BlockSource {
        hash: *hash,
        len: u32::try_from(model::block::block_len(len as u64, number)).expect("fits"),
        path: LocalPath::root(),
        offset: number * BLOCK_SIZE,
    };
    (0..).zip(&blocks.0).map(source).collect()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

const WHOLE: usize = 9 * 1024 * 1024;
/// What a small edit may cost each way, in bytes: calls, sums and a few chunks.
const SMALL: u64 = 12 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn small_edits_cost_few_bytes_up_and_down() {
    let mut pair = Pair::start(Thrift::default(), ServerThrift::default()).await;
    let mut bytes = noise(1, WHOLE);
    pair.save(&bytes).await;
    let edits: [fn(&mut Vec<u8>); 5] = [
        |bytes| bytes[5_000_000] ^= 1,
        |bytes| bytes.insert(0, 7),
        |bytes| drop(bytes.drain(4_190_000..4_200_000)),
        |bytes| bytes.extend_from_slice(&noise(2, 1000)),
        |bytes| (0..5).for_each(|part| bytes[part * 1_900_000 + 1000] ^= 1),
    ];
    for (number, edit) in edits.iter().enumerate() {
        let old = bytes.clone();
        edit(&mut bytes);
        let (up, down) = pair.save(&bytes).await;
        assert!(up < SMALL && down < SMALL, "edit {number} cost {up} up and {down} down");
        let (up, down) = pair.follow(&old).await;
        assert!(up < SMALL && down < SMALL, "edit {number} cost the other device {up} up and {down} down");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_insertion_moves_costs_the_names_of_its_blocks() {
    let mut pair = Pair::start(Thrift::default(), ServerThrift::default()).await;
    let old = noise(7, 3 * BLOCK_SIZE as usize + 1000);
    pair.save(&old).await;
    let position = pair.version.as_ref().expect("there is one").2;
    let new = [b"x", old.as_slice()].concat();
    let (made, (up, down)) = pair.save_moved(&new).await;
    assert_eq!(made, 4);
    // The old names and the beginnings of the new ones, then all of these in the commit; and the heads of two calls.
    assert!(up < 4 * (32 + 4 + 32) + 700 && down < 600, "{up} up, {down} down");
    let (up, down) = pair.tell(position).await;
    assert!(up < 400 && down < 4 * (32 + 4) + 400, "{up} up, {down} down");
    assert_eq!(pair.follow(&old).await, (0, 0), "all of it came along");
    // A device that has something else gets the blocks.
    let mut other = old.clone();
    other[5] ^= 1;
    pair.folders[1].downloads.lock().expect("not poisoned").clear();
    pair.tell(position).await;
    assert!(pair.follow(&other).await.1 > BLOCK_SIZE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_did_not_move_is_not_made_and_the_others_are() {
    let mut pair = Pair::start(Thrift::default(), ServerThrift::default()).await;
    let old = noise(8, 3 * BLOCK_SIZE as usize);
    pair.save(&old).await;
    let mut new = [b"x", old.as_slice()].concat();
    new[BLOCK_SIZE as usize + 5] ^= 1;
    let (made, _) = pair.save_moved(&new).await;
    assert_eq!(made, 3, "of four");
    let (up, _) = pair.save(&new).await;
    assert!(up < 2 * SMALL, "{up}: it is compared as ever");
    pair.follow(&old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_file_is_not_what_it_was_gets_the_whole_block() {
    let mut pair = Pair::start(Thrift::default(), ServerThrift::default()).await;
    let mut bytes = noise(3, 1 << 20);
    pair.save(&bytes).await;
    let old = bytes.clone();
    bytes[500_000] ^= 1;
    pair.save(&bytes).await;
    // The base is named by its hash, and reads otherwise by the time the delta is there.
    let (blocks, base) = (blocks_of(&bytes), sources(old.len(), &blocks_of(&old)));
    pair.folders[1].write(&noise(4, 1 << 20));
    let to = vec![BlockTarget { temp: TempName("t".into()), offset: 0 }];
    let wanted = FetchBlock { hash: blocks.0[0], len: 1 << 20, to };
    let request = Request::Fetch { namespace: pair.device.link.root, blocks: vec![wanted], bases: base };
    let reply = pair.perform(1, request).await;
    assert_eq!(reply, Reply::Fetched { written: blocks.0, unavailable: Vec::new(), disk: None });
    assert!(pair.folders[1].downloaded() == bytes);
    assert!(pair.wires[1].take().1 > 1 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_make_a_block_is_sent_the_whole_one() {
    let mut pair = Pair::start(Thrift::default(), ServerThrift::default()).await;
    let bytes = noise(5, 100_000);
    // The server never had what this is said to resemble.
    let base = noise(6, 90_000);
    pair.version = None;
    pair.folders[0].write(&[base.as_slice(), &bytes].concat());
    let whole = [base.as_slice(), &bytes].concat();
    let blocks = blocks_of(&whole);
    let former = Former {
        namespace: pair.device.link.root,
        path: LocalPath::root(),
        blocks: vec![FormerBlock { number: 0, hash: BlockHash::of(&base), len: 90_000 }],
    };
    let commit = pair.commit(&whole, &blocks);
    let blocks = sources(whole.len(), &blocks);
    let request = Request::Changeset { blocks: blocks.clone(), former: vec![former], commit: Some(commit.into()) };
    let reply = pair.perform(0, request).await;
    assert!(matches!(reply, Reply::Changeset { outcome: Some(CommitOutcome::Accepted { .. }) }), "{reply:?}");
    let request = BlocksRequest { namespace: pair.device.link.root, blocks: vec![blocks[0].hash], bases: Vec::new() };
    let answer = pair.device.post("blocks", api::encode(&request)).await;
    assert!(answer.bytes().await.expect("arrives").len() > 190_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_compressed_both_ways() {
    let text: Vec<u8> =
        noise(7, 300_000).iter().flat_map(|byte| format!("line {}\n", byte % 16).into_bytes()).collect();
    let mut pair = Pair::start(Thrift::default(), ServerThrift::default()).await;
    let (up, _) = pair.save(&text).await;
    let (_, down) = pair.follow(b"").await;
    let most = text.len() as u64 / 4;
    assert!(up < most && down < most, "{up} up and {down} down of {}", text.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_saving_the_bytes_are_the_same_and_all_of_them_travel() {
    let plain = Thrift { delta: false, compress: false, ..Thrift::default() };
    let on_server = ServerThrift { relay_deltas: false, compress: false, keep_unfinished: false, direct_writes: false };
    let mut pair = Pair::start(plain, on_server).await;
    let mut bytes = vec![b'x'; 1 << 20];
    pair.save(&bytes).await;
    let old = bytes.clone();
    bytes.push(b'y');
    let (up, _) = pair.save(&bytes).await;
    let (_, down) = pair.follow(&old).await;
    assert!(up > 1 << 20 && down > 1 << 20, "{up} up and {down} down");
}

/// A block of its own, and a device that uploads or fetches it.
fn one_block(pair: &Pair) -> (Vec<u8>, BlockSource) {
    let bytes = noise(9, 4 << 20);
    let block = sources(bytes.len(), &blocks_of(&bytes)).remove(0);
    assert_eq!(pair.commits, 0);
    (bytes, block)
}

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_it_broke_off() {
    let pair = Pair::start(Thrift::default(), ServerThrift::ALL).await;
    let (bytes, block) = one_block(&pair);
    pair.folders[0].write(&bytes);
    let transport = pair.transports[0].clone().with_root(pair.device.link.root);
    let request = || Request::Changeset { blocks: vec![block.clone()], former: Vec::new(), commit: None };
    pair.wires[0].break_after(3 * MIB);
    let broken = transport.perform(request(), pair.folders[0].clone()).await;
    assert!(broken.is_err(), "{broken:?}");
    pair.wires[0].mend();
    let beginnings = model::block::beginnings(&bytes).into_iter().map(|(_, hash)| hash).collect();
    let question = api::MissingRequest { blocks: beginnings };
    let kept = async {
        while transport.call::<_, api::MissingReply>("missing", &question).await.expect("answers").missing.len() == 15 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, kept).await.expect("the server keeps what arrived");
    pair.wires[0].take();
    let reply = transport.perform(request(), pair.folders[0].clone()).await;
    assert!(matches!(reply, Ok(Reply::Changeset { .. })), "{reply:?}");
    let (up, _) = pair.wires[0].take();
    assert!(up < 4 * MIB - 3 * MIB + MIB / 2, "{up} bytes, of which a mebibyte had not arrived");
    let question = api::MissingRequest { blocks: vec![block.hash] };
    let reply: api::MissingReply = transport.call("missing", &question).await.expect("answers");
    assert!(reply.missing.is_empty(), "the server has the whole block");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_where_it_broke_off() {
    for (thrift, most) in [(Thrift::default(), 2 * MIB), (Thrift { delta: false, ..Thrift::default() }, 5 * MIB)] {
        let mut pair = Pair::start(thrift, ServerThrift::ALL).await;
        let (bytes, block) = one_block(&pair);
        pair.save(&bytes).await;
        let target = BlockTarget { temp: TempName("t".into()), offset: 0 };
        let wanted = FetchBlock { hash: block.hash, len: block.len, to: vec![target] };
        let namespace = pair.device.link.root;
        let request = || Request::Fetch { namespace, blocks: vec![wanted.clone()], bases: Vec::new() };
        pair.wires[1].break_after(3 * MIB);
        let broken = pair.transports[1].perform(request(), pair.folders[1].clone()).await;
        assert!(broken.is_err(), "{broken:?}");
        pair.wires[1].mend();
        let reply = pair.perform(1, request()).await;
        assert!(matches!(&reply, Reply::Fetched { written, .. } if *written == [block.hash]), "{reply:?}");
        assert!(pair.folders[1].downloaded() == bytes, "other bytes");
        let (_, down) = pair.wires[1].take();
        assert!(down < most, "{down} bytes, of which a mebibyte had not arrived");
        assert!(thrift.delta || down > 4 * MIB, "left off, all of it comes again");
    }
}

/// What fifty new files of a kilobyte cost the device that makes them, and the one that hears of them.
async fn small_files(thrift: Thrift) -> (u64, u64) {
    const LEN: usize = 1024;
    let mut pair = Pair::start(thrift, ServerThrift::default()).await;
    let whole = noise(3, 50 * LEN);
    pair.folders[0].write(&whole);
    let root = pair.device.link.root;
    let source = |(number, bytes): (u64, &[u8])| BlockSource {
        hash: BlockHash::of(bytes),
        len: LEN as u32,
        path: LocalPath::root(),
        offset: number * LEN as u64,
    };
    let blocks: Vec<BlockSource> = (0..).zip(whole.chunks(LEN)).map(source).collect();
    let file = |(n, block): (u8, &BlockSource)| {
        let body =
            Body::File { blocks: Blocklist(vec![block.hash]), size: LEN as u64, executable: false, mtime: Mtime(0) };
        let node = model::NodeId([[0, 0, 0, n].as_slice(), &[7; 12]].concat().try_into().expect("as long"));
        let name = model::Name::parse(&format!("one of many {n}")).expect("legal");
        Operation::Create { node, parent: root.root(), name, body }
    };
    let mut commit = pair.device.file("a", &[]);
    commit.operations = (0..).zip(&blocks).map(file).collect();
    let (told, instance, epoch) = (commit.seen, pair.device.link.instance, commit.epoch);
    let request = Request::Changeset { blocks: blocks.clone(), former: Vec::new(), commit: Some(commit.into()) };
    let reply = pair.perform(0, request).await;
    assert!(matches!(reply, Reply::Changeset { outcome: Some(CommitOutcome::Accepted { .. }) }), "{reply:?}");
    let (up, _) = pair.wires[0].take();

    let request = ChangesRequest { instance, epoch, cursor: [(root, told)].into() };
    let Reply::Changes(changes) = pair.perform(1, Request::News(request)).await else { panic!("no news") };
    let named: Vec<BlockHash> = changes.namespaces[0]
        .entries
        .iter()
        .flat_map(|entry| match &entry.change {
            model::Change::Create { body, .. } => body.blocks().to_vec(),
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(named, blocks.iter().map(|block| block.hash).collect::<Vec<_>>());
    let to = |block: &BlockSource| vec![BlockTarget { temp: TempName("t".into()), offset: block.offset }];
    let wanted = blocks.iter().map(|block| FetchBlock { hash: block.hash, len: block.len, to: to(block) }).collect();
    let reply = pair.perform(1, Request::Fetch { namespace: root, blocks: wanted, bases: Vec::new() }).await;
    assert!(matches!(&reply, Reply::Fetched { written, .. } if written.len() == 50), "{reply:?}");
    assert!(pair.folders[1].downloaded() == whole, "the second device has other bytes");
    let (asked, down) = pair.wires[1].take();
    (up, asked + down)
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_travel_without_the_names_of_their_blocks() {
    let (up, down) = small_files(Thrift::default()).await;
    let (named_up, named_down) = small_files(Thrift { bundles: false, ..Thrift::default() }).await;
    // A name is 32 bytes: up it stands in the list of blocks and in the commit, down in the journal, the question and its
    // answer.
    assert!(up + 50 * 2 * 32 < named_up, "{up} and {named_up} bytes up");
    assert!(down + 50 * 3 * 32 < named_down, "{down} and {named_down} bytes down");
}
