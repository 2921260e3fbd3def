//! All calls of all services under one roof.

use api::{ApiError, CONTENT_TYPE, ErrorCode, codec};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use meta_service::MetaService;
use std::sync::Arc;

/// The services' calls, `GET /healthz`, and a clean answer to everything else.
pub(crate) fn router(meta: Arc<MetaService>, services: impl IntoIterator<Item = Router>) -> Router {
    let health = Router::new().route("/healthz", get(health)).with_state(meta);
    let all = services.into_iter().fold(health, Router::merge);
    all.fallback(unknown_call).method_not_allowed_fallback(unknown_call)
}

/// For load balancers: whether the server can answer from its database.
async fn health(State(meta): State<Arc<MetaService>>) -> Response {
    match tokio::task::spawn_blocking(move || meta.server()).await {
        Ok(Ok(_)) => (StatusCode::OK, "ok\n").into_response(),
        Ok(Err(_)) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable\n").into_response(),
    }
}

async fn unknown_call() -> Response {
    let error = ApiError::new(ErrorCode::NotFound, "this server has no such call");
    let mut response = Response::new(Body::from(codec::encode(&error)));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}
