//! Reading request bodies piece by piece, with bounded patience.

use crate::limits;
use crate::unfinished::Kept;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// A body that ended, broke off, or was too slow before it brought what was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("the body ended early")]
    Ended,
    #[error("the connection broke")]
    Broken,
    #[error("the body came too slowly")]
    TooSlow,
    #[error("the body is too long")]
    TooLong,
}

/// A body, read in lengths that the reader chooses.
pub(crate) struct BodyReader {
    body: Body,
    /// What came with the last frame and was not wanted yet.
    rest: Bytes,
    /// What takes down all that comes.
    kept: Option<Kept>,
}

impl BodyReader {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, rest: Bytes::new(), kept: None }
    }

    /// From now on, what comes is also kept in a file until [`Self::is_noted`] is called.
    pub(crate) fn keep(&mut self, kept: Kept) {
        self.kept = Some(kept);
    }

    /// What came has been dealt with, and the file is of no more use.
    pub(crate) async fn is_noted(&mut self) {
        if let Some(mut kept) = self.kept.take() {
            kept.end().await;
        }
    }

    /// The next `len` bytes.
    pub(crate) async fn exactly(&mut self, len: usize) -> Result<Bytes, ReceiveError> {
        if self.rest.len() >= len {
            return Ok(self.rest.split_to(len));
        }
        self.in_own_memory(len).await.map_err(|(error, _)| error)
    }

    /// The next `len` bytes, not as a part of something larger, so that they can be kept; with an error, those of them
    /// that came.
    pub(crate) async fn in_own_memory(&mut self, len: usize) -> Result<Bytes, (ReceiveError, Bytes)> {
        let deadline = Instant::now() + patience(len);
        let mut bytes = BytesMut::with_capacity(len);
        loop {
            let wanted = (len - bytes.len()).min(self.rest.len());
            bytes.extend_from_slice(&self.rest.split_to(wanted));
            if bytes.len() == len {
                return Ok(bytes.freeze());
            }
            let next = timeout_at(deadline, self.frame()).await.unwrap_or(Err(ReceiveError::TooSlow));
            match next.and_then(|next| next.ok_or(ReceiveError::Ended)) {
                Ok(next) => self.rest = next,
                Err(error) => return Err((error, bytes.freeze())),
            }
        }
    }

    /// Everything to the end, which must come within `max` bytes.
    pub(crate) async fn remainder(&mut self, max: usize) -> Result<Bytes, ReceiveError> {
        let deadline = Instant::now() + patience(max);
        let mut bytes = BytesMut::from(&*std::mem::take(&mut self.rest));
        if bytes.len() > max {
            return Err(ReceiveError::TooLong);
        }
        while let Some(next) = timeout_at(deadline, self.frame()).await.map_err(|_| ReceiveError::TooSlow)?? {
            if bytes.len() + next.len() > max {
                return Err(ReceiveError::TooLong);
            }
            bytes.extend_from_slice(&next);
        }
        Ok(bytes.freeze())
    }

    /// Checks that nothing more comes.
    pub(crate) async fn end(&mut self) -> Result<(), ReceiveError> {
        self.remainder(0).await.map(drop)
    }

    /// Reads on without use, within limits: a client that is still sending when the connection closes
    /// might never see the answer.
    pub(crate) async fn discard(mut self) {
        let drain = async {
            let mut read = self.rest.len() as u64;
            while let Ok(Some(frame)) = self.frame().await {
                read += frame.len() as u64;
                if read > limits::DISCARD_BYTES {
                    break;
                }
            }
        };
        // A client slower than this may miss the answer.
        timeout(limits::DISCARD_TIME, drain).await.ok();
    }

    /// The next bytes that are not none; `None` at the end.
    async fn frame(&mut self) -> Result<Option<Bytes>, ReceiveError> {
        loop {
            let frame = timeout(limits::BODY_STALL, self.body.frame()).await.map_err(|_| ReceiveError::TooSlow)?;
            match frame {
                None => return Ok(None),
                Some(Err(_)) => return Err(ReceiveError::Broken),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => {
                        if let Some(kept) = &mut self.kept {
                            kept.arrived(&data).await;
                        }
                        return Ok(Some(data));
                    }
                    // Trailers, or an empty frame.
                    Ok(_) | Err(_) => {}
                },
            }
        }
    }
}

/// How long `len` bytes may take.
fn patience(len: usize) -> Duration {
    limits::BODY_STALL + Duration::from_secs(len as u64 / limits::BODY_BYTES_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};
    use std::io;

    fn body(pieces: &[&'static str]) -> BodyReader {
        let pieces: Vec<_> =
            pieces.iter().map(|piece| Ok::<_, io::Error>(Bytes::from_static(piece.as_bytes()))).collect();
        BodyReader::new(Body::from_stream(stream::iter(pieces)))
    }

    #[tokio::test]
    async fn lengths_do_not_depend_on_how_the_body_was_cut() {
        let mut reader = body(&["a", "", "bcdef", "g"]);
        for expected in ["ab", "c", "", "defg"] {
            assert_eq!(reader.exactly(expected.len()).await.as_deref(), Ok(expected.as_bytes()));
        }
        assert_eq!(reader.end().await, Ok(()));
    }

    #[tokio::test]
    async fn what_is_kept_keeps_nothing_that_came_with_it() {
        let frame = Bytes::from(b"kept and the rest".to_vec());
        let mut reader = BodyReader::new(Body::from_stream(stream::iter([Ok::<_, io::Error>(frame.clone())])));
        reader.exactly(1).await.expect("is there");
        let kept = reader.in_own_memory(3).await.expect("is there");
        drop(reader);
        assert!(kept == "ept" && frame.is_unique());
    }

    #[tokio::test]
    async fn an_early_end_and_a_late_one_are_told() {
        assert_eq!(body(&["abc"]).exactly(4).await, Err(ReceiveError::Ended));
        assert_eq!(body(&["abc"]).remainder(2).await, Err(ReceiveError::TooLong));
        let mut reader = body(&["abc"]);
        reader.exactly(2).await.expect("is there");
        assert_eq!(reader.end().await, Err(ReceiveError::TooLong));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_or_trickles_is_given_up() {
        let stalled = Body::from_stream(stream::pending::<io::Result<Bytes>>());
        assert_eq!(BodyReader::new(stalled).exactly(1).await, Err(ReceiveError::TooSlow));
        let trickle = stream::repeat(()).then(|()| async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            Ok::<_, io::Error>(Bytes::from_static(b"x"))
        });
        assert_eq!(BodyReader::new(Body::from_stream(trickle)).exactly(4096).await, Err(ReceiveError::TooSlow));
    }
}
