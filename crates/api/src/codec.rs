//! Bytes from messages and back, and the framing of blocks.

use crate::messages::BlockHeader;
use model::{BLOCK_SIZE, limits};
use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::marker::PhantomData;

/// Bytes that are not a message of the expected type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the message is malformed")]
    Malformed,
    #[error("the message is longer than it says")]
    TrailingBytes,
    #[error("the message is larger than {max} bytes", max = limits::MESSAGE_BYTES)]
    TooLarge,
    #[error("the message names a block longer than {BLOCK_SIZE} bytes, or too many bytes of blocks")]
    BlockTooLong,
}

/// A message's bytes.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // Serialization into a growing vector fails only for types postcard cannot express; ours it can.
    postcard::to_stdvec(message).unwrap_or_default()
}

/// The message in `bytes`, which must hold nothing else.
///
/// # Errors
/// [`DecodeError`]; hostile bytes cost a small multiple of the memory that they take themselves, and lists whose elements are
/// much larger than their bytes end where the message's own limit is.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (message, rest) = decode_first(bytes)?;
    if rest.is_empty() { Ok(message) } else { Err(DecodeError::TrailingBytes) }
}

/// The message at the front of `bytes`, and what is behind it.
///
/// # Errors
/// [`DecodeError`]; hostile bytes cost a small multiple of the memory that they take themselves, and lists whose elements are
/// much larger than their bytes end where the message's own limit is.
pub fn decode_first<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), DecodeError> {
    if bytes.len() > limits::MESSAGE_BYTES {
        return Err(DecodeError::TooLarge);
    }
    postcard::take_from_bytes(bytes).map_err(|_| DecodeError::Malformed)
}

/// The operations of a commit, which are refused while they are read when there are too many: one of eight bytes can take
/// twenty times as many in memory.
pub(crate) fn operations<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(Operations(PhantomData))
}

struct Operations<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Operations<T> {
    type Value = Vec<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "at most {} operations", limits::COMMIT_OPERATIONS)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
        let mut operations = Vec::new();
        while let Some(operation) = elements.next_element()? {
            if operations.len() >= limits::COMMIT_OPERATIONS {
                return Err(A::Error::invalid_length(operations.len() + 1, &self));
            }
            operations.push(operation);
        }
        Ok(operations)
    }
}

/// A message that blocks follow: its length as a little-endian `u32`, then its bytes. The blocks come
/// behind it in the order of its headers, without separators.
#[must_use]
pub fn encode_head<T: Serialize>(message: &T) -> Vec<u8> {
    let body = encode(message);
    let mut framed = Vec::with_capacity(4 + body.len());
    framed.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    framed.extend_from_slice(&body);
    framed
}

/// The length of the message behind the four bytes that open a stream of blocks.
///
/// # Errors
/// [`DecodeError::TooLarge`].
pub fn head_len(prefix: [u8; 4]) -> Result<usize, DecodeError> {
    let len = usize::try_from(u32::from_le_bytes(prefix)).map_err(|_| DecodeError::TooLarge)?;
    if len > limits::MESSAGE_BYTES { Err(DecodeError::TooLarge) } else { Ok(len) }
}

/// Checks what block headers promise before a byte of the blocks is read.
///
/// # Errors
/// [`DecodeError::BlockTooLong`].
pub fn check_headers(headers: &[BlockHeader]) -> Result<(), DecodeError> {
    let fits = |header: &BlockHeader| (1..=BLOCK_SIZE).contains(&u64::from(header.len));
    let total: u64 = headers.iter().map(|header| u64::from(header.len)).sum();
    if headers.len() > limits::BLOCKS_PER_REQUEST
        || !headers.iter().all(fits)
        || total > limits::BLOCK_BYTES_PER_REQUEST
    {
        return Err(DecodeError::BlockTooLong);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::MissingRequest;
    use model::BlockHash;
    use proptest::prelude::*;

    #[test]
    fn a_message_with_bytes_behind_it_is_refused() {
        let mut bytes = encode(&MissingRequest { blocks: vec![BlockHash([7; 32])] });
        assert!(decode::<MissingRequest>(&bytes).is_ok());
        bytes.push(0);
        assert_eq!(decode::<MissingRequest>(&bytes), Err(DecodeError::TrailingBytes));
    }

    #[test]
    fn headers_that_promise_too_much_are_refused() {
        let header = |len| BlockHeader { hash: BlockHash([7; 32]), len };
        assert!(check_headers(&[header(4 * 1024 * 1024); 4]).is_ok());
        assert!(check_headers(&[header(4 * 1024 * 1024); 5]).is_err());
        assert!(check_headers(&[header(4 * 1024 * 1024 + 1)]).is_err());
        assert!(check_headers(&[header(0)]).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_an_error_or_a_message_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            drop(decode::<crate::ChangesReply>(&bytes));
            drop(decode::<crate::SentHead>(&bytes).map(|head| head.outline()));
            drop(decode::<crate::ChangesRequest>(&bytes));
            drop(decode::<crate::ApiError>(&bytes));
        }
    }
}
