//! A sorted list of small entries, in chunks.
//!
//! A tree map would take two or three times the memory: its nodes are two thirds full, and point to one
//! another. Here a chunk grows in small steps, and the list of chunks is short enough to be moved when one
//! is put between two others.

use std::cmp::Ordering;

/// Entries of a full chunk.
const CHUNK: usize = 512;
/// By how many entries a chunk grows.
const GROWTH: usize = 32;
/// Marks that an entry may bear.
pub(crate) const MARKS: usize = 2;

/// What a list holds. How entries are ordered is told with every search.
pub(crate) trait Entry: Copy {
    /// Whether the entry bears the mark of this number.
    fn bears(self, _mark: usize) -> bool {
        false
    }
}

/// Where an entry is, until the list changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    chunk: usize,
    index: usize,
}

#[derive(Debug)]
pub(crate) struct Sorted<E> {
    chunks: Vec<Chunk<E>>,
    /// The last entry of each chunk, side by side: a search begins with them.
    lasts: Vec<E>,
    /// For each mark, a chunk before which no entry bears it.
    first_marked: [usize; MARKS],
    marked: [usize; MARKS],
}

#[derive(Debug)]
struct Chunk<E> {
    /// Never empty.
    entries: Vec<E>,
    /// How many entries bear each mark.
    marked: [u16; MARKS],
}

impl<E> Default for Sorted<E> {
    fn default() -> Self {
        Self { chunks: Vec::new(), lasts: Vec::new(), first_marked: [0; MARKS], marked: [0; MARKS] }
    }
}

impl<E: Entry> Sorted<E> {
    /// Where the entry is that `order` calls equal, or where it would be. `order` compares an entry with
    /// what is looked for.
    pub(crate) fn find(&self, order: impl Fn(&E) -> Ordering) -> Result<At, At> {
        let at = self.first(|entry| order(entry).is_lt());
        let there = self.chunks.get(at.chunk).and_then(|chunk| chunk.entries.get(at.index));
        if there.is_some_and(|entry| order(entry).is_eq()) { Ok(at) } else { Err(at) }
    }

    /// Where the first entry is that `is_before` does not hold for.
    pub(crate) fn first(&self, is_before: impl Fn(&E) -> bool) -> At {
        let chunk = self.lasts.partition_point(&is_before);
        match self.chunks.get(chunk) {
            Some(found) => At { chunk, index: found.entries.partition_point(is_before) },
            None => self.end(),
        }
    }

    pub(crate) fn get(&self, at: At) -> Option<E> {
        self.chunks.get(at.chunk)?.entries.get(at.index).copied()
    }

    /// Where an entry that is greater than all others would be.
    fn end(&self) -> At {
        self.chunks
            .last()
            .map_or(At { chunk: 0, index: 0 }, |last| At { chunk: self.chunks.len() - 1, index: last.entries.len() })
    }

    /// The entries from the first one that `is_before` does not hold for.
    pub(crate) fn from(&self, is_before: impl Fn(&E) -> bool) -> impl Iterator<Item = E> + '_ {
        let at = self.first(is_before);
        let first = self.chunks.get(at.chunk).map_or(&[][..], |chunk| &chunk.entries[at.index..]);
        let rest = self.chunks.iter().skip(at.chunk + 1).flat_map(|chunk| &chunk.entries);
        first.iter().chain(rest).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = E> + '_ {
        self.chunks.iter().flat_map(|chunk| &chunk.entries).copied()
    }

    /// Puts an entry where [`Self::find`] said that it would be.
    pub(crate) fn insert(&mut self, at: At, entry: E) {
        let at = self.make_room(at, entry);
        let chunk = &mut self.chunks[at.chunk];
        if chunk.entries.len() == chunk.entries.capacity() {
            chunk.entries.reserve_exact(GROWTH);
        }
        chunk.entries.insert(at.index, entry);
        self.has_changed(at.chunk, None, Some(entry));
    }

    /// Makes sure that there is a chunk with room for one more entry at the place.
    fn make_room(&mut self, at: At, entry: E) -> At {
        let is_last = at.chunk + 1 >= self.chunks.len();
        let len = self.chunks.get(at.chunk).map_or(CHUNK, |chunk| chunk.entries.len());
        if len < CHUNK {
            return at;
        }
        if is_last && at.index == self.chunks.get(at.chunk).map_or(0, |_| len) {
            // Entries that come in their order fill one chunk after another.
            self.chunks.push(Chunk { entries: Vec::new(), marked: [0; MARKS] });
            self.lasts.push(entry);
            return At { chunk: self.chunks.len() - 1, index: 0 };
        }
        let (left_last, right) = self.chunks[at.chunk].split();
        self.lasts.insert(at.chunk + 1, self.lasts[at.chunk]);
        self.lasts[at.chunk] = left_last;
        self.chunks.insert(at.chunk + 1, right);
        let half = self.chunks[at.chunk].entries.len();
        if at.index <= half { at } else { At { chunk: at.chunk + 1, index: at.index - half } }
    }

    pub(crate) fn remove(&mut self, at: At) {
        let chunk = &mut self.chunks[at.chunk];
        let entry = chunk.entries.remove(at.index);
        if chunk.entries.capacity() - chunk.entries.len() > 2 * GROWTH {
            chunk.entries.shrink_to(chunk.entries.len() + GROWTH);
        }
        self.has_changed(at.chunk, Some(entry), None);
        if self.chunks[at.chunk].entries.is_empty() {
            self.chunks.remove(at.chunk);
            self.lasts.remove(at.chunk);
            for first in self.first_marked.iter_mut().filter(|first| **first > at.chunk) {
                *first -= 1;
            }
        }
    }

    /// Changes an entry in a way that leaves its place in the order as it is.
    pub(crate) fn replace(&mut self, at: At, entry: E) {
        let there = &mut self.chunks[at.chunk].entries[at.index];
        let before = std::mem::replace(there, entry);
        self.has_changed(at.chunk, Some(before), Some(entry));
    }

    /// The bytes that the list takes.
    pub(crate) fn footprint(&self) -> usize {
        let entries: usize = self.chunks.iter().map(|chunk| chunk.entries.capacity() * size_of::<E>()).sum();
        self.chunks.capacity() * size_of::<Chunk<E>>() + self.lasts.capacity() * size_of::<E>() + entries
    }

    /// Changes all entries that bear the mark, in a way that leaves their order as it is.
    pub(crate) fn change_marked(&mut self, mark: usize, change: impl Fn(E) -> E) {
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.marked[mark] > 0) {
            for entry in chunk.entries.iter_mut().filter(|entry| entry.bears(mark)) {
                *entry = change(*entry);
            }
            chunk.marked = count_marks(&chunk.entries);
        }
        for (chunk, last) in self.chunks.iter().zip(&mut self.lasts) {
            *last = chunk.entries.last().copied().unwrap_or(*last);
        }
        self.first_marked = [0; MARKS];
        self.marked = std::array::from_fn(|mark| self.chunks.iter().map(|chunk| usize::from(chunk.marked[mark])).sum());
    }

    /// Counts the marks anew after an entry went, came, or both.
    fn has_changed(&mut self, chunk: usize, before: Option<E>, after: Option<E>) {
        for mark in 0..MARKS {
            let changed = &mut self.chunks[chunk].marked[mark];
            if before.is_some_and(|entry| entry.bears(mark)) {
                *changed -= 1;
                self.marked[mark] -= 1;
            }
            if after.is_some_and(|entry| entry.bears(mark)) {
                *changed += 1;
                self.marked[mark] += 1;
                self.first_marked[mark] = self.first_marked[mark].min(chunk);
            }
        }
        self.lasts[chunk] = self.chunks[chunk].entries.last().copied().unwrap_or(self.lasts[chunk]);
    }

    /// How many entries bear the mark.
    pub(crate) const fn count(&self, mark: usize) -> usize {
        self.marked[mark]
    }

    /// The first entry that bears the mark.
    pub(crate) fn first_marked(&mut self, mark: usize) -> Option<(At, E)> {
        if self.marked[mark] == 0 {
            self.first_marked[mark] = self.chunks.len();
            return None;
        }
        let from = self.first_marked[mark];
        let chunk = from + self.chunks[from..].iter().position(|chunk| chunk.marked[mark] > 0)?;
        self.first_marked[mark] = chunk;
        let index = self.chunks[chunk].entries.iter().position(|entry| entry.bears(mark))?;
        Some((At { chunk, index }, self.chunks[chunk].entries[index]))
    }

    /// All entries that bear the mark.
    pub(crate) fn marked(&self, mark: usize) -> impl Iterator<Item = E> + '_ {
        let chunks = self.chunks.iter().filter(move |chunk| chunk.marked[mark] > 0);
        chunks.flat_map(|chunk| &chunk.entries).copied().filter(move |entry| entry.bears(mark))
    }
}

impl<E: Entry> Chunk<E> {
    /// Gives away the second half, and tells the last entry of the first.
    fn split(&mut self) -> (E, Self) {
        let half = self.entries.len() / 2;
        let entries = self.entries.split_off(half);
        self.entries.shrink_to(half + GROWTH);
        self.marked = count_marks(&self.entries);
        (self.entries[half - 1], Self { marked: count_marks(&entries), entries })
    }
}

fn count_marks<E: Entry>(entries: &[E]) -> [u16; MARKS] {
    let mut marked = [0; MARKS];
    for entry in entries {
        for (mark, count) in marked.iter_mut().enumerate() {
            *count += u16::from(entry.bears(mark));
        }
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A number, and its marks as bits.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Marked(u32, u8);

    impl Entry for Marked {
        fn bears(self, mark: usize) -> bool {
            self.1 & (1 << mark) != 0
        }
    }

    fn put(list: &mut Sorted<Marked>, entry: Marked) {
        match list.find(|there| there.0.cmp(&entry.0)) {
            Ok(at) => list.replace(at, entry),
            Err(at) => list.insert(at, entry),
        }
    }

    fn check(list: &mut Sorted<Marked>, model: &BTreeMap<u32, u8>) {
        assert!(list.iter().map(|entry| (entry.0, entry.1)).eq(model.iter().map(|(number, marks)| (*number, *marks))));
        for mark in 0..MARKS {
            let marked: Vec<u32> =
                model.iter().filter(|(_, marks)| **marks & (1 << mark) != 0).map(|(number, _)| *number).collect();
            assert_eq!(list.count(mark), marked.len());
            assert_eq!(list.first_marked(mark).map(|(_, entry)| entry.0), marked.first().copied());
            assert!(list.marked(mark).map(|entry| entry.0).eq(marked));
        }
        let middle = model.keys().nth(model.len() / 2).copied().unwrap_or_default();
        let rest = model.range(middle..).map(|(number, _)| *number);
        assert!(list.from(|entry| entry.0 < middle).map(|entry| entry.0).eq(rest));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_list_is_what_a_map_would_be(
            changes in prop::collection::vec((0_u32..6_000, 0_u8..5), 0..12_000),
        ) {
            let (mut list, mut model) = (Sorted::default(), BTreeMap::new());
            for (step, (number, marks)) in changes.into_iter().enumerate() {
                if marks < 4 {
                    put(&mut list, Marked(number, marks));
                    model.insert(number, marks);
                } else if model.remove(&number).is_some() {
                    let at = list.find(|there| there.0.cmp(&number)).expect("it was put there");
                    list.remove(at);
                }
                if step % 1_000 == 0 {
                    check(&mut list, &model);
                }
            }
            check(&mut list, &model);
        }
    }

    #[test]
    fn entries_that_come_in_order_leave_no_gaps() {
        let mut list = Sorted::default();
        for number in 0..10 * CHUNK {
            put(&mut list, Marked(u32::try_from(number).expect("small"), 0));
        }
        assert_eq!(list.chunks.len(), 10);
    }

    #[test]
    fn a_list_that_was_emptied_can_be_filled_again() {
        let (mut list, mut model) = (Sorted::default(), BTreeMap::new());
        for round in 0..2 {
            for number in 0..2_000 {
                put(&mut list, Marked(number, round + 1));
                model.insert(number, round + 1);
            }
            check(&mut list, &model);
            for number in 0..2_000 {
                let at = list.find(|there| there.0.cmp(&number)).expect("it is there");
                list.remove(at);
            }
            model.clear();
            check(&mut list, &model);
        }
    }
}
