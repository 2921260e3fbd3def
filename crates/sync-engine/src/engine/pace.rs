//! How soon a file that keeps changing is sent again.
//!
//! To tell the server and the other devices of one change costs about a kilobyte beside the content. A file that
//! changes after a silence is sent at once. One that goes on changing earns the right to be sent again, by time and
//! by the bytes that it grows by; so a byte each second is sent every few seconds, a kilobyte each second as it
//! comes. One that changes again as soon as it was sent is sent ever more seldom, down to every three seconds: then
//! what comes together is worth its cost.

use model::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// Time that earns one sending, in milliseconds.
const EARNED_MS: u64 = 10_000;
/// Bytes of growth that earn one sending: about as many as it costs.
const EARNED_BYTES: u64 = 1_024;
/// Sendings that a silence earns at most.
const EARNED_AT_MOST: u64 = 6;
/// A file that changes within this time of its last sending is changing all the time, in milliseconds.
const AT_ONCE_MS: u64 = 500;
/// How much longer it waits each time that this happens in a row, in milliseconds.
const STEP_MS: u64 = 500;
/// ... and how many of these steps there are.
const STEPS: u64 = 6;
/// Files that are remembered. Further ones are sent at once.
const MAX_FILES: usize = 1_000;

/// What is known of files that changed a while ago.
#[derive(Debug, Default)]
pub(super) struct Pace {
    files: BTreeMap<NodeId, Changing>,
    /// Those that wait.
    waiting: BTreeSet<NodeId>,
}

#[derive(Debug)]
struct Changing {
    /// When it was last sent, and how long it was then.
    sent_at: u64,
    size: u64,
    /// What it had earned then, in milliseconds.
    earned: u64,
    /// The steps that it waits.
    steps: u64,
    /// Whether it has changed since.
    changed: bool,
}

impl Changing {
    fn earned(&self, size: u64, now: u64) -> u64 {
        let by_growth = size.abs_diff(self.size).saturating_mul(EARNED_MS / EARNED_BYTES + 1);
        let by_time = now.saturating_sub(self.sent_at);
        self.earned.saturating_add(by_time).saturating_add(by_growth).min(EARNED_AT_MOST * EARNED_MS)
    }

    /// Whether nothing would be different if it were forgotten.
    fn is_over(&self, now: u64) -> bool {
        self.earned(self.size, now) == EARNED_AT_MOST * EARNED_MS
    }
}

impl Pace {
    /// Until when a file that has changed, and is `size` bytes long now, waits before it is read.
    pub(super) fn wait(&mut self, node: NodeId, size: u64, now: u64) -> Option<u64> {
        let file = self.files.get_mut(&node)?;
        if !std::mem::replace(&mut file.changed, true) {
            let at_once = now.saturating_sub(file.sent_at) < AT_ONCE_MS;
            file.steps = if at_once { (file.steps + 1).min(STEPS) } else { file.steps / 2 };
        }
        let lacks = EARNED_MS.saturating_sub(file.earned(size, now));
        let until = (now + lacks).max(file.sent_at + file.steps * STEP_MS);
        let waits = until > now;
        if waits {
            self.waiting.insert(node);
        } else {
            self.waiting.remove(&node);
        }
        waits.then_some(until)
    }

    /// A changed file was read, and will be sent.
    pub(super) fn sent(&mut self, node: NodeId, size: u64, now: u64) {
        self.waiting.remove(&node);
        if self.files.len() >= MAX_FILES && !self.files.contains_key(&node) {
            self.files.retain(|_, file| !file.is_over(now));
            if self.files.len() >= MAX_FILES {
                return;
            }
        }
        let all = EARNED_AT_MOST * EARNED_MS;
        let new = Changing { sent_at: now, size, earned: all, steps: 0, changed: false };
        let file = self.files.entry(node).or_insert(new);
        let earned = file.earned(size, now).saturating_sub(EARNED_MS);
        *file = Changing { sent_at: now, size, earned, steps: file.steps, changed: false };
    }

    /// Somebody waits for all to be in sync: those that waited.
    pub(super) fn hurry(&mut self) -> BTreeSet<NodeId> {
        self.files.clear();
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([1; 16]);

    /// How often a file is sent that is changed each `pause` milliseconds for a minute, and how late at most.
    fn minute(pause: u64, growth: u64) -> (u64, u64) {
        let (mut pace, mut sent, mut latest) = (Pace::default(), 0, 0);
        let (mut size, mut oldest) = (0, None);
        for now in 0..60_000 {
            if now % pause == 0 {
                size += growth;
                oldest.get_or_insert(now);
            }
            if let Some(since) = oldest
                && pace.wait(NODE, size, now).is_none()
            {
                pace.sent(NODE, size, now);
                latest = latest.max(now - since);
                oldest = None;
                sent += 1;
            }
        }
        (sent, latest)
    }

    #[test]
    fn a_change_after_a_silence_goes_at_once() {
        assert_eq!(minute(10_000, 0), (6, 0));
    }

    #[test]
    fn a_file_that_grows_by_what_it_costs_is_never_kept_waiting() {
        assert_eq!(minute(1_000, 1_024), (60, 0));
    }

    #[test]
    fn a_byte_each_second_is_sent_some_times_at_once_and_then_every_ten_seconds() {
        let (sent, latest) = minute(1_000, 1);
        assert!((11..=13).contains(&sent), "{sent}");
        assert!((8_000..=10_000).contains(&latest), "{latest}");
    }

    #[test]
    fn a_file_that_grows_all_the_time_is_sent_every_three_seconds_and_not_later() {
        let (sent, latest) = minute(250, 2_500);
        assert!((20..=26).contains(&sent), "{sent}");
        assert!(latest <= 3_000, "{latest}");
    }

    #[test]
    fn saves_in_quick_succession_do_not_wait_as_long_as_there_are_few() {
        let mut pace = Pace::default();
        for now in [0, 1_000, 2_000, 3_000, 4_000, 5_000] {
            assert_eq!(pace.wait(NODE, 100, now), None);
            pace.sent(NODE, 100, now);
        }
        assert!(pace.wait(NODE, 100, 6_000).is_some());
        assert_eq!(pace.wait(NODE, 100, 15_000), None);
    }

    #[test]
    fn who_waits_for_everything_is_not_kept_waiting() {
        let mut pace = Pace::default();
        for now in 0..6 {
            pace.sent(NODE, 0, now);
        }
        assert!(pace.wait(NODE, 0, 10).is_some());
        assert_eq!(pace.hurry(), BTreeSet::from([NODE]));
        assert_eq!(pace.wait(NODE, 0, 11), None);
    }

    #[test]
    fn what_is_remembered_has_an_end_and_makes_room_for_the_new() {
        let mut pace = Pace::default();
        let node = |number: u16| NodeId([number.to_le_bytes(); 8].concat().try_into().unwrap());
        for number in 0..2_000 {
            pace.sent(node(number), 0, 0);
        }
        assert_eq!(pace.files.len(), MAX_FILES);
        pace.sent(node(2_000), 0, 2 * EARNED_MS);
        assert_eq!(pace.files.len(), 1);
    }
}
