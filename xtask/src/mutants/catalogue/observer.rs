//! Mistakes in how the engine reads the disk.

use crate::mutants::Mutant;
use crate::mutants::suites::Suite::{Scenarios, Simulation, SyncEngine};

const OBSERVE: &str = "crates/sync-engine/src/observe.rs";
const SAME: &str = "crates/sync-engine/src/observe/same.rs";
const LOCAL: &str = "crates/sync-engine/src/engine/local.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "missing-is-deleted",
        about: "what is not where it was is deleted at once, although it may turn up elsewhere",
        file: OBSERVE,
        old: "        self.missing.extend(absent);",
        new: "        absent.into_iter().for_each(|id| remove_from_disk_tree(trees, id));",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "unreadable-folder-is-empty",
        about: "a folder that cannot be listed is taken for an empty one",
        file: OBSERVE,
        old: "                Err(ScanError::Unreadable(reason)) => {",
        new: "                Err(ScanError::Unreadable(reason)) => {\n                    \
              self.missing.extend(trees.local_children(folder));",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "unreadable-entry-is-gone",
        about: "an entry that cannot be looked at is taken for a deleted one",
        file: OBSERVE,
        old: " && !unreadable.contains(&*name))",
        new: " && (true || !unreadable.contains(&*name)))",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "inode-is-identity",
        about: "a new file on a reused inode is taken for the old one",
        file: SAME,
        old: "(Some(before), Some(now)) => before == now,",
        new: "(Some(_), Some(_)) => true,",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "inode-without-birth-is-identity",
        about: "where there are no birth times, a new file on a reused inode is taken for the old one",
        file: SAME,
        old: "_ => local.seen == Seen::Directory || (was.size == print.size && was.mtime == print.mtime),",
        new: "_ => true,",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "another-file-system-is-believed",
        about: "what a file system shows that is mounted over a synced folder is taken for its content",
        file: OBSERVE,
        old: "if foreign {",
        new: "let foreign = false;\n        if foreign {",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "root-is-believed",
        about: "a scan counts although the synced folder was not there",
        file: LOCAL,
        old: "if self.believe_root(root, env.now) {",
        new: "if self.believe_root(root, env.now) || true {",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "moved-file-is-not-read-again",
        about: "a file that moved keeps its hash although its change time shows more than the move",
        file: OBSERVE,
        old: "    local.print == found.print\n",
        new: "    local.print.size == found.print.size && local.print.mtime == found.print.mtime\n",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "change-is-not-read-again",
        about: "a file with the size and time that it had keeps its hash, whatever its change time",
        file: OBSERVE,
        old: "FileKind::File) if local.print == found.print =>",
        new: "FileKind::File)\n                if (local.print.size, local.print.mtime) == (found.print.size, \
              found.print.mtime) =>",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "hash-of-an-older-file",
        about: "a hash counts although the file was seen changed while it was made",
        file: LOCAL,
        old: "if local.print != task.print {",
        new: "if false {",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "read-again-and-again",
        about: "what has been read is read again at once while nothing is planned",
        file: LOCAL,
        old: "if local.seen != Seen::File(None) {",
        new: "if false {",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "looks-stay-with-the-former-node",
        about: "what was to be looked at in a folder is forgotten when it turns out to be another node",
        file: "crates/sync-engine/src/observe/look.rs",
        old: "                merge(queue, to, look);",
        new: "                drop(look);",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "missing-root-is-not-looked-for",
        about: "nobody looks for the synced folder again when something else than a scan found it missing",
        file: LOCAL,
        old: "            self.observer.look_at_everything(&self.trees);\n        }\n        self.local.root_retry_at",
        new: "        }\n        self.local.root_retry_at",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "moved-out-of-what-cannot-be-read-is-new",
        about: "a file whose old folder cannot be read at the moment counts as a new one",
        file: OBSERVE,
        old: "if self.waits_for_its_old_place(trees, &newcomer) || self.take_back",
        new: "if self.take_back",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "put-by-the-client-is-new",
        about: "a file that the client has put where the server has it, and that was written to before that was noted, is new",
        file: OBSERVE,
        old: " || may_be_edited(local, &found.print) && may_be_put(node))",
        new: ")",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
];
