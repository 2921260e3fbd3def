//! Journals through a cache: how many readers of the same entries ask the database for them once.
//!
//! A journal is cut into chunks at fixed positions, and a cached value is what a chunk held when somebody
//! read it: its entries from the first one on. An entry never changes, so that no commit makes a value false,
//! and none has to touch the cache. What a value may be is short: the chunk has grown since. A reader knows
//! from its own snapshot how far the journal reaches, and asks that snapshot for the rest.
//!
//! The keys, and the values too, name the installation, the epoch and the namespace, since positions mean
//! nothing beyond them. Whatever else a cache answers is not believed.
//!
//! Who may read a journal, and where it ends, is never cached.

use crate::port::{Answer, Reading};
use crate::record::{JournalRecord, PageLimit, ServerIdentity, blocks_of};
use cache::{Cache, Found, Lease};
use model::{Epoch, InstanceId, JournalEntry, NamespaceId, Position};
use serde::Deserialize;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// The only format of a value so far; another gets the next number, and other keys.
const FORMAT: u8 = 1;
/// Bytes of a value before its body: the format, and a CRC-32C of the body.
const HEAD_BYTES: usize = 5;
/// Bytes of a value. A chunk of more is about files of many blocks, and is always read from the database.
const VALUE_BYTES: usize = 512 * 1024;
/// How long a whole chunk is kept at the longest. It never becomes false, but for a database that has lost
/// entries while nobody raised the epoch.
const WHOLE_LIFE: Duration = Duration::from_secs(3600);
/// How long a chunk is kept at the longest that still grows.
const PART_LIFE: Duration = Duration::from_secs(60);

/// Where journals are cut, and what is worth a question to the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunking {
    /// Entries of a whole chunk.
    pub entries: u64,
    /// A reader who lacks fewer entries than this does not ask the cache: the database has them as quickly.
    pub worthwhile: u64,
    /// A value that lacks so many of the entries that there are is forgotten, to be filled in anew.
    pub stale: u64,
}

impl Chunking {
    /// A page of the journal is eight chunks, each some 30 KB as a rule.
    pub const STANDARD: Self = Self { entries: 256, worthwhile: 64, stale: 64 };
    /// Every entry goes through the cache. For tests and simulation.
    pub const FINEST: Self = Self { entries: 4, worthwhile: 1, stale: 2 };
}

/// A cache of journals.
#[derive(Clone)]
pub struct JournalCache {
    cache: Arc<dyn Cache>,
    chunking: Chunking,
}

/// What is to be filled in, once the snapshot has ended that it was read from.
pub struct Fill {
    key: String,
    lease: Lease,
    value: Vec<u8>,
    life: Duration,
}

impl JournalCache {
    /// Journals through this cache.
    #[must_use]
    pub fn new(cache: Arc<dyn Cache>, chunking: Chunking) -> Self {
        Self { cache, chunking }
    }

    /// Fills in what was missing.
    pub fn fill(&self, fills: Vec<Fill>) {
        for Fill { key, lease, value, life } in fills {
            self.cache.fill(&key, lease, &value, life);
        }
    }
}

/// A chunk of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    server: ServerIdentity,
    namespace: NamespaceId,
    /// Counted from 0.
    number: u64,
    /// Entries when it is whole.
    entries: u64,
}

impl Chunk {
    /// The position before its first entry.
    const fn start(&self) -> Position {
        Position(self.number * self.entries)
    }

    /// The position of its last entry, when it is whole.
    const fn end(&self) -> Position {
        Position((self.number + 1) * self.entries)
    }

    fn key(&self) -> String {
        let Self { server: ServerIdentity { instance, epoch }, namespace, number, entries } = self;
        format!("journal/{FORMAT}/{instance}/{}/{namespace}/{entries}/{number}", epoch.0)
    }

    /// How long it is kept: between half of the longest and all of it, so that not all of them go at once.
    fn life(&self, whole: bool) -> Duration {
        let longest = if whole { WHOLE_LIFE } else { PART_LIFE };
        let seed = self.namespace.as_bytes().iter().fold(self.number, |sum, byte| sum * 31 % 1009 + u64::from(*byte));
        let share = u32::try_from(seed % 256).unwrap_or_default();
        longest / 2 + longest / 512 * share
    }

    /// The value with these entries, which begin at the chunk's first.
    fn encode(&self, records: &[JournalRecord]) -> Option<Vec<u8>> {
        let entries: Vec<(Position, &JournalEntry)> = records.iter().map(|r| (r.batch_first, &r.entry)).collect();
        let ServerIdentity { instance, epoch } = self.server;
        let mut value = vec![FORMAT; HEAD_BYTES];
        value = postcard::to_extend(&(instance, epoch, self.namespace, entries), value).ok()?;
        let sum = crc_fast::crc32_iscsi(&value[HEAD_BYTES..]);
        value[1..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
        (value.len() <= VALUE_BYTES).then_some(value)
    }

    /// The entries of a value, if it is one of this chunk.
    fn decode(&self, value: &[u8]) -> Option<Vec<JournalRecord>> {
        let (head, body) = value.split_at_checked(HEAD_BYTES)?;
        if head[0] != FORMAT || head[1..] != crc_fast::crc32_iscsi(body).to_le_bytes() {
            return None;
        }
        let Value { instance, epoch, namespace, entries } = postcard::from_bytes(body).ok()?;
        let (server, length) = (ServerIdentity { instance, epoch }, u64::try_from(entries.len()).ok()?);
        if (server, namespace) != (self.server, self.namespace) || length == 0 || length > self.entries {
            return None;
        }
        let dense = (self.start().0 + 1..).zip(&entries).all(|(position, (_, entry))| entry.position.0 == position);
        let record = |(batch_first, entry)| JournalRecord { entry, batch_first };
        dense.then(|| entries.into_iter().map(record).collect())
    }
}

/// The body of a value.
#[derive(Deserialize)]
struct Value {
    instance: InstanceId,
    epoch: Epoch,
    namespace: NamespaceId,
    /// Each with the first entry of its batch.
    entries: Vec<(Position, JournalEntry)>,
}

/// Whether these bytes are a value of any chunk, for a fuzzer.
#[must_use]
pub fn is_value(bytes: &[u8]) -> bool {
    let Some(Value { instance, epoch, namespace, entries }) =
        bytes.get(HEAD_BYTES..).and_then(|body| postcard::from_bytes(body).ok())
    else {
        return false;
    };
    let Chunking { entries: length, .. } = Chunking::STANDARD;
    let number = entries.first().map_or(0, |(_, entry)| entry.position.0.saturating_sub(1)) / length;
    if number >= u64::MAX / length - 1 {
        return false;
    }
    let chunk = Chunk { server: ServerIdentity { instance, epoch }, namespace, number, entries: length };
    let Some(records) = chunk.decode(bytes) else { return false };
    chunk.encode(&records).and_then(|again| chunk.decode(&again)) == Some(records)
}

/// The journals of one snapshot, through a cache where there is one.
pub struct Journals<'a> {
    reading: &'a dyn Reading,
    cache: Option<&'a JournalCache>,
    server: ServerIdentity,
    /// Of the entries that were read last.
    batches: RefCell<Option<Batches>>,
    fills: RefCell<Vec<Fill>>,
}

/// The beginnings of the commits that entries in a row belong to.
struct Batches {
    namespace: NamespaceId,
    /// Of the first of the entries.
    position: Position,
    beginnings: Vec<Position>,
}

impl Batches {
    fn of(namespace: NamespaceId, records: &[JournalRecord]) -> Option<Self> {
        let position = records.first()?.entry.position;
        Some(Self { namespace, position, beginnings: records.iter().map(|record| record.batch_first).collect() })
    }

    fn get(&self, namespace: NamespaceId, position: Position) -> Option<Position> {
        let index = position.0.checked_sub(self.position.0).filter(|_| namespace == self.namespace)?;
        self.beginnings.get(usize::try_from(index).ok()?).copied()
    }
}

/// A stretch of a journal that somebody wants.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    namespace: NamespaceId,
    after: Position,
    /// Where it ends, but for the limit on blocks.
    last: Position,
    /// Where the journal ends.
    head: Position,
    limit: PageLimit,
}

impl<'a> Journals<'a> {
    /// The journals of a snapshot of this server's database.
    #[must_use]
    pub fn new(reading: &'a dyn Reading, cache: Option<&'a JournalCache>, server: ServerIdentity) -> Self {
        Self { reading, cache, server, batches: RefCell::default(), fills: RefCell::default() }
    }

    /// What is to be filled in after the snapshot.
    #[must_use]
    pub fn into_fills(self) -> Vec<Fill> {
        self.fills.into_inner()
    }

    /// The entries behind `after`, rising, up to a limit, as [`Reading::journal`] has them. `head` is the
    /// journal's end in this snapshot.
    ///
    /// # Errors
    /// The database's.
    pub fn page(
        &self,
        namespace: NamespaceId,
        after: Position,
        head: Position,
        limit: PageLimit,
    ) -> Answer<Vec<JournalRecord>> {
        let entries = u64::try_from(limit.entries).unwrap_or(u64::MAX);
        // One more than is wanted tells where the last commit of the page ends.
        let last = head.min(Position(after.0.saturating_add(entries).saturating_add(1)));
        let wanted = last.0.saturating_sub(after.0);
        let records = match self.cache {
            Some(cache) if wanted >= cache.chunking.worthwhile && entries > 0 => {
                self.through(cache, Wanted { namespace, after, last, head, limit })?
            }
            Some(_) | None => self.reading.journal(namespace, after, limit)?,
        };
        *self.batches.borrow_mut() = Batches::of(namespace, &records);
        Ok(within(records, limit))
    }

    /// The beginning of the commit that the entry behind `position` belongs to; `None` at the journal's end.
    ///
    /// # Errors
    /// The database's.
    pub fn batch_behind(&self, namespace: NamespaceId, position: Position, head: Position) -> Answer<Option<Position>> {
        if position >= head {
            return Ok(None);
        }
        let known = self.batches.borrow().as_ref().and_then(|batches| batches.get(namespace, position.next()));
        if known.is_some() {
            return Ok(known);
        }
        // Reading backwards from two further gives the next entry without its content.
        let next = self.reading.journal_backwards(namespace, position.next().next(), 1)?;
        Ok(next.first().filter(|next| next.position > position).map(|next| next.batch_first))
    }

    /// At least the entries that the database would give behind `after`: as far as the cache has them without
    /// a gap from there, and the rest from the database.
    fn through(&self, cache: &JournalCache, wanted: Wanted) -> Answer<Vec<JournalRecord>> {
        let Wanted { namespace, after, last, head, .. } = wanted;
        let entries = cache.chunking.entries;
        let numbers = after.0 / entries..=(last.0 - 1) / entries;
        let chunks: Vec<Chunk> =
            numbers.map(|number| Chunk { server: self.server, namespace, number, entries }).collect();
        let keys: Vec<String> = chunks.iter().map(Chunk::key).collect();
        let found = cache.cache.get(&keys);
        let mut records = Vec::new();
        let mut reached = after;
        for ((chunk, key), found) in chunks.iter().zip(&keys).zip(&found) {
            let Found::Value(value) = found else { break };
            let Some(mut known) = chunk.decode(value) else {
                // Whatever it is, it keeps others from filling in what belongs there.
                cache.cache.invalidate(key);
                break;
            };
            known.retain(|record| record.entry.position <= head);
            let there = head.min(chunk.end());
            let until = known.last().map_or(chunk.start(), |record| record.entry.position);
            if there.0 - until.0 >= cache.chunking.stale {
                cache.cache.invalidate(key);
            }
            records.extend(known.into_iter().filter(|record| record.entry.position > after));
            reached = reached.max(until);
            if until < there {
                break;
            }
        }
        if reached >= last {
            return Ok(records);
        }
        let leases: Vec<(Chunk, Lease)> = chunks.iter().zip(&found).filter_map(lease).collect();
        self.complete(wanted, records, reached, &leases)
    }

    /// Reads what the cache did not have, from `reached` on, and as much around it as makes the chunks whole that
    /// are to be filled in.
    fn complete(
        &self,
        wanted: Wanted,
        mut records: Vec<JournalRecord>,
        reached: Position,
        leases: &[(Chunk, Lease)],
    ) -> Answer<Vec<JournalRecord>> {
        let Wanted { namespace, last, head, limit, .. } = wanted;
        let from = leases.first().map_or(reached, |(chunk, _)| chunk.start().min(reached));
        let to = leases.last().map_or(last, |(chunk, _)| chunk.end().min(head).max(last));
        let entries = usize::try_from(to.0 - from.0).unwrap_or(usize::MAX);
        let read = self.reading.journal(namespace, from, PageLimit { entries, ..limit })?;
        let read_to = read.last().map_or(from, |record| record.entry.position);
        for (chunk, lease) in leases.iter().filter(|(chunk, _)| chunk.end().min(head) <= read_to) {
            let [first, behind] = [chunk.start(), chunk.end()].map(|position| to_index(&read, position));
            let known = &read[first..behind];
            let whole = u64::try_from(known.len()) == Ok(chunk.entries);
            if let Some(value) = chunk.encode(known) {
                let fill = Fill { key: chunk.key(), lease: *lease, value, life: chunk.life(whole) };
                self.fills.borrow_mut().push(fill);
            }
        }
        if read_to < to && from < reached {
            // What was read for the cache alone names so many blocks that the page may have had no room left.
            records.extend(self.reading.journal(namespace, reached, limit)?);
        } else {
            records.extend(read.into_iter().filter(|record| record.entry.position > reached));
        }
        Ok(records)
    }
}

/// How many of the entries stand up to and including a position.
fn to_index(records: &[JournalRecord], position: Position) -> usize {
    records.partition_point(|record| record.entry.position <= position)
}

fn lease((chunk, found): (&Chunk, &Found)) -> Option<(Chunk, Lease)> {
    match found {
        Found::Missing(lease) => Some((*chunk, *lease)),
        Found::Value(_) | Found::Nothing => None,
    }
}

/// As many of the entries as the limit allows; one is allowed however many blocks it names.
fn within(mut records: Vec<JournalRecord>, limit: PageLimit) -> Vec<JournalRecord> {
    let mut blocks = 0;
    let fitting = records.iter().take(limit.entries).enumerate().take_while(|(index, record)| {
        blocks += blocks_of(&record.entry.change);
        blocks <= limit.blocks || *index == 0
    });
    let count = fitting.count();
    records.truncate(count);
    records
}

#[cfg(test)]
mod tests;
