//! Requests to one bucket: made on threads of their own, bounded in number and time, tried again.

use crate::options::{Credentials, S3Options};
use crate::retry::{Patience, RetryBudget};
use crate::width::{Outcome, Width};
use block_store::StoreError;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::path::Path;
use object_store::{
    Certificate, ClientOptions, Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
};
use std::error::Error as StdError;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

/// Requests under way at the same time; more wait. Bounds connections and open files.
const REQUESTS: usize = 64;
/// The longest that making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Threads that drive the requests. They hash and encrypt, so more than one; the waiting costs none.
const THREADS: usize = 4;

/// What made a request fail; shared because a failure is.
type Cause = Arc<dyn StdError + Send + Sync>;

/// "Not found", said of a request that names no object, or creates one.
#[derive(Debug, thiserror::Error)]
#[error("the server has no such bucket")]
struct NoSuchBucket;

/// A random number below its argument, which is not 0.
pub(crate) type Below = dyn Fn(u64) -> u64 + Send + Sync;

/// The bucket, for callers that block.
pub(crate) struct Bucket {
    /// `None` only while the bucket is dropped.
    runtime: Option<Runtime>,
    pub(crate) requests: Arc<Requests>,
}

/// What the requests share.
pub(crate) struct Requests {
    s3: AmazonS3,
    slots: Semaphore,
    writes: Width,
    patience: Patience,
    budget: RetryBudget,
    below: Arc<Below>,
    /// The bucket and the prefix, for messages.
    place: String,
    prefix: Path,
}

/// What became of a write that must not replace anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Created {
    Done,
    /// There was an object already, or the server does not know how to look.
    Undecided,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) path: Path,
    pub(crate) bytes: u64,
}

impl Bucket {
    pub(crate) fn new(
        options: &S3Options,
        credentials: Credentials,
        patience: Patience,
        below: Arc<Below>,
    ) -> Result<Self, StoreError> {
        let place = options.place();
        let failed = |what, source| StoreError::Remote { what, place: place.clone(), source };
        let s3 = client(options, credentials, patience).map_err(|error| failed("make a client for", error))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("syncline-s3")
            .enable_all()
            .build()
            .map_err(|error| failed("start threads for", Arc::new(error)))?;
        let requests = Requests {
            s3,
            slots: Semaphore::new(REQUESTS),
            writes: Width::new(REQUESTS, patience.attempt),
            patience,
            budget: RetryBudget::default(),
            below,
            place,
            prefix: Path::from(options.prefix.as_str()),
        };
        Ok(Self { runtime: Some(runtime), requests: Arc::new(requests) })
    }

    /// Runs `work` on the bucket's own threads and waits for it. The caller may be any thread, one of
    /// another runtime too.
    pub(crate) fn wait<T, F>(&self, work: impl FnOnce(Arc<Requests>) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (answer, answered) = mpsc::sync_channel(1);
        let work = work(self.requests.clone());
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move {
                // The receiver waits below; it cannot be gone.
                drop(answer.send(work.await));
            });
        }
        answered.recv().unwrap_or_else(|lost| Err(self.requests.failed("reach", Arc::new(lost))))
    }
}

/// A runtime must not be waited for on a thread of another one.
impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn client(options: &S3Options, credentials: Credentials, patience: Patience) -> Result<AmazonS3, Cause> {
    let plain = options.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let mut network = ClientOptions::new()
        .with_allow_http(plain)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(patience.attempt)
        .with_pool_max_idle_per_host(REQUESTS);
    if let Some(file) = &options.authority {
        let pem = std::fs::read(file).map_err(cause)?;
        for authority in Certificate::from_pem_bundle(&pem).map_err(cause)? {
            network = network.with_root_certificate(authority);
        }
    }
    // What is tried again, and when, is decided here and not in the library.
    let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&options.bucket)
        .with_region(&options.region)
        .with_virtual_hosted_style_request(!options.path_style)
        .with_access_key_id(credentials.key_id)
        .with_secret_access_key(credentials.secret)
        // The server compares the body with it, so that what was damaged on the way is never stored.
        .with_checksum_algorithm(Checksum::SHA256)
        // Not every server knows how to remove many objects with one request.
        .with_disable_bulk_delete(true)
        .with_client_options(network)
        .with_retry(once);
    if let Some(token) = credentials.token {
        builder = builder.with_token(token);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint_of(endpoint, options));
    }
    builder.build().map_err(cause)
}

fn cause(error: impl StdError + Send + Sync + 'static) -> Cause {
    Arc::new(error)
}

/// The library takes an endpoint as it is, so the bucket's name is put in front of it here.
fn endpoint_of(endpoint: &str, options: &S3Options) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) if !options.path_style => format!("{scheme}://{}.{host}", options.bucket),
        Some(_) | None => endpoint.to_owned(),
    }
}

impl Requests {
    /// The bucket and the prefix, for messages.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Where an object lies.
    pub(crate) fn path(&self, parts: &[&str]) -> Path {
        self.prefix.parts().chain(parts.iter().map(|part| (*part).into())).collect()
    }

    /// Keeps an object, in the place of whatever is there.
    pub(crate) async fn put(&self, path: &Path, bytes: Bytes) -> Result<(), StoreError> {
        let put = || self.s3.put(path, PutPayload::from_bytes(bytes.clone()));
        match self.patiently_by(Some(&self.writes), "write", put).await? {
            Some(_) => Ok(()),
            None => Err(self.failed("write", Arc::new(NoSuchBucket))),
        }
    }

    /// Keeps an object if there is none, where the server can tell. One attempt only: of a second one
    /// nobody would know whose object it met.
    pub(crate) async fn create(&self, path: &Path, bytes: Bytes) -> Result<Created, StoreError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let created = self.s3.put_opts(path, PutPayload::from_bytes(bytes), options);
        match timeout(self.patience.attempt, created).await {
            Ok(Ok(_)) => Ok(Created::Done),
            Ok(Err(Error::PermissionDenied { .. } | Error::Unauthenticated { .. })) | Err(_) => Ok(Created::Undecided),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a conditional write failed");
                Ok(Created::Undecided)
            }
        }
    }

    /// An object's bytes; `None`: there is none.
    pub(crate) async fn get(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        self.patiently("read", || async { self.s3.get(path).await?.bytes().await }).await
    }

    /// A part of an object, or less where it is shorter; `None`: there is no such object.
    pub(crate) async fn get_range(&self, path: &Path, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        match self.patiently("read", || self.s3.get_range(path, range.clone())).await {
            // Of a part that begins behind an object's end servers say that it cannot be had.
            Err(error) => match self.length(path).await {
                Ok(Some(length)) if length <= range.start => Ok(Some(Bytes::new())),
                Ok(_) | Err(_) => Err(error),
            },
            found => found,
        }
    }

    /// An object's length in bytes; `None`: there is none.
    pub(crate) async fn length(&self, path: &Path) -> Result<Option<u64>, StoreError> {
        let meta = self.patiently("look up a block in", || self.s3.head(path)).await?;
        Ok(meta.map(|meta| meta.size))
    }

    /// Removes an object; that there is none is no failure.
    pub(crate) async fn delete(&self, path: &Path) -> Result<Removal, StoreError> {
        let unanswered = AtomicBool::new(false);
        let delete = || async {
            let mut attempt = Attempt { unanswered: &unanswered, is_answered: false };
            let answer = self.s3.delete(path).await;
            attempt.is_answered = answer.as_ref().err().is_none_or(is_answer_of_server);
            answer
        };
        self.patiently("remove a block from", delete).await?;
        Ok(if unanswered.load(Ordering::Relaxed) { Removal::MayHappenAgain } else { Removal::Done })
    }

    /// The first `page` objects below `folder` whose names come behind `after`, by name.
    pub(crate) async fn list(&self, folder: &Path, after: &Path, page: usize) -> Result<Vec<Listed>, StoreError> {
        let list = || async {
            let objects = self.s3.list_with_offset(Some(folder), after);
            objects.take(page).map_ok(|meta| Listed { path: meta.location, bytes: meta.size }).try_collect().await
        };
        // A listing that says "not found" has no bucket to list; that is no empty listing.
        let found: Option<Vec<Listed>> = self.patiently("list", list).await?;
        found.ok_or_else(|| self.failed("list", Arc::new(NoSuchBucket)))
    }

    pub(crate) fn failed(&self, what: &'static str, source: Cause) -> StoreError {
        StoreError::Remote { what, place: self.place.clone(), source }
    }

    /// Tries a request until it is answered, as often and as long as the patience lasts. `None`: the
    /// server says that there is no such object.
    async fn patiently<T, F>(&self, what: &'static str, call: impl Fn() -> F) -> Result<Option<T>, StoreError>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        self.patiently_by(None, what, call).await
    }

    /// The same of requests that go on side by side only so far as they end in time.
    async fn patiently_by<T, F>(
        &self,
        width: Option<&Width>,
        what: &'static str,
        call: impl Fn() -> F,
    ) -> Result<Option<T>, StoreError>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut failures = 0;
        loop {
            let turn = match width {
                Some(width) => Some(width.turn().await),
                None => None,
            };
            let slot = self.slots.acquire().await;
            let begun = Instant::now();
            let answer = timeout(self.patience.attempt, call()).await;
            drop(slot);
            if let Some(turn) = turn {
                match &answer {
                    Ok(Ok(_)) => turn.end(Outcome::Answered),
                    // The library has the same time.
                    Ok(Err(_)) | Err(_) if begun.elapsed() >= self.patience.attempt => turn.end(Outcome::TimedOut),
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            let error: Cause = match answer {
                Ok(Ok(answer)) => {
                    self.budget.give();
                    return Ok(Some(answer));
                }
                Ok(Err(Error::NotFound { source, .. })) if !names_no_bucket(&*source) => {
                    self.budget.give();
                    return Ok(None);
                }
                Ok(Err(error)) if !may_pass(&error) => return Err(self.failed(what, Arc::new(error))),
                Ok(Err(error)) => Arc::new(error),
                Err(late) => Arc::new(late),
            };
            failures += 1;
            if failures >= self.patience.attempts || !self.budget.take() {
                return Err(self.failed(what, error));
            }
            tracing::debug!(place = self.place, what, failures, %error, "a request is tried again");
            sleep(self.patience.pause(failures, &*self.below)).await;
        }
    }
}

/// What is known of a removal that a server has confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    Done,
    /// An earlier attempt got no answer. A server that was stopped may still carry it out, as long as the request's
    /// signature holds, and remove what is stored there meanwhile.
    MayHappenAgain,
}

/// One attempt, which may end at any point.
struct Attempt<'a> {
    unanswered: &'a AtomicBool,
    is_answered: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.unanswered.store(true, Ordering::Relaxed);
        }
    }
}

/// Whether the server itself has said that it did not do it, and not a balancer that got no answer from it either. The
/// library has no name for this.
fn is_answer_of_server(error: &Error) -> bool {
    let Error::Generic { source, .. } = error else { return true };
    let text = source.to_string();
    text.contains("non-2xx status code") && !["502 ", "504 "].iter().any(|status| text.contains(status))
}

/// A missing bucket and a missing object have the same status; only one of them is an answer.
fn names_no_bucket(source: &(dyn StdError + 'static)) -> bool {
    source.to_string().contains("NoSuchBucket")
}

/// The library has no name for this answer.
fn is_behind_the_end(source: &(dyn StdError + 'static)) -> bool {
    source.to_string().contains("416 Range Not Satisfiable")
}

/// Whether another attempt may go better. What the library has no name for are the server's own failures,
/// broken connections and time-outs, and refusals which come again at once.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Generic { source, .. } => !is_behind_the_end(&**source),
        Error::JoinError { .. } | Error::Precondition { .. } => true,
        _ => false,
    }
}
