//! The ids of what is found.

use crate::io::{FileKind, Found};
use model::NodeId;

/// Ids of which each follows the one before. A run is not told from another one's by its first four bytes
/// alone, so it ends long before these have come round.
const RUN_LENGTH: u32 = 1 << 20;

/// Draws ids that follow one another. What is done in the order of ids is then done in the order in which files were
/// found, which is folder by folder: directories stay open, and databases write rows next to each other.
///
/// A run is of one round. A virtual machine that is put back to a snapshot goes on where it was then, and must not give
/// the ids a second time that its other life has given.
#[derive(Debug, Default)]
pub(super) struct Ids {
    last: Option<NodeId>,
    round: u64,
    left: u32,
}

impl Ids {
    /// The id after the last one of this round; or the beginning of a new run, which is drawn. So is that of a folder,
    /// which may become a namespace, whose id others see: from it nobody is to guess another's.
    pub(super) fn next(&mut self, kind: FileKind, round: u64, random: &mut dyn FnMut() -> [u8; 16]) -> NodeId {
        if kind == FileKind::Directory {
            return NodeId(random());
        }
        let id = match self.last.filter(|_| self.left > 0 && self.round == round) {
            Some(last) => last.successor(),
            None => {
                (self.left, self.round) = (RUN_LENGTH, round);
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
    fn ids_follow_one_another_until_their_run_or_round_ends_and_another_is_drawn() {
        let mut drawn = 0;
        let mut random = || {
            drawn += 1;
            [0xff - drawn; 16]
        };
        let mut ids = Ids::default();
        let run: Vec<NodeId> = (0..RUN_LENGTH).map(|_| ids.next(FileKind::File, 1, &mut random)).collect();
        assert_eq!(run[0], NodeId([0xfe; 16]));
        assert!(run.windows(2).all(|pair| pair[1] == pair[0].successor()));
        assert_eq!(ids.next(FileKind::File, 1, &mut random), NodeId([0xfd; 16]), "the next run begins somewhere else");
        assert_eq!(ids.next(FileKind::File, 1, &mut random), NodeId([0xfd; 16]).successor());
        assert_eq!(ids.next(FileKind::File, 2, &mut random), NodeId([0xfc; 16]), "and so does that of the next round");
        assert_eq!(
            ids.next(FileKind::Directory, 2, &mut random),
            NodeId([0xfb; 16]),
            "a folder's is nobody's successor"
        );
        assert_eq!(ids.next(FileKind::File, 2, &mut random), NodeId([0xfc; 16]).successor());
        assert_eq!(drawn, 4, "one draw for each run, and for the folder");
    }
}
