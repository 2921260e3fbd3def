//! What a process says of itself on its service address: that it runs, whether it is of use, its figures.

use crate::metrics::Metrics;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use meta_service::MetaService;
use service_calls::Upstream;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a database may take to answer that question.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a process needs to be of use.
#[derive(Clone)]
pub(crate) enum Need {
    Nothing,
    Database(Arc<MetaService>),
    /// An instance of the meta service.
    Meta(Arc<Upstream>),
    /// The same, for what is new alone: what it holds already goes on without.
    MetaForNew(Arc<Upstream>),
}

impl Need {
    /// Whether it is there.
    pub(crate) async fn is_met(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Meta(upstream) | Self::MetaForNew(upstream) => upstream.any_works(),
            Self::Database(meta) => {
                let meta = meta.clone();
                let asked = tokio::task::spawn_blocking(move || meta.server());
                matches!(timeout(PATIENCE, asked).await, Ok(Ok(Ok(_))))
            }
        }
    }
}

#[derive(Clone)]
struct Health {
    need: Need,
    draining: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
}

/// `GET /healthz`, `GET /readyz` and `GET /metrics`.
pub(crate) fn service_health(need: Need, draining: watch::Receiver<bool>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(|| std::future::ready("ok\n")))
        .route("/readyz", get(ready))
        .route("/metrics", get(figures))
        .with_state(Health { need, draining, metrics })
}

/// `GET /healthz` where clients call: whether the process is of use.
pub(crate) fn client_health(need: Need) -> Router {
    Router::new()
        .route("/healthz", get(|State(need): State<Need>| async move { verdict(need.is_met().await) }))
        .with_state(need)
}

/// A process that stops is not found: HAProxy then sends it nothing new, and lets it end what it has begun, while
/// it breaks off what waits for a server that answers otherwise or not at all. So is an edge that cannot ask who
/// a new device is: if it were broken off, all devices would come back at once whenever the database restarts.
async fn ready(State(health): State<Health>) -> Response {
    if *health.draining.borrow() {
        return (StatusCode::NOT_FOUND, "stopping\n").into_response();
    }
    match (health.need.is_met().await, &health.need) {
        (false, Need::MetaForNew(_)) => (StatusCode::NOT_FOUND, "nothing new\n").into_response(),
        (good, Need::Nothing | Need::Database(_) | Need::Meta(_) | Need::MetaForNew(_)) => verdict(good),
    }
}

fn verdict(good: bool) -> Response {
    match good {
        true => (StatusCode::OK, "ok\n").into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable\n").into_response(),
    }
}

async fn figures(State(health): State<Health>) -> Response {
    ([("content-type", "text/plain; version=0.0.4")], health.metrics.text()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_calls::Links;

    fn upstream() -> Arc<Upstream> {
        Upstream::new(Links::new(None, |_| 0), vec!["127.0.0.1:1".to_owned()])
    }

    async fn told(need: Need) -> StatusCode {
        let (_stop, draining) = watch::channel(false);
        ready(State(Health { need, draining, metrics: Arc::default() })).await.status()
    }

    #[tokio::test]
    async fn an_edge_without_a_meta_service_gets_nothing_new_and_keeps_what_it_has() {
        assert_eq!(told(Need::MetaForNew(upstream())).await, StatusCode::NOT_FOUND);
        assert_eq!(told(Need::Meta(upstream())).await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(told(Need::Nothing).await, StatusCode::OK);
    }
}
