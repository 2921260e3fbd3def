//! The meta service in another process.

use crate::upstream::Upstream;
use crate::wire::{self, Authenticate, Call, Changes, ListPacked, Mark, Missing, NotePacked, Readable, Stored};
use api::service::{
    CleanUpMode, Condemned, Followed, Identity, Marked, MetaForBlocks, MetaForCleanUp, MetaForNotification,
    MetaForStart, NewPlace, PackIndex, PackState, StoredBlock,
};
use api::{ApiError, ChangesReply, ChangesRequest, ErrorCode, SentCommit, ServerReply, Token};
use model::{AccountId, BlockHash, CommitOutcome, NamespaceId, PackId, PackedBlock};
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
        commit: Option<&SentCommit>,
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

/// What is asked about more than one call may name goes in several.
impl PackIndex for RemoteMeta {
    fn keep(&self, blocks: &[BlockHash]) -> Result<(), ApiError> {
        self.call(wire::RENEW, &blocks)
    }

    fn find_packed(&self, blocks: &[BlockHash]) -> Result<Vec<Option<PackedBlock>>, ApiError> {
        let mut found = Vec::with_capacity(blocks.len());
        for blocks in blocks.chunks(wire::MARKED) {
            found.extend(self.call_each::<_, Option<PackedBlock>>(wire::FIND_PACKED, &blocks, blocks.len())?);
        }
        Ok(found)
    }

    fn note_packed(&self, pack: PackId, blocks: &[NewPlace]) -> Result<(), ApiError> {
        self.call(wire::NOTE_PACKED, &NotePacked { pack, blocks: blocks.to_vec() })
    }

    fn forget_packed(&self, blocks: &[BlockHash]) -> Result<Vec<PackId>, ApiError> {
        let mut ended = Vec::new();
        for blocks in blocks.chunks(wire::MARKED) {
            ended.extend(self.call::<_, Vec<PackId>>(wire::FORGET_PACKED, &blocks)?);
        }
        Ok(ended)
    }

    fn list_packed(&self, after: Option<BlockHash>, limit: usize) -> Result<Vec<BlockHash>, ApiError> {
        let mut listed: Vec<BlockHash> = Vec::new();
        while listed.len() < limit {
            let wanted = wire::MARKED.min(limit - listed.len());
            let request =
                ListPacked { after: listed.last().copied().or(after), limit: u32::try_from(wanted).unwrap_or(1) };
            let page: Vec<BlockHash> = self.call(wire::LIST_PACKED, &request)?;
            let last = page.len() < wanted;
            listed.extend(page);
            if last {
                break;
            }
        }
        Ok(listed)
    }

    fn packs(&self, packs: &[PackId]) -> Result<Vec<PackState>, ApiError> {
        let mut states = Vec::with_capacity(packs.len());
        for packs in packs.chunks(wire::MARKED) {
            states.extend(self.call_each::<_, PackState>(wire::PACKS, &packs, packs.len())?);
        }
        Ok(states)
    }

    fn places_in(&self, pack: PackId) -> Result<Vec<PackedBlock>, ApiError> {
        self.call(wire::PLACES_IN, &pack)
    }

    fn end_pack(&self, pack: PackId) -> Result<bool, ApiError> {
        self.call(wire::END_PACK, &pack)
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
