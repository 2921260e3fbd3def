//! What the large chunks have left over, and which part of the bases it may be a changed form of.

use crate::matching::{Match, Span};
use std::ops::Range;

/// New bytes that nothing was found for, between what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Where it lies in the new bytes.
    pub new: Range<usize>,
    /// The old bytes that lay there, as spans of bases in their order.
    pub old: Vec<Span>,
}

/// The gaps between matches in `len` new bytes that have old bytes to be compared with. `bases` are the
/// old file in its order. Next to a match the old bytes of a gap are those that lay next to its span, as
/// many as the gap is long and `slack` more on the open side; between two matches, those between their
/// spans.
#[must_use]
pub fn gaps(len: usize, matches: &[Match], bases: &[Span], slack: usize) -> Vec<Gap> {
    let place = |span: &Span| {
        let mut start = 0;
        for base in bases {
            if base.base == span.base {
                return Some(start + span.offset.saturating_sub(base.offset));
            }
            start += base.len;
        }
        None
    };
    let total: usize = bases.iter().map(|base| base.len).sum();
    let mut found = Vec::new();
    let mut before: Option<&Match> = None;
    let ends = matches.iter().map(Some).chain([None]);
    for after in ends {
        let new = before.map_or(0, |found| found.range().end)..after.map_or(len, |found| found.at);
        let left = before.and_then(|found| Some(place(&found.span)? + found.span.len));
        let right = after.and_then(|found| place(&found.span));
        before = after;
        if new.is_empty() {
            continue;
        }
        let reach = new.len() + slack;
        let old = match (left, right) {
            (Some(left), Some(right)) if left < right => left..right.min(left + 2 * reach),
            (Some(left), _) => left..(left + reach).min(total),
            (None, Some(right)) => right.saturating_sub(reach)..right,
            (None, None) => continue,
        };
        let old = cut(bases, &old);
        if !old.is_empty() {
            found.push(Gap { new, old });
        }
    }
    found
}

/// The part of the old file in `range`, as spans of bases.
fn cut(bases: &[Span], range: &Range<usize>) -> Vec<Span> {
    let mut start = 0;
    let mut spans = Vec::new();
    for base in bases {
        let (from, to) = (range.start.max(start), range.end.min(start + base.len));
        if from < to {
            spans.push(Span { base: base.base, offset: base.offset + from - start, len: to - from });
        }
        start += base.len;
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASES: [Span; 2] = [Span { base: 0, offset: 0, len: 100 }, Span { base: 1, offset: 0, len: 100 }];

    fn found(at: usize, base: usize, offset: usize, len: usize) -> Match {
        Match { at, span: Span { base, offset, len } }
    }

    #[test]
    fn a_gap_between_two_matches_has_what_lay_between_them() {
        let matches = [found(0, 0, 0, 90), found(95, 1, 10, 90)];
        let gaps = gaps(185, &matches, &BASES, 4);
        let old = vec![Span { base: 0, offset: 90, len: 10 }, Span { base: 1, offset: 0, len: 8 }];
        assert_eq!(gaps, [Gap { new: 90..95, old }]);
    }

    #[test]
    fn a_gap_at_an_end_has_what_lay_beside_the_nearest_match() {
        let gaps = gaps(160, &[found(10, 1, 20, 70)], &BASES, 5);
        assert_eq!(gaps[0], Gap { new: 0..10, old: vec![Span { base: 1, offset: 5, len: 15 }] });
        assert_eq!(gaps[1], Gap { new: 80..160, old: vec![Span { base: 1, offset: 90, len: 10 }] });
    }

    #[test]
    fn where_nothing_was_found_nothing_is_guessed() {
        assert!(gaps(100, &[], &BASES, 10).is_empty());
    }
}
