//! Where in a trace a call belongs, told from one process to the next as W3C's Trace Context has it.
//!
//! Only services are believed: what a client says of itself begins no trace of ours. Where nobody collects traces
//! there is nothing to tell, and no header.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header that says under which span a call was made.
pub const TRACE_PARENT: &str = "traceparent";

/// The header's value for calls that are made now.
pub(crate) fn trace_parent() -> Option<String> {
    let context = Span::current().context();
    let span = context.span().span_context().clone();
    let text = || format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8());
    span.is_valid().then(text)
}

/// Puts a span, which has not been entered yet, under the one that a header names. A header that cannot be
/// understood changes nothing.
pub fn follow_trace(span: &Span, header: &str) {
    if let Some(parent) = parse(header) {
        // Where nobody collects traces there is no place for it.
        drop(span.set_parent(Context::new().with_remote_span_context(parent)));
    }
}

fn parse(header: &str) -> Option<SpanContext> {
    let mut parts = header.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // Later versions may add parts behind these; 255 is none.
    let fits = [version, trace, span, flags].map(str::len) == [2, 32, 16, 2] && version != "ff";
    if !fits || (version == "00" && parts.next().is_some()) {
        return None;
    }
    u8::from_str_radix(version, 16).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::NONE);
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_names_a_span_of_a_trace_and_whether_it_is_kept() {
        let context = parse(GOOD).expect("is one");
        assert_eq!(context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span_id().to_string(), "b7ad6b7169203331");
        assert!(context.is_sampled() && context.is_remote());
        let passed_over = GOOD.replace("-01", "-00");
        assert!(!parse(&passed_over).expect("is one").is_sampled());
        assert!(parse(&format!("{}-more", GOOD.replacen("00", "01", 1))).is_some(), "a later version may say more");
    }

    #[test]
    fn what_is_no_such_header_names_nothing() {
        let zero = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let long = format!("{GOOD}-more");
        for bad in ["", "00", zero, &long, &GOOD.replacen("00", "ff", 1), &GOOD.replace('7', "x"), &GOOD[1..]] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
