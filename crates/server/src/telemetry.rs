//! Traces for a collector that speaks OTLP: which calls a request caused, in which processes, and how long each took.
//!
//! A span is one call that a process answers (`observe.rs`). What is over waits in a queue for a thread that sends it.
//! No call waits for that: where the queue is full spans are dropped, and a batch that the collector does not take
//! is lost. A collector that is away costs nothing but its traces.

use crate::{Config, ServerError, TelemetrySettings};
use opentelemetry::trace::{SpanKind, TracerProvider};
use opentelemetry::{KeyValue, Value};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter,
};
use prost::Message;
use reqwest::{Client, StatusCode, header};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

/// Spans that wait to be sent. Beyond that they are dropped.
const QUEUE: usize = 4096;
/// Spans in one message.
const BATCH: usize = 512;
/// How long spans gather when there are few.
const GATHER: Duration = Duration::from_secs(2);
/// How long the collector may take for one message.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long making a connection to it may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// How long the last spans may take when the process ends.
const FAREWELL: Duration = Duration::from_secs(2);
/// Where below the collector's address traces go.
const PATH: &str = "/v1/traces";
/// The field of a span that says which call it is.
const CALL: &str = "call";

/// The way of this process's spans to a collector.
#[derive(Debug)]
pub struct Telemetry {
    provider: SdkTracerProvider,
}

impl Telemetry {
    /// Begins, if a collector is configured. `runtime` carries what is sent.
    ///
    /// # Errors
    /// [`ServerError::Telemetry`].
    pub fn start(config: &Config, runtime: &Handle) -> Result<Option<Self>, ServerError> {
        let TelemetrySettings { otlp: Some(collector), per_thousand } = &config.telemetry else { return Ok(None) };
        let client = Client::builder().connect_timeout(CONNECT_PATIENCE).timeout(PATIENCE).no_proxy().build();
        let client = client.map_err(|source| ServerError::Telemetry { source })?;
        let exporter = Exporter {
            client,
            url: format!("{collector}{PATH}"),
            runtime: runtime.clone(),
            resource: ResourceAttributesWithSchema::default(),
            fails: AtomicBool::new(false),
        };
        let batches = BatchConfigBuilder::default().with_max_queue_size(QUEUE).with_max_export_batch_size(BATCH);
        let batches = batches.with_scheduled_delay(GATHER).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let kept = Sampler::TraceIdRatioBased(f64::from(*per_thousand) / 1000.0);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            // What another process has begun is kept here if it is kept there.
            .with_sampler(Sampler::ParentBased(Box::new(kept)))
            .with_resource(resource(config))
            .build();
        Ok(Some(Self { provider }))
    }

    /// The layer of the program's subscriber that hears of the spans.
    #[must_use]
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync>(&self) -> Box<dyn Layer<S> + Send + Sync> {
        let tracer = self.provider.tracer("syncline");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        let layer = layer.with_location(false).with_threads(false).with_tracked_inactivity(false);
        // The calls, and nothing that is said in them.
        let calls = |metadata: &tracing::Metadata<'_>| metadata.is_span() && metadata.name() == CALL;
        layer.with_context_activation(false).with_filter(filter_fn(calls)).boxed()
    }

    /// Sends what is left. To be called while the runtime still runs, and not by one of its threads.
    pub fn end(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FAREWELL) {
            tracing::debug!(%error, "the last traces were not sent");
        }
    }
}

fn resource(config: &Config) -> Resource {
    let place = config.services.listen.unwrap_or(config.listen).to_string();
    let more = [("service.version", env!("CARGO_PKG_VERSION").to_owned()), ("service.instance.id", place)];
    let more = more.map(|(name, value)| KeyValue::new(name, value));
    Resource::builder_empty()
        .with_service_name(format!("syncline-{}", config.role.name()))
        .with_attributes(more)
        .build()
}

/// Sends batches, from the thread that gathers them.
#[derive(Debug)]
struct Exporter {
    client: Client,
    url: String,
    runtime: Handle,
    resource: ResourceAttributesWithSchema,
    /// Whether the last one was not taken, which is told once.
    fails: AtomicBool,
}

/// Why the collector did not take a batch.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("the collector cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("the collector answers {0}")]
    Refused(StatusCode),
    #[error("the process ends")]
    Ending,
}

impl SpanExporter for Exporter {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let spans = batch.len();
        let batch = batch.into_iter().map(named).collect();
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let request = self.client.post(&self.url).header(header::CONTENT_TYPE, "application/x-protobuf").body(body);
        let sent = self.runtime.spawn(async move { request.send().await });
        async move {
            let result = match sent.await {
                Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
                Ok(Ok(answer)) => Err(SendError::Refused(answer.status())),
                Ok(Err(error)) => Err(SendError::Unreachable(error)),
                Err(_) => Err(SendError::Ending),
            };
            self.judge(spans, result)
        }
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}

impl Exporter {
    /// Says when it begins to fail and when that is over.
    fn judge(&self, spans: usize, result: Result<(), SendError>) -> OTelSdkResult {
        let failed = self.fails.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Ok(()) if failed => tracing::info!(collector = self.url, "traces are collected again"),
            Ok(()) => {}
            Err(error) => {
                if !failed {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(collector = self.url, spans, error, "traces are lost");
                }
                return Err(OTelSdkError::InternalFailure(error.to_string()));
            }
        }
        Ok(())
    }
}

/// A call's span goes by the call's name.
fn named(mut span: SpanData) -> SpanData {
    let call = span.attributes.iter().find(|attribute| attribute.key.as_str() == CALL);
    if let Some(KeyValue { value: Value::String(call), .. }) = call {
        span.name = call.as_str().to_owned().into();
        span.span_kind = SpanKind::Server;
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::net::TcpListener;
    use tracing_subscriber::layer::SubscriberExt;

    /// Several times the room that there is for them.
    const MANY: usize = 10 * QUEUE;

    #[test]
    fn a_collector_that_takes_connections_and_says_nothing_holds_nobody_up() {
        let runtime = crate::runtime().expect("starts");
        let silent = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port is free");
        let collector = format!("http://{}", silent.local_addr().expect("has one"));
        let mut config = Config::embedded("/nowhere".into(), ([127, 0, 0, 1], 0).into());
        config.telemetry.otlp = Some(collector);
        let telemetry = Telemetry::start(&config, runtime.handle()).expect("starts").expect("is configured");
        let begun = Instant::now();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(telemetry.layer()), || {
            (0..MANY).for_each(|_| tracing::info_span!("call", call = "x").in_scope(|| ()));
        });
        assert!(begun.elapsed() < PATIENCE, "not one message's patience for {MANY} spans: {:?}", begun.elapsed());
        telemetry.end();
        assert!(begun.elapsed() < PATIENCE + FAREWELL + PATIENCE, "{:?}", begun.elapsed());
    }

    #[test]
    fn without_a_collector_there_is_nothing() {
        let runtime = crate::runtime().expect("starts");
        let config = Config::embedded("/nowhere".into(), ([127, 0, 0, 1], 0).into());
        assert!(Telemetry::start(&config, runtime.handle()).expect("starts").is_none());
    }
}
