//! How many notification streams one edge holds, what each costs, how fast a change reaches them all, and how they
//! come back when it is killed.
//!
//! `cargo bench -p syncline --bench streams [-- STREAMS]` starts a hub and an edge as processes, is the meta
//! service and all devices itself, and prints a table. Run it on a machine that does nothing else.

#![expect(clippy::print_stdout, reason = "its table is what it is for")]

use api::service::{
    Announce, CleanUpMode, Condemned, Followed, Identity, Marked, MetaForBlocks, MetaForCleanUp, MetaForNotification,
    MetaForStart, NewPlace, PackIndex, PackState, StoredBlock,
};
use api::{ApiError, ErrorCode, PREFIX, ServerReply, Token};
use client::backoff::Backoff;
use model::{
    AccountId, BlockHash, CommitOutcome, DeviceId, NamespaceId, PackId, PackedBlock, Position, Timestamp, limits,
};
use service_calls::{Links, Publisher, alive_routes, meta_routes};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener as FreePort;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};

const STREAMS: usize = 10_000;
/// The namespace that all of them follow.
const SHARED: NamespaceId = NamespaceId([7; 16]);
/// Connections that are being made at the same time.
const CONNECTING: usize = 512;
/// Changes that are timed.
const CHANGES: u64 = 10;

/// A meta service in which every token is a device, 20 of them to an account, and all follow one namespace.
struct Meta;

impl MetaForStart for Meta {
    fn server(&self) -> Result<ServerReply, ApiError> {
        Err(ApiError::new(ErrorCode::Unavailable, "nobody asks"))
    }
}

impl MetaForNotification for Meta {
    fn authenticate(&self, token: &Token) -> Result<Identity, ApiError> {
        let (mut account, mut device) = ([0; 16], [0; 16]);
        device[..8].copy_from_slice(&token.0[..8]);
        let number = u64::from_le_bytes(token.0[..8].try_into().unwrap_or_default());
        account[..8].copy_from_slice(&(number / 20).to_le_bytes());
        Ok(Identity { account: AccountId(account), device: DeviceId(device) })
    }

    fn heads(&self, _: AccountId) -> Result<Followed, ApiError> {
        Ok(vec![(SHARED, Position(1))])
    }

    fn review(&self, devices: &[Identity]) -> Result<Vec<Option<Followed>>, ApiError> {
        devices.iter().map(|who| self.heads(who.account).map(Some)).collect()
    }
}

impl MetaForBlocks for Meta {
    fn authenticate(&self, token: &Token) -> Result<Identity, ApiError> {
        MetaForNotification::authenticate(self, token)
    }

    fn readable(&self, _: Identity, _: NamespaceId, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
        Ok(vec![false; blocks.len()])
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

impl MetaForCleanUp for Meta {
    fn mark(&self, _: &[BlockHash], _: CleanUpMode) -> Result<Marked, ApiError> {
        Ok(Marked::default())
    }

    fn condemn(&self, _: usize) -> Result<Condemned, ApiError> {
        Ok(Condemned { blocks: Vec::new(), time: Timestamp(0) })
    }

    fn removed(&self, _: &Condemned) -> Result<(), ApiError> {
        Ok(())
    }
}

impl PackIndex for Meta {
    fn keep(&self, _: &[BlockHash]) -> Result<(), ApiError> {
        Ok(())
    }

    fn find_packed(&self, blocks: &[BlockHash]) -> Result<Vec<Option<PackedBlock>>, ApiError> {
        Ok(vec![None; blocks.len()])
    }

    fn note_packed(&self, _: PackId, _: &[NewPlace]) -> Result<(), ApiError> {
        Ok(())
    }

    fn forget_packed(&self, _: &[BlockHash]) -> Result<Vec<PackId>, ApiError> {
        Ok(Vec::new())
    }

    fn list_packed(&self, _: Option<BlockHash>, _: usize) -> Result<Vec<BlockHash>, ApiError> {
        Ok(Vec::new())
    }

    fn packs(&self, packs: &[PackId]) -> Result<Vec<PackState>, ApiError> {
        Ok(vec![PackState::Unknown; packs.len()])
    }

    fn places_in(&self, _: PackId) -> Result<Vec<PackedBlock>, ApiError> {
        Ok(Vec::new())
    }

    fn end_pack(&self, _: PackId) -> Result<bool, ApiError> {
        Ok(false)
    }
}

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start(arguments: &[&str]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
    command.arg("server").args(arguments).env("SYNCLINE_LOG", "error");
    Running(command.stdout(Stdio::null()).spawn().expect("the program starts"))
}

fn free_address() -> String {
    FreePort::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string()
}

/// Kilobytes of anonymous memory, and of all that is resident.
fn memory(process: &Running) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{}/status", process.0.id())).expect("it runs");
    let of = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux tells");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    (of("RssAnon:"), of("VmRSS:"))
}

/// Seconds of processor time that it has used.
fn cpu(process: &Running) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.0.id())).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number");
    ticks as f64 / 100.0
}

/// How long an edge that was killed is away, as `deploy` has it.
const AWAY: Duration = Duration::from_secs(1);

/// How the devices come back.
#[derive(Default)]
struct Return {
    /// How many are not there yet.
    open: AtomicUsize,
    /// Of all together, and of the one that needed most.
    attempts: AtomicU64,
    most: AtomicU64,
    done: tokio::sync::Notify,
}

/// What the devices have heard.
struct Heard {
    /// How many have yet to hear of the position that is waited for.
    open: AtomicUsize,
    position: watch::Sender<u64>,
    done: tokio::sync::Notify,
    back: Return,
}

impl Heard {
    fn new(streams: usize) -> Arc<Self> {
        let back = Return { open: streams.into(), ..Return::default() };
        Arc::new(Self { open: streams.into(), position: watch::channel(1).0, done: tokio::sync::Notify::new(), back })
    }
}

fn main() {
    let argument = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let streams: usize = argument.unwrap_or(STREAMS);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure(streams));
}

async fn measure(streams: usize) {
    let (meta, hub, edge) = (free_address(), free_address(), free_address());
    let (_draining, drains) = watch::channel(false);
    let listener = TcpListener::bind(&meta).await.expect("the port is free");
    let routes = meta_routes(Arc::new(Meta)).merge(alive_routes(drains));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let _hub = start(&["--role", "notify-hub", "--service-listen", &hub]);
    let start_edge = || start(&["--role", "notify-edge", "--listen", &edge, "--meta", &meta, "--hubs", &hub]);
    let edge_process = start_edge();
    while TcpStream::connect(&edge).await.is_err() || TcpStream::connect(&hub).await.is_err() {
        sleep(Duration::from_millis(50)).await;
    }
    // The first connections pay for threads and pools.
    let warm = Heard::new(50);
    open(&edge, 1_000_000_000, 50, &warm).await;
    let before = memory(&edge_process);

    let heard = Heard::new(streams);
    let begun = Instant::now();
    open(&edge, 0, streams, &heard).await;
    heard.done.notified().await;
    let opened = begun.elapsed();
    // One round of keep-alives, so that what an idle stream holds is what is measured.
    sleep(limits::SSE_KEEP_ALIVE + Duration::from_secs(2)).await;
    let after = memory(&edge_process);

    let publisher = Publisher::new(Links::new(None, |_| 0), vec![hub.clone()]);
    tokio::spawn(publisher.clone().run());
    let mut times = Vec::new();
    let cpu_before = cpu(&edge_process);
    for position in 2..2 + CHANGES {
        heard.open.store(streams, Ordering::SeqCst);
        heard.position.send_replace(position);
        let begun = Instant::now();
        publisher.reached(SHARED, Position(position));
        heard.done.notified().await;
        times.push(begun.elapsed());
        sleep(Duration::from_millis(300)).await;
    }
    let used = (cpu(&edge_process) - cpu_before) / CHANGES as f64;
    times.sort();
    let each = |(anonymous, resident): (u64, u64), before: (u64, u64)| {
        let bytes = |now: u64, then: u64| now.saturating_sub(then) * 1024 / streams as u64;
        (bytes(anonymous, before.0), bytes(resident, before.1))
    };
    let (anonymous, resident) = each(after, before);
    println!(
        "| streams | opened in | bytes each (anonymous) | bytes each (resident) | change to the last stream, median | slowest of {CHANGES} | processor time of the edge for one change |"
    );
    println!("|---|---|---|---|---|---|---|");
    println!(
        "| {streams} | {opened:.1?} | {anonymous} | {resident} | {:.3?} | {:.3?} | {used:.3} s |",
        times[times.len() / 2],
        times[times.len() - 1],
    );
    let begun = Instant::now();
    drop(edge_process);
    sleep(AWAY).await;
    let _edge = start_edge();
    heard.back.done.notified().await;
    let (attempts, most) = (heard.back.attempts.load(Ordering::SeqCst), heard.back.most.load(Ordering::SeqCst));
    println!("\n| streams | all back after the edge was killed | attempts of a device, mean | most |");
    println!("|---|---|---|---|");
    println!("| {streams} | {:.1?} | {:.2} | {most} |", begun.elapsed(), attempts as f64 / streams as f64);
}

/// Opens streams and lets each count down when it hears of the position that is waited for.
async fn open(edge: &str, first: u64, count: usize, heard: &Arc<Heard>) {
    let turns = Arc::new(Semaphore::new(CONNECTING));
    let mut opening = tokio::task::JoinSet::new();
    for number in first..first + count as u64 {
        let (edge, heard, turns) = (edge.to_owned(), heard.clone(), turns.clone());
        opening.spawn(async move {
            let _turn = turns.acquire().await;
            let (stream, text) = ask(&edge, number).await.expect("the edge answers");
            tokio::spawn(async move {
                let first_window = window(&text);
                listen(stream, text, &heard).await;
                come_back(&edge, number, first_window, &heard.back).await;
            });
        });
    }
    while let Some(opened) = opening.join_next().await {
        opened.expect("a stream opens");
    }
}

/// Asks for a device's stream; what it begins with.
async fn ask(edge: &str, number: u64) -> Option<(TcpStream, String)> {
    let mut token = [0; 32];
    token[..8].copy_from_slice(&number.to_le_bytes());
    let mut stream = TcpStream::connect(edge).await.ok()?;
    let bearer = Token(token).to_hex();
    let request = format!("GET {PREFIX}/events HTTP/1.1\r\nhost: edge\r\nauthorization: Bearer {bearer}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut greeting = [0; 512];
    let len = stream.read(&mut greeting).await.ok()?;
    let text = String::from_utf8_lossy(&greeting[..len]).into_owned();
    text.starts_with("HTTP/1.1 200").then_some((stream, text))
}

/// Over how long the edge wants returns to be spread.
fn window(greeting: &str) -> Option<Duration> {
    let millis = greeting.lines().find_map(|line| line.strip_prefix("retry: ")?.trim().parse().ok())?;
    Some(Duration::from_millis(millis))
}

/// Opens a stream again that has ended, when a device would, and holds it.
async fn come_back(edge: &str, number: u64, first_window: Option<Duration>, back: &Return) {
    let chance = || RandomState::new().hash_one(number) as f64 / u64::MAX as f64;
    let mut backoff = Backoff::default();
    if let Some(window) = first_window {
        backoff.set_first_window(window);
    }
    let mut delay = backoff.after_connection(Duration::ZERO, chance());
    let mut attempts = 0;
    let stream = loop {
        sleep(delay).await;
        attempts += 1;
        match ask(edge, number).await {
            Some(stream) => break stream,
            None => delay = backoff.after_failure(None, chance()),
        }
    };
    back.attempts.fetch_add(attempts, Ordering::SeqCst);
    back.most.fetch_max(attempts, Ordering::SeqCst);
    if back.open.fetch_sub(1, Ordering::SeqCst) == 1 {
        back.done.notify_one();
    }
    std::future::pending::<()>().await;
    drop(stream);
}

async fn listen(mut stream: TcpStream, mut text: String, heard: &Heard) {
    let mut told = 0;
    let mut bytes = [0; 512];
    loop {
        while let Some((line, rest)) = text.split_once('\n') {
            let position = line.strip_prefix("data: ").and_then(|data| data.rsplit_once(' ')?.1.parse::<u64>().ok());
            if let Some(position) =
                position.filter(|position| *position > told && *position == *heard.position.borrow())
            {
                told = position;
                if heard.open.fetch_sub(1, Ordering::SeqCst) == 1 {
                    heard.done.notify_one();
                }
            }
            text = rest.to_owned();
        }
        match stream.read(&mut bytes).await {
            Ok(len) if len > 0 => text.push_str(&String::from_utf8_lossy(&bytes[..len])),
            Ok(_) | Err(_) => return,
        }
    }
}
