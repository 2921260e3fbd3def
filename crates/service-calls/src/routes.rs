//! Answering the calls of other services.

use crate::secret::ServiceSecret;
use crate::tls::Caller;
use crate::wire::{
    self, Authenticate, Changes, DEADLINE, ListPacked, Mark, Missing, NotePacked, Readable, SERVICE_PREFIX, Stored,
};
use api::service::{Condemned, Identity, MetaForBlocks, MetaForCleanUp, MetaForNotification, MetaForStart, PackIndex};
use api::{ApiError, CONTENT_TYPE, ErrorCode, codec};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use model::{AccountId, BlockHash, PackId, limits};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// Calls of other services that run at the same time, each on a blocking thread. They stand beside as many
/// calls of clients.
const CONCURRENT_CALLS: usize = 96;
/// How long a request's body may take to arrive; the callers stand near.
const BODY_PATIENCE: Duration = Duration::from_secs(20);
/// How long a call without a deadline waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(10);

/// The meta service as other processes see it.
pub trait RemoteCallable: MetaForStart + MetaForBlocks + MetaForCleanUp + PackIndex + MetaForNotification {}
impl<T: MetaForStart + MetaForBlocks + MetaForCleanUp + PackIndex + MetaForNotification> RemoteCallable for T {}

struct Door<M> {
    meta: Arc<M>,
    turns: Arc<Semaphore>,
}

/// The calls to the meta service.
pub fn meta_routes<M: RemoteCallable + 'static>(meta: Arc<M>) -> Router {
    let door = Arc::new(Door { meta, turns: Arc::new(Semaphore::new(CONCURRENT_CALLS)) });
    let call = |router: Router<Arc<Door<M>>>, call: wire::Call, answer: Answer<M>| {
        let handler = move |State(door): State<Arc<Door<M>>>, request: Request| async move {
            respond(door.answer(answer, request).await)
        };
        router.route(&format!("{SERVICE_PREFIX}/{}", call.name), post(handler))
    };
    let mut router = Router::new();
    router = call(router, wire::SERVER, |meta, body| with(body, |(): ()| meta.server()));
    router = call(router, wire::AUTHENTICATE, |meta, body| {
        with(body, |Authenticate { token }| MetaForBlocks::authenticate(meta, &token))
    });
    router = call(router, wire::READABLE, |meta, body| {
        with(body, |Readable { who, namespace, blocks }| meta.readable(who, namespace, &blocks))
    });
    router = call(router, wire::COMING, |meta, body| {
        with(body, |Readable { who, namespace, blocks }| meta.coming(who, namespace, &blocks))
    });
    router = call(router, wire::CHANGES, |meta, body| {
        with(body, |Changes { who, request }| MetaForBlocks::changes(meta, who, &request))
    });
    router = call(router, wire::MISSING, |meta, body| {
        with(body, |Missing { who, blocks }| MetaForBlocks::missing(meta, who, &blocks))
    });
    router = call(router, wire::RENEW, |meta, body| with(body, |blocks: Vec<BlockHash>| meta.renew(&blocks)));
    router = call(router, wire::STORED, |meta, body| {
        with(body, |Stored { who, blocks, commit }| meta.stored(who, &blocks, commit.as_ref()))
    });
    router = call(router, wire::MARK, |meta, body| {
        with(body, |Mark { blocks, mode }| {
            few(&blocks)?;
            meta.mark(&blocks, mode)
        })
    });
    router = call(router, wire::CONDEMN, |meta, body| {
        with(body, |limit: u32| {
            meta.condemn(usize::try_from(limit).map_or(wire::CONDEMNED, |n| n.min(wire::CONDEMNED)))
        })
    });
    router = call(router, wire::REMOVED, |meta, body| with(body, |condemned: Condemned| meta.removed(&condemned)));
    router = call(router, wire::FIND_PACKED, |meta, body| {
        with(body, |blocks: Vec<BlockHash>| few(&blocks).and_then(|()| meta.find_packed(&blocks)))
    });
    router = call(router, wire::NOTE_PACKED, |meta, body| {
        with(body, |NotePacked { pack, blocks }| meta.note_packed(pack, &blocks))
    });
    router = call(router, wire::FORGET_PACKED, |meta, body| {
        with(body, |blocks: Vec<BlockHash>| few(&blocks).and_then(|()| meta.forget_packed(&blocks)))
    });
    router = call(router, wire::LIST_PACKED, |meta, body| {
        with(body, |ListPacked { after, limit }| {
            meta.list_packed(after, usize::try_from(limit).map_or(wire::MARKED, |n| n.min(wire::MARKED)))
        })
    });
    router = call(router, wire::PACKS, |meta, body| {
        with(body, |packs: Vec<PackId>| few(&packs).and_then(|()| meta.packs(&packs)))
    });
    router = call(router, wire::PLACES_IN, |meta, body| with(body, |pack: PackId| meta.places_in(pack)));
    router = call(router, wire::END_PACK, |meta, body| with(body, |pack: PackId| meta.end_pack(pack)));
    router = call(router, wire::HEADS, |meta, body| with(body, |account: AccountId| meta.heads(account)));
    router = call(router, wire::REVIEW, |meta, body| {
        with(body, |devices: Vec<Identity>| {
            let fits = devices.len() <= wire::REVIEWED;
            if fits { meta.review(&devices) } else { Err(malformed("a review of too many devices")) }
        })
    });
    router.with_state(door)
}

fn few<T>(named: &[T]) -> Result<(), ApiError> {
    if named.len() <= wire::MARKED { Ok(()) } else { Err(malformed("too many blocks at a time")) }
}

/// From a request's bytes to the reply's.
type Answer<M> = fn(&M, &[u8]) -> Result<Vec<u8>, ApiError>;

fn with<Q: DeserializeOwned, R: Serialize>(
    body: &[u8],
    work: impl FnOnce(Q) -> Result<R, ApiError>,
) -> Result<Vec<u8>, ApiError> {
    let request = codec::decode(body).map_err(|error| malformed(&error.to_string()))?;
    work(request).map(|reply| codec::encode(&reply))
}

impl<M: RemoteCallable + 'static> Door<M> {
    /// Runs a call on a blocking thread, when it is its turn. A caller whose deadline is over by then has
    /// gone elsewhere, and is not served.
    async fn answer(self: Arc<Self>, answer: Answer<M>, request: Request) -> Result<Vec<u8>, ApiError> {
        let patience = deadline(request.headers()).unwrap_or(TURN_PATIENCE);
        let body = body_of(request).await?;
        let busy = || ApiError::new(ErrorCode::Busy, "the meta service has too much to do, try again");
        let turn = timeout(patience, self.turns.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
        let (meta, span) = (self.meta.clone(), tracing::Span::current());
        let work = move || {
            // Kept to the end of the work, also when the caller has hung up.
            let _turn = turn;
            span.in_scope(|| answer(&meta, &body))
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| {
            tracing::error!(%panic, "a call of another service failed");
            Err(ApiError::new(ErrorCode::Unavailable, "the server failed at this call"))
        })
    }
}

/// Reads a call's request.
///
/// # Errors
/// `BadRequest`.
pub async fn read_call<Q: DeserializeOwned>(request: Request) -> Result<Q, ApiError> {
    codec::decode(&body_of(request).await?).map_err(|error| malformed(&error.to_string()))
}

/// What a call is answered with.
pub fn answer_call<R: Serialize>(result: Result<R, ApiError>) -> Response {
    respond(result.map(|reply| codec::encode(&reply)))
}

async fn body_of(request: Request) -> Result<bytes::Bytes, ApiError> {
    let body = timeout(BODY_PATIENCE, axum::body::to_bytes(request.into_body(), limits::MESSAGE_BYTES)).await;
    body.ok().and_then(Result::ok).ok_or_else(|| malformed("the request is too large, or did not arrive"))
}

fn malformed(what: &str) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, what)
}

fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let millis = headers.get(DEADLINE)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(millis))
}

fn respond(result: Result<Vec<u8>, ApiError>) -> Response {
    let (status, body) = match result {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => {
            let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, codec::encode(&error))
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

/// `alive`: answered without looking at anything, until `draining` says that the process stops.
pub fn alive_routes(draining: watch::Receiver<bool>) -> Router {
    let alive = move || {
        let stops = *draining.borrow();
        let stopping = || ApiError::new(ErrorCode::Unavailable, "this instance stops");
        std::future::ready(answer_call(if stops { Err(stopping()) } else { Ok(()) }))
    };
    Router::new().route(&format!("{SERVICE_PREFIX}/{}", wire::ALIVE.name), post(alive))
}

/// By what a call of another service is known.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// It carries this secret.
    pub secret: Option<ServiceSecret>,
    /// It comes over a connection whose [`Caller`] has shown a certificate.
    pub certificate: bool,
}

impl Admission {
    /// Why this request is none of another service's.
    fn objection(&self, request: &Request) -> Option<&'static str> {
        let caller = request.extensions().get::<Caller>().copied().unwrap_or(Caller::Unknown);
        if self.certificate && caller != Caller::Service {
            return Some("the caller has shown no certificate of the services' authority\n");
        }
        let header = request.headers().get(header::AUTHORIZATION).map_or(&[][..], HeaderValue::as_bytes);
        let stranger = self.secret.as_ref().is_some_and(|secret| !secret.is_in(header));
        stranger.then_some("the call does not carry the services' secret\n")
    }
}

/// Lets only calls through that have all that is asked for.
pub fn guard(router: Router, admission: Admission) -> Router {
    let check = move |State(admission): State<Arc<Admission>>, request: Request, next: Next| async move {
        match admission.objection(&request) {
            // In no form that a caller could pass on: a device must not take this for word that it was unlinked.
            Some(words) => (StatusCode::UNAUTHORIZED, words).into_response(),
            None => next.run(request).await,
        }
    };
    router.layer(middleware::from_fn_with_state(Arc::new(admission), check))
}
