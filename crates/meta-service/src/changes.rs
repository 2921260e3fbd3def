//! What changed, and which blocks an account lacks.

use crate::failure::{bad_request, epoch_changed, gone_back};
use crate::service::{MetaService, before, check_linked, identity};
use api::service::Identity;
use api::{ApiError, ChangesReply, ChangesRequest, MissingReply, MissingRequest, NamespaceChanges};
use metadata_store::port::Answer;
use metadata_store::{JournalRecord, Journals, PageLimit, Reading};
use model::{AccountId, BlockHash, Body, Change, JournalEntry, NamespaceId, Position, Role, Timestamp, limits};
use std::time::Duration;

/// Namespaces in one cursor: more than anyone is a member of.
const CURSOR_NAMESPACES: usize = 10_000;

/// The age of an upload that is noted anew when somebody asks about it.
const RENEWED_AFTER: Duration = Duration::from_secs(3 * 3600);

/// A namespace of the cursor for which there may be entries.
struct Behind {
    index: usize,
    namespace: NamespaceId,
    after: Position,
    head: Position,
}

impl Behind {
    const fn entries(&self) -> u64 {
        self.head.0 - self.after.0
    }
}

impl MetaService {
    /// `changes`: the entries behind the caller's cursor, in one consistent snapshot. The page is shared
    /// fairly: namespaces with little news get all of it, the others divide the rest. A page ends where
    /// a commit ends if the limits allow it, so that a client sees commits whole.
    ///
    /// # Errors
    /// `EpochChanged` for another instance or epoch, or a position ahead of the journal; `Unlinked`,
    /// `BadRequest`, `Unavailable`, also where the database lacks what this process has seen in it.
    pub fn changes(&self, who: Identity, request: &ChangesRequest) -> Result<ChangesReply, ApiError> {
        if request.cursor.len() > CURSOR_NAMESPACES {
            return Err(bad_request(format!("a cursor holds at most {CURSOR_NAMESPACES} namespaces")));
        }
        let seen = self.watermarks.of(request.cursor.keys());
        let (reply, fills) = self.snapshot(|reading| {
            check_linked(reading, who)?;
            let server = identity(reading)?;
            if (server.instance, server.epoch) != (request.instance, request.epoch) {
                return Err(epoch_changed().into());
            }
            let mut namespaces = Vec::with_capacity(request.cursor.len());
            let mut behind = Vec::new();
            for (&namespace, &after) in &request.cursor {
                let (role, head) =
                    standing(reading, who.account, namespace)?.map_or((None, after), |(role, head)| (Some(role), head));
                // Somebody who is no member any more is one of a journal that is still there.
                let there = if role.is_none() && seen.knows(namespace) { reached(reading, namespace)? } else { head };
                if seen.is_behind(server.epoch, namespace, there) {
                    return Err(gone_back(namespace, there).into());
                }
                if after > head {
                    return Err(epoch_changed().into());
                }
                if head > after {
                    behind.push(Behind { index: namespaces.len(), namespace, after, head });
                }
                namespaces.push(NamespaceChanges { namespace, role, entries: Vec::new(), head });
            }
            let journals = Journals::new(reading, self.journal_cache.as_ref(), server);
            fill(&journals, behind, &mut namespaces)?;
            Ok((ChangesReply { namespaces }, journals.into_fills()))
        })?;
        if let Some(cache) = &self.journal_cache {
            cache.fill(fills);
        }
        Ok(reply)
    }

    /// `missing`: which of these blocks the account would have to upload. Of the others, those that it has uploaded and not
    /// committed stay for another [`limits::UNCOMMITTED_BLOCK_LIFE`]: an upload may take longer than that.
    ///
    /// # Errors
    /// `Unlinked`, `BadRequest` for too long a list, `Unavailable`.
    pub fn missing(&self, who: Identity, request: &MissingRequest) -> Result<MissingReply, ApiError> {
        let missing = self.missing_blocks(who, &request.blocks)?;
        let there = request.blocks.iter().zip(&missing).filter(|(_, missing)| !**missing).map(|(hash, _)| *hash);
        // The answer holds all the same.
        if let Err(error) = self.renew_uploads(who.account, &there.collect::<Vec<_>>()) {
            tracing::warn!(%error, "uploaded blocks that are still wanted could not be noted anew");
        }
        let indexes = (0..).zip(missing).filter_map(|(index, missing)| missing.then_some(index));
        Ok(MissingReply { missing: indexes.collect() })
    }

    /// Notes that these blocks are still wanted, where they were uploaded so long ago that this is worth a transaction.
    fn renew_uploads(&self, account: AccountId, blocks: &[BlockHash]) -> Result<(), ApiError> {
        if blocks.is_empty() {
            return Ok(());
        }
        let now = self.environment.now();
        let ageing = |reading: &dyn Reading| -> Answer<Vec<BlockHash>> {
            let alive = reading.uploaded_blocks(account, blocks, before(now, limits::UNCOMMITTED_BLOCK_LIFE))?;
            let alive: Vec<BlockHash> =
                blocks.iter().zip(alive).filter(|(_, alive)| *alive).map(|(hash, _)| *hash).collect();
            let recent = reading.uploaded_blocks(account, &alive, before(now, RENEWED_AFTER))?;
            Ok(alive.into_iter().zip(recent).filter(|(_, recent)| !recent).map(|(hash, _)| hash).collect())
        };
        if self.snapshot(|reading| Ok(ageing(reading)?))?.is_empty() {
            return Ok(());
        }
        // What has run out in between is none of the account's any more.
        self.write(|tx, _| Ok(tx.add_uploaded_blocks(account, &ageing(tx)?, now)?))
    }

    pub(crate) fn missing_blocks(&self, who: Identity, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
        if blocks.len() > limits::BLOCKS_PER_REQUEST {
            return Err(bad_request(format!("a request names at most {} blocks", limits::BLOCKS_PER_REQUEST)));
        }
        let now = self.environment.now();
        self.snapshot(|reading| {
            check_linked(reading, who)?;
            Ok(missing(reading, who.account, None, blocks, now)?)
        })
    }
}

/// The account's role in a namespace and the namespace's head, if it is a member.
fn standing(reading: &dyn Reading, account: AccountId, namespace: NamespaceId) -> Answer<Option<(Role, Position)>> {
    let Some(role) = reading.role(namespace, account)? else { return Ok(None) };
    Ok(reading.namespace(namespace)?.map(|row| (role, row.head)))
}

/// How far a journal has come; nowhere, where there is none.
fn reached(reading: &dyn Reading, namespace: NamespaceId) -> Answer<Position> {
    Ok(reading.namespace(namespace)?.map_or(Position::START, |row| row.head))
}

/// Fills the page, those with the least news first: what they leave of their share goes to the others.
fn fill(journals: &Journals<'_>, mut behind: Vec<Behind>, namespaces: &mut [NamespaceChanges]) -> Answer<()> {
    behind.sort_by_key(|one| (one.entries(), one.index));
    let mut left = PageLimit { entries: limits::CHANGES_PAGE_ENTRIES, blocks: limits::CHANGES_PAGE_BLOCKS };
    let mut takers = behind.len();
    // A single commit may name more blocks than a page; the first namespace served gets past that.
    let mut first = true;
    for one in behind {
        let share = PageLimit { entries: left.entries.div_ceil(takers), blocks: left.blocks.div_ceil(takers) };
        takers -= 1;
        let records = page(journals, &one, share, left)?;
        let blocks: usize = records.iter().map(|record| blocks_of(&record.entry)).sum();
        if blocks > left.blocks && !first {
            continue;
        }
        first = false;
        left.entries = left.entries.saturating_sub(records.len());
        left.blocks = left.blocks.saturating_sub(blocks);
        namespaces[one.index].entries = records.into_iter().map(|record| record.entry).collect();
    }
    Ok(())
}

/// The next entries of one namespace: as many whole commits as its share holds; else the first commit,
/// if what is left for all holds it; else what the share holds of it.
fn page(journals: &Journals<'_>, of: &Behind, share: PageLimit, left: PageLimit) -> Answer<Vec<JournalRecord>> {
    if share.entries == 0 {
        return Ok(Vec::new());
    }
    let mut records = journals.page(of.namespace, of.after, of.head, share)?;
    let whole = whole_commits(journals, of, &records)?;
    if whole > 0 {
        records.truncate(whole);
        return Ok(records);
    }
    let mut longer = journals.page(of.namespace, of.after, of.head, left)?;
    let whole = first_commit(journals, of, &longer)?;
    if whole > 0 {
        longer.truncate(whole);
        return Ok(longer);
    }
    Ok(records)
}

/// How many of the entries belong to commits that are all there.
fn whole_commits(journals: &Journals<'_>, of: &Behind, records: &[JournalRecord]) -> Answer<usize> {
    let Some(last) = records.last() else { return Ok(0) };
    let next = journals.batch_behind(of.namespace, last.entry.position, of.head)?;
    if next.is_none_or(|batch_first| batch_first > last.entry.position) {
        return Ok(records.len());
    }
    Ok(records.iter().take_while(|record| record.batch_first < last.batch_first).count())
}

/// How many entries the first commit has, if it is all there; else 0.
fn first_commit(journals: &Journals<'_>, of: &Behind, records: &[JournalRecord]) -> Answer<usize> {
    let Some(first) = records.first() else { return Ok(0) };
    let same = records.iter().take_while(|record| record.batch_first == first.batch_first).count();
    if same < records.len() || whole_commits(journals, of, records)? == records.len() { Ok(same) } else { Ok(0) }
}

fn blocks_of(entry: &JournalEntry) -> usize {
    match &entry.change {
        Change::Create { body, .. } | Change::Edit { body } => Body::blocks(body).len(),
        Change::Move { .. } | Change::Delete => 0,
    }
}

/// For each block, whether the account would have to upload it: it is named by no namespace that the
/// account can read, and the account has not uploaded it lately. What others have stored plays no part,
/// or the answer would tell what others have. `first` is the namespace where it most likely is.
pub(crate) fn missing(
    reading: &dyn Reading,
    account: AccountId,
    first: Option<NamespaceId>,
    blocks: &[BlockHash],
    now: Timestamp,
) -> Answer<Vec<bool>> {
    let mut unknown: Vec<usize> = (0..blocks.len()).collect();
    let keep = |unknown: &mut Vec<usize>, ask: &dyn Fn(&[BlockHash]) -> Answer<Vec<bool>>| -> Answer<()> {
        if unknown.is_empty() {
            return Ok(());
        }
        let asked: Vec<BlockHash> = unknown.iter().map(|&index| blocks[index]).collect();
        let mut known = ask(&asked)?.into_iter();
        unknown.retain(|_| !known.next().unwrap_or(false));
        Ok(())
    };
    let since = before(now, limits::UNCOMMITTED_BLOCK_LIFE);
    keep(&mut unknown, &|asked| reading.uploaded_blocks(account, asked, since))?;
    if let Some(first) = first {
        keep(&mut unknown, &|asked| reading.names_blocks(first, asked))?;
    }
    let memberships = if unknown.is_empty() { Vec::new() } else { reading.memberships(account)? };
    let rest = memberships.iter().map(|(namespace, _)| *namespace).filter(|namespace| Some(*namespace) != first);
    for namespace in rest {
        keep(&mut unknown, &|asked| reading.names_blocks(namespace, asked))?;
    }
    let mut missing = vec![false; blocks.len()];
    for index in unknown {
        missing[index] = true;
    }
    Ok(missing)
}
