//! The bytes in which bodies, changes and outcomes are stored: a format number, then postcard. Every
//! adapter stores the same bytes.

use crate::error::StoreError;
use serde::{Serialize, de::DeserializeOwned};

/// The only format so far. A new one gets the next number, and old rows are read as what they are.
const FORMAT: u8 = 1;

/// The stored form of a value.
///
/// # Errors
/// `Corrupt` for a value that cannot be expressed; the model holds none.
pub fn to_bytes<T: Serialize>(subject: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    postcard::to_extend(value, vec![FORMAT])
        .map_err(|source| StoreError::Corrupt { subject, source: Some(Box::new(source)) })
}

/// The value in its stored form.
///
/// # Errors
/// `Corrupt` for bytes that are no such value.
pub fn from_bytes<T: DeserializeOwned>(subject: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    let corrupt = |source| StoreError::Corrupt { subject, source };
    let Some((&FORMAT, body)) = bytes.split_first() else {
        return Err(corrupt(None));
    };
    postcard::from_bytes(body).map_err(|source| corrupt(Some(Box::new(source))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Body, Change, CommitOutcome, Name, NodeId, Position, Reason, Rejection, Timestamp};

    /// Golden bytes: a change that alters them must introduce format 2 and keep reading these.
    #[test]
    fn format_1_is_what_it_was() {
        let change = Change::Create {
            parent: NodeId([7; 16]),
            name: Name::parse("a").expect("legal"),
            body: Body::Symlink { target: "b".into() },
        };
        let mut expected = vec![1, 0];
        expected.extend([7; 16]);
        expected.extend([1, b'a', 2, 1, b'b']);
        assert_eq!(to_bytes("change", &change).expect("encodes"), expected);
        assert_eq!(from_bytes::<Change>("change", &expected).expect("decodes"), change);

        let accepted = CommitOutcome::Accepted { head: Position(3), time: Timestamp(-1) };
        assert_eq!(to_bytes("outcome", &accepted).expect("encodes"), [1, 0, 3, 1]);
        let rejected = CommitOutcome::Rejected(vec![Rejection { index: 2, reason: Reason::NameTaken }]);
        assert_eq!(to_bytes("outcome", &rejected).expect("encodes"), [1, 1, 1, 2, 2]);
    }

    #[test]
    fn bytes_of_another_format_are_corrupt_and_never_empty() {
        for bytes in [&[][..], &[0, 0], &[2, 0], &[1], &[1, 99]] {
            assert!(matches!(from_bytes::<Body>("body", bytes), Err(StoreError::Corrupt { .. })), "{bytes:?}");
        }
    }
}
