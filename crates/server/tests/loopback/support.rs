//! A whole server on the loopback interface, and a device that speaks to it.

use api::{
    ApiError, BlockHeader, BlocksHead, BlocksRequest, CONTENT_TYPE, ChangesReply, ChangesRequest, ChangesetHead,
    ChangesetReply, LinkReply, LinkRequest, MissingReply, MissingRequest, Notification, PREFIX, codec,
};
use model::{BlockHash, Blocklist, Body, Commit, CommitKey, CommitOutcome, Mtime, Name, NodeId, Operation, Position};
use parcels::{Form, Frame, Opened};
use reqwest::{Client, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use server::{Config, ServerError};
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long a test waits for what must happen.
pub(crate) const SOON: Duration = Duration::from_secs(10);
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// A server on a data directory that outlives it, on a runtime of its own that can be killed.
pub(crate) struct TestServer {
    pub(crate) data: TempDir,
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<Result<(), ServerError>>>,
    runtime: Option<Runtime>,
    config: Config,
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::start_on(tempfile::tempdir().expect("a directory")).await
    }

    pub(crate) async fn start_on(data: TempDir) -> Self {
        let config = Config::embedded(data.path().join("data"), ([127, 0, 0, 1], 0).into());
        Self::start_with(config, data).await
    }

    pub(crate) async fn start_with(config: Config, data: TempDir) -> Self {
        let runtime = server::runtime().expect("starts");
        let users = config.clone();
        let (stop, stopped) = oneshot::channel();
        let (ready, address) = oneshot::channel();
        let running = runtime.spawn(server::run(
            config,
            async {
                stopped.await.ok();
            },
            move |address| {
                ready.send(address).ok();
            },
        ));
        let Ok(address) = address.await else { panic!("the server did not start: {:?}", running.await) };
        Self { data, address, stop: Some(stop), running: Some(running), runtime: Some(runtime), config: users }
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.data.path().join("data")
    }

    pub(crate) fn url(&self, call: &str) -> String {
        format!("http://{}{PREFIX}/{call}", self.address)
    }

    /// Begins a graceful stop.
    pub(crate) fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Stops gracefully and gives the data back.
    pub(crate) async fn stop(mut self) -> TempDir {
        self.begin_stop();
        let running = self.running.take().expect("runs");
        running.await.expect("no panic").expect("stops cleanly");
        self.give_up()
    }

    /// Stops like a killed process: whatever runs is dropped where it is.
    pub(crate) fn kill(self) -> TempDir {
        self.give_up()
    }

    fn give_up(mut self) -> TempDir {
        if let Some(runtime) = self.runtime.take() {
            tokio::task::block_in_place(|| runtime.shutdown_timeout(SOON));
        }
        std::mem::replace(&mut self.data, tempfile::tempdir().expect("a directory"))
    }

    pub(crate) async fn add_user(&self, email: &str) {
        let (config, email) = (self.config.clone(), email.to_owned());
        tokio::task::spawn_blocking(move || add_user(&config, &email)).await.expect("no panic");
    }

    /// A new device of an account, which is made if there is none.
    pub(crate) async fn device(&self, email: &str) -> Device {
        self.add_user(email).await;
        self.link(email).await
    }

    pub(crate) async fn link(&self, email: &str) -> Device {
        let request = LinkRequest { email: email.into(), password: PASSWORD.into(), device_name: "laptop".into() };
        let client = Client::new();
        let response = client.post(self.url("link")).body(codec::encode(&request)).send().await.expect("answers");
        let link = read::<LinkReply>(response).await.expect("links");
        Device { client, base: format!("http://{}{PREFIX}", self.address), link, made: 0 }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// As `syncline admin user add` does it, beside the running server.
fn add_user(config: &Config, email: &str) {
    server::open(config).expect("opens").add_user(email, PASSWORD).expect("adds");
}

pub(crate) struct Device {
    pub(crate) client: Client,
    base: String,
    pub(crate) link: LinkReply,
    made: u8,
}

impl Device {
    /// The same device, speaking to a server that was restarted elsewhere.
    pub(crate) fn moved_to(self, server: &TestServer) -> Self {
        Self { client: Client::new(), base: format!("http://{}{PREFIX}", server.address), ..self }
    }

    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.link.token.to_hex())
    }

    pub(crate) async fn post(&self, call: &str, body: Vec<u8>) -> Response {
        let request = self.client.post(format!("{}/{call}", self.base)).header("authorization", self.bearer());
        request.header("content-type", CONTENT_TYPE).body(body).send().await.expect("answers")
    }

    pub(crate) async fn call<T: DeserializeOwned>(&self, call: &str, request: &impl Serialize) -> Result<T, ApiError> {
        read(self.post(call, codec::encode(request)).await).await
    }

    /// A commit that makes one file of these blocks in the root.
    pub(crate) fn file(&mut self, name: &str, blocks: &[&[u8]]) -> Commit {
        self.made += 1;
        let id = [&self.link.device.0[..15], &[self.made]].concat().try_into().expect("16 bytes");
        let body = Body::File {
            blocks: Blocklist(blocks.iter().map(|block| BlockHash::of(block)).collect()),
            size: blocks.iter().map(|block| block.len() as u64).sum(),
            executable: false,
            mtime: Mtime(0),
        };
        let root = self.link.root;
        let name = Name::parse(name).expect("legal");
        Commit {
            namespace: root,
            epoch: self.link.epoch,
            key: CommitKey(id),
            seen: Position::START,
            operations: vec![Operation::Create { node: NodeId(id), parent: root.root(), name, body }],
        }
    }

    pub(crate) async fn changeset(&self, blocks: &[&[u8]], commit: Option<Commit>) -> Result<ChangesetReply, ApiError> {
        read(self.post("changeset", framed(blocks, commit)).await).await
    }

    /// Uploads a file of these blocks.
    pub(crate) async fn put_file(&mut self, name: &str, blocks: &[&[u8]]) -> Position {
        let commit = self.file(name, blocks);
        let reply = self.changeset(blocks, Some(commit)).await.expect("commits");
        match reply.outcome {
            Some(CommitOutcome::Accepted { head, .. }) => head,
            other => panic!("not accepted: {other:?}"),
        }
    }

    pub(crate) async fn changes(&self) -> ChangesReply {
        let cursor = [(self.link.root, Position::START)].into();
        let request = ChangesRequest { instance: self.link.instance, epoch: self.link.epoch, cursor };
        self.call("changes", &request).await.expect("answers")
    }

    pub(crate) async fn missing(&self, blocks: &[&[u8]]) -> Vec<u32> {
        let blocks = blocks.iter().map(|block| BlockHash::of(block)).collect();
        self.call::<MissingReply>("missing", &MissingRequest { blocks }).await.expect("answers").missing
    }

    /// The head and the bytes of an answer to `blocks`.
    pub(crate) async fn blocks(&self, blocks: &[&[u8]]) -> (BlocksHead, Vec<u8>) {
        let blocks = blocks.iter().map(|block| BlockHash::of(block)).collect();
        let request = BlocksRequest { namespace: self.link.root, blocks, bases: Vec::new() };
        let response = self.post("blocks", codec::encode(&request)).await;
        assert_eq!((response.status().as_u16(), content_type(&response)), (200, CONTENT_TYPE.to_owned()));
        let bytes = response.bytes().await.expect("arrives");
        let (prefix, rest) = bytes.split_first_chunk::<4>().expect("has a prefix");
        let (head, mut rest) = rest.split_at(codec::head_len(*prefix).expect("is short"));
        let head: BlocksHead = codec::decode(head).expect("is a head");
        let (mut outstanding, mut blocks) = (head.blocks.as_slice(), Vec::new());
        while let Some((frame, behind)) = rest.split_first_chunk() {
            let (frame, _) = Frame::parse(*frame, outstanding).expect("is a frame");
            let (these, others) = outstanding.split_at(frame.blocks.into());
            let (parcel, behind) = behind.split_at(frame.len as usize);
            match parcels::open(frame.form, these, bytes.slice_ref(parcel)).expect("opens") {
                Opened::Blocks(opened) => blocks.extend(opened.concat()),
                Opened::Script(_) => panic!("no bases were named"),
            }
            (outstanding, rest) = (others, behind);
        }
        assert!(outstanding.is_empty());
        (head, blocks)
    }

    pub(crate) async fn events(&self) -> Events {
        let request = self.client.get(format!("{}/events", self.base)).header("authorization", self.bearer());
        let response = request.send().await.expect("answers");
        assert_eq!((response.status().as_u16(), content_type(&response)), (200, "text/event-stream".to_owned()));
        Events { response, text: String::new() }
    }
}

/// An open notification stream.
pub(crate) struct Events {
    response: Response,
    text: String,
}

impl Events {
    /// The lines of the next event or comment; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(event);
            }
            let chunk = tokio::time::timeout(SOON, self.response.chunk()).await.expect("soon").expect("no error")?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("is text"));
        }
    }

    /// Reads the greeting and the first head.
    pub(crate) async fn notification_after_retry(&mut self) -> Notification {
        assert!(self.next().await.expect("goes on").starts_with("retry: "));
        self.notification().await
    }

    pub(crate) async fn notification(&mut self) -> Notification {
        let event = self.next().await.expect("goes on");
        let data = event.strip_prefix("event: head\ndata: ").unwrap_or_else(|| panic!("no notification: {event}"));
        data.parse().expect("is a notification")
    }
}

/// The body of a changeset.
pub(crate) fn framed(blocks: &[&[u8]], commit: Option<Commit>) -> Vec<u8> {
    let header =
        |block: &&[u8]| BlockHeader { hash: BlockHash::of(block), len: u32::try_from(block.len()).expect("short") };
    let head =
        ChangesetHead { blocks: blocks.iter().map(header).collect(), bases: None, commit: commit.map(Into::into) };
    let mut bytes = codec::encode_head(&api::SentHead::Named(head));
    for block in blocks {
        let frame = Frame { form: Form::Plain, blocks: 1, len: u32::try_from(block.len()).expect("short") };
        bytes.extend_from_slice(&frame.to_bytes());
        bytes.extend_from_slice(block);
    }
    bytes
}

/// What a client may conclude from an answer: only from one that says it is ours.
pub(crate) async fn read<T: DeserializeOwned>(response: Response) -> Result<T, ApiError> {
    assert_eq!(content_type(&response), CONTENT_TYPE);
    let status = response.status();
    let bytes = response.bytes().await.expect("arrives");
    if status.is_success() {
        return Ok(codec::decode(&bytes).expect("is the reply"));
    }
    let error: ApiError = codec::decode(&bytes).expect("is an error");
    assert_eq!(error.code.http_status(), status.as_u16());
    Err(error)
}

fn content_type(response: &Response) -> String {
    response.headers().get("content-type").map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
}

/// Writes these bytes to the server as they are and returns what it answers until it hangs up.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(bytes).await.expect("writes");
    stream.shutdown().await.expect("shuts down");
    let mut answer = Vec::new();
    // The server may hang up hard; what came before counts.
    tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("soon").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits until something holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "it never came to hold");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
