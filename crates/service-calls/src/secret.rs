//! What the processes of one server know and nobody else does.

use sha2::{Digest, Sha256};
use std::fmt;

/// The least length: a text that somebody thought of is no secret.
const SHORTEST: usize = 16;
/// The longest: it travels in a header.
const LONGEST: usize = 256;

/// A text that every call between services carries.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceSecret(String);

/// A text that cannot be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret of the services must be {SHORTEST} to {LONGEST} printable ASCII characters without spaces")]
pub struct BadSecret;

impl ServiceSecret {
    /// The secret in a text.
    ///
    /// # Errors
    /// [`BadSecret`].
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let fits = (SHORTEST..=LONGEST).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadSecret)
        }
    }

    /// The value of the header `Authorization` that carries it.
    pub(crate) fn header(&self) -> String {
        format!("Service {}", self.0)
    }

    /// Whether a header's value carries it. How long that takes tells nothing: what is compared are hashes.
    pub(crate) fn is_in(&self, header: &[u8]) -> bool {
        Sha256::digest(self.header()) == Sha256::digest(header)
    }
}

/// A secret must not end up in a log.
impl fmt::Debug for ServiceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_printable_and_shown_to_nobody() {
        let secret = ServiceSecret::parse("0123456789abcdef").expect("is long enough");
        assert!(secret.is_in(b"Service 0123456789abcdef"));
        assert!(!secret.is_in(b"Service 0123456789abcdee") && !secret.is_in(b"0123456789abcdef"));
        assert_eq!(format!("{secret:?}"), "ServiceSecret(..)");
        for bad in ["", "short", "0123456789 abcdef", "0123456789abcdé0", &"x".repeat(LONGEST + 1)] {
            assert_eq!(ServiceSecret::parse(bad), Err(BadSecret));
        }
    }
}
