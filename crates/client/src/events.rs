//! The stream of notifications: a parser for server-sent events, and the connection that is kept open.
//!
//! A notification is a hint: losing some, or the whole stream, only delays. So a stream that cannot be
//! understood is simply closed and opened again, later.

use crate::backoff::Backoff;
use crate::clock::Chance;
use crate::transport::{Transport, TransportError};
use api::{Coming, Notification};
use model::{NamespaceId, limits};
use reqwest::Response;
use std::mem;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Bytes of one line; ours have about fifty.
const LINE_BYTES: usize = 4096;
/// Bytes of one event's `data`.
const DATA_BYTES: usize = 4096;

/// What a stream tells the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// Open (again): what happened while it was not is still to be asked for.
    Opened,
    Notified(Notification),
    /// Blocks that another device uploads into the namespace have arrived.
    Coming(NamespaceId),
}

/// Keeps a stream open until it is cancelled, and passes on what it says.
pub async fn follow(
    transport: &Transport,
    mut chance: Chance,
    mut tell: impl FnMut(StreamEvent),
    cancelled: CancellationToken,
) {
    let mut backoff = Backoff::default();
    loop {
        let connection = connect_once(transport, &mut backoff, &mut chance, &mut tell);
        let delay = tokio::select! {
            delay = connection => delay,
            () = cancelled.cancelled() => return,
        };
        tokio::select! {
            () = sleep(delay) => {}
            () = cancelled.cancelled() => return,
        }
    }
}

/// One connection, from its opening to its end; gives the delay before the next.
async fn connect_once(
    transport: &Transport,
    backoff: &mut Backoff,
    chance: &mut Chance,
    tell: &mut impl FnMut(StreamEvent),
) -> Duration {
    match transport.open_events().await {
        Ok(response) => {
            let opened = Instant::now();
            tracing::debug!("the notification stream is open");
            tell(StreamEvent::Opened);
            let end = read_stream(transport, response, backoff, tell).await;
            if matches!(end, StreamEnd::Broken(_) | StreamEnd::Silent) {
                transport.stream_broke();
            }
            let delay = backoff.after_connection(opened.elapsed(), chance.fraction());
            tracing::debug!(%end, ?delay, "the notification stream ended");
            delay
        }
        Err((error, wait)) => {
            let wait = match &error {
                TransportError::Refused(refusal) => refusal.retry_after().or(wait),
                _ => wait,
            };
            let delay = backoff.after_failure(wait, chance.fraction());
            tracing::debug!(%error, ?delay, "the notification stream cannot be opened");
            delay
        }
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("the server closed it")]
    Closed,
    #[error("it was silent for too long")]
    Silent,
    #[error("the connection broke: {0}")]
    Broken(reqwest::Error),
    #[error(transparent)]
    Unreadable(#[from] ParseError),
}

async fn read_stream(
    transport: &Transport,
    mut response: Response,
    backoff: &mut Backoff,
    tell: &mut impl FnMut(StreamEvent),
) -> StreamEnd {
    let mut parser = Parser::default();
    loop {
        let piece = match timeout(limits::SSE_SILENCE, response.chunk()).await {
            Err(_) => return StreamEnd::Silent,
            Ok(Err(error)) => return StreamEnd::Broken(error),
            Ok(Ok(None)) => return StreamEnd::Closed,
            Ok(Ok(Some(piece))) => piece,
        };
        transport.stream_lives();
        let items = match parser.push(&piece) {
            Ok(items) => items,
            Err(error) => return error.into(),
        };
        for item in items {
            match item {
                Item::Retry(window) => backoff.set_first_window(window),
                Item::Data(data) => tell_of(&data, tell),
            }
        }
    }
}

fn tell_of(data: &str, tell: &mut impl FnMut(StreamEvent)) {
    if let Ok(notification) = data.parse::<Notification>() {
        tell(StreamEvent::Notified(notification));
    } else if let Ok(Coming(namespace)) = data.parse() {
        tell(StreamEvent::Coming(namespace));
    }
    // Anything else is of a later version of the protocol.
}

/// What a stream says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The lines of one event's `data`, joined.
    Data(String),
    /// How long to wait before the next connection.
    Retry(Duration),
}

/// A stream that nobody of ours writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("a line of the stream is longer than {LINE_BYTES} bytes")]
    LongLine,
    #[error("an event of the stream is longer than {DATA_BYTES} bytes")]
    LongEvent,
}

/// Cuts a byte stream into events as the HTML standard says (9.2.6), within bounds. Ids and event names
/// are not used here and passed over.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    data: Option<String>,
    /// The last byte was a carriage return: a line feed right behind it belongs to it.
    after_return: bool,
    lines_seen: bool,
}

impl Parser {
    /// Takes the next bytes; gives what they complete.
    ///
    /// # Errors
    /// [`ParseError`]; the stream is of no use from there on.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Item>, ParseError> {
        let mut items = Vec::new();
        for &byte in bytes {
            let after_return = mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => items.extend(self.end_line()?),
                _ if self.line.len() == LINE_BYTES => return Err(ParseError::LongLine),
                _ => self.line.push(byte),
            }
        }
        Ok(items)
    }

    fn end_line(&mut self) -> Result<Option<Item>, ParseError> {
        let bytes = mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let text = if mem::replace(&mut self.lines_seen, true) {
            &text
        } else {
            text.strip_prefix('\u{feff}').unwrap_or(&text)
        };
        if text.is_empty() {
            return Ok(self.data.take().map(Item::Data));
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => self.add_data(value).map(|()| None),
            "retry" => Ok(value.parse().ok().map(|ms| Item::Retry(Duration::from_millis(ms)))),
            // A comment (an empty field) keeps the connection alive; the rest is for others.
            _ => Ok(None),
        }
    }

    fn add_data(&mut self, value: &str) -> Result<(), ParseError> {
        let data = match &mut self.data {
            Some(data) => {
                data.push('\n');
                data
            }
            none => none.insert(String::new()),
        };
        data.push_str(value);
        if data.len() > DATA_BYTES { Err(ParseError::LongEvent) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Vec<Item>, ParseError> {
        Parser::default().push(bytes)
    }

    fn data(text: &str) -> Item {
        Item::Data(text.into())
    }

    #[test]
    fn events_end_at_an_empty_line() {
        assert_eq!(parse(b"data: a\n\ndata:b\n\ndata: c"), Ok(vec![data("a"), data("b")]));
    }

    #[test]
    fn comments_ids_names_and_unknown_fields_are_passed_over() {
        let stream = b": keep-alive\n\nid: 7\nevent: x\ndata: a\nfuture: y\nnonsense\n\n";
        assert_eq!(parse(stream), Ok(vec![data("a")]));
    }

    #[test]
    fn all_three_line_ends_count() {
        assert_eq!(parse(b"data: a\r\n\r\ndata: b\r\rdata: c\n\n"), Ok(vec![data("a"), data("b"), data("c")]));
    }

    #[test]
    fn data_of_several_lines_is_joined() {
        assert_eq!(parse(b"data: a\ndata\ndata: b\n\n"), Ok(vec![data("a\n\nb")]));
    }

    #[test]
    fn retry_counts_at_once_and_only_as_a_number() {
        assert_eq!(parse(b"retry: 1500\nretry: soon\nretry: -1\n"), Ok(vec![Item::Retry(Duration::from_millis(1500))]));
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        assert_eq!(parse(b"\xef\xbb\xbfdata: a\n\n"), Ok(vec![data("a")]));
    }

    #[test]
    fn endless_lines_and_events_are_cut_off() {
        assert_eq!(parse(&[b'x'; LINE_BYTES + 1]), Err(ParseError::LongLine));
        let endless = b"data: 0123456789\n".repeat(DATA_BYTES / 10);
        assert_eq!(parse(&endless), Err(ParseError::LongEvent));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(parse(&bytes));
        }

        #[test]
        fn where_the_bytes_are_cut_makes_no_difference(
            lines in proptest::collection::vec("(data: [a-z]{0,5}|: c|retry: 9|)(\n|\r\n|\r)", 0..20),
            cut in 0_usize..200,
        ) {
            let bytes = lines.concat().into_bytes();
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let mut parser = Parser::default();
            let mut items = parser.push(head)?;
            items.extend(parser.push(tail)?);
            prop_assert_eq!(items, parse(&bytes)?);
        }
    }
}
