//! The meta service in another process.

use crate::upstream::Upstream;
use crate::wire::{self, Authenticate, Call, Changes, Mark, Missing, Readable, Stored};
use api::service::{
    CleanUpMode, Condemned, Followed, Identity, Marked, MetaForBlocks, MetaForCleanUp, MetaForNotification,
    MetaForStart, StoredBlock,
};
use api::{ApiError, ChangesReply, ChangesRequest, ErrorCode, ServerReply, Token};
use model::{AccountId, BlockHash, Commit, CommitOutcome, NamespaceId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio::runtime::Handle;

/// The meta service as this process reaches it. Its calls block, and must not be made where a runtime's
/// own work is done, which is so for every caller of these traits.
pub struct RemoteMeta {
    upstream: Arc<Upstream>,
    runtime: Handle,
}

impl RemoteMeta {
    /// The meta service behind `upstream`; `runtime` carries the calls.
    #[must_use]
    pub const fn new(upstream: Arc<Upstream>, runtime: Handle) -> Self {
        Self { upstream, runtime }
    }

    /// As [`MetaForNotification::authenticate`], for who can wait without a thread: very many may wait at once.
    ///
    /// # Errors
    /// As there.
    pub async fn identify(&self, token: &Token) -> Result<Identity, ApiError> {
        self.upstream.call(wire::AUTHENTICATE, &Authenticate { token: token.clone() }).await
    }

    fn call<Q: Serialize + Sync, R: DeserializeOwned>(&self, call: Call, request: &Q) -> Result<R, ApiError> {
        self.runtime.block_on(self.upstream.call(call, request))
    }

    /// As [`RemoteMeta::call`], where the reply has one part for each part of the request.
    fn call_each<Q: Serialize + Sync, R: DeserializeOwned>(
        &self,
        call: Call,
        request: &Q,
        parts: usize,
    ) -> Result<Vec<R>, ApiError> {
        let reply: Vec<R> = self.call(call, request)?;
        if reply.len() == parts {
            return Ok(reply);
        }
        tracing::error!(call = call.name, asked = parts, told = reply.len(), "a service answers something else");
        Err(ApiError::new(ErrorCode::Unavailable, "a part of the server does not understand another"))
    }
}

impl MetaForStart for RemoteMeta {
    fn server(&self) -> Result<ServerReply, ApiError> {
        self.call(wire::SERVER, &())
    }
}

impl MetaForBlocks for RemoteMeta {
    fn authenticate(&self, token: &Token) -> Result<Identity, ApiError> {
        self.call(wire::AUTHENTICATE, &Authenticate { token: token.clone() })
    }

    fn readable(&self, who: Identity, namespace: NamespaceId, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
        let request = Readable { who, namespace, blocks: blocks.to_vec() };
        self.call_each(wire::READABLE, &request, blocks.len())
    }

    fn coming(&self, who: Identity, namespace: NamespaceId, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
        let request = Readable { who, namespace, blocks: blocks.to_vec() };
        self.call_each(wire::COMING, &request, blocks.len())
    }

    fn changes(&self, who: Identity, request: &ChangesRequest) -> Result<ChangesReply, ApiError> {
        self.call(wire::CHANGES, &Changes { who, request: request.clone() })
    }

    fn missing(&self, who: Identity, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
        self.call_each(wire::MISSING, &Missing { who, blocks: blocks.to_vec() }, blocks.len())
    }

    fn renew(&self, blocks: &[BlockHash]) -> Result<(), ApiError> {
        self.call(wire::RENEW, &blocks)
    }

    fn stored(
        &self,
        who: Identity,
        blocks: &[StoredBlock],
        commit: Option<&Commit>,
    ) -> Result<Option<CommitOutcome>, ApiError> {
        let request = Stored { who, blocks: blocks.to_vec(), commit: commit.cloned() };
        self.call(wire::STORED, &request)
    }
}

impl MetaForCleanUp for RemoteMeta {
    fn mark(&self, blocks: &[BlockHash], mode: CleanUpMode) -> Result<Marked, ApiError> {
        self.call(wire::MARK, &Mark { blocks: blocks.to_vec(), mode })
    }

    fn condemn(&self, limit: usize) -> Result<Condemned, ApiError> {
        self.call(wire::CONDEMN, &u32::try_from(limit).unwrap_or(u32::MAX))
    }

    fn removed(&self, condemned: &Condemned) -> Result<(), ApiError> {
        self.call(wire::REMOVED, condemned)
    }
}

impl MetaForNotification for RemoteMeta {
    fn authenticate(&self, token: &Token) -> Result<Identity, ApiError> {
        MetaForBlocks::authenticate(self, token)
    }

    fn heads(&self, account: AccountId) -> Result<Followed, ApiError> {
        self.call(wire::HEADS, &account)
    }

    fn review(&self, devices: &[Identity]) -> Result<Vec<Option<Followed>>, ApiError> {
        self.call_each(wire::REVIEW, &devices, devices.len())
    }
}
