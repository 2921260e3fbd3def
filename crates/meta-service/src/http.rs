//! The client-facing calls on HTTP: `POST {PREFIX}/<name>`, a postcard body, a bearer token.

use crate::failure::{bad_request, unlinked};
use crate::service::MetaService;
use api::service::Identity;
use api::{ApiError, CONTENT_TYPE, ErrorCode, LinkRequest, PREFIX, SentCommit, Token};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE as CONTENT_TYPE_HEADER, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use model::limits;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls that run at the same time, each on a blocking thread: enough that waiting commits fill a
/// transaction, few enough for the memory of their stacks.
const CONCURRENT_CALLS: usize = 128;
/// How long a call waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of a `link` request, the only one that strangers send.
const LINK_BYTES: usize = 8 * 1024;
/// Bytes of a request that names a path, a folder or a person.
const CALL_BYTES: usize = 64 * 1024;
/// Bytes of a request that lists hashes or namespaces: 8,192 of them, or a cursor of ten thousand, and a margin.
const LIST_BYTES: usize = 512 * 1024;
/// What a client waits that found no turn.
const RETRY_MS: u32 = 1_000;

/// One call of a linked device: from the request's bytes to the reply's.
type Call = fn(&MetaService, Identity, &[u8]) -> Result<Vec<u8>, ApiError>;

/// Every call that needs a token: its name, and the bytes that its request may have.
const CALLS: &[(&str, usize, Call)] = &[
    ("server", CALL_BYTES, |service, _, body| answer(body, |(): ()| service.server())),
    ("changes", LIST_BYTES, |service, who, body| answer(body, |request| service.changes(who, &request))),
    ("commit", limits::MESSAGE_BYTES, |service, who, body| {
        answer(body, |request: SentCommit| service.commit(who, request))
    }),
    ("announce", LIST_BYTES, |service, who, body| answer(body, |request| service.announce(who, request))),
    ("coming", CALL_BYTES, |service, who, body| answer(body, |request| service.coming(who, &request))),
    ("missing", LIST_BYTES, |service, who, body| answer(body, |request| service.missing(who, &request))),
    ("devices", CALL_BYTES, |service, who, body| answer(body, |(): ()| service.devices(who))),
    ("unlink", CALL_BYTES, |service, who, body| answer(body, |request| service.unlink(who, &request))),
    ("revisions", CALL_BYTES, |service, who, body| answer(body, |request| service.revisions(who, &request))),
    ("history", CALL_BYTES, |service, who, body| answer(body, |request| service.history(who, &request))),
    ("restore", CALL_BYTES, |service, who, body| answer(body, |request| service.restore(who, &request))),
    ("share", CALL_BYTES, |service, who, body| answer(body, |request| service.share(who, &request))),
    ("shares", CALL_BYTES, |service, who, body| answer(body, |(): ()| service.shares(who))),
    ("leave", CALL_BYTES, |service, who, body| answer(body, |request| service.leave(who, &request))),
    ("remove-member", CALL_BYTES, |service, who, body| answer(body, |request| service.remove_member(who, &request))),
];

/// What the handlers share.
struct Door {
    service: Arc<MetaService>,
    turns: Arc<Semaphore>,
}

/// The client-facing calls that need no blocks.
pub fn routes(service: Arc<MetaService>) -> Router {
    let door = Arc::new(Door { service, turns: Arc::new(Semaphore::new(CONCURRENT_CALLS)) });
    let mut router = Router::new().route(&format!("{PREFIX}/link"), post(link));
    for &(name, bytes, call) in CALLS {
        let handler = move |State(door): State<Arc<Door>>, request: Request<Body>| async move {
            respond(door.call(call, bytes, request).await)
        };
        router = router.route(&format!("{PREFIX}/{name}"), post(handler));
    }
    router.with_state(door)
}

async fn link(State(door): State<Arc<Door>>, request: Request<Body>) -> Response {
    respond(door.link(request).await)
}

impl Door {
    async fn link(&self, request: Request<Body>) -> Result<Vec<u8>, ApiError> {
        let body = read_body(request, LINK_BYTES).await?;
        let service = Arc::clone(&self.service);
        self.run(move || answer(&body, |request: LinkRequest| service.link(&request))).await
    }

    /// The token is checked before the body is read, so that strangers cannot make the server hold
    /// large bodies.
    async fn call(&self, call: Call, bytes: usize, request: Request<Body>) -> Result<Vec<u8>, ApiError> {
        let token = bearer(request.headers()).ok_or_else(unlinked)?;
        let service = Arc::clone(&self.service);
        let who = self.run(move || service.identify(&token)).await?;
        let body = read_body(request, bytes).await?;
        let service = Arc::clone(&self.service);
        self.run(move || call(&service, who, &body)).await
    }

    /// Runs work on a blocking thread. It goes on when the client hangs up, and keeps its turn until
    /// its end.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = self.turn().await?;
        let span = tracing::Span::current();
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            span.in_scope(work)
        });
        done.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a call broke off");
            Err(ApiError::new(ErrorCode::Unavailable, "the server could not finish the call"))
        })
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let busy = || ApiError {
            retry_after_ms: Some(RETRY_MS),
            ..ApiError::new(ErrorCode::Busy, "the server has too much to do, try again")
        };
        let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&self.turns).acquire_owned()).await;
        turn.map_err(|_| busy())?.map_err(|_| busy())
    }
}

/// Decodes a request, does it, encodes the reply.
fn answer<Q: DeserializeOwned, R: Serialize>(
    body: &[u8],
    call: impl FnOnce(Q) -> Result<R, ApiError>,
) -> Result<Vec<u8>, ApiError> {
    let request = api::decode(body).map_err(|error| bad_request(error.to_string()))?;
    call(request).map(|reply| api::encode(&reply))
}

fn bearer(headers: &HeaderMap) -> Option<Token> {
    Token::from_authorization(headers.get(AUTHORIZATION)?.to_str().ok()?)
}

async fn read_body(request: Request<Body>, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || bad_request(format!("the request is larger than {limit} bytes"));
    let announced =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let body = tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(request.into_body(), limit)).await;
    // A client that hung up does not read this; one that sent too much does.
    body.map_err(|_| bad_request("the request's body did not arrive in time"))?.map_err(|_| too_large())
}

fn respond(result: Result<Vec<u8>, ApiError>) -> Response {
    let (status, retry_after, body) = match result {
        Ok(body) => (StatusCode::OK, None, body),
        Err(error) => {
            let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, error.retry_after_ms, api::encode(&error))
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE_HEADER, HeaderValue::from_static(CONTENT_TYPE));
    if let Some(ms) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
    }
    response
}
