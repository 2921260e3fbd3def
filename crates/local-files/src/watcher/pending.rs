//! Hints that wait a moment, so that a burst of events becomes one call.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sync_engine::io::{Hint, LocalPath};

/// How long the first hint of a burst waits for the others.
const COALESCE: Duration = Duration::from_millis(5);

/// What a burst said of one entry.
#[derive(Debug, Default)]
struct Said {
    entry: bool,
    /// The last of both that was said.
    write: Option<Write>,
}

/// What a program that writes did last.
#[derive(Debug, Clone, Copy)]
pub(super) enum Write {
    Writing,
    Closed,
}

/// The hints of a burst, each once, in a bounded number.
#[derive(Debug)]
pub(super) struct Pending {
    limit: usize,
    entries: BTreeMap<(LocalPath, Box<[u8]>), Said>,
    rescans: BTreeSet<LocalPath>,
    since: Option<Instant>,
}

impl Pending {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, entries: BTreeMap::new(), rescans: BTreeSet::new(), since: None }
    }

    pub(super) fn entry(&mut self, directory: &LocalPath, name: &[u8]) {
        if let Some(said) = self.said(directory, name) {
            said.entry = true;
        }
    }

    pub(super) fn write(&mut self, directory: &LocalPath, name: &[u8], write: Write) {
        if let Some(said) = self.said(directory, name) {
            said.write = Some(write);
        }
    }

    pub(super) fn rescan(&mut self, directory: LocalPath) {
        self.start();
        if directory.is_root() {
            self.entries.clear();
            self.rescans.clear();
        }
        if !self.covers_everything() {
            self.rescans.insert(directory);
            self.keep_bounded();
        }
    }

    /// When the burst is to be handed on; `None` when nothing waits.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + COALESCE)
    }

    /// Everything that waits: the burst is over.
    pub(super) fn take(&mut self) -> Vec<Hint> {
        self.since = None;
        self.take_early()
    }

    /// Everything that waits by now. The burst ends when it would have.
    pub(super) fn take_early(&mut self) -> Vec<Hint> {
        let mut hints = Vec::with_capacity(self.entries.len() + self.rescans.len());
        for ((directory, name), said) in std::mem::take(&mut self.entries) {
            if said.entry {
                hints.push(Hint::Entry { directory: directory.clone(), name: name.clone() });
            }
            match said.write {
                Some(Write::Writing) => hints.push(Hint::Writing { directory, name }),
                Some(Write::Closed) => hints.push(Hint::Closed { directory, name }),
                None => {}
            }
        }
        let rescans = std::mem::take(&mut self.rescans);
        hints.extend(rescans.into_iter().map(|directory| Hint::Rescan { directory }));
        hints
    }

    fn said(&mut self, directory: &LocalPath, name: &[u8]) -> Option<&mut Said> {
        self.start();
        if self.covers_everything() {
            return None;
        }
        let key = (directory.clone(), Box::from(name));
        if !self.entries.contains_key(&key) && self.entries.len() + self.rescans.len() >= self.limit {
            self.rescan(LocalPath::root());
            return None;
        }
        Some(self.entries.entry(key).or_default())
    }

    fn keep_bounded(&mut self) {
        if self.entries.len() + self.rescans.len() > self.limit {
            self.rescan(LocalPath::root());
        }
    }

    fn covers_everything(&self) -> bool {
        self.rescans.contains(&LocalPath::root())
    }

    fn start(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> LocalPath {
        LocalPath::from_bytes(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_burst_about_one_file_becomes_one_hint_of_each_kind() {
        let mut pending = Pending::new(10);
        for _ in 0..100 {
            pending.entry(&path("d"), b"f");
            pending.write(&path("d"), b"f", Write::Writing);
        }
        pending.write(&path("d"), b"f", Write::Closed);
        let (directory, name) = (path("d"), Box::from(b"f".as_slice()));
        let entry = Hint::Entry { directory: directory.clone(), name: Box::clone(&name) };
        assert_eq!(pending.take(), [entry, Hint::Closed { directory, name }]);
        assert_eq!(pending.due(), None);
    }

    #[test]
    fn more_than_the_limit_becomes_a_rescan_of_everything() {
        let mut pending = Pending::new(3);
        for n in 0..4_u8 {
            pending.entry(&path("d"), &[n + 1]);
        }
        pending.rescan(path("e"));
        assert_eq!(pending.take(), [Hint::Rescan { directory: LocalPath::root() }]);
    }
}
