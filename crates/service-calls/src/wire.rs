//! The calls by name, and what travels in them.

use api::service::{CleanUpMode, Identity, NewPlace, StoredBlock};
use api::{ChangesRequest, Notification, SentCommit, Token};
use model::{AccountId, BlockHash, DeviceId, NamespaceId, PackId, Position, limits};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The path under which all calls between services of this version live.
pub const SERVICE_PREFIX: &str = "/service/v1";
/// The header that says how many milliseconds the caller goes on waiting.
pub const DEADLINE: &str = "x-deadline-ms";

/// Whether a call may be sent again when nobody knows what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Done twice it is as good as done once.
    Harmless,
    /// Only if it never reached a service.
    OnlyUnsent,
}

/// One call: its name, how long it may take, and whether it may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub name: &'static str,
    /// All tries together.
    pub deadline: Duration,
    /// One try, where another may follow.
    pub patience: Duration,
    pub repeat: Repeat,
}

const fn reading(name: &'static str) -> Call {
    Call { name, deadline: Duration::from_secs(15), patience: Duration::from_secs(6), repeat: Repeat::Harmless }
}

/// One whose work takes a database its time and is as good done twice.
const fn writing(name: &'static str) -> Call {
    Call { name, deadline: Duration::from_secs(60), patience: Duration::from_secs(25), repeat: Repeat::Harmless }
}

/// Empty to `ServerReply`: which server this is.
pub const SERVER: Call = reading("server");
/// A token to an [`Identity`].
pub const AUTHENTICATE: Call = reading("authenticate");
/// [`Readable`] to one `bool` for each block.
pub const READABLE: Call = reading("readable");
/// [`Readable`] to one `bool` for each block.
pub const COMING: Call = reading("coming");
/// [`Changes`] to an `api::ChangesReply`.
pub const CHANGES: Call = reading("changes");
/// [`Missing`] to one `bool` for each block.
pub const MISSING: Call = reading("missing");
/// Blocks that are about to be stored to nothing.
pub const RENEW: Call = reading("renew");
/// [`Stored`] to the commit's outcome, if there is a commit. Harmless twice: a block is noted once, and a
/// commit is recognised by its key. A database that fails over needs its time.
pub const STORED: Call = Call {
    name: "stored",
    deadline: Duration::from_secs(60),
    patience: Duration::from_secs(40),
    repeat: Repeat::Harmless,
};
/// [`Mark`] to what was found about the blocks. A block is marked once, however often it is said.
pub const MARK: Call = reading("mark");
/// How many blocks to condemn, [`CONDEMNED`] at most, to those. Twice it condemns others; what was condemned for
/// an answer that was lost is taken up later. Shorter than whoever removes blocks waits between this and that.
pub const CONDEMN: Call = writing("condemn");
/// Blocks whose bytes are gone, to nothing. They are forgotten once.
pub const REMOVED: Call = reading("removed");
/// Blocks, [`MARKED`] at most, to the place of each that has one.
pub const FIND_PACKED: Call = reading("find_packed");
/// [`NotePacked`] to nothing. A note that comes twice finds its own places.
pub const NOTE_PACKED: Call = writing("note_packed");
/// Blocks, [`MARKED`] at most, whose places are forgotten, to the packs that ended with it. Those of an answer that
/// was lost are found by the next clean-up.
pub const FORGET_PACKED: Call = reading("forget_packed");
/// [`ListPacked`] to blocks that have a place.
pub const LIST_PACKED: Call = reading("list_packed");
/// Packs, [`MARKED`] at most, to what is known of each.
pub const PACKS: Call = reading("packs");
/// A pack to the places in it.
pub const PLACES_IN: Call = reading("places_in");
/// A pack to whether it has ended.
pub const END_PACK: Call = reading("end_pack");
/// An account to what it follows.
pub const HEADS: Call = reading("heads");
/// Devices to what each of them follows, if it is still linked.
pub const REVIEW: Call = reading("review");
/// [`Announcement`] to nothing: the meta service tells a hub. Another hub is told when this one is silent.
pub const ANNOUNCE: Call = Call {
    name: "announce",
    deadline: Duration::from_secs(2),
    patience: Duration::from_secs(2),
    repeat: Repeat::Harmless,
};
/// Nothing to a stream of [`RelayFrame`]s: an edge listens to a hub.
pub const RELAY: Call = Call {
    name: "relay",
    deadline: Duration::from_secs(3),
    patience: Duration::from_secs(3),
    repeat: Repeat::OnlyUnsent,
};
/// [`Follow`] to nothing: an edge tells the hub what to relay.
pub const FOLLOW: Call = Call {
    name: "follow",
    deadline: Duration::from_secs(3),
    patience: Duration::from_secs(3),
    repeat: Repeat::Harmless,
};
/// Nothing to nothing, without looking at anything: whether the process runs.
pub const ALIVE: Call = Call {
    name: "alive",
    deadline: Duration::from_secs(1),
    patience: Duration::from_secs(1),
    repeat: Repeat::Harmless,
};

/// Blocks in one [`MARK`].
pub const MARKED: usize = limits::BLOCKS_PER_REQUEST;
/// Blocks that one [`CONDEMN`] is answered with.
pub const CONDEMNED: usize = 1024;
/// Devices in one [`REVIEW`].
pub const REVIEWED: usize = 256;
/// Namespaces in one [`ANNOUNCE`], [`FOLLOW`] or [`RelayFrame`].
pub const NAMESPACES: usize = 4096;
/// How often a hub says that it is still there.
pub const RELAY_BEAT: Duration = Duration::from_secs(2);
/// A hub that said nothing for this long is given up: two beats and a margin.
pub const RELAY_SILENCE: Duration = Duration::from_secs(6);
/// Bytes of one [`RelayFrame`]: [`NAMESPACES`] with their positions, and room for what is rare.
pub const RELAY_FRAME_BYTES: usize = 1024 * 1024;

/// What [`READABLE`] and [`COMING`] ask.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Readable {
    pub who: Identity,
    pub namespace: NamespaceId,
    pub blocks: Vec<BlockHash>,
}

/// What [`CHANGES`] asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Changes {
    pub who: Identity,
    pub request: ChangesRequest,
}

/// What [`MISSING`] asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Missing {
    pub who: Identity,
    pub blocks: Vec<BlockHash>,
}

/// What [`STORED`] says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stored {
    pub who: Identity,
    pub blocks: Vec<StoredBlock>,
    pub commit: Option<SentCommit>,
}

/// What [`MARK`] asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mark {
    pub blocks: Vec<BlockHash>,
    pub mode: CleanUpMode,
}

/// What [`NOTE_PACKED`] says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NotePacked {
    pub pack: PackId,
    pub blocks: Vec<NewPlace>,
}

/// What [`LIST_PACKED`] asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListPacked {
    pub after: Option<BlockHash>,
    /// [`MARKED`] at most.
    pub limit: u32,
}

/// What [`AUTHENTICATE`] asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Authenticate {
    pub token: Token,
}

/// What the meta service tells and a hub passes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    pub reached: Vec<(NamespaceId, Position)>,
    /// Where blocks of an announced upload arrived, and from which device.
    pub coming: Vec<(NamespaceId, DeviceId)>,
    /// Accounts whose memberships changed.
    pub memberships: Vec<AccountId>,
    /// Devices that were unlinked.
    pub unlinked: Vec<DeviceId>,
}

impl Announcement {
    /// Whether there is nothing to tell.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.reached.is_empty() && self.coming.is_empty() && self.memberships.is_empty() && self.unlinked.is_empty()
    }

    /// The positions as a client hears them.
    pub fn notifications(&self) -> impl Iterator<Item = Notification> {
        self.reached.iter().map(|&(namespace, position)| Notification { namespace, position })
    }
}

/// What of these goes into one message; it is taken out.
pub fn take_page<T: Ord>(set: &mut BTreeSet<T>) -> Vec<T> {
    std::iter::from_fn(|| set.pop_first()).take(NAMESPACES).collect()
}

/// As [`take_page`], for positions.
pub fn take_positions(positions: &mut BTreeMap<NamespaceId, Position>) -> Vec<(NamespaceId, Position)> {
    std::iter::from_fn(|| positions.pop_first()).take(NAMESPACES).collect()
}

/// Which relay stream an edge speaks of; a hub that starts anew knows none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelayId(pub [u8; 16]);

/// What [`FOLLOW`] says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Follow {
    pub relay: RelayId,
    pub add: Vec<NamespaceId>,
    pub remove: Vec<NamespaceId>,
}

/// One frame of a relay stream: its length as a little-endian `u32`, then its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RelayFrame {
    /// Comes first.
    Welcome(RelayId),
    News(Announcement),
    /// Comes every [`RELAY_BEAT`].
    Beat,
}
