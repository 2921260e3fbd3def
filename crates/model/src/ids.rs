//! Identifiers, positions and times.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A text that is not the hexadecimal form of an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an identifier of {bytes} bytes in hexadecimal")]
pub struct ParseIdError {
    text: String,
    bytes: usize,
}

/// Writes bytes as lower-case hexadecimal.
pub(crate) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// The order of the bytes, eight at a time: identifiers are the keys of most maps.
pub(crate) fn compare<const N: usize>(one: &[u8; N], other: &[u8; N]) -> Ordering {
    let ((one, one_rest), (other, other_rest)) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    let number = |bytes: &[u8; 8]| u64::from_be_bytes(*bytes);
    one.iter().map(number).cmp(other.iter().map(number)).then_with(|| one_rest.cmp(other_rest))
}

/// Reads exactly `N` bytes of hexadecimal.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseIdError> {
    let error = || ParseIdError { text: text.chars().take(80).collect(), bytes: N };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(error());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).ok_or_else(error);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).map_err(|_| error())?;
    }
    Ok(bytes)
}

macro_rules! hex_newtype {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $bytes]);

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                $crate::ids::compare(&self.0, &other.0)
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// The identifier's bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $crate::ids::write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Four bytes tell identifiers apart in a trace and keep a line readable.
                write!(f, concat!(stringify!($name), "("))?;
                $crate::ids::write_hex(&self.0[..4], f)?;
                write!(f, ")")
            }
        }

        impl FromStr for $name {
            type Err = $crate::ids::ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::ids::parse_hex(text).map(Self)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = std::array::TryFromSliceError;
            fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
                bytes.try_into().map(Self)
            }
        }
    };
}
pub(crate) use hex_newtype;

hex_newtype!(
    /// A file, folder or symlink. The client that first sees a node makes its id, before it tells the server, so
    /// that a lost acknowledgement can never make a second node. A folder's is drawn at random, a file's is mostly the
    /// [successor](NodeId::successor) of the one before, and the first of these is drawn.
    NodeId, 16
);
hex_newtype!(
    /// The root of one tree. A folder that becomes shared gives its node id to its namespace.
    NamespaceId, 16
);
hex_newtype!(
    /// One person's account.
    AccountId, 16
);
hex_newtype!(
    /// One linked installation.
    DeviceId, 16
);
hex_newtype!(
    /// A client-made id that makes a commit idempotent: the server answers a key it knows with the
    /// result it stored.
    CommitKey, 16
);
hex_newtype!(
    /// One server installation; a cursor made for another instance means nothing here.
    InstanceId, 16
);

impl NamespaceId {
    /// The node under which the namespace's top-level nodes hang. It has the same bits as the
    /// namespace, and as the mount that shows the namespace in a member's tree, so that a client can
    /// hold all its namespaces as one tree.
    #[must_use]
    pub const fn root(self) -> NodeId {
        NodeId(self.0)
    }
}

impl NodeId {
    /// The namespace whose root (and mount) this node is, if it is one.
    #[must_use]
    pub const fn as_namespace(self) -> NamespaceId {
        NamespaceId(self.0)
    }

    /// The next id of a run.
    #[must_use]
    pub fn successor(self) -> Self {
        self.further(1)
    }

    /// The id so many places further in its run: the number in the first four bytes, the highest first, is so much
    /// more, and begins again at zero after the greatest. The other twelve are the run's own.
    #[must_use]
    pub fn further(self, places: u32) -> Self {
        let (place, run) = self.split();
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&place.wrapping_add(places).to_be_bytes());
        bytes[4..].copy_from_slice(&run);
        Self(bytes)
    }

    /// How many places further than another id of the same run; `None`: it is of another run.
    #[must_use]
    pub fn places_after(self, other: Self) -> Option<u32> {
        let ((place, run), (before, its_run)) = (self.split(), other.split());
        (run == its_run).then(|| place.wrapping_sub(before))
    }

    const fn split(self) -> (u32, [u8; 12]) {
        let Self([a, b, c, d, run @ ..]) = self;
        (u32::from_be_bytes([a, b, c, d]), run)
    }
}

/// The number of a journal entry: dense and rising within its namespace, 0 before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position(pub u64);

impl Position {
    /// Before the first entry of any journal.
    pub const START: Self = Self(0);

    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Rises when a server's journal may have lost entries (a restore from a backup, a failover). Positions
/// compare only within one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// A client's positions, one per namespace that it follows.
pub type Cursor = BTreeMap<NamespaceId, Position>;

/// Milliseconds since 1970-01-01 UTC. For people and for expiry only: nothing is ordered by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_ids_counts_in_the_first_four_bytes() {
        let id = |first: [u8; 4]| {
            let mut bytes = [0xa7; 16];
            bytes[..4].copy_from_slice(&first);
            NodeId(bytes)
        };
        assert_eq!(id([0, 0, 0, 0xff]).successor(), id([0, 0, 1, 0]));
        assert_eq!(id([0xff; 4]).successor(), id([0; 4]));
        assert!(id([1, 2, 3, 4]) < id([1, 2, 3, 4]).successor());
        assert_eq!(id([0, 0, 2, 1]).places_after(id([0, 0, 1, 0])), Some(257));
        assert_eq!(id([0, 0, 1, 0]).further(257), id([0, 0, 2, 1]));
        assert_eq!(id([1, 2, 3, 4]).places_after(NodeId([1; 16])), None);
    }

    proptest::proptest! {
        /// Few values, so that many bytes are equal; 20 leave a rest.
        #[test]
        fn identifiers_have_the_order_of_their_bytes(
            one in proptest::array::uniform20(0_u8..3),
            other in proptest::array::uniform20(0_u8..3),
            equal in 0_usize..=20,
        ) {
            let mut other = other;
            other[..equal].copy_from_slice(&one[..equal]);
            proptest::prop_assert_eq!(compare(&one, &other), one.cmp(&other));
        }
    }

    #[test]
    fn an_identifier_reads_back_from_its_text() {
        let id = NodeId([0xa7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn text_of_another_length_or_alphabet_is_refused() {
        for text in ["", "a7", "zz".repeat(16).as_str(), "a7".repeat(17).as_str(), "é7".repeat(11).as_str()] {
            assert!(text.parse::<NodeId>().is_err(), "{text:?}");
        }
    }
}
