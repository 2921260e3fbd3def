//! One id for all that a request causes, in every process that works for it.
//!
//! The process that a client speaks to opens a span with the field `request`; calls to other services carry
//! the id in the header [`REQUEST_ID`], and the spans there have the same field. The layer [`RequestIds`]
//! keeps the id with the span, so that whoever calls need not hand it down.

use std::fmt;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Span, Subscriber};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

/// The header that carries the id.
pub const REQUEST_ID: &str = "x-request-id";
/// The field of a span that holds it.
const FIELD: &str = "request";
/// Characters of an id that comes from outside.
const LONGEST: usize = 64;

/// What a request and all that it causes is called in logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// An id out of random bits.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(format!("{bits:016x}"))
    }

    /// The id in a header, unless it is something that could disturb a log.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=LONGEST).contains(&text.len());
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        (fits && plain).then(|| Self(text.to_owned()))
    }

    /// The id of the request for which this code runs, if a span tells it.
    #[must_use]
    pub fn current() -> Option<Self> {
        let find = |(id, dispatch): (&Id, &tracing::Dispatch)| {
            let registry = dispatch.downcast_ref::<Registry>()?;
            registry.span(id)?.scope().find_map(|span| span.extensions().get::<Self>().cloned())
        };
        Span::current().with_subscriber(find).flatten()
    }

    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Remembers each span's request id. To be a layer of the program's subscriber.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestIds;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for RequestIds {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut found = Found(None);
        attributes.record(&mut found);
        if let (Some(request), Some(span)) = (found.0, context.span(id)) {
            span.extensions_mut().insert(request);
        }
    }
}

struct Found(Option<RequestId>);

impl Visit for Found {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == FIELD {
            self.0 = RequestId::parse(&format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::info_span;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn the_id_of_an_outer_span_is_found_from_within_and_not_from_outside() {
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(RequestIds));
        assert_eq!(RequestId::current(), None);
        let id = RequestId::from_bits(7);
        let outer = info_span!("call", request = %id);
        let inner = outer.in_scope(|| info_span!("inner", other = 1));
        assert_eq!(inner.in_scope(RequestId::current), Some(id));
        assert_eq!(RequestId::current(), None);
    }

    #[test]
    fn an_id_that_could_disturb_a_log_is_none() {
        assert!(RequestId::parse("0af-3_X").is_some());
        for bad in ["", "a b", "a\nb", "a\"b", "é", &"a".repeat(LONGEST + 1)] {
            assert_eq!(RequestId::parse(bad), None);
        }
    }
}
