//! What the services ask of one another. In one process these are function calls; between processes an
//! adapter carries them.

use crate::error::ApiError;
use crate::messages::Token;
use model::{AccountId, BlockHash, Commit, CommitOutcome, DeviceId, NamespaceId, Position};

/// Who a token belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    pub account: AccountId,
    pub device: DeviceId,
}

/// A block that has just become durable in the block store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBlock {
    pub hash: BlockHash,
    /// Bytes.
    pub len: u32,
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

    /// Notes blocks that are durable now as uploaded by the account, and then makes the commit, if
    /// there is one, in the same transaction.
    ///
    /// # Errors
    /// `Unlinked`, `EpochChanged`, `Forbidden`, `Unavailable`, `NoSpace`. A rejected operation is no error.
    fn stored(
        &self,
        who: Identity,
        blocks: &[StoredBlock],
        commit: Option<&Commit>,
    ) -> Result<Option<CommitOutcome>, ApiError>;
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
    fn heads(&self, account: AccountId) -> Result<Vec<(NamespaceId, Position)>, ApiError>;
}

/// The notification service as the meta service sees it. Calls never block and never fail: a
/// notification is a hint, and whatever gets lost is found by the next poll.
pub trait Announce: Send + Sync {
    /// The namespace's journal reached a position.
    fn reached(&self, namespace: NamespaceId, position: Position);

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
