//! The port: what the meta service asks of a metadata database.

use crate::error::StoreError;
use crate::record::{
    Account, Arrival, Child, Device, JournalBrief, JournalRecord, Namespace, NodeRecord, PageLimit, ServerIdentity,
    TokenHash, UnusedBlock,
};
use model::{
    AccountId, BlockHash, CommitKey, CommitOutcome, DeviceId, Name, NameKey, NamespaceId, NodeId, PackId, PackedBlock,
    Position, Role, Timestamp,
};
use std::ops::RangeInclusive;

/// What every question to the store answers with.
pub type Answer<T> = Result<T, StoreError>;

/// Which write transactions run beside each other; the others wait for one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// None: work that waits is best done in one transaction.
    One,
    /// Those on different namespaces. A transaction on several holds all of them up, and where namespaces
    /// are spread over machines it costs far more than one on each.
    PerNamespace,
}

/// A metadata database.
///
/// Calls must not nest: neither `transact` nor `read` may be called from inside the work of either.
pub trait MetadataStore: Send + Sync {
    /// Whether transactions run beside each other.
    fn writers(&self) -> Writers {
        Writers::One
    }

    /// Runs `work` in a write transaction and makes its effects durable when it returns `Ok`; when it
    /// returns an error nothing has happened. The adapter may run `work` again after a conflict, so it
    /// must build its results anew each time.
    ///
    /// # Errors
    /// What `work` returned, or why the transaction could not be made.
    fn transact(&self, work: &mut dyn FnMut(&dyn Transaction) -> Answer<()>) -> Answer<()>;

    /// Runs `work` on one snapshot of the database: all that it reads was true at one moment, and
    /// everything is in it that was committed before the call.
    ///
    /// # Errors
    /// What `work` returned, or why the snapshot could not be made.
    fn read(&self, work: &mut dyn FnMut(&dyn Reading) -> Answer<()>) -> Answer<()>;
}

impl dyn MetadataStore + '_ {
    /// [`MetadataStore::transact`] with a result. Any error of the work undoes the transaction.
    ///
    /// # Errors
    /// The work's, or the store's.
    pub fn write<T, E: From<StoreError>>(
        &self,
        mut work: impl FnMut(&dyn Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut result = None;
        let done = self.transact(&mut |transaction| keep(&mut result, work(transaction)));
        settle(done, result)
    }

    /// [`MetadataStore::read`] with a result.
    ///
    /// # Errors
    /// The work's, or the store's.
    pub fn snapshot<T, E: From<StoreError>>(&self, mut work: impl FnMut(&dyn Reading) -> Result<T, E>) -> Result<T, E> {
        let mut result = None;
        let done = self.read(&mut |reading| keep(&mut result, work(reading)));
        settle(done, result)
    }
}

/// Keeps the work's result aside; the store only learns whether to commit.
fn keep<T, E>(slot: &mut Option<Result<T, E>>, result: Result<T, E>) -> Answer<()> {
    let abandoned = result.is_err();
    *slot = Some(result);
    if abandoned { Err(StoreError::Abandoned) } else { Ok(()) }
}

/// The work's own error when it ended the transaction; else the store's.
fn settle<T, E: From<StoreError>>(done: Answer<()>, result: Option<Result<T, E>>) -> Result<T, E> {
    match (done, result) {
        (Ok(()), Some(result)) | (Err(StoreError::Abandoned), Some(result @ Err(_))) => result,
        (Err(error), _) => Err(error.into()),
        (Ok(()), None) => Err(StoreError::Abandoned.into()),
    }
}

/// Questions to one snapshot. Lists come in the order that each method names.
pub trait Reading {
    /// Who this server is; `None` until [`Transaction::insert_server`].
    fn server(&self) -> Answer<Option<ServerIdentity>>;

    /// An account.
    fn account(&self, account: AccountId) -> Answer<Option<Account>>;
    /// The account with this e-mail address, in any spelling of upper and lower case.
    fn account_by_email(&self, email: &str) -> Answer<Option<Account>>;
    /// All accounts by e-mail address.
    fn accounts(&self) -> Answer<Vec<Account>>;

    /// A device, active or not.
    fn device(&self, device: DeviceId) -> Answer<Option<Device>>;
    /// The active device with this token.
    fn device_by_token(&self, token: &TokenHash) -> Answer<Option<Device>>;
    /// An account's active devices, the oldest link first.
    fn devices(&self, account: AccountId) -> Answer<Vec<Device>>;

    /// A namespace.
    fn namespace(&self, namespace: NamespaceId) -> Answer<Option<Namespace>>;
    /// What the account may do in the namespace; `None`: it is no member.
    fn role(&self, namespace: NamespaceId, account: AccountId) -> Answer<Option<Role>>;
    /// The namespaces of which the account is a member, by id.
    fn memberships(&self, account: AccountId) -> Answer<Vec<(NamespaceId, Role)>>;
    /// The namespace's members, by account id.
    fn members(&self, namespace: NamespaceId) -> Answer<Vec<(AccountId, Role)>>;

    /// A node, alive or dead.
    fn node(&self, namespace: NamespaceId, node: NodeId) -> Answer<Option<NodeRecord>>;
    /// Whether another namespace has a row of the node, alive or dead.
    fn is_elsewhere(&self, namespace: NamespaceId, node: NodeId) -> Answer<bool>;
    /// The live child of `parent` with this name.
    fn child(&self, namespace: NamespaceId, parent: NodeId, key: &NameKey) -> Answer<Option<NodeId>>;
    /// The live children of `parent`, by name key.
    fn children(&self, namespace: NamespaceId, parent: NodeId) -> Answer<Vec<Child>>;
    /// The live children of `parent` that are directories, by id.
    fn child_directories(&self, namespace: NamespaceId, parent: NodeId) -> Answer<Vec<Child>>;
    /// The dead children of `parent` that an entry in `when` killed, by id.
    fn fallen_children(
        &self,
        namespace: NamespaceId,
        parent: NodeId,
        when: RangeInclusive<Position>,
    ) -> Answer<Vec<NodeId>>;

    /// The entries behind `after`, rising, up to a limit.
    fn journal(&self, namespace: NamespaceId, after: Position, limit: PageLimit) -> Answer<Vec<JournalRecord>>;
    /// The entries before `before`, falling, at most `limit`.
    fn journal_backwards(&self, namespace: NamespaceId, before: Position, limit: usize) -> Answer<Vec<JournalBrief>>;
    /// The node's entries that carry a body (its creation and its edits) up to and including `until`,
    /// falling.
    fn revisions(
        &self,
        namespace: NamespaceId,
        node: NodeId,
        until: Position,
        limit: PageLimit,
    ) -> Answer<Vec<JournalRecord>>;
    /// Where the node was at `at`: what its last creation or move up to then said.
    fn location(&self, namespace: NamespaceId, node: NodeId, at: Position) -> Answer<Option<(NodeId, Name)>>;
    /// The nodes that ever came to this place, the latest first, at most `limit`.
    fn arrivals(&self, namespace: NamespaceId, parent: NodeId, key: &NameKey, limit: usize) -> Answer<Vec<Arrival>>;
    /// The node's first own move or deletion after `after`.
    fn departure(&self, namespace: NamespaceId, node: NodeId, after: Position) -> Answer<Option<Position>>;

    /// The outcome stored under the key of a commit to this namespace.
    fn outcome(&self, namespace: NamespaceId, device: DeviceId, key: CommitKey) -> Answer<Option<CommitOutcome>>;

    /// For each block, whether the namespace's journal names it.
    fn names_blocks(&self, namespace: NamespaceId, blocks: &[BlockHash]) -> Answer<Vec<bool>>;
    /// For each block, whether the account uploaded it at `since` or later.
    fn uploaded_blocks(&self, account: AccountId, blocks: &[BlockHash], since: Timestamp) -> Answer<Vec<bool>>;

    /// For each block, whether any namespace's journal names it or any account's upload is noted. For the
    /// clean-up alone: an adapter over many databases asks all of them.
    fn blocks_in_use(&self, blocks: &[BlockHash]) -> Answer<Vec<bool>>;
    /// Up to `limit` of the blocks that any namespace's journal names, rising, behind `after`; fewer only
    /// at the end.
    fn all_named_blocks(&self, after: Option<BlockHash>, limit: usize) -> Answer<Vec<BlockHash>>;
    /// For each block, what the clean-up noted of it.
    fn unused_blocks(&self, blocks: &[BlockHash]) -> Answer<Vec<Option<UnusedBlock>>>;
    /// The blocks that have been unused since before `before`, the longest first, at most `limit`.
    fn unused_since(&self, before: Timestamp, limit: usize) -> Answer<Vec<UnusedBlock>>;

    /// For each block its place in a pack, if it has one.
    fn packed_blocks(&self, blocks: &[BlockHash]) -> Answer<Vec<Option<PackedBlock>>>;
    /// Up to `limit` of the blocks that have a place in a pack, rising, behind `after`; fewer only at the end.
    fn all_packed_blocks(&self, after: Option<BlockHash>, limit: usize) -> Answer<Vec<BlockHash>>;
    /// The places in a pack, by offset.
    fn blocks_in_pack(&self, pack: PackId) -> Answer<Vec<PackedBlock>>;
    /// For each pack what is known of it; `None`: nothing.
    fn packs(&self, packs: &[PackId]) -> Answer<Vec<Option<PackRecord>>>;
}

/// What is known of a pack of small blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackRecord {
    /// When it ended; nothing is in it any more, and nothing comes.
    pub ended: Option<Timestamp>,
    /// Blocks that have their place in it.
    pub blocks: u64,
    /// Bytes of those.
    pub bytes: u64,
}

/// What becomes of a row that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    Replace,
    Keep,
}

/// Rows of one namespace that a transaction is going to look up one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookups {
    pub namespace: NamespaceId,
    pub devices: Vec<DeviceId>,
    /// Whose roles in the namespace.
    pub accounts: Vec<AccountId>,
    pub outcomes: Vec<(DeviceId, CommitKey)>,
    pub nodes: Vec<NodeId>,
    /// Live children, by parent and name.
    pub places: Vec<(NodeId, NameKey)>,
    /// Nodes to be made: of their ids it is asked whether a namespace, or a node of another namespace, has them.
    pub new_nodes: Vec<NodeId>,
    /// Blocks of which it is asked whether the namespace names them and whether the account uploaded them.
    pub blocks: Vec<(AccountId, BlockHash)>,
}

/// A write transaction: it reads its own writes. What a write would break may be said by the write, or by
/// whatever comes after it, the end of the transaction at the latest.
pub trait Transaction: Reading {
    /// Sets who this server is, for good. `AlreadyExists` if another has done so, before or meanwhile.
    fn insert_server(&self, identity: ServerIdentity) -> Answer<()>;
    /// Changes who this server is.
    fn set_server(&self, identity: ServerIdentity) -> Answer<()>;

    /// Adds an account whose root namespace exists. `AlreadyExists` for an e-mail that is taken.
    fn insert_account(&self, account: &Account) -> Answer<()>;
    /// Gives an account another password.
    fn set_password_hash(&self, account: AccountId, password_hash: &str) -> Answer<()>;
    /// Adds an active device.
    fn insert_device(&self, device: &Device, token: &TokenHash) -> Answer<()>;
    /// Ends a device and forgets its token; `false`: it was not active.
    fn end_device(&self, device: DeviceId) -> Answer<bool>;
    /// Notes when a device was last seen.
    fn touch_device(&self, device: DeviceId, last_seen: Timestamp) -> Answer<()>;

    /// Adds an empty namespace. `AlreadyExists` if there is one with this id.
    fn insert_namespace(&self, namespace: NamespaceId) -> Answer<()>;
    /// The namespace, locked against other writers until the transaction ends. What the transaction reads
    /// of the namespace afterwards is what the last holder of the lock left; what it read before may have
    /// changed meanwhile, so that the lock comes before whatever is to hold.
    fn lock_namespace(&self, namespace: NamespaceId) -> Answer<Option<Namespace>>;
    /// Locks a namespace, if it exists, and fetches what is going to be looked up in it. Changes no answer;
    /// saves journeys to a database that is far away.
    fn prefetch(&self, _lookups: &Lookups) -> Answer<()> {
        Ok(())
    }
    /// Makes the account a member, or changes its role.
    fn set_member(&self, namespace: NamespaceId, account: AccountId, role: Role) -> Answer<()>;
    /// Ends a membership; `false`: there was none.
    fn remove_member(&self, namespace: NamespaceId, account: AccountId) -> Answer<bool>;

    /// Writes nodes, new ones and others, as one set: names may change hands within it. The caller keeps
    /// the count of live nodes. `AlreadyExists` if two live children of a folder would share a name.
    fn put_nodes(&self, namespace: NamespaceId, nodes: &[NodeRecord]) -> Answer<()>;
    /// Marks live nodes as killed by the entry at `position`. The caller keeps the count.
    fn kill_nodes(&self, namespace: NamespaceId, nodes: &[NodeId], position: Position) -> Answer<()>;
    /// Sets the count of live nodes.
    fn set_live_nodes(&self, namespace: NamespaceId, live_nodes: u64) -> Answer<()>;
    /// Appends one batch of entries to the journal and moves its head. `Gap` if they do not follow it.
    fn append(&self, namespace: NamespaceId, entries: &[model::JournalEntry]) -> Answer<()>;

    /// Stores a commit's outcome.
    fn put_outcome(
        &self,
        namespace: NamespaceId,
        device: DeviceId,
        key: CommitKey,
        outcome: &CommitOutcome,
        time: Timestamp,
    ) -> Answer<()>;
    /// Notes blocks that the namespace's journal names now.
    fn add_named_blocks(&self, namespace: NamespaceId, blocks: &[BlockHash]) -> Answer<()>;
    /// Notes blocks that the account has uploaded; a block uploaded again gets the later time.
    fn add_uploaded_blocks(&self, account: AccountId, blocks: &[BlockHash], time: Timestamp) -> Answer<()>;

    /// As [`Reading::unused_blocks`], and nobody else changes what is noted until the transaction ends.
    fn lock_unused(&self, blocks: &[BlockHash]) -> Answer<Vec<Option<UnusedBlock>>>;
    /// Notes blocks that nobody names; of one that is noted already the note stays.
    fn mark_unused(&self, blocks: &[BlockHash], since: Timestamp) -> Answer<()>;
    /// Notes that the removal of blocks that are marked begins.
    fn condemn_unused(&self, blocks: &[BlockHash], time: Timestamp) -> Answer<()>;
    /// Forgets what was noted of blocks.
    fn forget_unused(&self, blocks: &[BlockHash]) -> Answer<()>;

    /// Makes a pack known, if it is not, and keeps it from others who lock it until the transaction ends; when
    /// it has ended. Packs are locked in their order, and before the places of blocks.
    fn lock_pack(&self, pack: PackId) -> Answer<Option<Timestamp>>;
    /// As [`Reading::packed_blocks`], and nobody else changes the places that there are until the transaction ends.
    fn lock_packed(&self, blocks: &[BlockHash]) -> Answer<Vec<Option<PackedBlock>>>;
    /// Notes places of different blocks in packs that are locked.
    fn put_packed(&self, blocks: &[PackedBlock], existing: Existing) -> Answer<()>;
    /// Forgets the places of blocks.
    fn forget_packed(&self, blocks: &[BlockHash]) -> Answer<()>;
    /// Ends a locked pack without places.
    fn end_pack(&self, pack: PackId, time: Timestamp) -> Answer<()>;
    /// Forgets packs that ended before a time, at most `limit`; how many.
    fn forget_ended_packs(&self, before: Timestamp, limit: usize) -> Answer<usize>;

    /// Forgets outcomes stored before a time, at most `limit`; how many.
    fn forget_outcomes(&self, before: Timestamp, limit: usize) -> Answer<usize>;
    /// Forgets notes of uploads made before a time, at most `limit`; how many.
    fn forget_uploads(&self, before: Timestamp, limit: usize) -> Answer<usize>;
}
