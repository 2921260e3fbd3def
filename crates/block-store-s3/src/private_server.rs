//! An S3 server of one's own: in this process, on a free port of this machine, with its objects in a
//! temporary directory, and gone when it is dropped. It checks signatures, and fails on demand. For tests
//! and benchmarks.

use crate::{Credentials, S3Options};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::CONTENT_LENGTH;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError, HttpResponse};
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A running server with one bucket.
pub struct PrivateServer {
    folder: PathBuf,
    /// The folder, if it goes away with the server.
    temporary: Option<tempfile::TempDir>,
    address: SocketAddr,
    faults: Arc<Mutex<Faults>>,
    requests: Arc<AtomicU64>,
    stalled: Arc<AtomicU64>,
    link: Arc<Link>,
    /// `None` only while the server is dropped.
    runtime: Option<Runtime>,
}

/// What can become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Refused with this status, and nothing done.
    Status(u16),
    /// Nothing done, and no answer.
    Stall,
    /// Done, and answered with this status.
    DoneButStatus(u16),
    /// Done, and no answer.
    DoneButSilent,
    /// As [`Fault::Stall`], of a request to remove something. All others are served.
    StallRemoval,
    /// Done; the answer's body breaks off.
    BrokenBody,
    /// Done; the answer's body lacks its second half, and its length says nothing of it.
    ShortBody,
}

/// Which requests fail.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Of a thousand requests.
    pub per_mille: u64,
    pub kinds: &'static [Fault],
    pub seed: u64,
}

impl Faults {
    /// None at all.
    pub const NONE: Self = Self { per_mille: 0, kinds: &[], seed: 1 };

    /// All that a server was seen to do.
    pub const ALL_KINDS: &'static [Fault] = &[
        Fault::Status(500),
        Fault::Status(503),
        Fault::Stall,
        Fault::DoneButStatus(500),
        Fault::DoneButSilent,
        Fault::BrokenBody,
        Fault::ShortBody,
    ];

    fn next(&mut self) -> Option<Fault> {
        let mut draw = || {
            self.seed ^= self.seed << 13;
            self.seed ^= self.seed >> 7;
            self.seed ^= self.seed << 17;
            self.seed >> 11
        };
        let (hit, kind) = (draw() % 1000, draw());
        let kinds = u64::try_from(self.kinds.len()).unwrap_or(0);
        if hit >= self.per_mille || kinds == 0 {
            return None;
        }
        self.kinds.get(usize::try_from(kind % kinds).unwrap_or(0)).copied()
    }
}

impl PrivateServer {
    /// The bucket that there is.
    pub const BUCKET: &str = "blocks";
    /// The key that requests are signed with.
    pub const KEY_ID: &str = "a key of the tests";
    /// Its secret.
    pub const SECRET: &str = "a secret of the tests";

    /// Starts a server.
    ///
    /// # Panics
    /// With a sentence that says why, if that is not possible.
    #[must_use]
    pub fn start() -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory for the S3 server can be made");
        let mut server = Self::open(temporary.path(), (Ipv4Addr::LOCALHOST, 0).into());
        server.temporary = Some(temporary);
        server
    }

    /// Starts a server whose objects stay in a folder, on an address.
    ///
    /// # Panics
    /// As [`PrivateServer::start`].
    #[must_use]
    pub fn open(folder: &Path, address: SocketAddr) -> Self {
        std::fs::create_dir_all(folder.join(Self::BUCKET)).expect("a bucket can be made");
        let files = s3s_fs::FileSystem::new(folder).expect("the S3 server opens its directory");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(Self::KEY_ID, Self::SECRET));
        let faults = Arc::new(Mutex::new(Faults::NONE));
        let requests = Arc::new(AtomicU64::new(0));
        let stalled = Arc::new(AtomicU64::new(0));
        let link = Arc::new(Link::default());
        let service = Failing {
            inner: builder.build(),
            faults: faults.clone(),
            requests: requests.clone(),
            stalled: stalled.clone(),
            link: link.clone(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads for the S3 server can be started");
        let listener =
            runtime.block_on(TcpListener::bind(address)).expect("the S3 server gets its port of this machine");
        let address = listener.local_addr().expect("the S3 server has an address");
        runtime.spawn(accept(listener, service));
        Self {
            folder: folder.to_owned(),
            temporary: None,
            address,
            faults,
            requests,
            stalled,
            link,
            runtime: Some(runtime),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL of a place in the bucket, as the server's settings take it.
    #[must_use]
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}?endpoint={}", Self::BUCKET, self.endpoint())
    }

    /// A place in the bucket.
    ///
    /// # Panics
    /// For a prefix that no URL can hold.
    #[must_use]
    pub fn options(&self, prefix: &str) -> S3Options {
        S3Options::from_url(&self.url(prefix)).expect("the prefix can stand in a URL")
    }

    /// What its requests are signed with.
    #[must_use]
    pub fn credentials() -> Credentials {
        Credentials::new(Self::KEY_ID.into(), Self::SECRET.into(), None)
    }

    /// The same as a file that the server's settings can name.
    #[must_use]
    pub fn credentials_text() -> String {
        format!("aws_access_key_id = {}\naws_secret_access_key = {}\n", Self::KEY_ID, Self::SECRET)
    }

    /// Where the objects are as files.
    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.folder.join(Self::BUCKET)
    }

    /// How many requests have come since the start.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// From now on what is written comes over a link of so many bytes per second; 0 is one without a bound.
    pub fn set_bandwidth(&self, bytes_per_second: u64) {
        self.link.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// How many requests were stalled since the start.
    #[must_use]
    pub fn stalled(&self) -> u64 {
        self.stalled.load(Ordering::Relaxed)
    }

    /// From now on requests fail like this.
    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        drop(self.temporary.take());
    }
}

async fn accept(listener: TcpListener, service: Failing) {
    while let Ok((connection, _)) = listener.accept().await {
        let serving = http1::Builder::new().serve_connection(TokioIo::new(connection), service.clone());
        // A connection that breaks concerns its client alone.
        tokio::spawn(async move { drop(serving.await) });
    }
}

/// What writes share.
#[derive(Debug, Default)]
struct Link {
    bytes_per_second: AtomicU64,
    turns: tokio::sync::Mutex<()>,
}

impl Link {
    /// Waits as long as the request's body takes, piece by piece in turn with the others.
    async fn pass<B>(&self, request: &Request<B>) {
        /// Pieces of one body.
        const PIECES: u32 = 10;
        let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let bytes_per_second = self.bytes_per_second.load(Ordering::Relaxed);
        if bytes_per_second == 0 || request.method() != Method::PUT {
            return;
        }
        let piece = Duration::from_micros(length.unwrap_or(0) * 1_000_000 / bytes_per_second) / PIECES;
        for _ in 0..PIECES {
            let turn = self.turns.lock().await;
            tokio::time::sleep(piece).await;
            drop(turn);
        }
    }
}

/// The server behind its faults.
#[derive(Clone)]
struct Failing {
    inner: S3Service,
    faults: Arc<Mutex<Faults>>,
    requests: Arc<AtomicU64>,
    stalled: Arc<AtomicU64>,
    link: Arc<Link>,
}

impl Service<Request<Incoming>> for Failing {
    type Response = HttpResponse;
    type Error = HttpError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let fault = self.faults.lock().unwrap_or_else(PoisonError::into_inner).next();
        let (inner, stalled, link) = (self.inner.clone(), self.stalled.clone(), self.link.clone());
        let request = request.map(Body::from);
        Box::pin(async move {
            link.pass(&request).await;
            match fault {
                None => inner.call(request).await,
                Some(Fault::Status(status)) => Ok(refusal(status)),
                Some(Fault::StallRemoval) if request.method() != Method::DELETE => inner.call(request).await,
                Some(Fault::Stall | Fault::StallRemoval) => {
                    stalled.fetch_add(1, Ordering::Relaxed);
                    pending().await
                }
                Some(Fault::DoneButStatus(status)) => inner.call(request).await.map(|_| refusal(status)),
                Some(Fault::DoneButSilent) => {
                    drop(inner.call(request).await);
                    pending().await
                }
                Some(Fault::BrokenBody) => half(inner.call(request).await?, Length::Kept).await,
                Some(Fault::ShortBody) => half(inner.call(request).await?, Length::Fitted).await,
            }
        })
    }
}

fn refusal(status: u16) -> HttpResponse {
    let text = "<Error><Code>SlowDown</Code><Message>a fault, made on purpose</Message></Error>".to_owned();
    let mut response = HttpResponse::new(Body::from(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// What the header says of a body that was cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    Kept,
    Fitted,
}

/// An answer without the second half of its body. One without a body is left as it is.
async fn half(response: HttpResponse, length: Length) -> Result<HttpResponse, HttpError> {
    let (mut head, body) = response.into_parts();
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_else(|_| Bytes::new());
    if head.status.is_success() && bytes.len() > 1 {
        let announced = if length == Length::Kept { bytes.len() } else { bytes.len() / 2 };
        head.headers.insert(CONTENT_LENGTH, announced.into());
        return Ok(HttpResponse::from_parts(head, Body::from(bytes.slice(..bytes.len() / 2))));
    }
    Ok(HttpResponse::from_parts(head, Body::from(bytes)))
}
