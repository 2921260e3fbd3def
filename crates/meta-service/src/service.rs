//! The service itself: what its calls share, and the traits through which other services see it.

use crate::coming::ComingFiles;
use crate::commit::{CommitQueue, Request};
use crate::environment::Environment;
use crate::failure::{Failure, forbidden, of_store, unlinked};
use crate::login_limit::LoginLimit;
use crate::password::Passwords;
use crate::watermark::Watermarks;
use api::service::{Announce, Followed, Identity, MetaForBlocks, MetaForNotification, MetaForStart, StoredBlock};
use api::{ApiError, ChangesReply, ChangesRequest, SentCommit, ServerReply, Token};
use metadata_store::{JournalCache, MetadataStore, Reading, ServerIdentity, StoreError, Transaction};
use model::{AccountId, BlockHash, CommitOutcome, DeviceId, Epoch, InstanceId, NamespaceId, Position, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long a commit's outcome is kept for the device that may ask again. A commit that comes later is
/// decided anew, and refused as stale if it had been accepted.
const OUTCOME_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long it is remembered that a pack has ended: much longer than a word that comes late is under way.
const ENDED_PACK_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Rows that one round of clean-up removes, so that it never holds the database for long.
const CLEAN_UP_ROWS: usize = 10_000;

/// How often a transaction is done again whose commit broke off in the middle.
const UNKNOWN_OUTCOMES: usize = 3;

/// The meta service. Its calls block; async callers move them to a blocking thread.
pub struct MetaService {
    pub(crate) store: Arc<dyn MetadataStore>,
    /// What has been read of journals; `None`: every reader asks the database.
    pub(crate) journal_cache: Option<JournalCache>,
    pub(crate) announce: Arc<dyn Announce>,
    pub(crate) environment: Environment,
    pub(crate) passwords: Passwords,
    pub(crate) login_limit: LoginLimit,
    pub(crate) commits: CommitQueue,
    pub(crate) watermarks: Watermarks,
    pub(crate) coming: ComingFiles,
}

/// What others are told once a transaction is durable.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// ... and which device it was, if one alone.
    pub(crate) reached: BTreeMap<NamespaceId, (Position, Option<DeviceId>)>,
    /// The epoch of the positions, if they are to be remembered.
    pub(crate) epoch: Option<Epoch>,
    pub(crate) memberships: BTreeSet<AccountId>,
    pub(crate) unlinked: BTreeSet<DeviceId>,
}

impl News {
    /// A journal reached a position; an earlier one is no news.
    pub(crate) fn reached(&mut self, namespace: NamespaceId, position: Position, by: Option<DeviceId>) {
        let (known, device) = self.reached.entry(namespace).or_insert((position, by));
        *known = position.max(*known);
        *device = device.filter(|device| Some(*device) == by);
    }
}

/// What one clean-up removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanedUp {
    pub rows: usize,
    /// Whether there may be more to remove at once.
    pub more: bool,
}

impl MetaService {
    /// The service over a store. An empty store gets a server identity.
    ///
    /// # Errors
    /// `Unavailable`, `NoSpace`.
    pub fn new(
        store: Arc<dyn MetadataStore>,
        announce: Arc<dyn Announce>,
        environment: Environment,
    ) -> Result<Self, ApiError> {
        let passwords = Passwords::new(environment.password_cost, environment.random())?;
        let instance = InstanceId(environment.random());
        store
            .write(|tx| match tx.server()? {
                Some(_) => Ok(()),
                // Another server that starts now may come first; its answer is as good.
                None => match tx.insert_server(ServerIdentity { instance, epoch: Epoch(1) }) {
                    Ok(()) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
                    Err(other) => Err(other),
                },
            })
            .map_err(|error: StoreError| of_store(&error))?;
        let (login_limit, commits, watermarks) =
            (LoginLimit::default(), CommitQueue::with_limits(), Watermarks::default());
        let coming = ComingFiles::default();
        let journal_cache = None;
        Ok(Self { store, journal_cache, announce, environment, passwords, login_limit, commits, watermarks, coming })
    }

    /// The same service, whose `changes` reads journals through a cache. Commits never do.
    #[must_use]
    pub fn with_journal_cache(self, cache: JournalCache) -> Self {
        Self { journal_cache: Some(cache), ..self }
    }

    /// `server`: who this is.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn server(&self) -> Result<ServerReply, ApiError> {
        let identity = self.snapshot(|reading| Ok(identity(reading)?))?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(ServerReply { instance: identity.instance, epoch: identity.epoch, version })
    }

    /// Raises the epoch, after the database was restored from a backup or lost entries: every client
    /// then compares what it has with what is here, instead of following the journal.
    ///
    /// The new epoch is the time, in milliseconds since 1970: who restores the same backup again must not come to the
    /// epoch that followed it the last time, in which devices have positions that mean something else.
    ///
    /// # Errors
    /// `Unavailable`, `NoSpace`.
    pub fn bump_epoch(&self) -> Result<Epoch, ApiError> {
        let now = u64::try_from(self.environment.now().0).unwrap_or(0);
        self.write(|tx, _| {
            let old = identity(tx)?;
            let epoch = Epoch(now.max(old.epoch.0 + 1));
            tx.set_server(ServerIdentity { epoch, ..old })?;
            Ok(epoch)
        })
    }

    /// Forgets what has no meaning any more: notes of uploads that no commit followed, and outcomes of
    /// commits so old that no device asks for them. Removes a bounded number of rows; how many, and whether there may be
    /// more.
    ///
    /// # Errors
    /// `Unavailable`, `NoSpace`.
    pub fn clean_up(&self) -> Result<CleanedUp, ApiError> {
        let now = self.environment.now();
        self.write(|tx, _| {
            let removed = [
                tx.forget_uploads(before(now, model::limits::UNCOMMITTED_BLOCK_LIFE), CLEAN_UP_ROWS)?,
                tx.forget_outcomes(before(now, OUTCOME_LIFE), CLEAN_UP_ROWS)?,
                tx.forget_ended_packs(before(now, ENDED_PACK_LIFE), CLEAN_UP_ROWS)?,
            ];
            Ok(CleanedUp { rows: removed.iter().sum(), more: removed.contains(&CLEAN_UP_ROWS) })
        })
    }

    /// Runs a transaction, and tells its news when it is durable.
    pub(crate) fn write<T>(
        &self,
        mut work: impl FnMut(&dyn Transaction, &mut News) -> Result<T, Failure>,
    ) -> Result<T, ApiError> {
        let (result, news) = self.store.write(|tx| {
            let mut news = News::default();
            work(tx, &mut news).map(|result| (result, news))
        })?;
        self.tell(&news);
        Ok(result)
    }

    /// As [`MetaService::write`], for work that recognises what it has done before: it is done again when
    /// the connection to the database broke in the middle of the commit.
    pub(crate) fn write_again<T>(
        &self,
        mut work: impl FnMut(&dyn Transaction, &mut News) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut once = || {
            self.store.write(|tx| {
                let mut news = News::default();
                work(tx, &mut news).map(|result| (result, news))
            })
        };
        let mut done = once();
        for _ in 0..UNKNOWN_OUTCOMES {
            if !matches!(done, Err(Failure::Store(StoreError::OutcomeUnknown { .. }))) {
                break;
            }
            done = once();
        }
        let (result, news) = done?;
        self.tell(&news);
        Ok(result)
    }

    /// Reads a snapshot.
    pub(crate) fn snapshot<T>(&self, work: impl FnMut(&dyn Reading) -> Result<T, Failure>) -> Result<T, ApiError> {
        Ok(self.store.snapshot(work)?)
    }

    pub(crate) fn tell(&self, news: &News) {
        for (namespace, (position, by)) in &news.reached {
            if let Some(epoch) = news.epoch {
                self.watermarks.note(epoch, *namespace, *position);
            }
            match by {
                Some(device) => self.announce.reached_by(*namespace, *position, *device),
                None => self.announce.reached(*namespace, *position),
            }
        }
        for account in &news.memberships {
            self.announce.memberships_changed(*account);
        }
        for device in &news.unlinked {
            self.announce.unlinked(*device);
        }
    }
}

impl MetaForBlocks for MetaService {
    fn authenticate(&self, token: &Token) -> Result<Identity, ApiError> {
        self.identify(token)
    }

    fn readable(&self, who: Identity, namespace: NamespaceId, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
        self.snapshot(|reading| {
            role(reading, who, namespace)?;
            Ok(reading.names_blocks(namespace, blocks)?)
        })
    }

    fn coming(&self, who: Identity, namespace: NamespaceId, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
        self.coming_blocks(who, namespace, blocks)
    }

    fn missing(&self, who: Identity, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
        self.missing_blocks(who, blocks)
    }

    fn changes(&self, who: Identity, request: &ChangesRequest) -> Result<ChangesReply, ApiError> {
        Self::changes(self, who, request)
    }

    fn renew(&self, blocks: &[BlockHash]) -> Result<(), ApiError> {
        self.renew_blocks(blocks)
    }

    fn stored(
        &self,
        who: Identity,
        blocks: &[StoredBlock],
        commit: Option<&SentCommit>,
    ) -> Result<Option<CommitOutcome>, ApiError> {
        let stored = blocks.iter().map(|block| block.hash).collect();
        let outcome = self.submit(Request { who, stored, commit: commit.cloned() })?;
        if commit.is_none() {
            self.tell_of_arrival(who, blocks);
        }
        Ok(outcome)
    }
}

impl MetaForNotification for MetaService {
    fn authenticate(&self, token: &Token) -> Result<Identity, ApiError> {
        self.identify(token)
    }

    fn heads(&self, account: AccountId) -> Result<Followed, ApiError> {
        self.snapshot(|reading| Ok(followed(reading, account)?))
    }

    fn review(&self, devices: &[Identity]) -> Result<Vec<Option<Followed>>, ApiError> {
        self.snapshot(|reading| {
            let review = |who: &Identity| {
                let linked = is_linked(reading, *who)?;
                linked.then(|| followed(reading, who.account)).transpose()
            };
            Ok(devices.iter().map(review).collect::<Result<_, StoreError>>()?)
        })
    }
}

impl MetaForStart for MetaService {
    fn server(&self) -> Result<ServerReply, ApiError> {
        Self::server(self)
    }
}

fn followed(reading: &dyn Reading, account: AccountId) -> Result<Followed, StoreError> {
    let mut heads = Vec::new();
    for (namespace, _) in reading.memberships(account)? {
        heads.extend(reading.namespace(namespace)?.map(|row| (namespace, row.head)));
    }
    Ok(heads)
}

/// Who this server is.
pub(crate) fn identity(reading: &dyn Reading) -> Result<ServerIdentity, StoreError> {
    reading.server()?.ok_or(StoreError::Corrupt { subject: "the server's identity is missing", source: None })
}

/// Checks that the device is still linked, inside the transaction that acts for it.
pub(crate) fn check_linked(reading: &dyn Reading, who: Identity) -> Result<(), Failure> {
    is_linked(reading, who)?.then_some(()).ok_or_else(|| unlinked().into())
}

fn is_linked(reading: &dyn Reading, who: Identity) -> Result<bool, StoreError> {
    let device = reading.device(who.device)?;
    Ok(device.is_some_and(|device| device.active && device.account == who.account))
}

/// What the caller may do in a namespace: the one place that decides it.
pub(crate) fn role(reading: &dyn Reading, who: Identity, namespace: NamespaceId) -> Result<Role, Failure> {
    check_linked(reading, who)?;
    reading.role(namespace, who.account)?.ok_or_else(|| forbidden().into())
}

/// The time `life` before `now`.
pub(crate) fn before(now: model::Timestamp, life: Duration) -> model::Timestamp {
    model::Timestamp(now.0.saturating_sub(i64::try_from(life.as_millis()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_one_device_s_if_all_that_led_there_is() {
        let (one, two) = (Some(DeviceId([1; 16])), Some(DeviceId([2; 16])));
        let told = |commits: &[(u64, Option<DeviceId>)]| {
            let (mut news, namespace) = (News::default(), NamespaceId([1; 16]));
            commits.iter().for_each(|(position, by)| news.reached(namespace, Position(*position), *by));
            news.reached[&namespace]
        };
        assert_eq!(told(&[(3, one), (5, one)]), (Position(5), one));
        assert_eq!(told(&[(3, one), (5, two)]), (Position(5), None));
        assert_eq!(told(&[(3, None), (5, two)]), (Position(5), None));
        assert_eq!(told(&[(3, one), (5, None), (4, one)]), (Position(5), None));
    }
}
