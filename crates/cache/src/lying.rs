//! A cache that lies: it answers with what was filled in long ago or under another key, with parts of values,
//! gives one lease to many, takes what comes too late, and forgets or keeps what it likes.
//!
//! Whoever uses a cache must come to the same results with this one.

use crate::{Cache, Counts, Found, KEY_BYTES, Lease};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Values that are remembered, of all keys; then the oldest go.
const REMEMBERED: usize = 4096;

/// A random number below the argument, which is not 0.
pub type Chance = Box<dyn Fn(u64) -> u64 + Send + Sync>;

/// A cache that lies.
pub struct LyingCache {
    told: Mutex<Told>,
    chance: Chance,
    counts: Counts,
}

#[derive(Default)]
struct Told {
    /// All that was ever filled in, in that order.
    values: Vec<(String, Arc<[u8]>)>,
    /// Where the values of a key are.
    by_key: BTreeMap<String, Vec<usize>>,
}

impl LyingCache {
    /// A cache that lies as chance will have it.
    #[must_use]
    pub fn new(chance: impl Fn(u64) -> u64 + Send + Sync + 'static) -> Self {
        Self { told: Mutex::default(), chance: Box::new(chance), counts: Counts::default() }
    }

    fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        let count = u64::try_from(from.len()).ok().filter(|count| *count > 0)?;
        usize::try_from((self.chance)(count)).ok().and_then(|index| from.get(index))
    }

    fn answer(&self, told: &Told, key: &str) -> Found {
        let own = told.by_key.get(key).map_or(&[][..], Vec::as_slice);
        let value = |index: &usize| told.values[*index].1.clone();
        let lie = match (self.chance)(10) {
            // What was true yesterday, mostly.
            0..=4 => self.pick(own).map(value),
            5 => own.last().map(value),
            6 => self.pick(&told.values).map(|(_, value)| value.clone()),
            7 => self.pick(own).map(value).and_then(|value| {
                let end = self.pick(&(0..value.len()).collect::<Vec<_>>()).copied()?;
                Some(value[..end].into()).filter(|part: &Arc<[u8]>| !part.is_empty())
            }),
            8 => return Found::Nothing,
            _ => None,
        };
        lie.map_or(Found::Missing(Lease { token: 0, run: 0 }), Found::Value)
    }
}

impl Cache for LyingCache {
    fn get(&self, keys: &[String]) -> Vec<Found> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let answers: Vec<Found> = keys.iter().map(|key| self.answer(&told, key)).collect();
        for found in &answers {
            let hit = matches!(found, Found::Value(_));
            Counts::add(if hit { &self.counts.hits } else { &self.counts.misses });
        }
        answers
    }

    fn fill(&self, key: &str, _lease: Lease, value: &[u8], _life: Duration) {
        if key.len() > KEY_BYTES {
            return;
        }
        Counts::add(&self.counts.fills);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.values.len() >= REMEMBERED {
            *told = Told::default();
        }
        let index = told.values.len();
        told.values.push((key.to_owned(), value.into()));
        told.by_key.entry(key.to_owned()).or_default().push(index);
    }

    fn invalidate(&self, _key: &str) {}

    fn counts(&self) -> &Counts {
        &self.counts
    }
}
