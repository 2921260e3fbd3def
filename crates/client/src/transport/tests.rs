use super::*;
use crate::bandwidth::Limits;
use api::{
    BlockHeader, BlocksHead, ChangesReply, ChangesRequest, ChangesetHead, ChangesetReply, HashStart, NamespaceChanges,
    NewsBundle, NewsReply, SentCommit, SentHead, ServerReply, SmallContent, codec,
};
use model::{
    BlockHash, Blocklist, Body, Change, Commit, CommitKey, CommitOutcome, Epoch, InstanceId, JournalEntry, Mtime, Name,
    NamespaceId, NodeId, Operation, Position, Role, Timestamp,
};
use parcels::{Form, Frame};
use std::sync::Mutex;
use sync_engine::io::{BlockSource, FetchBlock, LocalPath, StepError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers one request with `answer` and gives what it received.
async fn serve_once(answer: Vec<u8>) -> (ServerUrl, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        let mut received = vec![0; 1 << 16];
        let mut filled = 0;
        loop {
            let read = stream.read(&mut received[filled..]).await.expect("read");
            filled += read;
            let complete = is_complete(&received[..filled]);
            if read == 0 || complete {
                break;
            }
        }
        stream.write_all(&answer).await.expect("written");
        received.truncate(filled);
        received
    });
    (format!("http://{address}").parse().expect("an address"), task)
}

/// Whether a request was read to its end; also true of what is no HTTP.
fn is_complete(received: &[u8]) -> bool {
    if !received.starts_with(b"POST") {
        return true;
    }
    let text = String::from_utf8_lossy(received).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    if head.contains("chunked") {
        return received.ends_with(b"0\r\n\r\n");
    }
    let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |len| len.parse().unwrap());
    body.len() >= len
}

fn response(status: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body.to_vec()].concat()
}

fn transport(server: ServerUrl) -> Transport {
    Transport::new(server, Some(Token([0xab; 32])), Arc::new(Bandwidth::new(Limits::default()))).expect("a client")
}

async fn server_call(answer: Vec<u8>) -> Result<ServerReply, TransportError> {
    let (server, _task) = serve_once(answer).await;
    transport(server).call("server", &()).await
}

fn reply() -> ServerReply {
    ServerReply { instance: InstanceId([1; 16]), epoch: Epoch(2), version: "1.2.3".into() }
}

#[tokio::test]
async fn a_call_carries_the_token_and_brings_the_reply() {
    let (server, task) = serve_once(response("200 OK", api::CONTENT_TYPE, &api::encode(&reply()))).await;
    assert_eq!(transport(server).call("server", &()).await, Ok(reply()));
    let request = String::from_utf8_lossy(&task.await.expect("served")).into_owned();
    assert!(request.starts_with("POST /sync/v1/server HTTP/1.1"), "{request}");
    let bearer = Token([0xab; 32]).to_bearer();
    assert!(request.contains(&format!("authorization: Bearer {bearer}\r\n")), "{request}");
}

#[tokio::test]
async fn html_is_no_answer_whatever_its_status() {
    for status in ["200 OK", "404 Not Found", "502 Bad Gateway"] {
        let error = server_call(response(status, "text/html; charset=utf-8", b"<html>")).await.expect_err("refused");
        assert!(matches!(&error, TransportError::NotSyncline(what) if what.contains("text/html")), "{error}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let answer = b"HTTP/1.1 302 Found\r\nlocation: https://login.example/\r\ncontent-length: 0\r\n\r\n".to_vec();
    let error = server_call(answer).await.expect_err("refused");
    assert!(matches!(&error, TransportError::NotSyncline(what) if what.contains("https://login.example/")), "{error}");
}

#[tokio::test]
async fn the_servers_error_comes_through_with_its_advice() {
    let body = api::encode(&ApiError::new(ErrorCode::Busy, "slow down"));
    let mut answer = response("429 Too Many Requests", api::CONTENT_TYPE, &body);
    let at = answer.windows(2).position(|w| w == b"\r\n").expect("a status line") + 2;
    answer.splice(at..at, *b"retry-after: 7\r\n");
    let error = server_call(answer).await.expect_err("refused");
    let TransportError::Refused(error) = error else { panic!("{error}") };
    assert_eq!((error.code, error.retry_after()), (ErrorCode::Busy, Some(Duration::from_secs(7))));
}

#[tokio::test]
async fn a_reply_with_bytes_behind_it_or_missing_is_no_answer() {
    let whole = api::encode(&reply());
    let longer = [whole.as_slice(), b"x"].concat();
    for body in [&longer, &whole[..whole.len() - 1]] {
        let answer = response("200 OK", api::CONTENT_TYPE, body);
        assert!(matches!(server_call(answer).await, Err(TransportError::NotSyncline(_))));
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_the_fate_open() {
    let mut answer = response("200 OK", api::CONTENT_TYPE, &api::encode(&reply()));
    answer.truncate(answer.len() - 3);
    assert!(matches!(server_call(answer).await, Err(TransportError::Unreachable(_))));
}

#[tokio::test]
async fn a_server_that_is_gone_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let server: ServerUrl = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("an address");
    drop(listener);
    let result = transport(server).call::<_, ServerReply>("server", &()).await;
    assert!(matches!(&result, Err(TransportError::Unreachable(why)) if why.contains("refused")), "{result:?}");
}

/// Its system takes what comes; the balancer itself is frozen.
#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_open_is_given_up_soon_and_with_it_the_calls_that_went_the_same_way() {
    let frozen = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let server = format!("http://{}", frozen.local_addr().expect("bound")).parse().expect("an address");
    let transport = transport(server);
    let began = tokio::time::Instant::now();
    let opening = async { (transport.open_events().await.map(drop), began.elapsed()) };
    let call = async { (transport.call::<_, ServerReply>("server", &()).await, began.elapsed()) };
    let ((opened, opened_after), (called, called_after)) = tokio::join!(opening, call);
    assert!(matches!(opened, Err((TransportError::Unreachable(_), None))), "{opened:?}");
    assert!(matches!(called, Err(TransportError::Unreachable(_))), "{called:?}");
    assert!(opened_after >= STREAM_OPENS && called_after < STALL_TIMEOUT / 2, "{opened_after:?}, {called_after:?}");
}

/// A balancer was frozen between the question for a stream and the answer; who took its address over knows of neither.
#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_before_it_opens_ends_the_calls_that_went_the_same_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let server = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("an address");
    let balancer = async {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut first = [0; 4];
            stream.read_exact(&mut first).await.expect("read");
            if &first != b"GET " {
                kept.push(stream);
            }
        }
    };
    let transport = transport(server);
    let began = tokio::time::Instant::now();
    let later = Duration::from_secs(7);
    let opening = async {
        tokio::time::sleep(later).await;
        transport.open_events().await.map(drop)
    };
    let calls = async { tokio::join!(transport.call::<_, ServerReply>("server", &()), opening) };
    let (called, opened) = tokio::select! {
        ended = calls => ended,
        () = balancer => unreachable!("it goes on for ever"),
    };
    assert!(matches!(opened, Err((TransportError::Unreachable(_), None))), "{opened:?}");
    assert!(matches!(called, Err(TransportError::Unreachable(_))), "{called:?}");
    assert!(began.elapsed() < later + STALL_TIMEOUT / 4, "{:?}", began.elapsed());
}

#[tokio::test]
async fn https_to_a_plain_port_is_told_as_such() {
    let (server, _task) = serve_once(response("400 Bad Request", "text/plain", b"")).await;
    let secure: ServerUrl = server.to_string().replace("http:", "https:").parse().expect("an address");
    let error = transport(secure).call::<_, ServerReply>("server", &()).await.expect_err("refused");
    assert!(matches!(error, TransportError::Tls(_)), "{error:?}");
}

#[test]
fn an_address_is_http_or_https_and_nothing_more() {
    for text in ["", "sync.example.org", "ftp://x", "http://user:secret@x", "http://x/?q", "http://x/#f", "http://"] {
        assert!(text.parse::<ServerUrl>().is_err(), "{text:?}");
    }
    let url: ServerUrl = "https://sync.example.org/".parse().expect("an address");
    assert_eq!(url.to_string(), "https://sync.example.org");
}

#[derive(Default)]
struct MemoryFiles {
    contents: Vec<Vec<u8>>,
    changed: Vec<BlockHash>,
    /// What is read for comparison.
    stretches: Vec<u8>,
    written: Mutex<Vec<Vec<u8>>>,
    disk_error: Option<StepError>,
}

impl BlockFiles for MemoryFiles {
    fn read(&self, _: &[BlockSource]) -> Result<Vec<Vec<u8>>, Vec<BlockHash>> {
        if self.changed.is_empty() { Ok(self.contents.clone()) } else { Err(self.changed.clone()) }
    }

    fn read_stretch(&self, _: &LocalPath, offset: u64, len: usize) -> Vec<u8> {
        let whole = self.stretches.get(usize::try_from(offset).expect("fits")..).unwrap_or_default();
        whole[..len.min(whole.len())].to_vec()
    }

    fn write(&self, _: &FetchBlock, _: u64, bytes: &[u8]) -> Result<(), StepError> {
        self.disk_error.clone().map_or(Ok(()), Err)?;
        self.written.lock().expect("not poisoned").push(bytes.to_vec());
        Ok(())
    }
}

fn source(bytes: &[u8]) -> BlockSource {
    BlockSource { hash: BlockHash::of(bytes), len: bytes.len() as u32, path: LocalPath::root(), offset: 0 }
}

#[tokio::test]
async fn an_upload_sends_head_and_blocks() {
    let answer =
        response("200 OK", api::CONTENT_TYPE, &api::encode(&ChangesetReply { outcome: None, unmade: Vec::new() }));
    let (server, task) = serve_once(answer).await;
    let files = Arc::new(MemoryFiles { contents: vec![b"first".to_vec(), b"second".to_vec()], ..Default::default() });
    let request =
        Request::Changeset { blocks: vec![source(b"first"), source(b"second")], former: Vec::new(), commit: None };
    assert_eq!(transport(server).perform(request, files).await, Ok(Reply::Changeset { outcome: None }));
    let received = task.await.expect("served");
    let head = ChangesetHead {
        blocks: [b"first".as_slice(), b"second"]
            .map(|bytes| BlockHeader { hash: BlockHash::of(bytes), len: bytes.len() as u32 })
            .into(),
        bases: None,
        commit: None,
    };
    let frame = Frame { form: Form::Plain, blocks: 2, len: 11 };
    let head = codec::encode_head(&SentHead::of(head));
    let body = [head.as_slice(), &frame.to_bytes(), b"firstsecond"].concat();
    assert!(received.ends_with(&body));
    assert!(!body.windows(32).any(|bytes| bytes == BlockHash::of(b"first").0), "no block is named");
}

#[tokio::test]
async fn a_commit_of_small_files_whose_blocks_are_there_is_a_bundle_of_which_none_follows() {
    let outcome = CommitOutcome::Accepted { head: Position(9), time: Timestamp(7) };
    let body = api::encode(&ChangesetReply { outcome: Some(outcome.clone()), unmade: Vec::new() });
    let file = |n: u8| {
        let body =
            Body::File { blocks: Blocklist(vec![BlockHash([n; 32])]), size: 5, executable: false, mtime: Mtime(0) };
        let name = Name::parse(&n.to_string()).expect("legal");
        Operation::Create { node: NodeId([n; 16]), parent: NodeId([1; 16]), name, body }
    };
    let (namespace, key) = (NamespaceId([1; 16]), CommitKey([4; 16]));
    let commit = |files: &[u8]| {
        let operations = files.iter().map(|n| file(*n)).collect();
        SentCommit::from(Commit { namespace, epoch: Epoch(1), key, seen: Position(3), operations })
    };
    let files = Arc::new(MemoryFiles::default());
    let (server, task) = serve_once(response("200 OK", api::CONTENT_TYPE, &body)).await;
    let reply = transport(server).perform(Request::Commit(commit(&[1, 2])), files.clone()).await;
    assert_eq!(reply, Ok(Reply::Commit(outcome.clone())));
    assert!(task.await.expect("served").starts_with(b"POST /sync/v1/changeset "));

    let without = Thrift { bundles: false, ..Thrift::default() };
    for (thrift, files_of) in [(Thrift::default(), [1].as_slice()), (without, &[1, 2])] {
        let (server, task) = serve_once(response("200 OK", api::CONTENT_TYPE, &api::encode(&outcome))).await;
        let transport = transport(server).with_thrift(thrift);
        let reply = transport.perform(Request::Commit(commit(files_of)), files.clone()).await;
        assert_eq!(reply, Ok(Reply::Commit(outcome.clone())));
        assert!(task.await.expect("served").starts_with(b"POST /sync/v1/commit "));
    }
}

#[tokio::test]
async fn a_file_that_changed_ends_the_upload_before_it_begins() {
    let files = Arc::new(MemoryFiles { changed: vec![BlockHash([7; 32])], ..Default::default() });
    let request = Request::Changeset { blocks: vec![source(b"first")], former: Vec::new(), commit: None };
    // Nothing listens there: the call must not try to connect.
    let server = "http://127.0.0.1:1".parse().expect("an address");
    let reply = transport(server).perform(request, files).await;
    assert_eq!(reply, Ok(Reply::SourceChanged { blocks: vec![BlockHash([7; 32])] }));
}

#[tokio::test]
async fn what_the_server_refuses_is_checked_before_it_counts_as_refused() {
    let refusal = ApiError::new(ErrorCode::BadRequest, "the bytes sent are another block");
    for (content, expected) in [
        (b"First", Ok(Reply::SourceChanged { blocks: vec![BlockHash::of(b"first")] })),
        (b"first", Err(TransportError::Refused(refusal.clone()))),
    ] {
        let answer = response("400 Bad Request", api::CONTENT_TYPE, &api::encode(&refusal));
        let (server, _task) = serve_once(answer).await;
        let files = Arc::new(MemoryFiles { contents: vec![content.to_vec()], ..Default::default() });
        let request = Request::Changeset { blocks: vec![source(b"first")], former: Vec::new(), commit: None };
        assert_eq!(transport(server).perform(request, files).await, expected);
    }
}

async fn fetch(body: Vec<u8>, files: Arc<MemoryFiles>) -> Result<Reply, TransportError> {
    let (server, _task) = serve_once(response("200 OK", api::CONTENT_TYPE, &body)).await;
    let block = |bytes: &[u8]| FetchBlock { hash: BlockHash::of(bytes), len: bytes.len() as u32, to: Vec::new() };
    let blocks = vec![block(b"first"), block(b"second")];
    let request = Request::Fetch { namespace: NamespaceId([1; 16]), blocks, bases: Vec::new() };
    transport(server).perform(request, files).await
}

fn blocks_body(second: &[u8]) -> Vec<u8> {
    let header = |bytes: &[u8]| BlockHeader { hash: BlockHash::of(bytes), len: bytes.len() as u32 };
    let head = BlocksHead { blocks: vec![header(b"first"), header(b"second")], unavailable: vec![] };
    let frame = |len| Frame { form: Form::Plain, blocks: 1, len }.to_bytes();
    [codec::encode_head(&head).as_slice(), &frame(5), b"first", &frame(6), second].concat()
}

fn fetched(written: &[&[u8]], disk: Option<StepError>) -> Result<Reply, TransportError> {
    let written = written.iter().map(|bytes| BlockHash::of(bytes)).collect();
    Ok(Reply::Fetched { written, unavailable: vec![], disk })
}

/// News with these contents; then a transport that finds no server any more.
async fn told(news: Vec<(&[u8], SmallContent)>) -> Transport {
    let entries = news.iter().map(|(content, _)| edit_to(content)).collect();
    let page =
        NamespaceChanges { namespace: NamespaceId([1; 16]), role: Some(Role::Owner), entries, head: Position(1) };
    let changes = ChangesReply { namespaces: vec![page] };
    let contents = (0..).zip(news).map(|(entry, (_, content))| SmallContent { entry, ..content }).collect();
    let reply = NewsReply { changes: changes.clone(), contents };
    let (server, task) = serve_once(response("200 OK", api::CONTENT_TYPE, &api::encode(&reply))).await;
    let transport = transport(server);
    let request = ChangesRequest { instance: InstanceId([1; 16]), epoch: Epoch(1), cursor: [].into() };
    let told = transport.perform(Request::Changes(request), Arc::new(MemoryFiles::default())).await;
    assert_eq!(told, Ok(Reply::Changes(changes)));
    assert!(task.await.expect("served").starts_with(b"POST /sync/v1/news "));
    transport
}

fn edit_to(content: &[u8]) -> JournalEntry {
    let mut hasher = model::block::BlockHasher::new();
    hasher.update(content);
    let (blocks, size) = hasher.finish();
    JournalEntry {
        position: Position(1),
        node: NodeId([2; 16]),
        change: Change::Edit { body: Body::File { blocks, size, executable: false, mtime: Mtime(0) } },
        device: None,
        time: Timestamp(0),
    }
}

fn small<'a>(content: &'a [u8], form: Form, bases: &[&[u8]], bytes: &[u8]) -> (&'a [u8], SmallContent) {
    let bases = bases.iter().map(|base| HashStart::of(&BlockHash::of(base))).collect();
    (content, SmallContent { entry: 0, first: 0, count: 1, form: form.code(), bases, bytes: bytes.to_vec() })
}

#[tokio::test]
async fn what_came_along_is_not_asked_for() {
    let transport = told(vec![small(b"first", Form::Plain, &[], b"first")]).await;
    let files = Arc::new(MemoryFiles::default());
    let block = |bytes: &[u8]| FetchBlock { hash: BlockHash::of(bytes), len: bytes.len() as u32, to: Vec::new() };
    let fetch =
        |content| Request::Fetch { namespace: NamespaceId([1; 16]), blocks: vec![block(content)], bases: vec![] };
    assert_eq!(transport.perform(fetch(b"first"), files.clone()).await, fetched(&[b"first"], None));
    assert_eq!(*files.written.lock().expect("not poisoned"), [b"first".to_vec()]);
    let again = transport.perform(fetch(b"first"), files.clone()).await;
    assert!(matches!(again, Err(TransportError::Unreachable(_))), "it serves once");
}

/// A reply to `bundle` that tells of a new file and brings `content` for it; and what it tells.
fn bundled(content: &[u8]) -> (Vec<u8>, ChangesReply) {
    let blocks = Blocklist(vec![BlockHash::of(b"first")]);
    let body = Body::File { blocks, size: 5, executable: false, mtime: Mtime(0) };
    let change = Change::Create { parent: NodeId([1; 16]), name: Name::parse("a").expect("legal"), body };
    let entry = JournalEntry { position: Position(1), node: NodeId([2; 16]), change, device: None, time: Timestamp(0) };
    let (namespace, role) = (NamespaceId([1; 16]), Some(Role::Owner));
    let page = NamespaceChanges { namespace, role, entries: vec![entry], head: Position(1) };
    let told = ChangesReply { namespaces: vec![page] };
    let head = api::encode(&NewsBundle::of(told.clone(), |_, _| true).0);
    let frame = Frame { form: Form::Plain, blocks: 1, len: 5 };
    ([head.as_slice(), &frame.to_bytes(), content].concat(), told)
}

#[tokio::test]
async fn what_came_in_the_place_of_its_name_is_written_as_it_came() {
    let (body, told) = bundled(b"first");
    let (server, task) = serve_once(response("200 OK", api::CONTENT_TYPE, &body)).await;
    let (transport, files) = (transport(server), Arc::new(MemoryFiles::default()));
    let request = ChangesRequest { instance: InstanceId([1; 16]), epoch: Epoch(1), cursor: [].into() };
    assert_eq!(transport.perform(Request::News(request), files.clone()).await, Ok(Reply::Changes(told)));
    assert!(task.await.expect("served").starts_with(b"POST /sync/v1/bundle "));
    let blocks = vec![FetchBlock { hash: BlockHash::of(b"first"), len: 5, to: Vec::new() }];
    let fetch = Request::Fetch { namespace: NamespaceId([1; 16]), blocks, bases: Vec::new() };
    assert_eq!(transport.perform(fetch, files.clone()).await, fetched(&[b"first"], None));
    assert_eq!(*files.written.lock().expect("not poisoned"), [b"first".to_vec()]);
}

#[tokio::test]
async fn what_came_in_the_place_of_another_name_is_not_believed_and_the_journal_read_without_it() {
    let (body, _) = bundled(b"fIrst");
    let (server, task) = serve_once(response("200 OK", api::CONTENT_TYPE, &body)).await;
    let (transport, files) = (transport(server), Arc::new(MemoryFiles::default()));
    let request = ChangesRequest { instance: InstanceId([1; 16]), epoch: Epoch(1), cursor: [].into() };
    // The second call, for `news`, finds nobody: that it was made is what counts.
    let reply = transport.perform(Request::News(request.clone()), files.clone()).await;
    assert!(matches!(reply, Err(TransportError::Unreachable(_))), "{reply:?}");
    assert!(task.await.expect("served").starts_with(b"POST /sync/v1/bundle "));

    let reply = NewsReply { changes: ChangesReply { namespaces: Vec::new() }, contents: Vec::new() };
    for thrift in
        [Thrift { bundles: false, ..Thrift::default() }, Thrift { small_contents: false, ..Thrift::default() }]
    {
        let (server, task) = serve_once(response("200 OK", api::CONTENT_TYPE, &api::encode(&reply))).await;
        let other = Transport::new(server, None, Arc::new(Bandwidth::new(Limits::default())))
            .expect("a client")
            .with_thrift(thrift);
        other.perform(Request::News(request.clone()), files.clone()).await.ok();
        assert!(!task.await.expect("served").starts_with(b"POST /sync/v1/bundle "));
    }
}

#[tokio::test]
async fn a_delta_that_came_along_is_made_from_the_old_block_here() {
    let mut script = delta::Writer::default();
    script.copy(0, 0, 3);
    script.insert(b" and new");
    let along = small(b"old and new", Form::Delta, &[b"old"], &script.finish());
    for (bases, made) in [(vec![source(b"old")], true), (vec![], false)] {
        let transport = told(vec![along.clone()]).await;
        let files = Arc::new(MemoryFiles { stretches: b"old".to_vec(), ..Default::default() });
        let blocks = vec![FetchBlock { hash: BlockHash::of(b"old and new"), len: 11, to: Vec::new() }];
        let request = Request::Fetch { namespace: NamespaceId([1; 16]), blocks, bases };
        let reply = transport.perform(request, files).await;
        if made {
            assert_eq!(reply, fetched(&[b"old and new"], None));
        } else {
            assert!(matches!(reply, Err(TransportError::Unreachable(_))), "{reply:?}");
        }
    }
}

#[tokio::test]
async fn blocks_that_moved_came_along_as_one_delta_and_are_made_each_when_it_is_wanted() {
    let block = usize::try_from(model::BLOCK_SIZE).expect("fits");
    let old: Vec<u8> = (0..2 * block + 10).map(|at| (at / 1000 % 251) as u8).collect();
    let new = [b"new", old.as_slice()].concat();
    let mut script = delta::Writer::default();
    script.insert(b"new");
    script.copy(0, 0, old.len());
    let script = script.finish();
    let bases: Vec<&[u8]> = old.chunks(block).collect();
    let (_, content) = small(&new, Form::Delta, &bases, &script);
    assert!(content.bytes.len() < 20);
    let transport = told(vec![(&new, SmallContent { count: 3, ..content })]).await;
    let files = Arc::new(MemoryFiles { stretches: old.clone(), ..Default::default() });
    let here = |(at, base): (usize, &&[u8])| BlockSource { offset: (at * block) as u64, ..source(base) };
    let here: Vec<BlockSource> = bases.iter().enumerate().map(here).collect();
    for wanted in new.chunks(block) {
        let hash = BlockHash::of(wanted);
        let blocks = vec![FetchBlock { hash, len: wanted.len() as u32, to: Vec::new() }];
        let request = Request::Fetch { namespace: NamespaceId([1; 16]), blocks, bases: here.clone() };
        assert_eq!(transport.perform(request, files.clone()).await, fetched(&[wanted], None));
    }
    assert_eq!(files.written.lock().expect("not poisoned").concat(), new);
}

#[tokio::test]
async fn what_came_along_damaged_is_fetched_as_if_it_had_not() {
    let transport = told(vec![
        small(b"first", Form::Plain, &[], b"FIRST"),
        small(b"first", Form::Zstd, &[], b"no zstd"),
        small(b"first", Form::Delta, &[b"base"], b"no script"),
        (b"first", SmallContent { form: 77, ..small(b"first", Form::Plain, &[], b"first").1 }),
        (b"first", SmallContent { count: 2, ..small(b"first", Form::Plain, &[], b"first").1 }),
        (b"first", SmallContent { first: 1, ..small(b"first", Form::Plain, &[], b"first").1 }),
        small(b"first", Form::Plain, &[], b"longer than it says"),
    ])
    .await;
    let files = Arc::new(MemoryFiles::default());
    let blocks = vec![FetchBlock { hash: BlockHash::of(b"first"), len: 5, to: Vec::new() }];
    let request = Request::Fetch { namespace: NamespaceId([1; 16]), blocks, bases: Vec::new() };
    assert!(matches!(transport.perform(request, files.clone()).await, Err(TransportError::Unreachable(_))));
    assert!(files.written.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn a_server_without_news_is_asked_for_changes() {
    let error = api::encode(&ApiError::new(ErrorCode::NotFound, "no such call"));
    let (server, _task) = serve_once(response("404 Not Found", api::CONTENT_TYPE, &error)).await;
    let transport = transport(server);
    let request = ChangesRequest { instance: InstanceId([1; 16]), epoch: Epoch(1), cursor: [].into() };
    let files = Arc::new(MemoryFiles::default());
    // The second call finds nobody: that it was made is what counts.
    let reply = transport.perform(Request::Changes(request.clone()), files.clone()).await;
    assert!(matches!(reply, Err(TransportError::Unreachable(_))), "{reply:?}");
    let thrifty = transport.with_thrift(Thrift { small_contents: false, ..Thrift::default() });
    assert!(matches!(thrifty.perform(Request::Changes(request), files).await, Err(TransportError::Unreachable(_))));
}

#[tokio::test]
async fn downloaded_blocks_are_written() {
    let files = Arc::new(MemoryFiles::default());
    assert_eq!(fetch(blocks_body(b"second"), Arc::clone(&files)).await, fetched(&[b"first", b"second"], None));
    assert_eq!(*files.written.lock().expect("not poisoned"), [b"first".to_vec(), b"second".to_vec()]);
}

#[tokio::test]
async fn a_damaged_block_is_never_written() {
    let files = Arc::new(MemoryFiles::default());
    assert_eq!(fetch(blocks_body(b"sEcond"), Arc::clone(&files)).await, fetched(&[b"first"], None));
    assert_eq!(*files.written.lock().expect("not poisoned"), [b"first".to_vec()]);
}

/// Its first pieces are in the temporary file by the time it shows. So the block is asked for again, and the file is
/// installed only when all its blocks have been right.
#[tokio::test]
async fn a_damaged_large_block_does_not_count() {
    for damaged in [false, true] {
        let block: Vec<u8> = (0..1_500_000_u32).map(|n| (n % 251) as u8).collect();
        let header = BlockHeader { hash: BlockHash::of(&block), len: block.len() as u32 };
        let head = BlocksHead { blocks: vec![header], unavailable: vec![] };
        let frame = Frame { form: Form::Plain, blocks: 1, len: header.len }.to_bytes();
        let mut body = [codec::encode_head(&head).as_slice(), &frame, &block].concat();
        *body.last_mut().expect("not empty") ^= u8::from(damaged);
        let (server, _task) = serve_once(response("200 OK", api::CONTENT_TYPE, &body)).await;
        let wanted = FetchBlock { hash: header.hash, len: header.len, to: Vec::new() };
        let request = Request::Fetch { namespace: NamespaceId([1; 16]), blocks: vec![wanted], bases: Vec::new() };
        let reply = transport(server).perform(request, Arc::new(MemoryFiles::default())).await;
        assert_eq!(reply.is_err(), damaged, "{reply:?}");
    }
}

#[tokio::test]
async fn what_arrived_before_a_download_broke_off_counts() {
    let reply = fetch(blocks_body(b"sec"), Arc::new(MemoryFiles::default())).await;
    assert_eq!(reply, fetched(&[b"first"], None));
    let head_only = blocks_body(b"")[..30].to_vec();
    let reply = fetch(head_only, Arc::new(MemoryFiles::default())).await;
    assert!(matches!(reply, Err(TransportError::Unreachable(_))), "{reply:?}");
}

/// Fetches one block, of which the server sends `script` over the only base and nothing else.
async fn fetch_by_delta(block: &[u8], script: Vec<u8>, files: Arc<MemoryFiles>) -> Result<Reply, TransportError> {
    let head = BlocksHead {
        blocks: vec![BlockHeader { hash: BlockHash::of(block), len: block.len() as u32 }],
        unavailable: vec![],
    };
    let frame = Frame { form: Form::Delta, blocks: 1, len: script.len() as u32 }.to_bytes();
    let body = [codec::encode_head(&head), frame.to_vec(), script].concat();
    let (server, _task) = serve_once(response("200 OK", api::CONTENT_TYPE, &body)).await;
    let wanted = FetchBlock { hash: BlockHash::of(block), len: block.len() as u32, to: Vec::new() };
    let bases = vec![BlockSource { len: 9, ..source(b"old bytes") }];
    let request = Request::Fetch { namespace: NamespaceId([1; 16]), blocks: vec![wanted], bases };
    transport(server).perform(request, files).await
}

fn grown(more: &[u8]) -> Vec<u8> {
    let mut writer = delta::Writer::default();
    writer.copy(0, 0, 9);
    writer.insert(more);
    writer.finish()
}

#[tokio::test]
async fn a_block_is_made_of_what_the_disk_has_of_it() {
    let files = Arc::new(MemoryFiles { stretches: b"old bytes".to_vec(), ..Default::default() });
    let block = b"old bytes and many new ones";
    let reply = fetch_by_delta(block, grown(b" and many new ones"), Arc::clone(&files)).await;
    assert_eq!(reply, fetched(&[block], None));
    assert_eq!(*files.written.lock().expect("not poisoned"), [block.to_vec()]);
}

/// Then it is asked for once more, which this server does not answer.
#[tokio::test]
async fn what_a_delta_makes_of_other_bytes_is_never_written() {
    for stretches in [b"new bytes".to_vec(), b"old".to_vec(), Vec::new()] {
        let files = Arc::new(MemoryFiles { stretches, ..Default::default() });
        let script = grown(b" and many new ones");
        let reply = fetch_by_delta(b"old bytes and many new ones", script, Arc::clone(&files)).await;
        assert!(matches!(reply, Err(TransportError::Unreachable(_))), "{reply:?}");
        assert!(files.written.lock().expect("not poisoned").is_empty());
    }
}

#[tokio::test]
async fn a_full_disk_is_told_as_such() {
    let files = Arc::new(MemoryFiles { disk_error: Some(StepError::NoSpace), ..Default::default() });
    assert_eq!(fetch(blocks_body(b"second"), files).await, fetched(&[], Some(StepError::NoSpace)));
}
