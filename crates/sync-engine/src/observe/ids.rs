//! The ids of new files.

use crate::io::Found;
use model::NodeId;

/// Ids of which each follows the one before. A run is not told from another one's by its first four bytes
/// alone, so it ends long before these have come round.
const RUN_LENGTH: u32 = 1 << 20;

/// Draws ids that follow one another. What is done in the order of ids is then done in the order in which files were
/// found, which is folder by folder: directories stay open, and databases write rows next to each other.
#[derive(Debug, Default)]
pub(super) struct Ids {
    last: Option<NodeId>,
    left: u32,
}

impl Ids {
    /// The id after the last one; or the beginning of a new run, which is drawn.
    pub(super) fn next(&mut self, random: &mut dyn FnMut() -> [u8; 16]) -> NodeId {
        let id = match self.last.filter(|_| self.left > 0) {
            Some(last) => last.successor(),
            None => {
                self.left = RUN_LENGTH;
                NodeId(random())
            }
        };
        self.left -= 1;
        self.last = Some(id);
        id
    }
}

/// Entries in the order in which their ids are drawn: a name after one that begins as it does is short to tell.
pub(super) fn in_order(entries: &[Found]) -> Vec<&Found> {
    let mut entries: Vec<&Found> = entries.iter().collect();
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_one_another_until_a_run_ends_and_another_is_drawn() {
        let mut drawn = 0;
        let mut random = || {
            drawn += 1;
            [0xff - drawn; 16]
        };
        let mut ids = Ids::default();
        let run: Vec<NodeId> = (0..RUN_LENGTH).map(|_| ids.next(&mut random)).collect();
        assert_eq!(run[0], NodeId([0xfe; 16]));
        assert!(run.windows(2).all(|pair| pair[1] == pair[0].successor()));
        assert_eq!(ids.next(&mut random), NodeId([0xfd; 16]), "the next run begins somewhere else");
        assert_eq!(drawn, 2, "one draw for each run");
    }
}
