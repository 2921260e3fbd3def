//! What the services ask of one another. In one process these are function calls; between processes an
//! adapter carries them.

use crate::error::{ApiError, ErrorCode};
use crate::messages::{ChangesReply, ChangesRequest, ServerReply, Token};
use crate::sent::SentCommit;
use model::{AccountId, BlockHash, CommitOutcome, DeviceId, NamespaceId, PackId, PackedBlock, Position, Timestamp};
use serde::{Deserialize, Serialize};

/// Who a token belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub account: AccountId,
    pub device: DeviceId,
}

/// A block that has just become durable in the block store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBlock {
    pub hash: BlockHash,
    /// Bytes.
    pub len: u32,
}

/// What one device follows: its account's namespaces with their heads.
pub type Followed = Vec<(NamespaceId, Position)>;

/// The meta service as any process sees it that starts beside it.
pub trait MetaForStart: Send + Sync {
    /// Which server this is.
    ///
    /// # Errors
    /// `Unavailable`.
    fn server(&self) -> Result<ServerReply, ApiError>;
}

/// The meta service as the block service sees it. The calls block; async callers move them to a
/// blocking thread.
pub trait MetaForBlocks: Send + Sync {
    /// Who sends this token.
    ///
    /// # Errors
    /// `Unlinked`, `Unavailable`.
    fn authenticate(&self, token: &Token) -> Result<Identity, ApiError>;

    /// For each block, whether the namespace's journal names it and the account may read the namespace.
    ///
    /// # Errors
    /// `Forbidden` for an account that is no member; `Unavailable`.
    fn readable(&self, who: Identity, namespace: NamespaceId, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError>;

    /// For each block, whether a member of the namespace has announced it for a file there and uploaded it:
    /// its device could commit it there now, and every member could then read it. What is announced may be
    /// forgotten at any time, or, where nobody carries the word, never known.
    ///
    /// # Errors
    /// `Forbidden` for an account that is no member; `Unavailable`.
    fn coming(&self, who: Identity, namespace: NamespaceId, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
        let (_, _) = (who, namespace);
        Ok(vec![false; blocks.len()])
    }

    /// For each block, whether the account would have to upload it.
    ///
    /// # Errors
    /// `Unavailable`.
    fn missing(&self, who: Identity, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError>;

    /// Says that these blocks are about to be stored: the clean-up leaves them alone for as long as an
    /// upload may last, whatever it had in mind.
    ///
    /// # Errors
    /// `Unavailable`, also while one of them is being removed; the same call succeeds a little later.
    fn renew(&self, blocks: &[BlockHash]) -> Result<(), ApiError>;

    /// What changed behind the caller's cursor. Where it cannot be told here, the caller's device asks for it
    /// elsewhere.
    ///
    /// # Errors
    /// As those of the call `changes`; `NotFound` where it cannot be told.
    fn changes(&self, who: Identity, request: &ChangesRequest) -> Result<ChangesReply, ApiError> {
        let (_, _) = (who, request);
        Err(ApiError::new(ErrorCode::NotFound, "changes are not told here"))
    }

    /// Notes blocks that are durable now as uploaded by the account, and then makes the commit, if
    /// there is one, in the same transaction.
    ///
    /// # Errors
    /// `Unlinked`, `EpochChanged`, `Forbidden`, `Unavailable`, `NoSpace`. A rejected operation is no error.
    fn stored(
        &self,
        who: Identity,
        blocks: &[StoredBlock],
        commit: Option<&SentCommit>,
    ) -> Result<Option<CommitOutcome>, ApiError>;
}

/// The meta service as the clean-up of blocks sees it: it knows who names a block, and keeps what the
/// clean-up has noted.
///
/// A block goes in three steps, and each is a transaction: it is marked when nobody names it; it is condemned
/// when the grace has passed and still nobody does; and when its bytes are gone it is forgotten. Between the
/// last two nobody can upload it ([`MetaForBlocks::renew`]).
pub trait MetaForCleanUp: Send + Sync {
    /// Marks those of these blocks of the store that nobody names. Changes nothing if `mode` says so.
    ///
    /// # Errors
    /// `Unavailable`, `NoSpace`.
    fn mark(&self, blocks: &[BlockHash], mode: CleanUpMode) -> Result<Marked, ApiError>;

    /// Condemns up to `limit` blocks that have been marked for the grace and that nobody names, and those
    /// whose removal was begun long ago by somebody who did not end it. No more are due when there are none.
    /// Called twice, it condemns others the second time; those of a call whose answer was lost are taken up
    /// when their removal has not ended for long.
    ///
    /// # Errors
    /// `Unavailable`, `NoSpace`.
    fn condemn(&self, limit: usize) -> Result<Condemned, ApiError>;

    /// Forgets condemned blocks whose bytes are gone, but for those whose removal somebody else has begun
    /// since.
    ///
    /// # Errors
    /// `Unavailable`, `NoSpace`.
    fn removed(&self, condemned: &Condemned) -> Result<(), ApiError>;
}

/// The meta service as a store of blocks sees it that puts small ones together into packs: it keeps where they lie.
///
/// A pack is durable before any place in it is noted, and is ended, which is for ever, before it is removed. So
/// a place leads to bytes that are there, or are being moved to a place that is noted already. All calls can be
/// made twice.
pub trait PackIndex: Send + Sync {
    /// Says that blocks are about to get another place, as [`MetaForBlocks::renew`] says of an upload: the clean-up
    /// leaves them alone for as long as one may last.
    ///
    /// # Errors
    /// `Unavailable`, also while one of them is being removed.
    fn keep(&self, blocks: &[BlockHash]) -> Result<(), ApiError>;

    /// For each block its place, if it has one.
    ///
    /// # Errors
    /// `Unavailable`.
    fn find_packed(&self, blocks: &[BlockHash]) -> Result<Vec<Option<PackedBlock>>, ApiError>;

    /// Notes where blocks of one durable pack lie, all or none, each in the place only of what it says.
    ///
    /// # Errors
    /// `Unavailable`, also for a pack that has ended; `NoSpace`.
    fn note_packed(&self, pack: PackId, blocks: &[NewPlace]) -> Result<(), ApiError>;

    /// Forgets the places of blocks, and ends the packs that have none left; which.
    ///
    /// # Errors
    /// `Unavailable`, `NoSpace`.
    fn forget_packed(&self, blocks: &[BlockHash]) -> Result<Vec<PackId>, ApiError>;

    /// Up to `limit` of the blocks that have a place, rising, behind `after`; fewer only at the end.
    ///
    /// # Errors
    /// `Unavailable`.
    fn list_packed(&self, after: Option<BlockHash>, limit: usize) -> Result<Vec<BlockHash>, ApiError>;

    /// For each pack what is known of it.
    ///
    /// # Errors
    /// `Unavailable`.
    fn packs(&self, packs: &[PackId]) -> Result<Vec<PackState>, ApiError>;

    /// The places in a pack, by offset.
    ///
    /// # Errors
    /// `Unavailable`.
    fn places_in(&self, pack: PackId) -> Result<Vec<PackedBlock>, ApiError>;

    /// Ends a pack if there is no place in it, so that none can come; whether it has ended.
    ///
    /// # Errors
    /// `Unavailable`, `NoSpace`.
    fn end_pack(&self, pack: PackId) -> Result<bool, ApiError>;
}

/// A place that is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPlace {
    pub block: BlockHash,
    /// Bytes of the pack in front of it.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
    pub instead_of: InsteadOf,
}

/// What a new place may take the place of; with anything else there it is not noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InsteadOf {
    /// Whatever there is.
    Anything,
    /// The block has no place.
    Nothing,
    /// The block's place is in this pack.
    Pack(PackId),
}

/// What is known of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PackState {
    /// No place in it was ever noted.
    Unknown,
    /// So many blocks, with so many bytes together, have their place in it.
    Live { blocks: u64, bytes: u64 },
    /// There is no place in it, and none can come.
    Ended,
}

/// The meta service as whoever compares it with the block store sees it.
pub trait MetaForVerify: Send + Sync {
    /// Up to `limit` of the blocks that any journal names, rising, behind `after`; fewer only at the end.
    ///
    /// # Errors
    /// `Unavailable`.
    fn named(&self, after: Option<BlockHash>, limit: usize) -> Result<Vec<BlockHash>, ApiError>;

    /// For each block, whether anybody names it or has uploaded it lately.
    ///
    /// # Errors
    /// `Unavailable`.
    fn in_use(&self, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError>;
}

/// Blocks whose removal begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condemned {
    pub blocks: Vec<BlockHash>,
    /// Tells this removal of a block from a later one.
    pub time: Timestamp,
}

/// Whether the clean-up acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CleanUpMode {
    Act,
    /// Only looks, and says what it would do.
    Look,
}

/// What the clean-up found about some blocks of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marked {
    /// Nobody names them; marked now for the first time.
    pub fresh: u64,
    /// Marked before, and still within the grace.
    pub waiting: u64,
    /// Marked before, and to be removed by the next sweep.
    pub due: Vec<BlockHash>,
}

/// The meta service as the notification service sees it.
pub trait MetaForNotification: Send + Sync {
    /// Who sends this token.
    ///
    /// # Errors
    /// `Unlinked`, `Unavailable`.
    fn authenticate(&self, token: &Token) -> Result<Identity, ApiError>;

    /// The namespaces that the account follows, with their heads.
    ///
    /// # Errors
    /// `Unavailable`.
    fn heads(&self, account: AccountId) -> Result<Followed, ApiError>;

    /// For each device what it follows; `None` for one that is no longer linked.
    ///
    /// # Errors
    /// `Unavailable`.
    fn review(&self, devices: &[Identity]) -> Result<Vec<Option<Followed>>, ApiError>;
}

/// The notification service as the meta service sees it. Calls never block and never fail: a
/// notification is a hint, and whatever gets lost is found by the next poll.
pub trait Announce: Send + Sync {
    /// The namespace's journal reached a position.
    fn reached(&self, namespace: NamespaceId, position: Position);

    /// The same, by commits of this device alone, which hears of them by their answers.
    fn reached_by(&self, namespace: NamespaceId, position: Position, from: DeviceId) {
        let _ = from;
        self.reached(namespace, position);
    }

    /// Blocks of a file that the device announced for the namespace have arrived. Nothing is lost with the
    /// word: whoever does not hear it fetches the file when it is committed.
    fn coming(&self, namespace: NamespaceId, from: DeviceId) {
        let (_, _) = (namespace, from);
    }

    /// The accounts' memberships changed; their connections follow other namespaces now.
    fn memberships_changed(&self, account: AccountId);

    /// The device was unlinked; its connections end.
    fn unlinked(&self, device: DeviceId);
}
