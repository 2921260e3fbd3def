//! The client's own transport, with the simulated network in the place of HTTP.
//!
//! What a request does is a future of the client's: it reads the disk, posts a call, waits, reads or writes the disk,
//! perhaps posts another. It runs until it has posted a call, and stands still until the world brings the answer; so all that
//! lies between two calls happens at one moment, and everything else may happen between two moments. All of it is done on the
//! thread of the world.

use crate::disk::{SharedDisk, SimFs, lock};
use crate::wire::{Answered, Sent};
use axum::http;
use bytes::Bytes;
use client::transport::{BlockFiles, Carrier, FolderBlocks, Thrift, Transport, TransportError};
use futures_util::future::{BoxFuture, Either, select};
use futures_util::stream;
use http_body_util::BodyExt;
use model::{BlockHash, NamespaceId};
use reqwest::{Body, Response};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use sync_engine::io::{BlockSource, FetchBlock, LocalPath, Reply, Request, RequestError, RequestId, StepError};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};

thread_local! {
    /// Everything that is asynchronous runs here: on the thread of its world.
    static RUNTIME: Option<Runtime> = Builder::new_current_thread().enable_time().build().ok();
}

/// Runs a future to its end.
///
/// # Errors
/// When the system gives no runtime.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> Result<T, String> {
    RUNTIME.with(|runtime| match runtime {
        Some(runtime) => Ok(runtime.block_on(future)),
        None => Err("there is no runtime".to_owned()),
    })
}

/// The requests of one life of a device.
pub(crate) struct Courier {
    transport: Transport,
    posted: mpsc::UnboundedReceiver<Posted>,
    files: Arc<Folder>,
    under_way: BTreeMap<RequestId, Transfer>,
}

/// What a request does next.
pub(crate) enum Next {
    /// It waits for the answer to its how-manieth call.
    Calls(u64, Sent),
    Ends(Result<Reply, RequestError>),
}

/// A request of the engine's that is not over.
struct Transfer {
    work: BoxFuture<'static, Result<Reply, TransportError>>,
    /// Where it waits for the answer to its call.
    answer: Option<oneshot::Sender<Result<Response, TransportError>>>,
    calls: u64,
}

impl Courier {
    /// Of a client that has just been started.
    pub(crate) fn new(disk: SharedDisk, root: NamespaceId, thrift: Thrift) -> Self {
        let (sender, posted) = mpsc::unbounded_channel();
        let transport = Transport::carried_by(Arc::new(Posts(sender))).with_root(root).with_thrift(thrift);
        let files = Arc::new(Folder(Mutex::new(folder(SimFs::new(disk)))));
        Self { transport, posted, files, under_way: BTreeMap::new() }
    }

    /// Begins a request.
    pub(crate) fn begin(&mut self, id: RequestId, request: Request, fs: SimFs) -> Result<Next, String> {
        let (transport, files) = (self.transport.clone(), self.files.clone());
        let work = Box::pin(async move { transport.perform(request, files).await });
        self.go_on(id, Transfer { work, answer: None, calls: 0 }, fs)
    }

    /// Goes on with the answer to the last call.
    pub(crate) fn answered(
        &mut self,
        id: RequestId,
        answer: Result<Answered, RequestError>,
        fs: SimFs,
    ) -> Result<Option<Next>, String> {
        let Some(mut transfer) = self.under_way.remove(&id) else { return Ok(None) };
        let answer = match answer {
            Ok(answered) => response(answered),
            Err(RequestError::Unreachable(reason)) => Err(TransportError::Unreachable(reason)),
            Err(RequestError::NotSyncline(reason)) => Err(TransportError::NotSyncline(reason)),
            Err(RequestError::Refused(error)) => Err(TransportError::Refused(error)),
        };
        if let Some(waiting) = transfer.answer.take() {
            waiting.send(answer).ok();
        }
        self.go_on(id, transfer, fs).map(Some)
    }

    fn go_on(&mut self, id: RequestId, mut transfer: Transfer, fs: SimFs) -> Result<Next, String> {
        *lock(&self.files.0) = folder(fs);
        let posted = &mut self.posted;
        let next = run(async {
            match select(pin!(posted.recv()), &mut transfer.work).await {
                Either::Left((posted, _)) => posted.ok_or_else(|| "nobody can post".to_owned()).map(Err),
                Either::Right((result, _)) => Ok(Ok(result)),
            }
        })??;
        match next {
            Ok(Err(TransportError::Unreachable(reason))) if reason.ends_with("was stopped") => {
                Err(format!("panic: {reason}"))
            }
            Ok(result) => Ok(Next::Ends(result.map_err(RequestError::from))),
            Err(Posted { call, answer }) => {
                transfer.answer = Some(answer);
                transfer.calls += 1;
                let calls = transfer.calls;
                self.under_way.insert(id, transfer);
                Ok(Next::Calls(calls, call))
            }
        }
    }
}

/// A call that a transfer has posted, and where its answer goes.
struct Posted {
    call: Sent,
    answer: oneshot::Sender<Result<Response, TransportError>>,
}

/// Takes calls to the world.
struct Posts(mpsc::UnboundedSender<Posted>);

impl Carrier for Posts {
    fn post<'a>(&'a self, call: &'a str, body: Body) -> BoxFuture<'a, Result<Response, TransportError>> {
        Box::pin(async move {
            let body = body.collect().await.map_err(|error| TransportError::Unreachable(error.to_string()))?.to_bytes();
            let (answer, answered) = oneshot::channel();
            let call = Sent { call: call.to_owned(), body, whole: true };
            let gone = || TransportError::Unreachable("the world has ended".to_owned());
            self.0.send(Posted { call, answer }).map_err(|_| gone())?;
            answered.await.unwrap_or_else(|_| Err(gone()))
        })
    }
}

/// An answer as the client gets it.
fn response(answered: Answered) -> Result<Response, TransportError> {
    let Answered { status, content_type, body, whole } = answered;
    let body = if whole { Body::from(body) } else { Body::wrap_stream(stream::iter(broken(body))) };
    let response = http::Response::builder().status(status).header(http::header::CONTENT_TYPE, content_type).body(body);
    response.map(Response::from).map_err(|error| TransportError::NotSyncline(error.to_string()))
}

/// A body that breaks off.
pub(crate) fn broken(body: Bytes) -> [Result<Bytes, io::Error>; 2] {
    [Ok(body), Err(io::Error::new(io::ErrorKind::ConnectionReset, "the connection broke"))]
}

/// A life's folder. Nothing is noted of what was hashed, so each block is hashed again before it is sent.
fn folder(fs: SimFs) -> FolderBlocks {
    FolderBlocks::new(Arc::new(fs), Arc::default())
}

/// The device's folder, with what goes wrong there now.
struct Folder(Mutex<FolderBlocks>);

impl BlockFiles for Folder {
    fn read(&self, blocks: &[BlockSource]) -> Result<Vec<Vec<u8>>, Vec<BlockHash>> {
        lock(&self.0).read(blocks)
    }

    fn read_stretch(&self, path: &LocalPath, offset: u64, len: usize) -> Vec<u8> {
        lock(&self.0).read_stretch(path, offset, len)
    }

    fn write(&self, block: &FetchBlock, offset: u64, bytes: &[u8]) -> Result<(), StepError> {
        lock(&self.0).write(block, offset, bytes)
    }
}
