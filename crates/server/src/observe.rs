//! What is noted of every call: its id in a span, its figures.

use crate::metrics::{Metrics, Side};
use crate::world;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::middleware::{self, Next};
use axum::response::Response;
use opentelemetry::trace::Status;
use service_calls::{REQUEST_ID, RequestId, TRACE_PARENT, follow_trace};
use std::sync::Arc;
use tokio::time::Instant;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The calls of one side, noted.
pub(crate) fn observed(router: Router, side: Side, metrics: Arc<Metrics>) -> Router {
    router.layer(middleware::from_fn_with_state((side, metrics), observe))
}

/// Gives the call an id, or lets it keep the one that a balancer has made; that one it repeats in the answer, so
/// that a person who reports a failure can name it.
async fn observe(State((side, metrics)): State<(Side, Arc<Metrics>)>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let brought = request.headers().get(REQUEST_ID).and_then(|value| RequestId::parse(value.to_str().ok()?));
    let answer_names_it = brought.is_some();
    let id = brought.unwrap_or_else(|| RequestId::from_bits(world::below(u64::MAX)));
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let call = path.as_deref().and_then(|path| path.rsplit('/').next()).unwrap_or("unknown").to_owned();
    let header = HeaderValue::from_str(id.as_str());
    if let Ok(header) = &header {
        request.headers_mut().insert(REQUEST_ID, header.clone());
    }
    let span = tracing::info_span!("call", request = %id, call);
    // What a client says of its traces is its own affair.
    let parent = request.headers().get(TRACE_PARENT).filter(|_| side == Side::Services);
    if let Some(parent) = parent.and_then(|parent| parent.to_str().ok()) {
        follow_trace(&span, parent);
    }
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(header) = header.ok().filter(|_| answer_names_it) {
        response.headers_mut().insert(REQUEST_ID, header);
    }
    let (took, status) = (begun.elapsed(), response.status().as_u16());
    metrics.call(side, &call, status, took);
    span.set_attribute("http.response.status_code", i64::from(status));
    if response.status().is_server_error() {
        span.set_status(Status::error(""));
    }
    let millis = took.as_millis();
    span.in_scope(|| tracing::debug!(status, millis, "answered"));
    response
}
