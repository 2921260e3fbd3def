//! Calls of several services under one roof.

use api::{ApiError, CONTENT_TYPE, ErrorCode, codec};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

/// These calls, and a clean answer to everything else.
pub(crate) fn router(services: impl IntoIterator<Item = Router>) -> Router {
    let all = services.into_iter().fold(Router::new(), Router::merge);
    all.fallback(unknown_call).method_not_allowed_fallback(unknown_call)
}

async fn unknown_call() -> Response {
    let error = ApiError::new(ErrorCode::NotFound, "this server has no such call");
    let mut response = Response::new(Body::from(codec::encode(&error)));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}
