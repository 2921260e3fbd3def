//! Mistakes in what is decided about a node, and in how decisions are carried out.

use crate::mutants::Mutant;
use crate::mutants::suites::Suite::{Scenarios, Simulation, SyncEngine};

const VERDICT: &str = "crates/sync-engine/src/verdict.rs";
const BATCH: &str = "crates/sync-engine/src/plan/batch.rs";
const COMMIT: &str = "crates/sync-engine/src/plan/commit.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "client-sends-cycles",
        about: "a move below a folder that is itself moving below the moved one is sent",
        file: VERDICT,
        old: " || would_cycle(trees, id, folder)",
        new: " || (false && would_cycle(trees, id, folder))",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "last-writer-wins",
        about: "of two edits the later one overwrites the earlier one, and no conflicted copy is made",
        file: VERDICT,
        old: "if i_edited && they_edited && !we_agree {",
        new: "if false {",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "their-delete-beats-my-edit",
        about: "a file that was edited here and deleted there is deleted",
        file: VERDICT,
        old: "            None => Verdict::Edit(Edit::RelabelFresh),\n",
        new: "            None => Verdict::Pull(Pull::Delete),\n",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "my-delete-beats-their-edit",
        about: "a file that was deleted here and edited there is deleted",
        file: VERDICT,
        old: "|| !synced.content.same(&remote.content) || synced.place != remote.place {",
        new: "|| synced.place != remote.place {",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "my-delete-beats-their-move",
        about: "a file that was deleted here and moved there is deleted",
        file: VERDICT,
        old: "|| !synced.content.same(&remote.content) || synced.place != remote.place {",
        new: "|| !synced.content.same(&remote.content) {",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "unseen-children-deleted",
        about: "a folder that was deleted here goes with what others put into it meanwhile",
        file: VERDICT,
        old: "Some(Obstacle::Unseen) => drop_synced,",
        new: "Some(Obstacle::Unseen) => Verdict::Push(Push::Delete),",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "new-files-do-not-keep-their-folder",
        about: "a folder that was deleted there is not made again for what is new in it here",
        file: VERDICT,
        old: "if row.synced.is_none() && row.remote.is_none() && !withdrawn {",
        new: "if false && !withdrawn {",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "my-move-beats-theirs",
        about: "of two moves of one node the later one wins",
        file: VERDICT,
        old: "let mut push_place = i_moved && !they_moved && may_write;",
        new: "let mut push_place = i_moved && may_write;",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "moves-into-deleted-folders",
        about: "a move into a folder that was deleted there is sent",
        file: VERDICT,
        old: "    gone || trees.namespace_below(folder)",
        new: "    (false && gone) || trees.namespace_below(folder)",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "without-a-base-theirs-wins",
        about: "after the database was lost, a file that differs from the server's is overwritten",
        file: VERDICT,
        old: "        Some(_) => Verdict::Edit(Edit::RelabelFresh),\n    }\n}\n\n/// They deleted it.",
        new: "        Some(content) => Verdict::Edit(Edit::SetSynced(Synced { place: local.place.clone(), content })),\n    \
              }\n}\n\n/// They deleted it.",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "attributes-instead-of-bytes",
        about: "new bytes of the same length are taken for a change of attributes",
        file: VERDICT,
        old: "if mine.hash == theirs.hash => {",
        new: "if mine.size == theirs.size => {",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "swaps-are-not-parked",
        about: "nodes that have each other's places wait for each other",
        file: BATCH,
        old: "Err(Blocked::Cycle) => self.park(there),",
        new: "Err(Blocked::Cycle) => Err(Blocked::On(there)),",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "deletions-before-moves",
        about: "a commit names a folder's tombstone before what leaves the folder",
        file: COMMIT,
        old: "others.into_iter().chain(deletions).collect()",
        new: "deletions.into_iter().chain(others).collect()",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "leavers-stay-behind",
        about: "a folder is deleted without the commit that moves things out of it",
        file: COMMIT,
        old: "            self.leavers_ready(id)?;",
        new: "            if false {\n                self.leavers_ready(id)?;\n            }",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "planned-below-moving-folders",
        about: "a batch goes on below a folder as if its move could not fail",
        file: BATCH,
        old: "chain.find(|above| self.gone.contains(above))",
        new: "chain.find(|above| *above == id && self.gone.contains(above))",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "aside-over-another",
        about: "a conflicted copy takes a name without a look whether it is free",
        file: BATCH,
        old: "self.occupant(folder, &key).is_none() && self.trees.remote_child(folder, &key).is_none()",
        new: "true || (self.occupant(folder, &key).is_none() && self.trees.remote_child(folder, &key).is_none())",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "impossible-moves-count",
        about: "a move below a folder that must itself move back is sent, and is refused for ever",
        file: "crates/sync-engine/src/verdict.rs",
        old: "let moves = moved_into(trees, id).is_some_and(|folder| !cannot_take(trees, id, folder));",
        new: "let moves = moved_into(trees, id).is_some();",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
];
