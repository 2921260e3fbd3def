//! Calls between processes, over real connections on this machine.

use api::service::{
    Announce, CleanUpMode, Condemned, Followed, Identity, InsteadOf, Marked, MetaForBlocks, MetaForCleanUp,
    MetaForNotification, MetaForStart, NewPlace, PackIndex, PackState, StoredBlock,
};
use api::{ApiError, ErrorCode, SentCommit, ServerReply, Token};
use axum::Router;
use model::{
    AccountId, BlockHash, CommitKey, CommitOutcome, DeviceId, Epoch, InstanceId, NamespaceId, PackId, PackedBlock,
    Position, Timestamp, limits,
};
use service_calls::wire::{self, Announcement};
use service_calls::{
    Admission, Links, Publisher, RemoteMeta, ServiceSecret, Upstream, alive_routes, guard, meta_routes,
};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

const WHO: Identity = Identity { account: AccountId([1; 16]), device: DeviceId([2; 16]) };
const SPACE: NamespaceId = NamespaceId([3; 16]);
/// Longer than any of these tests waits for what must happen.
const SOON: Duration = Duration::from_secs(20);

/// A meta service that counts what it is asked.
#[derive(Default)]
struct Meta {
    asked: AtomicUsize,
    stored: Mutex<Vec<(Vec<StoredBlock>, Option<CommitKey>)>>,
}

impl MetaForStart for Meta {
    fn server(&self) -> Result<ServerReply, ApiError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(ServerReply { instance: InstanceId([4; 16]), epoch: Epoch(1), version: "1".into() })
    }
}

impl MetaForBlocks for Meta {
    fn authenticate(&self, token: &Token) -> Result<Identity, ApiError> {
        if token.0 == [7; 32] { Ok(WHO) } else { Err(ApiError::new(ErrorCode::Unlinked, "not linked")) }
    }

    fn readable(&self, _: Identity, namespace: NamespaceId, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
        assert_eq!(namespace, SPACE);
        Ok(blocks.iter().map(|block| block.0[0] == 1).collect())
    }

    fn missing(&self, _: Identity, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
        Ok(blocks.iter().map(|block| block.0[0] != 1).collect())
    }

    fn renew(&self, blocks: &[BlockHash]) -> Result<(), ApiError> {
        let being_removed = || ApiError::new(ErrorCode::Unavailable, "being removed");
        if blocks.iter().any(|block| block.0[0] == 9) { Err(being_removed()) } else { Ok(()) }
    }

    fn stored(
        &self,
        _: Identity,
        blocks: &[StoredBlock],
        commit: Option<&SentCommit>,
    ) -> Result<Option<CommitOutcome>, ApiError> {
        let mut stored = self.stored.lock().expect("not poisoned");
        stored.push((blocks.to_vec(), commit.map(|commit| commit.key)));
        Ok(commit.map(|_| CommitOutcome::Rejected(Vec::new())))
    }
}

impl MetaForCleanUp for Meta {
    fn mark(&self, blocks: &[BlockHash], mode: CleanUpMode) -> Result<Marked, ApiError> {
        assert_eq!(mode, CleanUpMode::Act);
        Ok(Marked { fresh: 1, waiting: blocks.len() as u64, due: blocks[..1].to_vec() })
    }

    fn condemn(&self, limit: usize) -> Result<Condemned, ApiError> {
        Ok(Condemned { blocks: vec![BlockHash([8; 32]); limit], time: Timestamp(7) })
    }

    fn removed(&self, condemned: &Condemned) -> Result<(), ApiError> {
        assert_eq!(condemned.time, Timestamp(7));
        Ok(())
    }
}

/// One pack, in which every block below 100 lies.
impl PackIndex for Meta {
    fn keep(&self, blocks: &[BlockHash]) -> Result<(), ApiError> {
        self.renew(blocks)
    }

    fn find_packed(&self, blocks: &[BlockHash]) -> Result<Vec<Option<PackedBlock>>, ApiError> {
        Ok(blocks.iter().map(|block| (block.0[0] < 100).then_some(packed(*block))).collect())
    }

    fn note_packed(&self, pack: PackId, blocks: &[NewPlace]) -> Result<(), ApiError> {
        assert_eq!((pack, blocks), (PACK, &[new_place()][..]));
        Ok(())
    }

    fn forget_packed(&self, blocks: &[BlockHash]) -> Result<Vec<PackId>, ApiError> {
        assert!(blocks.len() <= limits::BLOCKS_PER_REQUEST);
        Ok(vec![PACK])
    }

    fn list_packed(&self, after: Option<BlockHash>, limit: usize) -> Result<Vec<BlockHash>, ApiError> {
        assert!(limit <= limits::BLOCKS_PER_REQUEST);
        let first = after.map_or(0, |after| after.0[0] + 1);
        Ok((first..100).map(|n| BlockHash([n; 32])).take(limit).collect())
    }

    fn packs(&self, packs: &[PackId]) -> Result<Vec<PackState>, ApiError> {
        let state =
            |pack: &PackId| if *pack == PACK { PackState::Live { blocks: 3, bytes: 30 } } else { PackState::Ended };
        Ok(packs.iter().map(state).collect())
    }

    fn places_in(&self, pack: PackId) -> Result<Vec<PackedBlock>, ApiError> {
        assert_eq!(pack, PACK);
        Ok(vec![packed(BlockHash([1; 32]))])
    }

    fn end_pack(&self, pack: PackId) -> Result<bool, ApiError> {
        Ok(pack != PACK)
    }
}

const PACK: PackId = PackId([6; 16]);

fn packed(hash: BlockHash) -> PackedBlock {
    PackedBlock { hash, pack: PACK, offset: 7, len: 8 }
}

fn new_place() -> NewPlace {
    let instead_of = InsteadOf::Pack(PackId([5; 16]));
    NewPlace { block: BlockHash([1; 32]), offset: 7, len: 8, instead_of }
}

impl MetaForNotification for Meta {
    fn authenticate(&self, token: &Token) -> Result<Identity, ApiError> {
        MetaForBlocks::authenticate(self, token)
    }

    fn heads(&self, _: AccountId) -> Result<Followed, ApiError> {
        Ok(vec![(SPACE, Position(9))])
    }

    fn review(&self, devices: &[Identity]) -> Result<Vec<Option<Followed>>, ApiError> {
        devices.iter().map(|who| if *who == WHO { self.heads(who.account).map(Some) } else { Ok(None) }).collect()
    }
}

/// A process, as far as others can tell.
struct Process {
    address: SocketAddr,
    draining: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Process {
    async fn start(routes: Router, secret: Option<ServiceSecret>) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), routes, secret).await
    }

    async fn start_at(address: SocketAddr, routes: Router, secret: Option<ServiceSecret>) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let address = listener.local_addr().expect("has one");
        let (draining, drains) = watch::channel(false);
        let routes = guard(routes.merge(alive_routes(drains)), Admission { secret, certificate: false });
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await.expect("serves") });
        Self { address, draining, serving }
    }

    /// One that takes connections and says nothing.
    async fn hanging() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("has one");
        let serving = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        });
        Self { address, draining: watch::channel(false).0, serving }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn links(secret: Option<ServiceSecret>) -> Links {
    Links::new(secret, |most| most / 2)
}

fn remote(addresses: &[SocketAddr], secret: Option<ServiceSecret>) -> (Arc<Upstream>, Arc<RemoteMeta>) {
    let upstream = Upstream::new(links(secret), addresses.iter().map(ToString::to_string).collect());
    (upstream.clone(), Arc::new(RemoteMeta::new(upstream, Handle::current())))
}

/// Calls as services do: from a thread that may wait.
async fn ask<T: Send + 'static>(meta: &Arc<RemoteMeta>, call: impl FnOnce(&RemoteMeta) -> T + Send + 'static) -> T {
    let meta = meta.clone();
    let asked = tokio::task::spawn_blocking(move || call(&meta));
    timeout(SOON, asked).await.expect("in time").expect("no panic")
}

/// An address at which nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    listener.local_addr().expect("has one")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_arrives_and_its_answer_returns() {
    let meta = Arc::new(Meta::default());
    let process = Process::start(meta_routes(meta.clone()), None).await;
    let (_, remote) = remote(&[process.address], None);
    let blocks = [BlockHash([1; 32]), BlockHash([2; 32])];
    assert_eq!(ask(&remote, |meta| meta.server().expect("answers").instance).await, InstanceId([4; 16]));
    assert_eq!(ask(&remote, |meta| MetaForBlocks::authenticate(meta, &Token([7; 32]))).await, Ok(WHO));
    let refused = ask(&remote, |meta| MetaForBlocks::authenticate(meta, &Token([8; 32]))).await;
    assert_eq!(refused.expect_err("refused").code, ErrorCode::Unlinked);
    assert_eq!(ask(&remote, move |meta| meta.readable(WHO, SPACE, &blocks)).await, Ok(vec![true, false]));
    assert_eq!(ask(&remote, move |meta| meta.missing(WHO, &blocks)).await, Ok(vec![false, true]));
    assert_eq!(ask(&remote, move |meta| meta.renew(&blocks)).await, Ok(()));
    let marked = ask(&remote, |meta| meta.mark(&[BlockHash([3; 32]), BlockHash([4; 32])], CleanUpMode::Act)).await;
    assert_eq!(marked, Ok(Marked { fresh: 1, waiting: 2, due: vec![BlockHash([3; 32])] }));
    let condemned = ask(&remote, |meta| meta.condemn(5)).await.expect("answers");
    assert_eq!((condemned.blocks.len(), condemned.time), (5, Timestamp(7)));
    assert_eq!(ask(&remote, move |meta| meta.removed(&condemned)).await, Ok(()));
    let most = ask(&remote, |meta| meta.condemn(1_000_000)).await.expect("answers");
    assert_eq!(most.blocks.len(), wire::CONDEMNED);
    assert_eq!(ask(&remote, move |meta| meta.keep(&blocks)).await, Ok(()));
    assert!(ask(&remote, |meta| meta.keep(&[BlockHash([9; 32])])).await.is_err());
    let many = vec![BlockHash([9; 32]); limits::BLOCKS_PER_REQUEST + 1];
    let found = ask(&remote, move |meta| meta.find_packed(&many)).await.expect("answers");
    assert_eq!(found, vec![Some(packed(BlockHash([9; 32]))); limits::BLOCKS_PER_REQUEST + 1], "in two calls");
    assert_eq!(ask(&remote, |meta| meta.find_packed(&[BlockHash([200; 32])])).await, Ok(vec![None]));
    assert_eq!(ask(&remote, |meta| meta.note_packed(PACK, &[new_place()])).await, Ok(()));
    assert_eq!(ask(&remote, move |meta| meta.forget_packed(&blocks)).await, Ok(vec![PACK]));
    let listed = ask(&remote, |meta| meta.list_packed(Some(BlockHash([97; 32])), 10)).await;
    assert_eq!(listed, Ok(vec![BlockHash([98; 32]), BlockHash([99; 32])]));
    let states = vec![PackState::Live { blocks: 3, bytes: 30 }, PackState::Ended];
    assert_eq!(ask(&remote, |meta| meta.packs(&[PACK, PackId([1; 16])])).await, Ok(states));
    assert_eq!(ask(&remote, |meta| meta.places_in(PACK)).await, Ok(vec![packed(BlockHash([1; 32]))]));
    assert_eq!(ask(&remote, |meta| meta.end_pack(PackId([1; 16]))).await, Ok(true));
    let refused = ask(&remote, |meta| meta.renew(&[BlockHash([9; 32])])).await;
    assert_eq!(refused.expect_err("refused").code, ErrorCode::Unavailable);
    let stored = StoredBlock { hash: blocks[0], len: 5 };
    let commit = SentCommit {
        namespace: SPACE,
        epoch: Epoch(1),
        key: CommitKey([5; 16]),
        seen: Position(0),
        operations: Vec::new(),
    };
    let outcome = ask(&remote, move |meta| meta.stored(WHO, &[stored], Some(&commit))).await;
    assert_eq!(outcome, Ok(Some(CommitOutcome::Rejected(Vec::new()))));
    assert_eq!(*meta.stored.lock().expect("not poisoned"), [(vec![stored], Some(CommitKey([5; 16])))]);
    assert_eq!(ask(&remote, |meta| meta.heads(WHO.account)).await, Ok(vec![(SPACE, Position(9))]));
    let other = Identity { device: DeviceId([9; 16]), ..WHO };
    let reviewed = ask(&remote, move |meta| meta.review(&[WHO, other])).await;
    assert_eq!(reviewed, Ok(vec![Some(vec![(SPACE, Position(9))]), None]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_to_another_instance_when_one_is_gone() {
    let meta = Arc::new(Meta::default());
    let process = Process::start(meta_routes(meta.clone()), None).await;
    let (upstream, remote) = remote(&[nobody().await, process.address, nobody().await], None);
    for _ in 0..20 {
        assert!(ask(&remote, |meta| meta.server()).await.is_ok());
    }
    assert_eq!(meta.asked.load(Ordering::Relaxed), 20);
    assert!(upstream.any_works());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_an_instance_that_hangs_is_done_by_another_long_before_its_deadline() {
    let (hanging, meta) = (Process::hanging().await, Arc::new(Meta::default()));
    let process = Process::start(meta_routes(meta.clone()), None).await;
    let (upstream, remote) = remote(&[hanging.address, process.address], None);
    let looking = tokio::spawn(upstream.look_after());
    let begun = Instant::now();
    for _ in 0..2 {
        assert_eq!(ask(&remote, |meta| meta.stored(WHO, &[], None)).await, Ok(None));
    }
    assert!(begun.elapsed() < wire::STORED.patience / 2, "{:?}", begun.elapsed());
    looking.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_says_that_it_stops_gets_no_new_calls_and_comes_back() {
    let metas = [Arc::new(Meta::default()), Arc::new(Meta::default())];
    let first = Process::start(meta_routes(metas[0].clone()), None).await;
    let second = Process::start(meta_routes(metas[1].clone()), None).await;
    let (upstream, remote) = remote(&[first.address, second.address], None);
    let looking = tokio::spawn(upstream.look_after());
    let asked = || metas[0].asked.load(Ordering::Relaxed);
    let until = |wanted: bool| {
        let (remote, asked) = (remote.clone(), &asked);
        async move {
            let begun = Instant::now();
            loop {
                let before = asked();
                for _ in 0..4 {
                    ask(&remote, |meta| meta.server()).await.expect("one of them answers");
                }
                if (asked() > before) == wanted {
                    return;
                }
                assert!(begun.elapsed() < SOON, "the first is asked although it should not be, or the reverse");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    until(true).await;
    first.draining.send_replace(true);
    until(false).await;
    first.draining.send_replace(false);
    until(true).await;
    looking.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_instance_a_call_fails_as_unavailable() {
    let (upstream, remote) = remote(&[nobody().await], None);
    assert_eq!(ask(&remote, |meta| meta.server()).await.expect_err("fails").code, ErrorCode::Unavailable);
    assert!(!upstream.any_works());
}

/// A device would believe that it was unlinked.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_never_told_as_a_device_that_is_not_linked() {
    let secret = |text| Some(ServiceSecret::parse(text).expect("long enough"));
    let meta = Arc::new(Meta::default());
    let process = Process::start(meta_routes(meta.clone()), secret("the-right-secret")).await;
    for wrong in [None, secret("not-the-right-secret")] {
        let (_, remote) = remote(&[process.address], wrong);
        let refused = ask(&remote, |meta| MetaForBlocks::authenticate(meta, &Token([7; 32]))).await;
        assert_eq!(refused.expect_err("refused").code, ErrorCode::Unavailable);
    }
    let (_, remote) = remote(&[process.address], secret("the-right-secret"));
    assert!(ask(&remote, |meta| meta.server()).await.is_ok());
}

/// An older process does not know a newer one's call.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_call_is_never_told_as_something_that_does_not_exist() {
    let process = Process::start(Router::new(), None).await;
    let (_, remote) = remote(&[process.address], None);
    assert_eq!(ask(&remote, |meta| meta.server()).await.expect_err("fails").code, ErrorCode::Unavailable);
}

/// A hub that remembers what it is told.
async fn hub(address: Option<SocketAddr>) -> (Process, Arc<Mutex<Vec<Announcement>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    let announce = move |request: axum::extract::Request| {
        let heard = heard.clone();
        async move {
            let announcement = service_calls::read_call(request).await;
            service_calls::answer_call(announcement.map(|one| heard.lock().expect("not poisoned").push(one)))
        }
    };
    let routes = Router::new().route("/service/v1/announce", axum::routing::post(announce));
    let address = address.unwrap_or(([127, 0, 0, 1], 0).into());
    (Process::start_at(address, routes, None).await, told)
}

fn position_of(told: &Mutex<Vec<Announcement>>, namespace: NamespaceId) -> Option<Position> {
    let told = told.lock().expect("not poisoned");
    told.iter().flat_map(|one| &one.reached).filter(|one| one.0 == namespace).map(|one| one.1).max()
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "it never came to hold");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_namespace_is_told_to_one_hub_and_to_the_other_when_that_is_gone() {
    let (mut hubs, mut told) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (process, heard) = hub(None).await;
        hubs.push(process);
        told.push(heard);
    }
    let publisher = Publisher::new(links(None), hubs.iter().map(|hub| hub.address.to_string()).collect());
    let running = tokio::spawn(publisher.clone().run());
    let namespaces: Vec<_> = (0..32).map(|number| NamespaceId([number; 16])).collect();
    namespaces.iter().for_each(|namespace| publisher.reached(*namespace, Position(1)));
    let count = |at: usize, position| {
        namespaces.iter().filter(|namespace| position_of(&told[at], **namespace) >= Some(Position(position))).count()
    };
    eventually(|| count(0, 1) + count(1, 1) == namespaces.len()).await;
    assert!(count(0, 1) > 0 && count(1, 1) > 0, "they share them");

    drop(hubs.remove(0));
    // A process that goes may answer once more on a connection that is open; what it heard then, it keeps.
    let reach_again = || namespaces.iter().for_each(|namespace| publisher.reached(*namespace, Position(2)));
    let all_told = || {
        let told = count(1, 2) == namespaces.len();
        if !told {
            reach_again();
        }
        told
    };
    eventually(all_told).await;
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_hub_could_be_told_is_told_when_one_is_back() {
    let address = nobody().await;
    let publisher = Publisher::new(links(None), vec![address.to_string()]);
    let running = tokio::spawn(publisher.clone().run());
    publisher.reached(SPACE, Position(3));
    publisher.unlinked(WHO.device);
    eventually(|| publisher.counts().failed.load(Ordering::Relaxed) > 0).await;
    publisher.reached(SPACE, Position(4));
    let (_hub, told) = hub(Some(address)).await;
    eventually(|| position_of(&told, SPACE) == Some(Position(4))).await;
    let devices = || told.lock().expect("not poisoned").iter().any(|one| one.unlinked == [WHO.device]);
    eventually(devices).await;
    timeout(SOON, publisher.flush()).await.expect("nothing is left");
    running.abort();
}
