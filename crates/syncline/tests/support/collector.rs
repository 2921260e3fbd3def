//! A collector of traces that keeps what it is sent, or does not answer.

#![allow(unreachable_pub, reason = "what the tests share is marked alike everywhere")]

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use prost::Message;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// One span, as it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The process's own name for itself.
    pub service: String,
    pub name: String,
    pub trace: Vec<u8>,
    pub id: Vec<u8>,
    pub parent: Vec<u8>,
    /// Its attribute `request`.
    pub request: String,
}

#[derive(Default)]
struct State {
    spans: Mutex<Vec<Span>>,
    hangs: AtomicBool,
}

/// Listens until the test ends.
pub struct Collector {
    pub url: String,
    state: Arc<State>,
}

impl Collector {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("has one"));
        let state = Arc::<State>::default();
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { url, state }
    }

    /// From now on it takes what comes, and answers nothing.
    pub fn hang(&self) {
        self.state.hangs.store(true, Ordering::Relaxed);
    }

    pub fn spans(&self) -> Vec<Span> {
        self.state.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers one request after the other, for as long as the connection lasts.
fn serve(mut stream: &TcpStream, state: &State) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_ascii_lowercase()),
            }
        }
        assert_eq!(head[0], "post /v1/traces http/1.1");
        assert!(head.iter().any(|line| line == "content-type: application/x-protobuf"), "{head:?}");
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).expect("is told");
        let mut body = vec![0; length.parse().expect("a number")];
        reader.read_exact(&mut body).ok()?;
        if state.hangs.load(Ordering::Relaxed) {
            thread::park();
        }
        let request = ExportTraceServiceRequest::decode(body.as_slice()).expect("is what it says");
        state.spans.lock().unwrap_or_else(PoisonError::into_inner).extend(spans(request));
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
            .ok()?;
    }
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut found = Vec::new();
    for of_process in request.resource_spans {
        let service = value(&of_process.resource.expect("has a name").attributes, "service.name");
        for span in of_process.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            found.push(Span {
                service: service.clone(),
                request: value(&span.attributes, "request"),
                name: span.name,
                trace: span.trace_id,
                id: span.span_id,
                parent: span.parent_span_id,
            });
        }
    }
    found
}

fn value(attributes: &[KeyValue], key: &str) -> String {
    let attribute = attributes.iter().find(|attribute| attribute.key == key);
    match attribute.and_then(|attribute| attribute.value.clone()?.value) {
        Some(any_value::Value::StringValue(text)) => text,
        other => panic!("{key}: {other:?}"),
    }
}
