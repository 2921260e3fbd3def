//! Streams of server-sent events on bare connections, for an edge that holds very many of them.
//!
//! An idle stream must cost little memory, and a general HTTP server keeps buffers for each connection that a
//! stream never needs again. So this reads one request, whose head is bounded in bytes and time, answers it,
//! and then holds only the socket, the subscription and the time of the next keep-alive. A connection serves
//! one request. What a slow reader does not take within [`WRITE_PATIENCE`] ends its stream.

use crate::edge::Edge;
use crate::events::{coming_frame, head_frame, keep_alive_frame, retry_frame, spread};
use crate::hub::{Ending, News, Subscription};
use api::{ApiError, CONTENT_TYPE, ErrorCode, PREFIX, Token, codec};
use bytes::Bytes;
use model::limits;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

/// Bytes of a request's head.
const HEAD_BYTES: usize = 8 * 1024;
/// Headers of a request.
const HEADERS: usize = 64;
/// How long a request's head may take to arrive.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a reader may take for one frame.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a refused client may take to hang up, and the bytes that are read from it until then: closing
/// with something unread would take the answer from it.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(2);
const FAREWELL_BYTES: u64 = 64 * 1024;
/// How the answer to `GET events` begins. The stream ends with its connection.
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\
                           x-accel-buffering: no\r\nconnection: close\r\n\r\n";

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Events(Token),
    /// `GET events` without a token.
    Anonymous,
    Health,
    Unknown,
}

/// Serves a connection to its end.
pub async fn serve_connection(edge: Arc<Edge>, mut stream: TcpStream) {
    if let Err(error) = serve(&edge, &mut stream).await {
        tracing::debug!(%error, "a stream ended with its connection");
    }
}

async fn serve(edge: &Edge, stream: &mut TcpStream) -> io::Result<()> {
    let asked = timeout(HEAD_PATIENCE, read_head(stream)).await??;
    let opened = match asked {
        Some(Asked::Events(token)) => edge.open(token).await,
        Some(Asked::Anonymous) => Err(ApiError::new(ErrorCode::Unlinked, "the request has no device token")),
        Some(Asked::Unknown) => Err(ApiError::new(ErrorCode::NotFound, "this server has no such call")),
        Some(Asked::Health) => return answer(stream, 200, "text/plain", b"ok\n", None).await,
        None => Err(ApiError::new(ErrorCode::BadRequest, "the request's head is malformed or too long")),
    };
    match opened {
        Ok(subscription) => write_events(edge, stream, &subscription).await,
        Err(error) => {
            let status = error.code.http_status();
            answer(stream, status, CONTENT_TYPE, &codec::encode(&error), error.retry_after_ms).await
        }
    }
}

/// What the client asks for; `None` if that cannot be understood.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<Asked>> {
    let mut head = Vec::with_capacity(512);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match parse(&head) {
            Parsed::Whole(asked) => return Ok(Some(asked)),
            Parsed::Partial if head.len() < HEAD_BYTES => {}
            Parsed::Partial | Parsed::Malformed => return Ok(None),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Whole(Asked),
    Partial,
    Malformed,
}

fn parse(head: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => Parsed::Whole(asked(&request)),
        Ok(httparse::Status::Partial) => Parsed::Partial,
        Err(_) => Parsed::Malformed,
    }
}

fn asked(request: &httparse::Request<'_, '_>) -> Asked {
    let path = request.path.unwrap_or_default().split('?').next().unwrap_or_default();
    match (request.method, path.strip_prefix(PREFIX)) {
        (Some("GET"), Some("/events")) => {
            let bearer = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("authorization"));
            let text = bearer.and_then(|header| std::str::from_utf8(header.value).ok());
            text.and_then(Token::from_authorization).map_or(Asked::Anonymous, Asked::Events)
        }
        (Some("GET"), None) if path == "/healthz" => Asked::Health,
        _ => Asked::Unknown,
    }
}

async fn answer(
    stream: &mut TcpStream,
    status: u16,
    content_type: &str,
    body: &[u8],
    retry_after_ms: Option<u32>,
) -> io::Result<()> {
    let retry = retry_after_ms.map(|ms| format!("retry-after: {}\r\n", ms.div_ceil(1000))).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status} \r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n{retry}connection: close\r\n\r\n",
        body.len()
    );
    write(stream, &[head.as_bytes(), body].concat()).await?;
    stream.shutdown().await?;
    let rest = async { tokio::io::copy(&mut stream.take(FAREWELL_BYTES), &mut tokio::io::sink()).await };
    timeout(FAREWELL_PATIENCE, rest).await.map_or(Ok(()), |rest| rest.map(drop))
}

async fn write_events(edge: &Edge, stream: &mut TcpStream, subscription: &Subscription) -> io::Result<()> {
    let mut told = spread(edge.hub().streams());
    let greeting = [STREAM_HEAD.as_bytes(), &retry_frame(told)].concat();
    write(stream, &greeting).await?;
    drop(greeting);
    let mut keep_alive = Instant::now() + limits::SSE_KEEP_ALIVE;
    loop {
        let (frame, last) = tokio::select! {
            news = subscription.news() => match news {
                News::Reached(notifications) => (head_frame(&notifications), false),
                News::Coming(namespaces) => (coming_frame(&namespaces), false),
                News::Ended(Ending::Shutdown) => (retry_frame(spread(edge.hub().streams())), true),
                // The next request of an unlinked device tells it why; a displaced one may come back.
                News::Ended(Ending::Unlinked | Ending::Displaced) => (Bytes::from_static(b":\n\n"), true),
                // What is reviewed hears no such thing.
                News::MembershipsChanged => continue,
            },
            () = sleep_until(keep_alive) => {
                keep_alive = Instant::now() + limits::SSE_KEEP_ALIVE;
                (keep_alive_frame(&mut told, spread(edge.hub().streams())), false)
            }
            () = hung_up(stream) => return Ok(()),
        };
        write(stream, &frame).await?;
        if last {
            return stream.shutdown().await;
        }
    }
}

/// Waits until the client has closed the connection, or says something, which it has no reason to.
async fn hung_up(stream: &TcpStream) {
    loop {
        let said = match stream.readable().await {
            Ok(()) => stream.try_read(&mut [0; 1]),
            Err(error) => Err(error),
        };
        if !matches!(said, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            return;
        }
    }
}

async fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    timeout(WRITE_PATIENCE, stream.write_all(bytes)).await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::{Identified, MetaForEdge};
    use api::service::{Announce, Followed, Identity, MetaForNotification};
    use model::{AccountId, DeviceId, NamespaceId, Position};
    use service_calls::Links;
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    fn request(line: &str, headers: &str) -> Vec<u8> {
        format!("{line} HTTP/1.1\r\nhost: x\r\n{headers}\r\n").into_bytes()
    }

    #[test]
    fn a_head_is_understood_when_it_is_whole() {
        let token = Token([7; 32]);
        let bytes = request("GET /sync/v1/events", &format!("Authorization: Bearer {}\r\n", token.to_hex()));
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Parsed::Partial);
        }
        assert_eq!(parse(&bytes), Parsed::Whole(Asked::Events(token)));
    }

    #[test]
    fn what_is_no_request_for_events_is_told_apart() {
        let asked = |line, headers| parse(&request(line, headers));
        assert_eq!(asked("GET /sync/v1/events?x=1", ""), Parsed::Whole(Asked::Anonymous));
        assert_eq!(asked("GET /sync/v1/events", "authorization: Bearer 77\r\n"), Parsed::Whole(Asked::Anonymous));
        assert_eq!(asked("POST /sync/v1/events", ""), Parsed::Whole(Asked::Unknown));
        assert_eq!(asked("GET /sync/v1/changes", ""), Parsed::Whole(Asked::Unknown));
        assert_eq!(asked("GET /healthz", ""), Parsed::Whole(Asked::Health));
        assert_eq!(parse(b"\x16\x03\x01 no HTTP\r\n\r\n"), Parsed::Malformed);
        let many = "x: y\r\n".repeat(HEADERS);
        assert_eq!(asked("GET /healthz", &many), Parsed::Malformed);
    }

    const SPACE: NamespaceId = NamespaceId([1; 16]);

    /// A meta service with one device, which follows what the test says.
    struct Meta(Vec<(NamespaceId, Position)>);

    impl MetaForNotification for Meta {
        fn authenticate(&self, token: &Token) -> Result<Identity, ApiError> {
            let who = Identity { account: AccountId([1; 16]), device: DeviceId([2; 16]) };
            if token.0 == [7; 32] { Ok(who) } else { Err(ApiError::new(ErrorCode::Unlinked, "not linked")) }
        }

        fn heads(&self, _: AccountId) -> Result<Followed, ApiError> {
            Ok(self.0.clone())
        }

        fn review(&self, devices: &[Identity]) -> Result<Vec<Option<Followed>>, ApiError> {
            devices.iter().map(|who| self.heads(who.account).map(Some)).collect()
        }
    }

    impl MetaForEdge for Meta {
        fn identify<'a>(&'a self, token: &'a Token) -> Identified<'a> {
            Box::pin(std::future::ready(self.authenticate(token)))
        }
    }

    /// A connection to an edge, which serves it.
    async fn connect(heads: &[(NamespaceId, Position)]) -> (Arc<Edge>, TcpStream, JoinHandle<()>) {
        let edge = Edge::new(Arc::new(Meta(heads.to_vec())), Links::new(None, |_| 0), Vec::new());
        tokio::spawn(edge.clone().run());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let (server, _) = listener.accept().await.expect("accepts");
        (edge.clone(), client, tokio::spawn(serve_connection(edge, server)))
    }

    fn events(token: u8) -> Vec<u8> {
        request("GET /sync/v1/events", &format!("authorization: Bearer {}\r\n", Token([token; 32]).to_hex()))
    }

    /// Reads until what was said ends like this.
    async fn read_until(client: &mut TcpStream, end: &str) -> String {
        let mut said = Vec::new();
        while !said.ends_with(end.as_bytes()) {
            assert_ne!(client.read_buf(&mut said).await.expect("reads"), 0, "{}", String::from_utf8_lossy(&said));
        }
        String::from_utf8(said).expect("text")
    }

    #[tokio::test]
    async fn a_stream_greets_tells_its_heads_goes_on_and_says_when_to_come_back() {
        let (edge, mut client, served) = connect(&[(SPACE, Position(3))]).await;
        client.write_all(&events(7)).await.expect("writes");
        let head = read_until(&mut client, &format!("event: head\ndata: {SPACE} 3\n\n")).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"), "{head}");
        assert!(head.contains("\r\n\r\nretry: 2000\n\n"), "{head}");
        edge.hub().reached(SPACE, Position(4));
        assert_eq!(read_until(&mut client, "\n\n").await, format!("event: head\ndata: {SPACE} 4\n\n"));
        edge.hub().shut_down();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.expect("ends");
        assert_eq!(rest, "retry: 2000\n\n");
        served.await.expect("no panic");
        assert_eq!(edge.hub().streams(), 0);
    }

    #[tokio::test]
    async fn a_stream_whose_client_hangs_up_ends() {
        let (edge, mut client, served) = connect(&[(SPACE, Position(3))]).await;
        client.write_all(&events(7)).await.expect("writes");
        read_until(&mut client, " 3\n\n").await;
        drop(client);
        served.await.expect("no panic");
        assert_eq!(edge.hub().streams(), 0);
    }

    #[tokio::test]
    async fn a_stranger_is_refused_in_the_form_of_the_protocol() {
        let (edge, mut client, _served) = connect(&[]).await;
        client.write_all(&events(8)).await.expect("writes");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("ends");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        assert!(answer.starts_with(b"HTTP/1.1 401 \r\n"));
        assert_eq!(codec::decode::<ApiError>(&answer[end..]).expect("an error").code, ErrorCode::Unlinked);
        assert_eq!(edge.hub().streams(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_is_given_up() {
        let (_edge, mut client, served) = connect(&[]).await;
        client.write_all(b"GET /sync/v1/events HTTP/1.1\r\nx: ").await.expect("writes");
        let begun = Instant::now();
        served.await.expect("no panic");
        assert!(begun.elapsed() >= HEAD_PATIENCE);
        assert_eq!(client.read(&mut [0; 1]).await.expect("is closed"), 0);
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_is_refused() {
        let (_edge, mut client, served) = connect(&[]).await;
        let endless = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &[b'y'; HEAD_BYTES]].concat();
        client.write_all(&endless).await.expect("writes");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("ends");
        assert!(answer.starts_with(b"HTTP/1.1 400 "));
        drop(client);
        served.await.expect("no panic");
    }

    /// What it follows fills more than all buffers on the way.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_loses_its_stream() {
        let mut heads = Vec::new();
        for number in 0..200_000_u32 {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&number.to_le_bytes());
            heads.push((NamespaceId(id), Position(1)));
        }
        let (edge, mut client, served) = connect(&heads).await;
        client.write_all(&events(7)).await.expect("writes");
        served.await.expect("no panic");
        assert_eq!(edge.hub().streams(), 0);
    }
}
