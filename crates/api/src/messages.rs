//! The client-facing calls: one request and one reply type each.

use crate::sent::SentCommit;
use crate::shift::HashStart;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::{
    AccountId, BlockHash, Body, CommitOutcome, ContentHash, Cursor, DeviceId, Epoch, InstanceId, JournalEntry, Name,
    NamespaceId, NodeId, Position, Role, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A device's secret: 256 random bits. The server keeps only its SHA-256.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(pub [u8; 32]);

impl Token {
    /// The token in the form in which it is kept.
    #[must_use]
    pub fn to_hex(&self) -> String {
        BlockHash(self.0).to_string()
    }

    /// A token from its hexadecimal form.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        text.parse::<BlockHash>().ok().map(|bytes| Self(bytes.0))
    }

    /// The token in the form in which it travels behind `Authorization: Bearer`: base64url, which is a third shorter.
    #[must_use]
    pub fn to_bearer(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// The token of a request: what `Authorization` says behind `Bearer`, whose case does not matter (RFC 9110, 11.1).
    #[must_use]
    pub fn from_authorization(value: &str) -> Option<Self> {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| Self::from_bearer(token.trim())).flatten()
    }

    /// A token from either of its forms.
    #[must_use]
    pub fn from_bearer(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).or_else(|| Self::from_hex(text))
    }
}

/// A secret must not end up in a log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(secret)")
    }
}

/// `link`: makes a device of this installation. The only call without a token.
#[derive(Clone, Serialize, Deserialize)]
pub struct LinkRequest {
    pub email: String,
    pub password: String,
    pub device_name: String,
}

/// The reply to `link`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReply {
    pub token: Token,
    pub account: AccountId,
    pub device: DeviceId,
    pub instance: InstanceId,
    pub epoch: Epoch,
    /// The account's root namespace.
    pub root: NamespaceId,
}

/// `changes`: what changed since my cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesRequest {
    pub instance: InstanceId,
    pub epoch: Epoch,
    /// Each namespace that the client wants to hear of.
    pub cursor: Cursor,
}

/// The reply to `changes`. Together the pages hold at most `limits::CHANGES_PAGE_ENTRIES` entries.
/// A client whose `instance` or `epoch` differs, or whose cursor is ahead of a `head`, gets
/// `ErrorCode::EpochChanged` with nothing else, and asks `server` who it is talking to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesReply {
    pub namespaces: Vec<NamespaceChanges>,
}

/// The reply to `news`, which takes a [`ChangesRequest`]: what changed, and some small contents of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewsReply {
    pub changes: ChangesReply,
    /// Whatever is not here is fetched.
    pub contents: Vec<SmallContent>,
}

/// Blocks of a changed file that follow each other, in a form that costs less to send along than to be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmallContent {
    /// Which of the reply's entries, counted from 0 through all pages, names the blocks.
    pub entry: u32,
    /// The number of the first of them in the file,
    pub first: u32,
    /// and how many they are.
    pub count: u32,
    /// As in the frame of a parcel; of a delta the script is for all of them together (`delta::split`).
    pub form: u8,
    /// What a delta copies from: blocks that the caller may read, and will have if it has the version before.
    pub bases: Vec<HashStart>,
    pub bytes: Vec<u8>,
}

/// What changed in one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceChanges {
    pub namespace: NamespaceId,
    /// The caller's role; `None`: not a member, or no longer. Then there are no entries.
    pub role: Option<Role>,
    /// The entries right behind the cursor, without a gap; `limits::CHANGES_PAGE_ENTRIES` at most.
    #[serde(with = "crate::entries")]
    pub entries: Vec<JournalEntry>,
    /// The journal's last position when the page was read; more than the last entry's: ask again.
    pub head: Position,
}

/// `server`: who is this. The reply to a call without a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerReply {
    pub instance: InstanceId,
    pub epoch: Epoch,
    pub version: String,
}

/// `missing`: which of these blocks would I have to upload. Answered from what the account can already
/// read or has uploaded itself, never from what others have stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingRequest {
    pub blocks: Vec<BlockHash>,
}

/// The reply to `missing`: indexes into the request's list, rising.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingReply {
    pub missing: Vec<u32>,
}

/// A block that follows in the same body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockHeader {
    pub hash: BlockHash,
    /// Bytes, 1 to 4 MiB.
    pub len: u32,
}

/// `changeset`: the head of a body of blocks (see [`crate::codec::encode_head`]), which travels as a [`crate::SentHead`]. Blocks are stored as
/// they arrive, so an upload that breaks off has not been for nothing; the commit is made when all of
/// them are durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesetHead {
    pub blocks: Vec<BlockHeader>,
    /// What the parcels that are deltas copy from.
    pub bases: Option<Bases>,
    pub commit: Option<SentCommit>,
}

/// Blocks that the journal of a namespace names, and that new ones resemble.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bases {
    pub namespace: NamespaceId,
    pub blocks: Vec<BlockHash>,
}

/// The reply to `changeset`, sent when every block is durable that could be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesetReply {
    pub outcome: Option<CommitOutcome>,
    /// Indexes into the head's blocks: those whose deltas did not lead to them, rising. They must be sent
    /// in another form. If there are any, the commit was not made.
    pub unmade: Vec<u32>,
}

/// `sums`: the chunks of blocks that the namespace's journal names, to find them in new bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumsRequest {
    pub namespace: NamespaceId,
    /// Bytes of a chunk, at least `limits::SUMS_CHUNK_MIN`.
    pub chunk: u32,
    pub stretches: Vec<Stretch>,
}

/// A part of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stretch {
    pub block: BlockHash,
    pub offset: u32,
    pub len: u32,
}

/// The reply to `sums`: for each stretch the sums of its chunks, eight bytes each; none for a block that
/// the caller cannot read here, or that ends before the stretch does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumsReply {
    pub sums: Vec<Vec<u8>>,
}

/// `blocks`: hand out blocks that the namespace's journal names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlocksRequest {
    pub namespace: NamespaceId,
    pub blocks: Vec<BlockHash>,
    /// Blocks that the caller has, of which those that it wants may be changed forms.
    pub bases: Vec<BlockHash>,
}

/// The head of the reply to `blocks`, a body of blocks. A block that the caller may not read, and one
/// that the server lacks, are both left out. The reply may also stop early at
/// `limits::BLOCK_BYTES_PER_REQUEST`; the caller asks again for what is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlocksHead {
    pub blocks: Vec<BlockHeader>,
    /// Blocks that this caller cannot get from here.
    pub unavailable: Vec<BlockHash>,
}

/// A file whose content is being uploaded and that is not committed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComingFile {
    /// The id that the commit will give it.
    pub node: NodeId,
    /// The folder in which it will be.
    pub parent: NodeId,
    /// Bytes; more than none.
    pub size: u64,
    /// All blocks in order, `limits::COMING_BLOCKS` at most.
    pub blocks: Vec<BlockHash>,
}

/// `announce`: the caller begins to upload the content of a new file. The other members of the namespace
/// may fetch its blocks as they arrive; that there is a file, only the commit says. The reply is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnounceRequest {
    pub namespace: NamespaceId,
    pub file: ComingFile,
}

/// `coming`: what other devices are uploading into a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComingRequest {
    pub namespace: NamespaceId,
}

/// The reply to `coming`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComingReply {
    pub files: Vec<ComingFile>,
}

/// One linked installation, as `devices` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEntry {
    pub device: DeviceId,
    pub name: String,
    pub linked: Timestamp,
    pub last_seen: Timestamp,
    /// Whether it is the device that asks.
    pub current: bool,
}

/// The reply to `devices`, a call without a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicesReply {
    pub devices: Vec<DeviceEntry>,
}

/// `unlink`: ends a device of the caller's account; `None`: the caller itself. The reply is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlinkRequest {
    pub device: Option<DeviceId>,
}

/// `revisions`: what was ever at this path of the namespace, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionsRequest {
    pub namespace: NamespaceId,
    pub path: Vec<Name>,
    /// Only those before this position.
    pub before: Option<Position>,
    pub limit: u32,
}

/// One version of a node, or its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    pub node: NodeId,
    pub position: Position,
    pub version: Version,
    pub device_name: Option<String>,
    pub time: Timestamp,
}

/// What a node was in a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// It ended here, by itself or with a folder around it.
    Deleted,
    Directory,
    /// The mount of a shared folder.
    Mount,
    Symlink,
    File {
        size: u64,
        content: ContentHash,
    },
}

impl Version {
    /// What a body is, without its blocks.
    #[must_use]
    pub fn of(body: &Body) -> Self {
        match body {
            Body::Directory => Self::Directory,
            Body::Mount => Self::Mount,
            Body::Symlink { .. } => Self::Symlink,
            Body::File { blocks, size, .. } => Self::File { size: *size, content: blocks.content_hash() },
        }
    }
}

/// The reply to `revisions`. It may hold fewer than were asked for; none means that there are no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionsReply {
    pub revisions: Vec<Revision>,
}

/// `history`: what happened in the namespace, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRequest {
    pub namespace: NamespaceId,
    /// Only entries before this position.
    pub before: Option<Position>,
    pub limit: u32,
}

/// One entry of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    pub position: Position,
    pub node: NodeId,
    pub action: HistoryAction,
    /// Where the node was after the entry (for a deletion: before it), best effort.
    pub path: Vec<Name>,
    pub device_name: Option<String>,
    pub account_email: Option<String>,
    pub time: Timestamp,
}

/// What a history entry did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HistoryAction {
    Created,
    Edited,
    Moved,
    Deleted,
    Shared,
}

/// The reply to `history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryReply {
    pub entries: Vec<HistoryEntry>,
}

/// `restore`: bring back a version. A file that lives gets the old content as a new revision; what was
/// deleted is made anew (a folder with all it held at its end), under its old name if that is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    pub namespace: NamespaceId,
    pub node: NodeId,
    /// The version to bring back; for a deleted node `None` is the last.
    pub position: Option<Position>,
}

/// The reply to `restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReply {
    pub head: Position,
    /// Nodes made or changed.
    pub nodes: u32,
    /// Where the restored node is now.
    pub path: Vec<Name>,
}

/// `share`: invites an account into a folder, which becomes a namespace of its own if it is none yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareRequest {
    pub namespace: NamespaceId,
    pub node: NodeId,
    pub email: String,
    pub role: Role,
}

/// The reply to `share`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareReply {
    pub namespace: NamespaceId,
}

/// A member of a shared folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub email: String,
    pub role: Role,
}

/// A shared folder of the caller's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    pub namespace: NamespaceId,
    /// The name under which the caller mounted it; the folder's own name if it is not mounted.
    pub name: Option<Name>,
    pub mounted: bool,
    pub role: Role,
    pub members: Vec<Member>,
}

/// The reply to `shares`, a call without a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharesReply {
    pub shares: Vec<Share>,
}

/// `leave`: the caller gives up a shared folder. The reply is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveRequest {
    pub namespace: NamespaceId,
}

/// `remove-member`: the owner ends a membership. The reply is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveMemberRequest {
    pub namespace: NamespaceId,
    pub email: String,
}

/// What an SSE `data:` line of the notification service holds: `<namespace> <position>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    pub namespace: NamespaceId,
    pub position: Position,
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.namespace, self.position)
    }
}

impl std::str::FromStr for Notification {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (namespace, position) = text.trim().split_once(' ').ok_or(())?;
        Ok(Self { namespace: namespace.parse().map_err(drop)?, position: Position(position.parse().map_err(drop)?) })
    }
}

/// What the stream says when blocks of an announced upload have arrived: `coming <namespace>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coming(pub NamespaceId);

impl fmt::Display for Coming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "coming {}", self.0)
    }
}

impl std::str::FromStr for Coming {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        text.trim().strip_prefix("coming ").and_then(|namespace| namespace.parse().ok()).map(Self).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_two_forms_and_each_is_read() {
        let token = Token(std::array::from_fn(|n| (n as u8).wrapping_mul(37).wrapping_sub(5)));
        let text = token.to_bearer();
        assert_eq!(text, "-yBFao-02f4jSG2St9wBJktwlbrfBClOc5i94gcsUXY");
        assert!(Token::from_bearer(&text) == Some(token.clone()));
        for value in [format!("Bearer {text}"), format!("bearer  {text} "), format!("BEARER {}", token.to_hex())] {
            assert!(Token::from_authorization(&value) == Some(token.clone()), "{value}");
        }
        for value in [format!("Basic {text}"), format!("Bearer{text}"), "Bearer ".to_owned(), text] {
            assert!(Token::from_authorization(&value).is_none(), "{value}");
        }
        assert!(Token::from_bearer(&token.to_hex()) == Some(token));
    }

    #[test]
    fn whatever_is_no_token_is_refused() {
        let zeros = "A".repeat(43);
        assert!(Token::from_bearer(&zeros) == Some(Token([0; 32])));
        let ends_in = |end: char| format!("{}{end}", &zeros[1..]);
        for text in
            [ends_in('B'), ends_in('='), ends_in('+'), zeros[1..].to_owned(), format!("{zeros}A"), String::new()]
        {
            assert!(Token::from_bearer(&text).is_none(), "{text}");
        }
    }
}
