//! The calls as HTTP.

use crate::budget::Budget;
use crate::limits;
use crate::receive::BodyReader;
use crate::service::{BlockService, Offer};
use crate::unfinished::Unfinished;
use crate::upload::UploadBudgets;
use crate::{download, upload};
use api::service::Identity;
use api::{
    ApiError, BlocksRequest, CONTENT_TYPE, ChangesRequest, ErrorCode, NewsBundleRequest, PREFIX, SumsRequest, Token,
    codec,
};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use std::fmt::Display;
use std::sync::Arc;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

/// The calls of the block service. Their memory is bounded for all callers together. Work that may
/// outlive its connection is among `tasks`, for which a shutdown waits. What comes of uploads is kept in `unfinished`
/// as long as it is not noted, if there is such a place.
pub fn routes(service: Arc<BlockService>, unfinished: Option<Arc<Unfinished>>, tasks: TaskTracker) -> Router {
    let calls = Calls {
        service,
        uploads: UploadBudgets::default(),
        downloads: Budget::new(limits::DOWNLOAD_BYTES_IN_FLIGHT),
        unfinished,
        tasks,
    };
    Router::new()
        .route(&format!("{PREFIX}/changeset"), post(changeset))
        .route(&format!("{PREFIX}/blocks"), post(blocks))
        .route(&format!("{PREFIX}/prefetch"), post(prefetch))
        .route(&format!("{PREFIX}/sums"), post(sums))
        .route(&format!("{PREFIX}/news"), post(news))
        .route(&format!("{PREFIX}/bundle"), post(news_bundle))
        .with_state(calls)
}

#[derive(Clone)]
struct Calls {
    service: Arc<BlockService>,
    uploads: UploadBudgets,
    downloads: Budget,
    unfinished: Option<Arc<Unfinished>>,
    tasks: TaskTracker,
}

impl Calls {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let token = bearer_token(headers)?;
        let service = self.service.clone();
        blocking(&self.service, move || service.authenticate(&token)).await
    }
}

async fn changeset(State(calls): State<Calls>, headers: HeaderMap, body: Body) -> Response {
    // A task of its own, because what has arrived is kept also when the connection is gone, and with it
    // this future. The task ends with the body, whose patience is bounded.
    let tasks = calls.tasks.clone();
    let upload = async move {
        let mut body = BodyReader::new(body);
        let reply = match calls.authenticate(&headers).await {
            Ok(who) => {
                if let Some(unfinished) = calls.unfinished {
                    body.keep(unfinished.follow(who));
                }
                upload::receive(calls.service, calls.uploads, who, &mut body).await
            }
            Err(error) => Err(error),
        };
        body.is_noted().await;
        if reply.is_err() {
            body.discard().await;
        }
        reply
    };
    match tasks.spawn(upload.in_current_span()).await {
        Ok(Ok(reply)) => message(StatusCode::OK, codec::encode(&reply)),
        Ok(Err(error)) => refusal(&error),
        Err(panic) => refusal(&failed(&panic)),
    }
}

async fn blocks(State(calls): State<Calls>, headers: HeaderMap, body: Body) -> Response {
    offer(calls, headers, body, BlockService::offer).await.unwrap_or_else(|error| refusal(&error))
}

async fn prefetch(State(calls): State<Calls>, headers: HeaderMap, body: Body) -> Response {
    offer(calls, headers, body, BlockService::offer_coming).await.unwrap_or_else(|error| refusal(&error))
}

/// What of the wanted blocks a caller is offered.
type MakeOffer = fn(&BlockService, Identity, &BlocksRequest) -> Result<Offer, ApiError>;

async fn offer(calls: Calls, headers: HeaderMap, body: Body, offer: MakeOffer) -> Result<Response, ApiError> {
    let who = calls.authenticate(&headers).await?;
    let bytes =
        BodyReader::new(body).remainder(limits::BLOCKS_REQUEST_BYTES).await.map_err(|error| malformed(&error))?;
    let request: BlocksRequest = codec::decode(&bytes).map_err(|error| malformed(&error))?;
    let service = calls.service.clone();
    let offer = blocking(&calls.service, move || offer(&service, who, &request)).await?;
    let body = download::body(calls.service, calls.downloads, calls.tasks, offer).await?;
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    Ok(response)
}

async fn sums(State(calls): State<Calls>, headers: HeaderMap, body: Body) -> Response {
    sum_up(calls, headers, body).await.unwrap_or_else(|error| refusal(&error))
}

async fn sum_up(calls: Calls, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let who = calls.authenticate(&headers).await?;
    let bytes = BodyReader::new(body).remainder(limits::SUMS_REQUEST_BYTES).await.map_err(|error| malformed(&error))?;
    let request: SumsRequest = codec::decode(&bytes).map_err(|error| malformed(&error))?;
    // Blocks are read one after the other.
    let _share = calls.downloads.take(model::BLOCK_SIZE).await?;
    let service = calls.service.clone();
    let reply = blocking(&calls.service, move || service.sums(who, &request)).await?;
    Ok(message(StatusCode::OK, codec::encode(&reply)))
}

async fn news(State(calls): State<Calls>, headers: HeaderMap, body: Body) -> Response {
    tell_news(calls, headers, body).await.unwrap_or_else(|error| refusal(&error))
}

async fn tell_news(calls: Calls, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let who = calls.authenticate(&headers).await?;
    let bytes = BodyReader::new(body).remainder(limits::NEWS_REQUEST_BYTES).await.map_err(|error| malformed(&error))?;
    let request: ChangesRequest = codec::decode(&bytes).map_err(|error| malformed(&error))?;
    let service = calls.service.clone();
    let reply = blocking(&calls.service, move || service.news(who, &request)).await?;
    Ok(message(StatusCode::OK, codec::encode(&reply)))
}

async fn news_bundle(State(calls): State<Calls>, headers: HeaderMap, body: Body) -> Response {
    tell_news_bundle(calls, headers, body).await.unwrap_or_else(|error| refusal(&error))
}

async fn tell_news_bundle(calls: Calls, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let who = calls.authenticate(&headers).await?;
    let bytes = BodyReader::new(body).remainder(limits::NEWS_REQUEST_BYTES).await.map_err(|error| malformed(&error))?;
    let request: NewsBundleRequest = codec::decode(&bytes).map_err(|error| malformed(&error))?;
    let service = calls.service.clone();
    let told = move || {
        let (news, blocks) = service.news_bundle(who, &request)?;
        Ok((Bytes::from(codec::encode(&news)), blocks))
    };
    let (head, blocks) = blocking(&calls.service, told).await?;
    let body = download::body_of(calls.service, calls.downloads, calls.tasks, head, blocks, Vec::new()).await?;
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    Ok(response)
}

fn bearer_token(headers: &HeaderMap) -> Result<Token, ApiError> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    value
        .and_then(Token::from_authorization)
        .ok_or_else(|| ApiError::new(ErrorCode::Unlinked, "the request has no device token"))
}

/// Runs work that blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    service: &BlockService,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if service.works_in_place() {
        return work();
    }
    let span = Span::current();
    let work = move || span.in_scope(work);
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(failed(&panic)))
}

/// The answer to a request that no client of ours sends.
pub(crate) fn malformed(error: &impl Display) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, error.to_string())
}

/// The answer to a request that found a bug of ours.
pub(crate) fn failed(panic: &tokio::task::JoinError) -> ApiError {
    tracing::error!(%panic, "a request of the block service failed");
    ApiError::new(ErrorCode::Unavailable, "the server failed at this request")
}

fn refusal(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = message(status, codec::encode(error));
    if let Some(wait) = error.retry_after_ms {
        // For proxies and other clients; ours reads the milliseconds.
        response.headers_mut().insert(header::RETRY_AFTER, wait.div_ceil(1000).into());
    }
    response
}

fn message(status: StatusCode, bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}
